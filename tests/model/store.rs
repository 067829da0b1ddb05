//! The store: the real [`apply`], and what is taken out around it to show what it is there for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncegate::protocol::{
    Answer, Begun, Cause, Fingerprint, Op, Origin, Owner, Record, Resolution, Response, Retention,
    Sent, State, Timestamp, Trace, Verdict, apply, look,
};

use crate::world::{Call, Word, World};

/// The lease of every claim. An op is applied at time zero, or at the end of the lease where it has lapsed.
const LEASE: Duration = Duration::from_millis(1);
/// Longer than the model runs: all promises are about one retention.
const KEEP: Duration = Duration::from_secs(3600);

/// A rule that can be taken out: of the protocol by what is done around the real `apply`, of the gateway by a
/// step that it would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// `Complete` compares the fingerprint.
    FingerprintInComplete,
    /// `Complete` counts whoever owns the record.
    CompleteOfAnyOwner,
    /// `Resolve` compares `seen`.
    SeenInResolve,
    /// `TakeOver` of a silent claim makes that claim the prior.
    PriorOfSilentClaim,
    /// `Release` restores the prior attempt.
    PriorOnRelease,
    /// Marks turn late calls away.
    Marks,
    /// There is one mark for each owner, not one for each record.
    MarkForEachOwner,
    /// `Resolve` to gone marks the owner.
    MarkOnGone,
    /// A resolved record has no owner.
    NoOwnerOnResolved,
    /// The gateway releases a claim whose call ended without a verdict.
    DoubtIsSettled,
    /// The gateway takes a claim for doubtful while a copy of it is unanswered.
    CopyIsDoubt,
    /// The gateway says `none` only after the store has answered `Release`.
    NoneAfterVerdict,
    /// An attempt that had written, or has a prior, does not say `none` when it reads no record.
    StainedNeverSaysNone,
}

/// Applies one call.
pub fn ask(world: &mut World, call: Call, fingerprints: &[u8], removed: Option<Guard>) -> Verdict {
    let mut op = op(call, fingerprints);
    let owner = op.owner().map(index);
    let mut marked = owner.is_some_and(|owner| world.marks[owner]);
    let mut record = world.record.take();
    let before = record.as_ref().and_then(Record::seen);
    let prior = record.as_ref().and_then(prior);
    if let Some(guard) = removed {
        blind(guard, &mut record, &mut marked, &mut op);
    }
    let silent = matches!(
        &record,
        Some(Record {
            state: State::Claimed(_),
            ..
        })
    );
    let (mut record, mut mark, verdict) = if stranger_completes(removed, &record, &op) {
        (record, None, Verdict::Lost)
    } else {
        apply(record, marked, op, now(world))
    };
    match removed {
        Some(Guard::PriorOfSilentClaim) if silent && matches!(call, Call::TakeOver(..)) => {
            drop_prior(&mut record);
        }
        Some(Guard::NoOwnerOnResolved) => sign_resolved(call, &verdict, &mut record),
        Some(Guard::MarkOnGone) if matches!(call, Call::Resolve(..)) => mark = None,
        Some(Guard::MarkForEachOwner) if mark.is_some() => world.marks.fill(false),
        _ => {}
    }
    if let Some(mark) = mark {
        world.marks[index(mark.owner)] = true;
    }
    if let (Call::Resolve(seen, Word::Gone), Verdict::Done) = (call, &verdict) {
        world.gone[index(seen.owner)] = true;
        if let Some(prior) = prior {
            world.prior_gone[prior] = true;
        }
    }
    world.lapsed &= record.as_ref().and_then(Record::seen) == before;
    world.record = record.map(rebased);
    world.lapsed &= matches!(
        world.record,
        Some(Record {
            state: State::Claimed(_),
            ..
        })
    );
    if matches!(verdict, Verdict::Acquired { .. }) {
        world.secure();
    }
    verdict
}

/// An operator deletes the record: whoever owns it is marked, as by `Resolve` to gone.
pub fn delete(world: &mut World) {
    let owner = world.record.take().and_then(|record| match record.state {
        State::Claimed(claim) => Some(claim.seen.owner),
        State::Unknown(unknown) => Some(unknown.seen.owner),
        State::Completed(completed) => completed.owner,
        State::Expired => None,
    });
    if let Some(owner) = owner {
        world.marks[index(owner)] = true;
    }
    world.lapsed = false;
}

/// The store goes back to what is safe, or is empty where nothing is.
pub fn lose(world: &mut World) {
    let nothing = || (None, vec![false; world.marks.len()]);
    (world.record, world.marks) = world.safe.as_deref().cloned().unwrap_or_else(nothing);
    world.lapsed = false;
}

/// What the record says to this attempt's client.
pub fn reread(world: &World, attempt: usize, fingerprints: &[u8]) -> Option<Verdict> {
    let fingerprint = fingerprint(fingerprints[attempt]);
    look(world.record.as_ref(), &fingerprint, now(world))
}

/// The index of an owner's attempt.
pub fn index(owner: Owner) -> usize {
    usize::try_from(owner.0).expect("owners are small numbers here") - 1
}

/// The status that tells the answer to this attempt from every other.
pub fn status_of(attempt: usize) -> u16 {
    201 + u16::try_from(attempt).expect("there are few attempts")
}

