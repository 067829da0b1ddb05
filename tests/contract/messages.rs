//! What is refused before any route is asked: messages that two servers would read differently.

use crate::support::{Http2, Problem, Request, Setup, ToyUpstream, payment};

#[tokio::test]
async fn a_path_that_an_upstream_may_read_as_the_protected_one_is_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    for target in [
        "/v1//payments",
        "/v1/./payments",
        "/v1/x/../payments",
        "/v1/%70ayments",
        "/v1%2Fpayments",
        "/v1/payments/",
        "//v1/payments",
        "/v1/%2e/payments",
        "/v1/payments%3Fa=b",
        "/v1/payments%23",
        "/v1/payments%00",
    ] {
        let request = Request {
            target: target.to_owned(),
            ..payment("k")
        };
        let answer = gateway.send(&request).await;
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        answer.is_problem(Problem::BAD_REQUEST);
    }
    assert_eq!(upstream.charges(), 0);
    // Odd ones that select the same route either way are nobody's business.
    gateway
        .send(&Request::get("/files/a%2Fb//c/"))
        .await
        .is(201, "");
    assert_eq!(upstream.next_request().await.target, "/files/a%2Fb//c/");
}

#[tokio::test]
async fn a_message_that_can_be_read_in_two_ways_is_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let common = "Authorization: Bearer alice\r\nIdempotency-Key: k\r\n";
    let posts = [
        ("no Host", "Content-Length: 0\r\n"),
        ("two Hosts", "Host: a\r\nHost: b\r\nContent-Length: 0\r\n"),
        ("a Host of two words", "Host: a b\r\nContent-Length: 0\r\n"),
        (
            "two lengths",
            "Host: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n",
        ),
        (
            "a length and chunks",
            "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "an unknown coding",
            "Host: a\r\nTransfer-Encoding: gzip\r\n",
        ),
        (
            "chunks twice",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "a hidden key",
            "Host: a\r\nConnection: Idempotency-Key\r\nContent-Length: 0\r\n",
        ),
        (
            "a hidden scope",
            "Host: a\r\nConnection: authorization\r\nContent-Length: 0\r\n",
        ),
    ];
    for (what, headers) in posts {
        let mut client = gateway.connect().await;
        let head = format!("POST /v1/payments HTTP/1.1\r\n{headers}{common}\r\n0\r\n\r\n");
        client.write(head.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
    }
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_method_in_another_case_is_no_way_around_a_route() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let request = Request {
        method: "post".to_owned(),
        ..payment("k")
    };
    let answer = gateway.send(&request).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_host_that_is_no_plain_host_is_no_way_around_a_route() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("host = \"api.example\"")
        .rest_passes()
        .start()
        .await;
    let common = "Authorization: Bearer alice\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n";
    for (target, host) in [
        ("http://u@api.example/v1/payments", ""),
        (
            "http://u:p@api.example/v1/payments",
            "Host: api.example\r\n",
        ),
        ("/v1/payments", "Host: u@api.example\r\n"),
        ("/v1/payments", "Host: api.example\u{e9}\r\n"),
    ] {
        let mut client = gateway.connect().await;
        let head = format!("POST {target} HTTP/1.1\r\n{host}{common}\r\n");
        client.write(head.as_bytes()).await;
        client.answer().await.is_problem(Problem::BAD_REQUEST);
    }
    // In HTTP/2 the authority needs no Host beside it.
    let request = Request {
        target: "http://u@api.example/v1/payments".to_owned(),
        ..payment("k")
    };
    let answer = Http2::open(gateway.address).await.send(&request).await;
    answer.is_problem(Problem::BAD_REQUEST);
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_tunnel_is_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    for target in ["db.example:5432", "/v1/payments", "/files"] {
        let request = Request {
            method: "CONNECT".to_owned(),
            target: target.to_owned(),
            ..payment("k")
        };
        let answer = gateway
            .send(&request.header("Host", "db.example:5432"))
            .await;
        answer.is_problem(Problem::BAD_REQUEST);
    }
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn an_authority_that_disagrees_with_host_is_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let request = payment("k").header("Host", "a.example");
    let request = Request {
        target: "http://b.example/v1/payments".to_owned(),
        ..request
    };
    let answer = gateway.send(&request).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn after_an_answer_that_did_not_wait_for_the_body_the_rest_is_no_request() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let mut client = gateway.connect().await;
    // The body of a refused request looks like a request of its own.
    let smuggled = payment("smuggled").to_bytes("a");
    let refused = payment("k").without("Idempotency-Key").body(&smuggled);
    client.send(&refused).await.refuses(Problem::KEY_MISSING);
    // The connection is either at its end or exactly at the next request.
    if let Some(next) = client.try_send(&payment("k")).await {
        next.is(201, "executed");
    }
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| request.key() == "k")
    );
}
