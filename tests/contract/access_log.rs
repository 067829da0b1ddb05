//! One line for each request, and a log that never makes a request wait.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Act, Gate, Gateway, Http2, Problem, Request, Setup, ToyUpstream, payment, until, within,
};

/// What says that lines are missing.
const DROPPED: &str = "log lines were dropped: their reader is too slow";

fn lines(gateway: &Gateway) -> Vec<Value> {
    gateway.log().messages("request")
}

/// Returns once so many requests have their line.
async fn lines_of(gateway: &Gateway, count: usize) -> Vec<Value> {
    gateway.log().nth_message("request", count - 1).await;
    lines(gateway)
}

#[tokio::test]
async fn every_request_has_one_line_that_says_what_became_of_it() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::respond(201, &[], "paid"));
    gateway.send(&payment("a")).await.is(201, "executed");
    gateway.send(&payment("a")).await.is(201, "replayed");
    let mismatch = gateway.send(&payment("a").body("other")).await;
    let mismatch = mismatch.refuses(Problem::KEY_REUSED);
    let unscoped = payment("a").without("Authorization");
    gateway
        .send(&unscoped)
        .await
        .refuses(Problem::SCOPE_MISSING);
    upstream.next(Act::respond(503, &[], ""));
    gateway.send(&payment("b")).await.is(503, "unknown");
    upstream.next(Act::respond(200, &[], "12345"));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let passing = Request::post("/else/7?card=4111")
        .header("traceparent", trace)
        .body("1234567890");
    gateway.send(&passing).await.is(200, "");
    let bad = Request::get("/v1/x")
        .header("Host", "a")
        .header("Host", "b");
    assert_eq!(gateway.send(&bad).await.status, 400);

    let lines = lines_of(&gateway, 7).await;
    let decisions: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["decision"].as_str())
        .collect();
    let expected = [
        "executed",
        "replayed",
        "mismatch",
        "scope_missing",
        "unknown",
        "passthrough",
        "bad_request",
    ];
    assert_eq!(decisions, expected);

    let executed = &lines[0];
    assert_eq!(executed["route"], "pay");
    assert_eq!(executed["method"], "POST");
    assert_eq!(executed["path"], "/v1/payments");
    assert_eq!(executed["protocol"], "HTTP/1.1");
    assert_eq!(executed["status"], 201);
    assert_eq!(executed["fence"], 1);
    assert_eq!(executed["upstream"], "toy");
    assert_eq!(executed["bytes_in"], 14);
    assert_eq!(executed["bytes_out"], 4);
    assert_eq!(executed["listener"], gateway.address.to_string());
    let endpoint = format!(
        "http://{}",
        executed["endpoint"].as_str().expect("an address")
    );
    assert_eq!(endpoint, upstream.url());
    assert!(executed.get("end").is_none() && executed.get("problem").is_none());
    let ms = |name: &str| executed[name].as_f64().unwrap_or_default();
    let parts = ms("overhead_ms") + ms("upstream_ms") + ms("body_ms");
    assert!(ms("store_ms") <= ms("overhead_ms"), "{executed}");
    assert!(parts <= ms("total_ms") + 0.01, "{executed}");

    assert_eq!(lines[1]["key_ref"], executed["key_ref"]);
    assert!(lines[1].get("upstream").is_none(), "{}", lines[1]);
    assert_eq!(lines[2]["problem"], "key-reused");
    assert_eq!(lines[2]["key_ref"], mismatch["key_ref"]);
    assert!(lines[3].get("key_ref").is_none(), "{}", lines[3]);
    assert_eq!(lines[4]["status"], 503);
    assert_eq!(lines[5]["path"], "/else/7");
    assert_eq!(
        (&lines[5]["bytes_in"], &lines[5]["bytes_out"]),
        (&10.into(), &5.into())
    );
    assert_eq!(lines[5]["trace_id"], trace[3..35]);
    assert!(lines[6].get("route").is_none(), "{}", lines[6]);
}

