//! `Idempotency-Status`, replays, what is recorded and what is not, and how requests are counted.

use std::time::Duration;

use crate::support::{
    Act, Gate, Http2, Problem, RefusedPort, Request, Setup, ToyUpstream, payment, until,
};

#[tokio::test]
async fn a_replay_is_the_recorded_status_headers_and_body_byte_for_byte() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let body: Vec<u8> = (0..=255).collect();
    let headers = [
        ("Content-Type", "application/octet-stream"),
        ("Location", "/v1/payments/17"),
        ("X-Twice", "one"),
        ("X-Twice", "two"),
        ("ETag", "\"abc\""),
        ("Cache-Control", "private"),
    ];
    upstream.next(Act::respond(202, &headers, &body));
    let first = gateway.send(&payment("k")).await;
    first.is(202, "executed");
    for _ in 0..3 {
        let replay = gateway.send(&payment("k")).await;
        replay.is(202, "replayed");
        assert_eq!(replay.body, body);
        for answer in [&first, &replay] {
            assert_eq!(answer.headers.all("X-Twice"), ["one", "two"]);
            for (name, value) in headers.iter().filter(|(name, _)| *name != "X-Twice") {
                assert_eq!(answer.headers.all(name), [*value]);
            }
        }
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_answer_in_chunks_is_recorded_whole() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    upstream.next(
        Act::stream(201, &[])
            .chunk("one ")
            .chunk("two")
            .last_chunk(),
    );
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "executed").text(),
        "one two"
    );
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").text(),
        "one two"
    );
}

#[tokio::test]
async fn an_answer_without_a_body_is_replayed_without_one() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    upstream.next(Act::respond(204, &[], ""));
    gateway.send(&payment("k")).await.is(204, "executed");
    assert!(
        gateway
            .send(&payment("k"))
            .await
            .is(204, "replayed")
            .body
            .is_empty()
    );
}

#[tokio::test]
async fn headers_that_belong_to_one_sending_are_passed_on_and_not_recorded() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let once = [
        ("Set-Cookie", "session=secret"),
        ("Age", "7"),
        ("Alt-Svc", "clear"),
        ("Server-Timing", "db;dur=53"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("tracestate", "a=b"),
        ("X-Request-Id", "r-1"),
        ("Request-Id", "r-1"),
        ("RateLimit", "limit=10"),
        ("RateLimit-Remaining", "9"),
        ("X-RateLimit-Limit", "10"),
    ];
    upstream.next(Act::respond(201, &once, "paid"));
    let first = gateway.send(&payment("k")).await;
    first.is(201, "executed");
    let replay = gateway.send(&payment("k")).await;
    replay.is(201, "replayed");
    for (name, value) in once {
        assert_eq!(first.header(name), Some(value));
        assert_eq!(replay.header(name), None, "{name} was replayed");
    }
}

#[tokio::test]
async fn a_replay_bears_the_time_of_its_sending() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let long_ago = "Thu, 01 Jan 1970 00:00:00 GMT";
    upstream.next(Act::respond(201, &[("Date", long_ago)], ""));
    gateway.send(&payment("k")).await.is(201, "executed");
    let replay = gateway.send(&payment("k")).await;
    replay.is(201, "replayed");
    let date = httpdate::parse_http_date(replay.header("Date").expect("a date")).expect("a date");
    let age = std::time::SystemTime::now()
        .duration_since(date)
        .unwrap_or_default();
    assert!(age < Duration::from_secs(60), "{replay:?}");
}

