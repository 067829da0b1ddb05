//! Bounds that change while the gateway runs: what is there goes on, what comes is bounded by the new ones.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::silence::HTTP2;
use crate::support::{
    Act, Connection, Gate, Gateway, Problem, Received, Request, Setup, ToyUpstream, payment, within,
};
use crate::{closes_after, metric, settles};

/// Puts these lines of `[limits]` in force.
async fn limits(gateway: &Gateway, setup: &Setup, lines: &[&str]) {
    let changed = lines
        .iter()
        .fold(setup.clone(), |setup, line| setup.limits(line));
    assert!(gateway.reload(&changed.toml()).await, "{lines:?}");
}

#[tokio::test]
async fn fewer_connections_than_are_open_let_nobody_in_until_some_have_gone() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let mut open = Vec::new();
    for key in ["a", "b", "c"] {
        let mut connection = gateway.connect().await;
        connection.send(&payment(key)).await.is(201, "executed");
        open.push(connection);
    }
    limits(&gateway, &setup, &["max_connections = 2"]).await;
    assert_eq!(metric(&gateway, "oncegate_connections_limit", &[]).await, 2);
    for connection in &mut open {
        connection.send(&payment("a")).await.is(201, "replayed");
    }
    for left in [2, 1] {
        let refused = gateway.send(&payment("d")).await;
        refused.is_problem(Problem::OVERLOADED);
        drop(open.pop());
        settles(&gateway, "oncegate_connections", &[], left).await;
    }
    gateway.send(&payment("d")).await.is(201, "executed");
    limits(&gateway, &setup, &["max_connections = 50"]).await;
    for number in 0..10 {
        let mut connection = gateway.connect().await;
        let answer = connection.send(&payment(&format!("e{number}"))).await;
        answer.is(201, "executed");
        open.push(connection);
    }
}

#[tokio::test]
async fn connections_of_one_address_are_bounded_and_set_free_again() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    limits(&gateway, &setup, &["max_connections_per_address = 1"]).await;
    let mut first = gateway.connect().await;
    first.send(&payment("a")).await.is(201, "executed");
    let refused = gateway.send(&payment("b")).await;
    refused.is_problem(Problem::OVERLOADED);
    limits(&gateway, &setup, &["max_connections_per_address = 2"]).await;
    gateway.send(&payment("b")).await.is(201, "executed");
    limits(&gateway, &setup, &[]).await;
    let mut more = Vec::new();
    for key in ["c", "d", "e"] {
        let mut connection = gateway.connect().await;
        connection.send(&payment(key)).await.is(201, "executed");
        more.push(connection);
    }
}

#[tokio::test]
async fn the_room_for_bodies_shrinks_and_grows() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .route("max_request_body = \"100KiB\"")
        .route("max_response_body = \"100KiB\"");
    let gateway = setup.start().await;
    let mut stalling = gateway.connect().await;
    // All but the last byte is there.
    let begun = payment("a")
        .header("Content-Length", "90001")
        .body("a".repeat(90_000));
    stalling.write_request(&begun).await;
    settles(&gateway, "oncegate_buffered_bytes", &[], 90_000).await;
    let other = payment("b").body("b".repeat(50_000));
    limits(&gateway, &setup, &["max_buffered = \"120KiB\""]).await;
    let refused = gateway.send(&other).await;
    refused.refuses(Problem::OVERLOADED);
    limits(&gateway, &setup, &["max_buffered = \"256KiB\""]).await;
    gateway.send(&other).await.is(201, "executed");
    stalling.write(b"a").await;
    stalling.answer().await.is(201, "executed");
}

/// An upstream that answers payments whose key begins with "slow" when the gate opens.
fn gated(gate: &Gate) -> ToyUpstream {
    let (upstream, gate) = (ToyUpstream::start(), gate.clone());
    upstream.always(move |request: &Received| {
        let act = Act::respond(201, &[], "paid");
        match request.key().starts_with("slow") {
            true => act.after(&gate),
            false => act,
        }
    });
    upstream
}

