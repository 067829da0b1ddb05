//! What `/metrics` says, as those read it who watch gateways.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{
    Act, Gate, Gateway, Http2, Problem, Request, Setup, ToyUpstream, payment, tool, until,
};

/// Some of everything that a route can do.
async fn traffic(gateway: &Gateway, upstream: &ToyUpstream) {
    gateway.send(&payment("a")).await.is(201, "executed");
    gateway.send(&payment("a")).await.is(201, "replayed");
    let other = payment("a").body("other");
    gateway.send(&other).await.refuses(Problem::KEY_REUSED);
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("b")).await.refuses(Problem::FAILED);
    upstream.next(Act::respond(201, &[], "x".repeat(2 << 20)));
    gateway.send(&payment("c")).await.is(201, "unrecorded");
    gateway.send(&Request::get("/else")).await.is(201, "");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_them() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    traffic(&gateway, &upstream).await;
    let page = gateway.admin("/metrics").await.expect("metrics");
    let mut promtool = Command::new(tool("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(&page.body).expect("promtool reads");
    drop(input);
    let said = promtool.wait_with_output().expect("promtool ends");
    let text = String::from_utf8_lossy(&said.stderr) + String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.is_empty(), "{text}");
}

#[tokio::test]
async fn no_request_makes_a_new_series() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let before = gateway.metrics().await.series();
    traffic(&gateway, &upstream).await;
    let http2 = Http2::open(gateway.address).await;
    for number in 0..20 {
        let odd = format!("x{number}");
        for request in [
            Request::new(&format!("METHOD{number}"), &format!("/{odd}?{odd}")),
            payment(&odd).auth(&odd).header("traceparent", &odd),
            payment(&format!("{odd} {odd}")),
            Request::get(&format!("/%2e/v1/payments/{odd}")),
            Request::post(&odd),
            Request::get("/x").header("Host", &format!("{odd}.example")),
            Request::get("/x").header("Host", "a").header("Host", &odd),
        ] {
            gateway.send(&request).await;
        }
        http2.send(&Request::get(&format!("/{odd}"))).await;
        upstream.next(Act::respond(400 + number, &[], &odd));
        gateway.send(&payment(&format!("status{number}"))).await;
    }
    assert_eq!(gateway.metrics().await.series(), before);
}

/// How long everything takes in the next test that is to be told from nothing.
const LONG: Duration = Duration::from_millis(200);

/// How much less of it may be seen, by clocks that tell milliseconds.
const SLACK: Duration = Duration::from_millis(10);

#[tokio::test]
async fn they_say_what_was_sent_how_much_of_it_and_how_long_it_took() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .rest_passes()
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "x".repeat(5000)).after(&gate));
    let request = payment("k").body("y".repeat(300));
    let begun = Instant::now();
    let first = gateway.spawn(&request);
    upstream.next_request().await;
    let second = gateway.spawn(&request);
    until("the second one to wait", || async {
        let waiters = gateway.metrics().await.value("oncegate_waiters", &[]);
        (waiters == Some(1.0)).then_some(())
    })
    .await;
    sleep(LONG).await;
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    second.await.expect("an answer").is(201, "replayed");
    sleep(LONG).await;
    gateway.send(&request).await.is(201, "replayed");
    // The last one's line is written after it is counted, and before it is over.
    gateway.log().nth_message("request", 2).await;
    let took = begun.elapsed();
    until("none to be in flight", || async {
        let metrics = gateway.metrics().await;
        let in_flight = metrics.value("oncegate_requests_in_flight", &[("route", "pay")]);
        (in_flight == Some(0.0)).then_some(())
    })
    .await;

    let metrics = gateway.metrics().await;
    let pay = [("route", "pay")];
    for (name, count) in [
        ("oncegate_request_duration_seconds_count", 3.0),
        ("oncegate_overhead_seconds_count", 3.0),
        ("oncegate_waiting_duration_seconds_count", 1.0),
        ("oncegate_replay_age_seconds_count", 1.0),
        ("oncegate_request_body_bytes_count", 3.0),
        ("oncegate_request_body_bytes_sum", 900.0),
        ("oncegate_response_body_bytes_count", 3.0),
        ("oncegate_response_body_bytes_sum", 15_000.0),
    ] {
        assert_eq!(metrics.value(name, &pay), Some(count), "{name}");
    }
    let claims = |result| metrics.value("oncegate_claims_total", &[("result", result)]);
    assert_eq!(claims("acquired"), Some(1.0));
    assert_eq!(claims("completed"), Some(1.0));

    // As many seconds as it was, by the clock of whoever waits.
    let seconds = |name: &str, labels: &[(&str, &str)], least: Duration, most: Duration| {
        let sum = metrics.value(&format!("oncegate_{name}_seconds_sum"), labels);
        let sum = sum.unwrap_or_else(|| panic!("no series {name}"));
        let (least, most) = (least.saturating_sub(SLACK), most + SLACK);
        assert!(
            sum > least.as_secs_f64() && sum < most.as_secs_f64(),
            "{name}: {sum} s of {took:?}"
        );
        sum
    };
    let whole = seconds("request_duration", &pay, LONG * 2, took * 3);
    let waited = seconds("waiting_duration", &pay, LONG, took);
    let elsewhere = seconds("upstream_duration", &[("upstream", "toy")], LONG, took) + waited;
    seconds("replay_age", &pay, LONG, took);
    let mut stored = 0.0;
    for op in ["claim", "complete"] {
        stored += seconds(
            "store_operation_duration",
            &[("op", op)],
            Duration::ZERO,
            took,
        );
    }
    // Claiming and recording are oncegate's own; what the upstream, the other attempt and the clients took is not.
    let own = seconds("overhead", &pay, Duration::ZERO, took);
    let lines = gateway.log().messages("request");
    let bodies = lines.iter().filter_map(|line| line["body_ms"].as_f64());
    let rest = whole - elsewhere - bodies.sum::<f64>() / 1000.0;
    // The lines have microseconds.
    let own_may_be = stored - 1e-5..rest + 1e-5;
    assert!(own_may_be.contains(&own), "{own} s of {own_may_be:?}");
}

