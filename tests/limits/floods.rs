//! HTTP/2 floods: frames by hand, from several connections at a time, as fast as they are taken.
//!
//! Each is to end its own connections, take no more memory than a client of good will could, leave nothing behind, and
//! let the bystander be served. Both with the defaults and at the edge.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::bystander::Bystander;
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, payload_length, push_field, push_frame,
    push_text,
};
use crate::support::{Act, Gate, Gateway, Request, Setup, ToyUpstream, until, within};
use crate::{metric, settles, timeouts};

/// Connections that flood at a time.
const ATTACKERS: usize = 4;

/// Rounds of a flood, far more than are borne.
const ROUNDS: u32 = 5000;

/// What floods may take of memory, in bytes: for each connection 128 streams with a head, or a piece of an answer, of 64 KiB,
/// a window of 1 MiB, and as much again for connections to the upstream and the allocator. Measured were 44 MiB where nobody
/// takes 400 answers, and 21 MiB elsewhere.
const MOST_BYTES: u64 = 72 << 20;

/// Counts those that are closed for it.
const FLOODS: &str = "oncegate_http2_floods_total";

const PROFILES: [&str; 2] = ["sidecar", "edge"];

/// The code `CANCEL` (RFC 9113, section 7).
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// How the gateway knows a flood.
#[derive(Clone, Copy)]
enum Known {
    /// h2 breaks its connection off.
    ByH2,
    /// It is counted, and its connection closed.
    ByUs,
    /// Either, whichever looks first.
    BySomebody,
}

/// Floods a gateway of each profile; `round` makes the bytes of one round.
async fn flooded(what: &str, known: Known, round: impl Fn(u32) -> Vec<u8> + Copy) {
    for profile in PROFILES {
        let upstream = ToyUpstream::start();
        let setup = Setup::payments(&upstream).rest_passes();
        let setup = setup.top(&format!("profile = \"{profile}\""));
        let gateway = setup.start().await;
        let bystander = Bystander::begin(&gateway).await;
        let before = gateway.usage().resident_kib * 1024;
        let attacks = (0..ATTACKERS).map(|_| async {
            let mut attacker = Attacker::begin(gateway.address).await;
            let mut rounds = 0;
            while rounds < ROUNDS && attacker.send(&round(rounds)).await {
                rounds += 1;
            }
            (rounds, attacker.ended().await)
        });
        let ends = within("the flood to be ended", join_all(attacks)).await;
        let served = bystander.was_served().await;
        let most = gateway.most_resident_bytes().saturating_sub(before);
        println!("{what}, {profile}: {ends:?}, {most} bytes, {served} payments alongside");
        assert!(ends.iter().all(|(rounds, _)| *rounds < ROUNDS), "{what}");
        assert!(most < MOST_BYTES, "{what}: {most} bytes");
        match known {
            Known::ByH2 => assert_eq!(metric(&gateway, FLOODS, &[]).await, 0, "{what}"),
            Known::ByUs => settles(&gateway, FLOODS, &[], ATTACKERS as u64).await,
            Known::BySomebody => {}
        }
        leaves_nothing(&gateway).await;
        assert!(!gateway.log().text().contains("\"target\":\"h2"), "{what}");
    }
}

/// Waits until all is over, and the processor at rest.
async fn leaves_nothing(gateway: &Gateway) {
    for gauge in [
        "oncegate_connections",
        "oncegate_buffered_bytes",
        "oncegate_claims_held",
        "oncegate_upstream_in_flight",
    ] {
        settles(gateway, gauge, &[], 0).await;
    }
    until("the processor to rest", || async {
        let before = gateway.processor_ticks();
        tokio::time::sleep(Duration::from_millis(200)).await;
        (gateway.processor_ticks() - before <= 4).then_some(())
    })
    .await;
}

/// A client that keeps to no rule, and reads what it is told.
struct Attacker {
    writes: OwnedWriteHalf,
    heard: mpsc::Receiver<Heard>,
}

/// What an attacker may have been told and not listened to: more answers than it gets before its end.
const MOST_HEARD: usize = 8192;

/// What tells an attacker something.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The answer to a PING.
    Pong,
    /// The error of a GOAWAY.
    Goodbye(u32),
}

impl Attacker {
    async fn begin(address: SocketAddr) -> Self {
        Self::begin_with(address, b"").await
    }

