//! Connections that say nothing, or not enough.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::bystander::Bystander;
use crate::support::{
    Authority, Connection, Gateway, Request, Setup, ToyUpstream, payment, until, within,
};
use crate::{closes_after, metric, settles, timeouts};

const SHORT: Duration = Duration::from_millis(500);

/// How long connections may be idle where the bystander, who may be held up, is not to be.
const IDLE: Duration = Duration::from_secs(2);

/// What an HTTP/2 client sends first: the preface and empty SETTINGS.
pub const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Handshakes that stop or drip in the test below.
const HANDSHAKES: usize = 900;

/// HEADERS on stream 1 with `:method: GET`, without END_HEADERS: the head goes on.
const BEGUN_HEAD: &[u8] = b"\0\0\x01\x01\x01\0\0\0\x01\x82";

/// CONTINUATION on stream 1 with `:scheme: http`, without END_HEADERS.
const MORE_HEAD: &[u8] = b"\0\0\x01\x09\0\0\0\0\x01\x86";

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_preface_is_closed_after_first_byte() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).limits("first_byte = \"500ms\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let begun = Instant::now();
        let mut socket = TcpStream::connect(gateway.address)
            .await
            .expect("a connection");
        socket
            .write_all(beginning.as_bytes())
            .await
            .expect("the gateway reads");
        assert_eq!(closes_after(&mut socket, begun, SHORT).await, b"");
    }
    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "first_byte").await, 3);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

#[tokio::test]
async fn a_head_that_stalls_or_drips_is_closed_after_headers_on_any_request_of_a_connection() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("headers = \"500ms\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;

    let begun = Instant::now();
    let mut first = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    first
        .write_all(b"GET / HTTP/1.1\r\nHo")
        .await
        .expect("the gateway reads");
    closes_after(&mut first, begun, SHORT).await;

    let mut later = gateway.connect().await;
    later.send(&Request::get("/")).await;
    later
        .write(b"POST /v1/payments HTTP/1.1\r\nHost: a\r\nIdem")
        .await;
    later.closed().await;

    let begun = Instant::now();
    let mut drips = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    drips
        .write_all(b"GET / HTTP/1.1\r\n")
        .await
        .expect("the gateway reads");
    let dripping = async {
        while drips.write_all(b"a: b\r\n").await.is_ok() {
            sleep(SHORT / 10).await;
        }
    };
    within("the head that drips to be closed", dripping).await;
    assert!(begun.elapsed() >= SHORT - crate::SLACK);

    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "headers").await, 3);
    // Only those of the request before, and of the bystander, were sent.
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| !request.key().is_empty() || request.target == "/")
    );
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

/// Where it drips instead, h2 ends the connection after a handful of pieces.
#[tokio::test]
async fn an_http2_head_that_stalls_holds_its_connection_no_longer_than_an_idle_one() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .limits("headers = \"500ms\"")
        .limits("keep_alive = \"2s\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let begun = Instant::now();
    let mut socket = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    let stalls = [HTTP2, BEGUN_HEAD, MORE_HEAD].concat();
    socket.write_all(&stalls).await.expect("the gateway reads");
    let said = closes_after(&mut socket, begun, IDLE).await;
    assert!(has_goaway(&said), "it is told to go: {said:?}");
    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "keep_alive").await, 1);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keep_alive_in_both_protocols() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("headers = \"500ms\"")
        .limits("keep_alive = \"2s\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;

    let mut http1 = gateway.connect().await;
    let begun = Instant::now();
    http1.send(&Request::get("/")).await;
    http1.closed().await;
    assert!(begun.elapsed() >= IDLE - crate::SLACK);

    let begun = Instant::now();
    let mut http2 = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    http2.write_all(HTTP2).await.expect("the gateway reads");
    let said = closes_after(&mut http2, begun, IDLE).await;
    assert!(has_goaway(&said), "it is told to go: {said:?}");

    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "keep_alive").await, 2);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

/// Whether one of these HTTP/2 frames is GOAWAY (RFC 9113, section 6.8).
pub fn has_goaway(mut frames: &[u8]) -> bool {
    while frames.len() >= 9 {
        let length = usize::from(frames[1]) << 8 | usize::from(frames[2]);
        if frames[3] == 7 {
            return true;
        }
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    false
}

/// A third of them have sent one byte, a third the whole of their first words, and a third goes on a byte at a time.
#[tokio::test]
async fn handshakes_that_stop_or_drip_are_closed_after_headers_and_harm_nobody() {
    let authority = Arc::new(Authority::new());
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .limits("first_byte = \"3s\"")
        .limits("headers = \"3s\"");
    let toml = format!("{}{}", setup.toml(), authority.listener());
    let mut gateway = Gateway::start(&toml).await;
    let address = gateway.address;
    gateway.address = authority.passage(address).await;
    let bystander = Bystander::begin(&gateway).await;
    let before = gateway.usage().resident_kib;
    let hello = authority.hello();
    let (mut dripping, mut stopped) = (Vec::new(), Vec::new());
    for number in 0..HANDSHAKES {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let first = if number % 3 == 1 {
            &hello[..]
        } else {
            &hello[..1]
        };
        socket.write_all(first).await.expect("the gateway reads");
        match number % 3 {
            2 => dripping.push(socket),
            _ => stopped.push(socket),
        }
    }
    // They are all counted, and whoever is in earnest still comes in.
    until_counted(&gateway).await;
    let mut another = Connection::open(gateway.address).await;
    another.send(&payment("another")).await.is(201, "executed");
    for byte in &hello[1..] {
        let mut is_over = true;
        for socket in &mut dripping {
            is_over &= socket.write_all(&[*byte]).await.is_err();
        }
        if is_over {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    for mut socket in stopped.into_iter().chain(dripping) {
        // A reset closes it as well.
        let mut said = Vec::new();
        let _ = within("the connection to close", socket.read_to_end(&mut said)).await;
    }
    bystander.was_served().await;
    let grown = gateway.usage().resident_kib.saturating_sub(before);
    println!("{HANDSHAKES} handshakes: {grown} KiB");
    assert!(grown / (HANDSHAKES as u64) < 64, "{grown} KiB");
    assert_eq!(timeouts(&gateway, "headers").await, HANDSHAKES as u64);
    drop(another);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

async fn until_counted(gateway: &Gateway) {
    until("all handshakes to be counted", || async {
        let open = metric(gateway, "oncegate_connections", &[]).await;
        (open > HANDSHAKES as u64).then_some(())
    })
    .await;
}
