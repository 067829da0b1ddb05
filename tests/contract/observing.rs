//! Observe mode, from outside: the answers of a pass route, and counts of what enforce mode would have answered.

use crate::support::{
    Act, Gate, Gateway, Http2, Metrics, Request, Setup, ToyUpstream, payment, until,
};

/// `pay` observes, and `/else` passes.
fn observing(upstream: &ToyUpstream) -> Setup {
    Setup::payments(upstream)
        .route("mode = \"observe\"")
        .another_route("name = \"else\"\npath = \"/else\"\nmode = \"pass\"")
}

/// Returns once so many requests would have become this.
async fn observes(gateway: &Gateway, would_be: &str, times: u64) {
    until(&format!("{times} {would_be}"), || async {
        (would_have(&gateway.metrics().await, would_be) == times).then_some(())
    })
    .await;
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it counts"
)]
fn would_have(metrics: &Metrics, would_be: &str) -> u64 {
    let labels = [("route", "pay"), ("would_be", would_be)];
    metrics
        .value("oncegate_observed_total", &labels)
        .expect("a series") as u64
}

fn to(target: &str, request: &Request) -> Request {
    Request {
        target: target.to_owned(),
        ..request.clone()
    }
}

#[tokio::test]
async fn an_observed_answer_is_that_of_a_pass_route_but_for_one_header() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream).start().await;
    let http2 = Http2::open(gateway.address).await;
    let acts = [
        Act::respond(
            201,
            &[("Set-Cookie", "a=1"), ("Idempotent-Replayed", "true")],
            "paid",
        ),
        Act::respond(304, &[("ETag", "\"1\"")], ""),
        Act::stream(200, &[]).chunk("one").chunk("two").last_chunk(),
        Act::reset_after_reading(),
    ];
    let plain = payment("k");
    let requests = [
        plain.clone(),
        plain
            .clone()
            .without("Authorization")
            .header("Accept-Encoding", "gzip"),
        plain.clone().key("no key").header("Expect", "100-continue"),
        plain.clone().header("TE", "trailers").body(""),
        plain.clone().header("Idempotency-Key", "second"),
    ];
    for (act, request) in acts
        .iter()
        .flat_map(|act| requests.iter().map(move |r| (act, r)))
    {
        for over_http2 in [false, true] {
            if over_http2 && request.headers.first("Connection").is_some() {
                continue;
            }
            let mut heard = Vec::new();
            for target in ["/else", "/v1/payments"] {
                upstream.next(act.clone());
                let request = to(target, request);
                let mut answer = if over_http2 {
                    http2.send(&request.without("Expect")).await
                } else {
                    gateway.send(&request).await
                };
                let status = if target == "/else" { "" } else { "observed" };
                assert_eq!(answer.idempotency_status(), status, "{answer:?}");
                answer.headers.0.retain(|(name, _)| {
                    !name.eq_ignore_ascii_case("Idempotency-Status")
                        && !name.eq_ignore_ascii_case("Date")
                });
                answer.headers.0.sort();
                let sent = upstream.next_request().await;
                let sent = (sent.method, sent.headers.0, sent.body, sent.trailers.0);
                heard.push((
                    answer.status,
                    answer.headers.0,
                    answer.body,
                    answer.complete,
                    sent,
                ));
            }
            assert_eq!(heard[0], heard[1], "{request:?}");
        }
    }
}

