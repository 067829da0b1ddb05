//! `on_unknown = "resend"`: a duplicate of what nobody knows the outcome of is sent again, under the next fence.

use std::time::{Duration, Instant};

use oncegate::protocol::{Cause, State};
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient};
use crate::store::{Fate, STRANGER};
use crate::support::{Act, Gate, Problem, Setup, ToyUpstream, payment, until};

/// A payment route that sends again.
fn resending(upstream: &ToyUpstream) -> Setup {
    impatient(upstream).route("on_unknown = \"resend\"")
}

/// What the upstream was told of the number of each dispatch.
fn fences(upstream: &ToyUpstream) -> Vec<Option<String>> {
    let requests = upstream.requests().into_iter();
    requests
        .map(|request| request.header("Oncegate-Fence").map(str::to_owned))
        .collect()
}

fn some(fences: &[&str]) -> Vec<Option<String>> {
    fences
        .iter()
        .map(|fence| Some((*fence).to_owned()))
        .collect()
}

#[tokio::test]
async fn what_was_declared_unknown_is_sent_again_with_the_same_key_and_the_next_fence() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    let second = rig.pay("k").await;
    second.is(201, "executed");
    assert_eq!(rig.pay("k").await.is(201, "replayed").body, second.body);
    assert_eq!(fences(&upstream), some(&["1", "2"]));
    assert_eq!(upstream.charges_by_key(), [("k".to_owned(), 2)].into());
    let sent = [("route", "pay"), ("result", "sent")];
    assert_eq!(rig.value("resends_total", &sent), 1);
}

#[tokio::test]
async fn only_the_gateway_says_which_dispatch_it_is() {
    let upstream = ToyUpstream::start();
    let forged = payment("k").header("Oncegate-Fence", "7");
    let rig = Rig::start(&resending(&upstream));
    rig.send(&forged).await.is(201, "executed");
    let holding = Rig::start(&impatient(&upstream));
    holding.send(&forged).await.is(201, "executed");
    assert_eq!(fences(&upstream), [Some("1".to_owned()), None]);
}

#[tokio::test]
async fn an_answer_to_what_was_sent_again_may_speak_of_the_first_and_leaves_it_unknown() {
    for status in [401, 409, 423, 425, 429] {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&resending(&upstream));
        upstream.next(Act::reset_after_reading());
        rig.pay("k").await.refuses(Problem::FAILED);
        upstream.next(Act::respond(status, &[], "busy"));
        let second = rig.pay("k").await;
        assert_eq!(second.is(status, "unknown").text(), "busy");
        assert_eq!(rig.store.unknown_cause(), Some(Cause::Status(status)));
        rig.pay("k").await.is(201, "executed");
        assert_eq!(fences(&upstream), some(&["1", "2", "3"]));
    }
}

#[tokio::test]
async fn where_nothing_was_sent_again_the_first_attempt_stays_unknown() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    drop(upstream);
    for fence in [2, 3] {
        let answer = rig.pay("k").await;
        assert_eq!(
            answer.is(502, "unknown").json()["operation_state"],
            "unknown"
        );
        match rig.store.state() {
            Some(State::Unknown(unknown)) => {
                assert_eq!(unknown.cause, Cause::ConnectionLost);
                assert_eq!(unknown.seen.fence, fence);
            }
            state => panic!("{state:?}"),
        }
    }
    assert_eq!(rig.decisions("unknown"), 3);
}

