//! What routes are to one another: their names, and which of them has a request that several would take.

use std::collections::BTreeMap;

use http::{Method, header};

use super::file::{DefaultsFile, RouteFile};
use super::finding::{Findings, Place};
use super::value::Label;
use super::words::{ModeWord, ScopeWord};
use crate::route::{Found, Matcher, Mode, PathPattern, Route, Table};

/// No two routes share a name; those that share an id share their records.
pub(super) fn names(files: &[RouteFile], findings: &mut Findings) {
    let mut names: BTreeMap<String, &Place> = BTreeMap::new();
    let mut ids: BTreeMap<String, Vec<(String, &Place)>> = BTreeMap::new();
    for file in files {
        let Some(Some(Label(name))) = file.name.value() else {
            continue;
        };
        if let Some(first) = names.get(&name) {
            let message = format!(
                "two routes have the name `{name}`; metrics and records go by it: rename one"
            );
            findings.conflict(&file.name.place, message, &[first]);
            continue;
        }
        names.insert(name.clone(), &file.name.place);
        let (id, place) = match file.id.value() {
            Some(Some(Label(id))) => (id, &file.id.place),
            Some(None) => (name.clone(), &file.name.place),
            None => continue,
        };
        ids.entry(id).or_default().push((name, place));
    }
    for (id, routes) in ids {
        let [others @ .., (_, last)] = routes.as_slice() else {
            continue;
        };
        if others.is_empty() {
            continue;
        }
        let names: Vec<&str> = routes.iter().map(|(name, _)| name.as_str()).collect();
        let others: Vec<&Place> = others.iter().map(|(_, place)| *place).collect();
        let message = format!(
            "routes {} have the id `{id}`, so the same key means the same operation on all of them; give each its \
             own `id`, unless they are one operation",
            list(&names),
        );
        findings.warn(last, message, &others);
    }
}

/// Warns of routes that pass requests through and say how they are protected.
pub(super) fn idle(files: &[RouteFile], defaults: Option<&DefaultsFile>, findings: &mut Findings) {
    let is_own = |place: &&Place| {
        defaults.is_some_and(|defaults| !defaults.protecting.contains(&place.offset))
    };
    let pass = files
        .iter()
        .filter(|file| file.mode.value() == Some(ModeWord::Pass));
    for file in pass {
        for place in file.protecting().into_iter().filter(is_own) {
            let message =
                "has no effect: with mode = \"pass\" the route's requests go through unprotected";
            findings.warn(place, message.to_owned(), file.mode.written().as_slice());
        }
    }
}

/// Warns of scopes that change when a client refreshes its token.
pub(super) fn tokens(files: &[RouteFile], findings: &mut Findings) {
    let by_token: Vec<(String, &Place)> = files
        .iter()
        .filter(|file| file.mode.value() != Some(ModeWord::Pass))
        .filter(|file| {
            let words = file.scope.get().and_then(Option::as_ref);
            words.is_some_and(|words| words.contains(&ScopeWord::Header(header::AUTHORIZATION)))
        })
        .map(|file| (name_of(file), &file.scope.place))
        .collect();
    let Some((_, first)) = by_token.first() else {
        return;
    };
    let names: Vec<&str> = by_token.iter().map(|(name, _)| name.as_str()).collect();
    let others: Vec<&Place> = by_token.iter().map(|(_, place)| *place).collect();
    let message = format!(
        "{} by `header:Authorization`: a client that refreshes its token between two tries is another client then, \
         and its retry is executed; scope by a header that stays the same (\"header:X-Tenant\", say), unless tokens \
         outlive retries",
        told_apart(&names),
    );
    findings.warn(first, message, &others);
}

fn told_apart(names: &[&str]) -> String {
    match names {
        [one] => format!("route {one} tells clients apart"),
        names => format!("routes {} tell clients apart", list(names)),
    }
}

fn name_of(file: &RouteFile) -> String {
    match file.name.value() {
        Some(Some(Label(name))) => format!("`{name}`"),
        _ => "without a name".to_owned(),
    }
}

/// `a`, `b` and `c`.
fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Warns of `/:id`, which elsewhere is an open segment.
pub(super) fn colons(files: &[RouteFile], findings: &mut Findings) {
    for file in files {
        let Some(Some(path)) = file.path.value() else {
            continue;
        };
        let path = path.to_string();
        if let Some(name) = path
            .split('/')
            .find_map(|segment| segment.strip_prefix(':'))
        {
            let message =
                format!("`:{name}` stands for itself here; write `{{{name}}}` for any segment");
            findings.warn(&file.path.place, message, &[]);
        }
    }
}

/// What can be told of a route's precedence, whatever else is wrong with it.
struct Seen<'f> {
    name: String,
    place: &'f Place,
    matcher: Matcher,
    mode: ModeWord,
}

