//! Pass routes carry anything: bodies of any length, trailers, and every end as it was meant.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Act, Gate, Gateway, Http2, RefusedPort, Request, Setup, ToyUpstream, until, within,
};

const MIB: usize = 1024 * 1024;

/// The most memory that the gateway may take more for bodies of any length, both ways at once.
const ROOM_KIB: u64 = 24 * 1024;

/// How large the large bodies are, in MiB: a gibibyte unless `ONCEGATE_LARGE_BODY_MIB` says otherwise.
fn large() -> usize {
    let given = env::var("ONCEGATE_LARGE_BODY_MIB").ok();
    given.and_then(|given| given.parse().ok()).unwrap_or(1024) * MIB
}

/// The most memory that the gateway has taken so far.
fn peak_kib(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let words = line.expect("a peak").split_whitespace().nth(1);
    words.and_then(|kib| kib.parse().ok()).expect("a number")
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.expect("a byte"));
    }
    String::from_utf8(head).expect("a head in ASCII")
}

/// Writes these blocks of a MiB, each with its own number.
async fn pour(stream: &mut (impl AsyncWriteExt + Unpin), blocks: Range<usize>) {
    let mut block = vec![0; MIB];
    for number in blocks {
        block[..8].copy_from_slice(&(number as u64).to_be_bytes());
        stream.write_all(&block).await.expect("somebody reads");
    }
}

/// Reads as many, and sees that they are those.
async fn drink(stream: &mut (impl AsyncReadExt + Unpin), length: usize) {
    let mut block = vec![0; MIB];
    for number in 0..length / MIB {
        stream.read_exact(&mut block).await.expect("all of it");
        assert_eq!(block[..8], (number as u64).to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_length_go_both_ways_in_constant_memory() {
    let length = large();
    let blocks = length / MIB;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    // A gibibyte may take a busy machine its time, and no answer begins before the last byte of it.
    let rest = "name = \"rest\"\npath = \"/*\"\nmode = \"pass\"\nresponse_timeout = \"10m\"";
    let setup = Setup::payments_at(&url).another_route(rest);
    let gateway = setup.start().await;
    let before = peak_kib(&gateway);
    let upstream = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let request = head(&mut stream).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let (mut reader, mut writer) = stream.split();
                if request.starts_with("GET") {
                    writer.write_all(answer.as_bytes()).await.expect("sent");
                    pour(&mut writer, 0..blocks).await;
                } else if request.starts_with("PUT") {
                    drink(&mut reader, length).await;
                    let done = b"HTTP/1.1 204 No Content\r\n\r\n";
                    writer.write_all(done).await.expect("sent");
                } else {
                    writer.write_all(answer.as_bytes()).await.expect("sent");
                    // An answer that ends before its request would end that, too.
                    let most = pour(&mut writer, 0..blocks - 1);
                    tokio::join!(most, drink(&mut reader, length));
                    pour(&mut writer, blocks - 1..blocks).await;
                }
            });
        }
    });
    for method in ["GET", "PUT", "POST"] {
        let mut client = TcpStream::connect(gateway.address).await.expect("one");
        let body = if method == "GET" { 0 } else { length };
        let request =
            format!("{method} /file HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("sent");
        match method {
            "GET" => {
                head(&mut client).await;
                drink(&mut client, length).await;
            }
            "PUT" => {
                pour(&mut client, 0..blocks).await;
                assert!(head(&mut client).await.contains(" 204 "));
            }
            _ => {
                head(&mut client).await;
                let (mut reader, mut writer) = client.split();
                tokio::join!(pour(&mut writer, 0..blocks), drink(&mut reader, length));
            }
        }
        let grown = peak_kib(&gateway) - before;
        println!("{method} of {blocks} MiB: {grown} KiB more at the peak");
        assert!(grown < ROOM_KIB, "{method}: {grown} KiB");
    }
    upstream.abort();
}

