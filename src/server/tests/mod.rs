//! Over real sockets of the loopback interface, with clients made of a few scripted bytes, and hyper's for HTTP/2.

mod edge;
mod flow;
mod limits;
mod tls;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Mutex;

use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connection::PREFACE;
use super::*;

/// Long enough that a test which needs it has failed, or that a limit does not matter.
const FOREVER: Duration = Duration::from_secs(5);
/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(100);
/// A limit that a test can tell from the one above.
const LONGER: Duration = Duration::from_millis(400);

/// Bytes of the bodies of `/large` and `/small`, each of one piece: beyond what may be left behind when a stream's
/// task ends, and within it.
const LARGE: usize = 200_000;
const SMALL: usize = 10_000;

fn limits() -> Limits {
    Limits {
        max_connections: 16,
        max_connections_per_address: 0,
        max_buffered: 0,
        max_waiters_per_key: 0,
        max_waiters: 0,
        max_late: 0,
        first_byte: FOREVER * 2,
        headers: FOREVER * 2,
        body_idle: FOREVER * 2,
        min_receive_rate: 0,
        min_send_rate: 0,
        rate_grace: FOREVER * 2,
        keep_alive: FOREVER * 2,
        http2: crate::config::Http2Limits {
            streams: 128,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            ping_every: FOREVER * 4,
            ping_timeout: FOREVER * 4,
        },
        replay_cache: 0,
    }
}

/// Answers by path.
#[derive(Clone, Default)]
struct Paths {
    /// `/hold` says that it has begun, and answers when it may; `/late` ends when it may.
    begun: Arc<Notify>,
    may_answer: Arc<Notify>,
    /// Dropped with the future of `/hold` or the body of `/flood`.
    token: Arc<Mutex<Option<oneshot::Sender<Infallible>>>>,
}

impl Handler for Paths {
    type Body = BoxBody<Bytes, Infallible>;

    async fn handle(&self, request: Box<Request<RequestBody>>, peer: Peer) -> Response<Self::Body> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/echo" => match request.into_body().collect().await {
                Ok(body) => full(StatusCode::OK, body.to_bytes()),
                Err(RequestBodyError::Stalled) => full(StatusCode::REQUEST_TIMEOUT, "stalled"),
                Err(RequestBodyError::Failed(_) | RequestBodyError::Trailers(_)) => {
                    full(StatusCode::BAD_REQUEST, "failed")
                }
            },
            "/early" => full(StatusCode::PAYLOAD_TOO_LARGE, "too large"),
            "/peer" => {
                let client = peer
                    .addr
                    .map_or("unix:".to_owned(), |addr| addr.to_string());
                full(StatusCode::OK, format!("{client} {}", peer.local))
            }
            "/hold" => {
                let _token = self.token.lock().unwrap().take();
                self.begun.notify_one();
                self.may_answer.notified().await;
                full(StatusCode::OK, "held")
            }
            "/flood" => {
                let token = self.token.lock().unwrap().take();
                let water = stream::repeat(Bytes::from_static(&[b'w'; 16384])).map(move |drop| {
                    let _ = &token;
                    Ok(Frame::data(drop))
                });
                Response::new(BodyExt::boxed(StreamBody::new(water)))
            }
            "/late" => {
                let may_end = Arc::clone(&self.may_answer);
                let end = async move {
                    may_end.notified().await;
                    Frame::data(Bytes::from_static(b"gun"))
                };
                let frames = stream::once(async { Frame::data(Bytes::from_static(b"be")) })
                    .chain(stream::once(end))
                    .chain(stream::once(async { Frame::trailers(HeaderMap::new()) }));
                Response::new(BodyExt::boxed(StreamBody::new(frames.map(Ok))))
            }
            "/large" => full(StatusCode::OK, vec![b'l'; LARGE]),
            "/small" => full(StatusCode::OK, vec![b's'; SMALL]),
            _ => full(StatusCode::OK, "ok"),
        }
    }

    fn malformed(&self, fault: Fault, _: bool, _: Peer) -> Response<Self::Body> {
        let status = match fault.is_too_large() {
            true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            false => StatusCode::BAD_REQUEST,
        };
        full(status, fault.to_string())
    }
}