#[tokio::test]
async fn http2_requests_have_their_lines_too() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::respond(201, &[], "paid"));
    let http2 = Http2::open(gateway.address).await;
    http2.send(&payment("a")).await.is(201, "executed");
    upstream.next(Act::respond(204, &[], ""));
    assert_eq!(http2.send(&Request::get("/else")).await.status, 204);
    upstream.next(Act::respond(200, &[], "x".repeat(100_000)));
    assert_eq!(http2.send(&Request::get("/else")).await.status, 200);
    let lines = lines_of(&gateway, 3).await;
    for (line, bytes) in lines.iter().zip([4, 0, 100_000]) {
        assert_eq!(line["protocol"], "HTTP/2.0");
        assert_eq!(line["bytes_out"], bytes);
        assert!(line.get("end").is_none(), "{line}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_whole() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    gateway.send(&Request::new("HEAD", "/else")).await;
    upstream.next(Act::respond(304, &[], ""));
    gateway.send(&Request::get("/else")).await;
    upstream.next(Act::respond(200, &[], ""));
    gateway.send(&Request::get("/else")).await;
    // A HEAD that is no request is one, too.
    let mut socket = TcpStream::connect(gateway.address).await.expect("a place");
    let bad = b"HEAD / HTTP/1.1\r\nhost a\r\n\r\n";
    socket.write_all(bad).await.expect("a connection");
    let mut answer = String::new();
    let heard = socket.read_to_string(&mut answer);
    within("the answer", heard).await.expect("an orderly end");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    for line in lines_of(&gateway, 4).await {
        assert_eq!(line["bytes_out"], 0, "{line}");
        assert!(line.get("end").is_none(), "{line}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_said_with_what_became_of_its_request() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .top("access_log = { sample = 0.0 }")
        .rest_passes()
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    client.hang_up();
    until("the gateway to notice", || async {
        let open = gateway.metrics().await.value("oncegate_connections", &[]);
        (open == Some(0.0)).then_some(())
    })
    .await;
    assert!(lines(&gateway).is_empty(), "it is not decided yet");
    gate.open();
    let line = gateway.log().request("executed").await;
    assert_eq!(line["end"], "client_gone");
    assert!(line.get("status").is_none(), "{line}");
    assert_eq!(line["bytes_out"], 0);

    upstream.next(
        Act::stream(200, &[])
            .chunk("one")
            .then_wait(&Gate::closed()),
    );
    let mut client = gateway.connect().await;
    client.write_request(&Request::get("/feed")).await;
    client.answer_head().await;
    assert_eq!(client.chunk().await.as_deref(), Some(&b"one"[..]));
    client.hang_up();
    let line = gateway.log().request("passthrough").await;
    assert_eq!(
        (&line["end"], &line["status"]),
        (&"client_gone".into(), &200.into())
    );
    assert_eq!(line["bytes_out"], 3);

    upstream.next(Act::truncate(200, 10, b"123"));
    let cut = gateway
        .connect()
        .await
        .try_send(&Request::get("/cut"))
        .await;
    assert!(cut.is_none(), "{cut:?}");
    let line = gateway.log().nth_message("request", 2).await;
    assert_eq!(line["end"], "broken_off", "{line}");
}

#[tokio::test]
async fn a_line_comes_after_the_end_of_its_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let gate = Gate::closed();
    upstream.next(
        Act::stream(200, &[])
            .chunk("one")
            .then_wait(&gate)
            .chunk("two")
            .last_chunk(),
    );
    let mut client = gateway.connect().await;
    client.write_request(&Request::get("/feed")).await;
    client.answer_head().await;
    client.chunk().await;
    let metrics = gateway.metrics().await;
    let in_flight = metrics.value("oncegate_requests_in_flight", &[("route", "rest")]);
    assert_eq!(in_flight, Some(1.0));
    assert!(lines(&gateway).is_empty());
    gate.open();
    while client.chunk().await.is_some() {}
    let line = gateway.log().request("passthrough").await;
    assert_eq!(line["bytes_out"], 6);
    until("it to be over", || async {
        let metrics = gateway.metrics().await;
        let in_flight = metrics.value("oncegate_requests_in_flight", &[("route", "rest")]);
        (in_flight == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_sample_only_what_is_out_of_the_ordinary_is_written() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .top("access_log = { sample = 0.0, path = false }")
        .rest_passes()
        .start()
        .await;
    gateway.send(&payment("a")).await.is(201, "executed");
    gateway.send(&payment("a")).await.is(201, "replayed");
    gateway.send(&Request::get("/else")).await.is(201, "");
    upstream.next(Act::respond(500, &[], ""));
    gateway.send(&Request::get("/else")).await.is(500, "");
    gateway
        .send(&payment("a").body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    let lines = lines_of(&gateway, 2).await;
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(500), Some(422)]);
    assert!(lines.iter().all(|line| line.get("path").is_none()));
}

#[tokio::test]
async fn an_access_log_that_is_switched_off_writes_nothing() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream)
        .top("access_log = { enabled = false }")
        .start()
        .await;
    gateway
        .send(&payment("a b"))
        .await
        .refuses(Problem::KEY_INVALID);
    gateway.sigterm();
    gateway.ended().await;
    assert!(lines(&gateway).is_empty());
}

#[tokio::test]
async fn the_last_lines_before_the_end_are_not_lost() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).start().await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        let request = payment(&format!("k{number}"));
        client.send(&request).await.is(201, "executed");
    }
    gateway.sigterm();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(lines(&gateway).len(), 50);
    assert_eq!(gateway.log().messages("drained").len(), 1);
}

/// Requests that are refused, each with a line of more than 2 KiB, until the gateway has dropped lines.
async fn flood(gateway: &Gateway) {
    let long = format!("/{}", "\u{7e}%".repeat(512)).replace('%', "%25");
    let flooding = (0..8).map(|_| async {
        let mut client = gateway.connect().await;
        while gateway
            .metrics()
            .await
            .value("oncegate_log_lines_dropped_total", &[])
            == Some(0.0)
        {
            for _ in 0..200 {
                assert_eq!(client.send(&Request::get(&long)).await.status, 404);
            }
        }
    });
    futures_util::future::join_all(flooding).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_no_requests() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    gateway.log().stall();
    flood(&gateway).await;
    for number in 0..100 {
        let request = payment(&format!("k{number}"));
        gateway.send(&request).await.is(201, "executed");
    }
    assert_eq!(upstream.charges(), 100);
    let dropped = gateway.metrics().await;
    let dropped = dropped.value("oncegate_log_lines_dropped_total", &[]);

    gateway.log().go_on();
    let said = gateway.log().message(DROPPED).await;
    assert_eq!(said["count"].as_f64(), dropped);
    gateway.send(&payment("k0")).await.is(201, "replayed");
    gateway.log().request("replayed").await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).start().await;
    gateway.log().stall();
    // More than the pipe takes.
    let long = Request::get(&format!("/{}", "x".repeat(1000)));
    let mut client = gateway.connect().await;
    for _ in 0..200 {
        assert_eq!(client.send(&long).await.status, 404);
    }
    drop(client);
    let began = Instant::now();
    gateway.sigterm();
    assert_eq!(gateway.exited().await.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    gateway.log().go_on();
}