#[tokio::test]
async fn an_upstream_cannot_speak_in_the_gateways_name() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let forged = [
        ("Idempotency-Status", "replayed"),
        ("Idempotent-Replayed", "true"),
        ("Oncegate-Anything", "x"),
    ];
    upstream.next(Act::respond(201, &forged, ""));
    let first = gateway.send(&payment("k")).await;
    first.is(201, "executed");
    assert_eq!(first.header("Oncegate-Anything"), None);
    upstream.next(Act::respond(200, &forged, ""));
    // A route that passes everything may have another gateway behind it.
    let passed = gateway.send(&Request::get("/else")).await;
    for (name, value) in forged {
        assert_eq!(passed.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn range_and_conditions_do_not_cut_a_replay() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    upstream.next(Act::respond(200, &[("ETag", "\"v1\"")], "0123456789"));
    gateway.send(&payment("k")).await.is(200, "executed");
    for (name, value) in [
        ("Range", "bytes=0-1"),
        ("If-None-Match", "\"v1\""),
        ("If-Match", "\"other\""),
        ("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ] {
        let replay = gateway.send(&payment("k").header(name, value)).await;
        assert_eq!(replay.is(200, "replayed").text(), "0123456789", "{name}");
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn failures_are_recorded_and_replayed_like_successes() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for status in [302, 400, 402, 404, 409, 422, 500, 501] {
        let key = format!("k{status}");
        upstream.next(Act::respond(status, &[], "no"));
        gateway.send(&payment(&key)).await.is(status, "executed");
        assert_eq!(
            gateway
                .send(&payment(&key))
                .await
                .is(status, "replayed")
                .text(),
            "no"
        );
    }
    assert_eq!(upstream.charges(), 8);
}

#[tokio::test]
async fn a_released_status_is_passed_on_and_frees_the_key() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for status in [401, 425, 429] {
        let key = format!("k{status}");
        upstream.next(Act::respond(status, &[("Retry-After", "7")], "later"));
        let answer = gateway.send(&payment(&key)).await;
        assert_eq!(answer.is(status, "released").text(), "later");
        assert_eq!(answer.header("Retry-After"), Some("7"));
        gateway.send(&payment(&key)).await.is(201, "executed");
        gateway.send(&payment(&key)).await.is(201, "replayed");
    }
    assert_eq!(upstream.charges(), 6);
}

#[tokio::test]
async fn a_status_that_leaves_the_outcome_unknown_is_passed_on_as_it_came() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for status in [408, 502, 503, 504] {
        let key = format!("k{status}");
        upstream.next(Act::respond(status, &[("X-From", "upstream")], "hm"));
        let answer = gateway.send(&payment(&key)).await;
        assert_eq!(answer.is(status, "unknown").text(), "hm");
        assert_eq!(answer.header("X-From"), Some("upstream"));
        gateway
            .send(&payment(&key))
            .await
            .refuses(Problem::OUTCOME_UNKNOWN);
    }
    assert_eq!(upstream.charges(), 4);
}

#[tokio::test]
async fn a_route_says_which_statuses_release_and_which_are_unknown() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("outcomes = { release = [\"402\", \"4xx\"], unknown = [\"5xx\"] }")
        .start()
        .await;
    for (status, word) in [
        (404, "released"),
        (402, "released"),
        (500, "unknown"),
        (201, "executed"),
    ] {
        upstream.next(Act::respond(status, &[], ""));
        gateway
            .send(&payment(&format!("k{status}")))
            .await
            .is(status, word);
    }
}

#[tokio::test]
async fn without_a_key_a_request_is_forwarded_as_unkeyed_where_the_route_allows_it() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_required = false")
        .start()
        .await;
    let unkeyed = payment("k").without("Idempotency-Key");
    gateway.send(&unkeyed).await.is(201, "unkeyed");
    gateway.send(&unkeyed).await.is(201, "unkeyed");
    assert_eq!(upstream.charges(), 2);
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    gateway
        .send(&payment("not a key"))
        .await
        .refuses(Problem::KEY_INVALID);
}

#[tokio::test]
async fn without_a_scope_a_request_is_forwarded_as_unkeyed_where_the_route_allows_it() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("scope_required = false")
        .start()
        .await;
    let anonymous = payment("k").without("Authorization");
    gateway.send(&anonymous).await.is(201, "unkeyed");
    gateway.send(&anonymous).await.is(201, "unkeyed");
    gateway.send(&payment("k")).await.is(201, "executed");
    assert_eq!(upstream.charges(), 3);
}

#[tokio::test]
async fn a_full_store_lets_requests_through_unprotected_where_the_route_says_so() {
    let upstream = ToyUpstream::start();
    upstream.always(|_| Act::respond(201, &[], "x".repeat(16 * 1024)));
    let gateway = Setup::payments(&upstream)
        .store("max_size = \"256KiB\"")
        .route("on_store_down = \"forward\"")
        .start()
        .await;
    let mut connection = gateway.connect().await;
    for number in 0.. {
        assert!(number < 1000, "the store never became full");
        let answer = connection.send(&payment(&format!("k{number}"))).await;
        if answer.idempotency_status() != "executed" {
            answer.is(201, "unkeyed");
            break;
        }
    }
    assert_eq!(gateway.metrics().await.decisions("pay", "unprotected"), 1);
}

#[tokio::test]
async fn a_request_on_another_method_falls_through_to_the_next_route() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let read = payment("k");
    let read = Request {
        method: "GET".to_owned(),
        ..read
    };
    for _ in 0..2 {
        let answer = gateway.send(&read).await;
        answer.is(201, "");
    }
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn on_a_route_for_all_methods_safe_ones_pass() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("methods = []")
        .start()
        .await;
    for method in ["GET", "OPTIONS"] {
        let safe = Request {
            method: method.to_owned(),
            body: Vec::new(),
            ..payment("k")
        };
        let (first, second) = (gateway.send(&safe).await, gateway.send(&safe).await);
        assert_eq!((first.status, second.status), (201, 201));
        assert_ne!(
            first.body, second.body,
            "{method} was answered from a record"
        );
    }
    gateway.send(&payment("k")).await.is(201, "executed");
    assert_eq!(upstream.charges(), 5);
}

