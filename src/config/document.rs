//! The file's text as a tree of values with their places, each route completed from `[defaults]`.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Findings, may_hold_secret};
use super::setting::quoted;

/// Settings of `[defaults]` that no route takes over: each route has its own.
pub(super) const OWN: [&str; 2] = ["name", "id"];

/// Reads a text as far as it is TOML.
pub(super) fn parse<'t>(text: &'t str, findings: &mut Findings) -> DeTable<'t> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut root = root.into_inner();
    let mut errors: Vec<(Range<usize>, String)> = errors
        .into_iter()
        .map(|error| (error.span().unwrap_or_default(), error.message().to_owned()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    // What the parser says next of the same line comes from the first.
    errors.dedup_by_key(|(span, _)| line_start(text, span.start));
    // After a list that is not closed, settings are read as if they were in it.
    let open_list = |(span, said): &(Range<usize>, String)| {
        said.contains("missing comma") && is_setting(text, span.start)
    };
    if let Some(index) = errors.iter().position(open_list) {
        findings.lost_from(errors[index].0.start);
        errors.truncate(index + 1);
    }
    for (span, said) in errors {
        if said == "duplicate key" {
            let name = text.get(span.clone()).unwrap_or_default().trim();
            let first = first_of(&root, text, name, span.start);
            findings.syntax(span.start, format!("{} is set twice", quoted(name)), first);
        } else {
            let message = in_words(&said, text, span.start);
            findings.syntax(span.start, format!("not TOML: {message}"), None);
        }
    }
    complete_routes(&mut root);
    root
}

fn line_start(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.rfind('\n').map_or(0, |newline| newline + 1)
}

/// Whether a line sets something, and this is where it begins.
fn is_setting(text: &str, offset: usize) -> bool {
    let start = line_start(text, offset);
    let before = text.get(start..offset).unwrap_or_default();
    let line = text.get(offset..).unwrap_or_default().lines().next();
    before.trim().is_empty() && line.is_some_and(|line| line.contains('='))
}

/// What the parser says of a place, and what to write where the slip is a well-known one.
fn in_words(said: &str, text: &str, offset: usize) -> String {
    let rest = text.get(offset..).unwrap_or_default();
    let first = rest.chars().next();
    let word: String = rest
        .chars()
        .take_while(|char| char.is_alphanumeric() || "_-.:/".contains(*char))
        .collect();
    let line = text.get(line_start(text, offset)..).unwrap_or_default();
    let line = line.lines().next().unwrap_or_default();
    let is_value = ["quoted", "float", "boolean", "integer", "number", "date"]
        .iter()
        .any(|word| said.contains(word));
    let instead = match first {
        _ if said.contains("missing comma") && is_setting(text, offset) => {
            "the list above it is not closed with `]`".to_owned()
        }
        None | Some('\r' | '\n') if line.trim_end().ends_with('=') => {
            "nothing stands after the `=`".to_owned()
        }
        _ if line.contains(':') && !line.contains('=') => {
            "a setting is written with `=`: name = value".to_owned()
        }
        Some('“' | '”' | '„' | '‘' | '’') => "write straight quotes: \"…\"".to_owned(),
        Some(',') => "nothing stands between two settings but the end of the line".to_owned(),
        _ if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") => {
            format!("write {}", word.to_ascii_lowercase())
        }
        Some(first) if is_value && first.is_alphanumeric() && may_hold_secret(line) => {
            "a text is written in quotes".to_owned()
        }
        Some(first) if is_value && first.is_alphanumeric() => {
            format!("a text is written in quotes: {}", quoted(&word))
        }
        _ if said.contains("basic string") || said.contains("literal string") => {
            "the text has no closing quote on its line".to_owned()
        }
        _ => return said.to_owned(),
    };
    format!("{said}; {instead}")
}

