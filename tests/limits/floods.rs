//! HTTP/2 floods: frames by hand, from several connections at a time, as fast as they are taken.
//!
//! Each is to end its own connections, take no more memory than a client of good will could, leave nothing behind, and
//! let the bystander be served. Both with the defaults and at the edge.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::attacker::{
    ATTACKERS, Attacker, CANCEL, FLOODS, MOST_BYTES, comes_to_rest, frames, passing, paying, stream,
};
use crate::bystander::Bystander;
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, payload_length, push_field, push_frame,
    push_text,
};
use crate::support::{Act, Setup, ToyUpstream, within};
use crate::{metric, settles};

/// Rounds of a flood, far more than are borne.
const ROUNDS: u32 = 5000;

const PROFILES: [&str; 2] = ["sidecar", "edge"];

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
        comes_to_rest(&gateway).await;
        assert!(!gateway.log().text().contains("\"target\":\"h2"), "{what}");
    }
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

/// The answers stay with the connection that nobody reads, and end with it.
#[tokio::test]
async fn frames_whose_answers_nobody_reads_are_borne_no_longer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let bystander = Bystander::begin(&gateway).await;
    let before = gateway.usage().resident_kib * 1024;
    let ping_and_setting = [
        frames(50, PING, 0, 0, b"12345678"),
        frames(50, SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
    ]
    .concat();
    let mut deaf = Vec::new();
    for _ in 0..ATTACKERS {
        let mut socket = TcpStream::connect(gateway.address)
            .await
            .expect("a connection");
        let mut bytes = PREFACE.to_vec();
        push_frame(&mut bytes, SETTINGS, 0, 0, b"");
        let mut rounds = 0;
        let sending = async {
            while rounds < ROUNDS && socket.write_all(&bytes).await.is_ok() {
                bytes.clone_from(&ping_and_setting);
                rounds += 1;
            }
        };
        within("the flood to be ended", sending).await;
        assert!(rounds < ROUNDS);
        deaf.push(socket);
    }
    settles(&gateway, FLOODS, &[], ATTACKERS as u64).await;
    bystander.was_served().await;
    let most = gateway.most_resident_bytes().saturating_sub(before);
    assert!(most < MOST_BYTES, "{most} bytes");
    comes_to_rest(&gateway).await;
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
