//! What the matrix is tried on: one record of each kind, and one op of each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::*;

pub const NOW: Timestamp = Timestamp(1_000_000_000);
pub const ME: Owner = Owner(1);
pub const OTHER: Owner = Owner(2);
pub const MINE: Fingerprint = Fingerprint([1; 32]);
pub const FOREIGN: Fingerprint = Fingerprint([2; 32]);
pub const LEASE: Duration = Duration::from_secs(15);
/// What is left of the lease of a claim that has not lapsed.
pub const LEFT: Duration = Duration::from_secs(5);
/// How long an op keeps the record from now; longer than what is left of the records it meets.
pub const KEEP: Duration = Duration::from_secs(3600);
pub const KEPT_LEFT: Duration = Duration::from_secs(60);
pub const TOMBSTONE: Duration = Duration::from_secs(600);
pub const EARLIER: Timestamp = Timestamp(NOW.0 - 1000);
/// When the claims were made that are there before.
pub const BEFORE: Timestamp = Timestamp(NOW.0 - 9000);
/// What my dispatch saw.
pub const SENT: Sent = Sent {
    written_after: Some(Duration::from_millis(5)),
    status: Some(200),
    bytes_seen: 17,
};
/// The course of an attempt that is unknown before.
pub const TRACE: Trace = Trace {
    claimed_at: Some(BEFORE),
    sent: Sent {
        written_after: Some(Duration::from_millis(7)),
        status: None,
        bytes_seen: 0,
    },
};
/// Of records that [`claim_of`] or [`unknown_of`] made, once they are completed.
pub const BEGUN: Begun = Begun {
    fence: Some(3),
    claimed_at: Some(BEFORE),
};
/// The fence that an op of the owner bears; another one than the record's, for *mine* is the same owner,
/// whatever the fence.
pub const MY_FENCE: u64 = 9;

pub fn claim() -> Op {
    Op::Claim {
        owner: ME,
        origin: origin(MINE),
        lease: LEASE,
        keep: KEEP,
    }
}

pub fn renew() -> Op {
    Op::Renew {
        owner: ME,
        origin: origin(MINE),
        fence: MY_FENCE,
        lease: LEASE,
        keep: KEEP,
    }
}

pub fn complete() -> Op {
    Op::Complete {
        owner: ME,
        origin: origin(MINE),
        answer: answer(201),
        retention: RETENTION,
    }
}

pub fn mark_unknown() -> Op {
    Op::MarkUnknown {
        owner: ME,
        origin: origin(MINE),
        fence: MY_FENCE,
        cause: Cause::Truncated,
        sent: SENT,
        keep: KEEP,
    }
}

pub fn take_over(seen: Seen) -> Op {
    Op::TakeOver {
        seen,
        owner: ME,
        lease: LEASE,
        keep: KEEP,
    }
}

pub fn resolve(seen: Seen, gone: bool) -> Op {
    let completed = Resolution::Completed {
        answer: answer(201),
        retention: RETENTION,
    };
    Op::Resolve {
        seen,
        verdict: if gone { Resolution::Gone } else { completed },
    }
}

pub const RETENTION: Retention = Retention {
    keep: KEEP,
    tombstone: TOMBSTONE,
};

pub fn ours(state: State) -> Option<Record> {
    Some(record(MINE, state))
}

pub fn theirs(state: State) -> Option<Record> {
    Some(record(FOREIGN, state))
}

pub fn expired(fingerprint: Fingerprint) -> Option<Record> {
    let mut record = record(fingerprint, done_by(Some(ME)));
    record.expires_at = NOW;
    record.forget_at = NOW.plus(TOMBSTONE);
    Some(record)
}

pub fn record(fingerprint: Fingerprint, state: State) -> Record {
    Record {
        fingerprint,
        rules: RULES,
        route: "create-payment".into(),
        reference: origin(fingerprint).reference,
        expires_at: NOW.plus(KEPT_LEFT),
        forget_at: NOW.plus(KEPT_LEFT),
        state,
    }
}