    /// With these settings.
    async fn begin_with(address: SocketAddr, settings: &[u8]) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (reads, mut writes) = socket.into_split();
        let mut bytes = PREFACE.to_vec();
        push_frame(&mut bytes, SETTINGS, 0, 0, settings);
        writes.write_all(&bytes).await.expect("the gateway reads");
        let (tell, heard) = mpsc::channel(MOST_HEARD);
        tokio::spawn(listen(reads, tell));
        Self { writes, heard }
    }

    /// Whether the connection is still there, as far as is known.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        !self.heard.is_closed() && self.writes.write_all(bytes).await.is_ok()
    }

    /// Waits until all that was sent has been looked at; false where the connection has ended.
    async fn is_seen(&mut self) -> bool {
        let mut ping = Vec::new();
        push_frame(&mut ping, PING, 0, 0, b"all read");
        self.send(&ping).await && self.heard.recv().await == Some(Heard::Pong)
    }

    /// Waits for the end, and returns what was said before it: a client that still sends may be reset and not hear it.
    async fn ended(mut self) -> Option<u32> {
        let mut said = None;
        while let Some(heard) = self.heard.recv().await {
            if let Heard::Goodbye(code) = heard {
                said = Some(code);
            }
        }
        said
    }
}

/// Reads frames until the connection ends.
async fn listen(mut socket: OwnedReadHalf, tell: mpsc::Sender<Heard>) {
    let mut head = [0; 9];
    while socket.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; payload_length(&head)];
        if socket.read_exact(&mut payload).await.is_err() {
            return;
        }
        let heard = match (head[3], head[4]) {
            (PING, ACK) => Heard::Pong,
            (GOAWAY, _) => {
                let code = payload[4..8].try_into().expect("four bytes");
                Heard::Goodbye(u32::from_be_bytes(code))
            }
            _ => continue,
        };
        // The attacker may have gone.
        let _ = tell.try_send(heard);
    }
}

