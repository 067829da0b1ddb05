//! What is wrong with a configuration, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How many findings of one kind are reported. A file with more is not a configuration.
const MAX_FINDINGS: usize = 500;

/// How much of a line is shown, in characters.
const LONGEST_EXCERPT: usize = 100;

/// A line in which one of these stands may hold a secret, though none belongs there, and is not shown.
const SECRETS: [&str; 4] = ["id_key", "encryption_keys", "token", "password"];

/// Nor is one shown with so many letters and digits in a row: a key looks like that, and its setting's name may stand on
/// another line. Hosts, paths and names of settings have marks in between.
const KEY_LIKE: usize = 20;

/// One thing that is wrong with a configuration, or that deserves a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's name as it was given.
    pub file: String,
    /// Where in the file; `None` where it is about the file as a whole.
    pub position: Option<Position>,
    /// The setting, such as `routes.create-payment.lease`; empty where it is about none.
    pub setting: String,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// The other places that it is about.
    pub others: Vec<Position>,
    /// The line, and below it a caret, where the file is not TOML.
    pub excerpt: Option<String>,
}

/// A place in a file, counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Finding>);

impl Finding {
    /// What is said, without the place that it begins with.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        if !self.setting.is_empty() {
            text = format!("{}: {text}", self.setting);
        }
        let others: Vec<String> = self
            .others
            .iter()
            .map(|other| format!("{}:{other}", self.file))
            .collect();
        if !others.is_empty() {
            text = format!("{text}; see also {}", others.join(", "));
        }
        text
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = self.position {
            write!(f, ":{position}")?;
        }
        write!(f, ": {}", self.text())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self
            .0
            .iter()
            .flat_map(|fault| [Some(fault.to_string()), fault.excerpt.clone()])
            .flatten()
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Where something is written: the byte in the file, and the setting's path.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) path: String,
}

impl Place {
    /// The place of a setting in the section that is here.
    pub(super) fn child(&self, offset: usize, name: &str) -> Self {
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        Self { offset, path }
    }
}

/// Collects findings while a file is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    // A set: what is wrong in `defaults` is found again in each route, and said once.
    faults: BTreeSet<(usize, Kind, Note)>,
    warnings: BTreeSet<(usize, Kind, Note)>,
    /// From here on the file is read as something else than was meant, and only its syntax is spoken of.
    lost_from: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The file is not TOML here.
    Syntax,
    /// A value cannot be used, whatever the rest of the file says.
    Value,
    /// A name is none of a setting. Where a section cannot be told from the next one, that may come from there.
    Name,
    /// Something is missing, unknown, or does not fit to something else. Where the file is not TOML, that may come
    /// from what could not be read, and is not said.
    Whole,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    /// The last name of the path.
    name: String,
    message: String,
    others: Vec<usize>,
    path: String,
}

impl Findings {
    pub(super) fn syntax(&mut self, offset: usize, message: String, other: Option<usize>) {
        let place = Place {
            offset,
            path: String::new(),
        };
        let others = other.into_iter().collect();
        insert(&mut self.faults, &place, Kind::Syntax, message, others);
    }

    pub(super) fn lost_from(&mut self, offset: usize) {
        self.lost_from = Some(offset);
    }

    pub(super) fn value(&mut self, place: &Place, message: String) {
        insert(&mut self.faults, place, Kind::Value, message, Vec::new());
    }

    pub(super) fn name(&mut self, place: &Place, message: String) {
        insert(&mut self.faults, place, Kind::Name, message, Vec::new());
    }

    pub(super) fn whole(&mut self, place: &Place, message: String) {
        insert(&mut self.faults, place, Kind::Whole, message, Vec::new());
    }

    /// A fault between several places, the later one first. Those that are not written in the file stay out.
    pub(super) fn conflict(&mut self, place: &Place, message: String, others: &[&Place]) {
        let others = offsets(place, others);
        insert(&mut self.faults, place, Kind::Whole, message, others);
    }

    pub(super) fn warn(&mut self, place: &Place, message: String, others: &[&Place]) {
        let others = offsets(place, others);
        insert(&mut self.warnings, place, Kind::Whole, message, others);
    }

