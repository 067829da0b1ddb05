//! The words by which operators settle records: resolve, release, delete.
//!
//! Each compares what the operator saw, and changes nothing where the record is another one by now. The order is: may it
//! be written down → is the record still so → the store → the caches of this process, then those of others → the audit
//! log → the answer. A word that breaks off in between can be given again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::ask::Said;
use super::problem::Problem;
use super::show::{now, summary};
use super::{Records, digits};
use crate::protocol::{
    Answer, GrpcCode, Op, Record, RecordId, Resolution, Response, Retention, Seen, State, Verdict,
    Version,
};
use crate::store::StoreError;
use crate::telemetry::{Settled, Settler};

/// The longest name of an operator and the longest reason, in bytes.
const ACTOR_MAX: usize = 200;
const REASON_MAX: usize = 2000;

/// The most header lines of a response that an operator gives, and the most bytes of them: what no client takes is of no
/// use to any.
const LINES_MAX: usize = 100;
const LINES_BYTES_MAX: usize = 32 << 10;

/// What an operator says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// What was seen of the record.
    version: String,
    /// Who says it.
    actor: String,
    /// Why.
    reason: String,
    /// Of the response that is replayed from now on.
    status: Option<u16>,
    headers: Option<Vec<(String, String)>>,
    trailers: Option<Vec<(String, String)>>,
    body: Option<String>,
    body_base64: Option<String>,
}

/// A line of the audit log.
#[derive(Serialize)]
struct Entry<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    message: &'static str,
    action: &'static str,
    /// `done`, or `in_doubt` where the store never said.
    result: &'static str,
    actor: &'a str,
    remote: SocketAddr,
    record: String,
    key_ref: String,
    route: Option<&'a str>,
    route_id: &'a str,
    before: Json,
    after: Json,
    reason: &'a str,
}

impl Records {
    /// Settles a record as an operator says.
    pub(super) async fn settle(
        &self,
        id: RecordId,
        action: &str,
        word: Word,
        peer: SocketAddr,
    ) -> Result<Json, Problem> {
        let version = word.checked()?;
        let settled = match action {
            "resolve" => Settled::Completed,
            "release" => Settled::Released,
            _ => Settled::Deleted,
        };
        self.parts
            .audit
            .ready()
            .await
            .map_err(|error| Problem::Audit(error.to_string()))?;
        let Some(before) = self.read(id).await? else {
            if settled == Settled::Deleted {
                // A delete that broke off may be given again: that others may still remember the record is what was
                // left to do.
                self.tell(id).await;
            }
            return Err(self.absent(&id));
        };
        let op = self.wish(&word, settled, &before)?;
        self.allowed(&id, settled, &before, version)?;
        let said = match (op, version) {
            (Some(verdict), Version::Open(seen)) => self.resolved(id, seen, verdict).await,
            (None, version) => self.deleted(id, version).await,
            // Only what is open can be settled; it was seen to be by now.
            (Some(_), Version::Completed { .. } | Version::Expired(_)) => {
                return Err(self.changed(&id, "It has a final outcome.").await);
            }
        };
        let result = match said.answer {
            Ok(Verdict::Done) => "done",
            // An earlier try, of which nobody heard, may have done it.
            Ok(_) if said.doubted && self.is_so(id, settled, &before).await => "done",
            Ok(_) => {
                let changed = "It has changed since you saw it.";
                return Err(self.changed(&id, changed).await);
            }
            Err(StoreError::InDoubt(_)) => "in_doubt",
            Err(error) if said.doubted => {
                tracing::debug!(%error, "an earlier try is in doubt");
                "in_doubt"
            }
            Err(error) => return Err(super::ask::unasked(error)),
        };
        let warning = self.tell(id).await;
        let place = self.route_of(&before).map(|(place, _)| place);
        if result == "done" {
            let resolutions = &self.parts.metrics.resolutions;
            resolutions.inc(place, Settler::Operator, settled);
        }
        let after = self.read(id).await;
        let entry = self.entry(&id, settled, result, &word, peer, &before, after.as_ref());
        let written = self.parts.audit.write(&entry).await;
        if result == "in_doubt" {
            return Err(Problem::InDoubt(
                "The store did not say whether it did it.".to_owned(),
            ));
        }
        written.map_err(|error| Problem::Unwritten(error.to_string()))?;
        let mut answer = match after {
            Ok(Some(after)) => self.shown(&id, &after, false),
            _ => json!({ "id": digits(&id.0), "state": "absent" }),
        };
        if let (Json::Object(answer), Some(warning)) = (&mut answer, warning) {
            answer.insert("warning".to_owned(), warning.into());
        }
        Ok(answer)
    }

