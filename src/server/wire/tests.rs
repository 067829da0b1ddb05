//! The wire by itself: bytes in, in any pieces, and what hyper would read.

use std::pin::pin;
use std::task::Waker;

use proptest::prelude::*;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What hyper reads where the client's bytes come in these pieces, and how it ends.
struct Read {
    bytes: Vec<u8>,
    is_broken: bool,
    findings: Arc<Findings>,
}

fn read(pieces: &[&[u8]]) -> Read {
    let mut pieces = pieces.iter().copied();
    let findings = Arc::<Findings>::default();
    let first = Bytes::copy_from_slice(pieces.next().unwrap_or_default());
    let mut wire = Wire::new(first, Arc::clone(&findings));
    let mut bytes = Vec::new();
    let is_broken = read_on(&mut wire, pieces, &mut bytes);
    Read {
        bytes,
        is_broken,
        findings,
    }
}

/// Reads until the wire has nothing more to give; true where it has failed.
fn read_on<'a>(
    wire: &mut Wire,
    mut pieces: impl Iterator<Item = &'a [u8]>,
    read: &mut Vec<u8>,
) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    loop {
        let mut room = [0; 64];
        let mut buf = ReadBuf::new(&mut room);
        let mut left: &[u8] = &[];
        let polled = wire.poll_read(cx, &mut buf, |_, buf| {
            if left.is_empty() {
                let Some(piece) = pieces.find(|piece| !piece.is_empty()) else {
                    return Poll::Pending;
                };
                left = piece;
            }
            assert!(left.len() <= buf.remaining(), "pieces fit");
            buf.put_slice(std::mem::take(&mut left));
            Poll::Ready(Ok(()))
        });
        match polled {
            Poll::Ready(Ok(())) => read.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => return true,
            Poll::Pending => return false,
        }
    }
}

fn read_at_once(bytes: &str) -> Read {
    read(&[bytes.as_bytes()])
}

#[test]
fn good_messages_pass_byte_for_byte() {
    for message in [
        GET.to_owned(),
        format!("\r\n{GET}"),
        format!("{GET}{GET}\r\n{GET}"),
        format!("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello{GET}"),
        format!("{CHUNKED}5\r\nhello\r\n00a;x;y=\"z\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n{GET}"),
        format!("{CHUNKED}0\r\n\r\n{GET}"),
    ] {
        let whole = read_at_once(&message);
        assert_eq!(whole.bytes, message.as_bytes(), "{message}");
        let bytes: Vec<&[u8]> = message.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes).bytes, message.as_bytes(), "{message}");
    }
}

#[test]
fn a_head_is_held_back_until_it_is_whole() {
    for end in 0..GET.len() {
        let begun = read_at_once(&format!("{GET}{}", &GET[..end]));
        assert_eq!(begun.bytes, GET.as_bytes(), "{end}");
    }
}

#[test]
fn in_the_place_of_a_bad_head_there_is_the_stand_in_and_nothing_more() {
    let read = read_at_once(&format!("{GET}GET / HTTP/1.1\nHost: a\r\n\r\n{GET}"));
    assert_eq!(read.bytes, [GET.as_bytes(), STAND_IN].concat());
    assert!(!read.is_broken);
    assert_eq!(read.findings.call(), (1, None));
    assert_eq!(read.findings.call(), (2, Some(Fault::LineEnding)));
    assert_eq!(read.findings.body_fault(), None);
}

#[test]
fn a_bad_head_is_known_for_a_head_request_by_its_first_word() {
    let lines = "a: b\r\n".repeat(MAX_LINES + 1);
    for (begin, stand_in) in [
        ("HEAD ", STAND_IN_FOR_HEAD),
        ("\r\nHEAD ", STAND_IN_FOR_HEAD),
        ("GET ", STAND_IN),
        ("HEADER ", STAND_IN),
        ("head ", STAND_IN),
    ] {
        for rest in [
            "/ HTTP/1.1\r\nhost a\r\n\r\n",
            "/ HTTP/1.1\n",
            "/ HTTP/3\r\n",
            "/a b HTTP/1.1\r\n",
            &format!("/ HTTP/1.1\r\n{lines}"),
            &format!("/{}", "a".repeat(MAX_BEHIND)),
        ] {
            let bad = format!("{begin}{rest}");
            assert_eq!(read_at_once(&bad).bytes, stand_in, "{bad}");
            let pieces: Vec<&[u8]> = bad.as_bytes().chunks(63).collect();
            assert_eq!(read(&pieces).bytes, stand_in, "{bad}");
        }
    }
}

#[test]
fn a_body_breaks_where_it_goes_wrong_and_is_never_whole() {
    let good = format!("{GET}{CHUNKED}5\r\nhello\r\n");
    for (bad, fault) in [
        ("+5\r\n", Fault::ChunkSize),
        ("5 \r\n", Fault::ChunkSize),
        ("\r\n", Fault::ChunkSize),
        ("0000000000000005\r\n", Fault::ChunkSize),
        ("5\n", Fault::ChunkSize),
        ("5\r\r\n", Fault::LineEnding),
        ("5; a\r\n", Fault::ChunkExtension),
        ("5;\r\n", Fault::ChunkExtension),
        ("5;a\n", Fault::ChunkExtension),
        ("5\r\nhello world", Fault::ChunkEnd),
        ("5\r\nhello\n", Fault::ChunkEnd),
        ("0\r\nX: 1\n\r\n", Fault::LineEnding),
        ("0\r\n X: 1\r\n\r\n", Fault::FoldedLine),
        ("0\r\nContent-Length: 1\r\n\r\n", Fault::TrailerName),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", Fault::FieldName),
    ] {
        let read = read_at_once(&format!("{good}{bad}"));
        assert!(read.is_broken, "{bad}");
        assert_eq!(read.findings.body_fault(), Some(fault), "{bad}");
        assert!(read.bytes.starts_with(good.as_bytes()), "{bad}");
        assert!(!read.bytes.ends_with(b"\r\n\r\n"), "{bad}");
        assert_eq!(read.findings.call().1, None);
        assert_eq!(read.findings.call().1, None);
    }
}

