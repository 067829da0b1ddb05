//! The only definition of every transition.
//!
//! Each op is one function whose arms are the columns of the matrix: absent, claimed, unknown, completed,
//! expired. Every rule that looks fussy stands for a trace that executes twice, or that holds a key for nothing.

use std::sync::Arc;
use std::time::Duration;

use super::op::{Found, Op, Origin, Resolution, Retention, Verdict};
use super::record::{
    Answer, Begun, Cause, Claimed, Completed, Fingerprint, MARK_KEEP, Mark, Owner, RULES, Record,
    Seen, Sent, State, Trace, Unknown,
};
use super::time::Timestamp;

/// Applies one op to what is stored under a record id.
///
/// - `record`: what the store holds, `None` where it holds nothing;
/// - `marked`: whether a mark of the op's owner ([`Op::owner`]) stands beside the record;
/// - `now`: the store's clock.
///
/// Returns what the store holds afterwards, the mark that it must set (if any), and the answer. A record past
/// its retention reads as what [`Record::at`] says.
#[must_use]
pub fn apply(
    record: Option<Record>,
    marked: bool,
    op: Op,
    now: Timestamp,
) -> (Option<Record>, Option<Mark>, Verdict) {
    let record = record.and_then(|record| record.at(now));
    match op {
        // An owner that has given up was told so, or told its client so. A copy of its call that arrives
        // only now must not bring the claim back to life: nobody would dispatch it, and nobody release it.
        Op::Claim { .. } | Op::Renew { .. } | Op::MarkUnknown { .. } | Op::TakeOver { .. }
            if marked =>
        {
            (record, None, Verdict::Lost)
        }
        Op::Claim {
            owner,
            origin,
            lease,
            keep,
        } => unmarked(claim(record, owner, &origin, lease, keep, now)),
        Op::Renew {
            owner,
            origin,
            fence,
            lease,
            keep,
        } => unmarked(renew(record, owner, &origin, fence, lease, keep, now)),
        Op::Complete {
            owner,
            origin,
            answer,
            retention,
        } => unmarked(complete(record, owner, &origin, answer, retention, now)),
        Op::MarkUnknown {
            owner,
            origin,
            fence,
            cause,
            sent,
            keep,
        } => unmarked(mark_unknown(
            record,
            owner,
            &origin,
            fence,
            (cause, sent),
            keep,
            now,
        )),
        Op::Release { owner } => {
            let (record, verdict) = release(record, owner);
            (record, Some(mark(owner, now)), verdict)
        }
        Op::TakeOver {
            seen,
            owner,
            lease,
            keep,
        } => unmarked(take_over(record, seen, owner, lease, keep, now)),
        Op::Resolve { seen, verdict } => resolve(record, seen, verdict, now),
    }
}

/// What a client with this fingerprint is told of the record, without asking for anything: the verdict that a
/// stranger's claim would get. `None` where there is no record.
#[must_use]
pub fn look(record: Option<&Record>, fingerprint: &Fingerprint, now: Timestamp) -> Option<Verdict> {
    let record = record?.clone().at(now)?;
    if record.fingerprint != *fingerprint {
        return Some(Verdict::Mismatch);
    }
    Some(match record.state {
        State::Claimed(claim) if claim.lapsed(now) => told_unknown(&claim.as_lapsed()),
        State::Claimed(claim) => Verdict::InFlight {
            seen: claim.seen,
            lease_left: claim.lease_until.since(now),
        },
        State::Unknown(unknown) => told_unknown(&unknown),
        State::Completed(completed) => found(record.fingerprint, completed, record.expires_at, now),
        State::Expired => Verdict::Expired,
    })
}

type Transition = (Option<Record>, Verdict);

fn unmarked((record, verdict): Transition) -> (Option<Record>, Option<Mark>, Verdict) {
    (record, None, verdict)
}

fn claim(
    record: Option<Record>,
    owner: Owner,
    origin: &Origin,
    lease: Duration,
    keep: Duration,
    now: Timestamp,
) -> Transition {
    if let Some(mine) = record.as_ref().and_then(|record| claimed_by(record, owner)) {
        // The call was repeated on its way: the first copy was the claim.
        let verdict = acquired(mine);
        return (record, verdict);
    }
    if let Some(verdict) = look(record.as_ref(), &origin.fingerprint, now) {
        return (record, verdict);
    }
    let claim = Claimed {
        claimed_at: Some(now),
        ..fresh(owner, 1, lease, None, now)
    };
    let verdict = acquired(&claim);
    (
        Some(created(origin, State::Claimed(claim), keep, now)),
        verdict,
    )
}

