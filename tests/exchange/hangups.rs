//! Clients that hang up at every stage: from the claim on nothing is cancelled, and at most one dispatch happens.

use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient, patient};
use crate::store::Fate;
use crate::support::{Act, Gate, Problem, ToyUpstream, payment};

#[tokio::test]
async fn during_its_body_nothing_was_begun() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let mut client = rig.connect().await;
    let request = payment("k").to_bytes("oncegate.test");
    client.write(&request[..request.len() - 1]).await;
    client.hang_up();
    rig.all_have_hung_up().await;
    assert_eq!(rig.store.calls(StoreOp::Claim), 0);
    rig.pay("k").await.is(201, "executed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn while_the_claim_is_under_way_it_is_sent_all_the_same() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&patient(&upstream));
    let claimed = Gate::closed();
    rig.store.next(StoreOp::Claim, Fate::Slow(claimed.clone()));
    let client = rig.client("k").await;
    rig.store.asked(StoreOp::Claim, 1).await;
    client.hang_up();
    rig.all_have_hung_up().await;
    claimed.open();
    rig.store.verdicts(StoreOp::Complete, 1).await;
    rig.is_quiet().await;
    rig.pay("k").await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
    assert_eq!(rig.decisions("executed"), 1);
}

#[tokio::test]
async fn while_its_claim_is_in_doubt_the_key_is_freed_all_the_same() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.store.next(StoreOp::Claim, Fate::Unanswered);
    let client = rig.client("k").await;
    rig.store.asked(StoreOp::Claim, 1).await;
    client.hang_up();
    rig.all_have_hung_up().await;
    rig.store.verdicts(StoreOp::Release, 1).await;
    rig.is_quiet().await;
    assert_eq!(upstream.charges(), 0);
    rig.pay("k").await.is(201, "executed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_request_that_would_go_on_unprotected_goes_nowhere_once_its_client_has_gone() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("on_store_down = \"forward\""));
    rig.store.next(StoreOp::Claim, Fate::Unanswered);
    let client = rig.client("k").await;
    rig.store.asked(StoreOp::Claim, 1).await;
    client.hang_up();
    rig.all_have_hung_up().await;
    rig.store.verdicts(StoreOp::Release, 1).await;
    rig.is_quiet().await;
    rig.finishing().await.expect("no panic");
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn while_it_is_dispatched_its_answer_is_recorded_all_the_same() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let answer = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&answer));
    let client = rig.client("k").await;
    upstream.next_request().await;
    client.hang_up();
    rig.all_have_hung_up().await;
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);
    answer.open();
    rig.is_quiet().await;
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn while_its_answer_is_recorded_the_recording_goes_on() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream).route("record_timeout = \"200ms\"");
    let rig = Rig::start(&setup);
    rig.store.always(StoreOp::Complete, Fate::down());
    let client = rig.client("k").await;
    rig.store.asked(StoreOp::Complete, 1).await;
    client.hang_up();
    rig.all_have_hung_up().await;
    rig.counts("recordings_pending", &[], 1).await;
    rig.store.works(StoreOp::Complete);
    rig.is_quiet().await;
    rig.pay("k").await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn while_a_long_answer_is_passed_on_the_record_stands_and_the_upstream_is_read_on() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("max_response_body = \"1KiB\""));
    let rest = Gate::closed();
    let answer = Act::stream(201, &[])
        .chunk("x".repeat(2000))
        .then_wait(&rest)
        .chunk("y".repeat(100_000))
        .last_chunk();
    upstream.next(answer);
    let mut client = rig.client("k").await;
    let (status, _) = client.answer_head().await;
    assert_eq!(status, 201);
    client.hang_up();
    rig.all_have_hung_up().await;
    rest.open();
    rig.finishing().await.expect("no panic");
    rig.pay("k").await.refuses(Problem::NOT_STORED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn while_it_waits_for_another_it_leaves_no_trace() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("wait = \"20s\""));
    let answer = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&answer));
    let first = rig.paying("k");
    upstream.next_request().await;
    let waiting = rig.client("k").await;
    rig.counts("waiters", &[], 1).await;
    waiting.hang_up();
    rig.counts("waiters", &[], 0).await;
    answer.open();
    first.await.expect("an answer").is(201, "executed");
    assert_eq!(upstream.charges(), 1);
    assert_eq!(
        (rig.decisions("executed"), rig.decisions("in_progress")),
        (1, 1)
    );
}
