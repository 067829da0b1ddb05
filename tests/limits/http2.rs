//! What HTTP/2 lets a client send without end at next to no cost of its own: none of it makes the gateway hold more, or
//! harms anybody else.
//!
//! The frames are written byte for byte (RFC 9113, section 4.1; header blocks by RFC 7541), since no client library sends
//! such things.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bystander::Bystander;
use crate::settles;
use crate::support::{Gateway, Setup, ToyUpstream};

/// Connections that attack, one after the other.
const CONNECTIONS: u32 = 4;

/// Frames on each of them; the gateway may have had enough before.
const FRAMES: u32 = 20_000;

/// How long a connection is written to whose other end takes nothing more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the gateway may take more at its peak: the bystander's exchanges, and pages of its program that were not used yet.
const ROOM_KIB: u64 = 16 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[tokio::test]
async fn streams_that_are_begun_and_reset_without_end_harm_nobody() {
    let cancelled = 8_u32.to_be_bytes();
    harms_nobody(|number, out| {
        frame(
            out,
            HEADERS,
            END_STREAM | END_HEADERS,
            stream(number),
            &get(),
        );
        frame(out, RST_STREAM, 0, stream(number), &cancelled);
    })
    .await;
}

#[tokio::test]
async fn a_head_that_goes_on_without_end_harms_nobody() {
    let more = literal("x-more", &"a".repeat(100));
    for piece in [&more[..], &[]] {
        harms_nobody(|number, out| match number {
            0 => frame(out, HEADERS, END_STREAM, 1, &get()),
            _ => frame(out, CONTINUATION, 0, 1, piece),
        })
        .await;
    }
}

/// A name and a value of 4,000 bytes go into the table (RFC 7541, section 6.2.1), and then 4,000 times into each head.
#[tokio::test]
async fn heads_that_are_small_on_the_wire_and_large_in_memory_harm_nobody() {
    let long = [&b"\x40\x01x\x7f\xa1\x1e"[..], &[b'a'; 4000]].concat();
    harms_nobody(|number, out| {
        let lines = match number {
            0 => long.clone(),
            _ => vec![0xbe; 4000],
        };
        let block = [get(), lines].concat();
        frame(
            out,
            HEADERS,
            END_STREAM | END_HEADERS,
            stream(number),
            &block,
        );
    })
    .await;
}

#[tokio::test]
async fn frames_that_ask_for_answers_and_nobody_reads_them_harm_nobody() {
    let (ping, setting) = ([7; 8], [0, 3, 0, 0, 0, 100]);
    harms_nobody(|number, out| match number % 2 {
        0 => frame(out, PING, 0, 0, &ping),
        _ => frame(out, SETTINGS, 0, 0, &setting),
    })
    .await;
}

#[tokio::test]
async fn frames_that_say_nothing_harm_nobody() {
    let post = [&b"\x83\x86"[..], &target()].concat();
    harms_nobody(|number, out| match number {
        0 => frame(out, HEADERS, END_HEADERS, 1, &post),
        number if number % 3 == 0 => frame(out, DATA, 0, 1, &[]),
        number if number % 3 == 1 => frame(out, PRIORITY, 0, stream(number % 100), &[0; 5]),
        _ => frame(out, WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
    })
    .await;
}

/// Sends such frames on some connections, beside a client that does nothing wrong, and sees that nothing is left of them.
async fn harms_nobody(next: impl Fn(u32, &mut Vec<u8>)) {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let bystander = Bystander::begin(&gateway).await;
    let before = gateway.most_resident_bytes();
    let mut attackers = Vec::new();
    for _ in 0..CONNECTIONS {
        attackers.push(attack(&gateway, &next).await);
    }
    let served = bystander.was_served().await;
    drop(attackers);
    // Whatever was on its way has been read by then.
    for gauge in ["oncegate_connections", "oncegate_upstream_in_flight"] {
        settles(&gateway, gauge, &[], 0).await;
    }
    let grown_kib = (gateway.most_resident_bytes() - before) / 1024;
    println!("{served} payments alongside, {grown_kib} KiB more at the peak");
    assert!(grown_kib <= ROOM_KIB, "{grown_kib} KiB");
}

/// Writes all frames, or as many as are taken, and reads nothing. Returns what keeps the connection open.
async fn attack(gateway: &Gateway, next: &impl Fn(u32, &mut Vec<u8>)) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.expect("one");
    let mut out = PREFACE.to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    for number in 0..FRAMES {
        next(number, &mut out);
        if out.len() > 32 * 1024 || number + 1 == FRAMES {
            let written = timeout(PATIENCE, stream.write_all(&out)).await;
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
            out.clear();
        }
    }
    stream
}

/// `number`-th stream of a client.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// `GET` over `http`.
fn get() -> Vec<u8> {
    [&b"\x82\x86"[..], &target()].concat()
}

fn target() -> Vec<u8> {
    [literal(":path", "/x"), literal(":authority", "a.example")].concat()
}

/// A line that goes into no table (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("a short text");
        [&[length][..], text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}