#[tokio::test]
async fn what_enforce_mode_makes_of_a_request_is_what_observe_mode_says_that_it_would() {
    let upstream = ToyUpstream::start();
    let settings = |setup: Setup| {
        setup
            .route("max_request_body = \"100B\"")
            .route("key_format = \"regex:[a-z]+\"")
    };
    let chunked_as = |body: &str, trailer: &str| {
        let head = payment("chunked").header("Transfer-Encoding", "chunked");
        let head = head.to_bytes("a");
        let head = String::from_utf8(head).expect("text");
        let head = head.split("\r\n\r\n").next().expect("a head").to_owned();
        let length = body.len();
        format!("{head}\r\n\r\n{length:x}\r\n{body}\r\n0\r\n{trailer}\r\n").into_bytes()
    };
    let chunked = |trailer: &str| chunked_as("hello", trailer);
    let raw = |request: Request| request.to_bytes("a");
    let requests: Vec<(&str, Vec<u8>)> = vec![
        ("executed", raw(payment("one"))),
        ("replayed", raw(payment("one"))),
        ("mismatch", raw(payment("one").body("other"))),
        ("mismatch", raw(to("/v1/payments?a=b", &payment("one")))),
        ("executed", raw(payment("two"))),
        ("executed", raw(payment("one").auth("Bearer bob"))),
        ("executed", raw(payment("empty").body(""))),
        ("replayed", raw(payment("empty").body(""))),
        (
            "key_missing",
            raw(payment("one").without("Idempotency-Key")),
        ),
        ("key_invalid", raw(payment("ONE"))),
        (
            "key_invalid",
            raw(payment("one").header("Idempotency-Key", "two")),
        ),
        (
            "scope_missing",
            raw(payment("one").without("Authorization")),
        ),
        ("body_too_large", raw(payment("large").body([b'x'; 101]))),
        ("executed", raw(payment("large").body([b'x'; 100]))),
        // Without a length beforehand.
        ("body_too_large", chunked_as(&"x".repeat(101), "")),
        ("executed", chunked("")),
        ("replayed", chunked("X-Trailer: 1\r\n")),
        ("key_invalid", chunked("Idempotency-Key: two\r\n")),
        ("replayed", raw(payment("chunked").body("hello"))),
    ];
    let enforcing = settings(Setup::payments(&upstream)).start().await;
    let observing = settings(observing(&upstream)).start().await;
    for (number, (decision, request)) in requests.iter().enumerate() {
        let wanted = u64::try_from(
            requests[..=number]
                .iter()
                .filter(|(other, _)| other == decision)
                .count(),
        );
        let wanted = wanted.expect("few");
        for gateway in [&enforcing, &observing] {
            let mut client = gateway.connect().await;
            client.write(request).await;
            client.answer().await;
        }
        let metrics = enforcing.metrics().await;
        assert_eq!(
            metrics.decisions("pay", decision),
            wanted,
            "{decision}, {number}"
        );
        observes(&observing, decision, wanted).await;
    }
    let metrics = observing.metrics().await;
    assert_eq!(metrics.all_decisions("pay"), requests.len() as u64);
}

#[tokio::test]
async fn requests_over_http2_are_observed_like_all_others() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream).start().await;
    let http2 = Http2::open(gateway.address).await;
    for (request, would_be, times) in [
        (payment("k"), "executed", 1),
        (payment("k"), "replayed", 1),
        (payment("k").body(""), "mismatch", 1),
        (payment("empty").body(""), "executed", 2),
        (payment("empty").body(""), "replayed", 2),
    ] {
        http2.send(&request).await.is(201, "observed");
        observes(&gateway, would_be, times).await;
    }
    // An early answer, and a body that is never whole.
    upstream.next(Act::respond(413, &[], "").early());
    let mut client = gateway.connect().await;
    let head = payment("early").header("Content-Length", "9").body("part");
    client.write_request(&head).await;
    let (status, _) = client.answer_head().await;
    assert_eq!(status, 413);
    client.hang_up();
    observes(&gateway, "not_observed", 1).await;
}

#[tokio::test]
async fn upgrades_pass_and_are_counted_as_malformed() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream).start().await;
    let upgrade = payment("k")
        .header("Connection", "Upgrade")
        .header("Upgrade", "h2c");
    gateway.send(&upgrade).await.is(201, "observed");
    observes(&gateway, "bad_request", 1).await;
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_observed_route_streams_both_ways_at_once() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream).start().await;
    upstream.next(Act::echo());
    let mut client = gateway.connect().await;
    client
        .write(
            b"POST /v1/payments HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nAuthorization: a\r\n\
              Transfer-Encoding: chunked\r\n\r\n4\r\nping\r\n",
        )
        .await;
    let (status, headers) = client.answer_head().await;
    assert_eq!(
        (status, headers.first("Idempotency-Status")),
        (200, Some("observed"))
    );
    assert_eq!(client.chunk().await.as_deref(), Some(&b"ping"[..]));
    client.write(b"4\r\npong\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some(&b"pong"[..]));
    client.write(b"0\r\n\r\n").await;
    assert_eq!(client.chunk().await, None);
    observes(&gateway, "executed", 1).await;
}

#[tokio::test]
async fn bodies_of_any_length_go_through_without_being_held() {
    const MIB: usize = 1 << 20;
    const LENGTH: usize = 96 * MIB;
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream)
        .route("max_request_body = \"64MiB\"")
        .route("fingerprint = { body = \"json\" }")
        .start()
        .await;
    gateway.send(&payment("small")).await.is(201, "observed");
    let before = gateway.most_resident_bytes();
    upstream.always(|_| Act::respond(200, &[], vec![b'y'; 32 * MIB]));
    let request = payment("large").body(vec![b'x'; LENGTH]);
    let answer = gateway.send(&request).await;
    assert_eq!(answer.is(200, "observed").body.len(), 32 * MIB);
    assert_eq!(upstream.requests()[1].body.len(), LENGTH);
    let grown = gateway.most_resident_bytes().saturating_sub(before);
    assert!(grown < 24 * MIB as u64, "{grown} bytes more");
    observes(&gateway, "body_too_large", 1).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("oncegate_buffered_bytes", &[]), Some(0.0));
}