/// A record that was made, or kept for longer, by an op at this moment.
pub fn created(state: State) -> Record {
    Record {
        expires_at: NOW.plus(KEEP),
        forget_at: NOW.plus(KEEP),
        ..record(MINE, state)
    }
}

pub fn origin(fingerprint: Fingerprint) -> Origin {
    Origin {
        fingerprint,
        route: "create-payment".into(),
        reference: Bytes::from_static(b"sealed"),
    }
}

pub fn fresh(owner: Owner, fence: u64, prior: Option<Unknown>) -> State {
    State::Claimed(Claimed {
        seen: seen_at(owner, fence, 0),
        lease: LEASE,
        lease_until: NOW.plus(LEASE),
        claimed_at: Some(NOW),
        prior,
    })
}

/// A claim that a beat made anew: since when it was held is not known any more.
pub fn found_again(owner: Owner, fence: u64) -> State {
    State::Claimed(Claimed {
        seen: seen_at(owner, fence, 0),
        lease: LEASE,
        lease_until: NOW.plus(LEASE),
        claimed_at: None,
        prior: None,
    })
}

pub fn claim_of(owner: Owner, left: Duration, prior: Option<Unknown>) -> State {
    State::Claimed(Claimed {
        seen: seen(owner),
        lease: LEASE,
        lease_until: NOW.plus(left),
        claimed_at: Some(BEFORE),
        prior,
    })
}

pub fn lapsed(owner: Owner) -> State {
    claim_of(owner, Duration::ZERO, None)
}

pub fn unknown_of(owner: Owner) -> State {
    State::Unknown(Unknown {
        seen: seen(owner),
        cause: Cause::Timeout,
        since: EARLIER,
        trace: TRACE,
    })
}

/// The attempt before a claim that took over.
pub fn prior() -> Unknown {
    Unknown {
        seen: seen_at(OTHER, 2, 7),
        cause: Cause::ConnectionLost,
        since: EARLIER,
        trace: TRACE,
    }
}

pub fn done_by(owner: Option<Owner>) -> State {
    State::Completed(Completed {
        owner,
        answer: answer(200),
        completed_at: EARLIER,
        begun: BEGUN,
    })
}

pub fn done_now(owner: Option<Owner>, begun: Begun) -> State {
    State::Completed(Completed {
        owner,
        answer: answer(201),
        completed_at: NOW,
        begun,
    })
}

pub fn answer(status: u16) -> Answer {
    Answer::Stored(Arc::new(Response::new(
        status,
        vec![("content-type".to_owned(), Bytes::from_static(b"text/plain"))],
        Bytes::from_static(b"paid"),
    )))
}

pub fn seen(owner: Owner) -> Seen {
    seen_at(owner, 3, 2)
}

pub fn seen_at(owner: Owner, fence: u64, beat: u64) -> Seen {
    Seen { owner, fence, beat }
}

/// What differs from what is on record in one of the three.
pub fn not_quite(owner: Owner) -> [Seen; 3] {
    [
        seen_at(Owner(3), 3, 2),
        seen_at(owner, 2, 2),
        seen_at(owner, 3, 1),
    ]
}

pub fn acquired(owner: Owner, fence: u64, beat: u64, prior: Option<Unknown>) -> Verdict {
    Verdict::Acquired {
        seen: seen_at(owner, fence, beat),
        prior,
    }
}

pub fn told_lapsed(owner: Owner) -> Verdict {
    Verdict::Unknown {
        seen: seen(owner),
        cause: Cause::LeaseLapsed,
        since: NOW,
    }
}

pub fn told_unknown(owner: Owner) -> Verdict {
    Verdict::Unknown {
        seen: seen(owner),
        cause: Cause::Timeout,
        since: EARLIER,
    }
}

pub fn found(fingerprint: Fingerprint, owner: Option<Owner>) -> Verdict {
    let State::Completed(completed) = done_by(owner) else {
        unreachable!("it was made one line above");
    };
    Verdict::Completed(Found {
        fingerprint,
        completed,
        expires_in: KEPT_LEFT,
    })
}
