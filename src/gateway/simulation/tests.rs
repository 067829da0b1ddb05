//! Seeds, and what they found.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::time::Duration;

use super::checker::{Promise, Violation, check};
use super::history::{Entry, Event, Stood};
use super::plan::{Befalls, Caller, Fault, Incident, Operation, Plan, Wanted};
use super::shrink::shrink;
use super::store::Broken;
use super::world::{Run, run};

/// Where the seeds begin unless `SIMULATION_SEED` says otherwise.
const FIRST_SEED: u64 = 1;

/// How many there are unless `SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 500;

/// Seeds within which the absence of a guard is found out.
const SEEDS_TO_FIND: u64 = 3_000;

#[test]
fn no_seed_breaks_a_promise() {
    let first = match env::var("SIMULATION_SEED").as_deref() {
        Ok("random") => fastrand::u64(..1 << 40),
        Ok(seed) => seed
            .parse()
            .expect("SIMULATION_SEED is a number or `random`"),
        Err(_) => FIRST_SEED,
    };
    let count = env::var("SIMULATION_SEEDS").map_or(SEEDS, |count| {
        count.parse().expect("SIMULATION_SEEDS is a number")
    });
    println!("seeds {first} to {}", first + count - 1);
    let mut seen = BTreeMap::new();
    for seed in first..first + count {
        let plan = Plan::of(seed);
        let run = run(&plan, Broken::Nothing);
        holds(&plan, &run);
        for sight in run.history.iter().filter_map(sight) {
            *seen.entry(sight).or_insert(0) += 1;
        }
    }
    println!("{seen:#?}");
    let missing = SIGHTS.iter().filter(|sight| !seen.contains_key(**sight));
    let missing: Vec<_> = missing.collect();
    assert!(
        count < SEEDS || missing.is_empty(),
        "never seen: {missing:?}"
    );
}

/// What a world of chance must have shown, or its silence says nothing.
const SIGHTS: [&str; 34] = [
    "claim acquired",
    "claim completed",
    "claim in flight",
    "claim lost",
    "claim mismatch",
    "claim unknown",
    "complete done",
    "complete lost",
    "hears executed",
    "hears key-reused",
    "hears outcome-unknown",
    "hears overloaded",
    "hears released",
    "hears replayed",
    "hears request-in-progress",
    "hears response-not-stored",
    "hears store-unavailable",
    "hears unknown",
    "hears unrecorded",
    "hears upstream-failed",
    "hears upstream-timeout",
    "hears upstream-unreachable",
    "late truth",
    "mark_unknown completed",
    "mark_unknown done",
    "mark_unknown lost",
    "release done",
    "release lost",
    "release restored",
    "renew held",
    "renew lost",
    "resolve changed",
    "resolve done",
    "take_over acquired",
];

fn sight(entry: &Entry) -> Option<String> {
    match &entry.event {
        Event::Heard { answer, .. } => Some(match answer.problem.as_str() {
            "" => format!("hears {}", answer.idempotency),
            problem => format!("hears {problem}"),
        }),
        Event::Applied {
            before: Stood::Unknown(_),
            after: Stood::Completed(Some(_), _),
            ..
        } => Some("late truth".to_owned()),
        Event::Applied { op, verdict, .. } => Some(format!("{op} {verdict}")),
        _ => None,
    }
}

#[test]
fn what_was_sent_is_not_called_refused_when_another_attempt_has_the_claim() {
    let operation = Operation { scope: 0, key: 0 };
    let plan = Plan {
        seed: 102_444,
        hosts: 2,
        waits: false,
        resends: false,
        faults: vec![Fault::Unsure],
        callers: vec![caller(3, 2_403, 1), caller(5, 19_071, 1)],
        incidents: vec![incident(37_631, Befalls::StoreLoses(operation))],
    };
    let run = run(&plan, Broken::Nothing);
    holds(&plan, &run);
    assert!(run.history.iter().any(|entry| {
        matches!(&entry.event, Event::Heard { attempt: 300, answer } if answer.state == "unknown")
    }));
}

/// Who wants the first payload under the first key.
fn caller(number: u64, starts_us: u64, attempts: u64) -> Caller {
    Caller {
        number,
        wants: Wanted {
            operation: Operation { scope: 0, key: 0 },
            payload: 0,
        },
        starts: Duration::from_micros(starts_us),
        attempts,
    }
}

fn incident(at_us: u64, what: Befalls) -> Incident {
    Incident {
        at: Duration::from_micros(at_us),
        awaits: None,
        what,
        lasts: Duration::from_secs(5),
    }
}

#[test]
fn the_same_seed_makes_the_same_history() {
    for seed in 0..50 {
        let plan = Plan::of(seed);
        let (one, other) = (run(&plan, Broken::Nothing), run(&plan, Broken::Nothing));
        for (one, other) in one.history.iter().zip(&other.history) {
            assert_eq!(one.to_string(), other.to_string(), "seed {seed}");
        }
        assert_eq!(one.history.len(), other.history.len(), "seed {seed}");
    }
}

#[test]
fn releasing_what_timed_out_is_found_out() {
    finds(Broken::UnknownIsReleased, Promise::OneDispatch);
}

#[test]
fn completing_without_comparing_is_found_out() {
    finds(Broken::CompleteComparesNothing, Promise::OneAnswer);
}

#[test]
fn leaving_a_claim_in_doubt_is_found_out() {
    finds(Broken::DoubtIsNotSettled, Promise::NothingHeld);
}

#[test]
fn a_lock_that_expires_is_found_out() {
    finds(Broken::LapsedIsAbsent, Promise::OneDispatch);
}

#[test]
fn an_answer_before_its_record_is_found_out() {
    finds(Broken::AnsweredBeforeStored, Promise::OneAnswer);
}

#[test]
fn releases_without_marks_are_found_out() {
    finds(Broken::ReleaseLeavesNoMark, Promise::NothingHeld);
}

#[test]
fn trusting_one_of_two_copies_is_found_out() {
    finds(Broken::CopiesAreNoDoubt, Promise::NothingHeld);
}

/// A store without this guard breaks this promise in one of the first seeds.
fn finds(broken: Broken, promise: Promise) {
    for seed in FIRST_SEED..FIRST_SEED + SEEDS_TO_FIND {
        let plan = Plan::of(seed);
        let found = check(&plan, &run(&plan, broken));
        if found.iter().any(|found| found.promise == promise) {
            println!("{broken:?}: seed {seed}: {}", found[0]);
            return;
        }
    }
    panic!("{broken:?} was not found out in {SEEDS_TO_FIND} seeds");
}

fn holds(plan: &Plan, run: &Run) {
    let found = check(plan, run);
    assert!(found.is_empty(), "{}", report(plan, &found));
}

/// The seed, the shortest history that breaks the same promise, and how.
fn report(plan: &Plan, found: &[Violation]) -> String {
    let mut text = format!("\nSIMULATION_SEED={} SIMULATION_SEEDS=1\n", plan.seed);
    for violation in found {
        let _ = writeln!(text, "{violation}");
    }
    let promises: Vec<Promise> = found.iter().map(|found| found.promise).collect();
    let smallest = shrink(plan, Broken::Nothing, &promises);
    let _ = writeln!(text, "as small as it gets: {smallest:#?}");
    let again = run(&smallest, Broken::Nothing);
    for entry in &again.history {
        let _ = writeln!(text, "{entry}");
    }
    for violation in check(&smallest, &again) {
        let _ = writeln!(text, "{violation}");
    }
    text
}