#[tokio::test]
async fn what_is_observed_leaves_room_in_the_store_for_what_protects() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream)
        .store("max_size = \"16KiB\"")
        .another_route("name = \"strict\"\npath = \"/strict\"")
        .start()
        .await;
    let mut seen = 0;
    while would_have(&gateway.metrics().await, "not_observed") == 0 {
        assert!(seen < 100, "the store never gets full");
        let key = format!("k{seen}");
        gateway.send(&payment(&key)).await.is(201, "observed");
        seen += 1;
        until("the request to be counted", || async {
            let counted = gateway.metrics().await.decisions("pay", "observed");
            (counted == seen).then_some(())
        })
        .await;
    }
    assert!(seen > 3, "{seen}");
    for key in ["one", "two", "three"] {
        let strict = to("/strict", &payment(key));
        gateway.send(&strict).await.is(201, "executed");
        gateway.send(&strict).await.is(201, "replayed");
    }
}

#[tokio::test]
async fn a_duplicate_is_told_of_in_the_log_and_nothing_else_is() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream).start().await;
    gateway
        .send(&payment("secret-key"))
        .await
        .is(201, "observed");
    observes(&gateway, "executed", 1).await;
    upstream.next(Act::respond(409, &[], "exists"));
    gateway
        .send(&payment("secret-key"))
        .await
        .is(409, "observed");
    let line = gateway.log().message("a duplicate was let through").await;
    assert_eq!(line["route"], "pay");
    assert_eq!(line["would_be"], "replayed");
    assert_eq!(
        (&line["first_status"], &line["status"]),
        (&201.into(), &409.into())
    );
    assert_eq!(line["key_ref"].as_str().map(str::len), Some(12), "{line}");
    assert_eq!(
        gateway.log().messages("a duplicate was let through").len(),
        1
    );
    assert!(!gateway.log().text().contains("secret-key"));
}

#[tokio::test]
async fn what_was_observed_is_still_known_after_kill_9() {
    let upstream = ToyUpstream::start();
    let mut gateway = observing(&upstream)
        .embedded()
        .route("lease = \"4s\"")
        .start()
        .await;
    gateway.send(&payment("done")).await.is(201, "observed");
    until("the answer to be recorded", || async {
        let labels = [("op", "complete"), ("result", "done")];
        let done = gateway.metrics().await;
        let done = done.value("oncegate_store_operations_total", &labels);
        (done == Some(1.0)).then_some(())
    })
    .await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("cut")).await;
    upstream.received_at_least(2).await;
    observes(&gateway, "executed", 2).await;
    gateway.kill9().await;
    gateway.restart().await;
    gateway.send(&payment("done")).await.is(201, "observed");
    observes(&gateway, "replayed", 1).await;
    // It would have been in progress for one lease more, and unknown after that.
    until("the lease to lapse", || async {
        gateway.send(&payment("cut")).await.is(201, "observed");
        (would_have(&gateway.metrics().await, "unseen") > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_route_that_observed_enforces_from_a_clean_start() {
    let upstream = ToyUpstream::start();
    let mut gateway = observing(&upstream).embedded().start().await;
    gateway.send(&payment("k")).await.is(201, "observed");
    observes(&gateway, "executed", 1).await;
    gateway.sigterm();
    assert!(gateway.ended().await.success());
    gateway.given(&Setup::payments(&upstream).embedded().toml());
    gateway.restart().await;
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn methods_that_enforce_mode_would_not_protect_pass() {
    let upstream = ToyUpstream::start();
    let gateway = observing(&upstream).route("methods = []").start().await;
    let get = Request {
        method: "GET".to_owned(),
        ..payment("k").body("")
    };
    gateway.send(&get).await.is(201, "");
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.received_at_least(2).await;
    gateway.send(&payment("k")).await.is(201, "observed");
    observes(&gateway, "in_progress", 1).await;
    gate.open();
    first.await.expect("an answer").is(201, "observed");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.decisions("pay", "passthrough"), 1);
    assert_eq!(metrics.all_decisions("pay"), 3);
}
