//! The promises of the protocol, checked against every order of events.
//!
//! The model runs attempts at one key, as gateways make them, around the real [`oncegate::protocol::apply`].
//! stateright visits every state that can be reached by any interleaving of their steps within a scene's
//! bounds. `ONCEGATE_MODEL=big` takes larger bounds.
//!
//! What may happen in every scene: leases lapse whenever a claim is on record; an attempt freezes between any
//! two steps, also between its look at its own lease and its first byte (unless it is `prompt`); the upstream executes
//! what was written at any later time or never; its answer is lost; an answer comes after the attempt was declared
//! unknown. In bounded number: store calls that are applied after their caller timed out, or twice, or
//! never, in any order (`troubles`); crashes; an operator's and a probe's words, each of which may arrive late (`words`,
//! `probes`); deleted records (`deletions`); one loss of what the store had acknowledged (`loss`).
//!
//! What is assumed in every scene: the store applies ops one at a time and loses none that it
//! acknowledged, unless the scene says so; a mark stands longer than any copy of its owner's calls is under way
//! (`MARK_KEEP`); nothing happens after the end of the record's retention; every attempt has an
//! owner token of its own; the gateway takes the steps in `gateway.rs`.
//!
//! What is promised is in `promises.rs`. Every scene is visited as a whole, and all of the promises hold in it but those
//! that it lists as `broken`: of each of these there has to be a counterexample, so that what is not promised is no less
//! exact than what is. What breaks them:
//!
//! | assumption that fails | what does not hold then |
//! | --- | --- |
//! | nothing is sent again: `on_unknown` is `resend` | P1 |
//! | whoever says *gone* or *absent* is right: an operator, a probe before `absent_after`, a probe with `silent = "release"` whose owner thaws | P1; that what was dispatched is remembered; that nobody hears `none` of it; where another payload comes next, that an answer in hand settles the record |
//! | nobody deletes a record | the same, and P2 for those who ask later |
//! | the store loses nothing | the same, and a key may stay held for nothing |
//! | the store loses nothing but what came after the last acknowledged claim (`replicas_ack`) | an answer may become unknown again, and a key may stay held for nothing; P1 holds |
//!
//! What holds in every scene: another payload never gets an answer, and nobody acquires the record of another payload;
//! who sent something hears neither `none` nor that a new key is safe (that a twin with another claim has sent nothing is
//! not promised); a marked owner holds no claim; an owner that was declared gone does not come back. Under `resend` the
//! attempt before that owner may, as an unknown attempt or as a claim, and is taken over like any other: the record knows
//! one attempt before its owner at most, so no mark could be set for all. An operator who says *completed* may be wrong in
//! every scene.
//!
//! Every rule that looks fussy is taken out once, and a test holds that the checker then finds a
//! counterexample; the shortest one is printed.

mod checker;
mod gateway;
mod promises;
mod store;
mod world;

use std::fmt::Write;

use checker::{Loss, Probe, Scene};
use gateway::Rules;
use promises::{
    GONE, HELD, HONEST_NONE, NOT_FORGOTTEN, NOTHING_SENT, ONE_ANSWER, ONE_DISPATCH, ONE_EXECUTION,
    OWN_PAYLOAD, PRIOR_GONE, TOLD_ONE, TRUTH,
};
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use store::Guard;

#[test]
fn two_attempts_execute_once() {
    holds(Scene {
        renewals: 1,
        troubles: big(3, 4),
        crashes: big(1, 2),
        ..scene(&[1, 1])
    });
}

#[test]
fn two_payloads_under_one_key_execute_once_and_never_mix() {
    holds(Scene {
        renewals: 1,
        troubles: big(3, 4),
        crashes: 2,
        ..scene(&[1, 2])
    });
}

#[test]
fn three_attempts_execute_once() {
    holds(Scene {
        renewals: big(0, 1),
        troubles: 2,
        crashes: 1,
        ..scene(&[1, 1, 1])
    });
}

