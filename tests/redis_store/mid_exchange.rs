//! The store is lost after the upstream has been sent a request.

use std::time::{Duration, Instant};

use crate::gateways::{id_key, setup};
use crate::support::{Act, Gate, RedisServer, ToyUpstream, payment, until, within};

const RECORD_TIMEOUT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_is_given_in_time_and_replayed_once_the_store_is_back() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &key).route("record_timeout = \"500ms\"");
    let (one, other) = (setup.start().await, setup.start().await);
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = one.spawn(&payment("k"));
    upstream.next_request().await;
    server.freeze();
    let answered = Instant::now();
    gate.open();
    let answer = within("an answer", first).await.expect("an answer");
    assert_eq!(answer.is(201, "unrecorded").text(), "paid");
    let took = answered.elapsed();
    assert!(
        took >= RECORD_TIMEOUT && took < RECORD_TIMEOUT * 4,
        "{took:?}"
    );

    server.thaw();
    for gateway in [&other, &one] {
        let replayed = until("the answer to be recorded", || async {
            let answer = gateway.send(&payment("k")).await;
            (answer.idempotency_status() == "replayed").then_some(answer)
        })
        .await;
        assert_eq!(replayed.is(201, "replayed").text(), "paid");
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_drain_waits_until_what_was_answered_is_recorded() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &key).route("record_timeout = \"100ms\"");
    let (mut one, other) = (setup.start().await, setup.start().await);
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = one.spawn(&payment("k"));
    upstream.next_request().await;
    server.freeze();
    gate.open();
    first.await.expect("an answer").is(201, "unrecorded");
    one.drains().await;
    // It is still there after the time in which a gateway without work would have ended.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(one.admin("/healthz").await.is_some());
    server.thaw();
    let status = within("the gateway to end", one.ended()).await;
    assert_eq!(status.code(), Some(0));
    let replayed = other.send(&payment("k")).await;
    assert_eq!(replayed.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_drain_waits_for_a_store_that_is_gone_no_longer_than_it_may() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &key)
        .top("drain_timeout = \"3s\"")
        .route("record_timeout = \"100ms\"");
    let mut gateway = setup.start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    server.kill9();
    gate.open();
    first.await.expect("an answer").is(201, "unrecorded");
    let begun = Instant::now();
    gateway.sigterm();
    let status = within("the gateway to end", gateway.ended()).await;
    assert_eq!(status.code(), Some(0));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(10),
        "{took:?}"
    );
}
