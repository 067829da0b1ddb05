//! Bodies that stall, either way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::bystander::Bystander;
use crate::support::{
    Act, Answer, Headers, Http2, Problem, Request, Setup, ToyUpstream, payment, within,
};
use crate::{SLACK, settles, timeouts};

const SHORT: Duration = Duration::from_millis(500);

/// More than the sockets of both ends hold.
const LARGE: usize = 16_000_000;

#[tokio::test]
async fn a_request_body_that_stalls_is_refused_after_body_idle_over_http1() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("body_idle = \"500ms\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    for (target, is_protected) in [("/v1/payments", true), ("/elsewhere", false)] {
        let stalling = Request::post(target)
            .auth("Bearer alice")
            .key("stalls")
            .header("Content-Length", "9")
            .body("abc");
        let mut connection = gateway.connect().await;
        let begun = Instant::now();
        let answer = connection.send(&stalling).await;
        assert!(begun.elapsed() + SLACK >= SHORT, "{:?}", begun.elapsed());
        is_refused(&answer, is_protected);
        connection.closed().await;
    }
    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "body_idle").await, 2);
    assert!(!upstream.charges_by_key().contains_key("stalls"));
    // Nothing is left of it: the key is free.
    gateway.send(&payment("stalls")).await.is(201, "executed");
    settles(&gateway, "oncegate_connections", &[], 0).await;
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}

#[tokio::test]
async fn a_request_body_that_stalls_is_refused_after_body_idle_over_http2_and_other_streams_go_on()
{
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("body_idle = \"500ms\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let mut sender = streaming_http2(gateway.address).await;
    for (target, is_protected) in [("/v1/payments", true), ("/elsewhere", false)] {
        let begun = Instant::now();
        let answer = answered(&mut sender, target, "stalls", true).await;
        assert!(begun.elapsed() + SLACK >= SHORT, "{:?}", begun.elapsed());
        is_refused(&answer, is_protected);
    }
    answered(&mut sender, "/v1/payments", "goes-on", false)
        .await
        .is(201, "executed");
    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "body_idle").await, 2);
    assert!(!upstream.charges_by_key().contains_key("stalls"));
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_dropped_after_body_idle_over_http1() {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; LARGE]),
        _ => Act::respond(201, &[], ""),
    });
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("body_idle = \"500ms\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let kept = slow_reader(gateway.address).await;
    settles(
        &gateway,
        "oncegate_upstream_in_flight",
        &[("upstream", "toy")],
        1,
    )
    .await;
    // By the gateway: this end still holds the connection.
    settles(
        &gateway,
        "oncegate_client_timeouts_total",
        &[("limit", "body_idle")],
        1,
    )
    .await;
    bystander.was_served().await;
    settles(&gateway, "oncegate_connections", &[], 0).await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
    drop(kept);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_loses_the_stream_after_body_idle_over_http2() {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; LARGE]),
        _ => Act::respond(201, &[], ""),
    });
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("body_idle = \"500ms\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let shut = Http2::with_shut_windows(gateway.address).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(shut.begin(&Request::get("/large")).await);
    }
    settles(
        &gateway,
        "oncegate_client_timeouts_total",
        &[("limit", "body_idle")],
        3,
    )
    .await;
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
    // An answer without a body needs no window: the connection goes on.
    shut.send(&payment("goes-on")).await.is(201, "executed");
    bystander.was_served().await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}

/// Refused for its body; on a pass route nothing is said about keys.
pub fn is_refused(answer: &Answer, is_protected: bool) {
    if is_protected {
        answer.refuses(Problem::BAD_REQUEST);
    } else {
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.json()["type"], "urn:oncegate:problem:bad-request");
        assert_eq!(answer.idempotency_status(), "");
    }
}

/// A connection that has asked for a large answer and takes nothing of it.
async fn slow_reader(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an open socket");
    let mut stream = socket.connect(address).await.expect("a connection");
    let request = Request::get("/large").to_bytes("a");
    stream.write_all(&request).await.expect("the gateway reads");
    stream
}

pub type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// An HTTP/2 connection for requests whose bodies come in pieces.
pub async fn streaming_http2(address: SocketAddr) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = within("HTTP/2", handshake).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Sends a payment in two pieces, or the first of them and nothing more, and reads the answer.
async fn answered(
    sender: &mut http2::SendRequest<Body>,
    target: &str,
    key: &str,
    stalls: bool,
) -> Answer {
    let first = stream::iter([piece("{\"amount\"")]);
    let rest = stream::iter([piece(":100}")]);
    let body = if stalls {
        first.chain(stream::pending()).boxed()
    } else {
        first.chain(rest).boxed()
    };
    sent(sender, target, key, body).await
}

/// A piece of a body.
pub fn piece(text: &'static str) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// Sends a payment with this body, and reads the answer.
pub async fn sent(
    sender: &mut http2::SendRequest<Body>,
    target: &str,
    key: &str,
    body: BoxStream<'static, Result<Frame<Bytes>, Infallible>>,
) -> Answer {
    let request = http::Request::post(format!("http://a{target}"))
        .header("Authorization", "Bearer alice")
        .header("Idempotency-Key", key)
        .body(StreamBody::new(body))
        .expect("a request");
    let answer = within("an answer", sender.send_request(request)).await;
    let (head, body) = answer.expect("an answer").into_parts();
    let body = within("a body", body.collect()).await.expect("a body");
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let value = value.to_str().expect("visible text");
        (name.to_string(), value.to_owned())
    };
    Answer {
        status: head.status.as_u16(),
        headers: Headers(head.headers.iter().map(line).collect()),
        body: body.to_bytes().to_vec(),
        trailers: Default::default(),
        complete: true,
    }
}
