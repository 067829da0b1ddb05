//! What an operator says at one gateway counts at all of them.

use std::time::{Duration, Instant};

use oncegate::config::RedisForm;
use serde_json::json;

use crate::conformance::Harness;
use crate::gateways::{id_key, setup};
use crate::rig::{Virtual, claim, complete, config, id};
use crate::support::{Act, Operator, Problem, RedisServer, ToyUpstream, payment, until};

/// How soon every gateway heeds an operator's word.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn what_one_gateway_deleted_no_gateway_replays_two_seconds_later() {
    let (upstream, server, operator) =
        (ToyUpstream::start(), RedisServer::start(), Operator::new());
    let (key, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &key);
    let (one, other) = (operator.starts(&setup).await, operator.starts(&setup).await);
    one.send(&payment("k")).await.is(201, "executed");
    // The other gateway remembers it.
    until("a replay from memory", || async {
        other.send(&payment("k")).await.is(201, "replayed");
        let metrics = other.metrics().await;
        let hits = metrics.value("oncegate_replay_cache_hits_total", &[]);
        hits.filter(|hits| *hits > 0.0)
    })
    .await;
    let record = operator.finds(&one, "k").await.json();
    let deleted = operator.says(&one, &record, "delete", json!({})).await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let begun = Instant::now();
    // At the gateway that was told, at once.
    assert_eq!(operator.finds(&one, "k").await.status, 404);
    until("the other gateway to forget it", || async {
        (other.send(&payment("k")).await.idempotency_status() == "executed").then_some(())
    })
    .await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn what_one_gateway_sent_is_settled_at_another_one() {
    let (upstream, server, operator) =
        (ToyUpstream::start(), RedisServer::start(), Operator::new());
    let (key, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &key).route("response_timeout = \"500ms\"");
    let (one, other) = (operator.starts(&setup).await, operator.starts(&setup).await);
    for act in ["resolve", "release"] {
        upstream.next(Act::hang());
        one.send(&payment(act)).await.refuses(Problem::TIMEOUT);
        let record = operator.unresolved(&other, 1).await.remove(0);
        assert!(record["written_at"].is_string(), "{record}");
        let response = match act {
            "resolve" => json!({ "status": 201, "body": "paid" }),
            _ => json!({}),
        };
        let settled = operator.says(&other, &record, act, response).await;
        assert_eq!(settled.status, 200, "{settled:?}");
    }
    let replayed = one.send(&payment("resolve")).await;
    assert_eq!(replayed.is(201, "replayed").text(), "paid");
    one.send(&payment("release")).await.is(201, "executed");
}

#[tokio::test]
async fn a_drain_waits_for_what_an_operator_has_begun_and_for_its_line_in_the_audit_log() {
    let (upstream, server, operator) =
        (ToyUpstream::start(), RedisServer::start(), Operator::new());
    let (key, _directory) = id_key("k");
    // As long as the store is held, and a slow machine takes.
    let setup = setup(&upstream, &server, &key).store("timeout = \"5s\"");
    let mut gateway = operator.starts(&setup).await;
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    let record = operator.unresolved(&gateway, 1).await.remove(0);
    assert_eq!(server.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]), "OK");
    let drain = async {
        until("the store to hold the operator's word", || async {
            let clients = server.cli(&["INFO", "clients"]);
            clients.contains("blocked_clients:1").then_some(())
        })
        .await;
        gateway.sigterm();
        let waits = "waiting for what an operator settles at this moment";
        gateway.log().message(waits).await;
        // It is too late for others.
        let late = operator.says(&gateway, &record, "delete", json!({})).await;
        assert_eq!(late.status, 503, "{late:?}");
        assert_eq!(server.cli(&["CLIENT", "UNPAUSE"]), "OK");
    };
    let (said, ()) = tokio::join!(
        operator.says(&gateway, &record, "release", json!({})),
        drain
    );
    assert_eq!(said.status, 200, "{said:?}");
    assert!(gateway.ended().await.success());
    let audit = Operator::audit(&gateway);
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert_eq!(audit[0]["action"], "release");
    assert_eq!(audit[0]["result"], "done");
}

#[tokio::test]
async fn what_nobody_settled_in_its_retention_is_counted_once_by_whoever_lists() {
    let server = RedisServer::start();
    let mut store = Virtual::new(&config(RedisForm::Single, &[server.port]));
    for n in 1..=2 {
        store.store().apply(id(n), claim(1)).await.unwrap();
    }
    store.store().apply(id(2), complete(1)).await.unwrap();
    store.advance(Duration::from_secs(30)).await;
    assert_eq!(store.store().unresolved(None, 10).await.unwrap().len(), 1);
    store.advance(Duration::from_secs(86_400)).await;
    for _ in 0..2 {
        assert_eq!(store.store().unresolved(None, 10).await, Ok(Vec::new()));
        assert_eq!(store.store().usage().aged_out, 1);
    }
}
