//! A record as operators see it.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::problem::Problem;
use super::{Records, digits};
use crate::protocol::{Answer, Claimed, Completed, Record, RecordId, State, Timestamp, Unknown};
use crate::store::system_clock;

/// How much of a fingerprint is shown: enough to compare two, in bytes.
const FINGERPRINT_SHOWN: usize = 6;

/// What is asked for besides.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// `true`: the recorded body, too.
    body: Option<String>,
}

impl Query {
    /// Whether the body is wanted.
    pub fn wants_body(&self) -> bool {
        self.body.as_deref() == Some("true")
    }
}

impl Records {
    /// One record.
    pub(super) async fn show(&self, id: RecordId, with_body: bool) -> Result<Json, Problem> {
        match self.read(id).await? {
            Some(record) => Ok(self.shown(&id, &record, with_body)),
            None => Err(self.absent(&id)),
        }
    }

    /// That there is none, and by what name.
    pub(super) fn absent(&self, id: &RecordId) -> Problem {
        Problem::Absent(json!({
            "detail": "Nothing is known under this id: the key was never used, or not in this scope (`--scope` is the whole \
                       value of the header, `Bearer …`), was released, or its retention is over.",
            "id": digits(&id.0),
            "key_ref": self.parts.identifier.key_ref(id).to_string(),
        }))
    }

    /// A record as it is now; with the bytes of its body where they are wanted.
    pub(super) fn shown(&self, id: &RecordId, record: &Record, with_body: bool) -> Json {
        let route = self.route_of(record).map(|(_, route)| route.name.as_str());
        let fingerprint = &record.fingerprint.0[..FINGERPRINT_SHOWN];
        let mut shown = json!({
            "id": digits(&id.0),
            "key_ref": self.parts.identifier.key_ref(id).to_string(),
            "route": route,
            "route_id": &*record.route,
            "version": record.version().to_string(),
            "kept_until": record.expires_at.to_string(),
            "fingerprint": digits(fingerprint),
        });
        let state = match &record.state {
            State::Claimed(claim) => claimed(claim, now()),
            State::Unknown(declared) => unknown(declared),
            State::Completed(done) => completed(done, with_body),
            State::Expired => json!({ "state": "expired" }),
        };
        let reference = match record.reference.is_empty() {
            true => Json::Null,
            false => match self.parts.identifier.open_reference(id, &record.reference) {
                Ok(reference) => json!({
                    "key": reference.key,
                    "method": reference.method,
                    "path": reference.path,
                    "scope": reference.scope,
                }),
                Err(error) => json!({ "error": error.to_string() }),
            },
        };
        if let (Json::Object(shown), Json::Object(state)) = (&mut shown, state) {
            shown.insert("reference".to_owned(), reference);
            shown.extend(state);
        }
        shown
    }
}

/// The time that ages are counted to; nothing depends on it.
pub fn now() -> Timestamp {
    system_clock()()
}

/// What of a state is written down when somebody settles it.
pub fn summary(record: Option<&Record>) -> Json {
    let Some(record) = record else {
        return json!({ "state": "absent" });
    };
    let mut summary = match &record.state {
        State::Claimed(claim) => claimed(claim, now()),
        State::Unknown(declared) => unknown(declared),
        State::Completed(done) => completed(done, false),
        State::Expired => json!({ "state": "expired" }),
    };
    if let Json::Object(summary) = &mut summary {
        summary.insert("version".to_owned(), record.version().to_string().into());
        // Lines of a response may say more than an audit log should.
        if let Some(Json::Object(response)) = summary.get_mut("response") {
            response.remove("headers");
            response.remove("trailers");
        }
    }
    summary
}

fn claimed(claim: &Claimed, now: Timestamp) -> Json {
    let mut shown = match claim.lapsed(now) {
        // As it reads for clients.
        true => unknown(&claim.as_lapsed()),
        false => json!({
            "state": "claimed",
            "claimed_at": moment(claim.claimed_at),
            "attempts": claim.seen.fence,
        }),
    };
    if let Json::Object(shown) = &mut shown {
        shown.insert("beats".to_owned(), claim.seen.beat.into());
        shown.insert(
            "lease_until".to_owned(),
            claim.lease_until.to_string().into(),
        );
        if let Some(prior) = &claim.prior {
            shown.insert("prior".to_owned(), unknown(prior));
        }
    }
    shown
}

