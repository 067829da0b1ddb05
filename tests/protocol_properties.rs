//! What holds of the protocol after any sequence of ops by any owners, however time goes on.
//!
//! The model (`tests/model`) knows how gateways behave and what clients are told; here ops come in any order
//! that no gateway would choose, records expire, and times are real. `PROPTEST_CASES` sets how many sequences
//! are tried, `PROPTEST_RNG_SEED` repeats a run; the seed is printed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncegate::protocol::{
    Answer, Cause, Fingerprint, Mark, Op, Origin, Owner, Record, Resolution, Response, Retention,
    Seen, Sent, State, Timestamp, Verdict, apply, look,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

/// Owners that ops may bear. Each asks for one thing all its life, as an attempt does.
const OWNERS: u128 = 5;
/// The owners from this one on ask for something else than those before.
const FIRST_FOREIGN: u128 = 4;
/// Sequences in each run, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 4000;
/// The most ops in one sequence.
const OPS: usize = 40;

#[test]
fn there_is_one_owner_at_a_time_and_the_fence_never_falls() {
    for_any_sequence(|step| {
        let (Some(before), Some(after)) = (&step.before, &step.after) else {
            return Ok(());
        };
        let (Some(before), Some(after)) = (before.seen(), after.seen()) else {
            return Ok(());
        };
        prop_assert!(after.fence >= before.fence);
        if after.owner != before.owner {
            // The claim changes hands by a higher fence, and comes back only by a release.
            let given_back = step.verdict == Verdict::Restored;
            prop_assert!(after.fence > before.fence || given_back);
            let acquired = matches!(step.verdict, Verdict::Acquired { .. });
            prop_assert!(given_back || acquired);
        } else {
            prop_assert!(after.beat >= before.beat || after.fence > before.fence);
        }
        Ok(())
    });
}

#[test]
fn who_acquires_is_the_owner_on_record_and_everybody_else_is_told_otherwise() {
    for_any_sequence(|step| {
        let owner = step.op.owner();
        if let Verdict::Acquired { seen, .. } | Verdict::Held { seen } = step.verdict {
            prop_assert_eq!(Some(seen.owner), owner);
            let claim = match step.after.as_ref().map(|record| &record.state) {
                Some(State::Claimed(claim)) => claim,
                other => return Err(TestCaseError::fail(format!("held: {other:?}"))),
            };
            prop_assert_eq!(claim.seen, seen);
        }
        Ok(())
    });
}

#[test]
fn a_completed_record_never_changes_until_it_expires() {
    for_any_sequence(|step| {
        if matches!(
            &step.before,
            Some(Record {
                state: State::Completed(_),
                ..
            })
        ) {
            prop_assert_eq!(&step.after, &step.before);
        }
        if matches!(
            &step.before,
            Some(Record {
                state: State::Expired,
                ..
            })
        ) {
            prop_assert_eq!(&step.after, &step.before);
        }
        Ok(())
    });
}

#[test]
fn another_payload_never_gets_an_answer_and_never_changes_the_record() {
    for_any_sequence(|step| {
        let Some(before) = &step.before else {
            return Ok(());
        };
        if let Some(after) = &step.after {
            prop_assert_eq!(before.fingerprint, after.fingerprint);
        }
        // Ops without a fingerprint of their own learn whose answer it is.
        if let Verdict::Completed(found) = &step.verdict {
            prop_assert_eq!(found.fingerprint, before.fingerprint);
        }
        let Some(asked) = fingerprint_in(&step.op) else {
            return Ok(());
        };
        if asked != before.fingerprint {
            let refused = match &step.verdict {
                Verdict::Mismatch | Verdict::Lost => true,
                Verdict::Completed(_) => matches!(step.op, Op::MarkUnknown { .. }),
                _ => false,
            };
            prop_assert!(refused, "{:?}", step.verdict);
            prop_assert_eq!(Some(before), step.after.as_ref());
            prop_assert_eq!(
                look(Some(before), &asked, step.now),
                Some(Verdict::Mismatch)
            );
        }
        Ok(())
    });
}