    /// Faults and warnings, in the order of the file.
    pub(super) fn resolve(self, text: &str, file: &str) -> (Vec<Finding>, Vec<Finding>) {
        let lines = Lines::new(text);
        let broken: BTreeMap<usize, &str> = self
            .faults
            .iter()
            .filter(|(_, kind, _)| *kind == Kind::Syntax)
            .map(|(offset, ..)| lines.position(*offset).line)
            .map(|line| (line, lines.text_of(line)))
            .collect();
        // Where every broken line sets one thing, the sections around it are those that were meant.
        let sections_hold = broken
            .values()
            .all(|line| line.contains('=') && !line.contains(['[', ']', '{', '}']));
        let lost_from = self.lost_from.unwrap_or(usize::MAX);
        let is_read =
            |offset| offset < lost_from && !broken.contains_key(&lines.position(offset).line);
        let credible = |(offset, kind, _): &(usize, Kind, Note)| match kind {
            Kind::Syntax => true,
            Kind::Value => is_read(*offset),
            Kind::Name => sections_hold && is_read(*offset),
            Kind::Whole => broken.is_empty(),
        };
        let finding = |(offset, kind, note): (usize, Kind, Note)| Finding {
            file: file.to_owned(),
            position: Some(lines.position(offset)),
            setting: note.path,
            message: note.message,
            others: note
                .others
                .into_iter()
                .map(|other| lines.position(other))
                .collect(),
            excerpt: (kind == Kind::Syntax)
                .then(|| lines.excerpt(lines.position(offset)))
                .flatten(),
        };
        let faults = self
            .faults
            .into_iter()
            .filter(credible)
            .take(MAX_FINDINGS)
            .map(finding);
        let warnings = self.warnings.into_iter().take(MAX_FINDINGS).map(finding);
        (faults.collect(), warnings.collect())
    }
}

/// The other places that a finding is about: each once, and not its own.
fn offsets(place: &Place, others: &[&Place]) -> Vec<usize> {
    let others: BTreeSet<usize> = others.iter().map(|other| other.offset).collect();
    others
        .into_iter()
        .filter(|other| *other != place.offset)
        .collect()
}

/// Keeps the first of two findings that say the same of one setting: of `defaults.lease` and then, at the same place
/// in the file, of a route's `lease`.
fn insert(
    into: &mut BTreeSet<(usize, Kind, Note)>,
    place: &Place,
    kind: Kind,
    message: String,
    others: Vec<usize>,
) {
    let name = place.path.rsplit('.').next().unwrap_or_default().to_owned();
    let alike = Note {
        name,
        message,
        others,
        path: String::new(),
    };
    let from = (place.offset, kind, alike);
    let next = into.range(&from..).next();
    let known = next.is_some_and(|(offset, kind, note)| {
        let (from_offset, from_kind, alike) = &from;
        (offset, kind, &note.name, &note.message, &note.others)
            == (
                from_offset,
                from_kind,
                &alike.name,
                &alike.message,
                &alike.others,
            )
    });
    if !known {
        let (offset, kind, alike) = from;
        into.insert((
            offset,
            kind,
            Note {
                path: place.path.clone(),
                ..alike
            },
        ));
    }
}

/// Where the lines of a text begin.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let before = self
            .text
            .get(start..offset.min(self.text.len()))
            .unwrap_or_default();
        Position {
            line,
            column: before.chars().count() + 1,
        }
    }

    /// A line without its end.
    fn text_of(&self, line: usize) -> &'t str {
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let rest = self.text.get(start..).unwrap_or_default();
        rest.lines().next().unwrap_or_default()
    }

    /// The line of a position with a caret below; `None` where there may be a secret in it.
    fn excerpt(&self, position: Position) -> Option<String> {
        let line = self.text_of(position.line);
        if may_hold_secret(line) {
            return None;
        }
        let before = position.column - 1;
        // The caret stays in sight however long the line is.
        let skipped = before.saturating_sub(LONGEST_EXCERPT / 2);
        let shown: String = line.chars().skip(skipped).take(LONGEST_EXCERPT).collect();
        let indent: String = line
            .chars()
            .skip(skipped)
            .take(before - skipped)
            .map(|char| if char == '\t' { '\t' } else { ' ' })
            .collect();
        let number = position.line.to_string();
        let margin = " ".repeat(number.len());
        Some(format!("  {number} | {shown}\n  {margin} | {indent}^"))
    }
}

/// Whether there may be a secret in a line, which is not repeated then.
pub(super) fn may_hold_secret(line: &str) -> bool {
    let is_named = SECRETS.iter().any(|secret| line.contains(secret));
    let is_like_a_key = line
        .split(|char: char| !char.is_ascii_alphanumeric())
        .any(|run| run.len() >= KEY_LIKE);
    line.contains('@') || is_named || is_like_a_key
}
