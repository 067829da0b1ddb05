//! Which pages of other origins may call a route: `cors`, lowered.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue};

use super::file::{CorsFile, RouteFile};
use super::finding::Findings;
use super::lower::repeated;
use super::setting::Setting;
use super::words::{KeyWord, OriginWord, ScopeWord};
use crate::route::{Cors, Origins};

/// What pages may always read: what this gateway says, and where the new thing is.
const EXPOSED: [HeaderName; 5] = [
    HeaderName::from_static("idempotency-status"),
    HeaderName::from_static("idempotent-replayed"),
    LOCATION,
    RETRY_AFTER,
    WWW_AUTHENTICATE,
];

/// The outer `None`: something is wrong.
#[expect(
    clippy::option_option,
    reason = "what is wrong is not what is not there"
)]
pub(super) fn cors(route: &RouteFile, findings: &mut Findings) -> Option<Option<Arc<Cors>>> {
    let file = route.cors.get()?;
    let credentials = file.credentials.value();
    let headers = names(&file.headers, credentials, findings);
    let expose = names(&file.expose, credentials, findings);
    let words = file.origins.value()?;
    if words.is_empty() {
        useless(file, findings);
        return Some(None);
    }
    if let Some(twice) = repeated(&words) {
        let twice = match twice {
            OriginWord::Any => "*".to_owned(),
            OriginWord::One(pattern) => pattern.to_string(),
        };
        findings.whole(&file.origins.place, format!("has `{twice}` twice"));
    }
    let origins = if words.contains(&OriginWord::Any) {
        any(file, &words, findings);
        Origins::Any
    } else {
        let patterns = words.into_iter().filter_map(|word| match word {
            OriginWord::One(pattern) => Some(pattern),
            OriginWord::Any => None,
        });
        Origins::These(patterns.collect())
    };
    Some(Some(Arc::new(Cors {
        origins,
        credentials: credentials?,
        headers: listed(read_by(route).into_iter().chain(headers?)),
        expose: listed(EXPOSED.into_iter().chain(expose?)),
        max_age: HeaderValue::from(file.max_age.value()?.as_secs()),
    })))
}

/// Something is said about pages, and none may call the route.
fn useless(file: &CorsFile, findings: &mut Findings) {
    let others = [
        file.credentials.written(),
        file.headers.written(),
        file.expose.written(),
        file.max_age.written(),
    ];
    // Whoever writes that there are none takes back what the defaults say.
    if file.origins.written().is_none()
        && let Some(place) = others.into_iter().flatten().next()
    {
        let message = "has no effect without `origins`, the origins whose pages may call the route";
        findings.whole(place, message.to_owned());
    }
}

/// Everybody's pages may call the route.
fn any(file: &CorsFile, words: &[OriginWord], findings: &mut Findings) {
    if words.len() > 1 {
        let message = "has `*` beside something else; write it alone";
        findings.whole(&file.origins.place, message.to_owned());
    }
    if file.credentials.value() == Some(true) {
        let message = "lets every page act with its visitor's cookies, and browsers do not take it; name the origins";
        let other = file.credentials.written();
        findings.conflict(&file.origins.place, message.to_owned(), other.as_slice());
    }
}

/// More names of headers. A star is one where there are no credentials.
fn names(
    setting: &Setting<Vec<HeaderName>>,
    credentials: Option<bool>,
    findings: &mut Findings,
) -> Option<Vec<HeaderName>> {
    let names = setting.value()?;
    if let Some(twice) = repeated(&names) {
        findings.whole(&setting.place, format!("has `{twice}` twice"));
    }
    if credentials == Some(true) && names.iter().any(|name| name.as_str() == "*") {
        let message =
            "has `*`, which browsers take for a name where there are credentials; name the headers";
        findings.whole(&setting.place, message.to_owned());
    }
    Some(names)
}

/// The request headers that the gateway looks at, whatever the mode: pages call all routes in the same way.
fn read_by(route: &RouteFile) -> Vec<HeaderName> {
    let mut read = vec![CONTENT_TYPE, AUTHORIZATION];
    let keys = route.key.get().into_iter().flatten();
    read.extend(keys.map(|KeyWord(name)| name.clone()));
    let scopes = route.scope.get().into_iter().flatten().flatten();
    read.extend(scopes.filter_map(|word| match word {
        ScopeWord::Header(name) => Some(name.clone()),
        ScopeWord::None => None,
    }));
    let counting = route.fingerprint.get().and_then(|file| file.headers.get());
    read.extend(counting.into_iter().flatten().cloned());
    read
}

/// The names once each, in one line.
fn listed(names: impl Iterator<Item = HeaderName>) -> HeaderValue {
    let mut once: Vec<HeaderName> = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    let line = once
        .iter()
        .map(HeaderName::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    line.parse().expect("names of headers are visible ASCII")
}
