//! Seeds, and what they found.

use std::env;
use std::fmt::Write;

use super::checker::{Promise, Violation, check};
use super::plan::Plan;
use super::shrink::shrink;
use super::store::Broken;
use super::world::run;

/// Where the seeds begin unless `SIMULATION_SEED` says otherwise.
const FIRST_SEED: u64 = 1;

/// How many there are unless `SIMULATION_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

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
    for seed in first..first + count {
        holds(&Plan::of(seed));
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
        let found = check(&run(&plan, broken));
        if found.iter().any(|found| found.promise == promise) {
            println!("{broken:?}: seed {seed}: {}", found[0]);
            return;
        }
    }
    panic!("{broken:?} was not found out in {SEEDS_TO_FIND} seeds");
}

fn holds(plan: &Plan) {
    let found = check(&run(plan, Broken::Nothing));
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
    for violation in check(&again) {
        let _ = writeln!(text, "{violation}");
    }
    text
}