#[tokio::test]
async fn connections_that_a_limit_closes_are_counted_by_limit() {
    const LIMITS: [&str; 4] = ["first_byte", "headers", "body_idle", "keep_alive"];
    let upstream = ToyUpstream::start();
    let begun =
        "POST /v1/payments HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nIdempotency-Key: k\r\n";
    for limit in LIMITS {
        // One of them alone is short, so that a client that is held up meets no other one.
        let setup = Setup::payments(&upstream).limits(&format!("{limit} = \"100ms\""));
        let gateway = setup.start().await;
        let mut client = gateway.connect().await;
        match limit {
            "first_byte" => {}
            "headers" => client.write(begun.as_bytes()).await,
            "body_idle" => {
                let rest = "Content-Length: 10\r\n\r\nhalf";
                client.write(format!("{begun}{rest}").as_bytes()).await;
            }
            _ => drop(client.send(&payment("k")).await.is(201, "executed")),
        }
        client.closed().await;
        let metrics = gateway.metrics().await;
        for other in LIMITS {
            let closed = metrics.value("oncegate_client_timeouts_total", &[("limit", other)]);
            let is_counted = if other == limit { 1.0 } else { 0.0 };
            assert_eq!(closed, Some(is_counted), "{limit}: {other}");
        }
    }
}

#[tokio::test]
async fn unknown_outcomes_are_counted_by_their_cause() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).route("late_response = \"0s\"");
    let causes = [
        ("timeout", Act::hang(), 504, "500ms"),
        ("connection_lost", Act::reset_after_reading(), 502, "20s"),
        ("truncated", Act::truncate(201, 100, b"half"), 502, "20s"),
        ("status", Act::respond(503, &[], ""), 503, "20s"),
    ];
    for (cause, act, status, patience) in causes {
        let patience = format!("response_timeout = {patience:?}");
        let gateway = setup.clone().route(&patience).start().await;
        let labels = [("route", "pay"), ("cause", cause)];
        let counted = || async {
            let metrics = gateway.metrics().await;
            metrics.value("oncegate_unknown_outcomes_total", &labels)
        };
        assert_eq!(counted().await, Some(0.0), "{cause}");
        upstream.next(act);
        gateway.send(&payment(cause)).await.is(status, "unknown");
        assert_eq!(counted().await, Some(1.0), "{cause}");
    }
}

#[tokio::test]
async fn what_an_upstream_does_not_answer_is_counted_by_kind_whether_protected_or_not() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"500ms\"")
        .route("late_response = \"0s\"")
        .another_route(
            "name = \"rest\"\npath = \"/*\"\nmode = \"pass\"\nresponse_timeout = \"500ms\"",
        )
        .start()
        .await;
    let counted = async || {
        let metrics = gateway.metrics().await;
        ["connect", "connection_lost", "timeout", "truncated"].map(|kind| {
            let labels = [("upstream", "toy"), ("kind", kind)];
            metrics.value("oncegate_upstream_errors_total", &labels)
        })
    };
    let mut expected = [0.0; 4];
    // As `kind`s above; an answer that breaks off behind its head was one, on a route that passes.
    let cases = [
        (1, Act::reset_after_reading(), 502),
        (2, Act::hang(), 504),
        (3, Act::respond(201, &[("Content-Length", "1, 2")], ""), 502),
    ];
    for (kind, act, status) in cases {
        for request in [payment(&format!("k{kind}")), Request::post("/else")] {
            upstream.next(act.clone());
            assert_eq!(gateway.send(&request).await.status, status, "{kind}");
            expected[kind] += 1.0;
            assert_eq!(counted().await, expected.map(Some), "{kind}");
        }
    }
    upstream.next(Act::truncate(201, 100, b"half"));
    gateway.send(&payment("half")).await.is(502, "unknown");
    expected[3] += 1.0;
    assert_eq!(counted().await, expected.map(Some));
}