#[tokio::test]
async fn trailers_cross_both_ways() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::raw(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n",
    ));
    let mut client = TcpStream::connect(gateway.address).await.expect("one");
    let request = "POST /sum HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Check\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 5\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("sent");
    let sent = upstream.next_request().await;
    assert_eq!(sent.trailers.all("X-Check"), ["5"], "{sent:?}");
    assert_eq!(sent.headers.all("TE"), ["trailers"]);
    assert_eq!(sent.headers.all("Connection"), ["te"]);
    assert_eq!(sent.headers.all("Trailer"), ["X-Check"]);
    assert!(
        head(&mut client)
            .await
            .to_lowercase()
            .contains("trailer: x-sum\r\n")
    );
    let body = "2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n";
    let mut heard = vec![0; body.len()];
    within("the trailer", client.read_exact(&mut heard))
        .await
        .expect("all of it");
    assert_eq!(String::from_utf8_lossy(&heard).to_lowercase(), body);
}

#[tokio::test]
async fn a_clients_trailers_do_not_say_what_only_the_gateway_may() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let names =
        "X-Check, Oncegate-Fence, Oncegate_Fence, X-Forwarded-For, X_Forwarded_Host, Forwarded";
    let trailers: String = names
        .split(", ")
        .map(|name| format!("{name}: 5\r\n"))
        .collect();
    let request = format!(
        "POST /sum HTTP/1.1\r\nHost: a\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n{trailers}\r\n"
    );
    let mut client = TcpStream::connect(gateway.address).await.expect("one");
    client.write_all(request.as_bytes()).await.expect("sent");
    let sent = upstream.next_request().await;
    assert_eq!(sent.trailers.all("X-Check"), ["5"], "{sent:?}");
    for name in names.split(", ").skip(1) {
        assert!(sent.trailers.all(name).is_empty(), "{name}: {sent:?}");
    }
}

#[tokio::test]
async fn trailers_cross_between_both_protocols() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::raw(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nIdempotency-Status: replayed\r\n\r\n",
    ));
    let stream = TcpStream::connect(gateway.address).await.expect("one");
    let http2 = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut client, connection) = http2.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let trailers = [("x-check", "5")].map(|(name, value)| {
        (
            name.parse().expect("a name"),
            value.parse().expect("a value"),
        )
    });
    let frames = [
        Frame::data(Bytes::from_static(b"abc")),
        Frame::trailers(http::HeaderMap::from_iter(trailers)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = http::Request::post(format!("http://{}/sum", gateway.address))
        .header("trailer", "x-check")
        .header("te", "trailers");
    let request = request.body(body).expect("a request");
    let answer = within("an answer", client.send_request(request))
        .await
        .expect("one");
    let answer = answer.into_body().collect().await.expect("a whole body");
    // Not what is no trailer's to say, nor the upstream's.
    let trailers = answer.trailers().expect("trailers");
    assert_eq!(trailers.len(), 1, "{trailers:?}");
    assert_eq!(trailers["x-sum"], "7");
    let sent = upstream.next_request().await;
    assert_eq!(
        (&sent.body[..], sent.trailers.all("x-check")),
        (&b"abc"[..], vec!["5"])
    );
    connection.abort();
}

#[tokio::test]
async fn an_answer_without_a_body_says_what_the_upstream_said() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let mut client = gateway.connect().await;
    let http2 = Http2::open(gateway.address).await;
    let cases = [
        (
            "HEAD",
            "200 OK\r\nContent-Length: 1234\r\nETag: \"a\"",
            Some("1234"),
        ),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", None),
        (
            "GET",
            "304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"",
            Some("1234"),
        ),
        ("GET", "204 No Content", None),
        // What has no body has no length.
        ("DELETE", "204 No Content\r\nContent-Length: 0", None),
    ];
    for (method, answer, length) in cases {
        for over_http2 in [false, true] {
            upstream.next(Act::raw(format!("HTTP/1.1 {answer}\r\n\r\n")));
            let request = Request::new(method, "/file").header("If-None-Match", "\"a\"");
            let answered = if over_http2 {
                http2.send(&request).await
            } else {
                client.send(&request).await
            };
            assert_eq!(answered.status.to_string(), answer[..3], "{answered:?}");
            // Over HTTP/1.1 a 304 says nothing of a length, which it may.
            let is_left_out = answered.status == 304 && !over_http2;
            let length = length.filter(|_| !is_left_out);
            assert_eq!(answered.header("Content-Length"), length, "{answered:?}");
            assert!(
                answered.complete && answered.body.is_empty(),
                "{answered:?}"
            );
            let sent = upstream.next_request().await;
            assert_eq!(sent.method, method);
            assert_eq!(sent.headers.all("If-None-Match"), ["\"a\""]);
        }
    }
    // Nothing of them was in doubt.
    assert!(upstream.keeps_all_connections());
}

