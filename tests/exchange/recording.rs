//! Outcomes that the store does not take in time.

use bytes::Bytes;
use oncegate::protocol::{Cause, State};
use oncegate::store::NotDone;
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient, patient};
use crate::store::Fate;
use crate::support::{Act, Gate, Problem, ToyUpstream};

#[tokio::test]
async fn nobody_is_answered_before_the_answer_is_recorded() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(
        &patient(&upstream)
            .route("wait = \"20s\"")
            .route("record_timeout = \"20s\""),
    );
    let (answered, recorded) = (Gate::closed(), Gate::closed());
    upstream.next(Act::respond(201, &[], "paid").after(&answered));
    rig.store
        .next(StoreOp::Complete, Fate::Slow(recorded.clone()));
    let first = rig.paying("k");
    upstream.next_request().await;
    let joined = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    answered.open();
    rig.store.asked(StoreOp::Complete, 1).await;
    assert!(!first.is_finished() && !joined.is_finished());
    assert!(rig.store.is_claimed());
    recorded.open();
    let first = first.await.expect("an answer");
    let joined = joined.await.expect("an answer");
    assert_eq!(
        joined.is(201, "replayed").body,
        first.is(201, "executed").body
    );
    assert_eq!(rig.store.recorded_body(), Some(Bytes::from(first.body)));
    assert_eq!((rig.decisions("executed"), rig.decisions("joined")), (1, 1));
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_in_time_is_given_as_unrecorded_and_recorded_later() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream)
        .route("lease = \"600ms\"")
        .route("record_timeout = \"200ms\"");
    let rig = Rig::start(&setup);
    rig.store.always(StoreOp::Complete, Fate::down());
    let first = rig.pay("k").await;
    first.is(201, "unrecorded");
    assert_eq!(rig.value("recordings_pending", &[]), 1);
    assert_eq!(rig.value("claims_held", &[]), 1);
    // Beats go on past the first lease.
    rig.store.asked(StoreOp::Renew, 5).await;
    assert!(rig.store.is_claimed());
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    assert_eq!(rig.store.recorded_body(), None);

    rig.store.works(StoreOp::Complete);
    rig.is_quiet().await;
    assert_eq!(rig.pay("k").await.is(201, "replayed").body, first.body);
    assert_eq!(upstream.charges(), 1);
    assert_eq!(rig.decisions("unrecorded"), 1);
    assert_eq!(rig.decisions("executed"), 0);
}

#[tokio::test]
async fn a_duplicate_that_waits_hears_an_answer_that_was_given_as_unrecorded_once_it_is_recorded() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream)
        .route("wait = \"20s\"")
        .route("record_timeout = \"200ms\"");
    let rig = Rig::start(&setup);
    rig.store.always(StoreOp::Complete, Fate::down());
    let first = rig.pay("k").await;
    first.is(201, "unrecorded");
    let joined = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    let times = rig.store.calls(StoreOp::Complete);
    rig.store.asked(StoreOp::Complete, times + 1).await;
    assert!(!joined.is_finished());
    rig.store.works(StoreOp::Complete);
    let joined = joined.await.expect("an answer");
    assert_eq!(joined.is(201, "replayed").body, first.body);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_drain_waits_for_a_recording() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("record_timeout = \"200ms\""));
    rig.store.always(StoreOp::Complete, Fate::down());
    rig.pay("k").await.is(201, "unrecorded");
    let finished = rig.finishing();
    rig.gateway.cut_short();
    let times = rig.store.calls(StoreOp::Complete);
    rig.store.asked(StoreOp::Complete, times + 2).await;
    assert!(!finished.is_finished());
    rig.store.works(StoreOp::Complete);
    finished.await.expect("no panic");
    assert!(rig.store.recorded_body().is_some());
}

