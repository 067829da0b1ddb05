//! Observe mode beside a store that works, hangs and fails: nothing changes for the client, and the counts are right.

use oncegate::protocol::{Cause, State};
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient, patient};
use crate::store::Fate;
use crate::support::{Act, Gate, RefusedPort, Setup, Step, ToyUpstream, payment};

fn observing(upstream: &ToyUpstream) -> Setup {
    impatient(upstream).route("mode = \"observe\"")
}

impl Rig {
    async fn observes(&self, would_be: &str, times: u64) {
        let labels = [("route", "pay"), ("would_be", would_be)];
        self.counts("observed_total", &labels, times).await;
    }
}

#[tokio::test]
async fn duplicates_go_through_and_are_counted() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&observing(&upstream));
    for charge in 1..=3 {
        let answer = rig.pay("k").await;
        let charged = format!("{{\"charge\":\"ch_{charge}\"}}");
        assert_eq!(answer.is(201, "observed").text(), charged);
    }
    rig.send(&payment("k").body("other"))
        .await
        .is(201, "observed");
    rig.observes("executed", 1).await;
    rig.observes("replayed", 2).await;
    rig.observes("mismatch", 1).await;
    assert_eq!(upstream.charges(), 4);
    let decided = (
        rig.decisions("observed"),
        rig.decisions("observed_duplicate"),
    );
    assert_eq!((decided, rig.all_decisions()), ((1, 3), 4));
    let durations = rig.value("request_duration_seconds_count", &[("route", "pay")]);
    assert_eq!(durations, 4);
    // Fingerprint and status, and nothing else.
    let record = rig.store.record().expect("a record");
    assert!(record.reference.is_empty(), "{record:?}");
    assert_eq!(rig.store.recorded_body().as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn a_duplicate_while_the_first_is_under_way_goes_through_and_is_counted_as_in_progress() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&observing(&upstream).route("lease = \"300ms\""));
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "first").after(&gate));
    let first = rig.paying("k");
    upstream.next_request().await;
    rig.observes("executed", 1).await;
    // Longer than its lease.
    rig.store.asked(StoreOp::Renew, 4).await;
    rig.pay("k").await.is(201, "observed");
    rig.observes("in_progress", 1).await;
    gate.open();
    first.await.expect("an answer").is(201, "observed");
    rig.pay("k").await.is(201, "observed");
    rig.observes("replayed", 1).await;
    assert_eq!(upstream.charges(), 3);
}

#[tokio::test]
async fn a_store_that_hangs_delays_nothing_and_is_counted() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&patient(&upstream).route("mode = \"observe\""));
    rig.store.always(StoreOp::Claim, Fate::Dropped);
    // The store is given up on after thirty seconds, which is when this test would have failed.
    for _ in 0..3 {
        rig.pay("k").await.is(201, "observed");
    }
    assert_eq!(upstream.charges(), 3);
    rig.store.asked(StoreOp::Claim, 3).await;
    let finished = rig.finishing();
    rig.gateway.cut_short();
    drop(finished);

    let impatient = Rig::start(&observing(&upstream));
    impatient.store.always(StoreOp::Claim, Fate::Dropped);
    impatient.pay("k").await.is(201, "observed");
    impatient.observes("store_unavailable", 1).await;
    assert_eq!(impatient.decisions("observed"), 1);
    // Whatever became of the claim, nothing is left of it.
    impatient.store.asked(StoreOp::Release, 1).await;
}

#[tokio::test]
async fn a_store_that_is_down_changes_nothing_but_the_counts() {
    let upstream = ToyUpstream::start();
    for on_store_down in ["reject", "forward"] {
        let setup = observing(&upstream).route(&format!("on_store_down = \"{on_store_down}\""));
        let rig = Rig::start(&setup);
        rig.store.always(StoreOp::Claim, Fate::down());
        rig.pay("k").await.is(201, "observed");
        rig.pay("k").await.is(201, "observed");
        rig.observes("store_unavailable", 2).await;
        assert_eq!(rig.decisions("observed"), 2);
    }
    assert_eq!(upstream.charges(), 4);
}

