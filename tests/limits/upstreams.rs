//! Bounds of what upstreams may take.

use std::time::Duration;

use tokio::time::Instant;

use crate::bystander::Bystander;
use crate::support::{
    Act, Gate, Gateway, Problem, Request, Setup, StalledUpstream, ToyUpstream, until,
};
use crate::{SLACK, metric, settles};

/// A gateway before the bystander's upstream and, under `/other`, before this one with these settings.
async fn before(bystanders: &ToyUpstream, other: &str, settings: &str) -> Gateway {
    let toml = Setup::payments(bystanders).toml();
    Gateway::start(&format!(
        "{toml}[upstreams.other]\nendpoints = [{other:?}]\n{settings}\n\
         [[routes]]\nname = \"other\"\nupstream = \"other\"\npath = \"/other\"\nmethods = [\"POST\"]\n"
    ))
    .await
}

fn other(key: &str) -> Request {
    Request::post("/other")
        .auth("Bearer alice")
        .key(key)
        .body("{}")
}

const OTHER: (&str, &str) = ("upstream", "other");

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up_after_connect_timeout() {
    const LIMIT: Duration = Duration::from_millis(700);
    let (bystanders, silent) = (ToyUpstream::start(), StalledUpstream::start().await);
    let settings = "connect_timeout = \"700ms\"";
    let gateway = before(&bystanders, &silent.url(), settings).await;
    let bystander = Bystander::begin(&gateway).await;
    for attempt in 1..=2 {
        let begun = Instant::now();
        let answer = gateway.send(&other("k")).await;
        assert!(begun.elapsed() + SLACK >= LIMIT, "{:?}", begun.elapsed());
        // Nothing was sent, and the key is free: the next one tries again.
        answer.refuses(Problem::UNREACHABLE);
        let errors = metric(
            &gateway,
            "oncegate_upstream_errors_total",
            &[OTHER, ("kind", "connect")],
        );
        assert_eq!(errors.await, attempt);
    }
    bystander.was_served().await;
    settles(&gateway, "oncegate_upstream_in_flight", &[OTHER], 0).await;
    settles(&gateway, "oncegate_claims_held", &[], 0).await;
}

#[tokio::test]
async fn an_idle_connection_to_an_upstream_is_closed_after_idle_timeout() {
    let (bystanders, idle) = (ToyUpstream::start(), ToyUpstream::start());
    let gateway = before(&bystanders, &idle.url(), "idle_timeout = \"500ms\"").await;
    let bystander = Bystander::begin(&gateway).await;
    let used_again = || idle.charges() - idle.connections();
    for _ in 0..2 {
        let before = used_again();
        until("one to be used again while it is young", || async {
            let key = idle.charges().to_string();
            gateway.send(&other(&key)).await.is(201, "executed");
            (used_again() > before).then_some(())
        })
        .await;
        settles(&gateway, "oncegate_upstream_connections_idle", &[OTHER], 0).await;
        settles(&gateway, "oncegate_upstream_connections", &[OTHER], 0).await;
    }
    bystander.was_served().await;
}

#[tokio::test]
async fn a_full_upstream_refuses_what_it_did_not_get_and_harms_no_other() {
    let (bystanders, full) = (ToyUpstream::start(), ToyUpstream::start());
    let gateway = before(&bystanders, &full.url(), "max_in_flight = 2").await;
    let bystander = Bystander::begin(&gateway).await;
    let gate = Gate::closed();
    full.next(Act::respond(201, &[], "").after(&gate));
    full.next(Act::respond(201, &[], "").after(&gate));
    let under_way = ["a", "b"].map(|key| gateway.spawn(&other(key)));
    full.received_at_least(2).await;
    assert_eq!(
        metric(&gateway, "oncegate_upstream_in_flight", &[OTHER]).await,
        2
    );
    assert_eq!(
        metric(&gateway, "oncegate_upstream_in_flight_limit", &[OTHER]).await,
        2
    );
    for saturated in 1..=3 {
        let refused = gateway.send(&other("c")).await;
        refused.refuses(Problem::OVERLOADED);
        refused.says_when_to_retry();
        let errors = metric(
            &gateway,
            "oncegate_upstream_errors_total",
            &[OTHER, ("kind", "saturated")],
        );
        assert_eq!(errors.await, saturated);
    }
    assert_eq!(gateway.metrics().await.decisions("other", "overloaded"), 3);
    gate.open();
    for answer in under_way {
        answer.await.expect("an answer").is(201, "executed");
    }
    gateway.send(&other("c")).await.is(201, "executed");
    bystander.was_served().await;
    assert_eq!(full.charges(), 3);
    settles(&gateway, "oncegate_upstream_in_flight", &[OTHER], 0).await;
}
