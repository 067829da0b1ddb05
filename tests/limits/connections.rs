//! Connections: as many as may be, very many one after another, and very many idle ones.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::bystander::Bystander;
use crate::silence::{HTTP2, has_goaway};
use crate::support::{
    Act, Gateway, Http2, Problem, Request, Setup, ToyUpstream, Usage, payment, until, within,
};
use crate::{metric, settles, timeouts};

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_its_place_is_free_when_another_ends() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("max_connections = 4");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        connection.send(&Request::get("/")).await;
        open.push(connection);
    }
    let refused = gateway.send(&payment("k")).await;
    refused.is_problem(Problem::OVERLOADED);
    refused.says_when_to_retry();
    assert_eq!(refused.header("Connection"), Some("close"));

    let mut http2 = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    http2.write_all(HTTP2).await.expect("the gateway reads");
    let mut said = Vec::new();
    let _ = within("the connection to close", http2.read_to_end(&mut said)).await;
    assert!(has_goaway(&said), "{said:?}");

    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("oncegate_connections", &[]), Some(4.0));
    assert_eq!(metrics.value("oncegate_connections_limit", &[]), Some(4.0));
    assert_eq!(
        metrics.value("oncegate_connections_refused_total", &FULL),
        Some(2.0)
    );
    assert_eq!(metrics.value("oncegate_connections_total", &[]), Some(4.0));

    open.pop().expect("three of them").hang_up();
    settles(&gateway, "oncegate_connections", &[], 3).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    bystander.was_served().await;
    drop(open);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

/// What those are counted as that come when as many are open as there may be.
const FULL: [(&str, &str); 1] = [("reason", "max_connections")];

#[tokio::test]
async fn an_address_with_as_many_connections_as_it_may_have_leaves_room_for_others() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).limits("max_connections_per_address = 2");
    let gateway = setup.start().await;
    let mut first = gateway.connect().await;
    first.send(&payment("a")).await.is(201, "executed");
    let mut second = gateway.connect().await;
    second.send(&payment("b")).await.is(201, "executed");
    let refused = gateway.send(&payment("c")).await;
    refused.is_problem(Problem::OVERLOADED);
    let mut other = from_another_address(gateway.address, 7).await;
    let request = b"GET / HTTP/1.1\r\nHost: gate\r\n\r\n";
    other.write_all(request).await.expect("the gateway reads");
    let mut answer = [0; 12];
    let _ = within("an answer", other.read_exact(&mut answer)).await;
    assert_eq!(&answer, b"HTTP/1.1 404");
    let refused = [("reason", "max_connections_per_address")];
    let name = "oncegate_connections_refused_total";
    assert_eq!(metric(&gateway, name, &refused).await, 1);
    assert_eq!(metric(&gateway, name, &FULL).await, 0);
    drop((first, second));
    settles(&gateway, "oncegate_connections", &[], 1).await;
    gateway.send(&payment("c")).await.is(201, "executed");
}

/// Connections that come and go in the test below, and how many of them at a time.
const MANY: usize = 20_000;
const AT_A_TIME: usize = 500;

/// What the gateway may grow by from the first of them to the last, in KiB: a debug build took 3 to 6 MiB.
const GROWTH_KIB: u64 = 24 * 1024;

/// Connections on which the metrics were just asked for, and which the gateway has not seen closed yet.
const METRICS_FILES: usize = 2;

