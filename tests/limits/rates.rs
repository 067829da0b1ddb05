//! Bodies that trickle, either way: never silent for long, and never at their end.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, sleep_until};

use crate::bodies::{is_refused, piece, sent, streaming_http2};
use crate::bystander::Bystander;
use crate::support::{
    Act, Answer, Gate, Gateway, Http2, Request, Setup, ToyUpstream, payment, within,
};
use crate::{SLACK, settles, timeouts};

const GRACE: Duration = Duration::from_millis(500);

/// Between two bytes: twenty a second, in no longer a silence than this.
const DRIP: Duration = Duration::from_millis(50);

/// A client may be slower than 240 bytes a second for half a second, and be silent for half a minute.
fn rated(upstream: &ToyUpstream) -> Setup {
    Setup::payments(upstream)
        .rest_passes()
        .limits("body_idle = \"30s\"")
        .limits("min_receive_rate = \"240B\"")
        .limits("min_send_rate = \"240B\"")
        .limits("rate_grace = \"500ms\"")
}

#[tokio::test]
async fn a_request_body_that_trickles_is_refused_over_http1_and_nothing_was_claimed() {
    let upstream = ToyUpstream::start();
    let gateway = rated(&upstream).start().await;
    let bystander = Bystander::begin(&gateway).await;
    for (target, is_protected) in [("/v1/payments", true), ("/elsewhere", false)] {
        let trickling = Request::post(target)
            .auth("Bearer alice")
            .key("trickles")
            .header("Transfer-Encoding", "chunked");
        let mut connection = gateway.connect().await;
        let begun = Instant::now();
        connection.write_request(&trickling).await;
        while begun.elapsed() < GRACE {
            connection.write(b"1\r\na\r\n").await;
            sleep(DRIP).await;
        }
        let answer = connection.answer().await;
        assert!(begun.elapsed() + SLACK >= GRACE, "{:?}", begun.elapsed());
        is_refused(&answer, is_protected);
        connection.closed().await;
    }
    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "min_receive_rate").await, 2);
    assert_eq!(timeouts(&gateway, "body_idle").await, 0);
    assert!(!upstream.charges_by_key().contains_key("trickles"));
    gateway.send(&payment("trickles")).await.is(201, "executed");
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}

#[tokio::test]
async fn a_request_body_that_trickles_is_refused_over_http2_and_other_streams_go_on() {
    let upstream = ToyUpstream::start();
    let gateway = rated(&upstream).start().await;
    let bystander = Bystander::begin(&gateway).await;
    let mut sender = streaming_http2(gateway.address).await;
    for (target, is_protected) in [("/v1/payments", true), ("/elsewhere", false)] {
        let drips = stream::repeat(()).then(|()| async {
            sleep(DRIP).await;
            piece("a")
        });
        let answer = sent(&mut sender, target, "trickles", drips.boxed()).await;
        is_refused(&answer, is_protected);
    }
    let whole = stream::iter([piece("{\"amount\":100}")]).boxed();
    let answer = sent(&mut sender, "/v1/payments", "goes-on", whole).await;
    answer.is(201, "executed");
    bystander.was_served().await;
    assert_eq!(timeouts(&gateway, "min_receive_rate").await, 2);
    assert!(!upstream.charges_by_key().contains_key("trickles"));
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
}

#[tokio::test]
async fn a_body_may_come_as_slowly_as_the_rate_and_wait_for_the_upstream_as_long_as_that_takes() {
    let upstream = ToyUpstream::start();
    let open = Gate::closed();
    upstream.always({
        let open = open.clone();
        move |request| match request.key().as_str() {
            "slow" => Act::respond(201, &[], "paid").after(&open),
            _ => Act::respond(201, &[], ""),
        }
    });
    let gateway = rated(&upstream).start().await;
    let mut connection = gateway.connect().await;
    let slow = payment("slow").without("Content-Length").body("");
    let slow = slow.header("Transfer-Encoding", "chunked");
    connection.write_request(&slow).await;
    let begun = Instant::now();
    while begun.elapsed() < GRACE * 3 {
        connection
            .write(format!("20\r\n{}\r\n", "a".repeat(32)).as_bytes())
            .await;
        sleep(DRIP).await;
    }
    connection.write(b"0\r\n\r\n").await;
    upstream.next_request().await;
    sleep(GRACE * 3).await;
    open.open();
    connection.answer().await.is(201, "executed");
    assert_eq!(timeouts(&gateway, "min_receive_rate").await, 0);
    assert_eq!(timeouts(&gateway, "min_send_rate").await, 0);
}

