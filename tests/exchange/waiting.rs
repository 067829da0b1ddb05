//! Duplicates that wait, for attempts of this process and of others.

use oncegate::protocol::Verdict;
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient, patient};
use crate::store::Fate;
use crate::support::{Act, Gate, Problem, ToyUpstream};

#[tokio::test]
async fn waiters_of_a_released_request_are_told_to_retry_once_it_is_released_and_do_not_dispatch() {
    let upstream = ToyUpstream::start();
    let setup = patient(&upstream)
        .route("wait = \"20s\"")
        .route("record_timeout = \"20s\"");
    let rig = Rig::start(&setup);
    let released = Gate::closed();
    rig.store
        .next(StoreOp::Release, Fate::Slow(released.clone()));
    upstream.next(Act::respond(429, &[], ""));
    let first = rig.paying("k");
    rig.store.asked(StoreOp::Release, 1).await;
    let waiting: Vec<_> = (0..4).map(|_| rig.paying("k")).collect();
    rig.counts("waiters", &[], 4).await;
    assert!(!first.is_finished() && waiting.iter().all(|one| !one.is_finished()));
    released.open();
    first.await.expect("an answer").is(429, "released");
    for waiting in waiting {
        let answer = waiting.await.expect("an answer");
        answer.refuses(Problem::IN_PROGRESS);
        answer.says_when_to_retry();
    }
    assert_eq!(upstream.charges(), 1);
    assert_eq!(rig.store.record(), None);
    assert_eq!(rig.value("waiters", &[]), 0);
    rig.pay("k").await.is(201, "executed");
}

#[tokio::test]
async fn no_more_wait_than_may_for_one_key_and_for_all() {
    for limit in ["max_waiters_per_key = 2", "max_waiters = 2"] {
        let upstream = ToyUpstream::start();
        let setup = impatient(&upstream).limits(limit).route("wait = \"20s\"");
        let rig = Rig::start(&setup);
        let gate = Gate::closed();
        upstream.next(Act::respond(201, &[], "paid").after(&gate));
        let first = rig.paying("k");
        upstream.next_request().await;
        let waiting = [rig.paying("k"), rig.paying("k")];
        rig.counts("waiters", &[], 2).await;
        let turned_away = rig.pay("k").await;
        turned_away.refuses(Problem::OVERLOADED);
        turned_away.says_when_to_retry();
        // One that leaves makes room.
        let [leaves, stays] = waiting;
        leaves.abort();
        rig.counts("waiters", &[], 1).await;
        let comes = rig.paying("k");
        rig.counts("waiters", &[], 2).await;
        gate.open();
        first.await.expect("an answer").is(201, "executed");
        for waiting in [stays, comes] {
            let answer = waiting.await.expect("an answer");
            assert_eq!(answer.is(201, "replayed").text(), "paid");
        }
        assert_eq!(upstream.charges(), 1);
    }
}

#[tokio::test]
async fn a_duplicate_of_another_processs_attempt_hears_its_answer() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("wait = \"20s\""));
    rig.store.next(StoreOp::Claim, Fate::AfterAStrangers);
    let waiting = rig.paying("k");
    rig.store.asked(StoreOp::Look, 1).await;
    assert!(!waiting.is_finished());
    assert_eq!(
        rig.store.stranger_completes(201, "paid elsewhere"),
        Verdict::Done
    );
    let answer = waiting.await.expect("an answer");
    assert_eq!(answer.is(201, "replayed").text(), "paid elsewhere");
    assert_eq!(rig.decisions("joined"), 1);
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn duplicates_of_another_processs_attempt_go_on_waiting_while_the_store_is_silent() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("wait = \"20s\""));
    rig.store.next(StoreOp::Claim, Fate::AfterAStrangers);
    rig.store.next(StoreOp::Look, Fate::Dropped);
    let waiting = rig.paying("k");
    rig.store.asked(StoreOp::Look, 1).await;
    rig.store.stranger_completes(201, "paid elsewhere");
    let answer = waiting.await.expect("an answer");
    assert_eq!(answer.is(201, "replayed").text(), "paid elsewhere");
}

#[tokio::test]
async fn duplicates_of_another_processs_attempt_are_told_to_retry_when_it_is_released() {
    let upstream = ToyUpstream::start();
    // Longer than this test waits for anything: nothing in it happens because a wait is over.
    let rig = Rig::start(&impatient(&upstream).route("wait = \"10m\""));
    rig.store.next(StoreOp::Claim, Fate::AfterAStrangers);
    let first = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    rig.store.asked(StoreOp::Look, 1).await;
    let second = rig.paying("k");
    rig.counts("waiters", &[], 2).await;
    // The second one asks the store itself: the first one has no claim that it could wait for.
    rig.store.asked(StoreOp::Claim, 2).await;
    assert_eq!(rig.store.stranger_releases(), Verdict::Done);
    for waiting in [first, second] {
        let answer = waiting.await.expect("an answer");
        answer.refuses(Problem::IN_PROGRESS);
        answer.says_when_to_retry();
    }
    assert_eq!(upstream.charges(), 0);
    rig.pay("k").await.is(201, "executed");
}

#[tokio::test]
async fn a_duplicate_of_another_processs_attempt_waits_no_longer_than_its_route_says() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("wait = \"200ms\""));
    rig.store.next(StoreOp::Claim, Fate::AfterAStrangers);
    let answer = rig.pay("k").await;
    answer.refuses(Problem::IN_PROGRESS);
    answer.says_when_to_retry();
    assert_eq!(rig.decisions("in_progress"), 1);
    assert_eq!(upstream.charges(), 0);
}