fn unknown(unknown: &Unknown) -> Json {
    let Unknown {
        seen,
        cause,
        since,
        trace,
    } = unknown;
    // Its time is counted from the asking for the claim, and a busy store hears that later by its clock: never so late that
    // the request would seem to be written once its outcome was unknown.
    let written_at = trace.written_at().map(|at| at.min(*since));
    json!({
        "state": "unknown",
        "cause": cause.name(),
        "claimed_at": moment(trace.claimed_at),
        "written_at": moment(written_at),
        "unknown_since": since.to_string(),
        "status_seen": trace.sent.status,
        "bytes_seen": trace.sent.bytes_seen,
        "attempts": seen.fence,
    })
}

fn completed(done: &Completed, with_body: bool) -> Json {
    let mut shown = json!({
        "state": "completed",
        "claimed_at": moment(done.begun.claimed_at),
        "completed_at": done.completed_at.to_string(),
        "attempts": done.begun.fence,
        // An answer that an operator or a probe has given has no owner.
        "resolved_by_hand": done.owner.is_none(),
    });
    let (name, answer) = match &done.answer {
        Answer::Stored(response) => {
            let mut response_shown = json!({
                "status": response.status,
                "headers": lines(&response.headers),
                "body_bytes": response.body.len(),
            });
            if let (false, Json::Object(shown)) =
                (response.trailers.is_empty(), &mut response_shown)
            {
                shown.insert("trailers".to_owned(), lines(&response.trailers));
            }
            if let (Some(trace), Json::Object(shown)) = (&response.trace, &mut response_shown) {
                let at = json!({
                    "trace_id": digits(&trace.trace_id),
                    "span_id": digits(&trace.span_id),
                });
                shown.insert("trace".to_owned(), at);
            }
            if let (true, Json::Object(shown)) = (with_body, &mut response_shown) {
                body(shown, &response.body);
            }
            ("response", response_shown)
        }
        Answer::NotStored(reason) => ("response_not_stored", reason.name().into()),
        Answer::Sealed(_) => ("response_not_stored", "sealed".into()),
    };
    if let Json::Object(shown) = &mut shown {
        shown.insert(name.to_owned(), answer);
    }
    shown
}

fn lines(lines: &[(String, Bytes)]) -> Json {
    let shown = |(name, value): &(String, Bytes)| json!([name, String::from_utf8_lossy(value)]);
    lines.iter().map(shown).collect()
}

/// As a text where it is one.
fn body(shown: &mut Map<String, Json>, body: &Bytes) {
    use base64::Engine;
    match std::str::from_utf8(body) {
        Ok(text) => shown.insert("body".to_owned(), text.into()),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(body);
            shown.insert("body_base64".to_owned(), text.into())
        }
    };
}

fn moment(moment: Option<Timestamp>) -> Option<String> {
    moment.map(|moment| moment.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{Cause, Owner, Seen, Sent, Trace};

    #[test]
    fn a_request_was_written_before_its_outcome_was_unknown_however_late_its_claim_was_heard() {
        let (owner, fence, beat) = (Owner(1), 1, 0);
        let written = |after_ms| {
            let shown = unknown(&Unknown {
                seen: Seen { owner, fence, beat },
                cause: Cause::Timeout,
                since: Timestamp(1_000_250),
                trace: Trace {
                    claimed_at: Some(Timestamp(1_000_000)),
                    sent: Sent {
                        written_after: Some(Duration::from_millis(after_ms)),
                        ..Sent::default()
                    },
                },
            });
            shown["written_at"].clone()
        };
        assert_eq!(written(200), Timestamp(1_000_200).to_string());
        assert_eq!(written(300), Timestamp(1_000_250).to_string());
    }
}
