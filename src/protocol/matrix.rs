//! Every cell of the matrix, spelt out: seven ops by five states.

pub mod samples;

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use samples::*;

struct Cell {
    case: &'static str,
    before: Option<Record>,
    op: Op,
    after: After,
    mark: Option<Owner>,
    verdict: Verdict,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a table reads better without boxes"
)]
enum After {
    AsItReads,
    Absent,
    Is(Record),
}

#[test]
fn every_cell_is_as_the_matrix_says() {
    let mut covered = BTreeSet::new();
    for cell in cells() {
        covered.insert((cell.op.name(), column(cell.before.as_ref())));
        let read = cell.before.clone().and_then(|record| record.at(NOW));
        let after = match cell.after {
            After::AsItReads => read.clone(),
            After::Absent => None,
            After::Is(record) => Some(record),
        };
        let mark = cell.mark.map(|owner| Mark {
            owner,
            until: NOW.plus(MARK_KEEP),
        });
        let expected = (after, mark, cell.verdict);
        let name = format!("{} on {}", cell.op.name(), cell.case);
        let unmarked = apply(cell.before.clone(), false, cell.op.clone(), NOW);
        assert_eq!(unmarked, expected, "{name}");

        let expected = match &cell.op {
            Op::Claim { .. } | Op::Renew { .. } | Op::MarkUnknown { .. } | Op::TakeOver { .. } => {
                (read, None, Verdict::Lost)
            }
            Op::Complete { .. } | Op::Release { .. } | Op::Resolve { .. } => expected,
        };
        let marked = apply(cell.before, true, cell.op, NOW);
        assert_eq!(marked, expected, "{name}, marked");
    }
    assert_eq!(covered.len(), 7 * 5, "{covered:?}");
}

#[test]
fn a_record_past_its_retention_reads_as_absent_and_is_claimed_anew_from_fence_one() {
    for state in [
        claim_of(OTHER, LEFT, None),
        unknown_of(OTHER),
        done_by(None),
    ] {
        let mut old = record(MINE, state);
        old.expires_at = NOW;
        old.forget_at = NOW;
        assert_eq!(look(Some(&old), &MINE, NOW), None);
        let (after, mark, verdict) = apply(Some(old), false, claim(), NOW);
        assert_eq!(after, Some(created(fresh(ME, 1, None))));
        assert_eq!((mark, verdict), (None, acquired(ME, 1, 0, None)));
    }
}

#[test]
fn no_op_but_complete_shortens_the_life_of_a_record() {
    let long = NOW.plus(KEEP * 2);
    let mut record = record(MINE, claim_of(ME, LEFT, None));
    record.expires_at = long;
    record.forget_at = long;
    let seen = seen(ME);
    for op in [renew(), mark_unknown(), take_over(seen)] {
        let (after, _, _) = apply(Some(record.clone()), false, op, NOW);
        let after = after.expect("none of them removes a record");
        assert_eq!((after.expires_at, after.forget_at), (long, long));
    }
}

#[test]
fn looking_tells_what_a_strangers_claim_would_be_told() {
    for cell in cells() {
        let stranger = Op::Claim {
            owner: Owner(3),
            origin: origin(MINE),
            lease: LEASE,
            keep: KEEP,
        };
        let Some(before) = cell.before else { continue };
        let (_, _, told) = apply(Some(before.clone()), false, stranger, NOW);
        assert_eq!(look(Some(&before), &MINE, NOW), Some(told), "{}", cell.case);
    }
    assert_eq!(look(None, &MINE, NOW), None);
}

fn cells() -> Vec<Cell> {
    let mut cells = claims();
    cells.extend(renewals());
    cells.extend(completions());
    cells.extend(declarations());
    cells.extend(releases());
    cells.extend(take_overs());
    cells.extend(resolutions());
    cells
}