fn renew(
    record: Option<Record>,
    owner: Owner,
    origin: &Origin,
    fence: u64,
    lease: Duration,
    keep: Duration,
    now: Timestamp,
) -> Transition {
    let Some(mut record) = record else {
        // The store has lost it, and the owner is still dispatching: without a record a duplicate would, too.
        let claim = fresh(owner, fence, lease, None, now);
        let seen = claim.seen;
        let record = created(origin, State::Claimed(claim), keep, now);
        return (Some(record), Verdict::Held { seen });
    };
    match &mut record.state {
        State::Claimed(claim) if claim.seen.owner == owner => {
            claim.seen.beat += 1;
            claim.lease = lease;
            claim.lease_until = now.plus(lease);
            let seen = claim.seen;
            kept_for(&mut record, keep, now);
            (Some(record), Verdict::Held { seen })
        }
        _ => (Some(record), Verdict::Lost),
    }
}

fn complete(
    record: Option<Record>,
    owner: Owner,
    origin: &Origin,
    answer: Answer,
    retention: Retention,
    now: Timestamp,
) -> Transition {
    let verdict = match record.as_ref().map(|record| &record.state) {
        None => Verdict::Done,
        // A truth in hand is never thrown away: whoever owns the record by now, and whether or not this owner
        // has given up, the answer to this very request is its outcome.
        Some(State::Claimed(_) | State::Unknown(_))
            if record
                .as_ref()
                .is_some_and(|record| record.fingerprint == origin.fingerprint) =>
        {
            Verdict::Done
        }
        Some(State::Completed(completed)) if completed.owner == Some(owner) => {
            return (record, Verdict::Done);
        }
        Some(_) => return (record, Verdict::Lost),
    };
    // A record keeps what it was made of.
    let begun = begun(record.as_ref());
    let origin = record.map_or_else(|| origin.clone(), Record::into_origin);
    let record = completed(&origin, Some(owner), begun, answer, retention, now);
    (Some(record), verdict)
}

fn mark_unknown(
    record: Option<Record>,
    owner: Owner,
    origin: &Origin,
    fence: u64,
    (cause, sent): (Cause, Sent),
    keep: Duration,
    now: Timestamp,
) -> Transition {
    let Some(mut record) = record else {
        let seen = Seen {
            owner,
            fence,
            beat: 0,
        };
        let unknown = Unknown {
            seen,
            cause,
            since: now,
            trace: Trace {
                claimed_at: None,
                sent,
            },
        };
        let record = created(origin, State::Unknown(unknown), keep, now);
        return (Some(record), Verdict::Done);
    };
    match &record.state {
        State::Claimed(claim) if claim.seen.owner == owner => {
            record.state = State::Unknown(Unknown {
                seen: claim.seen,
                cause,
                since: now,
                trace: Trace {
                    claimed_at: claim.claimed_at,
                    sent,
                },
            });
            kept_for(&mut record, keep, now);
            (Some(record), Verdict::Done)
        }
        State::Unknown(unknown) if unknown.seen.owner == owner => (Some(record), Verdict::Done),
        State::Completed(completed) => {
            let verdict = found(
                record.fingerprint,
                completed.clone(),
                record.expires_at,
                now,
            );
            (Some(record), verdict)
        }
        State::Claimed(_) | State::Unknown(_) | State::Expired => (Some(record), Verdict::Lost),
    }
}

fn release(record: Option<Record>, owner: Owner) -> Transition {
    let Some(mut record) = record else {
        return (None, Verdict::Done);
    };
    match &record.state {
        State::Claimed(claim) if claim.seen.owner == owner => match &claim.prior {
            None => (None, Verdict::Done),
            Some(prior) => {
                // The attempt before may have executed. With its old fence the same `seen` would come back,
                // and a delayed take-over that compared it would match again.
                let mut prior = prior.clone();
                prior.seen.fence = claim.seen.fence;
                record.state = State::Unknown(prior);
                (Some(record), Verdict::Restored)
            }
        },
        _ => (Some(record), Verdict::Lost),
    }
}

fn take_over(
    record: Option<Record>,
    seen: Seen,
    owner: Owner,
    lease: Duration,
    keep: Duration,
    now: Timestamp,
) -> Transition {
    let Some(mut record) = record else {
        return (None, Verdict::Changed);
    };
    let prior = match &record.state {
        State::Claimed(claim) if claim.seen.owner == owner => {
            let verdict = acquired(claim);
            return (Some(record), verdict);
        }
        State::Claimed(claim) if claim.seen == seen => claim.as_lapsed(),
        State::Unknown(unknown) if unknown.seen == seen => unknown.clone(),
        State::Claimed(_) | State::Unknown(_) => return (Some(record), Verdict::Changed),
        State::Completed(completed) => {
            let verdict = found(
                record.fingerprint,
                completed.clone(),
                record.expires_at,
                now,
            );
            return (Some(record), verdict);
        }
        State::Expired => return (Some(record), Verdict::Expired),
    };
    let claim = Claimed {
        claimed_at: Some(now),
        ..fresh(owner, seen.fence + 1, lease, Some(prior), now)
    };
    let verdict = acquired(&claim);
    record.state = State::Claimed(claim);
    kept_for(&mut record, keep, now);
    (Some(record), verdict)
}