#[tokio::test]
async fn an_upstream_that_does_not_read_a_body_is_not_its_clients_fault() {
    // Half of it is more than all that is between client and upstream holds.
    const LARGE: usize = 64_000_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let upstream = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        sleep(GRACE * 12).await;
        let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
        while read < LARGE {
            read += socket.read(&mut buffer).await.expect("more of the body");
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        socket.write_all(answer).await.expect("an open socket");
        socket
    });
    let gateway = Setup::payments_at(&url)
        .rest_passes()
        .limits("min_receive_rate = \"8MiB\"")
        .limits("rate_grace = \"1s\"")
        .start()
        .await;
    let half = vec![b'a'; LARGE / 2];
    let large = Request::post("/large").header("Content-Length", &LARGE.to_string());
    let mut connection = gateway.connect().await;
    connection.write_request(&large.body(&half)).await;
    // Now the client is waited for. It has its grace still, and four seconds for what it has sent, less than two of them in
    // bytes that came after the upstream began to read.
    sleep(GRACE * 6).await;
    connection.write(&half).await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(timeouts(&gateway, "min_receive_rate").await, 0);
    upstream.await.expect("the upstream");
}

#[tokio::test]
async fn a_client_that_takes_its_answer_in_trickles_loses_the_stream_over_http2() {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; 100_000]),
        _ => Act::respond(201, &[], ""),
    });
    let gateway = rated(&upstream).start().await;
    let bystander = Bystander::begin(&gateway).await;
    let narrow = Http2::with_windows(2, gateway.address).await;
    let (begun, mut heard) = (Instant::now(), 0);
    let (status, mut body) = narrow.begin(&Request::get("/large")).await;
    assert_eq!(status, 200);
    let reset = async {
        loop {
            match body.frame().await.expect("no end but a reset") {
                Ok(frame) => heard += frame.into_data().expect("data").len(),
                Err(_) => return,
            }
            sleep(DRIP).await;
        }
    };
    within("the stream to be reset", reset).await;
    assert!(begun.elapsed() + SLACK >= GRACE, "{:?}", begun.elapsed());
    assert!(heard > 2, "windows opened, by {heard} bytes");
    assert_eq!(timeouts(&gateway, "min_send_rate").await, 1);
    assert_eq!(timeouts(&gateway, "body_idle").await, 0);
    narrow.send(&payment("goes-on")).await.is(201, "executed");
    bystander.was_served().await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}

/// What the slow link of the next test lets through in a second: several times the rate, and of each stream a small part
/// of it.
const LINK: usize = 1 << 20;
const SHARED_RATE: &str = "256KiB";
const SHARING: usize = 32;

/// A client that takes everything as it comes, and what comes is all that its link lets through: its streams wait for each
/// other, in turns longer than the grace, and none of them for the client.
#[tokio::test]
async fn streams_that_share_a_slow_link_are_as_slow_as_it_is_and_none_is_cut() {
    const EACH: usize = 128 << 10;
    let upstream = ToyUpstream::start();
    upstream.always(|_| Act::respond(200, &[], vec![b'a'; EACH]));
    // Through a socket whose buffer does not grow, so that the link is what the gateway waits for.
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits(&format!("min_send_rate = \"{SHARED_RATE}\""))
        .limits("rate_grace = \"500ms\"");
    let listeners = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n\
                     [[listeners]]\naddress = \"unix:gate.sock\"\n";
    let gateway = Gateway::start(&format!("{}{listeners}", setup.toml())).await;
    let socket = UnixStream::connect(gateway.directory().join("gate.sock")).await;
    let client = Http2::over(slowed(socket.expect("a connection"))).await;
    let begun = Instant::now();
    let large = Request::get("/large");
    let answers = (0..SHARING).map(|_| client.try_send(&large));
    let answers = within("the answers", join_all(answers)).await;
    let took = begun.elapsed();
    let whole = |answer: &Option<Answer>| answer.as_ref().is_some_and(|one| one.body.len() == EACH);
    let cut = answers.iter().filter(|answer| !whole(answer)).count();
    assert_eq!(cut, 0, "streams cut within {took:?}");
    assert!(took > GRACE * 4, "a link that was fast: {took:?}");
    assert_eq!(timeouts(&gateway, "min_send_rate").await, 0);
}

