//! What a key meets when its retention is over.

use std::time::{Duration, Instant};

use crate::support::{Act, Problem, Setup, ToyUpstream, payment, until};

#[tokio::test]
async fn a_key_that_is_remembered_is_refused_past_its_retention_and_at_last_forgotten() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("after_expiry = \"reject\"")
        .route("retention = { success = \"2s\" }")
        .start()
        .await;
    upstream.next(Act::respond(201, &[], "first"));
    gateway.send(&payment("k")).await.is(201, "executed");
    let expired = until("the answer to expire", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() != "replayed").then_some(answer)
    });
    expired.await.refuses(Problem::EXPIRED);
    let again = until("the key to be forgotten", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() != "refused").then_some(answer)
    });
    again.await.is(201, "executed");
    assert_eq!(upstream.charges(), 2);
    assert!(gateway.metrics().await.decisions("pay", "expired") >= 1);
}

#[tokio::test]
async fn a_key_that_is_remembered_is_refused_after_kill_9_too() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream)
        .embedded()
        .route("after_expiry = \"reject\"")
        .route("retention = { success = \"24h\", failure = \"2s\" }")
        .start()
        .await;
    let began = Instant::now();
    upstream.next(Act::respond(422, &[], "first"));
    gateway.send(&payment("k")).await.is(422, "executed");
    gateway.kill9().await;
    gateway.restart().await;
    let after = until("the answer to expire", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() != "replayed").then_some(answer)
    });
    let after = after.await;
    // On a busy machine the restart may have taken longer than the tombstone stood.
    if began.elapsed() < Duration::from_secs(4) {
        after.refuses(Problem::EXPIRED);
    }
}
