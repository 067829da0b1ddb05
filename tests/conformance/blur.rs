//! Makes the times of a store with a clock of its own comparable: one that differs from the expected one by no
//! more than the tolerance counts as the expected one.

use std::time::Duration;

use oncegate::protocol::{Claimed, Completed, Record, State, Timestamp, Unknown, Verdict};

pub fn record(mut record: Record, expected: Option<&Record>, tolerance: Duration) -> Record {
    let Some(expected) = expected else {
        return record;
    };
    time(&mut record.expires_at, expected.expires_at, tolerance);
    time(&mut record.forget_at, expected.forget_at, tolerance);
    match (&mut record.state, &expected.state) {
        (State::Claimed(claim), State::Claimed(expected)) => {
            claimed(claim, expected, tolerance);
        }
        (State::Unknown(unknown), State::Unknown(expected)) => {
            self::unknown(unknown, expected, tolerance);
        }
        (State::Completed(found), State::Completed(expected)) => {
            completed(found, expected, tolerance);
        }
        _ => {}
    }
    record
}

pub fn verdict(mut verdict: Verdict, expected: &Verdict, tolerance: Duration) -> Verdict {
    match (&mut verdict, expected) {
        (
            Verdict::Acquired { prior: found, .. },
            Verdict::Acquired {
                prior: expected, ..
            },
        ) => {
            prior(found, expected, tolerance);
        }
        (
            Verdict::InFlight {
                lease_left: found, ..
            },
            Verdict::InFlight {
                lease_left: expected,
                ..
            },
        ) => span(found, *expected, tolerance),
        (
            Verdict::Unknown { since: found, .. },
            Verdict::Unknown {
                since: expected, ..
            },
        ) => {
            time(found, *expected, tolerance);
        }
        (Verdict::Completed(found), Verdict::Completed(expected)) => {
            completed(&mut found.completed, &expected.completed, tolerance);
            span(&mut found.expires_in, expected.expires_in, tolerance);
        }
        _ => {}
    }
    verdict
}

fn claimed(claim: &mut Claimed, expected: &Claimed, tolerance: Duration) {
    time(&mut claim.lease_until, expected.lease_until, tolerance);
    moment(&mut claim.claimed_at, expected.claimed_at, tolerance);
    prior(&mut claim.prior, &expected.prior, tolerance);
}

fn unknown(found: &mut Unknown, expected: &Unknown, tolerance: Duration) {
    time(&mut found.since, expected.since, tolerance);
    let (trace, expected) = (&mut found.trace, &expected.trace);
    moment(&mut trace.claimed_at, expected.claimed_at, tolerance);
}

fn prior(found: &mut Option<Unknown>, expected: &Option<Unknown>, tolerance: Duration) {
    if let (Some(found), Some(expected)) = (found, expected) {
        unknown(found, expected, tolerance);
    }
}

fn completed(found: &mut Completed, expected: &Completed, tolerance: Duration) {
    time(&mut found.completed_at, expected.completed_at, tolerance);
    let (begun, expected) = (&mut found.begun, &expected.begun);
    moment(&mut begun.claimed_at, expected.claimed_at, tolerance);
}

fn moment(found: &mut Option<Timestamp>, expected: Option<Timestamp>, tolerance: Duration) {
    if let (Some(found), Some(expected)) = (found, expected) {
        time(found, expected, tolerance);
    }
}

pub fn time(found: &mut Timestamp, expected: Timestamp, tolerance: Duration) {
    if found.since(expected).max(expected.since(*found)) <= tolerance {
        *found = expected;
    }
}

fn span(found: &mut Duration, expected: Duration, tolerance: Duration) {
    if found.abs_diff(expected) <= tolerance {
        *found = expected;
    }
}
