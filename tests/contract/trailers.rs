//! Trailers of an upstream's answer on a protected route: they are part of what is recorded.

use crate::support::{Act, Gateway, Http2, Operator, Setup, ToyUpstream, payment};

/// An answer with trailers behind its body, some of which are not the upstream's to say, or of the one exchange.
fn with_trailers() -> Act {
    Act::raw(
        "HTTP/1.1 201 Created\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npaid\r\n0\r\n\
         X-Sum: 7\r\nX-Sum: 8\r\nContent-Length: 9\r\nContent-Type: text/html\r\nSet-Cookie: a=b\r\n\
         Connection: X-Hop\r\nX-Hop: 1\r\nIdempotency-Status: replayed\r\nOncegate-Fence: 1\r\n\r\n",
    )
}

async fn gateway(upstream: &ToyUpstream, setups: &Setup) -> (Gateway, Http2) {
    upstream.next(with_trailers());
    let gateway = setups.start().await;
    let client = Http2::open(gateway.address).await;
    (gateway, client)
}

#[tokio::test]
async fn trailers_are_recorded_and_come_with_every_replay() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    for setup in [setup.clone(), setup.embedded()] {
        let (gateway, client) = gateway(&upstream, &setup).await;
        // From the record, then from the replay cache, then over HTTP/1.1.
        for status in ["executed", "replayed", "replayed"] {
            let answer = client.send(&payment("k")).await;
            assert_eq!(answer.is(201, status).text(), "paid");
            assert_eq!(answer.trailers.all("x-sum"), ["7", "8"]);
            assert_eq!(answer.trailers.0.len(), 2, "{:?}", answer.trailers);
        }
        let wants = payment("k")
            .header("TE", "trailers")
            .header("Connection", "TE");
        let answer = gateway.send(&wants).await;
        assert_eq!(answer.is(201, "replayed").text(), "paid");
        assert_eq!(answer.header("Trailer"), Some("x-sum"));
        assert_eq!(answer.header("Content-Length"), None);
        assert_eq!(answer.trailers.all("x-sum"), ["7", "8"]);
    }
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_client_that_takes_no_trailers_gets_none() {
    let upstream = ToyUpstream::start();
    let (gateway, _) = gateway(&upstream, &Setup::payments(&upstream)).await;
    for status in ["executed", "replayed"] {
        let answer = gateway.send(&payment("k")).await;
        assert_eq!(answer.is(201, status).text(), "paid");
        assert_eq!(answer.trailers.0.len(), 0, "{:?}", answer.trailers);
        assert_eq!(answer.header("Trailer"), None);
        assert_eq!(answer.header("Content-Length"), Some("4"));
    }
}

#[tokio::test]
async fn trailers_behind_no_body_are_replayed_too() {
    let upstream = ToyUpstream::start();
    upstream.next(Act::raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 0\r\n\r\n",
    ));
    let gateway = Setup::payments(&upstream).start().await;
    let client = Http2::open(gateway.address).await;
    for status in ["executed", "replayed"] {
        let answer = client.send(&payment("k")).await;
        assert_eq!(answer.is(200, status).text(), "");
        assert_eq!(answer.trailers.all("x-sum"), ["0"]);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_held_keeps_its_trailers() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("max_response_body = \"3B\"")
        .start()
        .await;
    upstream.next(with_trailers());
    let client = Http2::open(gateway.address).await;
    let answer = client.send(&payment("k")).await;
    assert_eq!(answer.is(201, "unrecorded").text(), "paid");
    assert_eq!(answer.trailers.all("x-sum"), ["7", "8"]);
    assert!(answer.trailers.all("oncegate-fence").is_empty());
}

#[tokio::test]
async fn operators_see_trailers_and_give_them() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    upstream.next(with_trailers());
    gateway.send(&payment("k")).await.is(201, "executed");
    let record = operator.finds(&gateway, "k").await.json();
    let expected = serde_json::json!([["x-sum", "7"], ["x-sum", "8"]]);
    assert_eq!(record["response"]["trailers"], expected);

    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("lost")).await.is(502, "unknown");
    let record = operator.finds(&gateway, "lost").await.json();
    let response =
        serde_json::json!({ "status": 200, "body": "paid", "trailers": [["X-Sum", "9"]] });
    let resolved = operator.says(&gateway, &record, "resolve", response).await;
    assert_eq!(resolved.status, 200, "{resolved:?}");
    let answer = Http2::open(gateway.address)
        .await
        .send(&payment("lost"))
        .await;
    assert_eq!(answer.is(200, "replayed").trailers.all("x-sum"), ["9"]);
}
