//! The part of the corpus that is HTTP/2: lists of fields that no well-made client would send, in frames by hand.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::hold::{Report, gateway, is_freshly_framed, is_problem, recorder};
use crate::read::{Message, Outcome, corpus};
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PREFACE, RST_STREAM, SETTINGS,
    payload_length, push_field, push_frame,
};
use crate::support::{Answer, Gateway, Headers, PATIENCE};

#[tokio::test]
async fn every_field_list_is_forwarded_as_it_says_or_refused_by_its_rule() {
    let upstream = recorder();
    let gateway = gateway(&upstream.url()).await;
    let messages = corpus("http2");
    let mut report = Report::default();
    for message in &messages {
        if let Err(fault) = sent(&gateway, message, &mut report).await {
            report.faults.push(format!("{}: {fault}", message.place));
        }
    }
    println!(
        "{} messages, {} understood",
        messages.len(),
        report.understood
    );
    assert!(report.faults.is_empty(), "{}", report.faults.join("\n"));
    for request in upstream.requests() {
        is_freshly_framed(&request);
    }
    assert_eq!(upstream.charges() as u64, report.understood);
}

async fn sent(gateway: &Gateway, message: &Message, report: &mut Report) -> Result<(), String> {
    let answered = timeout(PATIENCE, exchanged(gateway, &message.bytes)).await;
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer".to_owned()),
    };
    match (&message.outcomes[0], answer) {
        (Outcome::Reset, None) => Ok(()),
        (Outcome::Forwarded(expected), Some(answer)) => {
            report.forwarded(&answer, expected, message)
        }
        (Outcome::Refused(sentence) | Outcome::Broken(sentence), Some(answer)) => {
            is_problem(&answer, 400, "bad-request", Some(sentence))
        }
        (Outcome::Answered(status, slug), Some(answer)) => {
            is_problem(&answer, *status, slug.as_deref().unwrap_or_default(), None)
        }
        (outcome, answer) => Err(format!("expected {outcome:?}: {answer:?}")),
    }
}

/// Sends the fields as one request; `None` where its stream is reset or the connection ends.
async fn exchanged(gateway: &Gateway, fields: &[u8]) -> io::Result<Option<Answer>> {
    let mut socket = TcpStream::connect(gateway.address).await?;
    let (mut block, mut body, mut trailers) = (Vec::new(), &b""[..], Vec::new());
    for field in fields.split(|byte| *byte == 0x1e) {
        if let Some(text) = field.strip_prefix(b"> ") {
            body = text;
        } else if let Some(field) = field.strip_prefix(b"< ") {
            push(&mut trailers, field);
        } else if !field.is_empty() {
            push(&mut block, field);
        }
    }
    let end = if body.is_empty() { END_STREAM } else { 0 };
    let mut bytes = PREFACE.to_vec();
    push_frame(&mut bytes, SETTINGS, 0, 0, b"");
    push_frame(&mut bytes, HEADERS, END_HEADERS | end, 1, &block);
    if !body.is_empty() {
        let end = if trailers.is_empty() { END_STREAM } else { 0 };
        push_frame(&mut bytes, DATA, end, 1, body);
    }
    if !trailers.is_empty() {
        push_frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, 1, &trailers);
    }
    socket.write_all(&bytes).await?;
    answer(&mut socket).await
}

/// A field as it is written down: a name, a colon and a space, a value.
fn push(block: &mut Vec<u8>, field: &[u8]) {
    let colon = field[1..].windows(2).position(|pair| pair == b": ");
    let (name, value) = field.split_at(colon.expect("a name and a value") + 1);
    push_field(block, name, &value[2..]);
}

async fn answer(socket: &mut TcpStream) -> io::Result<Option<Answer>> {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let mut head = [0; 9];
        match socket.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let mut payload = vec![0; payload_length(&head)];
        socket.read_exact(&mut payload).await?;
        let (kind, flags) = (head[3], head[4]);
        assert_eq!(flags & PADDED, 0, "nobody pads");
        match kind {
            HEADERS => status = status_of(&payload),
            DATA => body.extend(&payload),
            RST_STREAM | GOAWAY => return Ok(None),
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            let is_problem = body
                .windows(21)
                .any(|text| text == b"urn:oncegate:problem:");
            let media = if is_problem {
                "application/problem+json"
            } else {
                "application/json"
            };
            return Ok(Some(Answer {
                status,
                headers: Headers(vec![("Content-Type".to_owned(), media.to_owned())]),
                body,
                trailers: Default::default(),
                complete: true,
            }));
        }
    }
}

/// From the first field of a block; only those of HPACK's static table (RFC 7541, appendix A).
fn status_of(block: &[u8]) -> u16 {
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    match first {
        Some(0x88) => 200,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
