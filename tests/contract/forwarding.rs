//! What the upstream is sent and what the client is sent back, on protected and on pass routes.

use crate::support::{Act, Gate, RefusedPort, Request, Setup, ToyUpstream, payment};

#[tokio::test]
async fn a_pass_route_streams_both_ways_at_once() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::echo());
    let mut client = gateway.connect().await;
    client
        .write(b"POST /chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.write(b"4\r\nping\r\n").await;
    let (status, headers) = client.answer_head().await;
    assert_eq!((status, headers.first("Idempotency-Status")), (200, None));
    assert_eq!(client.chunk().await.as_deref(), Some(&b"ping"[..]));
    client.write(b"4\r\npong\r\n").await;
    assert_eq!(client.chunk().await.as_deref(), Some(&b"pong"[..]));
    client.write(b"0\r\n\r\n").await;
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn a_pass_route_has_no_limit_on_bodies_and_no_opinion_on_keys() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let body = vec![b'x'; 3 * 1024 * 1024];
    let echoed = body.clone();
    upstream.always(move |_| Act::respond(200, &[], &echoed));
    for _ in 0..2 {
        let answer = gateway
            .send(&Request::post("/upload").key("not a key").body(&body))
            .await;
        answer.is(200, "");
        assert_eq!(answer.body, body);
    }
    assert_eq!(upstream.charges(), 2);
    assert_eq!(upstream.next_request().await.body, body);
}

#[tokio::test]
async fn on_a_pass_route_a_client_that_hangs_up_ends_the_upstreams_work() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&Request::get("/slow")).await;
    upstream.next_request().await;
    client.hang_up();
    // A hanging act ends when the gateway closes its connection.
    upstream.close_idle_connections().await;
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_on_the_way_out() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let hop = |request: Request| {
        request
            .header("Connection", "X-Private, keep-alive")
            .header("X-Private", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("Proxy-Authorization", "Basic abc")
            .header("TE", "trailers, deflate")
            .header("X-Kept", "yes")
    };
    for request in [hop(payment("k")), hop(Request::get("/else"))] {
        gateway.send(&request).await;
        let sent = upstream.next_request().await;
        for name in [
            "X-Private",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
        ] {
            assert_eq!(sent.header(name), None, "{name}: {sent:?}");
        }
        assert!(
            !sent
                .headers
                .all("Connection")
                .join(",")
                .contains("X-Private"),
            "{sent:?}"
        );
        assert!(
            !sent.headers.all("TE").join(",").contains("deflate"),
            "{sent:?}"
        );
        assert_eq!(sent.header("X-Kept"), Some("yes"));
    }
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_on_the_way_back_and_are_not_recorded() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let headers = [
        ("Connection", "X-Private"),
        ("X-Private", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("X-Kept", "yes"),
    ];
    upstream.next(Act::respond(201, &headers, "paid"));
    let first = gateway.send(&payment("k")).await;
    first.is(201, "executed");
    let replay = gateway.send(&payment("k")).await;
    replay.is(201, "replayed");
    for answer in [first, replay] {
        for name in ["X-Private", "Keep-Alive", "Proxy-Authenticate"] {
            assert_eq!(answer.header(name), None, "{name}: {answer:?}");
        }
        assert_eq!(answer.header("X-Kept"), Some("yes"));
    }
}

#[tokio::test]
async fn the_upstream_learns_who_asked_for_what() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let host = "api.example.com";
    for request in [payment("k"), Request::get("/else")] {
        gateway.send(&request.header("Host", host)).await;
        let sent = upstream.next_request().await;
        let client = sent.headers.all("X-Forwarded-For").join(", ");
        assert_eq!(client.rsplit(", ").next(), Some("127.0.0.1"), "{sent:?}");
        assert_eq!(sent.headers.all("X-Forwarded-Proto"), ["http"], "{sent:?}");
        assert_eq!(sent.headers.all("X-Forwarded-Host"), [host], "{sent:?}");
        assert!(
            sent.headers.all("Via").join(", ").starts_with("1.1 "),
            "{sent:?}"
        );
    }
}