#[tokio::test]
async fn a_duplicate_that_comes_before_the_store_has_heard_of_the_end_is_counted_as_replayed() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(
        &patient(&upstream)
            .route("mode = \"observe\"")
            .route("record_timeout = \"20s\""),
    );
    let recorded = Gate::closed();
    rig.store
        .next(StoreOp::Complete, Fate::Slow(recorded.clone()));
    rig.pay("k").await.is(201, "observed");
    // Both are answered while the store is still at it.
    rig.pay("k").await.is(201, "observed");
    rig.store.asked(StoreOp::Look, 1).await;
    recorded.open();
    rig.observes("replayed", 1).await;
    rig.observes("in_progress", 0).await;
}

#[tokio::test]
async fn a_duplicate_of_what_is_being_released_is_the_first_of_its_key() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(
        &patient(&upstream)
            .route("mode = \"observe\"")
            .route("record_timeout = \"20s\""),
    );
    let released = Gate::closed();
    rig.store
        .next(StoreOp::Release, Fate::Slow(released.clone()));
    upstream.next(Act::respond(429, &[], ""));
    rig.pay("k").await.is(429, "observed");
    rig.pay("k").await.is(201, "observed");
    rig.store.asked(StoreOp::Look, 1).await;
    released.open();
    rig.observes("executed", 2).await;
    rig.pay("k").await.is(201, "observed");
    rig.observes("replayed", 1).await;
}

#[tokio::test]
async fn what_the_first_came_to_is_what_a_duplicate_would_have_met() {
    let upstream = ToyUpstream::start();
    let streamed = || Act::event_stream().chunk("data: 1\n\n").last_chunk();
    for (first, status, would_be) in [
        (Act::respond(429, &[], ""), 429, "executed"),
        (Act::respond(503, &[], ""), 503, "unknown"),
        (Act::reset_after_reading(), 502, "unknown"),
        (Act::respond(422, &[], ""), 422, "replayed"),
        (Act::respond(201, &[], [b'x'; 100]), 201, "not_stored"),
        (streamed(), 200, "not_stored"),
    ] {
        let rig = Rig::start(&observing(&upstream).route("max_response_body = \"99B\""));
        upstream.next(first);
        rig.pay("k").await.is(status, "observed");
        rig.observes("executed", 1).await;
        rig.pay("k").await.is(201, "observed");
        rig.observes(would_be, 1 + u64::from(would_be == "executed"))
            .await;
        assert_eq!(rig.all_decisions(), 2, "{status}");
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_leaves_the_key_free() {
    let port = RefusedPort::take();
    let setup = Setup::payments_at(&port.url()).route("mode = \"observe\"");
    let rig = Rig::start(&setup);
    let bodiless = payment("k").body("");
    let answer = rig.send(&bodiless).await;
    answer.is(502, "observed");
    rig.observes("executed", 1).await;
    rig.store.asked(StoreOp::Release, 1).await;
    let upstream = port.listen();
    rig.send(&bodiless).await.is(201, "observed");
    rig.observes("executed", 2).await;
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_its_request_along_and_its_retry_is_counted_as_unseen() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&observing(&upstream));
    upstream.next(Act::hang());
    let client = rig.client("k").await;
    upstream.next_request().await;
    rig.observes("executed", 1).await;
    client.hang_up();
    // A hanging act ends when the gateway closes its connection.
    upstream.close_idle_connections().await;
    rig.store.asked(StoreOp::MarkUnknown, 1).await;
    rig.pay("k").await.is(201, "observed");
    rig.observes("unseen", 1).await;
    assert_eq!(rig.store.unknown_cause(), Some(Cause::LeaseLapsed));
    let decided = (
        rig.decisions("observed"),
        rig.decisions("observed_duplicate"),
    );
    assert_eq!(decided, (1, 1));
}

#[tokio::test]
async fn an_answer_with_another_status_than_the_first_one_had_is_counted() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&observing(&upstream));
    rig.pay("k").await.is(201, "observed");
    rig.observes("executed", 1).await;
    upstream.next(Act::respond(422, &[], "no more"));
    rig.pay("k").await.is(422, "observed");
    upstream.next(Act::reset_after_reading());
    rig.pay("k").await.is(502, "observed");
    rig.pay("k").await.is(201, "observed");
    rig.pay("k").await.is(201, "observed");
    for (answer, times) in [("other_status", 1), ("no_answer", 1), ("same_status", 2)] {
        let labels = [("route", "pay"), ("answer", answer)];
        rig.counts("observed_replays_total", &labels, times).await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_and_its_retry_is_counted_as_unknown() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&observing(&upstream));
    let gate = Gate::closed();
    let part = Act::stream(200, &[]).chunk("part").then_wait(&gate);
    upstream.next(part.then(Step::Close));
    let mut client = rig.client("k").await;
    assert_eq!(client.answer_head().await.0, 200);
    assert_eq!(client.chunk().await.as_deref(), Some(&b"part"[..]));
    gate.open();
    client.closed().await;
    rig.store.verdicts(StoreOp::MarkUnknown, 1).await;
    assert_eq!(rig.store.unknown_cause(), Some(Cause::Truncated));
    rig.pay("k").await.is(201, "observed");
    rig.observes("unknown", 1).await;
}

