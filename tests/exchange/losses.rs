//! Claims that are lost while the request is under way: the dispatch goes on, and what every client hears is what
//! the record says.

use oncegate::protocol::{Cause, Resolution, Verdict};
use oncegate::store::NotDone;
use oncegate::telemetry::StoreOp;
use tokio::task::JoinHandle;

use crate::rig::{Rig, impatient};
use crate::store::{Fate, executed};
use crate::support::{Act, Answer, Gate, Problem, ToyUpstream, payment};

/// A payment that the upstream has received and will answer so once the gate opens.
async fn under_way(rig: &Rig, upstream: &ToyUpstream, act: Act) -> (JoinHandle<Answer>, Gate) {
    let gate = Gate::closed();
    upstream.next(act.after(&gate));
    let first = rig.paying("k");
    upstream.next_request().await;
    (first, gate)
}

fn paid() -> Act {
    Act::respond(201, &[], "paid")
}

/// Opens the gate and returns the first client's answer.
async fn ends((first, gate): (JoinHandle<Answer>, Gate)) -> Answer {
    gate.open();
    first.await.expect("an answer")
}

#[tokio::test]
async fn a_lost_claim_is_counted_and_does_not_stop_the_dispatch() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("lease = \"600ms\""));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.take_over();
    let after_write = [("phase", "after_write")];
    rig.counts("leases_lost_total", &after_write, 1).await;
    // Whoever owns the record by now: the answer to this very request is its outcome.
    assert_eq!(ends(dispatch).await.is(201, "executed").text(), "paid");
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
    // Once, whatever is found later.
    assert_eq!(rig.value("leases_lost_total", &after_write), 1);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn duplicates_of_a_lost_claim_hear_what_the_record_says_while_the_dispatch_goes_on() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("lease = \"600ms\""));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.take_over();
    rig.counts("leases_lost_total", &[("phase", "after_write")], 1)
        .await;
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    rig.store.stranger_completes(201, "paid elsewhere");
    let duplicate = rig.pay("k").await;
    assert_eq!(duplicate.is(201, "replayed").text(), "paid elsewhere");
    let first = ends(dispatch).await;
    assert_eq!(first.is(201, "replayed").text(), "paid elsewhere");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn nothing_is_sent_for_duplicates_of_a_lost_claim_before_the_dispatch_has_ended() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("lease = \"600ms\""));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.resolve(Resolution::Gone);
    rig.counts("leases_lost_total", &[("phase", "after_write")], 1)
        .await;
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    assert_eq!(ends(dispatch).await.is(201, "executed").text(), "paid");
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn duplicates_that_joined_a_claim_whose_lease_lapsed_hear_what_the_record_says() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream).route("lease = \"600ms\"");
    let rig = Rig::start(&setup.route("wait = \"800ms\""));
    // No beat says that the claim is lost, as in a process that stands still.
    rig.store.always(StoreOp::Renew, Fate::Dropped);
    let dispatch = under_way(&rig, &upstream, paid()).await;
    let joined = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    rig.store.take_over();
    rig.store.stranger_completes(201, "paid elsewhere");
    let duplicate = joined.await.expect("an answer");
    assert_eq!(duplicate.is(201, "replayed").text(), "paid elsewhere");
    assert_eq!(
        rig.value("leases_lost_total", &[("phase", "after_write")]),
        0
    );
    // So does one that comes now.
    let duplicate = rig.pay("k").await;
    assert_eq!(duplicate.is(201, "replayed").text(), "paid elsewhere");
    let first = ends(dispatch).await;
    assert_eq!(first.is(201, "replayed").text(), "paid elsewhere");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn where_an_operator_has_said_what_the_answer_is_the_first_hears_that_and_not_its_own() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.resolve(executed(200, "as the operator says"));
    let first = ends(dispatch).await;
    assert_eq!(first.is(200, "replayed").text(), "as the operator says");
    let duplicate = rig.pay("k").await;
    assert_eq!(duplicate.is(200, "replayed").text(), "as the operator says");
    assert_eq!(upstream.charges(), 1);
    // No beat came meanwhile: the recording found it out.
    let after_write = [("phase", "after_write")];
    assert_eq!(rig.value("leases_lost_total", &after_write), 1);
}

#[tokio::test]
async fn a_long_answer_is_not_passed_on_either_where_the_record_says_something_else() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("max_response_body = \"1KiB\""));
    let long = Act::respond(201, &[], "x".repeat(5000));
    let dispatch = under_way(&rig, &upstream, long).await;
    rig.store.resolve(executed(200, "as the operator says"));
    let first = ends(dispatch).await;
    assert_eq!(first.is(200, "replayed").text(), "as the operator says");
}