    /// What is to become of a record without a final outcome; `None` for a delete.
    fn wish(
        &self,
        word: &Word,
        settled: Settled,
        before: &Record,
    ) -> Result<Option<Resolution>, Problem> {
        let says_response = word.status.is_some()
            || word.headers.is_some()
            || word.trailers.is_some()
            || word.body.is_some()
            || word.body_base64.is_some();
        match settled {
            Settled::Completed => {
                let response = word.response()?;
                let route = self.route_of(before).map(|(_, route)| route);
                let policy = route.and_then(|route| route.policy());
                if let Some(policy) = policy
                    && response.body.len() as u64 > policy.max_response_body
                {
                    return Err(Problem::TooLarge);
                }
                let retention = match policy {
                    Some(policy) => policy.keep_answer(said(&response)),
                    // Its route is not configured any more.
                    None => Retention {
                        keep: before.expires_at.since(now()),
                        tombstone: Duration::ZERO,
                    },
                };
                Ok(Some(Resolution::Completed {
                    answer: Answer::Stored(Arc::new(response)),
                    retention,
                }))
            }
            _ if says_response => Err(Problem::Bad(
                "A response is only for `resolve`; nothing is replayed here.".to_owned(),
            )),
            Settled::Released => Ok(Some(Resolution::Gone)),
            Settled::Deleted => Ok(None),
        }
    }

    /// Whether the record as it is now allows it.
    fn allowed(
        &self,
        id: &RecordId,
        settled: Settled,
        record: &Record,
        version: Version,
    ) -> Result<(), Problem> {
        let why = match &record.state {
            State::Claimed(claim) if !claim.lapsed(now()) => {
                "A gateway is executing it at this moment. Wait until it is done, or until its lease is over."
            }
            State::Completed(_) if settled != Settled::Deleted => {
                "It has a final outcome, which clients may have heard. Only a delete takes that back."
            }
            State::Expired if settled != Settled::Deleted => {
                "Its answer has expired; only a delete takes the rest away."
            }
            _ if record.version() != version => "It has changed since you saw it.",
            _ => return Ok(()),
        };
        Err(Problem::Changed(why, self.shown(id, record, false)))
    }

    async fn resolved(&self, id: RecordId, seen: Seen, verdict: Resolution) -> Said<Verdict> {
        let op = Op::Resolve { seen, verdict };
        self.insist(|store| store.apply(id, op.clone())).await
    }

    async fn deleted(&self, id: RecordId, version: Version) -> Said<Verdict> {
        self.insist(|store| store.forget(id, version)).await
    }

    /// Whether the record is what it was to become; after a try of which nobody heard.
    async fn is_so(&self, id: RecordId, settled: Settled, before: &Record) -> bool {
        match (self.read(id).await, settled) {
            (Ok(None), Settled::Released | Settled::Deleted) => true,
            (Ok(Some(after)), Settled::Completed) => {
                after.fingerprint == before.fingerprint
                    && matches!(&after.state, State::Completed(done) if done.owner.is_none())
            }
            _ => false,
        }
    }