/// What the answer of this status is an answer to.
pub fn asked_for(status: u16, fingerprints: &[u8]) -> u8 {
    match status.checked_sub(OPERATORS_STATUS) {
        Some(fingerprint) => u8::try_from(fingerprint).expect("fingerprints are small numbers"),
        None => fingerprints[usize::from(status - 201)],
    }
}

/// Whether an answer of this status came from an operator or a probe.
pub fn is_settled_by_word(status: u16) -> bool {
    status >= OPERATORS_STATUS
}

/// An operator's answer bears this status plus the fingerprint of the attempt that it is about.
const OPERATORS_STATUS: u16 = 280;

fn blind(guard: Guard, record: &mut Option<Record>, marked: &mut bool, op: &mut Op) {
    match (guard, op, record) {
        (Guard::Marks, _, _) => *marked = false,
        (Guard::FingerprintInComplete, Op::Complete { origin, .. }, Some(record)) => {
            origin.fingerprint = record.fingerprint;
        }
        (Guard::SeenInResolve, Op::Resolve { seen, .. }, Some(record)) => {
            *seen = record.seen().unwrap_or(*seen);
        }
        (Guard::PriorOnRelease, Op::Release { .. }, record) => drop_prior(record),
        _ => {}
    }
}

/// The attempt before the one that has the claim.
fn prior(record: &Record) -> Option<usize> {
    match &record.state {
        State::Claimed(claim) => Some(index(claim.prior.as_ref()?.seen.owner)),
        _ => None,
    }
}

fn drop_prior(record: &mut Option<Record>) {
    if let Some(Record {
        state: State::Claimed(claim),
        ..
    }) = record
    {
        claim.prior = None;
    }
}

fn stranger_completes(removed: Option<Guard>, record: &Option<Record>, op: &Op) -> bool {
    let seen = record.as_ref().and_then(Record::seen);
    removed == Some(Guard::CompleteOfAnyOwner)
        && matches!(op, Op::Complete { owner, .. } if seen.is_some_and(|seen| seen.owner != *owner))
}

fn sign_resolved(call: Call, verdict: &Verdict, record: &mut Option<Record>) {
    if let (Call::Resolve(seen, Word::Completed), Verdict::Done, Some(record)) =
        (call, verdict, record)
        && let State::Completed(completed) = &mut record.state
    {
        completed.owner = Some(seen.owner);
    }
}

fn op(call: Call, fingerprints: &[u8]) -> Op {
    let owner_of = |attempt: usize| Owner(attempt as u128 + 1);
    let origin_of = |attempt: usize| Origin {
        fingerprint: fingerprint(fingerprints[attempt]),
        route: "create-payment".into(),
        reference: Bytes::new(),
    };
    match call {
        Call::Claim(attempt) => Op::Claim {
            owner: owner_of(attempt),
            origin: origin_of(attempt),
            lease: LEASE,
            keep: KEEP,
        },
        Call::TakeOver(attempt, seen) => Op::TakeOver {
            seen,
            owner: owner_of(attempt),
            lease: LEASE,
            keep: KEEP,
        },
        Call::Renew(attempt, fence) => Op::Renew {
            owner: owner_of(attempt),
            origin: origin_of(attempt),
            fence,
            lease: LEASE,
            keep: KEEP,
        },
        Call::Complete(attempt) => Op::Complete {
            owner: owner_of(attempt),
            origin: origin_of(attempt),
            answer: answer(status_of(attempt)),
            retention: RETENTION,
        },
        Call::MarkUnknown(attempt, fence) => Op::MarkUnknown {
            owner: owner_of(attempt),
            origin: origin_of(attempt),
            fence,
            cause: Cause::Timeout,
            sent: Sent::default(),
            keep: KEEP,
        },
        Call::Release(attempt) => Op::Release {
            owner: owner_of(attempt),
        },
        Call::Resolve(seen, word) => Op::Resolve {
            seen,
            verdict: match word {
                Word::Gone => Resolution::Gone,
                Word::Completed => Resolution::Completed {
                    answer: answer(OPERATORS_STATUS + u16::from(fingerprints[index(seen.owner)])),
                    retention: RETENTION,
                },
            },
        },
    }
}

const RETENTION: Retention = Retention {
    keep: KEEP,
    tombstone: Duration::ZERO,
};

fn fingerprint(number: u8) -> Fingerprint {
    Fingerprint([number; 32])
}

fn answer(status: u16) -> Answer {
    Answer::Stored(Arc::new(Response::new(status, Vec::new(), Bytes::new())))
}

fn now(world: &World) -> Timestamp {
    Timestamp(0).plus(if world.lapsed { LEASE } else { Duration::ZERO })
}

/// The same record as if everything in it had happened at time zero.
fn rebased(mut record: Record) -> Record {
    record.expires_at = Timestamp(0).plus(KEEP);
    record.forget_at = record.expires_at;
    match &mut record.state {
        State::Claimed(claim) => {
            claim.lease_until = Timestamp(0).plus(LEASE);
            claim.claimed_at = None;
            if let Some(prior) = &mut claim.prior {
                prior.since = Timestamp(0);
                prior.trace = Trace::default();
            }
        }
        State::Unknown(unknown) => {
            unknown.since = Timestamp(0);
            unknown.trace = Trace::default();
        }
        State::Completed(completed) => {
            completed.completed_at = Timestamp(0);
            completed.begun = Begun::default();
        }
        State::Expired => {}
    }
    record
}