#[tokio::test]
async fn an_answer_after_an_operator_freed_the_key_is_recorded() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.resolve(Resolution::Gone);
    ends(dispatch).await.is(201, "executed");
    rig.pay("k").await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn of_two_dispatches_that_an_operator_allowed_both_hear_the_answer_that_was_recorded_first() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.resolve(Resolution::Gone);
    // By another gateway: in this one a duplicate would still join the first.
    assert!(matches!(
        rig.store.stranger_claims(),
        Verdict::Acquired { .. }
    ));
    assert_eq!(
        rig.store.stranger_completes(201, "paid elsewhere"),
        Verdict::Done
    );
    let first = ends(dispatch).await;
    assert_eq!(first.is(201, "replayed").text(), "paid elsewhere");
}

#[tokio::test]
async fn an_answer_to_a_key_that_now_belongs_to_another_request_is_not_sent_and_the_outcome_unknown()
 {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    rig.store.resolve(Resolution::Gone);
    let verdict = rig.store.stranger_claims_for_something_else();
    assert!(matches!(verdict, Verdict::Acquired { .. }), "{verdict:?}");
    ends(dispatch).await.refuses(Problem::OUTCOME_UNKNOWN);
    assert!(rig.store.is_claimed());
    rig.pay("k").await.refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn without_an_answer_and_without_a_record_the_outcome_is_unknown() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, Act::raw("").then_reset()).await;
    rig.store.resolve(Resolution::Gone);
    // The mark keeps the declaration from bringing the record back.
    ends(dispatch).await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(rig.store.record(), None);
}

#[tokio::test]
async fn without_an_answer_a_request_that_another_gateway_took_over_is_in_progress_there() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, Act::raw("").then_reset()).await;
    rig.store.take_over();
    let first = ends(dispatch).await;
    first.is_problem(Problem::IN_PROGRESS);
    assert_eq!(first.idempotency_status(), "unknown", "it was sent");
    assert!(rig.store.is_claimed());
}

#[tokio::test]
async fn without_an_answer_a_request_that_another_gateway_does_not_know_about_is_unknown() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, Act::raw("").then_reset()).await;
    rig.store.take_over();
    assert_eq!(rig.store.stranger_marks_unknown(), Verdict::Done);
    ends(dispatch).await.refuses(Problem::OUTCOME_UNKNOWN);
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
}

#[tokio::test]
async fn without_an_answer_a_request_that_an_operator_settled_is_answered_as_the_operator_says() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, Act::raw("").then_reset()).await;
    rig.store.resolve(executed(200, "as the operator says"));
    let first = ends(dispatch).await;
    assert_eq!(first.is(200, "replayed").text(), "as the operator says");
}

#[tokio::test]
async fn a_refusal_of_the_upstream_is_not_sent_where_another_gateway_has_executed() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let dispatch = under_way(&rig, &upstream, Act::respond(429, &[], "")).await;
    rig.store.take_over();
    rig.store.stranger_completes(201, "paid elsewhere");
    let first = ends(dispatch).await;
    assert_eq!(first.is(201, "replayed").text(), "paid elsewhere");
}

#[tokio::test]
async fn where_the_record_cannot_be_read_after_a_loss_the_outcome_is_unknown() {
    for fate in [
        Fate::down(),
        Fate::Dropped,
        Fate::NotDone(NotDone::Unreadable("damaged".to_owned())),
    ] {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&impatient(&upstream));
        let dispatch = under_way(&rig, &upstream, paid()).await;
        rig.store.resolve(executed(200, "as the operator says"));
        rig.store.next(StoreOp::Look, fate);
        ends(dispatch).await.refuses(Problem::OUTCOME_UNKNOWN);
    }
}

#[tokio::test]
async fn those_that_wait_for_an_attempt_that_lost_its_claim_hear_what_the_record_says() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("wait = \"20s\""));
    let dispatch = under_way(&rig, &upstream, paid()).await;
    let duplicate = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    rig.store.resolve(executed(200, "as the operator says"));
    ends(dispatch).await.is(200, "replayed");
    let duplicate = duplicate.await.expect("an answer");
    assert_eq!(duplicate.is(200, "replayed").text(), "as the operator says");
}

#[tokio::test]
async fn a_late_answer_settles_another_gateways_unknown_attempt_at_the_same_request() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("response_timeout = \"300ms\""));
    let (first, gate) = under_way(&rig, &upstream, paid()).await;
    first.await.expect("an answer").refuses(Problem::TIMEOUT);
    rig.store.resolve(Resolution::Gone);
    rig.store.stranger_claims();
    rig.store.stranger_marks_unknown();
    assert_eq!(rig.store.unknown_cause(), Some(Cause::ConnectionLost));
    gate.open();
    let completed = [("route", "pay"), ("result", "completed")];
    rig.counts("late_answers_total", &completed, 1).await;
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_late_answer_does_not_take_the_place_of_an_operators_word() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("response_timeout = \"300ms\""));
    let (first, gate) = under_way(&rig, &upstream, paid()).await;
    first.await.expect("an answer").refuses(Problem::TIMEOUT);
    rig.store.resolve(executed(200, "as the operator says"));
    gate.open();
    let lost = [("route", "pay"), ("result", "lost")];
    rig.counts("late_answers_total", &lost, 1).await;
    let duplicate = rig.send(&payment("k")).await;
    assert_eq!(duplicate.is(200, "replayed").text(), "as the operator says");
}