#[tokio::test]
async fn a_recording_that_was_applied_without_a_word_is_repeated_and_counts_as_recorded() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream)
        .route("lease = \"200ms\"")
        .route("record_timeout = \"20s\"");
    let rig = Rig::start(&setup);
    // The beats meanwhile meet a record that is no claim any more.
    for _ in 0..3 {
        rig.store.next(StoreOp::Complete, Fate::Unanswered);
    }
    rig.pay("k").await.is(201, "executed");
    assert_eq!(rig.store.calls(StoreOp::Complete), 4);
    rig.pay("k").await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
    for phase in ["before_write", "after_write"] {
        let lost = rig.value("leases_lost_total", &[("phase", phase)]);
        assert_eq!(lost, 0, "it was settled by its own owner: {phase}");
    }
}

#[tokio::test]
async fn an_answer_that_can_never_be_recorded_is_given_as_unrecorded() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("record_timeout = \"20s\""));
    let damaged = NotDone::Unreadable("damaged".to_owned());
    rig.store.next(StoreOp::Complete, Fate::NotDone(damaged));
    rig.pay("k").await.is(201, "unrecorded");
    rig.is_quiet().await;
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_released_answer_whose_release_is_not_stored_in_time_is_not_called_released() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("record_timeout = \"200ms\""));
    rig.store.always(StoreOp::Release, Fate::down());
    upstream.next(Act::respond(429, &[], "slow down"));
    let first = rig.pay("k").await;
    assert_eq!(first.is(429, "unrecorded").text(), "slow down");
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    rig.store.works(StoreOp::Release);
    rig.is_quiet().await;
    rig.pay("k").await.is(201, "executed");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_timeout_is_told_in_time_though_the_record_cannot_say_unknown_yet() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream)
        .route("response_timeout = \"300ms\"")
        .route("record_timeout = \"200ms\"");
    let rig = Rig::start(&setup);
    let answer = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&answer));
    rig.store.always(StoreOp::MarkUnknown, Fate::down());
    rig.pay("k").await.refuses(Problem::TIMEOUT);
    assert_eq!(rig.value("recordings_pending", &[]), 1);
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    rig.store.works(StoreOp::MarkUnknown);
    rig.is_quiet().await;
    assert_eq!(rig.store.unknown_cause(), Some(Cause::Timeout));
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);

    // The truth may still come.
    assert_eq!(rig.value("late_dispatches", &[]), 1);
    answer.open();
    let completed = [("route", "pay"), ("result", "completed")];
    rig.counts("late_answers_total", &completed, 1).await;
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
    assert_eq!(rig.value("late_dispatches", &[]), 0);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_record_could_say_unknown_completes_it() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream)
        .route("response_timeout = \"300ms\"")
        .route("record_timeout = \"200ms\"");
    let rig = Rig::start(&setup);
    let answer = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&answer));
    rig.store.always(StoreOp::MarkUnknown, Fate::down());
    rig.pay("k").await.refuses(Problem::TIMEOUT);
    answer.open();
    let times = rig.store.calls(StoreOp::MarkUnknown);
    rig.store.asked(StoreOp::MarkUnknown, times + 1).await;
    rig.store.works(StoreOp::MarkUnknown);
    let completed = [("route", "pay"), ("result", "completed")];
    rig.counts("late_answers_total", &completed, 1).await;
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_late_answer_is_held_and_counted_until_the_store_takes_it() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("response_timeout = \"300ms\""));
    let answer = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&answer));
    rig.store.always(StoreOp::Complete, Fate::down());
    rig.pay("k").await.refuses(Problem::TIMEOUT);
    answer.open();
    rig.store.asked(StoreOp::Complete, 2).await;
    assert_eq!(rig.value("recordings_pending", &[]), 1);
    assert_eq!(rig.value("buffered_bytes", &[]), 4);
    assert!(matches!(rig.store.state(), Some(State::Unknown(_))));
    rig.store.works(StoreOp::Complete);
    rig.is_quiet().await;
    assert_eq!(rig.value("buffered_bytes", &[]), 0);
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
}
