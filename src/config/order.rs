//! What routes are to one another: their names, and which of them has a request that several would take.

use std::collections::BTreeMap;

use http::Method;

use super::file::RouteFile;
use super::finding::{Findings, Place};
use super::value::Label;
use crate::route::{Found, Mode, PathPattern, Route, Table};

/// No two routes share a name; two that share an id share their records.
pub(super) fn names(files: &[RouteFile], findings: &mut Findings) {
    let mut names: BTreeMap<String, &Place> = BTreeMap::new();
    let mut ids: BTreeMap<String, &Place> = BTreeMap::new();
    for file in files {
        let Some(Some(Label(name))) = file.name.value() else {
            continue;
        };
        let (id, id_place) = match file.id.value() {
            Some(Some(Label(id))) => (id, &file.id.place),
            Some(None) => (name.clone(), &file.name.place),
            None => continue,
        };
        if let Some(first) = names.get(&name) {
            let message = format!("two routes have the name `{name}`");
            findings.conflict(&file.name.place, message, first);
            continue;
        }
        if let Some(first) = ids.get(&id) {
            let message = format!(
                "two routes have the id `{id}`: the same key means the same operation on both"
            );
            findings.warn(id_place, message, Some(first));
        }
        names.insert(name, &file.name.place);
        ids.insert(id, id_place);
    }
}

/// Refuses a route that no request can reach, and warns where requests of a protected route pass by an earlier one.
pub(super) fn shadows(files: &[RouteFile], routes: &[Route], findings: &mut Findings) {
    for (index, route) in routes.iter().enumerate() {
        let earlier = &routes[..index];
        let place = &files[index].path.place;
        let covers = |first: &Route| first.matcher.covers(&route.matcher);
        if let Some(first) = earlier.iter().position(covers) {
            let message = format!(
                "no request reaches route `{}`: route `{}` stands before it and takes them all; put this one first, \
                 or remove it",
                route.name, earlier[first].name
            );
            findings.conflict(place, message, &files[first].path.place);
            continue;
        }
        let passes = |first: &Route| !matches!(first.mode, Mode::Enforce(_));
        for (first, pass) in earlier.iter().enumerate().filter(|(_, r)| passes(r)) {
            if let Mode::Enforce(_) = route.mode
                && let Some(method) = route.matcher.loses(&pass.matcher)
            {
                let message = format!(
                    "{method} requests that match both this route and route `{}` pass unprotected, because that one \
                     stands before it; put this one first, unless that is meant",
                    pass.name
                );
                findings.warn(place, message, Some(&files[first].path.place));
            }
        }
    }
}

/// Warns where a path that an upstream may take for a protected one passes unprotected.
pub(super) fn spellings(files: &[RouteFile], routes: &[Route], findings: &mut Findings) {
    let table = Table::new(routes.to_vec());
    for (index, route) in routes.iter().enumerate() {
        let Mode::Enforce(_) = route.mode else {
            continue;
        };
        let method = route
            .matcher
            .methods
            .iter()
            .find(|method| route.matcher.protects(method));
        let method = method.unwrap_or(&Method::POST);
        let host = route.matcher.host.as_deref();
        for path in other_spellings(&route.matcher.path) {
            let Found::Route {
                index: other,
                route: pass,
                ..
            } = table.find(method, host, &path)
            else {
                continue;
            };
            if other != index && !matches!(pass.mode, Mode::Enforce(_)) {
                let message = format!(
                    "`{path}` passes unprotected by route `{}`; if the upstream takes it for a path of this route, \
                     narrow that one",
                    pass.name
                );
                findings.warn(
                    &files[index].path.place,
                    message,
                    Some(&files[other].path.place),
                );
                break;
            }
        }
    }
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
