//! Upstreams as bad as they come: what clients hear, what the record says, that nothing is sent twice, and that no
//! connection is used again whose state is in doubt.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Act, Gate, Gateway, Problem, RefusedPort, Request, Setup, ToyUpstream, payment, until, within,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Faults of which the upstream has done its work by then, each with its name.
fn faults() -> Vec<(&'static str, Act)> {
    let raw = |bytes: &str| Act::raw(bytes);
    let head = |lines: &str| Act::raw(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nok"));
    let chunks = |chunks: &str| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        Act::raw(format!("{head}{chunks}")).then_close()
    };
    let large = "a".repeat(200 * 1024);
    let many: String = (0..200)
        .map(|number| format!("A-{number}: b\r\n"))
        .collect();
    vec![
        ("closes", raw("").then_close()),
        ("resets", Act::reset_after_reading()),
        ("half a status line", raw("HTTP/1.1 20").then_close()),
        (
            "half a head",
            raw("HTTP/1.1 200 OK\r\nA: b\r\n").then_close(),
        ),
        (
            "half a head, reset",
            raw("HTTP/1.1 200 OK\r\nA: b\r\n").then_reset(),
        ),
        (
            "only an interim answer",
            raw("HTTP/1.1 100 Continue\r\n\r\n").then_close(),
        ),
        ("a short body", Act::truncate(200, 10, b"half")),
        (
            "short chunks",
            Act::stream(200, &[]).chunk("half").then_close(),
        ),
        (
            "chunks, reset",
            Act::stream(200, &[]).chunk("half").then_reset(),
        ),
        ("another protocol", raw("220 mail.example ESMTP\r\n")),
        ("HTTP/2", raw("\0\0\0\x04\0\0\0\0\0")),
        (
            "another version",
            raw("HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "a status of four digits",
            raw("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "a status below 100",
            raw("HTTP/1.1 042 OK\r\nContent-Length: 0\r\n\r\n"),
        ),
        ("an empty line before the answer", raw(&format!("\r\n{OK}"))),
        (
            "a length beside chunks",
            raw(
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
        ),
        (
            "two lengths",
            head("Content-Length: 2\r\nContent-Length: 3"),
        ),
        (
            "a length twice",
            head("Content-Length: 2\r\nContent-Length: 2"),
        ),
        ("a list of lengths", head("Content-Length: 2, 2")),
        ("a negative length", head("Content-Length: -2")),
        ("a length with a sign", head("Content-Length: +2")),
        ("a length in another base", head("Content-Length: 0x2")),
        (
            "a length beyond all",
            head("Content-Length: 18446744073709551617"),
        ),
        ("no length", head("Content-Length:")),
        ("another coding", head("Transfer-Encoding: gzip, chunked")),
        ("an old coding", head("Transfer-Encoding: identity")),
        (
            "chunks twice",
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ),
        (
            "chunks in HTTP/1.0",
            raw("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ),
        ("a chunk of no size", chunks("\r\nok\r\n0\r\n\r\n")),
        (
            "a chunk of a negative size",
            chunks("-2\r\nok\r\n0\r\n\r\n"),
        ),
        ("a chunk in another base", chunks("0x2\r\nok\r\n0\r\n\r\n")),
        (
            "a chunk beyond all",
            chunks("10000000000000002\r\nok\r\n0\r\n\r\n"),
        ),
        (
            "a chunk that is longer than it says",
            chunks("1\r\nok\r\n0\r\n\r\n"),
        ),
        ("a chunk that ends with LF", chunks("2\nok\n0\n\n")),
        (
            "a chunk whose extension hides LF",
            chunks("2;a\nb\r\nok\r\n0\r\n\r\n"),
        ),
        (
            "a status line that ends with LF",
            raw("HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
        ),
        ("a line that ends with LF", head("A: b\nContent-Length: 2")),
        (
            "a head that ends with LF",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok"),
        ),
        (
            "a head split by LF",
            head("A: b\n\nHTTP/1.1 200 OK\r\nContent-Length: 2"),
        ),
        ("a lone CR", head("A: b\rC: d\r\nContent-Length: 2")),
        ("a folded line", head("A: b\r\n c\r\nContent-Length: 2")),
        ("a NUL", head("A: b\0c\r\nContent-Length: 2")),
        ("a space before the colon", head("Content-Length : 2")),
        ("a line without a colon", head("A\r\nContent-Length: 2")),
        ("a line without a name", head(": b\r\nContent-Length: 2")),
        (
            "a large header",
            head(&format!("A: {large}\r\nContent-Length: 2")),
        ),
        ("many headers", head(&format!("{many}Content-Length: 2"))),
        (
            "a 101",
            raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
        ),
    ]
}

/// The next request goes over a connection of its own.
async fn is_not_used_again(fault: &str, gateway: &Gateway, upstream: &ToyUpstream) {
    let doubtful = upstream.requests().last().expect("a request").connection;
    let answer = gateway.send(&Request::get("/else")).await;
    assert_eq!(answer.status, 201, "{fault}: {answer:?}");
    let next = upstream.requests().last().expect("a request").connection;
    assert_ne!(doubtful, next, "{fault}");
    upstream.close_idle_connections().await;
}

#[tokio::test]
async fn what_is_no_whole_and_clear_answer_leaves_the_outcome_unknown() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    for (number, (fault, act)) in faults().into_iter().enumerate() {
        println!("{fault}");
        let key = format!("k{number}");
        upstream.next(act);
        gateway.send(&payment(&key)).await.refuses(Problem::FAILED);
        is_not_used_again(fault, &gateway, &upstream).await;
        let again = gateway.send(&payment(&key)).await;
        again.refuses(Problem::OUTCOME_UNKNOWN);
        assert_eq!(upstream.charges_by_key()[&key], 1, "{fault}");
    }
    let faults = u64::try_from(faults().len()).expect("some");
    assert_eq!(
        gateway.metrics().await.decisions("pay", "unknown"),
        2 * faults
    );
}

#[tokio::test]
async fn what_is_no_clear_answer_is_no_answer_on_a_pass_route_either() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    for (fault, act) in faults() {
        println!("{fault}");
        upstream.next(act);
        let before = upstream.charges();
        let mut client = gateway.connect().await;
        // What breaks in its body is passed on as far as it came, and seen to break.
        if let Some(answer) = client.try_send(&Request::get("/file")).await {
            assert_eq!(answer.status, 502, "{fault}: {answer:?}");
            assert_eq!(answer.json()["operation_state"], "unknown", "{fault}");
        }
        is_not_used_again(fault, &gateway, &upstream).await;
        // This one and the one after it.
        assert_eq!(upstream.charges(), before + 2, "{fault}");
    }
}

#[tokio::test]
async fn a_request_that_the_upstream_resets_before_it_reads_is_not_sent_again() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    upstream.next(Act::reset_before_reading());
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    let again = gateway.send(&payment("k")).await;
    again.refuses(Problem::OUTCOME_UNKNOWN);
    upstream.next(Act::reset_before_reading());
    let answer = gateway.send(&Request::post("/else").body("x")).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn an_upstream_that_refuses_was_sent_nothing() {
    let port = RefusedPort::take();
    let gateway = Setup::payments_at(&port.url()).rest_passes().start().await;
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::UNREACHABLE);
    let answer = gateway.send(&Request::get("/else")).await;
    assert_eq!(
        (answer.status, &answer.json()["operation_state"]),
        (502, &"none".into())
    );
    let upstream = port.listen();
    // The key is free again, and nothing of the connection that was refused is remembered.
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&Request::get("/else")).await.is(201, "");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_is_the_answer_and_ends_the_connection() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).rest_passes();
    let gateway = setup.route("max_request_body = \"16MiB\"").start().await;
    // More than fits into the buffers on the way.
    let body = vec![b'x'; 12 * 1024 * 1024];
    let gate = Gate::closed();
    let early = || Act::respond(413, &[], "too much").early().then_wait(&gate);
    upstream.next(early());
    let request = payment("k").body(&body);
    let answer = gateway.send(&request).await;
    assert_eq!(answer.is(413, "executed").text(), "too much");
    is_a_new_connection(&gateway, &upstream).await;
    assert_eq!(
        gateway.send(&request).await.is(413, "replayed").text(),
        "too much"
    );
    // A client that is still sending hears it as well.
    upstream.next(early());
    let client = TcpStream::connect(gateway.address).await.expect("one");
    let (mut reader, mut writer) = client.into_split();
    let upload = Request::post("/file").body(&body).to_bytes("a");
    let sending = tokio::spawn(async move { writer.write_all(&upload).await });
    let mut answer = [0; 12];
    let read = within("an answer", reader.read_exact(&mut answer)).await;
    read.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    is_a_new_connection(&gateway, &upstream).await;
    drop(sending);
    gate.open();
}

async fn is_a_new_connection(gateway: &Gateway, upstream: &ToyUpstream) {
    let before = upstream.connections();
    gateway.send(&Request::get("/else")).await.is(201, "");
    assert_eq!(upstream.connections(), before + 1);
}

#[tokio::test]
async fn a_second_answer_is_nobodys() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    for (number, first) in [payment("first"), Request::get("/else")].iter().enumerate() {
        for (more, second) in [payment("second"), Request::get("/else")]
            .iter()
            .enumerate()
        {
            let numbered = |request: &Request, name: &str| {
                let is_keyed = request.method == "POST";
                let key = is_keyed.then(|| format!("{name}-{number}-{more}"));
                key.map_or(request.clone(), |key| request.clone().key(&key))
            };
            // In one packet with the first.
            upstream.next(Act::raw(format!("{OK}{stray}")));
            let answer = gateway.send(&numbered(first, "a")).await;
            assert_eq!((answer.status, &answer.text()[..]), (200, "ok"));
            let answer = gateway.send(&numbered(second, "b")).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            // Some time after it.
            let (late, said) = (Gate::closed(), Gate::closed());
            let act = Act::raw(OK).then_wait(&late);
            upstream.next(act.then_write(stray).then_open(&said));
            let answer = gateway.send(&numbered(first, "c")).await;
            assert_eq!((answer.status, &answer.text()[..]), (200, "ok"));
            late.open();
            within("the stray answer", said.opened()).await;
            let answer = gateway.send(&numbered(second, "d")).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            upstream.close_idle_connections().await;
        }
    }
    assert!(
        upstream
            .charges_by_key()
            .iter()
            .all(|(key, charges)| key.is_empty() || *charges == 1)
    );
}

