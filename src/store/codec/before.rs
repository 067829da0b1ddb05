//! Records as versions before this one wrote them, and what they are now.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::protocol::{
    Answer, Begun, Cause, Claimed, Completed, Fingerprint, Owner, Record, Seen, State, Timestamp,
    Trace, Unknown,
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

/// A record of format 2, which told nothing of the course of its attempts.
#[derive(Deserialize)]
pub struct Record2 {
    fingerprint: Fingerprint,
    rules: u16,
    route: Arc<str>,
    reference: Bytes,
    expires_at: Timestamp,
    forget_at: Timestamp,
    state: State2,
}

#[derive(Deserialize)]
enum State2 {
    Claimed(Claimed2),
    Unknown(Unknown2),
    Completed(Completed2),
    Expired,
}

#[derive(Deserialize)]
struct Claimed2 {
    seen: Seen,
    lease: Duration,
    lease_until: Timestamp,
    prior: Option<Unknown2>,
}

#[derive(Deserialize)]
struct Unknown2 {
    seen: Seen,
    cause: Cause,
    since: Timestamp,
}

#[derive(Deserialize)]
struct Completed2 {
    owner: Option<Owner>,
    answer: Answer,
    completed_at: Timestamp,
}

impl From<Record1> for Record {
    fn from(record: Record1) -> Self {
        Self {
            fingerprint: record.fingerprint,
            rules: record.rules,
            route: Arc::default(),
            reference: record.reference,
            expires_at: record.expires_at,
            forget_at: record.forget_at,
            state: record.state.into(),
        }
    }
}

impl From<Record2> for Record {
    fn from(record: Record2) -> Self {
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
                answer: completed.answer,
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