#[tokio::test]
async fn a_part_of_a_file_is_asked_for_and_answered_as_such() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let range = [
        ("Content-Range", "bytes 2-4/10"),
        ("Accept-Ranges", "bytes"),
        ("ETag", "\"v1\""),
    ];
    upstream.next(Act::respond(206, &range, "234"));
    let request = Request::get("/file").header("Range", "bytes=2-4");
    let part = gateway.send(&request.header("If-Range", "\"v1\"")).await;
    assert_eq!((part.status, &part.text()[..]), (206, "234"));
    for (name, value) in range {
        assert_eq!(part.header(name), Some(value));
    }
    let sent = upstream.next_request().await;
    assert_eq!(sent.headers.all("Range"), ["bytes=2-4"]);
    assert_eq!(sent.headers.all("If-Range"), ["\"v1\""]);
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_for_its_body_is_asked() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let mut client = TcpStream::connect(gateway.address).await.expect("one");
    let request =
        "PUT /file HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("sent");
    assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").await.expect("sent");
    assert!(head(&mut client).await.starts_with("HTTP/1.1 201 "));
    let sent = upstream.next_request().await;
    assert_eq!(
        (sent.header("Expect"), &sent.body[..]),
        (None, &b"body"[..])
    );
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_is_not_asked_for_what_is_refused() {
    let port = RefusedPort::take();
    let setup = Setup::payments_at(&port.url())
        .another_route("name = \"files\"\npath = \"/files/*\"\nmode = \"pass\"");
    let gateway = setup.start().await;
    for (target, status) in [
        ("/files/1", " 502 "),
        ("/nowhere", " 404 "),
        ("/v1/payments", " 400 "),
    ] {
        let mut client = TcpStream::connect(gateway.address).await.expect("one");
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.expect("sent");
        let answer = head(&mut client).await;
        assert!(answer.contains(status), "{target}: {answer}");
    }
}

#[tokio::test]
async fn early_hints_are_dropped() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(3);
    upstream.next(Act::raw(format!(
        "{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    )));
    let mut client = TcpStream::connect(gateway.address).await.expect("one");
    client
        .write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("sent");
    let answer = head(&mut client).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && !answer.contains("preload"),
        "{answer}"
    );
}

#[tokio::test]
async fn events_come_one_by_one_and_end_with_their_listener() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let gates = [Gate::closed(), Gate::closed(), Gate::closed()];
    for over_http2 in [false, true] {
        let mut act = Act::event_stream().chunk(": hello\n\n");
        for gate in &gates {
            act = act.then_wait(gate).chunk("data: x\n\n");
        }
        upstream.next(act.then_wait(&Gate::closed()));
        let request = Request::get("/events").header("Accept", "text/event-stream");
        if over_http2 {
            let client = Http2::open(gateway.address).await;
            let (status, mut events) = client.begin(&request).await;
            assert_eq!(status, 200);
            let hello = within("an event", events.frame())
                .await
                .expect("one")
                .expect("one");
            assert_eq!(hello.into_data().expect("data"), ": hello\n\n");
            // The stream is reset, and the connection stays.
            drop(events);
            until("the upstream to be let go", || let_go(&gateway)).await;
            client.send(&Request::get("/else")).await.is(201, "");
        } else {
            let mut client = gateway.connect().await;
            client.write_request(&request).await;
            let (_, headers) = client.answer_head().await;
            assert_eq!(headers.first("Content-Type"), Some("text/event-stream"));
            assert_eq!(client.chunk().await.as_deref(), Some(&b": hello\n\n"[..]));
            for gate in &gates {
                gate.open();
                assert_eq!(client.chunk().await.as_deref(), Some(&b"data: x\n\n"[..]));
            }
            client.hang_up();
            until("the upstream to be let go", || let_go(&gateway)).await;
        }
    }
}