#[tokio::test]
async fn a_client_cannot_claim_to_be_somebody_else() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let forged = payment("k")
        .header("X-Forwarded-Host", "evil.example")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("Oncegate-Owner", "me")
        .header("oncegate-anything", "x");
    gateway.send(&forged).await.is(201, "executed");
    let sent = upstream.next_request().await;
    let client = sent.headers.all("X-Forwarded-For").join(", ");
    assert_eq!(client.rsplit(", ").next(), Some("127.0.0.1"), "{sent:?}");
    assert_eq!(sent.headers.all("X-Forwarded-Proto"), ["http"], "{sent:?}");
    assert!(
        !sent
            .headers
            .all("X-Forwarded-Host")
            .contains(&"evil.example"),
        "{sent:?}"
    );
    assert_eq!(sent.header("Oncegate-Owner"), None);
    assert_eq!(sent.header("Oncegate-Anything"), None);
}

#[tokio::test]
async fn protected_requests_ask_for_identity_coding_and_others_for_what_their_client_asks() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    gateway
        .send(&payment("k").header("Accept-Encoding", "gzip, br"))
        .await;
    assert_eq!(
        upstream.next_request().await.headers.all("Accept-Encoding"),
        ["identity"]
    );
    gateway
        .send(&Request::get("/else").header("Accept-Encoding", "gzip, br"))
        .await;
    assert_eq!(
        upstream.next_request().await.headers.all("Accept-Encoding"),
        ["gzip, br"]
    );
}

#[tokio::test]
async fn target_headers_and_body_arrive_as_they_were_sent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("path = \"/v1/*\"")
        .route("fingerprint = { query = true }")
        .start()
        .await;
    let target = "/v1/a%2Fb%20c/pay?x=%41&&y";
    let body: Vec<u8> = (0..=255).collect();
    let request = Request {
        target: target.to_owned(),
        ..payment("k")
    };
    let request = request
        .header("X-Twice", "1")
        .header("X-Twice", "2")
        .body(&body);
    gateway.send(&request).await.is(201, "executed");
    let sent = upstream.next_request().await;
    assert_eq!(
        (sent.method.as_str(), sent.target.as_str()),
        ("POST", target)
    );
    assert_eq!(sent.headers.all("X-Twice"), ["1", "2"]);
    assert_eq!(sent.headers.all("Authorization"), ["Bearer alice"]);
    assert_eq!(sent.body, body);
    assert_eq!(sent.headers.all("Content-Length"), ["256"]);
    assert_eq!(sent.header("Transfer-Encoding"), None);
}

#[tokio::test]
async fn connections_to_the_upstream_are_used_again() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let mut client = gateway.connect().await;
    for number in 0..10 {
        client
            .send(&payment(&format!("k{number}")))
            .await
            .is(201, "executed");
    }
    assert!(upstream.connections() <= 3, "{}", upstream.connections());
}

#[tokio::test]
async fn an_answer_on_a_pass_route_comes_piece_by_piece() {
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
    assert_eq!(client.chunk().await.as_deref(), Some(&b"one"[..]));
    gate.open();
    assert_eq!(client.chunk().await.as_deref(), Some(&b"two"[..]));
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn an_unkeyed_request_keeps_its_length() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_required = false")
        .start()
        .await;
    let request = payment("k").without("Idempotency-Key").body("twelve bytes");
    gateway.send(&request).await.is(201, "unkeyed");
    let sent = upstream.next_request().await;
    assert_eq!(sent.headers.all("Content-Length"), ["12"]);
    assert_eq!(sent.header("Transfer-Encoding"), None);
    assert_eq!(sent.body, b"twelve bytes");
}

#[tokio::test]
async fn a_refusal_without_protection_says_nothing_about_keys() {
    let port = RefusedPort::take();
    let gateway = Setup::payments_at(&port.url()).rest_passes().start().await;
    let answer = gateway.send(&Request::get("/else")).await;
    assert_eq!(answer.status, 502);
    let problem = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(!problem.contains("key"), "{problem}");
}

#[tokio::test]
async fn a_client_cannot_say_for_whom_it_asks() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let request = payment("k").header("Forwarded", "for=6.6.6.6");
    gateway.send(&request).await.is(201, "executed");
    assert_eq!(upstream.next_request().await.header("Forwarded"), None);
}