#[tokio::test]
async fn a_body_behind_an_answer_that_has_none_is_nobodys() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    for (method, head) in [
        ("HEAD", "200 OK\r\nContent-Length: 2"),
        ("GET", "304 Not Modified\r\nContent-Length: 2"),
        ("GET", "204 No Content\r\nContent-Length: 2"),
        ("GET", "204 No Content\r\nTransfer-Encoding: chunked"),
    ] {
        let (late, said) = (Gate::closed(), Gate::closed());
        let act = Act::raw(format!("HTTP/1.1 {head}\r\n\r\n")).then_wait(&late);
        upstream.next(act.then_write("hi").then_open(&said));
        let answer = gateway.send(&Request::new(method, "/file")).await;
        assert_eq!(answer.status.to_string(), head[..3]);
        late.open();
        if !head.starts_with("204") {
            within("the stray body", said.opened()).await;
        }
        let answer = gateway.send(&Request::get("/else")).await;
        assert_eq!(answer.status, 201, "{head}: {answer:?}");
        upstream.close_idle_connections().await;
    }
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                   HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 Whatever\r\nContent-Length: 7\r\n\r\n";
    let gate = Gate::closed();
    for request in [payment("k"), Request::get("/else")] {
        upstream.next(
            // As many as are borne.
            Act::raw(interim.repeat(25)).then_wait(&gate).then_write(OK),
        );
        let asking = gateway.spawn(&request);
        gate.open();
        let answer = within("an answer", asking).await.expect("no panic");
        assert_eq!((answer.status, &answer.text()[..]), (200, "ok"));
    }
    gateway.send(&payment("k")).await.is(200, "replayed");
    assert_eq!(upstream.charges(), 2);
    assert!(upstream.keeps_all_connections());
}

/// The upstream closes a connection just when it is taken from the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_close_under_our_hands_never_cost_a_second_charge() {
    const ROUNDS: usize = 200;
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    // Closed behind its answer without a word, which the gateway may see before or after it takes the connection.
    upstream.always(|_| Act::raw(OK).then_close());
    let mut unknown = 0;
    for number in 0..ROUNDS {
        let key = format!("k{number}");
        let answer = gateway.send(&payment(&key)).await;
        match answer.status {
            200 => drop(answer.is(200, "executed")),
            502 => unknown += 1,
            _ => panic!("{answer:?}"),
        }
    }
    println!("{unknown} of {ROUNDS} unknown");
    assert!(
        upstream
            .charges_by_key()
            .values()
            .all(|charges| *charges == 1)
    );
    assert!(unknown <= ROUNDS / 20, "{unknown}");
    until("connections to be seen closed", || async {
        let metrics = gateway.metrics().await;
        let open = metrics.value("oncegate_upstream_connections", &[("upstream", "toy")]);
        (open == Some(0.0)).then_some(())
    })
    .await;
}
