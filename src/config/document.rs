//! The file's text as a tree of values with their places, each route completed from `[defaults]`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::Findings;

/// Settings of `[defaults]` that no route takes over: each route has its own.
pub(super) const OWN: [&str; 2] = ["name", "id"];

/// Reads a text as far as it is TOML.
pub(super) fn parse<'t>(text: &'t str, findings: &mut Findings) -> DeTable<'t> {
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        let duplicate = error.message() == "duplicate key";
        let other = duplicate.then(|| first_of(text, offset)).flatten();
        findings.syntax(offset, format!("not TOML: {}", error.message()), other);
    }
    let mut root = root.into_inner();
    complete_routes(&mut root);
    root
}

/// Where a name that is defined for the second time was defined first: the same header further up, or the same key
/// in the same section. The parser knows and does not tell.
fn first_of(text: &str, second: usize) -> Option<usize> {
    let before = text.get(..second)?;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..)?.lines().next()?.trim_start();
    let is_header = line.starts_with('[');
    let name = line.split_inclusive([']', '=']).next()?;
    let mut found = None;
    let mut at = 0;
    for line in text.get(..start)?.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let line_start = at;
        at += line.len();
        let line = line.trim_start();
        if line.starts_with('[') && !is_header {
            found = None;
        }
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        let same = line
            .split_inclusive([']', '='])
            .next()
            .is_some_and(|head| squeezed(head) == squeezed(name));
        if same && found.is_none() {
            found = Some(line_start + indent);
        }
    }
    found
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