#[tokio::test]
async fn fewer_or_more_duplicates_may_wait_and_those_that_do_go_on() {
    let gate = Gate::closed();
    let upstream = gated(&gate);
    let setup = Setup::payments(&upstream).route("wait = \"25s\"");
    let gateway = setup.start().await;
    let first = gateway.spawn(&payment("slow"));
    settles(&gateway, "oncegate_claims_held", &[], 1).await;
    let mut waiting = Vec::new();
    for number in 1..=2 {
        waiting.push(gateway.spawn(&payment("slow")));
        settles(&gateway, "oncegate_waiters", &[], number).await;
    }
    for line in ["max_waiters = 1", "max_waiters_per_key = 2"] {
        limits(&gateway, &setup, &[line]).await;
        let refused = gateway.send(&payment("slow")).await;
        refused.refuses(Problem::OVERLOADED);
    }
    limits(&gateway, &setup, &["max_waiters = 3"]).await;
    assert_eq!(metric(&gateway, "oncegate_waiters_limit", &[]).await, 3);
    waiting.push(gateway.spawn(&payment("slow")));
    settles(&gateway, "oncegate_waiters", &[], 3).await;
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    for duplicate in waiting {
        duplicate.await.expect("an answer").is(201, "replayed");
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn fewer_or_more_dispatches_are_kept_open_for_late_answers() {
    let gate = Gate::closed();
    let upstream = gated(&gate);
    let setup = Setup::payments(&upstream).route("response_timeout = \"1s\"");
    let gateway = setup.start().await;
    gateway
        .send(&payment("slow-a"))
        .await
        .refuses(Problem::TIMEOUT);
    settles(&gateway, "oncegate_late_dispatches", &[], 1).await;
    limits(&gateway, &setup, &["max_late = 1"]).await;
    let late = |result| [("route", "pay"), ("result", result)];
    gateway
        .send(&payment("slow-b"))
        .await
        .refuses(Problem::TIMEOUT);
    settles(&gateway, LATE, &late("none"), 1).await;
    limits(&gateway, &setup, &["max_late = 2"]).await;
    gateway
        .send(&payment("slow-c"))
        .await
        .refuses(Problem::TIMEOUT);
    settles(&gateway, "oncegate_late_dispatches", &[], 2).await;
    gate.open();
    settles(&gateway, LATE, &late("completed"), 2).await;
    gateway.send(&payment("slow-a")).await.is(201, "replayed");
    gateway.send(&payment("slow-c")).await.is(201, "replayed");
}

const LATE: &str = "oncegate_late_answers_total";

const SHORT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn clients_have_as_long_as_the_new_limits_say() {
    let upstream = ToyUpstream::start();
    // A connection looks at its limits anew when the shortest of those of before is over.
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("headers = \"1500ms\"");
    let gateway = setup.start().await;
    let mut idle = gateway.connect().await;
    idle.send(&payment("a")).await.is(201, "executed");
    let short = Setup::payments(&upstream).rest_passes();
    let lines = ["first_byte", "headers", "body_idle", "keep_alive"];
    let lines = lines.map(|name| format!("{name} = \"1s\""));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    limits(&gateway, &short, &lines).await;
    idle.closed().await;

    let connect = || TcpStream::connect(gateway.address);
    let begun = Instant::now();
    let mut silent = connect().await.expect("a connection");
    assert_eq!(closes_after(&mut silent, begun, SHORT).await, b"");
    let begun = Instant::now();
    let mut half = connect().await.expect("a connection");
    let written = half.write_all(b"GET / HTTP/1.1\r\nHo").await;
    written.expect("the gateway reads");
    closes_after(&mut half, begun, SHORT).await;
    let mut rests = gateway.connect().await;
    rests.send(&Request::get("/")).await;
    rests.closed().await;
    let mut stalls = gateway.connect().await;
    let stalling = payment("b").header("Content-Length", "100").body("half");
    stalls.write_request(&stalling).await;
    assert_eq!(stalls.answer().await.status, 400);
    for limit in ["first_byte", "headers", "body_idle"] {
        assert_eq!(crate::timeouts(&gateway, limit).await, 1, "{limit}");
    }
    assert_eq!(crate::timeouts(&gateway, "keep_alive").await, 2);
}

#[tokio::test]
async fn http2_connections_that_come_are_told_of_the_new_limits() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    assert_eq!(told(&gateway, MAX_CONCURRENT_STREAMS).await, Some(128));
    let lines = ["http2_streams = 7", "http2_stream_window = \"128KiB\""];
    limits(&gateway, &setup, &lines).await;
    assert_eq!(told(&gateway, MAX_CONCURRENT_STREAMS).await, Some(7));
    assert_eq!(told(&gateway, INITIAL_WINDOW_SIZE).await, Some(128 * 1024));
}

/// Settings of HTTP/2 (RFC 9113, section 6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What a new connection is told of this setting.
async fn told(gateway: &Gateway, setting: u16) -> Option<u32> {
    let mut socket = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    socket.write_all(HTTP2).await.expect("the gateway reads");
    let mut head = [0; 9];
    within("a frame", socket.read_exact(&mut head))
        .await
        .expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut settings = vec![0; usize::from(head[2])];
    let read = socket.read_exact(&mut settings);
    within("its settings", read).await.expect("its settings");
    let one = |one: &[u8]| {
        let id = u16::from_be_bytes([one[0], one[1]]);
        let value = u32::from_be_bytes([one[2], one[3], one[4], one[5]]);
        (id == setting).then_some(value)
    };
    settings.chunks(6).find_map(one)
}

#[tokio::test]
async fn the_replay_cache_is_switched_on_and_off() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let off = setup.clone().limits("replay_cache = \"0\"");
    let gateway = off.start().await;
    gateway.send(&payment("a")).await.is(201, "executed");
    let bytes = "oncegate_replay_cache_bytes";
    for (setup, is_on) in [(&off, false), (&setup, true), (&off, false)] {
        assert!(gateway.reload(&setup.toml()).await);
        let mut connection: Connection = gateway.connect().await;
        connection.send(&payment("a")).await.is(201, "replayed");
        assert_eq!(metric(&gateway, bytes, &[]).await > 0, is_on);
    }
    assert_eq!(upstream.charges(), 1);
}
