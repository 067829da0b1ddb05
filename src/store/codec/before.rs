//! Records as versions before this one wrote them, and what they are now.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::{
    Answer, Begun, Cause, Claimed, Completed, Fingerprint, NotStored, Owner, Record, Response,
    Sealed, Seen, State, Timestamp, Trace, Unknown,
};

/// A record of format 1, which did not say its route.
#[derive(Deserialize)]
pub struct Record1 {
    fingerprint: Fingerprint,
    rules: u16,
    reference: Bytes,
    expires_at: Timestamp,
    forget_at: Timestamp,
    state: State2,
}

/// A record of a format since then, whose states were others.
#[derive(Deserialize)]
pub struct Routed<S> {
    fingerprint: Fingerprint,
    rules: u16,
    route: Arc<str>,
    reference: Bytes,
    expires_at: Timestamp,
    forget_at: Timestamp,
    state: S,
}

/// A record of format 2, which told nothing of the course of its attempts.
pub type Record2 = Routed<State2>;

/// A record of format 3, whose answers had neither trailers nor a trace.
pub type Record3 = Routed<State3>;

/// The states of formats 1 and 2.
#[derive(Deserialize)]
pub enum State2 {
    Claimed(Claimed2),
    Unknown(Unknown2),
    Completed(Completed2),
    Expired,
}

#[derive(Deserialize)]
pub struct Claimed2 {
    seen: Seen,
    lease: Duration,
    lease_until: Timestamp,
    prior: Option<Unknown2>,
}

#[derive(Deserialize)]
pub struct Unknown2 {
    seen: Seen,
    cause: Cause,
    since: Timestamp,
}

#[derive(Deserialize)]
pub struct Completed2 {
    owner: Option<Owner>,
    answer: Answer3<'static>,
    completed_at: Timestamp,
}

/// The states of format 3.
#[derive(Deserialize)]
pub enum State3 {
    Claimed(Claimed),
    Unknown(Unknown),
    Completed(Completed3),
    Expired,
}

#[derive(Deserialize)]
pub struct Completed3 {
    owner: Option<Owner>,
    answer: Answer3<'static>,
    completed_at: Timestamp,
    begun: Begun,
}

/// An answer of format 3 and those before it. Parts are still written so where there is nothing more to say: gateways
/// of the version before, which share the store while one takes the place of the other, go on reading them.
#[derive(Serialize, Deserialize)]
pub enum Answer3<'a> {
    Stored(Response3<'a>),
    NotStored(NotStored),
    Sealed(Sealed),
}

/// The same of a response.
#[derive(Serialize, Deserialize)]
pub struct Response3<'a> {
    status: u16,
    headers: Cow<'a, [(String, Bytes)]>,
    body: Bytes,
}

impl From<Record1> for Record {
    fn from(record: Record1) -> Self {
        Self::from(Routed {
            fingerprint: record.fingerprint,
            rules: record.rules,
            route: Arc::default(),
            reference: record.reference,
            expires_at: record.expires_at,
            forget_at: record.forget_at,
            state: record.state,
        })
    }
}

impl<S: Into<State>> From<Routed<S>> for Record {
    fn from(record: Routed<S>) -> Self {
        Self {
            fingerprint: record.fingerprint,
            rules: record.rules,
            route: record.route,
            reference: record.reference,
            expires_at: record.expires_at,
            forget_at: record.forget_at,
            state: record.state.into(),
        }
    }
}

impl From<State2> for State {
    fn from(state: State2) -> Self {
        match state {
            State2::Claimed(claim) => Self::Claimed(Claimed {
                seen: claim.seen,
                lease: claim.lease,
                lease_until: claim.lease_until,
                claimed_at: None,
                prior: claim.prior.map(Unknown::from),
            }),
            State2::Unknown(unknown) => Self::Unknown(unknown.into()),
            State2::Completed(completed) => Self::Completed(Completed {
                owner: completed.owner,
                answer: completed.answer.into(),
                completed_at: completed.completed_at,
                begun: Begun::default(),
            }),
            State2::Expired => Self::Expired,
        }
    }
}

impl From<Unknown2> for Unknown {
    fn from(unknown: Unknown2) -> Self {
        Self {
            seen: unknown.seen,
            cause: unknown.cause,
            since: unknown.since,
            trace: Trace::default(),
        }
    }
}

impl From<State3> for State {
    fn from(state: State3) -> Self {
        match state {
            State3::Claimed(claim) => Self::Claimed(claim),
            State3::Unknown(unknown) => Self::Unknown(unknown),
            State3::Completed(completed) => Self::Completed(Completed {
                owner: completed.owner,
                answer: completed.answer.into(),
                completed_at: completed.completed_at,
                begun: completed.begun,
            }),
            State3::Expired => Self::Expired,
        }
    }
}

impl From<Answer3<'_>> for Answer {
    fn from(answer: Answer3<'_>) -> Self {
        match answer {
            Answer3::Stored(response) => Self::Stored(Arc::new(response.into())),
            Answer3::NotStored(reason) => Self::NotStored(reason),
            Answer3::Sealed(sealed) => Self::Sealed(sealed),
        }
    }
}

impl From<Response3<'_>> for Response {
    fn from(response: Response3<'_>) -> Self {
        Self::new(
            response.status,
            response.headers.into_owned(),
            response.body,
        )
    }
}

impl<'a> Answer3<'a> {
    /// The answer so, unless there is more to say.
    pub fn of(answer: &'a Answer) -> Option<Self> {
        Some(match answer {
            Answer::Stored(response) => Self::Stored(Response3::of(response)?),
            Answer::NotStored(reason) => Self::NotStored(*reason),
            Answer::Sealed(sealed) => Self::Sealed(sealed.clone()),
        })
    }
}

impl<'a> Response3<'a> {
    /// The response so, unless there is more to say.
    pub fn of(response: &'a Response) -> Option<Self> {
        let Response {
            status,
            headers,
            body,
            trailers,
            trace,
        } = response;
        (trailers.is_empty() && trace.is_none()).then(|| Self {
            status: *status,
            headers: headers.into(),
            body: body.clone(),
        })
    }
}