#[tokio::test]
async fn twenty_thousand_connections_that_come_and_go_leave_nothing_behind() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("first_byte = \"1s\"")
        .limits("headers = \"1s\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let files = gateway.usage().files;
    let mut left_open = Vec::new();
    let mut begun = None;
    for batch in 0..MANY / AT_A_TIME {
        let (address, numbers) = (gateway.address, 0..AT_A_TIME);
        let connections = join_all(numbers.map(|number| come_and_go(address, number))).await;
        left_open.extend(connections.into_iter().flatten());
        if batch == 1 {
            begun = Some(gateway.usage());
        }
    }
    // What was left open is closed by the gateway alone.
    settles(&gateway, "oncegate_connections", &[], 1).await;
    // Connections to the upstream live on for `idle_timeout`, however many were needed at once.
    until("their files to be closed", || async {
        (gateway.usage().files <= files + METRICS_FILES).then_some(())
    })
    .await;
    let (begun, ended) = (begun.expect("several batches"), gateway.usage());
    let served = bystander.was_served().await;
    println!("{begun:?} → {ended:?}; {served} payments alongside");
    assert!(
        ended.resident_kib <= begun.resident_kib + GROWTH_KIB,
        "{begun:?} → {ended:?}"
    );
    settles(&gateway, "oncegate_connections", &[], 0).await;
    assert!(metric(&gateway, "oncegate_connections_total", &[]).await > MANY as u64);
    assert_eq!(
        metric(&gateway, "oncegate_connections_refused_total", &FULL).await,
        0
    );
    // Half of those that were left open were silent, the others in the middle of a head: of these a busy machine may
    // have brought the first byte too late.
    let left_open = left_open.len() as u64;
    let silent = timeouts(&gateway, "first_byte").await;
    let halfway = timeouts(&gateway, "headers").await;
    assert!(
        silent >= left_open / 2 && halfway > 0,
        "{silent}, {halfway}"
    );
    assert!(silent + halfway >= left_open, "{silent}, {halfway}");
}

/// One connection that ends in one of the ways in which connections do; those that the gateway has to end are returned.
async fn come_and_go(gateway: SocketAddr, number: usize) -> Option<TcpStream> {
    let mut stream = from_another_address(gateway, number).await;
    match number % 10 {
        // Closed before a word, with half a head, with half a body, or with a whole request that nobody waits for.
        0 | 1 => {}
        2 => say(&mut stream, "POST /v1/payments HTTP/1.1\r\nHost: a\r\n").await,
        3 => {
            let half = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab";
            say(&mut stream, half).await;
        }
        4 => say(&mut stream, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await,
        // Reset, silent or in the middle of a head.
        5 => reset(&stream),
        6 => {
            say(&mut stream, "GET /x HTTP/1.1\r\nHo").await;
            reset(&stream);
        }
        // Half closed: nothing more will come.
        7 => {
            say(&mut stream, "GET /x HTTP/1.1\r\nHo").await;
            // The gateway may have closed its half.
            let _ = stream.shutdown().await;
            let _ = within("the other half's end", stream.read_to_end(&mut Vec::new())).await;
        }
        // A whole exchange.
        8 => {
            say(
                &mut stream,
                "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            )
            .await;
            let _ = within("an answer", stream.read_to_end(&mut Vec::new())).await;
        }
        // Silent, or in the middle of a head; some are left for the gateway to end.
        _ => {
            if number % 20 == 9 {
                say(&mut stream, "GET /x HTTP/1.1\r\nHo").await;
            }
            return (number % 100 < 20).then_some(stream);
        }
    }
    None
}

/// A connection from one of several addresses of this machine: one address has fewer ports than the test needs, for
/// closed connections keep theirs for a minute.
async fn from_another_address(gateway: SocketAddr, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let last = u8::try_from(2 + number % 8).expect("a small number");
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(address).expect("a port");
    within("a connection", socket.connect(gateway))
        .await
        .expect("a connection")
}

async fn say(stream: &mut TcpStream, bytes: &str) {
    // The gateway may be faster.
    let _ = stream.write_all(bytes.as_bytes()).await;
}

fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("an open socket");
}

/// Connections that are kept in the test below.
const IDLE: usize = 1000;

/// What one of them may take, in KiB: together less than 40 MiB.
const EACH_KIB: u64 = 40;

/// What they carry in each direction: little, or as much as their buffers take.
const CARRIED: [usize; 2] = [100, 32 * 1024];

#[tokio::test]
async fn an_idle_http1_connection_costs_little_whatever_it_has_carried() {
    let (gateway, _upstream) = before_an_echo().await;
    let before = gateway.usage();
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        connections.push(gateway.connect().await);
    }
    for bytes in CARRIED {
        let request = Request::post("/x").body(vec![b'x'; bytes]);
        for connection in &mut connections {
            assert_eq!(connection.send(&request).await.body.len(), bytes);
        }
        they_cost_little(&gateway, before, bytes).await;
    }
    drop(connections);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

#[tokio::test]
async fn an_idle_http2_connection_costs_little_whatever_it_has_carried() {
    let (gateway, _upstream) = before_an_echo().await;
    let before = gateway.usage();
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        connections.push(Http2::open(gateway.address).await);
    }
    for bytes in CARRIED {
        let request = Request::post("/x").body(vec![b'x'; bytes]);
        for connection in &connections {
            assert_eq!(connection.send(&request).await.body.len(), bytes);
        }
        they_cost_little(&gateway, before, bytes).await;
    }
    drop(connections);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

async fn before_an_echo() -> (Gateway, ToyUpstream) {
    let upstream = ToyUpstream::start();
    upstream
        .forgets()
        .always(|request| Act::respond(201, &[], &request.body));
    // A thousand connections, one after the other, may take a busy machine longer than clients of good will.
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("first_byte = \"10m\"")
        .limits("keep_alive = \"10m\"");
    let gateway = setup.start().await;
    // What a process takes once and for all, it has then.
    gateway.send(&payment("k")).await.is(201, "executed");
    (gateway, upstream)
}

async fn they_cost_little(gateway: &Gateway, before: Usage, bytes: usize) {
    let after = gateway.usage();
    settles(gateway, "oncegate_connections", &[], IDLE as u64).await;
    let each_kib = after.resident_kib.saturating_sub(before.resident_kib) / IDLE as u64;
    println!(
        "{IDLE} connections that carried {bytes} bytes: {before:?} → {after:?}, {each_kib} KiB each"
    );
    assert!(each_kib < EACH_KIB, "{each_kib} KiB each");
    // With them it would be several times as much, and not on every system.
    assert!(!gateway.may_have_huge_pages());
}

/// Many systems begin a process with 1024 files, and a gateway with its defaults needs more.
#[tokio::test]
async fn a_low_limit_on_open_files_is_raised_as_far_as_the_system_lets_it() {
    const FILES: usize = 64;
    let upstream = ToyUpstream::start();
    let toml = Setup::payments(&upstream).rest_passes().toml();
    let low = format!("ulimit -S -n {FILES}; exec \"$@\"");
    let gateway = Gateway::start_through(&["sh", "-c", &low, "sh"], &toml).await;
    let bystander = Bystander::begin(&gateway).await;
    let mut open = Vec::new();
    for _ in 0..2 * FILES {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.send(&Request::get("/x")).await.status, 201);
        open.push(connection);
    }
    assert!(gateway.usage().files > 2 * FILES);
    bystander.was_served().await;
}