/// Where a name that is set for the second time was set first. The parser knows and does not tell.
fn first_of(root: &DeTable<'_>, text: &str, name: &str, second: usize) -> Option<usize> {
    let name = name.trim_matches(['"', '\'']);
    let earlier = |table: &DeTable<'_>| {
        let (key, _) = table.get_key_value(name)?;
        Some(key.span().start).filter(|first| *first < second)
    };
    let start = line_start(text, second);
    let line = text.get(start..)?.lines().next()?.trim_start();
    let is_header = line.starts_with('[');
    if is_header && let Some(first) = same_header(text, start, line) {
        return Some(first);
    }
    if let Some(first) = inline_table_around(root, second).and_then(earlier) {
        return Some(first);
    }
    let header = text
        .get(..start)?
        .lines()
        .rev()
        .map(str::trim_start)
        .find(|line| line.starts_with('['))
        .filter(|_| !is_header);
    let header = header.map_or(Vec::new(), |line| {
        let inside = line.trim_start_matches('[').split(']').next();
        inside.unwrap_or_default().split('.').collect()
    });
    // `a.b` in front of the name, be it of a header or of a setting.
    let prefix = text
        .get(start..second)?
        .trim_start()
        .trim_start_matches('[');
    let prefix = prefix
        .rsplit_once('.')
        .map_or(Vec::new(), |(path, _)| path.split('.').collect());
    let mut table = root;
    let steps: Vec<&str> = header.into_iter().chain(prefix).collect();
    if steps.is_empty() && is_header {
        return dotted_before(text, start, name);
    }
    for step in steps {
        let value = table.get(step.trim().trim_matches(['"', '\'']))?;
        table = match value.get_ref() {
            DeValue::Table(table) => table,
            // The last element so far is the one that the header belongs to.
            DeValue::Array(items) => items
                .iter()
                .rfind(|item| item.span().start <= second)?
                .get_ref()
                .as_table()?,
            _ => return None,
        };
    }
    earlier(table)
}

/// Where a setting `name.x` stands before a header of this name.
fn dotted_before(text: &str, start: usize, name: &str) -> Option<usize> {
    let before = text.get(..start)?;
    let mut at = 0;
    before.split_inclusive('\n').find_map(|line| {
        let line_start = at;
        at += line.len();
        let rest = line
            .trim_start()
            .trim_start_matches('[')
            .strip_prefix(name)?;
        rest.trim_start()
            .starts_with(['.', '='])
            .then_some(line_start)
    })
}

/// Where the header of this line stands for the first time, further up.
fn same_header(text: &str, start: usize, line: &str) -> Option<usize> {
    let header = |line: &str| {
        let inside = line.trim_start().split_inclusive(']').next()?;
        inside
            .starts_with('[')
            .then(|| inside.split_whitespace().collect::<String>())
    };
    let this = header(line)?;
    let mut at = 0;
    text.get(..start)?.split_inclusive('\n').find_map(|line| {
        let line_start = at;
        at += line.len();
        let indent = line.len() - line.trim_start().len();
        (header(line)? == this).then_some(line_start + indent)
    })
}

/// The innermost `{ … }` that this place is in.
fn inline_table_around<'r, 't>(table: &'r DeTable<'t>, offset: usize) -> Option<&'r DeTable<'t>> {
    table.values().find_map(|value| around(value, offset))
}

fn around<'r, 't>(value: &'r Spanned<DeValue<'t>>, offset: usize) -> Option<&'r DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => inline_table_around(table, offset)
            .or_else(|| value.span().contains(&offset).then_some(table)),
        DeValue::Array(items) => items.iter().find_map(|item| around(item, offset)),
        _ => None,
    }
}

/// Adds to each route what only `[defaults]` says.
fn complete_routes(root: &mut DeTable<'_>) {
    let Some(DeValue::Table(defaults)) = root.get("defaults").map(|value| value.get_ref().clone())
    else {
        return;
    };
    let Some(DeValue::Array(routes)) = root.get_mut("routes").map(Spanned::get_mut) else {
        return;
    };
    for route in routes.iter_mut() {
        if let DeValue::Table(route) = route.get_mut() {
            complete(route, &defaults, &OWN);
        }
    }
}

fn complete<'t>(route: &mut DeTable<'t>, defaults: &DeTable<'t>, except: &[&str]) {
    for (name, default) in defaults
        .iter()
        .filter(|(name, _)| !except.contains(&name.get_ref().as_ref()))
    {
        match (route.get_mut(name).map(Spanned::get_mut), default.get_ref()) {
            (Some(DeValue::Table(own)), DeValue::Table(default)) => complete(own, default, &[]),
            (Some(_), _) => {}
            (None, _) => {
                route.insert(name.clone(), default.clone());
            }
        }
    }
}
