//! What the scripts say, as the protocol's verdicts and records. Whatever is not understood is unreadable, never
//! absent.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use serde::{Deserialize, Serialize};

use super::super::NotDone;
use super::super::codec;
use super::identity::NotTheStore;
use crate::protocol::{
    Answer, Begun, Cause, Claimed, Completed, Fingerprint, Found, Origin, Owner, RULES, Record,
    RecordId, Seen, Sent, State, Timestamp, Trace, Unknown, Verdict,
};

/// What a script says.
#[derive(Debug)]
pub enum Said {
    /// A verdict.
    Verdict(Verdict),
    /// There is no record.
    Absent,
    /// It is not the store that this gateway knows.
    NotTheStore(NotTheStore),
}

/// What of a record never changes, as one checked blob.
#[derive(Serialize, Deserialize)]
struct OriginPart {
    rules: u16,
    fingerprint: Fingerprint,
    route: Arc<str>,
    reference: Bytes,
}

/// The bytes of an origin, for the field `og`.
pub fn origin_bytes(id: &RecordId, origin: &Origin) -> Result<Vec<u8>, NotDone> {
    let part = OriginPart {
        rules: RULES,
        fingerprint: origin.fingerprint,
        route: Arc::clone(&origin.route),
        reference: origin.reference.clone(),
    };
    codec::encode_origin(id, &part).map_err(|why| unreadable(&why))
}

/// The bytes of an answer, for the field `an`.
pub fn answer_bytes(id: &RecordId, answer: &Answer) -> Result<Vec<u8>, NotDone> {
    codec::encode_answer(id, answer).map_err(|why| unreadable(&why))
}

/// A cause, for the field `ca`.
pub fn cause_text(cause: Cause) -> String {
    match cause {
        Cause::Status(status) => format!("status:{status}"),
        cause => cause.name().to_owned(),
    }
}

/// What an owner saw of its dispatch, for the field `tr`: three numbers, of which the first two may be missing.
pub fn sent_text(sent: &Sent) -> String {
    let written = sent.written_after.map(|span| span.as_millis().to_string());
    let status = sent.status.map(|status| status.to_string());
    let (written, status) = (written.unwrap_or_default(), status.unwrap_or_default());
    format!("{written},{status},{}", sent.bytes_seen)
}

/// What an op's script, or a look, answered about this record.
pub fn said(id: &RecordId, value: Value) -> Result<Said, NotDone> {
    let mut words = Words::of(value)?;
    let verdict = match words.text()?.as_str() {
        "acquired" => Verdict::Acquired {
            seen: words.seen()?,
            prior: words.rest(Words::unknown)?,
        },
        "held" => Verdict::Held {
            seen: words.seen()?,
        },
        "done" => Verdict::Done,
        "restored" => Verdict::Restored,
        "lost" => Verdict::Lost,
        "changed" => Verdict::Changed,
        "mismatch" => Verdict::Mismatch,
        "expired" => Verdict::Expired,
        "in_flight" => Verdict::InFlight {
            seen: words.seen()?,
            lease_left: words.span()?,
        },
        "unknown" => {
            let (seen, cause, since) = (words.seen()?, words.cause()?, words.time()?);
            Verdict::Unknown { seen, cause, since }
        }
        "completed" => Verdict::Completed(words.found(id)?),
        "absent" => return words.end(Said::Absent),
        "emptied" => return words.end(Said::NotTheStore(NotTheStore::Emptied)),
        "another" => return words.end(Said::NotTheStore(NotTheStore::Another)),
        "unreadable" => return Err(NotDone::Unreadable(words.text()?)),
        _ => return Err(strange()),
    };
    words.end(Said::Verdict(verdict))
}

/// A whole record, as the script that reads one answered.
pub fn record(id: &RecordId, value: Value) -> Result<Option<Record>, NotDone> {
    let mut words = Words::of(value)?;
    let state = words.text()?;
    match state.as_str() {
        "absent" => return words.end(None),
        "unreadable" => return Err(NotDone::Unreadable(words.text()?)),
        _ => {}
    }
    let (fingerprint, route) = (words.fingerprint()?, words.text()?);
    let origin: OriginPart =
        codec::decode_origin(id, &words.bytes()?).map_err(|why| unreadable(&why))?;
    // The fields that scripts compare stand beside the blob: what it says twice has to agree.
    if origin.fingerprint != fingerprint || *origin.route != *route {
        return Err(damaged());
    }
    if origin.rules > RULES {
        return Err(unreadable(&codec::Unreadable::Rules(origin.rules)));
    }
    let (expires_at, forget_at) = (words.time()?, words.time()?);
    let state = match state.as_str() {
        "claimed" => State::Claimed(Claimed {
            seen: words.seen()?,
            lease: words.span()?,
            lease_until: words.time()?,
            claimed_at: words.time_if_any()?,
            prior: words.rest(Words::unknown)?,
        }),
        "unknown" => State::Unknown(words.unknown()?),
        "completed" => State::Completed(Completed {
            owner: words.owner_if_any()?,
            completed_at: words.time()?,
            begun: words.begun()?,
            answer: words.answer(id)?,
        }),
        "expired" => State::Expired,
        _ => return Err(strange()),
    };
    words.end(Some(Record {
        fingerprint,
        rules: origin.rules,
        route: origin.route,
        reference: origin.reference,
        expires_at,
        forget_at,
        state,
    }))
}