    async fn changed(&self, id: &RecordId, why: &'static str) -> Problem {
        match self.read(*id).await {
            Ok(Some(record)) => Problem::Changed(why, self.shown(id, &record, false)),
            Ok(None) => self.absent(id),
            Err(problem) => problem,
        }
    }

    /// Sees to it that nobody answers from what he remembers. What could not be done now is done in the background, and
    /// that it is left to do is returned.
    async fn tell(&self, id: RecordId) -> Option<&'static str> {
        (self.parts.forgotten)(id);
        if self
            .insist(|store| store.change_epoch())
            .await
            .answer
            .is_ok()
        {
            return None;
        }
        let store = Arc::clone(&self.parts.store);
        tokio::spawn(async move {
            while store.change_epoch().await.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Some("Other gateways may answer from their memory until the store can be asked again.")
    }

    #[expect(clippy::too_many_arguments, reason = "a line says all of it")]
    fn entry<'a>(
        &'a self,
        id: &RecordId,
        settled: Settled,
        result: &'static str,
        word: &'a Word,
        peer: SocketAddr,
        before: &'a Record,
        after: Result<&Option<Record>, &Problem>,
    ) -> Entry<'a> {
        Entry {
            timestamp: now().to_string(),
            level: "INFO",
            target: "oncegate::audit",
            message: "an operator has settled a record",
            action: match settled {
                Settled::Completed => "resolve",
                Settled::Released => "release",
                Settled::Deleted => "delete",
            },
            result,
            actor: &word.actor,
            remote: peer,
            record: digits(&id.0),
            key_ref: self.parts.identifier.key_ref(id).to_string(),
            route: self.route_of(before).map(|(_, route)| route.name.as_str()),
            route_id: &before.route,
            before: summary(Some(before)),
            after: after.map_or_else(
                |_| json!({ "state": "not_asked" }),
                |after| summary(after.as_ref()),
            ),
            reason: &word.reason,
        }
    }
}

impl Word {
    /// Its version, where all that every word needs is there.
    fn checked(&self) -> Result<Version, Problem> {
        let bad = |why: &str| Problem::Bad(why.to_owned());
        for (name, text, max) in [
            ("actor", &self.actor, ACTOR_MAX),
            ("reason", &self.reason, REASON_MAX),
        ] {
            if text.trim().is_empty() {
                return Err(Problem::Bad(format!(
                    "`{name}` is empty; the audit log needs it."
                )));
            }
            if text.len() > max {
                return Err(Problem::Bad(format!(
                    "`{name}` is longer than {max} bytes."
                )));
            }
        }
        self.version
            .parse()
            .map_err(|_| bad("`version` is none: take it from the record as it is shown."))
    }

    /// The response to replay.
    fn response(&self) -> Result<Response, Problem> {
        let bad = |why: String| Err(Problem::Bad(why));
        let status = match self.status {
            Some(status @ 200..=599) => status,
            Some(_) => return bad("`status` is none from 200 to 599.".to_owned()),
            None => return bad("`status` is missing: what did the upstream answer?".to_owned()),
        };
        let headers = lines("headers", self.headers.as_deref().unwrap_or_default());
        let trailers = lines("trailers", self.trailers.as_deref().unwrap_or_default());
        let (headers, trailers) = (
            headers.map_err(Problem::Bad)?,
            trailers.map_err(Problem::Bad)?,
        );
        let body = match (&self.body, &self.body_base64) {
            (None, None) => Bytes::new(),
            (Some(text), None) => Bytes::copy_from_slice(text.as_bytes()),
            (None, Some(text)) => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(text);
                match decoded {
                    Ok(bytes) => bytes.into(),
                    Err(_) => return bad("`body_base64` is not base64.".to_owned()),
                }
            }
            (Some(_), Some(_)) => return bad("There are two bodies.".to_owned()),
        };
        if matches!(status, 204 | 304) && !body.is_empty() {
            return bad(format!("An answer {status} has no body."));
        }
        Ok(Response {
            trailers,
            ..Response::new(status, headers, body)
        })
    }
}

