//! SIGHUP and changed files: a configuration is in force whole, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use crate::support::{
    Act, Connection, Gate, Gateway, Problem, Request, Setup, ToyUpstream, payment, until,
};

/// How often the configuration was read again, and with this result.
async fn reloads(gateway: &Gateway, result: &str) -> Option<f64> {
    let metrics = gateway.metrics().await;
    metrics.value("oncegate_config_reloads_total", &[("result", result)])
}

pub async fn reloaded(gateway: &Gateway, result: &str, times: f64) {
    until("the configuration to be read again", || async {
        (reloads(gateway, result).await == Some(times)).then_some(())
    })
    .await;
}

/// When the configuration in force was read.
async fn last_success(gateway: &Gateway) -> f64 {
    let name = "oncegate_config_last_reload_success_timestamp_seconds";
    let metrics = gateway.metrics().await;
    metrics.value(name, &[]).expect("the start was one")
}

/// A route more than the setup has.
fn with_refunds(setup: &Setup) -> Setup {
    setup.clone().another_route(
        "name = \"refund\"\npath = \"/v1/refunds\"\nmethods = [\"POST\"]\nkey_required = false",
    )
}

fn refund(key: &str) -> Request {
    Request {
        target: "/v1/refunds".to_owned(),
        ..payment(key)
    }
}

#[tokio::test]
async fn a_reload_under_load_fails_no_request_and_a_bad_file_changes_nothing() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded();
    let gateway = setup.start().await;
    gateway
        .send(&refund("r0"))
        .await
        .is_problem(Problem::NO_ROUTE);
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let load: Vec<_> = (0..3)
        .map(|client| {
            let (stop, sent, address) = (Arc::clone(&stop), Arc::clone(&sent), gateway.address);
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let answer = connection
                        .send(&payment(&format!("{client}-{number}")))
                        .await;
                    answer.is(201, "executed");
                }
            })
        })
        .collect();
    let begun = last_success(&gateway).await;
    until("another second", || async {
        let now = UNIX_EPOCH.elapsed().expect("a clock").as_secs_f64();
        (now >= begun + 1.0).then_some(())
    })
    .await;
    gateway.rewrite(&with_refunds(&setup).toml());
    gateway.sighup();
    reloaded(&gateway, "done", 1.0).await;
    let succeeded = last_success(&gateway).await;
    assert!(succeeded > begun, "{succeeded} {begun}");
    gateway.send(&refund("r1")).await.is(201, "executed");
    for (times, wrong) in ["[[routes", "profile = \"nowhere\"\n", ""]
        .iter()
        .enumerate()
    {
        gateway.rewrite(&format!(
            "{wrong}{}",
            setup
                .toml()
                .replace("upstream = \"toy\"", "upstream = \"tay\"")
        ));
        gateway.sighup();
        reloaded(&gateway, "failed", times as f64 + 1.0).await;
        gateway
            .send(&refund(&format!("s{times}")))
            .await
            .is(201, "executed");
    }
    assert!((last_success(&gateway).await - succeeded).abs() < f64::EPSILON);
    gateway.rewrite(&setup.toml());
    gateway.sighup();
    reloaded(&gateway, "done", 2.0).await;
    gateway
        .send(&refund("r2"))
        .await
        .is_problem(Problem::NO_ROUTE);
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("no request fails");
    }
    // What was counted before goes on being counted, and was not counted twice.
    let metrics = gateway.metrics().await;
    let labels = [("route", "pay"), ("decision", "executed")];
    let executed = metrics.value("oncegate_decisions_total", &labels);
    assert_eq!(executed, Some(sent.load(Ordering::Relaxed) as f64));
}

#[tokio::test]
async fn what_is_under_way_and_who_waits_for_it_go_on_through_a_reload() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).route("wait = \"60s\"");
    let gateway = setup.start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let before = gateway.spawn(&payment("k"));
    waiting(&gateway, 1.0).await;
    gateway.rewrite(&with_refunds(&setup).toml());
    gateway.sighup();
    reloaded(&gateway, "done", 1.0).await;
    let after = gateway.spawn(&payment("k"));
    waiting(&gateway, 2.0).await;
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    for duplicate in [before, after] {
        let answer = duplicate.await.expect("an answer");
        assert_eq!(answer.is(201, "replayed").text(), "paid");
    }
    assert_eq!(upstream.charges(), 1);
}

async fn waiting(gateway: &Gateway, count: f64) {
    until("the duplicates to wait", || async {
        let waiters = gateway.metrics().await.value("oncegate_waiters", &[]);
        (waiters == Some(count)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_only_a_start_reads_is_named_and_nothing_of_the_file_is_in_force() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let other = with_refunds(&setup)
        .limits("max_late = 7")
        .store("timeout = \"300ms\"");
    assert!(!gateway.reload(&other.toml()).await);
    let said = gateway.log().message(REFUSED).await;
    let error = said["error"].as_str().expect("a reason");
    assert_eq!(error, "only a restart can change store.timeout");
    gateway
        .send(&refund("r"))
        .await
        .is_problem(Problem::NO_ROUTE);
}

#[tokio::test]
async fn a_changed_file_is_noticed_without_a_signal_where_that_is_asked_for() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).top("reload = \"1s\"");
    let gateway = setup.start().await;
    gateway.rewrite(&with_refunds(&setup).toml());
    reloaded(&gateway, "done", 1.0).await;
    gateway.send(&refund("r")).await.is(201, "executed");
}

#[tokio::test]
async fn another_token_is_asked_for_after_a_reload() {
    let upstream = ToyUpstream::start();
    let folder = tempfile::tempdir().expect("a directory");
    let token = folder.path().join("token");
    std::fs::write(&token, "first-first-first-first").expect("a token");
    let setup = Setup::payments(&upstream).operators(&token);
    let gateway = setup.start().await;
    let status = async |token: &str| {
        let request =
            Request::get("/v1/records").header("Authorization", &format!("Bearer {token}"));
        Connection::open(gateway.admin)
            .await
            .send(&request)
            .await
            .status
    };
    assert_eq!(status("first-first-first-first").await, 200);
    std::fs::write(&token, "second-second-second").expect("a token");
    gateway.sighup();
    reloaded(&gateway, "done", 1.0).await;
    assert_eq!(status("first-first-first-first").await, 401);
    assert_eq!(status("second-second-second").await, 200);
}

const REFUSED: &str = "the configuration was read again and cannot be used; the one in force stays";

#[tokio::test]
async fn what_was_counted_of_an_upstream_that_a_reload_replaces_is_not_lost() {
    let (upstream, gone) = (ToyUpstream::start(), ToyUpstream::start());
    let setup = Setup::payments(&upstream).endpoint(&gone.url());
    let (gateway, url) = (setup.start().await, gone.url());
    drop(gone);
    // Nobody scrapes before the reload.
    for number in 0..30 {
        let answer = gateway.send(&payment(&format!("k{number}"))).await;
        answer.is(201, "executed");
    }
    gateway.rewrite(&setup.upstream("max_in_flight = 9").toml());
    gateway.sighup();
    let in_force = "the configuration was read again, and is in force";
    gateway.log().message(in_force).await;
    let metrics = gateway.metrics().await;
    let name = "oncegate_upstream_ejections_total";
    assert_eq!(metrics.value(name, &[("endpoint", &url)]), Some(1.0));
}