#[test]
fn a_repeated_op_is_harmless() {
    for_any_sequence(|step| {
        let marked = step.marked
            || step
                .mark
                .is_some_and(|mark| step.op.owner() == Some(mark.owner));
        let (again, mark, verdict) = apply(step.after.clone(), marked, step.op.clone(), step.now);
        if mark.is_some() {
            prop_assert_eq!(mark, step.mark);
        }
        if matches!(step.op, Op::Renew { .. }) && matches!(step.verdict, Verdict::Held { .. }) {
            // One beat more of the same owner.
            let held = matches!(verdict, Verdict::Held { .. });
            prop_assert!(held);
            prop_assert_eq!(without_beat(again), without_beat(step.after.clone()));
            return Ok(());
        }
        prop_assert_eq!(&again, &step.after);
        let as_before = verdict == step.verdict;
        let harmless = match (&step.op, &step.verdict) {
            // What was given back is not there to be given back again; what was settled is settled.
            (Op::Release { .. }, Verdict::Restored) => verdict == Verdict::Lost,
            (
                Op::Resolve {
                    verdict: Resolution::Gone,
                    ..
                },
                Verdict::Done,
            ) => verdict == Verdict::Changed,
            (
                Op::Resolve {
                    verdict: Resolution::Completed { answer, .. },
                    ..
                },
                Verdict::Done,
            ) => {
                matches!(&verdict, Verdict::Completed(found) if found.completed.answer == *answer)
            }
            _ => false,
        };
        prop_assert!(
            as_before || harmless,
            "{:?}, then {:?}",
            step.verdict,
            verdict
        );
        Ok(())
    });
}

#[test]
fn a_release_always_leaves_a_mark_and_a_marked_owner_never_acquires() {
    for_any_sequence(|step| {
        match &step.op {
            Op::Release { owner } => {
                prop_assert_eq!(step.mark.map(|mark| mark.owner), Some(*owner));
            }
            Op::Resolve {
                seen,
                verdict: Resolution::Gone,
            } if step.verdict == Verdict::Done => {
                prop_assert_eq!(step.mark.map(|mark| mark.owner), Some(seen.owner));
            }
            _ => prop_assert_eq!(step.mark, None),
        }
        if step.marked {
            let holds = matches!(
                step.verdict,
                Verdict::Acquired { .. } | Verdict::Held { .. }
            );
            prop_assert!(!holds);
            let turned_away = !matches!(step.op, Op::Complete { .. } | Op::Release { .. });
            prop_assert!(!turned_away || step.verdict == Verdict::Lost);
            prop_assert!(!turned_away || step.after == step.before);
        }
        Ok(())
    });
}

#[test]
fn a_resolved_record_has_no_owner_and_a_completed_one_has_the_one_who_completed_it() {
    for_any_sequence(|step| {
        let (
            Verdict::Done,
            Some(Record {
                state: State::Completed(completed),
                ..
            }),
        ) = (&step.verdict, &step.after)
        else {
            return Ok(());
        };
        // Nobody for an operator's or a probe's word.
        prop_assert_eq!(completed.owner, step.op.owner());
        Ok(())
    });
}