fn full(status: StatusCode, body: impl Into<Bytes>) -> Response<BoxBody<Bytes, Infallible>> {
    let body = Full::new(body.into()).boxed();
    Response::builder().status(status).body(body).unwrap()
}

struct Running {
    address: SocketAddr,
    paths: Paths,
    counters: Counters,
    entrance: Arc<Entrance>,
    drain: watch::Sender<Option<Ending>>,
    server: JoinHandle<()>,
}

fn start(limits: &Limits) -> Running {
    start_at(
        &ListenerConfig::plain("127.0.0.1:0".parse().unwrap()),
        limits,
    )
}

fn start_at(listener: &ListenerConfig, limits: &Limits) -> Running {
    let (server, listeners) = Server::bind(std::slice::from_ref(listener), limits).unwrap();
    let server = server.when_full(b"{\"title\":\"full\"}");
    let (drain, drained) = watch::channel(None);
    let (address, counters) = (listeners.addresses()[0].tcp(), server.counters());
    let entrance = Arc::clone(&listeners.entrances()[0]);
    let paths = Paths::default();
    Running {
        address: address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
        counters,
        entrance,
        drain,
        server: tokio::spawn(server.run(paths.clone(), drained)),
        paths,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn drain_within(&self, time: Duration) {
        let now = Instant::now();
        self.drain.send_replace(Some(Ending {
            accepts_until: now,
            idle_until: now,
            deadline: now + time,
        }));
    }

    async fn ended(self) {
        let ended = timeout(FOREVER, self.server).await;
        ended.expect("the server's end").unwrap();
    }

    /// Resolves when the handler has dropped what it does on `/hold` or `/flood`.
    fn token(&self) -> impl Future<Output = ()> + use<> {
        let (token, dropped) = oneshot::channel();
        *self.paths.token.lock().unwrap() = Some(token);
        async move {
            let dropped = timeout(FOREVER, dropped).await;
            dropped.expect("it to be dropped").unwrap_err();
        }
    }
}

async fn say(socket: &mut (impl AsyncWrite + Unpin), bytes: impl AsRef<[u8]>) {
    socket.write_all(bytes.as_ref()).await.unwrap();
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

/// Reads until what was read ends so.
async fn hear(socket: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        let more = timeout(FOREVER, socket.read_buf(&mut heard)).await;
        let so_far = String::from_utf8_lossy(&heard).into_owned();
        assert_ne!(more.expect(&so_far).expect(&so_far), 0, "{so_far}");
    }
    String::from_utf8(heard).unwrap()
}

/// Reads to the connection's end.
async fn hear_all(socket: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut heard = Vec::new();
    let end = timeout(FOREVER, socket.read_to_end(&mut heard)).await;
    end.expect("the connection's end").ok();
    heard
}

/// Asserts that the connection ends without a word, after one limit and before another.
async fn ends_silently(socket: &mut (impl AsyncRead + Unpin), after: Duration, before: Duration) {
    let start = Instant::now();
    assert_eq!(hear_all(socket).await, b"");
    let took = start.elapsed();
    // The beginning of what is timed lies before our start.
    assert!(after.mul_f32(0.8) < took && took < before, "{took:?}");
}

type Http2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// An HTTP/2 client, and its end.
async fn http2(running: &Running) -> (Http2, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(running.connect().await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (sender, connection) = handshake.await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn ask(http2: &mut Http2, path: &str) -> (StatusCode, Bytes) {
    let request = Request::get(format!("http://a{path}")).body(Full::default());
    let response = http2.send_request(request.unwrap()).await.unwrap();
    let status = response.status();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes(),
    )
}

#[tokio::test]
async fn both_protocols_are_served_on_one_port() {
    let running = start(&limits());
    let mut socket = running.connect().await;
    say(&mut socket, get("/peer")).await;
    let peer = format!("{} {}", socket.local_addr().unwrap(), running.address);
    assert!(
        hear(&mut socket, &peer)
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    say(&mut socket, get("/")).await;
    hear(&mut socket, "\r\n\r\nok").await;

    let (mut http2, _) = http2(&running).await;
    assert_eq!(ask(&mut http2, "/").await, (StatusCode::OK, "ok".into()));
    let stats = running.counters.snapshot();
    assert_eq!((stats.connections, stats.accepted, stats.limit), (2, 2, 16));
}

#[tokio::test]
async fn a_client_that_leaves_makes_room() {
    let running = start(&limits());
    let mut socket = running.connect().await;
    say(&mut socket, get("/hold")).await;
    let dropped = running.token();
    running.paths.begun.notified().await;
    drop(socket);
    dropped.await;
    running.drain_within(FOREVER);
    let counters = running.counters.clone();
    running.ended().await;
    assert_eq!(counters.snapshot().connections, 0);
}

#[tokio::test]
async fn pieces_of_the_first_bytes_are_put_together() {
    let running = start(&limits());
    let mut socket = running.connect().await;
    for piece in ["P", "RI * HTT", "X / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        say(&mut socket, piece).await;
        tokio::task::yield_now().await;
    }
    // `PRI` was not the beginning of HTTP/2 after all, and is a bad request.
    assert!(String::from_utf8_lossy(&hear_all(&mut socket).await).starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn malformed_and_too_large_heads_are_answered_by_the_protocol() {
    let running = start(&limits());
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost a\r\n\r\n".to_owned(), "400"),
        (
            format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(300_000)),
            "431",
        ),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)),
            "431",
        ),
    ] {
        let mut socket = running.connect().await;
        say(&mut socket, request).await;
        let answer = String::from_utf8(hear_all(&mut socket).await).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

/// RFC 9110, section 9.3.2.
#[tokio::test]
async fn a_head_that_is_no_request_is_answered_without_a_body_too() {
    let running = start(&limits());
    for (request, status) in [
        ("HEAD / HTTP/1.1\r\nhost a\r\n\r\n".to_owned(), "400"),
        ("HEAD / HTTP/1.1\nhost: a\n\n".to_owned(), "400"),
        (
            format!("HEAD /{} HTTP/1.1\r\n\r\n", "a".repeat(300_000)),
            "431",
        ),
        (
            format!("HEAD / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)),
            "431",
        ),
    ] {
        let mut socket = running.connect().await;
        say(&mut socket, request).await;
        let answer = String::from_utf8(hear_all(&mut socket).await).unwrap();
        let is_refused = answer.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(is_refused && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let running = start(&limits());
    // Before the answer it has sent something of its body, or nothing.
    for begun in [10_000, 0] {
        let mut socket = running.connect().await;
        say(
            &mut socket,
            "POST /early HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n",
        )
        .await;
        say(&mut socket, vec![b'a'; begun]).await;
        let answer = hear(&mut socket, "too large").await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        for _ in 0..10 {
            say(&mut socket, vec![b'a'; 10_000]).await;
            tokio::task::yield_now().await;
        }
        let end = socket.read(&mut [0]).await;
        assert_eq!(end.expect("an orderly end"), 0);
    }
}

#[tokio::test]
async fn a_client_that_is_still_sending_reads_why_its_message_was_refused() {
    let running = start(&limits());
    let (head, chunk) = ("POST /echo HTTP/1.1\r\n", vec![b'a'; 10_000]);
    for (message, fault) in [
        ("Host : a\r\n\r\n", Fault::FieldName),
        ("Transfer-Encoding: chunked\r\n\r\n5 \r\n", Fault::ChunkSize),
    ] {
        let mut socket = running.connect().await;
        say(&mut socket, [head, message].concat()).await;
        for _ in 0..10 {
            say(&mut socket, &chunk).await;
            tokio::task::yield_now().await;
        }
        let expected = match fault {
            Fault::FieldName => fault.to_string(),
            _ => "failed".to_owned(),
        };
        let answer = hear(&mut socket, &expected).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        say(&mut socket, &chunk).await;
        let end = socket.read(&mut [0]).await;
        assert_eq!(end.expect("an orderly end"), 0);
    }
}

#[tokio::test]
async fn a_request_before_a_malformed_one_is_answered_first() {
    let running = start(&limits());
    let mut socket = running.connect().await;
    say(&mut socket, format!("{}GET / HTTP/1.1\n\n", get("/hold"))).await;
    running.paths.begun.notified().await;
    running.paths.may_answer.notify_one();
    let answers = String::from_utf8(hear_all(&mut socket).await).unwrap();
    let held = answers.find("held").expect("the first answer");
    let refused = answers.find("HTTP/1.1 400").expect("the second one");
    assert!(
        held < refused && answers.contains("connection: close"),
        "{answers}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_behind_half_a_request_is_noticed() {
    let running = start(&limits());
    let dropped = running.token();
    let mut socket = running.connect().await;
    say(&mut socket, format!("{}GET / HTT", get("/hold"))).await;
    running.paths.begun.notified().await;
    drop(socket);
    dropped.await;
}

#[tokio::test]
async fn a_full_server_says_503_and_serves_again_when_one_has_left() {
    let running = start(&Limits {
        max_connections: 1,
        ..limits()
    });
    let mut first = running.connect().await;
    say(&mut first, get("/")).await;
    hear(&mut first, "ok").await;

    let mut second = running.connect().await;
    say(&mut second, get("/")).await;
    let answer = String::from_utf8(hear_all(&mut second).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("{\"title\":\"full\"}"), "{answer}");

    let mut head = running.connect().await;
    say(&mut head, "HEAD / HTTP/1.1\r\n\r\n").await;
    let answer = String::from_utf8(hear_all(&mut head).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    let mut http2 = running.connect().await;
    say(&mut http2, PREFACE).await;
    let answer = hear_all(&mut http2).await;
    assert_eq!(
        (answer.len(), answer[9 + 3]),
        (9 + 17, 7),
        "SETTINGS and GOAWAY"
    );

    say(&mut first, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    hear_all(&mut first).await;
    while running.counters.snapshot().connections > 0 {
        tokio::task::yield_now().await;
    }
    let mut third = running.connect().await;
    say(&mut third, get("/")).await;
    hear(&mut third, "ok").await;
    let stats = running.counters.snapshot();
    assert_eq!((stats.accepted, stats.refused), (2, [3, 0]));
}

#[tokio::test]
async fn a_drain_finishes_what_runs_closes_what_is_idle_and_refuses_new_connections() {
    let running = start(&limits());
    let (mut silent, mut idle, mut busy) = (
        running.connect().await,
        running.connect().await,
        running.connect().await,
    );
    say(&mut idle, get("/")).await;
    hear(&mut idle, "ok").await;
    say(&mut busy, get("/hold")).await;
    running.paths.begun.notified().await;

    running.drain_within(FOREVER * 2);
    assert_eq!(hear_all(&mut silent).await, b"");
    assert_eq!(hear_all(&mut idle).await, b"");
    assert!(TcpStream::connect(running.address).await.is_err());

    running.paths.may_answer.notify_one();
    let answer = String::from_utf8(hear_all(&mut busy).await).unwrap();
    assert!(
        answer.contains("connection: close\r\n") && answer.ends_with("held"),
        "{answer}"
    );
    running.ended().await;
}

#[tokio::test]
async fn a_drain_finishes_http2_requests() {
    let running = start(&limits());
    let (mut http2, end) = http2(&running).await;
    let asking = tokio::spawn(async move { ask(&mut http2, "/hold").await });
    running.paths.begun.notified().await;
    running.drain_within(FOREVER * 2);
    running.paths.may_answer.notify_one();
    assert_eq!(asking.await.unwrap(), (StatusCode::OK, "held".into()));
    end.await.unwrap().expect("an orderly end");
    running.ended().await;
}

#[tokio::test]
async fn a_drain_drops_what_has_not_ended_at_its_deadline_which_may_be_moved() {
    let running = start(&limits());
    let dropped = running.token();
    let mut socket = running.connect().await;
    say(&mut socket, get("/hold")).await;
    running.paths.begun.notified().await;
    running.drain_within(FOREVER * 100);
    running.drain_within(SHORT);
    dropped.await;
    assert_eq!(hear_all(&mut socket).await, b"");
    running.ended().await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let running = start(&limits());
    let taken = ListenerConfig::plain(running.address);
    assert!(Server::bind(&[taken], &limits()).is_err());
}