#[tokio::test]
async fn a_key_past_its_retention_is_counted_as_its_route_says() {
    for (after_expiry, would_be, times) in [("execute", "executed", 2), ("reject", "expired", 1)] {
        let upstream = ToyUpstream::start();
        let setup = observing(&upstream).route(&format!("after_expiry = \"{after_expiry}\""));
        let rig = Rig::start(&setup);
        rig.pay("k").await.is(201, "observed");
        rig.store.verdicts(StoreOp::Complete, 1).await;
        rig.store.ages(std::time::Duration::from_secs(25 * 3600));
        rig.pay("k").await.is(201, "observed");
        rig.observes(would_be, times).await;
    }
}

#[tokio::test]
async fn what_was_observed_is_never_found_by_a_protected_route_of_the_same_id() {
    let upstream = ToyUpstream::start();
    let setup = observing(&upstream)
        .route("id = \"shared\"")
        .another_route("name = \"strict\"\nid = \"shared\"\npath = \"/strict\"");
    let rig = Rig::start(&setup);
    rig.pay("k").await.is(201, "observed");
    rig.store.verdicts(StoreOp::Complete, 1).await;
    let mut strict = payment("k");
    strict.target = "/strict".to_owned();
    rig.send(&strict).await.is(201, "executed");
    rig.send(&strict).await.is(201, "replayed");
    // Nor the other way.
    rig.pay("k").await.is(201, "observed");
    rig.observes("replayed", 1).await;
    assert_eq!(rig.store.states().len(), 2);
    assert!(
        rig.store
            .states()
            .iter()
            .all(|state| matches!(state, State::Completed(_)))
    );
}

#[tokio::test]
async fn a_json_body_is_compared_by_value_where_there_is_room_for_a_copy() {
    let upstream = ToyUpstream::start();
    let setup = observing(&upstream)
        .route("fingerprint = { body = \"json\" }")
        .route("max_request_body = \"1000B\"")
        .route("max_response_body = \"1000B\"")
        .limits("max_buffered = \"1000B\"");
    let rig = Rig::start(&setup);
    rig.send(&payment("k").body("{\"a\":1,\"b\":2}"))
        .await
        .is(201, "observed");
    rig.observes("executed", 1).await;
    rig.send(&payment("k").body("{\"b\": 2, \"a\": 1}"))
        .await
        .is(201, "observed");
    rig.observes("replayed", 1).await;
    rig.send(&payment("k").body("{\"a\":1,\"b\":3}"))
        .await
        .is(201, "observed");
    rig.observes("mismatch", 1).await;
    // The other half is for those that cannot do without.
    let long = format!("[\"{}\"]", "x".repeat(600));
    rig.send(&payment("k").body(&long))
        .await
        .is(201, "observed");
    rig.observes("not_observed", 1).await;
    assert_eq!(upstream.charges(), 4);
    assert_eq!(rig.value("buffered_bytes", &[]), 0);
}
