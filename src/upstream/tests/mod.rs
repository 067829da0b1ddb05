//! Over real sockets of the loopback interface: an upstream made of a listener and a few scripted bytes.

mod balancing;
mod health;
mod pool;
mod secure;
mod shared;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::HOST;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::{self, UpstreamProtocol};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Long enough that a test which needs it has failed.
const FOREVER: Duration = Duration::from_secs(5);

struct Origin(TcpListener);

impl Origin {
    async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn endpoint(&self) -> UpstreamEndpoint {
        endpoint("127.0.0.1", self.0.local_addr().unwrap().port())
    }

    fn upstream(&self) -> Arc<Upstream> {
        Upstream::new(&config(vec![self.endpoint()]))
    }

    async fn accept(&self) -> TcpStream {
        let accepted = timeout(FOREVER, self.0.accept()).await;
        accepted.expect("a connection").unwrap().0
    }

    /// Accepts a connection and answers the first request on it.
    async fn answer(&self, response: &[u8]) -> TcpStream {
        let mut socket = self.accept().await;
        answer(&mut socket, response).await;
        socket
    }
}

fn endpoint(host: &str, port: u16) -> UpstreamEndpoint {
    let host = host.to_owned();
    UpstreamEndpoint::Http(config::Endpoint { host, port })
}

/// An endpoint at which nobody listens.
async fn nobody() -> UpstreamEndpoint {
    Origin::bind().await.endpoint()
}

fn config(endpoints: Vec<UpstreamEndpoint>) -> UpstreamConfig {
    UpstreamConfig {
        name: "payments".to_owned(),
        endpoints,
        tls: None,
        protocol: UpstreamProtocol::Http1,
        resolvers: Vec::new(),
        health: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(4),
        max_in_flight: 8,
    }
}

fn request(body: OutBody) -> Request<OutBody> {
    let request = Request::post("/v1/payments?a=%2F").header(HOST, "payments.test");
    request.body(body).unwrap()
}

async fn send(upstream: &Arc<Upstream>) -> Result<Response<InBody>, SendError> {
    let body = OutBody::from(Bytes::from_static(b"{}"));
    // What belongs to a claim is what must never meet a closed connection.
    let gate = Gate::until(Instant::now() + FOREVER);
    upstream.send(request(body), &gate).await
}

async fn read_all(response: Response<InBody>) -> Result<Bytes, AnswerBroken> {
    Ok(response.into_body().collect().await?.to_bytes())
}

/// Reads one request with its two bytes of body.
async fn read_request(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n{}") {
        let more = timeout(FOREVER, socket.read_buf(&mut read)).await;
        assert_ne!(
            more.expect("a request").unwrap(),
            0,
            "the request is cut off"
        );
    }
    String::from_utf8(read).unwrap()
}

async fn answer(socket: &mut TcpStream, response: &[u8]) -> String {
    let request = read_request(socket).await;
    socket.write_all(response).await.unwrap();
    request
}

async fn reads_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let end = timeout(FOREVER, socket.read_to_end(&mut read)).await;
    end.expect("the end of the connection").ok();
    read
}

/// Closes with a reset instead of an orderly end.
fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(socket);
}

fn unsent(kind: SendErrorKind) -> SendError {
    SendError { kind, sent: false }
}

fn sent(kind: SendErrorKind) -> SendError {
    SendError { kind, sent: true }
}

#[tokio::test]
async fn a_request_arrives_as_it_was_given_and_so_does_its_response() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let (response, request) = tokio::join!(send(&upstream), async {
        answer(&mut origin.accept().await, OK).await
    });
    assert_eq!(
        request,
        "POST /v1/payments?a=%2F HTTP/1.1\r\nhost: payments.test\r\ncontent-length: 2\r\n\r\n{}"
    );
    assert_eq!(read_all(response.unwrap()).await.unwrap(), "ok");
}