/// Where files run out all the same, those who are connected are served, and new ones once there is room again.
#[tokio::test]
async fn a_gateway_without_files_serves_those_it_has_and_goes_on_when_there_are_some() {
    const FILES: usize = 64;
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("first_byte = \"2s\"");
    let low = format!("ulimit -n {FILES}; exec \"$@\"");
    let gateway = Gateway::start_through(&["sh", "-c", &low, "sh"], &setup.toml()).await;
    gateway
        .log()
        .message("the system lets this process open fewer files than its limits may need")
        .await;
    let bystander = Bystander::begin(&gateway).await;
    let mut silent = Vec::new();
    for _ in 0..2 * FILES {
        silent.push(
            TcpStream::connect(gateway.address)
                .await
                .expect("a place in the backlog"),
        );
    }
    gateway.log().message("cannot accept connections").await;
    // It has failed a dozen times when it closes the first ones, for `first_byte`.
    let first = silent.first_mut().expect("some");
    let _ = within("the first one to be closed", first.read(&mut [0])).await;
    let told = gateway.log().messages("cannot accept connections");
    assert_eq!(told.len(), 1, "{told:?}");
    drop(silent);
    gateway.send(&payment("k")).await.is(201, "executed");
    bystander.was_served().await;
    settles(&gateway, "oncegate_connections", &[], 0).await;
    let failures = metric(&gateway, "oncegate_accept_failures_total", &[]).await;
    assert!(failures > 5, "{failures}");
}