fn seen(file: &RouteFile) -> Option<Seen<'_>> {
    Some(Seen {
        name: name_of(file),
        place: &file.path.place,
        matcher: Matcher {
            methods: file.methods.value()?,
            host: file.host.value()?.map(|host| host.0),
            path: file.path.value()??,
        },
        mode: file.mode.value()?,
    })
}

/// Refuses a protected route whose requests all pass by an earlier one, and warns of other routes that no request
/// reaches, and of requests of a protected route that pass by an earlier one.
pub(super) fn shadows(files: &[RouteFile], findings: &mut Findings) {
    let routes: Vec<Option<Seen<'_>>> = files.iter().map(seen).collect();
    let mut losses: BTreeMap<usize, Vec<(String, &Place)>> = BTreeMap::new();
    for (index, route) in routes.iter().enumerate() {
        let Some(route) = route else { continue };
        let earlier = || routes[..index].iter().enumerate();
        let covering = earlier()
            .filter_map(|(_, first)| first.as_ref())
            .find(|first| first.matcher.covers(&route.matcher));
        if let Some(first) = covering {
            unreachable(route, first, findings);
            continue;
        }
        if route.mode != ModeWord::Enforce {
            continue;
        }
        for (first, pass) in earlier() {
            if let Some(pass) = pass.as_ref().filter(|pass| pass.mode != ModeWord::Enforce)
                && let Some(method) = route.matcher.loses(&pass.matcher)
            {
                let lost = format!("{method} of {}", route.name);
                losses.entry(first).or_default().push((lost, route.place));
            }
        }
    }
    for (first, lost) in losses {
        let Some(Some(pass)) = routes.get(first) else {
            continue;
        };
        let names: Vec<&str> = lost.iter().map(|(lost, _)| lost.as_str()).collect();
        let others: Vec<&Place> = lost.iter().map(|(_, place)| *place).collect();
        let message = format!(
            "route {} stands before protected routes and takes requests of theirs, which then pass unprotected: {}; \
             put it after them, unless that is meant",
            pass.name,
            list(&names),
        );
        findings.warn(pass.place, message, &others);
    }
}

fn unreachable(route: &Seen<'_>, first: &Seen<'_>, findings: &mut Findings) {
    let said = format!(
        "no request reaches route {}: route {} stands before it and takes them all",
        route.name, first.name
    );
    if route.mode == ModeWord::Enforce && first.mode != ModeWord::Enforce {
        let message = format!("{said}, unprotected; put this one first, or remove it");
        findings.conflict(route.place, message, &[first.place]);
    } else {
        let message = format!("{said}; put this one first, or remove it");
        findings.warn(route.place, message, &[first.place]);
    }
}

/// Warns where a path that an upstream may take for a protected one passes unprotected.
pub(super) fn spellings(files: &[RouteFile], routes: &[Route], findings: &mut Findings) {
    let table = Table::new(routes.to_vec());
    let mut leaks: BTreeMap<usize, Vec<(String, &Place)>> = BTreeMap::new();
    for (index, route) in routes.iter().enumerate() {
        if let Some((pass, path)) = leak(&table, index, route) {
            let leaked = format!("`{path}` for route `{}`", route.name);
            leaks
                .entry(pass)
                .or_default()
                .push((leaked, &files[index].path.place));
        }
    }
    for (pass, leaked) in leaks {
        let names: Vec<&str> = leaked.iter().map(|(leaked, _)| leaked.as_str()).collect();
        let others: Vec<&Place> = leaked.iter().map(|(_, place)| *place).collect();
        let message = format!(
            "other spellings of protected paths pass here unprotected: {}; make sure that the upstream answers them \
             with 404, or narrow this path to what has to pass",
            list(&names),
        );
        findings.warn(&files[pass].path.place, message, &others);
    }
}

/// The pass route that takes another spelling of a protected route's path, and that spelling.
fn leak(table: &Table, index: usize, route: &Route) -> Option<(usize, String)> {
    let Mode::Enforce(_) = route.mode else {
        return None;
    };
    let method = route
        .matcher
        .methods
        .iter()
        .find(|method| route.matcher.protects(method));
    let method = method.unwrap_or(&Method::POST);
    let host = route.matcher.host.as_deref();
    other_spellings(&route.matcher.path)
        .into_iter()
        .find_map(|path| match table.find(method, host, &path) {
            Found::Route {
                index: other,
                route: pass,
                ..
            } if other != index && !matches!(pass.mode, Mode::Enforce(_)) => Some((other, path)),
            _ => None,
        })
}

fn other_spellings(path: &PathPattern) -> [String; 4] {
    let plain = path.example(str::to_owned);
    [
        format!("{}/", plain.trim_end_matches('/')),
        plain.replace('/', "//"),
        path.example(str::to_ascii_uppercase),
        path.example(str::to_ascii_lowercase),
    ]
}