fn claims() -> Vec<Cell> {
    let mine = claim_of(ME, LEFT, Some(prior()));
    let in_flight = Verdict::InFlight {
        seen: seen(OTHER),
        lease_left: LEFT,
    };
    let row = |case, before, verdict| cell(case, before, claim(), After::AsItReads, verdict);
    vec![
        cell(
            "absent",
            None,
            claim(),
            After::Is(created(fresh(ME, 1, None))),
            acquired(ME, 1, 0, None),
        ),
        row(
            "my claim",
            ours(mine.clone()),
            acquired(ME, 3, 2, Some(prior())),
        ),
        row(
            "my lapsed claim",
            ours(lapsed(ME)),
            acquired(ME, 3, 2, None),
        ),
        row(
            "another's claim",
            ours(claim_of(OTHER, LEFT, None)),
            in_flight,
        ),
        row(
            "another's lapsed claim",
            ours(lapsed(OTHER)),
            told_lapsed(OTHER),
        ),
        row(
            "a foreign claim",
            theirs(claim_of(OTHER, LEFT, None)),
            Verdict::Mismatch,
        ),
        row(
            "a foreign lapsed claim",
            theirs(lapsed(OTHER)),
            Verdict::Mismatch,
        ),
        row("my unknown", ours(unknown_of(ME)), told_unknown(ME)),
        row(
            "another's unknown",
            ours(unknown_of(OTHER)),
            told_unknown(OTHER),
        ),
        row(
            "a foreign unknown",
            theirs(unknown_of(OTHER)),
            Verdict::Mismatch,
        ),
        row(
            "completed by me",
            ours(done_by(Some(ME))),
            found(MINE, Some(ME)),
        ),
        row(
            "completed",
            ours(done_by(Some(OTHER))),
            found(MINE, Some(OTHER)),
        ),
        row(
            "a foreign completed",
            theirs(done_by(Some(OTHER))),
            Verdict::Mismatch,
        ),
        row("expired", expired(MINE), Verdict::Expired),
        row("a foreign expired", expired(FOREIGN), Verdict::Mismatch),
    ]
}

fn renewals() -> Vec<Cell> {
    let beaten = |prior| {
        State::Claimed(Claimed {
            seen: seen_at(ME, 3, 3),
            lease: LEASE,
            lease_until: NOW.plus(LEASE),
            claimed_at: Some(BEFORE),
            prior,
        })
    };
    let held = Verdict::Held {
        seen: seen_at(ME, 3, 3),
    };
    let lost = |case, before| cell(case, before, renew(), After::AsItReads, Verdict::Lost);
    let renewed = |case, before, prior| {
        let after = After::Is(created(beaten(prior)));
        cell(case, before, renew(), after, held.clone())
    };
    vec![
        cell(
            "absent",
            None,
            renew(),
            After::Is(created(found_again(ME, MY_FENCE))),
            Verdict::Held {
                seen: seen_at(ME, MY_FENCE, 0),
            },
        ),
        renewed("my claim", ours(claim_of(ME, LEFT, None)), None),
        renewed("my lapsed claim", ours(lapsed(ME)), None),
        renewed(
            "my claim with a prior",
            ours(claim_of(ME, LEFT, Some(prior()))),
            Some(prior()),
        ),
        lost("another's claim", ours(claim_of(OTHER, LEFT, None))),
        lost("another's lapsed claim", ours(lapsed(OTHER))),
        lost("my unknown", ours(unknown_of(ME))),
        lost("another's unknown", ours(unknown_of(OTHER))),
        lost("completed by me", ours(done_by(Some(ME)))),
        lost("completed", ours(done_by(Some(OTHER)))),
        lost("expired", expired(MINE)),
    ]
}

fn completions() -> Vec<Cell> {
    let done = |case, before: Option<Record>| {
        let begun = before.as_ref().map_or_else(Begun::default, |_| BEGUN);
        let mut record = record(MINE, done_now(Some(ME), begun));
        record.expires_at = NOW.plus(KEEP);
        record.forget_at = record.expires_at.plus(TOMBSTONE);
        cell(case, before, complete(), After::Is(record), Verdict::Done)
    };
    let lost = |case, before| cell(case, before, complete(), After::AsItReads, Verdict::Lost);
    vec![
        done("absent", None),
        done("my claim", ours(claim_of(ME, LEFT, None))),
        done("my lapsed claim", ours(lapsed(ME))),
        done(
            "my claim with a prior",
            ours(claim_of(ME, LEFT, Some(prior()))),
        ),
        done("another's claim", ours(claim_of(OTHER, LEFT, None))),
        done("another's lapsed claim", ours(lapsed(OTHER))),
        done("my unknown", ours(unknown_of(ME))),
        done("another's unknown", ours(unknown_of(OTHER))),
        lost("a foreign claim", theirs(claim_of(OTHER, LEFT, None))),
        lost("a foreign lapsed claim", theirs(lapsed(OTHER))),
        lost("a foreign unknown", theirs(unknown_of(OTHER))),
        cell(
            "completed by me",
            ours(done_by(Some(ME))),
            complete(),
            After::AsItReads,
            Verdict::Done,
        ),
        lost("completed", ours(done_by(Some(OTHER)))),
        lost("resolved", ours(done_by(None))),
        lost("a foreign completed", theirs(done_by(Some(OTHER)))),
        lost("expired", expired(MINE)),
    ]
}