#[test]
fn a_right_operator_causes_no_second_execution() {
    holds(Scene {
        renewals: 1,
        troubles: big(2, 3),
        crashes: 1,
        words: 1,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_right_operator_who_speaks_twice_causes_no_second_execution() {
    holds(Scene {
        renewals: 1,
        troubles: big(1, 2),
        crashes: 1,
        words: 2,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_right_operator_among_three_attempts_causes_no_second_execution() {
    holds(Scene {
        troubles: 1,
        crashes: big(0, 1),
        words: 1,
        ..scene(&[1, 1, 2])
    });
}

#[test]
fn a_refused_request_frees_the_key_and_executes_once() {
    holds(Scene {
        renewals: 1,
        troubles: big(2, 3),
        crashes: 1,
        refusals: true,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_careless_operator_never_mixes_answers() {
    holds(Scene {
        renewals: 1,
        troubles: 1,
        crashes: 1,
        words: big(1, 2),
        careless: true,
        broken: FREED_FOR_ANOTHER,
        ..scene(&[1, 2])
    });
}

#[test]
fn a_careless_operator_never_makes_clients_hear_two_recorded_answers() {
    holds(Scene {
        renewals: 1,
        troubles: big(1, 2),
        words: 2,
        careless: true,
        broken: FREED_WRONGLY,
        ..scene(&[1, 1])
    });
}

#[test]
fn resending_forgets_no_attempt() {
    holds(Scene {
        renewals: 1,
        troubles: big(1, 2),
        crashes: 1,
        refusals: true,
        ..resending(&[1, 1])
    });
}

#[test]
fn resending_three_times_forgets_no_attempt() {
    holds(Scene {
        troubles: big(0, 1),
        crashes: 1,
        refusals: true,
        ..resending(&[1, 1, 1])
    });
}

#[test]
fn resending_never_takes_over_from_another_payload() {
    holds(Scene {
        renewals: 1,
        troubles: big(1, 2),
        crashes: 1,
        broken: &[],
        ..resending(&[1, 2])
    });
}

#[test]
fn an_operator_beside_resending_forgets_no_attempt() {
    holds(Scene {
        troubles: big(1, 2),
        words: 1,
        crashes: 1,
        broken: &[ONE_EXECUTION, ONE_DISPATCH, PRIOR_GONE],
        ..resending(&[1, 1])
    });
}

#[test]
fn a_probe_that_waits_long_enough_causes_no_second_execution() {
    holds(Scene {
        renewals: 1,
        troubles: big(2, 3),
        crashes: 1,
        probes: 1,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_probe_that_asks_too_early_causes_a_second_execution() {
    holds(Scene {
        troubles: 1,
        crashes: 1,
        probes: 1,
        probe: Probe {
            hasty: true,
            ..Probe::default()
        },
        broken: FREED_WRONGLY,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_probe_that_frees_a_silent_claim_causes_a_second_execution_when_its_owner_thaws() {
    holds(Scene {
        troubles: 1,
        crashes: 1,
        probes: 1,
        probe: SILENT_RELEASE,
        broken: FREED_WRONGLY,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_probe_that_frees_a_silent_claim_is_right_where_no_owner_thaws() {
    holds(Scene {
        renewals: 1,
        troubles: 1,
        crashes: 1,
        probes: 1,
        probe: SILENT_RELEASE,
        prompt: true,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_store_that_loses_everything_keeps_few_promises() {
    holds(Scene {
        renewals: 1,
        troubles: 1,
        crashes: 1,
        loss: Some(Loss::All),
        broken: LOST,
        ..scene(&[1, 1])
    });
}

#[test]
fn a_store_that_loses_everything_never_mixes_payloads() {
    holds(Scene {
        renewals: 1,
        troubles: 1,
        crashes: 1,
        loss: Some(Loss::All),
        broken: LOST,
        ..scene(&[1, 2])
    });
}

#[test]
fn a_store_that_keeps_claims_causes_no_second_execution() {
    holds(Scene {
        renewals: 1,
        troubles: 1,
        crashes: 1,
        refusals: true,
        loss: Some(Loss::SinceTheLastClaim),
        broken: &[ONE_ANSWER, TRUTH, HELD],
        ..scene(&[1, 1])
    });
}

#[test]
fn a_deleted_record_is_forgotten() {
    holds(Scene {
        renewals: 1,
        troubles: 1,
        crashes: 1,
        deletions: 1,
        broken: FORGOTTEN,
        ..scene(&[1, 1])
    });
}

#[test]
fn without_the_fingerprint_in_complete_another_payload_gets_the_answer() {
    breaks(
        Guard::FingerprintInComplete,
        OWN_PAYLOAD,
        Scene {
            words: 1,
            careless: true,
            ..scene(&[1, 2])
        },
    );
}

#[test]
fn without_seen_in_resolve_a_word_about_one_attempt_forgets_another() {
    let operator = |attempts| Scene {
        words: 1,
        ..scene(attempts)
    };
    breaks(Guard::SeenInResolve, NOT_FORGOTTEN, operator(&[1, 1]));
    breaks(Guard::SeenInResolve, ONE_DISPATCH, operator(&[1, 1, 1]));
}

#[test]
fn without_the_prior_a_release_forgets_the_attempt_before() {
    breaks(Guard::PriorOnRelease, NOT_FORGOTTEN, resending(&[1, 1]));
    breaks(Guard::PriorOnRelease, HONEST_NONE, resending(&[1, 1, 1]));
}

#[test]
fn without_a_prior_made_of_a_silent_claim_that_claim_is_forgotten() {
    breaks(Guard::PriorOfSilentClaim, NOT_FORGOTTEN, resending(&[1, 1]));
}

#[test]
fn without_marks_a_late_claim_holds_the_key_for_nobody() {
    breaks(
        Guard::Marks,
        HELD,
        Scene {
            troubles: 1,
            ..scene(&[1, 1])
        },
    );
}

#[test]
fn with_one_mark_for_all_owners_a_late_claim_holds_the_key_for_nobody() {
    breaks(
        Guard::MarkForEachOwner,
        HELD,
        Scene {
            troubles: 2,
            ..scene(&[1, 1])
        },
    );
}

#[test]
fn without_a_mark_the_owner_that_was_declared_gone_comes_back() {
    breaks(
        Guard::MarkOnGone,
        GONE,
        Scene {
            renewals: 1,
            troubles: 1,
            words: 1,
            ..scene(&[1, 1])
        },
    );
}

#[test]
fn with_an_owner_on_a_resolved_record_two_clients_hear_two_answers() {
    breaks(
        Guard::NoOwnerOnResolved,
        ONE_ANSWER,
        Scene {
            words: 1,
            ..scene(&[1, 1])
        },
    );
}

#[test]
fn if_only_the_owner_could_complete_a_late_truth_would_be_thrown_away() {
    breaks(Guard::CompleteOfAnyOwner, TRUTH, resending(&[1, 1]));
}

#[test]
fn a_gateway_that_leaves_a_claim_in_doubt_holds_the_key_for_nobody() {
    let trouble = || Scene {
        troubles: 1,
        ..scene(&[1, 1])
    };
    breaks(Guard::DoubtIsSettled, HELD, trouble());
    breaks(Guard::CopyIsDoubt, HELD, trouble());
}

#[test]
fn a_gateway_that_says_none_before_the_store_has_answered_lies() {
    breaks(
        Guard::NoneAfterVerdict,
        HONEST_NONE,
        Scene {
            troubles: 2,
            ..scene(&[1, 1])
        },
    );
}

#[test]
fn a_gateway_that_reads_no_record_after_it_wrote_and_says_none_lies() {
    breaks(
        Guard::StainedNeverSaysNone,
        NOTHING_SENT,
        Scene {
            words: 1,
            careless: true,
            ..scene(&[1, 1])
        },
    );
}

/// Visits the whole scene: every promise but those that are not made here must hold, and every sight be seen. Of each
/// that is not made there must be a way to break it.
fn holds(scene: Scene) {
    let checker = scene
        .clone()
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{} states, {} steps, depth {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    for property in checker.model().properties() {
        let found = checker.discovery(property.name).is_some();
        if property.expectation == Expectation::Sometimes {
            assert!(found, "never seen: {}", property.name);
        } else if found {
            panic!("not so: {}\n{}", property.name, trace(scene, property.name));
        }
    }
    for promise in scene.broken {
        let trace = trace(scene.clone(), promise);
        assert_ne!(trace, "", "not made here, and yet it holds: {promise}");
        println!("not so here: {promise}\n{trace}");
    }
}

/// Takes one rule out of a scene in which the promise holds: it must break.
fn breaks(removed: Guard, promise: &'static str, scene: Scene) {
    assert_eq!(
        trace(scene.clone(), promise),
        "",
        "holds with every rule in"
    );
    let mut scene = scene;
    scene.rules.removed = Some(removed);
    let trace = trace(scene, promise);
    assert_ne!(trace, "", "without {removed:?} still so: {promise}");
    println!("without {removed:?} it is not so: {promise}\n{trace}");
}

/// The shortest way to where the promise does not hold; empty where it always does. With one property alone
/// the search ends at the first state that breaks it, and is breadth first.
fn trace(mut scene: Scene, promise: &'static str) -> String {
    scene.only = Some(promise);
    assert_eq!(
        scene.properties().len(),
        1,
        "one promise of the scene: {promise}"
    );
    let checker = scene.checker().spawn_bfs().join();
    let mut trace = String::new();
    if let Some(path) = checker.discovery(promise) {
        let end = path.last_state().clone();
        for (number, step) in path.into_actions().into_iter().enumerate() {
            let _ = writeln!(trace, "{:4} {step:?}", number + 1);
        }
        let _ = writeln!(trace, "  => {:?}", end.record);
        for attempt in &end.attempts {
            let _ = writeln!(trace, "     {attempt:?}");
        }
    }
    trace
}

fn scene(fingerprints: &[u8]) -> Scene {
    Scene {
        rules: Rules {
            fingerprints: fingerprints.to_vec(),
            resend: false,
            removed: None,
        },
        renewals: 0,
        troubles: 0,
        crashes: 0,
        words: 0,
        careless: false,
        deletions: 0,
        probes: 0,
        probe: Probe::default(),
        prompt: false,
        loss: None,
        refusals: false,
        broken: &[],
        only: None,
    }
}

fn resending(fingerprints: &[u8]) -> Scene {
    let mut scene = scene(fingerprints);
    scene.rules.resend = true;
    scene.broken = SENT_AGAIN;
    scene
}

const SILENT_RELEASE: Probe = Probe {
    hasty: false,
    silent_release: true,
};

/// What does not hold where the upstream may see a request twice by design.
const SENT_AGAIN: &[&str] = &[ONE_EXECUTION, ONE_DISPATCH];

/// What does not hold where somebody says gone, or absent, of what is or will be executed.
const FREED_WRONGLY: &[&str] = &[ONE_EXECUTION, ONE_DISPATCH, NOT_FORGOTTEN, HONEST_NONE];

/// The same where the key may be used for another request then, whose record has no place for the answer.
const FREED_FOR_ANOTHER: &[&str] = &[
    ONE_EXECUTION,
    ONE_DISPATCH,
    NOT_FORGOTTEN,
    HONEST_NONE,
    TRUTH,
];

/// What does not hold where a completed record may go.
const FORGOTTEN: &[&str] = &[
    ONE_EXECUTION,
    ONE_DISPATCH,
    NOT_FORGOTTEN,
    HONEST_NONE,
    TRUTH,
    ONE_ANSWER,
    TOLD_ONE,
];

/// What does not hold where marks may go, too.
const LOST: &[&str] = &[
    ONE_EXECUTION,
    ONE_DISPATCH,
    NOT_FORGOTTEN,
    HONEST_NONE,
    TRUTH,
    ONE_ANSWER,
    TOLD_ONE,
    HELD,
];

/// A bound that fits every commit, or a larger one that takes minutes.
fn big(small: u8, big: u8) -> u8 {
    if std::env::var("ONCEGATE_MODEL").is_ok_and(|size| size == "big") {
        big
    } else {
        small
    }
}
