//! Upgrades on pass routes: what is a tunnel, from when on, and how it ends.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Act, Gateway, Problem, Request, Setup, ToyUpstream, payment, tool, until, within,
};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\nX-Kept: yes\r\n\r\n";

/// An upstream of which the test holds each connection.
struct Far(TcpListener);

impl Far {
    async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    fn setup(&self) -> Setup {
        let address = self.0.local_addr().expect("a bound socket");
        Setup::payments_at(&format!("http://{address}")).rest_passes()
    }

    /// The next connection, with the head of its first request.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, _) = within("a connection", self.0.accept()).await.expect("one");
        let head = head(&mut stream).await;
        (stream, head)
    }
}

/// Reads up to the end of a head, and nothing behind it.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = within("a head", stream.read_u8()).await;
        head.push(byte.unwrap_or_else(|error| panic!("{error}: {}", head.escape_ascii())));
    }
    String::from_utf8(head).expect("a head in ASCII")
}

async fn hears(stream: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    let read = within("bytes", stream.read_exact(&mut heard)).await;
    read.expect("as many bytes");
    assert_eq!(heard, expected);
}

/// What comes until the end, which is not a reset.
async fn hears_out(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let end = within("the end", stream.read_to_end(&mut heard)).await;
    end.expect("an end and no reset");
    heard
}