/// The client's end of a link that lets through what [`LINK`] says, and as much as comes in the other direction.
fn slowed(socket: UnixStream) -> DuplexStream {
    let (client, link) = duplex(16 << 10);
    let (mut answers, mut requests) = socket.into_split();
    let (mut from_client, mut to_client) = split(link);
    tokio::spawn(async move { copy(&mut from_client, &mut requests).await });
    tokio::spawn(async move {
        let begun = Instant::now();
        let (mut passed, mut buffer) = (0, vec![0; 16 << 10]);
        // The test is over where either end is gone.
        while let Ok(count @ 1..) = answers.read(&mut buffer).await {
            passed += count;
            let micros = u64::try_from(passed * 1_000_000 / LINK).expect("a short time");
            sleep_until(begun + Duration::from_micros(micros)).await;
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    client
}

#[tokio::test]
async fn a_client_that_takes_its_answer_too_slowly_is_dropped_over_http1() {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; 16_000_000]),
        _ => Act::respond(201, &[], ""),
    });
    // Systems hold megabytes, and take more in lumps.
    let setup = rated(&upstream);
    let toml = setup.toml();
    let toml = toml.replace("min_send_rate = \"240B\"", "min_send_rate = \"10MiB\"");
    let gateway = Gateway::start(&toml).await;
    let bystander = Bystander::begin(&gateway).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an open socket");
    let mut socket = socket.connect(gateway.address).await.expect("a connection");
    let request = Request::get("/large").to_bytes("a");
    socket.write_all(&request).await.expect("the gateway reads");
    let dropped = async {
        let mut buffer = [0; 4096];
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            if timeouts(&gateway, "min_send_rate").await == 1 {
                return;
            }
            sleep(DRIP).await;
        }
    };
    within("the connection to be dropped", dropped).await;
    assert_eq!(timeouts(&gateway, "min_send_rate").await, 1);
    assert_eq!(timeouts(&gateway, "body_idle").await, 0);
    bystander.was_served().await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}

#[tokio::test]
async fn a_stream_of_events_may_be_silent_for_as_long_as_it_likes() {
    let upstream = ToyUpstream::start();
    let gates = [Gate::closed(), Gate::closed()];
    for gate in &gates {
        let events = Act::event_stream().chunk("data: 1\n\n");
        upstream.next(events.then_wait(gate).chunk("data: 2\n\n").last_chunk());
    }
    let gateway = rated(&upstream).start().await;
    let mut http1 = gateway.connect().await;
    http1.write_request(&Request::get("/events")).await;
    assert_eq!(http1.answer_head().await.0, 200);
    assert_eq!(http1.chunk().await.as_deref(), Some(&b"data: 1\n\n"[..]));
    let http2 = Http2::open(gateway.address).await;
    let (status, body) = http2.begin(&Request::get("/events")).await;
    assert_eq!(status, 200);
    sleep(GRACE * 4).await;
    gates.iter().for_each(Gate::open);
    assert_eq!(http1.chunk().await.as_deref(), Some(&b"data: 2\n\n"[..]));
    let heard = within("the events", body.collect())
        .await
        .expect("all of them");
    assert_eq!(heard.to_bytes(), "data: 1\n\ndata: 2\n\n");
    assert_eq!(timeouts(&gateway, "min_send_rate").await, 0);
}

#[tokio::test]
async fn beside_a_service_a_client_may_be_as_slow_as_it_likes() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .limits("rate_grace = \"100ms\"")
        .start()
        .await;
    let mut socket = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    let request = payment("slow").to_bytes("a");
    let (head, body) = request.split_at(request.len() - 14);
    socket.write_all(head).await.expect("the gateway reads");
    for byte in body {
        sleep(DRIP).await;
        socket.write_all(&[*byte]).await.expect("the gateway reads");
    }
    let mut said = [0; 12];
    within("an answer", socket.read_exact(&mut said))
        .await
        .expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 201");
}
