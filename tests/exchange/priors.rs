//! Attempts that follow one of which no outcome is known: nothing that they meet says that nothing happened.

use oncegate::protocol::{Cause, Resolution, State};
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient};
use crate::store::{Fate, STRANGER};
use crate::support::RefusedPort;
use crate::support::StalledUpstream;
use crate::support::{Act, Problem, Setup, ToyUpstream};

/// `upstream-unreachable` where an earlier attempt was sent.
const UNREACHABLE_AFTER_PRIOR: Problem = Problem {
    operation_state: "unknown",
    ..Problem::UNREACHABLE
};

/// Asserts that the record says again what the attempt before left behind.
fn assert_prior_is_restored(rig: &Rig) {
    match rig.store.state() {
        Some(State::Unknown(unknown)) => {
            assert_eq!(unknown.seen.owner, STRANGER);
            assert_eq!(unknown.seen.fence, 2, "the fence of the claim given back");
            assert_eq!(unknown.cause, Cause::ConnectionLost);
        }
        state => panic!("{state:?}"),
    }
}

#[tokio::test]
async fn an_unreachable_upstream_leaves_the_earlier_attempt_unknown() {
    let port = RefusedPort::take();
    let rig = Rig::start(&Setup::payments_at(&port.url()));
    rig.store.next(StoreOp::Claim, Fate::TakesOver);
    rig.pay("k").await.refuses(UNREACHABLE_AFTER_PRIOR);
    assert_prior_is_restored(&rig);
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(rig.decisions("unknown"), 2);
}

#[tokio::test]
async fn an_unreachable_upstream_says_unknown_though_the_store_is_silent() {
    let port = RefusedPort::take();
    let setup = Setup::payments_at(&port.url())
        .store("timeout = \"100ms\"")
        .route("record_timeout = \"200ms\"");
    let rig = Rig::start(&setup);
    rig.store.next(StoreOp::Claim, Fate::TakesOver);
    rig.store.always(StoreOp::Release, Fate::down());
    rig.pay("k").await.refuses(UNREACHABLE_AFTER_PRIOR);
    assert_eq!(rig.decisions("unknown"), 1);
    rig.store.works(StoreOp::Release);
    rig.is_quiet().await;
    assert_prior_is_restored(&rig);
}

#[tokio::test]
async fn an_unreachable_upstream_says_unknown_though_an_operator_has_freed_the_key() {
    let upstream = StalledUpstream::start().await;
    let setup = Setup::payments_at(&upstream.url()).upstream("connect_timeout = \"500ms\"");
    let rig = Rig::start(&setup);
    rig.store.next(StoreOp::Claim, Fate::TakesOver);
    let first = rig.paying("k");
    rig.counts("claims_held", &[], 1).await;
    rig.store.resolve(Resolution::Gone);
    let first = first.await.expect("an answer");
    assert_eq!(first.json()["operation_state"], "unknown", "{first:?}");
}

#[tokio::test]
async fn an_answer_that_may_speak_of_the_earlier_attempt_leaves_it_unknown() {
    for status in [401, 409, 423, 425, 429] {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&impatient(&upstream));
        rig.store.next(StoreOp::Claim, Fate::TakesOver);
        upstream.next(Act::respond(status, &[], "busy"));
        let first = rig.pay("k").await;
        assert_eq!(first.is(status, "unknown").text(), "busy");
        assert_eq!(rig.store.unknown_cause(), Some(Cause::Status(status)));
        rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
        assert_eq!(upstream.charges(), 1);
    }
}

#[tokio::test]
async fn an_answer_settles_both_attempts() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.store.next(StoreOp::Claim, Fate::TakesOver);
    let first = rig.pay("k").await;
    first.is(201, "executed");
    assert_eq!(rig.pay("k").await.is(201, "replayed").body, first.body);
    assert_eq!(upstream.charges(), 1);
}