/// A list of texts.
pub fn texts(value: Value) -> Result<Vec<String>, NotDone> {
    let mut words = Words::of(value)?;
    let mut texts = Vec::new();
    while !words.is_over() {
        texts.push(words.text()?);
    }
    Ok(texts)
}

/// The words of a reply, taken from the front.
struct Words(std::vec::IntoIter<Value>);

impl Words {
    fn of(value: Value) -> Result<Self, NotDone> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            _ => Err(strange()),
        }
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    /// `said`, provided that nothing is left.
    fn end<T>(self, said: T) -> Result<T, NotDone> {
        if self.is_over() {
            Ok(said)
        } else {
            Err(strange())
        }
    }

    /// What is made of the rest, where there is any.
    fn rest<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, NotDone>,
    ) -> Result<Option<T>, NotDone> {
        if self.is_over() {
            return Ok(None);
        }
        read(self).map(Some)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, NotDone> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            Some(Value::SimpleString(text)) => Ok(text.into_bytes()),
            _ => Err(strange()),
        }
    }

    fn text(&mut self) -> Result<String, NotDone> {
        String::from_utf8(self.bytes()?).map_err(|_| damaged())
    }

    fn number<T: FromStr>(&mut self) -> Result<T, NotDone> {
        self.text()?.parse().map_err(|_| damaged())
    }

    fn time(&mut self) -> Result<Timestamp, NotDone> {
        self.number().map(Timestamp)
    }

    fn time_if_any(&mut self) -> Result<Option<Timestamp>, NotDone> {
        Ok(number_if_any(&self.text()?)?.map(Timestamp))
    }

    fn span(&mut self) -> Result<Duration, NotDone> {
        self.number().map(Duration::from_millis)
    }

    fn owner_if_any(&mut self) -> Result<Option<Owner>, NotDone> {
        let digits = self.text()?;
        if digits.is_empty() {
            return Ok(None);
        }
        let owner = u128::from_str_radix(&digits, 16).map_err(|_| damaged())?;
        Ok(Some(Owner(owner)))
    }

    fn seen(&mut self) -> Result<Seen, NotDone> {
        Ok(Seen {
            owner: self.owner_if_any()?.ok_or_else(damaged)?,
            fence: self.number()?,
            beat: self.number()?,
        })
    }

    fn unknown(&mut self) -> Result<Unknown, NotDone> {
        Ok(Unknown {
            seen: self.seen()?,
            cause: self.cause()?,
            since: self.time()?,
            trace: Trace {
                claimed_at: self.time_if_any()?,
                sent: sent(&self.text()?)?,
            },
        })
    }

    fn cause(&mut self) -> Result<Cause, NotDone> {
        cause(&self.text()?)
    }

    fn begun(&mut self) -> Result<Begun, NotDone> {
        Ok(Begun {
            fence: number_if_any(&self.text()?)?,
            claimed_at: self.time_if_any()?,
        })
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, NotDone> {
        let bytes = self.bytes()?;
        bytes.try_into().map(Fingerprint).map_err(|_| damaged())
    }

    fn found(&mut self, id: &RecordId) -> Result<Found, NotDone> {
        let (fingerprint, owner) = (self.fingerprint()?, self.owner_if_any()?);
        let (completed_at, begun) = (self.time()?, self.begun()?);
        let expires_in = self.span()?;
        Ok(Found {
            fingerprint,
            completed: Completed {
                owner,
                answer: self.answer(id)?,
                completed_at,
                begun,
            },
            expires_in,
        })
    }

    fn answer(&mut self, id: &RecordId) -> Result<Answer, NotDone> {
        codec::decode_answer(id, &self.bytes()?).map_err(|why| unreadable(&why))
    }
}

fn cause(text: &str) -> Result<Cause, NotDone> {
    let plain = [
        Cause::LeaseLapsed,
        Cause::Timeout,
        Cause::ConnectionLost,
        Cause::Truncated,
        Cause::Drained,
    ];
    if let Some(cause) = plain.into_iter().find(|cause| cause.name() == text) {
        return Ok(cause);
    }
    let status = text.strip_prefix("status:").and_then(|s| s.parse().ok());
    status.map(Cause::Status).ok_or_else(damaged)
}

/// Nothing where an earlier version wrote it.
fn sent(text: &str) -> Result<Sent, NotDone> {
    if text.is_empty() {
        return Ok(Sent::default());
    }
    let mut numbers = text.splitn(3, ',');
    let mut next = || numbers.next().ok_or_else(damaged);
    Ok(Sent {
        written_after: number_if_any(next()?)?.map(Duration::from_millis),
        status: number_if_any(next()?)?,
        bytes_seen: next()?.parse().map_err(|_| damaged())?,
    })
}

fn number_if_any<T: FromStr>(digits: &str) -> Result<Option<T>, NotDone> {
    match digits {
        "" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| damaged()),
    }
}

fn unreadable(why: &codec::Unreadable) -> NotDone {
    NotDone::Unreadable(why.to_string())
}

fn damaged() -> NotDone {
    unreadable(&codec::Unreadable::Damaged)
}

/// The scripts are this program's own: another answer comes from something that is no such server.
pub fn strange() -> NotDone {
    NotDone::Unreadable("the store's answer is none that this program knows".to_owned())
}
