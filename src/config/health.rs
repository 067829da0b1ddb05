//! How an upstream's addresses are asked whether they are well: section `health` of an upstream, lowered.

use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use serde_json::{Value as Json, json};

use super::file::UpstreamFile;
use super::finding::Findings;
use super::quantity::{Count, Positive, duration_in_words};
use super::setting::{quoted, section};
use super::value::Text;
use super::words::{StatusWord, is_host};
use crate::protocol::StatusSet;

section! {
    /// Active health checks: GET requests to every address of an upstream, each by itself.
    HealthFile {
        /// Path and query of the request. Required.
        path: Option<HealthPath>,
        /// The `Host` of the request: that of the endpoint unless set.
        host: Option<HealthHost>,
        /// How long after one check the next one begins; by up to a tenth more or less.
        interval: Positive<Duration> = "5s",
        /// How long a check may take, from connecting to the answer's last byte. Less than `interval`.
        timeout: Positive<Duration> = "1s",
        /// Checks in a row that an address has to pass before it gets requests again.
        healthy: Count = 2,
        /// Checks in a row that an address has to fail before it gets none any more. The first one of all decides at once.
        unhealthy: Count = 3,
        /// Statuses that pass.
        status: Vec<StatusWord> = ["2xx"],
    }
    later {}
}

/// How the addresses of an upstream are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for.
    pub path: PathAndQuery,
    /// The `Host`; `None`: the endpoint's.
    pub host: Option<HeaderValue>,
    /// From one check to the next.
    pub interval: Duration,
    /// Of one check, from connecting to the last byte.
    pub timeout: Duration,
    /// Passes in a row that bring an address back; at least 1.
    pub healthy: usize,
    /// Failures in a row that take it out; at least 1.
    pub unhealthy: usize,
    /// What passes.
    pub status: StatusSet,
}

#[derive(Clone, Debug)]
pub(super) struct HealthPath(PathAndQuery);

impl Text for HealthPath {
    fn from_text(text: &str) -> Result<Self, String> {
        let path = text.starts_with('/').then(|| text.parse().ok()).flatten();
        path.map(Self).ok_or_else(|| format!("is {}", quoted(text)))
    }

    fn meant(text: &str) -> Option<String> {
        (!text.contains("://") && !text.starts_with('/')).then(|| format!("/{text}"))
    }

    fn kind() -> String {
        "a path such as \"/healthz\"".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^/");
    }
}

#[derive(Clone, Debug)]
pub(super) struct HealthHost(HeaderValue);

impl Text for HealthHost {
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("is {}", quoted(text));
        let host = match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            _ => text,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if !is_host(host) {
            return Err(wrong());
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| wrong())
    }

    fn kind() -> String {
        "a host, with or without a port".to_owned()
    }
}

/// The health checks of an upstream, where it has any.
pub(super) fn check(file: &UpstreamFile, findings: &mut Findings) -> Option<Option<HealthCheck>> {
    let Some(file) = file.health.get()?.as_ref() else {
        return Some(None);
    };
    let path = file.path.value()?;
    if path.is_none() {
        let message = format!("is required; write {}", <HealthPath as Text>::kind());
        findings.whole(&file.path.place, message);
    }
    let (interval, timeout) = (file.interval.get()?.0, file.timeout.get()?.0);
    if timeout >= interval {
        let unless_set = match file.timeout.written() {
            Some(_) => "",
            None => " unless set",
        };
        let message = format!(
            "is {}{unless_set}, and has to be less than `interval` = {}",
            duration_in_words(timeout),
            duration_in_words(interval)
        );
        let other = file.interval.written();
        findings.conflict(&file.timeout.place, message, other.as_slice());
    }
    let words = file.status.get()?;
    if words.is_empty() {
        let message = "is empty; no check could pass".to_owned();
        findings.whole(&file.status.place, message);
    }
    let words: Vec<&str> = words.iter().map(|word| word.0.as_str()).collect();
    Some(Some(HealthCheck {
        path: path?.0,
        host: file.host.value()?.map(|host| host.0),
        interval,
        timeout,
        healthy: file.healthy.get()?.0,
        unhealthy: file.unhealthy.get()?.0,
        status: StatusSet::parse(&words).ok()?,
    }))
}