#[tokio::test]
async fn a_head_is_answered_with_a_head_alone_in_both_protocols() {
    type With = fn(Request) -> Request;
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let http2 = Http2::open(gateway.address).await;
    let requests: [(u16, With); 3] = [
        (404, |request| request),
        (400, |request| request.header("Expect", "200")),
        (431, |request| {
            let names = (0..200).map(|number| format!("X-{number}"));
            names.fold(request, |request, name| request.header(&name, "a"))
        }),
    ];
    for (status, with) in requests {
        let request = |method: &str| with(Request::new(method, "/nowhere"));
        for over_http2 in [false, true] {
            let (get, head) = if over_http2 {
                let get = http2.send(&request("GET")).await;
                (get, http2.send(&request("HEAD")).await)
            } else {
                let get = gateway.send(&request("GET")).await;
                (get, gateway.send(&request("HEAD")).await)
            };
            assert_eq!((get.status, head.status), (status, status));
            assert!(head.complete && head.body.is_empty(), "{head:?}");
            let length = get.body.len().to_string();
            assert_eq!(head.header("Content-Length"), Some(&*length), "{head:?}");
        }
    }
}

#[tokio::test]
async fn http2_is_served_on_the_same_port_and_its_keys_are_the_same() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let http2 = Http2::open(gateway.address).await;
    let first = http2.send(&payment("k")).await;
    first.is(201, "executed");
    assert_eq!(
        http2.send(&payment("k")).await.is(201, "replayed").body,
        first.body
    );
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").body,
        first.body
    );
    http2
        .send(&payment("k").body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn every_request_counts_exactly_once_under_its_decision() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .route("max_response_body = \"1KiB\"")
        .rest_passes()
        .start()
        .await;
    let mut sent = 0;
    let mut send = async |request: Request| {
        sent += 1;
        gateway.send(&request).await
    };
    send(payment("a")).await.is(201, "executed");
    send(payment("a")).await.is(201, "replayed");
    send(payment("a").body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    send(payment("a").without("Idempotency-Key"))
        .await
        .refuses(Problem::KEY_MISSING);
    send(payment("a b")).await.refuses(Problem::KEY_INVALID);
    send(payment("a").without("Authorization"))
        .await
        .refuses(Problem::SCOPE_MISSING);
    upstream.next(Act::respond(429, &[], ""));
    send(payment("b")).await.is(429, "released");
    upstream.next(Act::respond(201, &[], "x".repeat(2000)));
    send(payment("c")).await.is(201, "unrecorded");
    send(payment("c")).await.refuses(Problem::NOT_STORED);
    upstream.next(Act::respond(503, &[], ""));
    send(payment("d")).await.is(503, "unknown");
    send(payment("d")).await.refuses(Problem::OUTCOME_UNKNOWN);
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let before = upstream.charges();
    let owner = gateway.spawn(&payment("e"));
    upstream.received_at_least(before + 1).await;
    let joiner = gateway.spawn(&payment("e"));
    // A joiner has no sign to be seen from outside; whether it came before or after, it is a replay.
    gate.open();
    owner.await.expect("an answer").is(201, "executed");
    joiner.await.expect("an answer").is(201, "replayed");
    gateway.send(&Request::get("/else")).await.is(201, "");

    let metrics = gateway.metrics().await;
    for (decision, count) in [
        ("executed", 2),
        ("mismatch", 1),
        ("key_missing", 1),
        ("key_invalid", 1),
        ("scope_missing", 1),
        ("released", 1),
        ("unrecorded", 1),
        ("not_stored", 1),
        ("unknown", 2),
        ("in_progress", 0),
        ("overloaded", 0),
    ] {
        assert_eq!(metrics.decisions("pay", decision), count, "{decision}");
    }
    let replays = metrics.decisions("pay", "replayed") + metrics.decisions("pay", "joined");
    assert_eq!(replays, 2);
    assert_eq!(metrics.all_decisions("pay"), sent + 2);
    assert_eq!(metrics.decisions("rest", "passthrough"), 1);
    assert_eq!(metrics.all_decisions("rest"), 1);
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_for_another() {
    let (dead, upstream) = (RefusedPort::take(), ToyUpstream::start());
    let gateway = Setup::payments_at(&dead.url())
        .endpoint(&upstream.url())
        .start()
        .await;
    for number in 0..4 {
        gateway
            .send(&payment(&format!("k{number}")))
            .await
            .is(201, "executed");
    }
    assert_eq!(upstream.charges(), 4);
}

#[tokio::test]
async fn a_long_answer_that_its_client_is_too_slow_for_is_seen_to_break_off() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"2s\"")
        .start()
        .await;
    // More than all the sockets on its way hold.
    let long = vec![b'x'; 32 << 20];
    upstream.next(Act::stream(200, &[]).chunk(long).last_chunk());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    until("the gateway to lose its patience", || async {
        let labels = [("upstream", "toy")];
        let metrics = gateway.metrics().await;
        let sent = metrics.value("oncegate_upstream_in_flight", &labels) == Some(0.0);
        (sent && metrics.decisions("pay", "unrecorded") == 1).then_some(())
    })
    .await;
    let answer = client.answer().await;
    assert!(!answer.complete, "{answer:?}");
}