/// The body as the wire has it, and nothing that the head said about it before.
#[tokio::test]
async fn the_framing_follows_the_body_whatever_the_head_says() {
    let full = || OutBody::from(Bytes::from_static(b"{}"));
    let chunks = "transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    for (method, body, framed) in [
        ("POST", full(), "content-length: 2\r\n\r\n{}"),
        ("GET", full(), "content-length: 2\r\n\r\n{}"),
        ("POST", OutBody::Empty, "content-length: 0\r\n\r\n"),
        ("PATCH", Bytes::new().into(), "content-length: 0\r\n\r\n"),
        ("GET", OutBody::Empty, "\r\n"),
        ("DELETE", OutBody::Empty, "\r\n"),
        ("POST", streaming(vec![Ok(b"a")]), chunks),
        ("GET", streaming(vec![Ok(b"a")]), chunks),
    ] {
        let origin = Origin::bind().await;
        let upstream = origin.upstream();
        let request = Request::builder()
            .method(method)
            .version(http::Version::HTTP_10)
            .header("content-length", "7")
            .header("transfer-encoding", "gzip")
            .body(body)
            .unwrap();
        let gate = Gate::open();
        let wanted = format!("{method} / HTTP/1.1\r\n{framed}");
        let (response, ()) = tokio::join!(upstream.send(request, &gate), async {
            let mut socket = origin.accept().await;
            let mut read = vec![0; wanted.len()];
            let reading = timeout(FOREVER, socket.read_exact(&mut read)).await;
            reading.expect(&wanted).unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), wanted);
            let more = socket.try_read(&mut [0]);
            assert_eq!(more.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            socket.write_all(OK).await.unwrap();
        });
        assert_eq!(response.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_body_that_ends_before_its_announced_length_is_sent_and_cut_off() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let gate = Gate::open();
    let sending = upstream.send(request(OutBody::streaming(Misjudged(None))), &gate);
    let (result, mut socket) = tokio::join!(sending, origin.accept());
    let error = result.err().unwrap();
    assert_eq!(error.kind, SendErrorKind::RequestBody);
    assert_eq!(error.sent, gate.written());
    reads_to_end(&mut socket).await;
}

/// Announces three bytes, and gives these.
struct Misjudged(Option<&'static [u8]>);

impl http_body::Body for Misjudged {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.take().map(Bytes::from_static);
        std::task::Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(3)
    }
}

#[tokio::test]
async fn interim_responses_are_dropped() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let early = [b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", OK].concat();
    let (response, _) = tokio::join!(send(&upstream), origin.answer(&early));
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
async fn a_dropped_send_closes_its_connection_and_the_gate_says_that_it_was_written() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let gate = Gate::open();
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let mut socket = tokio::select! {
        _ = upstream.send(request(body), &gate) => unreachable!("nobody answers"),
        socket = async {
            let mut socket = origin.accept().await;
            read_request(&mut socket).await;
            socket
        } => socket,
    };
    assert!(!gate.close());
    assert_eq!(reads_to_end(&mut socket).await, b"");
    assert_eq!(upstream.stats().in_flight, 0);
}

#[tokio::test]
async fn a_reset_after_the_request_was_read_is_sent_and_not_tried_elsewhere() {
    let (origin, other) = (Origin::bind().await, Origin::bind().await);
    let upstream = Upstream::new(&config(vec![origin.endpoint(), other.endpoint()]));
    upstream.balance.targets()[1].entered();
    let (result, ()) = tokio::join!(send(&upstream), async {
        let mut socket = origin.accept().await;
        read_request(&mut socket).await;
        reset(socket);
    });
    assert_eq!(result.err(), Some(sent(SendErrorKind::ConnectionLost)));
    assert!(futures_util::FutureExt::now_or_never(other.0.accept()).is_none());
}

#[tokio::test]
async fn an_end_before_the_response_is_sent() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    for part in ["", "HTTP/1.1 200 OK\r\ncont"] {
        let (result, _) = tokio::join!(send(&upstream), async {
            drop(origin.answer(part.as_bytes()).await);
        });
        assert!(result.err().is_some_and(|error| error.sent), "{part:?}");
    }
}

#[tokio::test]
async fn what_is_no_response_is_a_bad_response() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let too_large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "a".repeat(200 * 1024));
    let bad: [&[u8]; 4] = [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        too_large.as_bytes(),
    ];
    for bad in bad {
        let (result, _) = tokio::join!(send(&upstream), async {
            let mut socket = origin.accept().await;
            read_request(&mut socket).await;
            // The last one is not read to its end.
            socket.write_all(bad).await.ok();
            socket
        });
        let start = String::from_utf8_lossy(&bad[..20]);
        assert_eq!(
            result.err(),
            Some(sent(SendErrorKind::BadResponse)),
            "{start}"
        );
    }
}

#[tokio::test]
async fn a_truncated_response_fails_while_it_is_read() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    for part in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        let (response, ()) = tokio::join!(send(&upstream), async {
            drop(origin.answer(part.as_bytes()).await);
        });
        assert!(read_all(response.unwrap()).await.is_err());
    }
    assert_eq!(
        (upstream.stats().cut_off, upstream.stats().in_flight),
        (2, 0)
    );
}

#[tokio::test]
async fn behind_a_closed_gate_nothing_is_on_the_wire() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let gate = Gate::open();
    assert!(gate.close());
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let result = upstream.send(request(body), &gate).await;
    assert_eq!(result.err(), Some(unsent(SendErrorKind::GateClosed)));
    assert_eq!(upstream.stats().connects, 0);
}