/// The client's stream of this number, from 0.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// The fields of a request that passes.
fn passing(method: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", "/x"),
        (":authority", "a.example"),
    ] {
        push_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// The fields of a payment under this key.
fn paying(key: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/payments"),
        (":authority", "a.example"),
        ("authorization", "Bearer alice"),
        ("idempotency-key", key),
    ] {
        push_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// The same payment over HTTP/1.
fn paid_again(key: &str) -> Request {
    Request::post("/v1/payments")
        .header("Host", "a.example")
        .auth("Bearer alice")
        .key(key)
}

/// Many of one frame.
fn frames(count: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        push_frame(&mut bytes, kind, flags, stream, payload);
    }
    bytes
}

/// Some requests of a round, each followed by what `then` makes of its stream.
fn requests(round: u32, flags: u8, head: &[u8], then: impl Fn(&mut Vec<u8>, u32)) -> Vec<u8> {
    const EACH: u32 = 20;
    let mut bytes = Vec::new();
    for number in 0..EACH {
        let stream = stream(round * EACH + number);
        push_frame(&mut bytes, HEADERS, END_HEADERS | flags, stream, head);
        then(&mut bytes, stream);
    }
    bytes
}

#[tokio::test]
async fn frames_that_carry_nothing_are_borne_up_to_a_thousand() {
    let many = |kind, flags, payload| move |_| frames(100, kind, flags, 0, payload);
    flooded("SETTINGS", Known::ByUs, many(SETTINGS, 0, b"")).await;
    flooded("PING", Known::ByUs, many(PING, 0, b"12345678")).await;
    // h2 has a line in the log for each of them.
    flooded("answers", Known::ByUs, many(PING, ACK, b"12345678")).await;
    let widen = [0, 0, 0, 1];
    flooded("windows", Known::ByUs, many(WINDOW_UPDATE, 0, &widen)).await;
    flooded("unknown", Known::ByUs, many(0x77, 0, b"")).await;
    flooded("PRIORITY", Known::ByUs, |_| {
        frames(100, PRIORITY, 0, 1, &[0, 0, 0, 3, 1])
    })
    .await;
}

/// Each change of the window touches every stream there is.
#[tokio::test]
async fn windows_that_change_under_many_streams_are_borne_up_to_a_thousand() {
    flooded("windows of streams", Known::ByUs, |round| match round {
        0..3 => requests(round, 0, &passing("POST"), |_, _| {}),
        _ => frames(
            100,
            SETTINGS,
            0,
            0,
            &[0, 4, 0, 0, (round % 2).to_be_bytes()[3], 0],
        ),
    })
    .await;
}

#[tokio::test]
async fn goodbyes_that_are_said_again_and_again_end_their_connection() {
    flooded("GOAWAY", Known::BySomebody, |_| {
        frames(100, GOAWAY, 0, 0, &[0; 8])
    })
    .await;
}

#[tokio::test]
async fn streams_that_are_reset_before_they_are_looked_at_end_their_connection() {
    for head in [passing("GET"), paying("one")] {
        let head = &head;
        flooded("rapid reset", Known::BySomebody, |round| {
            requests(round, END_STREAM, head, |bytes, stream| {
                push_frame(bytes, RST_STREAM, 0, stream, &CANCEL);
            })
        })
        .await;
    }
}

#[tokio::test]
async fn streams_that_the_gateway_is_made_to_reset_end_their_connection() {
    let head = passing("GET");
    let head = &head;
    let ways: [(&str, u8, &[u8]); 4] = [
        ("a window wider by nothing", WINDOW_UPDATE, &[0; 4]),
        ("a window too wide", WINDOW_UPDATE, &[0x7f, 255, 255, 255]),
        ("DATA behind the end", DATA, b"x"),
        ("HEADERS behind the end", HEADERS, b"\x82"),
    ];
    for (what, kind, payload) in ways {
        flooded(what, Known::ByH2, |round| {
            requests(round, END_STREAM, head, |bytes, stream| {
                push_frame(bytes, kind, END_HEADERS, stream, payload);
            })
        })
        .await;
    }
    flooded("a stream that waits for itself", Known::ByH2, |round| {
        requests(round, END_STREAM, head, |bytes, stream| {
            let mut payload = stream.to_be_bytes().to_vec();
            payload.push(1);
            push_frame(bytes, PRIORITY, 0, stream, &payload);
        })
    })
    .await;
    flooded("more streams than may be", Known::ByH2, |round| {
        requests(round, 0, &passing("POST"), |_, _| {})
    })
    .await;
}

#[tokio::test]
async fn heads_that_never_end_or_grow_when_they_are_unpacked_end_their_connection() {
    let mut long = Vec::new();
    push_field(&mut long, b"x", &[b'a'; 16_000]);
    for piece in [&b""[..], b"\x82", &long] {
        flooded("CONTINUATION", Known::ByH2, |round| match round {
            0 => frames(1, HEADERS, 0, 1, &passing("GET")),
            _ => frames(10, CONTINUATION, 0, 1, piece),
        })
        .await;
    }
    // A field of 4 KB is put into the table, and then named ten thousand times, a byte each.
    let mut bomb = passing("GET");
    bomb.push(0x40);
    push_text(&mut bomb, b"bomb");
    push_text(&mut bomb, &[b'a'; 4000]);
    bomb.extend([0xbe; 10_000]);
    flooded("a bomb", Known::ByH2, |round| {
        requests(round, END_STREAM, &bomb, |_, _| {})
    })
    .await;
    let mut nameless = passing("GET");
    for _ in 0..4000 {
        push_field(&mut nameless, b"", b"");
    }
    flooded("fields without a name", Known::ByH2, |round| {
        requests(round, END_STREAM, &nameless, |_, _| {})
    })
    .await;
}

#[tokio::test]
async fn bodies_of_nothing_end_their_connection() {
    let mut padded = vec![200];
    padded.resize(201, 0);
    for (flags, payload) in [(0, &b""[..]), (PADDED, &padded)] {
        flooded("DATA", Known::ByH2, |round| match round {
            0 => frames(1, HEADERS, END_HEADERS, 1, &passing("POST")),
            _ => frames(100, DATA, flags, 1, payload),
        })
        .await;
    }
}

/// As gRPC's library for Go does for each message, and others do for each piece: the windows are widened, and the way is
/// measured.
#[tokio::test]
async fn a_client_that_widens_its_windows_after_each_small_event_hears_all_of_them() {
    const EVENTS: usize = 3000;
    const EVENT: &[u8] = b"data: 1\n\n";
    for profile in PROFILES {
        let upstream = ToyUpstream::start();
        let events = (0..EVENTS).fold(Act::event_stream(), |events, _| events.chunk(EVENT));
        upstream.next(events.last_chunk());
        let setup = Setup::payments(&upstream).rest_passes();
        let setup = setup.top(&format!("profile = \"{profile}\""));
        let gateway = setup.start().await;
        let mut socket = TcpStream::connect(gateway.address)
            .await
            .expect("it listens");
        let mut bytes = PREFACE.to_vec();
        push_frame(&mut bytes, SETTINGS, 0, 0, b"");
        push_frame(
            &mut bytes,
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &passing("GET"),
        );
        socket.write_all(&bytes).await.expect("the gateway reads");
        let heard = async {
            let (mut heard, mut head) = (0, [0; 9]);
            while heard < EVENTS * EVENT.len() {
                socket.read_exact(&mut head).await?;
                let mut payload = vec![0; payload_length(&head)];
                socket.read_exact(&mut payload).await?;
                if head[3] == DATA {
                    heard += payload.len();
                    let wider = [0, 0, 0, head[2]];
                    let mut bytes = frames(1, WINDOW_UPDATE, 0, 1, &wider);
                    push_frame(&mut bytes, WINDOW_UPDATE, 0, 0, &wider);
                    push_frame(&mut bytes, PING, 0, 0, b"how far?");
                    socket.write_all(&bytes).await?;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        let heard = within("the events", heard).await;
        assert!(heard.is_ok(), "{profile}: {heard:?}");
        assert_eq!(metric(&gateway, FLOODS, &[]).await, 0);
    }
}

/// As gRPC's libraries do: each message is a piece of its own, and many come at once.
#[tokio::test]
async fn a_client_that_sends_its_body_in_thousands_of_small_pieces_is_served() {
    const PIECES: usize = 4000;
    for (profile, piece) in PROFILES.into_iter().zip([&b"a"[..], b"fifteen bytes.\n"]) {
        let upstream = ToyUpstream::start();
        let setup = Setup::payments(&upstream).rest_passes();
        let setup = setup.top(&format!("profile = \"{profile}\""));
        let gateway = setup.start().await;
        let mut client = Attacker::begin(gateway.address).await;
        let mut bytes = frames(1, HEADERS, END_HEADERS, 1, &passing("POST"));
        bytes.extend(frames(PIECES - 1, DATA, 0, 1, piece));
        push_frame(&mut bytes, DATA, END_STREAM, 1, piece);
        assert!(
            client.send(&bytes).await && client.is_seen().await,
            "{profile}"
        );
        let request = within("the request", upstream.next_request()).await;
        assert_eq!(request.body, piece.repeat(PIECES), "{profile}");
    }
}

/// Streams that each of the attackers below begins.
const STREAMS: u32 = 100;

/// Begins as many streams as may be on each of several connections, each with these bytes behind its head, and says
/// nothing more.
async fn stalled(what: &str, settings: &[u8], head: &[u8], body: &[u8]) {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/x" => Act::respond(200, &[], vec![b'a'; 1_000_000]),
        _ => Act::respond(201, &[], ""),
    });
    let setup = Setup::payments(&upstream).rest_passes();
    let gateway = setup.limits("body_idle = \"3s\"").start().await;
    let bystander = Bystander::begin(&gateway).await;
    let before = gateway.usage().resident_kib * 1024;
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        let mut attacker = Attacker::begin_with(gateway.address, settings).await;
        // By then it has widened the connection's window.
        assert!(attacker.is_seen().await);
        let end = if body.is_empty() { END_STREAM } else { 0 };
        let mut bytes = Vec::new();
        for number in 0..STREAMS {
            let stream = stream(number);
            push_frame(&mut bytes, HEADERS, END_HEADERS | end, stream, head);
            if !body.is_empty() {
                push_frame(&mut bytes, DATA, 0, stream, body);
            }
        }
        assert!(attacker.send(&bytes).await && attacker.is_seen().await);
        attackers.push(attacker);
    }
    // Each is given up when its time is over.
    let given_up = u64::from(STREAMS) * ATTACKERS as u64;
    until("all streams to be given up", || async {
        let over = timeouts(&gateway, "body_idle").await;
        (over >= given_up).then_some(())
    })
    .await;
    let served = bystander.was_served().await;
    let most = gateway.most_resident_bytes().saturating_sub(before);
    println!("{what}: {most} bytes, {served} payments alongside");
    assert!(most < MOST_BYTES, "{what}: {most} bytes");
    drop(attackers);
    leaves_nothing(&gateway).await;
}

#[tokio::test]
async fn bodies_that_stall_on_every_stream_hold_no_more_than_the_windows_and_are_given_up() {
    // As much as the window of a connection takes.
    let piece = [b'a'; 10_000];
    let mut head = paying("stalled");
    push_field(&mut head, b"content-length", b"20000");
    stalled("bodies", b"", &head, &piece).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_on_any_stream_hold_little_and_are_given_up() {
    // SETTINGS_INITIAL_WINDOW_SIZE.
    for window in [0, 1] {
        let settings = [0, 4, 0, 0, 0, window];
        stalled("answers", &settings, &passing("GET"), b"").await;
    }
}

/// Whoever waits until a request is on its way before giving it up is not seen by h2: all its streams are in order.
#[tokio::test]
async fn requests_that_are_all_given_up_end_their_connection_and_leave_no_key_claimed() {
    let upstream = ToyUpstream::start();
    upstream.always(|_| Act::respond(201, &[], ""));
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let bystander = Bystander::begin(&gateway).await;
    let mut attacker = Attacker::begin(gateway.address).await;
    let mut begun = 0;
    loop {
        let mut bytes = Vec::new();
        // No more than h2 bears of those that it has not handed over.
        for number in begun..begun + 10 {
            let head = paying(&format!("given-up-{number}"));
            let stream = stream(number);
            push_frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, stream, &head);
        }
        if !attacker.send(&bytes).await || !attacker.is_seen().await {
            break;
        }
        let resets = (begun..begun + 10)
            .flat_map(|number| frames(1, RST_STREAM, 0, stream(number), &CANCEL));
        begun += 10;
        assert!(begun < 20_000, "it goes on for ever");
        if !attacker.send(&resets.collect::<Vec<_>>()).await {
            break;
        }
    }
    bystander.was_served().await;
    println!("{begun} payments were given up");
    assert!(begun >= 200, "{begun}");
    settles(&gateway, FLOODS, &[], 1).await;
    leaves_nothing(&gateway).await;
    // What was sent is recorded, and what was not is free.
    let mut connection = gateway.connect().await;
    for number in (0..begun).step_by(7) {
        let key = format!("given-up-{number}");
        let answer = connection.send(&paid_again(&key)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(upstream.charges_by_key()[&key], 1);
    }
}

/// A payment that was claimed goes on without its client, and so beyond the streams that a client may have.
#[tokio::test]
async fn payments_that_are_given_up_take_no_more_of_an_upstream_than_it_has_to_give() {
    const IN_FLIGHT: usize = 8;
    const PAYMENTS: u32 = 60;
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    upstream.always({
        let gate = gate.clone();
        move |_| Act::respond(201, &[], "").after(&gate)
    });
    let setup = Setup::payments(&upstream).upstream(&format!("max_in_flight = {IN_FLIGHT}"));
    let gateway = setup.start().await;
    let mut attacker = Attacker::begin(gateway.address).await;
    for number in 0..PAYMENTS {
        let head = paying(&format!("kept-{number}"));
        let begun = frames(1, HEADERS, END_HEADERS | END_STREAM, stream(number), &head);
        assert!(attacker.send(&begun).await && attacker.is_seen().await);
        let given_up = frames(1, RST_STREAM, 0, stream(number), &CANCEL);
        assert!(attacker.send(&given_up).await && attacker.is_seen().await);
    }
    until("as many to be on their way as may", || async {
        (upstream.charges() == IN_FLIGHT).then_some(())
    })
    .await;
    settles(&gateway, "oncegate_claims_held", &[], IN_FLIGHT as u64).await;
    gate.open();
    settles(&gateway, "oncegate_claims_held", &[], 0).await;
    assert_eq!(upstream.charges(), IN_FLIGHT);
    let mut replayed = 0;
    for number in 0..PAYMENTS {
        let answer = gateway.send(&paid_again(&format!("kept-{number}"))).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        replayed += usize::from(answer.idempotency_status() == "replayed");
    }
    assert_eq!(replayed, IN_FLIGHT);
    assert!(upstream.charges_by_key().values().all(|count| *count == 1));
}
