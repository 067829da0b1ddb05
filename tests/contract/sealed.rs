//! Responses encrypted at rest.

use std::fs;

use crate::support::{Act, Problem, Setup, ToyUpstream, payment};

const CARD: &str = "4242-4242-4242-4242";

#[tokio::test]
async fn an_encrypted_response_is_replayed_after_kill_9_and_stands_nowhere_in_the_clear() {
    let upstream = ToyUpstream::start();
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    fs::write(&key, "a secret of more than thirty-two bytes\n").unwrap();
    let keys = format!("encryption_keys = [{{ id = \"2026-11\", key = {{ file = {key:?} }} }}]");
    let mut gateway = Setup::payments(&upstream)
        .embedded()
        .store(&keys)
        .start()
        .await;
    upstream.next(Act::respond(201, &[("X-Card", CARD)], CARD.repeat(200)));
    let first = gateway.send(&payment("k")).await;
    first.is(201, "executed");
    gateway.kill9().await;
    let file = fs::read(gateway.directory().join("gate.db")).unwrap();
    let holds = |what: &[u8]| file.windows(what.len()).any(|window| window == what);
    assert!(!holds(CARD.as_bytes()) && !holds(b"x-card"));
    assert!(holds(b"2026-11"), "the name of the key is there");
    gateway.restart().await;
    let again = gateway.send(&payment("k")).await;
    again.is(201, "replayed");
    assert_eq!(again.body, first.body);
    assert_eq!(again.text(), CARD.repeat(200));

    // Without the key nobody knows the answer, and nothing is sent again.
    gateway.kill9().await;
    fs::write(&key, "another secret of more than thirty-two bytes").unwrap();
    gateway.restart().await;
    let refused = gateway.send(&payment("k")).await;
    refused.refuses(Problem::STORE_UNAVAILABLE);
    assert_eq!(upstream.charges(), 1);
}