fn resolve(
    record: Option<Record>,
    seen: Seen,
    resolution: Resolution,
    now: Timestamp,
) -> (Option<Record>, Option<Mark>, Verdict) {
    let Some(record) = record else {
        return (None, None, Verdict::Changed);
    };
    match &record.state {
        State::Claimed(claim) if claim.seen == seen && claim.lapsed(now) => {}
        State::Unknown(unknown) if unknown.seen == seen => {}
        State::Claimed(_) | State::Unknown(_) => return (Some(record), None, Verdict::Changed),
        State::Completed(completed) => {
            let verdict = found(
                record.fingerprint,
                completed.clone(),
                record.expires_at,
                now,
            );
            return (Some(record), None, verdict);
        }
        State::Expired => return (Some(record), None, Verdict::Expired),
    }
    match resolution {
        // Without an owner: the former one's own answer may be on its way into the store, and must not read
        // as a repetition of this.
        Resolution::Completed { answer, retention } => {
            let begun = begun(Some(&record));
            let origin = record.into_origin();
            let record = completed(&origin, None, begun, answer, retention, now);
            (Some(record), None, Verdict::Done)
        }
        // The mark turns away a renewal or a declaration of the former owner that is still on its way: it
        // would bring the record back.
        Resolution::Gone => (None, Some(mark(seen.owner, now)), Verdict::Done),
    }
}

fn claimed_by(record: &Record, owner: Owner) -> Option<&Claimed> {
    match &record.state {
        State::Claimed(claim) if claim.seen.owner == owner => Some(claim),
        _ => None,
    }
}

fn fresh(
    owner: Owner,
    fence: u64,
    lease: Duration,
    prior: Option<Unknown>,
    now: Timestamp,
) -> Claimed {
    Claimed {
        seen: Seen {
            owner,
            fence,
            beat: 0,
        },
        lease,
        lease_until: now.plus(lease),
        claimed_at: None,
        prior,
    }
}

/// What a record that is completed now says of its last claim.
fn begun(record: Option<&Record>) -> Begun {
    match record.map(|record| &record.state) {
        Some(State::Claimed(claim)) => Begun {
            fence: Some(claim.seen.fence),
            claimed_at: claim.claimed_at,
        },
        Some(State::Unknown(unknown)) => Begun {
            fence: Some(unknown.seen.fence),
            claimed_at: unknown.trace.claimed_at,
        },
        Some(State::Completed(_) | State::Expired) | None => Begun::default(),
    }
}

fn created(origin: &Origin, state: State, keep: Duration, now: Timestamp) -> Record {
    let mut record = Record {
        fingerprint: origin.fingerprint,
        rules: RULES,
        route: Arc::clone(&origin.route),
        reference: origin.reference.clone(),
        expires_at: now,
        forget_at: now,
        state,
    };
    kept_for(&mut record, keep, now);
    record
}

fn completed(
    origin: &Origin,
    owner: Option<Owner>,
    begun: Begun,
    answer: Answer,
    retention: Retention,
    now: Timestamp,
) -> Record {
    let state = State::Completed(Completed {
        owner,
        answer,
        completed_at: now,
        begun,
    });
    let mut record = created(origin, state, retention.keep, now);
    record.forget_at = record.expires_at.plus(retention.tombstone);
    record
}

/// Extends the record's life; never shortens it.
fn kept_for(record: &mut Record, keep: Duration, now: Timestamp) {
    record.expires_at = record.expires_at.max(now.plus(keep));
    record.forget_at = record.forget_at.max(record.expires_at);
}

fn mark(owner: Owner, now: Timestamp) -> Mark {
    Mark {
        owner,
        until: now.plus(MARK_KEEP),
    }
}

fn acquired(claim: &Claimed) -> Verdict {
    Verdict::Acquired {
        seen: claim.seen,
        prior: claim.prior.clone(),
    }
}

fn told_unknown(unknown: &Unknown) -> Verdict {
    Verdict::Unknown {
        seen: unknown.seen,
        cause: unknown.cause,
        since: unknown.since,
    }
}

fn found(
    fingerprint: Fingerprint,
    completed: Completed,
    expires_at: Timestamp,
    now: Timestamp,
) -> Verdict {
    Verdict::Completed(Found {
        fingerprint,
        completed,
        expires_in: expires_at.since(now),
    })
}