/// Whether no request is under way any more.
async fn let_go(gateway: &Gateway) -> Option<()> {
    let metrics = gateway.metrics().await;
    let labels = [("upstream", "toy")];
    let in_flight = metrics.value("oncegate_upstream_in_flight", &labels);
    (in_flight == Some(0.0)).then_some(())
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_request_is_seen_to_leave() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let gateway = Setup::payments_at(&url).rest_passes().start().await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = TcpStream::connect(gateway.address).await.expect("one");
        let request = format!("PUT /file HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n4\r\nabcd\r\n");
        client.write_all(request.as_bytes()).await.expect("sent");
        let (mut upstream, _) = within("a connection", listener.accept())
            .await
            .expect("one");
        head(&mut upstream).await;
        drop(client);
        // The end of the connection, and not of the body.
        let mut rest = Vec::new();
        let _ = within("the end", upstream.read_to_end(&mut rest)).await;
        assert!(
            rest.len() < 100 && !rest.ends_with(b"0\r\n\r\n"),
            "{rest:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_on_as_whole() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let http2 = Http2::open(gateway.address).await;
    for act in [
        Act::truncate(200, 10, b"half"),
        Act::stream(200, &[]).chunk("half").then_close(),
        Act::stream(200, &[]).chunk("half").then_reset(),
        Act::stream(200, &[])
            .chunk("half")
            .then_write("zz\r\nnonsense\r\n")
            .then_close(),
        // Without a length or chunks only a reset tells.
        Act::raw("HTTP/1.1 200 OK\r\n\r\nhalf").then_reset(),
    ] {
        upstream.next(act.clone());
        // The end may overtake what it breaks off.
        let request = Request::get("/file");
        let answer = gateway.connect().await.try_send(&request).await;
        assert!(answer.is_none(), "{act:?}: {answer:?}");
        upstream.next(act.clone());
        let answer = http2.try_send(&request).await;
        assert!(answer.is_none(), "{act:?}: {answer:?}");
    }
    // The connection of the streams that were reset goes on.
    http2.send(&Request::get("/else")).await.is(201, "");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let mut client = gateway.connect().await;
    for version in ["1.0", "1.1"] {
        upstream.next(Act::raw(format!("HTTP/{version} 200 OK\r\n\r\nall of it")).then_close());
        let answer = client.send(&Request::get("/file")).await;
        assert_eq!((&answer.text()[..], answer.complete), ("all of it", true));
        client.send(&Request::get("/else")).await.is(201, "");
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_slows_the_upstream_down() {
    const LENGTH: usize = 64 * MIB;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let gateway = Setup::payments_at(&url).rest_passes().start().await;
    let mut client = TcpStream::connect(gateway.address).await.expect("one");
    client
        .write_all(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("sent");
    let (mut upstream, _) = within("a connection", listener.accept())
        .await
        .expect("one");
    head(&mut upstream).await;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    upstream.write_all(answer.as_bytes()).await.expect("sent");
    // Nothing tells of nothing happening: what goes into the buffers on the way goes in at once.
    let all =
        tokio::time::timeout(Duration::from_secs(1), pour(&mut upstream, 0..LENGTH / MIB)).await;
    assert!(
        all.is_err(),
        "somebody took {LENGTH} bytes that nobody has read"
    );
}