/// Nothing of this runtime has had the chance to notice the reset: the first write does.
#[tokio::test]
async fn a_connection_that_is_reset_before_the_first_byte_gives_the_request_back() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let address = Address::Tcp(origin.0.local_addr().unwrap());
    let opening = upstream.opening(&upstream.balance.targets()[0]);
    let open = opening.open_alone(address);
    let (Ok(connection), socket) = tokio::join!(open, origin.accept()) else {
        panic!("not connected");
    };
    reset(socket);
    let gate = Gate::open();
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let Err(failed) = connection.exchange(request(body), &gate).await else {
        panic!("a response");
    };
    assert!(!failed.sent);
    let request = failed.request.expect("the request");
    assert_eq!(request.uri(), "/v1/payments?a=%2F");
    assert_eq!(
        request.into_body().collect().await.unwrap().to_bytes(),
        "{}"
    );
    assert!(gate.close());
}

/// Between the last look at the gate and the write lie the connection's own task and, here, a deadline.
#[tokio::test]
async fn a_gate_that_closes_after_the_connection_is_made_still_holds_the_first_byte_back() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let opening = upstream.opening(&upstream.balance.targets()[0]);
    let open = opening.open_alone(Address::Tcp(origin.0.local_addr().unwrap()));
    let (Ok(connection), mut socket) = tokio::join!(open, origin.accept()) else {
        panic!("not connected");
    };
    let gate = Gate::until(Instant::now());
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let Err(failed) = connection.exchange(request(body), &gate).await else {
        panic!("a response");
    };
    assert_eq!(
        (failed.kind, failed.sent),
        (SendErrorKind::GateClosed, false)
    );
    assert_eq!(reads_to_end(&mut socket).await, b"");
}

/// On several threads, with real connections: what the gate says is what the upstream saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_closes_the_gate_in_time_knows_that_the_upstream_saw_nothing() {
    const ROUNDS: u32 = 300;
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let mut held_back = 0;
    for round in 0..ROUNDS {
        let gate = Gate::open();
        let sending = tokio::spawn({
            let (upstream, gate) = (Arc::clone(&upstream), Arc::clone(&gate));
            let body = OutBody::from(Bytes::from_static(b"{}"));
            async move { upstream.send(request(body), &gate).await.map(drop) }
        });
        for _ in 0..round % 50 * 40 {
            std::hint::spin_loop();
        }
        let closed = gate.close();
        held_back += u32::from(closed);
        if closed {
            let result = timeout(FOREVER, sending).await.unwrap().unwrap();
            assert_eq!(result, Err(unsent(SendErrorKind::GateClosed)));
            while let Some(accepted) = futures_util::FutureExt::now_or_never(origin.0.accept()) {
                assert_eq!(reads_to_end(&mut accepted.unwrap().0).await, b"");
            }
        } else {
            read_request(&mut origin.accept().await).await;
            let result = timeout(FOREVER, sending).await.unwrap().unwrap();
            assert_eq!(result, Err(sent(SendErrorKind::ConnectionLost)));
        }
    }
    println!("held back {held_back} of {ROUNDS}");
}

type Frames = Vec<Result<&'static [u8], &'static str>>;

fn streaming(frames: Frames) -> OutBody {
    let frames = frames.into_iter().map(|frame| {
        frame
            .map(|bytes| Frame::data(Bytes::from_static(bytes)))
            .map_err(std::io::Error::other)
    });
    OutBody::streaming(StreamBody::new(stream::iter(frames)))
}

#[tokio::test]
async fn a_body_that_passes_through_arrives_in_chunks() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let body = streaming(vec![Ok(b"a"), Ok(b"bc")]);
    let gate = Gate::open();
    let (response, ()) = tokio::join!(upstream.send(request(body), &gate), async {
        let mut socket = origin.accept().await;
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n") {
            assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
        }
        socket.write_all(OK).await.unwrap();
    });
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_that_fails_half_way_is_sent_and_cut_off() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let (fail, failed) = oneshot::channel::<Infallible>();
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"a")))]);
    let then = stream::once(async { Err(failed.await.unwrap_err()) });
    let body = OutBody::streaming(StreamBody::new(futures_util::StreamExt::chain(first, then)));
    let gate = Gate::open();
    let (result, read) = tokio::join!(upstream.send(request(body), &gate), async {
        let mut socket = origin.accept().await;
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n1\r\na\r\n") {
            assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
        }
        drop(fail);
        reads_to_end(&mut socket).await
    });
    assert_eq!(result.err(), Some(sent(SendErrorKind::RequestBody)));
    assert_eq!(read, b"", "the body must not look complete");
}

#[tokio::test]
async fn a_body_that_fails_before_the_first_byte_is_not_sent() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let body = streaming(vec![Err("the client has gone")]);
    let gate = Gate::open();
    let (result, mut socket) = tokio::join!(upstream.send(request(body), &gate), origin.accept());
    assert_eq!(result.err(), Some(unsent(SendErrorKind::RequestBody)));
    assert_eq!(reads_to_end(&mut socket).await, b"");
    assert!(gate.close());
}
