//! What is wrong with a configuration, and where.

use std::collections::BTreeSet;
use std::fmt;

/// How many findings of one kind are reported. A file with more is not a configuration.
const MAX_FINDINGS: usize = 500;

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

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = self.position {
            write!(f, ":{position}")?;
        }
        if !self.setting.is_empty() {
            write!(f, ": {}", self.setting)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Finding::to_string).collect();
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The file is not TOML here.
    Syntax,
    /// A value cannot be used, whatever the rest of the file says.
    Value,
    /// Something is missing, unknown, or does not fit to something else. Where the file is not TOML, that may come
    /// from what could not be read, and is not said.
    Whole,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    /// The last name of the path.
    name: String,
    message: String,
    other: Option<usize>,
    path: String,
}

impl Findings {
    pub(super) fn syntax(&mut self, offset: usize, message: String, other: Option<usize>) {
        let place = Place {
            offset,
            path: String::new(),
        };
        insert(&mut self.faults, &place, Kind::Syntax, message, other);
    }

    pub(super) fn value(&mut self, place: &Place, message: String) {
        insert(&mut self.faults, place, Kind::Value, message, None);
    }

    pub(super) fn whole(&mut self, place: &Place, message: String) {
        insert(&mut self.faults, place, Kind::Whole, message, None);
    }

    /// A fault between two places, the later one first.
    pub(super) fn conflict(&mut self, place: &Place, message: String, other: &Place) {
        insert(
            &mut self.faults,
            place,
            Kind::Whole,
            message,
            Some(other.offset),
        );
    }

    pub(super) fn warn(&mut self, place: &Place, message: String, other: Option<&Place>) {
        let other = other.map(|other| other.offset);
        insert(&mut self.warnings, place, Kind::Whole, message, other);
    }

    /// Faults and warnings, in the order of the file.
    pub(super) fn resolve(self, text: &str, file: &str) -> (Vec<Finding>, Vec<Finding>) {
        let lines = Lines::new(text);
        let broken: BTreeSet<usize> = self
            .faults
            .iter()
            .filter(|(_, kind, _)| *kind == Kind::Syntax)
            .map(|(offset, ..)| lines.position(*offset).line)
            .collect();
        let credible = |(offset, kind, _): &(usize, Kind, Note)| match kind {
            Kind::Syntax => true,
            Kind::Value => !broken.contains(&lines.position(*offset).line),
            Kind::Whole => broken.is_empty(),
        };
        let finding = |(offset, _, note): (usize, Kind, Note)| {
            let mut message = note.message;
            if let Some(other) = note.other {
                message = format!("{message}; the other one is at {}", lines.position(other));
            }
            Finding {
                file: file.to_owned(),
                position: Some(lines.position(offset)),
                setting: note.path,
                message,
            }
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

/// Keeps the first of two findings that say the same of one setting: of `defaults.lease` and then, at the same place
/// in the file, of a route's `lease`.
fn insert(
    into: &mut BTreeSet<(usize, Kind, Note)>,
    place: &Place,
    kind: Kind,
    message: String,
    other: Option<usize>,
) {
    let name = place.path.rsplit('.').next().unwrap_or_default().to_owned();
    let alike = Note {
        name,
        message,
        other,
        path: String::new(),
    };
    let from = (place.offset, kind, alike);
    let next = into.range(&from..).next();
    let known = next.is_some_and(|(offset, kind, note)| {
        let (from_offset, from_kind, alike) = &from;
        (offset, kind, &note.name, &note.message, note.other)
            == (
                from_offset,
                from_kind,
                &alike.name,
                &alike.message,
                alike.other,
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
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    fn position(&self, offset: usize) -> Position {
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
}