#[tokio::test]
async fn answers_that_cannot_be_kept_are_counted_by_the_reason() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).limits("max_buffered = \"1MiB\"");
    let gateway = setup.start().await;
    let (large, half) = ("x".repeat(2 << 20), "x".repeat(512 << 10));
    let counted = |reason| {
        let (gateway, labels) = (&gateway, [("route", "pay"), ("reason", reason)]);
        async move {
            let metrics = gateway.metrics().await;
            metrics.value("oncegate_responses_not_stored_total", &labels)
        }
    };
    for (reason, act) in [
        ("too_large", Act::respond(201, &[], large)),
        ("streaming", Act::event_stream().last_chunk()),
    ] {
        upstream.next(act);
        let answer = gateway.send(&payment(reason)).await;
        assert_eq!(answer.idempotency_status(), "unrecorded", "{answer:?}");
        assert_eq!(counted(reason).await, Some(1.0), "{reason}");
    }
    // Another request holds most of what may be held.
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let other = gateway.spawn(&payment("other").body("y".repeat(700 << 10)));
    upstream.received_at_least(3).await;
    upstream.next(Act::respond(201, &[], half));
    let answer = gateway.send(&payment("no_room")).await;
    assert_eq!(answer.idempotency_status(), "unrecorded", "{answer:?}");
    assert_eq!(counted("no_room").await, Some(1.0));
    gate.open();
    other.await.expect("an answer").is(201, "executed");
}

#[tokio::test]
async fn a_claim_beats_while_its_request_is_under_way() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).store("timeout = \"100ms\"");
    let gateway = setup.route("lease = \"600ms\"").start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let first = gateway.spawn(&payment("k"));
    until("three beats", || async {
        let metrics = gateway.metrics().await;
        let held = metrics.value("oncegate_beats_total", &[("result", "held")])?;
        (held >= 3.0).then_some(())
    })
    .await;
    gate.open();
    first.await.expect("an answer").is(201, "executed");
}

#[tokio::test]
async fn what_is_held_stands_beside_its_bound() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .store("max_size = \"3MiB\"")
        .limits("max_connections = 7")
        .limits("max_buffered = \"2MiB\"")
        .limits("max_waiters = 5")
        .limits("max_late = 6")
        .limits("replay_cache = \"1MiB\"")
        .upstream("max_in_flight = 8");
    let gateway = setup.start().await;
    let paid = "x".repeat(5000);
    upstream.next(Act::respond(201, &[], &paid));
    gateway.send(&payment("k")).await.is(201, "executed");
    for _ in 0..2 {
        gateway.send(&payment("k")).await.is(201, "replayed");
    }
    let metrics = gateway.metrics().await;
    let value = |name: &str| metrics.value(&format!("oncegate_{name}"), &[]);
    for (name, bound) in [
        ("connections_limit", 7.0),
        ("buffered_limit_bytes", f64::from(2 << 20)),
        ("waiters_limit", 5.0),
        ("late_dispatches_limit", 6.0),
        ("upstream_in_flight_limit", 8.0),
        ("store_limit_bytes", f64::from(3 << 20)),
        ("replay_cache_limit_bytes", f64::from(1 << 20)),
        // The first replay is read from the store, and the next one is not.
        ("replay_cache_misses_total", 1.0),
        ("replay_cache_hits_total", 1.0),
        ("store_records", 1.0),
        ("build_info", 1.0),
    ] {
        assert_eq!(value(name), Some(bound), "{name}");
    }
    // The answer, and what is kept beside it.
    for name in ["store_bytes", "replay_cache_bytes"] {
        let bytes = value(name).expect("a series");
        assert!((5000.0..7000.0).contains(&bytes), "{name}: {bytes}");
    }
    for (op, times) in [("claim", 3.0), ("complete", 1.0)] {
        let name = "oncegate_store_operation_duration_seconds_count";
        let timed = metrics.value(name, &[("op", op)]);
        assert!(
            timed >= Some(1.0) && timed <= Some(times),
            "{op}: {timed:?}"
        );
    }
    upstream.next(Act::respond(201, &[], "x".repeat(100_000)));
    gateway.send(&payment("large")).await.is(201, "executed");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("oncegate_store_records", &[]), Some(2.0));
    let bytes = metrics
        .value("oncegate_store_bytes", &[])
        .expect("a series");
    assert!((105_000.0..110_000.0).contains(&bytes), "{bytes}");
}