#[tokio::test]
async fn a_silent_claim_is_taken_over_only_after_it_was_seen_unchanged_for_its_lease() {
    const LEASE: Duration = Duration::from_secs(1);
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    rig.store.next(StoreOp::Claim, Fate::down());
    rig.pay("k").await.refuses(Problem::STORE_UNAVAILABLE);
    rig.store.stranger_claims_for(LEASE);
    let first_sight = Instant::now();
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    // The store's clock alone says that it is over.
    rig.store.ages(Duration::from_secs(60));
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 0);
    let answer = until("it to be taken over", || async {
        let answer = rig.pay("k").await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert!(first_sight.elapsed() >= LEASE);
    answer.is(201, "executed");
    assert_eq!(fences(&upstream), some(&["2"]));
    let early = [("route", "pay"), ("result", "early")];
    assert!(rig.value("resends_total", &early) > 0);
}

#[tokio::test]
async fn the_lease_that_counts_is_the_records_and_not_the_routes() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream).route("lease = \"300ms\""));
    rig.store.next(StoreOp::Claim, Fate::down());
    rig.pay("k").await.refuses(Problem::STORE_UNAVAILABLE);
    rig.store.stranger_claims_for(Duration::from_secs(600));
    rig.store.ages(Duration::from_secs(601));
    let first_sight = Instant::now();
    until("the route's lease to be over", || async {
        rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
        (first_sight.elapsed() > Duration::from_millis(600)).then_some(())
    })
    .await;
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_take_over_that_was_applied_without_a_word_is_given_back_and_not_dispatched() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    rig.store.next(StoreOp::TakeOver, Fate::Unanswered);
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    rig.is_quiet().await;
    assert_eq!(rig.store.unknown_cause(), Some(Cause::ConnectionLost));
    assert_eq!(upstream.charges(), 1);
    rig.pay("k").await.is(201, "executed");
    assert_eq!(fences(&upstream), some(&["1", "3"]));
}

#[tokio::test]
async fn a_take_over_that_comes_late_is_turned_away() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    let before = rig.store.state();
    let late = Gate::closed();
    rig.store
        .next(StoreOp::TakeOver, Fate::AppliedLate(late.clone()));
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    rig.is_quiet().await;
    late.open();
    rig.store.verdicts(StoreOp::TakeOver, 1).await;
    assert_eq!(rig.store.state(), before);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_store_that_is_down_lets_nothing_be_sent_again_though_it_would_be_forwarded_unprotected()
{
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream).route("on_store_down = \"forward\""));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    rig.store.next(StoreOp::TakeOver, Fate::down());
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn one_that_is_overtaken_meets_the_one_that_was_faster() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    let gate = Gate::closed();
    rig.store.next(StoreOp::TakeOver, Fate::Slow(gate.clone()));
    let rival = rig.paying("k");
    rig.store.asked(StoreOp::TakeOver, 1).await;
    rig.store.take_over();
    gate.open();
    rival
        .await
        .expect("an answer")
        .refuses(Problem::IN_PROGRESS);
    assert_eq!(upstream.charges(), 1);
    match rig.store.state() {
        Some(State::Claimed(claim)) => assert_eq!(claim.seen.owner, STRANGER),
        state => panic!("{state:?}"),
    }
}

#[tokio::test]
async fn the_late_truth_of_the_first_settles_it_while_the_second_is_under_way() {
    let upstream = ToyUpstream::start();
    // The second has time.
    let rig = Rig::start(&resending(&upstream).route("response_timeout = \"1s\""));
    let (first_gate, second_gate) = (Gate::closed(), Gate::closed());
    upstream.next(Act::respond(201, &[], "first").after(&first_gate));
    rig.pay("k").await.refuses(Problem::TIMEOUT);
    upstream.next(Act::respond(200, &[], "second").after(&second_gate));
    let second = rig.paying("k");
    upstream.received_at_least(2).await;
    first_gate.open();
    until("the first answer to be recorded", || async {
        rig.store.recorded_body()
    })
    .await;
    second_gate.open();
    // The record has one answer, whoever asks.
    let second = second.await.expect("an answer");
    assert_eq!(second.is(201, "replayed").text(), "first");
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "first");
    assert_eq!(fences(&upstream), some(&["1", "2"]));
}

#[tokio::test]
async fn duplicates_join_the_one_that_is_sent_again() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream).route("wait = \"20s\""));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let second = rig.paying("k");
    upstream.received_at_least(2).await;
    let third = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    gate.open();
    second.await.expect("an answer").is(201, "executed");
    let third = third.await.expect("an answer");
    assert_eq!(third.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn another_payload_takes_nothing_over() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&resending(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    rig.send(&payment("k").body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), 1);
}