#[test]
fn what_is_too_large_is_refused_before_its_end() {
    let refused = |bytes: &str| read_at_once(bytes).findings.call().1;
    let large = format!("GET / HTTP/1.1\r\na: {}", "a".repeat(MAX_BEHIND));
    assert_eq!(refused(&large), Some(Fault::HeadSize));
    assert_eq!(refused(&large[..MAX_BEHIND]), None);
    let lines = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(refused(&lines(100)), None);
    assert_eq!(refused(&lines(101)), Some(Fault::HeadLines));
    let trailers = format!("{CHUNKED}0\r\na: {}", "a".repeat(8 * 1024));
    let fault = read_at_once(&trailers).findings.body_fault();
    assert_eq!(fault, Some(Fault::TrailersSize));
}

#[test]
fn another_protocol_is_refused_at_its_first_byte() {
    for bytes in ["\x16\x03\x01", " GET", "\0", "\r\n\r\nGET", "(x"] {
        let fault = read_at_once(bytes).findings.call().1;
        assert_eq!(fault, Some(Fault::Method), "{bytes:?}");
    }
}

#[test]
fn what_follows_a_request_for_another_protocol_waits_for_its_answer() {
    let ask = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for is_tunnel in [true, false] {
        let findings = Arc::<Findings>::default();
        let first = format!("{ask}{GET}");
        let mut wire = Wire::new(first.into(), Arc::clone(&findings));
        let (mut bytes, no_more) = (Vec::new(), std::iter::empty);
        assert!(!read_on(&mut wire, no_more(), &mut bytes));
        assert_eq!(bytes, ask.as_bytes());
        let (number, _) = findings.call();
        findings.answered(number, is_tunnel);
        let frames: [&[u8]; 2] = [b"\x81\x05hello", b"\n\n"];
        read_on(&mut wire, frames.into_iter(), &mut bytes);
        let expected = match is_tunnel {
            true => [ask.as_bytes(), GET.as_bytes(), &frames.concat()].concat(),
            false => [ask.as_bytes(), GET.as_bytes(), STAND_IN].concat(),
        };
        assert_eq!(bytes, expected);
    }
}

#[test]
fn a_request_for_another_protocol_that_is_answered_early_is_read_to_its_end() {
    let head = "POST / HTTP/1.1\r\nUpgrade: websocket\r\nContent-Length: 200\r\n\r\n";
    let ask = format!("{head}{}", "a".repeat(200));
    let findings = Arc::<Findings>::default();
    let mut wire = Wire::new(ask.clone().into(), Arc::clone(&findings));
    let mut room = [0; 64];
    let mut begun = ReadBuf::new(&mut room);
    let cx = &mut Context::from_waker(Waker::noop());
    let polled = wire.poll_read(cx, &mut begun, |_, _| Poll::Pending);
    assert!(polled.is_ready());
    let (number, _) = findings.call();
    findings.answered(number, false);
    let mut bytes = begun.filled().to_vec();
    read_on(&mut wire, [GET.as_bytes()].into_iter(), &mut bytes);
    assert_eq!(bytes, [ask.as_bytes(), GET.as_bytes()].concat());
}

#[test]
fn the_answer_wakes_up_who_waits_for_it() {
    let findings = Arc::<Findings>::default();
    let ask = Bytes::from_static(b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n");
    let mut wire = Wire::new(ask, Arc::clone(&findings));
    read_on(&mut wire, std::iter::empty(), &mut Vec::new());
    let woken = pin!(std::future::poll_fn(|cx| match findings.poll_told(cx) {
        Told::Nothing => Poll::Pending,
        _ => Poll::Ready(()),
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let answer = async {
        tokio::task::yield_now().await;
        findings.answered(1, true);
    };
    runtime.block_on(futures_util::future::join(woken, answer));
}

proptest! {
    /// However the bytes are cut into pieces, hyper reads the same.
    #[test]
    fn pieces_do_not_matter(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "POST / HTTP/1.0\r\n", "Host: a\r\n", "Content-Length: 3\r\n",
                "Transfer-Encoding: chunked\r\n", "\r\n", "\n", "\r", "3\r\n", "abc", "0\r\n", "3;x\r\n", "X: y\r\n", " ", ":",
            ]),
            0..12,
        ),
        cuts in proptest::collection::vec(1usize..48, 1..40),
    ) {
        let message = parts.concat();
        let mut pieces = Vec::new();
        let mut rest = message.as_bytes();
        for cut in cuts.iter().cycle() {
            let (piece, later) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let (whole, cut) = (read_at_once(&message), read(&pieces));
        prop_assert_eq!(whole.bytes, cut.bytes);
        prop_assert_eq!(whole.is_broken, cut.is_broken);
        prop_assert_eq!(whole.findings.body_fault(), cut.findings.body_fault());
    }
}