fn declarations() -> Vec<Cell> {
    let declared = |fence, beat, claimed_at| {
        State::Unknown(Unknown {
            seen: seen_at(ME, fence, beat),
            cause: Cause::Truncated,
            since: NOW,
            trace: Trace {
                claimed_at,
                sent: SENT,
            },
        })
    };
    let done = |case, before, after| cell(case, before, mark_unknown(), after, Verdict::Done);
    let row = |case, before, verdict| cell(case, before, mark_unknown(), After::AsItReads, verdict);
    vec![
        done(
            "absent",
            None,
            After::Is(created(declared(MY_FENCE, 0, None))),
        ),
        done(
            "my claim",
            ours(claim_of(ME, LEFT, None)),
            After::Is(created(declared(3, 2, Some(BEFORE)))),
        ),
        done(
            "my lapsed claim",
            ours(lapsed(ME)),
            After::Is(created(declared(3, 2, Some(BEFORE)))),
        ),
        done(
            "my claim with a prior",
            ours(claim_of(ME, LEFT, Some(prior()))),
            After::Is(created(declared(3, 2, Some(BEFORE)))),
        ),
        row(
            "another's claim",
            ours(claim_of(OTHER, LEFT, None)),
            Verdict::Lost,
        ),
        row("another's lapsed claim", ours(lapsed(OTHER)), Verdict::Lost),
        row("my unknown", ours(unknown_of(ME)), Verdict::Done),
        row("another's unknown", ours(unknown_of(OTHER)), Verdict::Lost),
        row(
            "completed by me",
            ours(done_by(Some(ME))),
            found(MINE, Some(ME)),
        ),
        row("resolved", ours(done_by(None)), found(MINE, None)),
        row(
            "a foreign completed",
            theirs(done_by(Some(OTHER))),
            found(FOREIGN, Some(OTHER)),
        ),
        row("expired", expired(MINE), Verdict::Lost),
    ]
}

fn releases() -> Vec<Cell> {
    // The attempt before is what the record says again, under the fence of the claim that was given back.
    let restored = record(
        MINE,
        State::Unknown(Unknown {
            seen: seen_at(OTHER, 3, 7),
            ..prior()
        }),
    );
    let row = |case, before, after, verdict| Cell {
        mark: Some(ME),
        ..cell(case, before, Op::Release { owner: ME }, after, verdict)
    };
    let lost = |case, before| row(case, before, After::AsItReads, Verdict::Lost);
    let with_prior = ours(claim_of(ME, LEFT, Some(prior())));
    vec![
        row("absent", None, After::Absent, Verdict::Done),
        row(
            "my claim",
            ours(claim_of(ME, LEFT, None)),
            After::Absent,
            Verdict::Done,
        ),
        row(
            "my lapsed claim",
            ours(lapsed(ME)),
            After::Absent,
            Verdict::Done,
        ),
        row(
            "my claim with a prior",
            with_prior,
            After::Is(restored),
            Verdict::Restored,
        ),
        lost("another's claim", ours(claim_of(OTHER, LEFT, None))),
        lost("another's lapsed claim", ours(lapsed(OTHER))),
        lost("my unknown", ours(unknown_of(ME))),
        lost("another's unknown", ours(unknown_of(OTHER))),
        lost("completed by me", ours(done_by(Some(ME)))),
        lost("completed", ours(done_by(Some(OTHER)))),
        lost("expired", expired(MINE)),
    ]
}

