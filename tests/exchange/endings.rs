//! The end of a drain that takes too long.

use oncegate::protocol::Cause;
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient, patient};
use crate::store::Fate;
use crate::support::StalledUpstream;
use crate::support::{Act, Gate, Problem, Setup, ToyUpstream};

#[tokio::test]
async fn what_was_sent_when_a_drain_is_cut_short_is_unknown() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    upstream.next(Act::hang());
    let first = rig.paying("k");
    upstream.next_request().await;
    let finished = rig.finishing();
    assert!(rig.store.is_claimed());
    rig.gateway.cut_short();
    finished.await.expect("no panic");
    assert_eq!(rig.store.unknown_cause(), Some(Cause::Drained));
    first.await.expect("an answer").refuses(Problem::FAILED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn what_was_provably_not_sent_when_a_drain_is_cut_short_is_released() {
    let upstream = StalledUpstream::start().await;
    let setup = Setup::payments_at(&upstream.url()).upstream("connect_timeout = \"20s\"");
    let rig = Rig::start(&setup);
    let first = rig.paying("k");
    rig.counts("claims_held", &[], 1).await;
    let finished = rig.finishing();
    assert!(!finished.is_finished());
    rig.gateway.cut_short();
    finished.await.expect("no panic");
    assert_eq!(rig.store.record(), None);
    first.await.expect("an answer").refuses(Problem::OVERLOADED);
}

#[tokio::test]
async fn what_is_claimed_after_a_drain_was_cut_short_is_not_sent_and_leaves_no_claim() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&patient(&upstream));
    upstream.always(|_| Act::hang());
    let claimed = Gate::closed();
    rig.store.next(StoreOp::Claim, Fate::Slow(claimed.clone()));
    let first = rig.paying("k");
    rig.store.asked(StoreOp::Claim, 1).await;
    let finished = rig.finishing();
    rig.gateway.cut_short();
    claimed.open();
    finished.await.expect("no panic");
    let first = first.await.expect("an answer");
    first.refuses(Problem::OVERLOADED);
    assert_eq!(rig.store.record(), None);
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_dispatch_that_is_open_for_a_late_answer_does_not_outlast_a_drain_cut_short() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("response_timeout = \"300ms\""));
    upstream.next(Act::hang());
    rig.pay("k").await.refuses(Problem::TIMEOUT);
    let finished = rig.finishing();
    rig.counts("late_dispatches", &[], 1).await;
    assert!(!finished.is_finished());
    rig.gateway.cut_short();
    finished.await.expect("no panic");
    assert_eq!(rig.store.unknown_cause(), Some(Cause::Timeout));
    let none = [("route", "pay"), ("result", "none")];
    assert_eq!(rig.value("late_answers_total", &none), 1);
}