#[test]
fn an_attempt_that_may_have_been_sent_is_never_forgotten_but_by_a_word_about_it() {
    for_any_sequence(|step| {
        let pending = match step.before.as_ref().map(|record| &record.state) {
            Some(State::Unknown(unknown)) => unknown.seen,
            Some(State::Claimed(claim)) => match &claim.prior {
                Some(_) => claim.seen,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        if step.after.is_none() {
            let word = matches!(
                &step.op,
                Op::Resolve { seen, verdict: Resolution::Gone } if *seen == pending
            );
            prop_assert!(word);
        }
        if let Some(Record {
            state: State::Claimed(claim),
            ..
        }) = &step.after
        {
            prop_assert!(claim.prior.is_some());
        }
        Ok(())
    });
}

#[test]
fn an_op_that_compares_seen_changes_nothing_unless_all_three_match() {
    for_any_sequence(|step| {
        if let Op::TakeOver { seen, .. } | Op::Resolve { seen, .. } = &step.op
            && step.before.as_ref().and_then(Record::seen) != Some(*seen)
        {
            prop_assert_eq!(&step.after, &step.before);
            prop_assert_eq!(step.mark, None);
        }
        Ok(())
    });
}

#[test]
fn an_op_that_speaks_for_its_own_claim_changes_nobody_elses() {
    for_any_sequence(|step| {
        let Some(before) = &step.before else {
            return Ok(());
        };
        let speaks_for_itself = matches!(
            step.op,
            Op::Claim { .. } | Op::Renew { .. } | Op::MarkUnknown { .. } | Op::Release { .. }
        );
        if speaks_for_itself && before.seen().map(|seen| seen.owner) != step.op.owner() {
            prop_assert_eq!(step.after.as_ref(), Some(before));
        }
        Ok(())
    });
}

#[test]
fn nobody_settles_a_claim_that_is_alive() {
    for_any_sequence(|step| {
        if let (Op::Resolve { .. }, Some(before)) = (&step.op, &step.before)
            && let State::Claimed(claim) = &before.state
            && !claim.lapsed(step.now)
        {
            prop_assert_eq!(step.after.as_ref(), Some(before));
            prop_assert_eq!(&step.verdict, &Verdict::Changed);
        }
        Ok(())
    });
}

/// One op and what came of it. `before` and `after` are the record as it reads at `now`.
struct Step {
    before: Option<Record>,
    marked: bool,
    op: Op,
    now: Timestamp,
    after: Option<Record>,
    mark: Option<Mark>,
    verdict: Verdict,
}

/// Applies sequences of ops, and asks the question after each op.
fn for_any_sequence(holds: impl Fn(&Step) -> TestCaseResult) {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => std::hash::BuildHasher::hash_one(
            &std::collections::hash_map::RandomState::new(),
            "a new seed for each run",
        ),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    println!("PROPTEST_RNG_SEED={seed}");
    let sequences = prop::collection::vec((drafts(), 0..WAITS_MS.len()), 1..OPS);
    let outcome = TestRunner::new(config).run(&sequences, |sequence| {
        let mut record = None;
        let mut marks: Vec<Mark> = Vec::new();
        let mut seen_before = Vec::new();
        let mut now = Timestamp(1_000_000);
        for (draft, wait) in sequence {
            now = now.plus(Duration::from_millis(WAITS_MS[wait]));
            let op = draft.op(&seen_before);
            let step = applied(record, &marks, op, now);
            seen_before.extend(step.after.as_ref().and_then(Record::seen));
            marks.extend(step.mark);
            holds(&step)?;
            record = step.after;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("PROPTEST_RNG_SEED={seed}: {error}");
    }
}

/// How long time goes on between two ops: often not at all, sometimes past a lease, seldom past a retention.
const WAITS_MS: [u64; 8] = [0, 0, 1, 1, 400, 1_000, 1_000, 20_000];

fn applied(record: Option<Record>, marks: &[Mark], op: Op, now: Timestamp) -> Step {
    let before = record.and_then(|record| record.at(now));
    let stands = |mark: &Mark| Some(mark.owner) == op.owner() && now < mark.until;
    let marked = marks.iter().any(stands);
    let (after, mark, verdict) = apply(before.clone(), marked, op.clone(), now);
    Step {
        before,
        marked,
        op,
        now,
        after,
        mark,
        verdict,
    }
}

/// An op whose `seen` is not chosen yet.
#[derive(Clone, Debug)]
struct Draft {
    kind: u8,
    owner: Owner,
    /// Which of those `seen` so far, counted from the latest; past the first: none of them.
    seen: usize,
    fence: u64,
    tombstone: bool,
}

fn drafts() -> impl Strategy<Value = Draft> {
    (0..9_u8, 1..=OWNERS, 0..4_usize, 1..4_u64, any::<bool>()).prop_map(
        |(kind, owner, seen, fence, tombstone)| Draft {
            kind,
            owner: Owner(owner),
            seen,
            fence,
            tombstone,
        },
    )
}

impl Draft {
    fn op(&self, seen_before: &[Seen]) -> Op {
        let Self { owner, fence, .. } = *self;
        let lease = Duration::from_secs(1);
        let keep = Duration::from_secs(10);
        let retention = Retention {
            keep,
            tombstone: if self.tombstone { keep } else { Duration::ZERO },
        };
        let origin = Origin {
            fingerprint: fingerprint_of(owner),
            route: "create-payment".into(),
            reference: Bytes::from_static(b"sealed"),
        };
        let answer = answer_of(owner);
        match self.kind {
            0 | 1 => Op::Claim {
                owner,
                origin,
                lease,
                keep,
            },
            2 => Op::Renew {
                owner,
                origin,
                fence,
                lease,
                keep,
            },
            3 => Op::Complete {
                owner,
                origin,
                answer,
                retention,
            },
            4 => Op::MarkUnknown {
                owner,
                origin,
                fence,
                cause: Cause::Timeout,
                sent: Sent::default(),
                keep,
            },
            5 => Op::Release { owner },
            6 => {
                let seen = self.seen(seen_before);
                Op::TakeOver {
                    seen,
                    owner: taker(owner, seen),
                    lease,
                    keep,
                }
            }
            kind => Op::Resolve {
                seen: self.seen(seen_before),
                verdict: if kind == 7 {
                    Resolution::Gone
                } else {
                    Resolution::Completed { answer, retention }
                },
            },
        }
    }

    fn seen(&self, seen_before: &[Seen]) -> Seen {
        let place = seen_before.len().checked_sub(self.seen + 1);
        place.map_or(
            Seen {
                owner: self.owner,
                fence: self.fence,
                beat: 0,
            },
            |place| seen_before[place],
        )
    }
}

fn fingerprint_of(owner: Owner) -> Fingerprint {
    Fingerprint([u8::from(owner.0 >= FIRST_FOREIGN); 32])
}

/// Who takes over was told of another attempt that asks for the same.
fn taker(owner: Owner, seen: Seen) -> Owner {
    let (first, count) = if seen.owner.0 >= FIRST_FOREIGN {
        (FIRST_FOREIGN, OWNERS - FIRST_FOREIGN + 1)
    } else {
        (1, FIRST_FOREIGN - 1)
    };
    let taker = first + owner.0 % count;
    if taker == seen.owner.0 {
        Owner(first + (owner.0 + 1) % count)
    } else {
        Owner(taker)
    }
}

fn fingerprint_in(op: &Op) -> Option<Fingerprint> {
    match op {
        Op::Claim { origin, .. }
        | Op::Renew { origin, .. }
        | Op::Complete { origin, .. }
        | Op::MarkUnknown { origin, .. } => Some(origin.fingerprint),
        Op::Release { .. } | Op::TakeOver { .. } | Op::Resolve { .. } => None,
    }
}

fn answer_of(owner: Owner) -> Answer {
    Answer::Stored(Arc::new(Response::new(
        200,
        Vec::new(),
        Bytes::from(owner.0.to_string()),
    )))
}

/// The record as if its owner had not beaten.
fn without_beat(record: Option<Record>) -> Option<Record> {
    record.map(|mut record| {
        if let State::Claimed(claim) = &mut record.state {
            claim.seen.beat = 0;
        }
        record
    })
}