fn take_overs() -> Vec<Cell> {
    let over = |prior| After::Is(created(fresh(ME, 4, Some(prior))));
    let silent = |left| Unknown {
        seen: seen(OTHER),
        cause: Cause::LeaseLapsed,
        since: NOW.plus(left),
        trace: Trace {
            claimed_at: Some(BEFORE),
            sent: Sent::default(),
        },
    };
    let declared = Unknown {
        seen: seen(OTHER),
        cause: Cause::Timeout,
        since: EARLIER,
        trace: TRACE,
    };
    let row =
        |case, before, after, verdict| cell(case, before, take_over(seen(OTHER)), after, verdict);
    let kept = |case, before, verdict| row(case, before, After::AsItReads, verdict);
    let taken = |prior: &Unknown| acquired(ME, 4, 0, Some(prior.clone()));
    let mut cells = vec![
        kept("absent", None, Verdict::Changed),
        kept(
            "my claim",
            ours(claim_of(ME, LEFT, Some(prior()))),
            acquired(ME, 3, 2, Some(prior())),
        ),
        // Whether it was silent for long enough is for the caller's own clock to say.
        row(
            "the claim that was seen",
            ours(claim_of(OTHER, LEFT, None)),
            over(silent(LEFT)),
            taken(&silent(LEFT)),
        ),
        row(
            "the lapsed claim that was seen, which had a prior",
            ours(claim_of(OTHER, Duration::ZERO, Some(prior()))),
            over(silent(Duration::ZERO)),
            taken(&silent(Duration::ZERO)),
        ),
        row(
            "the unknown that was seen",
            ours(unknown_of(OTHER)),
            over(declared.clone()),
            taken(&declared),
        ),
        kept("my unknown", ours(unknown_of(ME)), Verdict::Changed),
        kept(
            "completed",
            ours(done_by(Some(OTHER))),
            found(MINE, Some(OTHER)),
        ),
        kept(
            "completed by me",
            ours(done_by(Some(ME))),
            found(MINE, Some(ME)),
        ),
        kept("expired", expired(MINE), Verdict::Expired),
    ];
    for seen in not_quite(OTHER) {
        for state in [
            claim_of(OTHER, LEFT, None),
            lapsed(OTHER),
            unknown_of(OTHER),
        ] {
            cells.push(cell(
                "another seen",
                ours(state),
                take_over(seen),
                After::AsItReads,
                Verdict::Changed,
            ));
        }
    }
    cells
}

fn resolutions() -> Vec<Cell> {
    let mut cells = Vec::new();
    for gone in [true, false] {
        let op = |seen| resolve(seen, gone);
        let kept =
            |case, before, verdict| cell(case, before, op(seen(OTHER)), After::AsItReads, verdict);
        let settled = |case, state| {
            let mut resolved = record(MINE, done_now(None, BEGUN));
            resolved.expires_at = NOW.plus(KEEP);
            resolved.forget_at = resolved.expires_at.plus(TOMBSTONE);
            Cell {
                mark: gone.then_some(OTHER),
                ..cell(
                    case,
                    ours(state),
                    op(seen(OTHER)),
                    if gone {
                        After::Absent
                    } else {
                        After::Is(resolved)
                    },
                    Verdict::Done,
                )
            }
        };
        cells.extend([
            kept("absent", None, Verdict::Changed),
            kept(
                "the claim that was seen, alive",
                ours(claim_of(OTHER, LEFT, None)),
                Verdict::Changed,
            ),
            settled("the lapsed claim that was seen", lapsed(OTHER)),
            settled(
                "the lapsed claim that was seen, which has a prior",
                claim_of(OTHER, Duration::ZERO, Some(prior())),
            ),
            settled("the unknown that was seen", unknown_of(OTHER)),
            kept(
                "completed",
                ours(done_by(Some(OTHER))),
                found(MINE, Some(OTHER)),
            ),
            kept("resolved", ours(done_by(None)), found(MINE, None)),
            kept("expired", expired(MINE), Verdict::Expired),
        ]);
        for seen in not_quite(OTHER) {
            for state in [
                claim_of(OTHER, LEFT, None),
                lapsed(OTHER),
                unknown_of(OTHER),
            ] {
                let changed = Verdict::Changed;
                cells.push(cell(
                    "another seen",
                    ours(state),
                    op(seen),
                    After::AsItReads,
                    changed,
                ));
            }
        }
    }
    cells
}

fn cell(
    case: &'static str,
    before: Option<Record>,
    op: Op,
    after: After,
    verdict: Verdict,
) -> Cell {
    Cell {
        case,
        before,
        op,
        after,
        mark: None,
        verdict,
    }
}

/// The column that a record stands in. A lapsed claim is a claim.
fn column(record: Option<&Record>) -> &'static str {
    match record.and_then(|record| record.clone().at(NOW)) {
        None => "absent",
        Some(record) => match record.state {
            State::Claimed(_) => "claimed",
            State::Unknown(_) => "unknown",
            State::Completed(_) => "completed",
            State::Expired => "expired",
        },
    }
}
