//! Keys past their retention, by the store's clock.

use std::time::Duration;

use oncegate::protocol::State;

use crate::rig::{Rig, impatient};
use crate::support::{Act, Gate, Problem, Setup, ToyUpstream, payment};

const HOUR: Duration = Duration::from_secs(3600);

fn remembering(upstream: &ToyUpstream) -> Setup {
    forgetting(upstream).route("after_expiry = \"reject\"")
}

fn forgetting(upstream: &ToyUpstream) -> Setup {
    // A replay from memory would know nothing of the store's clock.
    impatient(upstream)
        .limits("replay_cache = \"0B\"")
        .route("retention = { success = \"1h\", failure = \"2h\", unknown = \"3h\" }")
}

#[tokio::test]
async fn a_key_is_refused_for_as_long_again_as_its_answer_was_kept_and_then_it_is_new() {
    for (status, keep) in [(201, HOUR), (422, 2 * HOUR)] {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&remembering(&upstream));
        upstream.next(Act::respond(status, &[], "first"));
        rig.pay("k").await.is(status, "executed");
        rig.store.ages(keep - Duration::from_secs(60));
        rig.pay("k").await.is(status, "replayed");
        rig.store.ages(Duration::from_secs(120));
        rig.pay("k").await.refuses(Problem::EXPIRED);
        rig.send(&payment("k").body("other"))
            .await
            .refuses(Problem::KEY_REUSED);
        assert_eq!(rig.store.state(), Some(State::Expired));
        rig.store.ages(keep - Duration::from_secs(120));
        rig.pay("k").await.refuses(Problem::EXPIRED);
        assert_eq!(upstream.charges(), 1);
        assert_eq!(rig.decisions("expired"), 2);
        rig.store.ages(Duration::from_secs(120));
        rig.pay("k").await.is(201, "executed");
    }
}

#[tokio::test]
async fn a_key_is_new_when_its_retention_is_over_unless_it_is_to_be_remembered() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&forgetting(&upstream));
    rig.pay("k").await.is(201, "executed");
    rig.store.ages(HOUR + Duration::from_secs(60));
    rig.pay("k").await.is(201, "executed");
    upstream.next(Act::reset_after_reading());
    rig.pay("u").await.refuses(Problem::FAILED);
    rig.store.ages(3 * HOUR + Duration::from_secs(60));
    rig.pay("u").await.is(201, "executed");
}

#[tokio::test]
async fn an_unknown_outcome_of_a_remembered_key_is_said_to_be_unknown_for_twice_its_retention() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&remembering(&upstream));
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.refuses(Problem::FAILED);
    // That it was completed is nowhere said: nobody knows.
    rig.store.ages(6 * HOUR - Duration::from_secs(60));
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
    rig.store.ages(Duration::from_secs(120));
    rig.pay("k").await.is(201, "executed");
}

#[tokio::test]
async fn a_claim_that_nobody_settled_is_held_as_unknown_for_twice_its_retention_where_keys_are_remembered()
 {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&remembering(&upstream));
    upstream.next(Act::hang());
    let client = rig.client("k").await;
    upstream.next_request().await;
    let kept = rig.store.record().expect("a claim").expires_at;
    rig.store.ages(HOUR);
    let left = kept.since(oncegate::store::system_clock()());
    assert!(
        left > 6 * HOUR - Duration::from_secs(60) && left <= 6 * HOUR,
        "{left:?}"
    );
    client.hang_up();
}

#[tokio::test]
async fn a_late_answer_settles_an_unknown_outcome_past_its_retention_where_keys_are_remembered() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&remembering(&upstream).route("response_timeout = \"300ms\""));
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "late").after(&gate));
    rig.pay("k").await.refuses(Problem::TIMEOUT);
    rig.store.ages(4 * HOUR);
    gate.open();
    let completed = [("route", "pay"), ("result", "completed")];
    rig.counts("late_answers_total", &completed, 1).await;
    assert_eq!(rig.pay("k").await.is(201, "replayed").text(), "late");
}

#[tokio::test]
async fn a_key_that_was_used_is_not_free_for_a_clock_that_was_set_back() {
    let upstream = ToyUpstream::start();
    let setup = forgetting(&upstream).route("key_format = \"uuid\"\nkey_age = \"reject\"");
    let rig = Rig::start(&setup);
    rig.store.ages(HOUR);
    let made_at = oncegate::store::system_clock()().plus(HOUR).0;
    let key = |last: u32| {
        let (high, low) = (made_at >> 16, made_at & 0xffff);
        format!("{high:08x}-{low:04x}-7000-8000-{last:012x}")
    };
    let (paid, unknown, unused) = (key(1), key(2), key(3));
    rig.pay(&paid).await.is(201, "executed");
    upstream.next(Act::reset_after_reading());
    rig.pay(&unknown).await.refuses(Problem::FAILED);
    rig.store.is_set_right();
    // That another key is safe would be a guess.
    rig.pay(&unknown).await.refuses(Problem::OUTCOME_UNKNOWN);
    rig.pay(&paid).await.is(201, "replayed");
    rig.pay(&unused).await.refuses(Problem::KEY_INVALID);
    assert_eq!(upstream.charges(), 2);
}