/// The status that a response's retention goes by: where it ends a call of gRPC, the one that its code stands for.
fn said(response: &Response) -> u16 {
    let lines = match response.trailers.is_empty() && response.body.is_empty() {
        true => &response.headers,
        false => &response.trailers,
    };
    let code = lines.iter().find(|(name, _)| name == "grpc-status");
    let code = code.and_then(|(_, number)| GrpcCode::from_bytes(number));
    match code {
        Some(code) if response.status == 200 => code.http_status(),
        _ => response.status,
    }
}

/// Lines of a response's headers or trailers, as they are recorded.
fn lines(part: &str, lines: &[(String, String)]) -> Result<Vec<(String, Bytes)>, String> {
    let bytes: usize = lines
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if lines.len() > LINES_MAX || bytes > LINES_BYTES_MAX {
        return Err(format!(
            "`{part}` are more than {LINES_MAX} lines, or more than {LINES_BYTES_MAX} bytes."
        ));
    }
    let mut taken = Vec::new();
    for (name, value) in lines {
        let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.trim()),
            HeaderValue::try_from(value.trim()),
        ) else {
            return Err(format!("`{name}` is no header line."));
        };
        if !can_be_replayed(name.as_str()) {
            return Err(format!("`{name}` is never replayed."));
        }
        taken.push((
            name.as_str().to_owned(),
            Bytes::copy_from_slice(value.as_bytes()),
        ));
    }
    Ok(taken)
}

/// Whether a line has a place in a recorded response: it concerns neither a connection nor its framing, is none of our own,
/// and is one that is recorded of an upstream's answer, too.
fn can_be_replayed(name: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "connection",
        "content-length",
        "idempotency-status",
        "idempotent-replayed",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    !OTHERS.contains(&name) && !name.starts_with("proxy-") && Response::keeps(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word() -> Word {
        serde_json::from_value(json!({
            "version": "00000000000000000000000000000001.1.0",
            "actor": "ada",
            "reason": "seen at the bank",
        }))
        .unwrap()
    }

    #[test]
    fn a_word_says_who_and_why() {
        assert!(word().checked().is_ok());
        for (actor, reason) in [("", "why"), ("ada", " "), (&*"x".repeat(201), "why")] {
            let word = Word {
                actor: actor.to_owned(),
                reason: reason.to_owned(),
                ..word()
            };
            assert!(word.checked().is_err());
        }
    }

    #[test]
    fn only_what_can_be_replayed_is_a_response() {
        let of = |status, name: &str| Word {
            status,
            headers: Some(vec![(name.to_owned(), "x".to_owned())]),
            ..word()
        };
        assert!(of(Some(201), "Location").response().is_ok());
        for (status, name) in [
            (None, "location"),
            (Some(199), "location"),
            (Some(201), "Set-Cookie"),
            (Some(201), "Content-Length"),
            (Some(201), "Server-Timing"),
            (Some(201), "X-RateLimit-Remaining"),
            (Some(201), "Proxy-Authenticate"),
            (Some(201), "not a name"),
        ] {
            assert!(of(status, name).response().is_err(), "{status:?} {name}");
        }
        let empty = Word {
            status: Some(204),
            body: Some("paid".to_owned()),
            ..word()
        };
        assert!(empty.response().is_err());
    }

    #[test]
    fn a_response_has_no_more_header_lines_than_a_client_takes() {
        let of = |count: usize, length: usize| Word {
            status: Some(201),
            headers: Some(
                (0..count)
                    .map(|number| (format!("x-{number}"), "x".repeat(length)))
                    .collect(),
            ),
            ..word()
        };
        assert!(of(LINES_MAX, 1).response().is_ok());
        assert!(of(LINES_MAX + 1, 1).response().is_err());
        assert!(of(1, LINES_BYTES_MAX).response().is_err());
    }
}