async fn is_reset(stream: &mut TcpStream) {
    let end = within("the end", stream.read_to_end(&mut Vec::new())).await;
    let error = end.expect_err("a reset and no end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

fn reset(stream: TcpStream) {
    let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.expect("linger can be set on an open socket");
    drop(stream);
}

/// Asks for another protocol; what follows the head goes along with it.
async fn ask(gateway: &Gateway, request_line: &str, rest: &str) -> TcpStream {
    let mut client = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    let head = format!("{request_line}\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n{rest}");
    client.write_all(head.as_bytes()).await.expect("sent");
    client
}

/// A tunnel, from both its ends.
async fn tunnel(gateway: &Gateway, far: &Far) -> (TcpStream, TcpStream) {
    let mut client = ask(gateway, "GET /chat HTTP/1.1", "Upgrade: foo/2\r\n\r\n").await;
    let (mut upstream, _) = far.accept().await;
    upstream.write_all(SWITCH).await.expect("sent");
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    (client, upstream)
}

/// How many connections and requests there are: clients' connections, upstream's, in flight.
async fn counted(gateway: &Gateway) -> [f64; 3] {
    let metrics = gateway.metrics().await;
    let of_upstream = |name| metrics.value(name, &[("upstream", "toy")]);
    let counts = [
        metrics.value("oncegate_connections", &[]),
        of_upstream("oncegate_upstream_connections"),
        of_upstream("oncegate_upstream_in_flight"),
    ];
    counts.map(|count| count.expect("a gauge"))
}

#[tokio::test]
async fn after_the_upstreams_101_and_not_before_both_ends_say_what_they_like() {
    let far = Far::listen().await;
    let gateway = far.setup().start().await;
    let rest = "Upgrade: foo/2\r\nX-Kept: yes\r\n\r\nearly";
    let mut client = ask(&gateway, "GET /chat HTTP/1.1", rest).await;
    let (mut upstream, request) = far.accept().await;
    let request = request.to_ascii_lowercase();
    for line in [
        "connection: upgrade\r\n",
        "upgrade: foo/2\r\n",
        "x-kept: yes\r\n",
    ] {
        assert_eq!(request.matches(line).count(), 1, "{line}: {request}");
    }
    // What the client has sent ahead is held back until the upstream speaks its protocol.
    let early = upstream.try_read(&mut [0; 16]).expect_err("nothing");
    assert_eq!(early.kind(), io::ErrorKind::WouldBlock);

    upstream
        .write_all(&[SWITCH, b"\nfirst words\n"].concat())
        .await
        .expect("sent");
    let answer = head(&mut client).await.to_ascii_lowercase();
    for line in [
        "connection: upgrade\r\n",
        "upgrade: foo/2\r\n",
        "x-kept: yes\r\n",
    ] {
        assert_eq!(answer.matches(line).count(), 1, "{line}: {answer}");
    }
    hears(&mut client, b"\nfirst words\n").await;
    hears(&mut upstream, b"early").await;
    assert_eq!(counted(&gateway).await, [1.0, 1.0, 1.0]);
    // Not a request, whatever it looks like.
    let charge = b"POST /v1/payments HTTP/1.1\r\n\r\n\0\xff";
    client.write_all(charge).await.expect("sent");
    hears(&mut upstream, charge).await;
    upstream.write_all(b"any\nthing").await.expect("sent");
    hears(&mut client, b"any\nthing").await;

    drop(upstream);
    assert_eq!(hears_out(&mut client).await, b"");
    drop(client);
    until("the tunnel to be counted no more", || async {
        (counted(&gateway).await == [0.0, 0.0, 0.0]).then_some(())
    })
    .await;
    assert_eq!(gateway.metrics().await.decisions("rest", "passthrough"), 1);
}

#[tokio::test]
async fn an_upgrade_that_the_upstream_declines_is_an_ordinary_exchange() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let mut client = gateway.connect().await;
    let wish = Request::get("/chat")
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket");
    upstream.next(Act::respond(
        426,
        &[("Upgrade", "foo/2"), ("Connection", "upgrade")],
        "no",
    ));
    let declined = client.send(&wish).await;
    assert_eq!((declined.status, &declined.text()[..]), (426, "no"));
    assert_eq!(declined.header("Upgrade"), Some("foo/2"));
    for _ in 0..2 {
        client.send(&wish).await.is(201, "");
        client.send(&payment("k").key("a")).await;
    }
    assert!(upstream.keeps_all_connections());
}

#[tokio::test]
async fn a_side_that_has_nothing_more_to_say_still_hears_the_other() {
    let far = Far::listen().await;
    let gateway = far.setup().start().await;
    for client_is_first in [true, false] {
        let (client, upstream) = tunnel(&gateway, &far).await;
        let (mut first, mut second) = if client_is_first {
            (client, upstream)
        } else {
            (upstream, client)
        };
        first.write_all(b"that is all").await.expect("sent");
        first.shutdown().await.expect("half closed");
        assert_eq!(hears_out(&mut second).await, b"that is all");
        second.write_all(b"a long answer").await.expect("sent");
        hears(&mut first, b"a long answer").await;
        second.shutdown().await.expect("closed");
        assert_eq!(hears_out(&mut first).await, b"");
    }
}

#[tokio::test]
async fn a_side_that_breaks_is_seen_to_break_by_the_other() {
    let far = Far::listen().await;
    let gateway = far.setup().start().await;
    let (client, mut upstream) = tunnel(&gateway, &far).await;
    reset(client);
    is_reset(&mut upstream).await;
    let (mut client, upstream) = tunnel(&gateway, &far).await;
    reset(upstream);
    is_reset(&mut client).await;
}

#[tokio::test]
async fn a_request_with_a_body_may_be_answered_with_101() {
    let far = Far::listen().await;
    let gateway = far.setup().start().await;
    let rest = "Upgrade: tcp\r\nContent-Length: 4\r\n\r\nbodybehind";
    let mut client = ask(&gateway, "POST /exec/1/start HTTP/1.1", rest).await;
    let (mut upstream, _) = far.accept().await;
    hears(&mut upstream, b"body").await;
    let switch = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    upstream.write_all(switch.as_bytes()).await.expect("sent");
    head(&mut client).await;
    hears(&mut upstream, b"behind").await;
    upstream.write_all(b"output").await.expect("sent");
    hears(&mut client, b"output").await;
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_no_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let plain = Request::get("/else");
    let other = Request::get("/else")
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket, foo/1");
    let mut client = gateway.connect().await;
    for request in [&plain, &other] {
        upstream.next(Act::raw(SWITCH));
        let answer = client.send(request).await;
        assert_eq!(answer.status, 502, "{answer:?}");
        // Its connection is gone.
        let number = upstream.connections();
        client.send(&plain).await.is(201, "");
        assert_eq!(upstream.connections(), number + 1);
        upstream.close_idle_connections().await;
    }
    upstream.next(Act::raw(SWITCH));
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    let again = gateway.send(&payment("k")).await;
    again.refuses(Problem::OUTCOME_UNKNOWN);
}

#[tokio::test]
async fn an_upgrade_that_is_not_for_the_upstream_does_not_reach_it() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let wishes = [
        // Whole requests would go through such a tunnel, past what protects them.
        (
            "HTTP/1.1",
            "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        ),
        (
            "HTTP/1.1",
            "Connection: upgrade\r\nUpgrade: TLS/1.2, HTTP/2.0",
        ),
        // Not said to this hop, or not by somebody who may say it.
        ("HTTP/1.1", "Upgrade: websocket"),
        ("HTTP/1.0", "Connection: upgrade\r\nUpgrade: websocket"),
    ];
    for (version, lines) in wishes {
        let mut client = gateway.connect().await;
        let request = format!("GET /chat {version}\r\nHost: a\r\n{lines}\r\n\r\n");
        client.write(request.as_bytes()).await;
        assert_eq!(client.answer_head().await.0, 201, "{lines}");
        let sent = upstream.next_request().await;
        assert_eq!(sent.header("Upgrade"), None, "{lines}");
        assert_eq!(sent.header("HTTP2-Settings"), None, "{lines}");
        let connection = sent.headers.all("Connection").join(",");
        assert!(
            !connection.to_ascii_lowercase().contains("upgrade"),
            "{lines}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_may_be_silent_for_longer_than_a_request() {
    let far = Far::listen().await;
    let setup = far.setup().limits("body_idle = \"200ms\"");
    let setup = setup
        .limits("headers = \"200ms\"")
        .limits("keep_alive = \"200ms\"");
    let gateway = setup.start().await;
    let (mut client, mut upstream) = tunnel(&gateway, &far).await;
    // There is no event that tells of nothing happening.
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.write_all(b"still here").await.expect("sent");
    hears(&mut upstream, b"still here").await;
    upstream.write_all(b"so am I").await.expect("sent");
    hears(&mut client, b"so am I").await;
}

#[tokio::test]
async fn a_tunnel_may_last_until_the_end_of_a_drain_and_no_longer() {
    let far = Far::listen().await;
    let mut gateway = far.setup().top("drain_timeout = \"1s\"").start().await;
    let (mut client, mut upstream) = tunnel(&gateway, &far).await;
    let begun = Instant::now();
    gateway.sigterm();
    gateway
        .log()
        .message("draining; a second signal ends at once")
        .await;
    client.write_all(b"one more").await.expect("sent");
    hears(&mut upstream, b"one more").await;
    assert_eq!(hears_out(&mut client).await, b"");
    assert_eq!(hears_out(&mut upstream).await, b"");
    // Between the drain's timeout and the moment at which whatever is left is dropped.
    let lasted = begun.elapsed();
    assert!(
        lasted >= Duration::from_millis(900) && lasted < Duration::from_secs(3),
        "{lasted:?}"
    );
    let status = within("the gateway to end", gateway.ended()).await;
    assert!(status.success(), "{status}");
    let log = gateway.log().text();
    assert!(!log.contains("not everything was settled"), "{log}");
}

/// Server and client of the Python library `websockets`, with the gateway between them.
#[tokio::test]
async fn websockets_of_somebody_else_work() {
    const PEERS: &str = r#"
import asyncio, sys
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

async def answer(socket):
    async for message in socket:
        if message == "close":
            await socket.close(4001, "as asked")
        elif message == "break":
            socket.transport.abort()
        else:
            await socket.send(message)

async def closed(socket):
    try:
        await socket.recv()
    except ConnectionClosed:
        return socket.close_code, socket.close_reason

async def main():
    async with serve(answer, "127.0.0.1", 0, max_size=None, compression="deflate") as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        url = (await asyncio.to_thread(sys.stdin.readline)).strip()
        async with connect(url, max_size=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            big = bytes(range(256)) * 32768
            for _ in range(2):
                await socket.send(big)
                assert await socket.recv() == big
            many = [str(number) for number in range(500)]
            for one in many:
                await socket.send(one)
            assert [await socket.recv() for _ in many] == many
            await (await socket.ping())
        async with connect(url) as socket:
            await socket.send("close")
            assert await closed(socket) == (4001, "as asked")
        async with connect(url) as socket:
            await socket.send("break")
            assert await closed(socket) == (1006, "")
        sockets = [await connect(url) for _ in range(50)]
        for number, socket in enumerate(sockets):
            await socket.send(f"I am {number}")
        for number, socket in enumerate(sockets):
            assert await socket.recv() == f"I am {number}"
            await socket.close(1000, "bye")
            assert socket.close_code == 1000
    print("well", flush=True)

asyncio.run(main())
"#;
    let mut peers = Peers(
        Command::new(tool("python"))
            .args(["-c", PEERS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python"),
    );
    let said = peers.0.stdout.take().expect("a pipe");
    let line = |mut said: BufReader<ChildStdout>| async {
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            said.read_line(&mut line).expect("text");
            (line, said)
        });
        within("the peers to say something", read)
            .await
            .expect("no panic")
    };
    let (port, said) = line(BufReader::new(said)).await;
    let url = format!("http://127.0.0.1:{}", port.trim());
    let gateway = Setup::payments_at(&url).rest_passes().start().await;
    let mut url = peers.0.stdin.take().expect("a pipe");
    writeln!(url, "ws://{}/chat", gateway.address).expect("somebody reads");
    assert_eq!(line(said).await.0, "well\n");
}

struct Peers(Child);

impl Drop for Peers {
    fn drop(&mut self) {
        // They may have ended by themselves.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
