//! HTTP/2: what requests share, and where the line between sent and not sent is there. The upstream is a few frames by
//! hand, where its manners are what matters, and hyper's server where bodies are.

use http::header::{CONNECTION, TE};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http2::Liveness;
use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: &[u8] = &[0x88];

/// The other end of a connection, frame by frame.
struct Peer {
    socket: TcpStream,
    answers_pings: bool,
    pings: u32,
}

struct Frame2 {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Peer {
    /// Accepts a connection; `settings` are the payload of the first frame.
    async fn accept(origin: &Origin, settings: &[u8]) -> Self {
        let mut peer = Self {
            socket: origin.accept().await,
            answers_pings: true,
            pings: 0,
        };
        let mut preface = [0; 24];
        peer.socket.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        peer.write(SETTINGS, 0, 0, settings).await;
        peer
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).await.unwrap();
    }

    /// The next frame that is about a stream, or the end.
    async fn next(&mut self) -> Option<Frame2> {
        loop {
            let mut head = [0; 9];
            let reading = timeout(FOREVER, self.socket.read_exact(&mut head)).await;
            reading.expect("a frame, or the end").ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.socket.read_exact(&mut payload).await.ok()?;
            let frame = Frame2 {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => {
                    self.pings += 1;
                    if self.answers_pings {
                        self.write(PING, ACK, 0, &frame.payload).await;
                    }
                }
                SETTINGS | PING | WINDOW_UPDATE | GOAWAY => {}
                _ => return Some(frame),
            }
        }
    }

    /// Reads a request, with its body, and says on which stream it is.
    async fn request(&mut self) -> u32 {
        let mut stream = None;
        loop {
            let frame = self.next().await.expect("a request");
            let opened = *stream.get_or_insert(frame.stream);
            assert_eq!(frame.stream, opened, "two requests at once");
            assert_eq!(
                frame.kind,
                if stream.is_none() {
                    HEADERS
                } else {
                    frame.kind
                }
            );
            if frame.flags & END_STREAM != 0 {
                return opened;
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
        self.write(DATA, END_STREAM, stream, b"ok").await;
    }

    async fn reset(&mut self, stream: u32, reason: u32) {
        self.write(RST_STREAM, 0, stream, &reason.to_be_bytes())
            .await;
    }

    /// No stream above `last` was or will be processed.
    async fn say_goodbye(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), [0; 4]].concat();
        self.write(GOAWAY, 0, 0, &payload).await;
    }

    /// The reset of this stream comes next.
    async fn is_reset(&mut self, stream: u32) -> u32 {
        loop {
            let frame = self.next().await.expect("a reset");
            if frame.kind == RST_STREAM && frame.stream == stream {
                return u32::from_be_bytes(frame.payload.try_into().unwrap());
            }
        }
    }
}

/// SETTINGS_MAX_CONCURRENT_STREAMS.
fn max_streams(count: u32) -> Vec<u8> {
    [&[0, 3][..], &count.to_be_bytes()].concat()
}

fn shared(origins: &[&Origin]) -> Arc<Upstream> {
    let endpoints = origins.iter().map(|origin| origin.endpoint()).collect();
    with(config(endpoints))
}

fn with(mut config: UpstreamConfig) -> Arc<Upstream> {
    config.protocol = UpstreamProtocol::Http2;
    config.max_in_flight = 64;
    Upstream::new(&config)
}

async fn status(upstream: &Arc<Upstream>) -> Result<u16, SendError> {
    let response = send(upstream).await?;
    let status = response.status().as_u16();
    read_all(response).await.unwrap();
    Ok(status)
}

#[tokio::test]
async fn requests_share_a_connection_and_are_answered_in_any_order() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let three = async { tokio::join!(status(&upstream), status(&upstream), status(&upstream)) };
    let (answers, mut peer) = tokio::join!(three, async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let mut streams = Vec::new();
        while streams.len() < 3 {
            streams.push(peer.request().await);
        }
        assert_eq!(upstream.stats().in_flight, 3);
        assert_eq!((upstream.stats().open, upstream.stats().idle), (1, 0));
        for stream in streams.into_iter().rev() {
            peer.answer(stream).await;
        }
        peer
    });
    assert_eq!(answers, (Ok(200), Ok(200), Ok(200)));
    assert_eq!((upstream.stats().connects, upstream.stats().idle), (1, 1));
    assert_eq!(upstream.stats().in_flight, 0);
    let (answer, ()) = tokio::join!(status(&upstream), async {
        let stream = peer.request().await;
        peer.answer(stream).await;
    });
    assert_eq!((answer, upstream.stats().connects), (Ok(200), 1));
}

#[tokio::test]
async fn the_head_arrives_as_http_2_has_it() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let mut request = request(OutBody::Empty);
    for (name, value) in [
        (TE, "trailers"),
        (CONNECTION, "te, upgrade"),
        (UPGRADE, "a"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let gate = Gate::open();
    let (response, seen) = tokio::join!(upstream.send(request, &gate), async {
        let (socket, _) = origin.0.accept().await.unwrap();
        let mut server = h2::server::handshake(socket).await.unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        request.into_parts().0
    });
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(seen.uri, "http://payments.test/v1/payments?a=%2F");
    let headers: Vec<_> = seen.headers.iter().collect();
    assert_eq!(headers.len(), 2, "{headers:?}");
    assert_eq!(seen.headers[TE], "trailers");
    assert_eq!(seen.headers[CONTENT_LENGTH], "0");
}

/// All of them come at once, before there is a connection.
#[tokio::test]
async fn many_requests_at_once_make_one_connection() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let many = futures_util::future::join_all((0..20).map(|_| status(&upstream)));
    let (answers, _peer) = tokio::join!(many, async {
        let mut peer = Peer::accept(&origin, &[]).await;
        for _ in 0..20 {
            let stream = peer.request().await;
            peer.answer(stream).await;
        }
        peer
    });
    assert_eq!(answers, [Ok(200); 20]);
    assert_eq!(upstream.stats().connects, 1);
}

#[tokio::test]
async fn a_connection_that_fails_fails_all_that_wait_for_it() {
    let upstream = with(config(vec![nobody().await]));
    let many = futures_util::future::join_all((0..20).map(|_| status(&upstream)));
    assert_eq!(many.await, [Err(unsent(SendErrorKind::Connect)); 20]);
}

#[tokio::test]
async fn whoever_speaks_something_else_is_found_out_before_a_request_is_sent() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (result, read) = tokio::join!(status(&upstream), async {
        let mut socket = origin.accept().await;
        let bad = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
        socket.write_all(bad).await.unwrap();
        reads_to_end(&mut socket).await
    });
    assert_eq!(result, Err(unsent(SendErrorKind::Connect)));
    // After the preface come SETTINGS and WINDOW_UPDATE, and perhaps a goodbye.
    assert!(!read[24..].is_empty() && read[27] == SETTINGS);
    let heads = read
        .windows(2)
        .filter(|pair| pair == &[HEADERS, END_HEADERS]);
    assert_eq!(heads.count(), 0);
}

#[tokio::test]
async fn a_refused_stream_is_tried_elsewhere() {
    let (one, two) = (Origin::bind().await, Origin::bind().await);
    let upstream = shared(&[&one, &two]);
    let has_refused = AtomicBool::new(false);
    let serve = async |origin: &Origin| {
        let mut peer = Peer::accept(origin, &[]).await;
        let stream = peer.request().await;
        if has_refused.swap(true, Ordering::SeqCst) {
            peer.answer(stream).await;
        } else {
            peer.reset(stream, REFUSED_STREAM).await;
        }
        peer
    };
    let (answer, _one, _two) = tokio::join!(status(&upstream), serve(&one), serve(&two));
    assert_eq!(answer, Ok(200));
    assert_eq!(
        (upstream.stats().connects, upstream.stats().in_flight),
        (2, 0)
    );
}

#[tokio::test]
async fn a_stream_that_everybody_refuses_is_unsent_and_its_gate_can_be_closed() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let gate = Gate::open();
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let (result, _peer) = tokio::join!(upstream.send(request(body), &gate), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        assert!(gate.written());
        peer.reset(stream, REFUSED_STREAM).await;
        peer
    });
    assert_eq!(result.err(), Some(unsent(SendErrorKind::Refused)));
    assert!(gate.close());
    assert_eq!(upstream.stats().open, 1);
}

/// Its owner has lost the claim while the request was under way.
#[tokio::test]
async fn what_is_refused_after_its_gate_was_to_be_closed_goes_nowhere_else() {
    let (one, two) = (Origin::bind().await, Origin::bind().await);
    let upstream = shared(&[&one, &two]);
    let gate = Gate::open();
    let serve = async |origin: &Origin| {
        let mut peer = Peer::accept(origin, &[]).await;
        let stream = peer.request().await;
        assert!(!gate.close());
        peer.reset(stream, REFUSED_STREAM).await;
        std::future::pending::<()>().await;
    };
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let result = tokio::select! {
        result = upstream.send(request(body), &gate) => result,
        _ = serve(&one) => unreachable!(),
        _ = serve(&two) => unreachable!(),
    };
    assert_eq!(result.err(), Some(unsent(SendErrorKind::GateClosed)));
    assert_eq!(upstream.stats().connects, 1);
}

/// `:status: 103`, as a literal.
const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];
const STATUS_101: &[u8] = &[0x08, 3, b'1', b'0', b'1'];

/// Who has begun to answer has begun to process.
#[tokio::test]
async fn a_stream_that_is_refused_after_an_interim_response_is_sent() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let sending = timeout(FOREVER, status(&upstream));
    let (result, _peer) = tokio::join!(sending, async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.write(HEADERS, END_HEADERS, stream, STATUS_103).await;
        peer.reset(stream, REFUSED_STREAM).await;
        peer
    });
    let result = result.expect("it is not tried again");
    assert_eq!(result, Err(sent(SendErrorKind::ConnectionLost)));
}

#[tokio::test]
async fn interim_responses_on_a_stream_are_dropped_and_a_switch_of_protocols_is_no_response() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (answer, mut peer) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.write(HEADERS, END_HEADERS, stream, STATUS_103).await;
        peer.answer(stream).await;
        peer
    });
    assert_eq!(answer, Ok(200));
    for interim in [vec![STATUS_101], vec![STATUS_103; 65]] {
        let (result, ()) = tokio::join!(status(&upstream), async {
            let stream = peer.request().await;
            for head in interim {
                peer.write(HEADERS, END_HEADERS, stream, head).await;
            }
            assert_eq!(peer.is_reset(stream).await, CANCEL);
        });
        assert_eq!(result, Err(sent(SendErrorKind::BadResponse)));
    }
    assert_eq!(upstream.stats().open, 1);
}

#[tokio::test]
async fn a_goodbye_below_our_stream_sends_the_request_over_another_connection() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (answer, _peers) = tokio::join!(status(&upstream), async {
        let mut first = Peer::accept(&origin, &[]).await;
        first.request().await;
        first.say_goodbye(0).await;
        let mut second = Peer::accept(&origin, &[]).await;
        let stream = second.request().await;
        second.answer(stream).await;
        (first, second)
    });
    assert_eq!(answer, Ok(200));
    assert_eq!(upstream.stats().connects, 2);
}

#[tokio::test]
async fn a_goodbye_at_our_stream_lets_it_end_and_the_next_request_goes_by_another_connection() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (both, mut first) = tokio::join!(
        async { (status(&upstream).await, status(&upstream).await) },
        async {
            let mut first = Peer::accept(&origin, &[]).await;
            let stream = first.request().await;
            first.say_goodbye(stream).await;
            first.answer(stream).await;
            let mut second = Peer::accept(&origin, &[]).await;
            let stream = second.request().await;
            second.answer(stream).await;
            first
        }
    );
    assert_eq!(both, (Ok(200), Ok(200)));
    assert!(
        first.next().await.is_none(),
        "the first connection is left open"
    );
    assert_eq!(upstream.stats().connects, 2);
}

#[tokio::test]
async fn a_goodbye_at_our_stream_and_no_answer_is_sent() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (result, ()) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.say_goodbye(stream).await;
    });
    assert_eq!(result, Err(sent(SendErrorKind::ConnectionLost)));
    assert_eq!(upstream.stats().connects, 1);
}

#[tokio::test]
async fn a_stream_that_is_reset_after_its_head_is_sent_and_the_connection_goes_on() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (answer, mut peer) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    });
    assert_eq!(answer, Ok(200));
    for reason in [0, PROTOCOL_ERROR, CANCEL] {
        let (result, ()) = tokio::join!(status(&upstream), async {
            let stream = peer.request().await;
            peer.reset(stream, reason).await;
        });
        assert_eq!(result, Err(sent(SendErrorKind::ConnectionLost)));
    }
    assert_eq!((upstream.stats().connects, upstream.stats().open), (1, 1));
}

#[tokio::test]
async fn a_connection_that_breaks_loses_all_that_was_sent_on_it() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let both = async { tokio::join!(status(&upstream), status(&upstream)) };
    let (results, ()) = tokio::join!(both, async {
        let mut peer = Peer::accept(&origin, &[]).await;
        peer.request().await;
        peer.request().await;
        reset(peer.socket);
    });
    let lost = Err(sent(SendErrorKind::ConnectionLost));
    assert_eq!(results, (lost, lost));
    assert_eq!((upstream.stats().open, upstream.stats().in_flight), (0, 0));
}

/// Nothing of this runtime has had the chance to notice that the connection has ended.
#[tokio::test]
async fn a_connection_that_ended_while_idle_costs_a_request_nothing() {
    for leave in [drop::<TcpStream> as fn(TcpStream), reset] {
        let origin = Origin::bind().await;
        let upstream = shared(&[&origin]);
        let (answer, peer) = tokio::join!(status(&upstream), async {
            let mut peer = Peer::accept(&origin, &[]).await;
            let stream = peer.request().await;
            peer.answer(stream).await;
            peer
        });
        assert_eq!(answer, Ok(200));
        leave(peer.socket);
        let (answer, _peer) = tokio::join!(status(&upstream), async {
            let mut peer = Peer::accept(&origin, &[]).await;
            let stream = peer.request().await;
            peer.answer(stream).await;
            peer
        });
        assert_eq!((answer, upstream.stats().connects), (Ok(200), 2));
    }
}

#[tokio::test]
async fn more_requests_than_a_connection_has_streams_go_by_another_one() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let both = async { tokio::join!(status(&upstream), status(&upstream)) };
    let (answers, _peers) = tokio::join!(both, async {
        let mut peers = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::accept(&origin, &max_streams(1)).await;
            let stream = peer.request().await;
            peers.push((peer, stream));
        }
        for (peer, stream) in &mut peers {
            peer.answer(*stream).await;
        }
        peers
    });
    assert_eq!(answers, (Ok(200), Ok(200)));
    assert_eq!((upstream.stats().connects, upstream.stats().idle), (2, 2));
}

#[tokio::test]
async fn a_request_whose_gate_closes_while_it_waits_for_a_stream_is_not_sent() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let mut held = Vec::new();
    for _ in 0..http2::MAX_CONNECTIONS {
        let sending = tokio::spawn({
            let upstream = Arc::clone(&upstream);
            async move { status(&upstream).await }
        });
        let mut peer = Peer::accept(&origin, &max_streams(1)).await;
        let stream = peer.request().await;
        held.push((sending, peer, stream));
    }
    let gate = Gate::open();
    let sending = tokio::spawn({
        let (upstream, gate) = (Arc::clone(&upstream), Arc::clone(&gate));
        let body = OutBody::from(Bytes::from_static(b"{}"));
        async move { upstream.send(request(body), &gate).await.map(drop) }
    });
    while upstream.stats().in_flight == http2::MAX_CONNECTIONS {
        tokio::task::yield_now().await;
    }
    assert!(gate.close());
    let (first, mut peer, stream) = held.remove(0);
    peer.answer(stream).await;
    assert_eq!(first.await.unwrap(), Ok(200));
    let result = timeout(FOREVER, sending).await.unwrap().unwrap();
    assert_eq!(result, Err(unsent(SendErrorKind::GateClosed)));

    let (answer, ()) = tokio::join!(status(&upstream), async {
        let stream = peer.request().await;
        assert_eq!(stream, 3, "something else was sent before");
        peer.answer(stream).await;
    });
    assert_eq!(answer, Ok(200));
}

/// What the kernel has not taken is not sent, and nobody's request waits behind it.
#[tokio::test]
async fn a_connection_whose_socket_is_full_gets_no_further_request() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    // SETTINGS_INITIAL_WINDOW_SIZE, and then the connection's window: as much as there can be.
    let window = 0x7fff_ffff_u32.to_be_bytes();
    let settings = [&[0, 4][..], &window].concat();
    let upload = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        let body = OutBody::from(Bytes::from(vec![b'x'; 64 * 1024 * 1024]));
        async move { upstream.send(request(body), &Gate::open()).await.map(drop) }
    });
    let mut peer = Peer::accept(&origin, &settings).await;
    let rest = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    peer.write(WINDOW_UPDATE, 0, 0, &rest).await;
    // It reads no more. The socket is full once what the kernel has taken stays the same.
    let target = Arc::clone(&upstream.balance.targets()[0]);
    let clogging = async {
        while !target.shared.is_clogged() {
            tokio::task::yield_now().await;
        }
    };
    timeout(FOREVER, clogging).await.expect("a full socket");
    let (answer, _peer) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    });
    assert_eq!(answer, Ok(200));
    upload.abort();
    drop(peer);
}

#[tokio::test]
async fn a_dropped_send_resets_its_stream_and_leaves_the_connection() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let gate = Gate::open();
    let body = OutBody::from(Bytes::from_static(b"{}"));
    let (mut peer, stream) = tokio::select! {
        _ = upstream.send(request(body), &gate) => unreachable!("nobody answers"),
        seen = async {
            let mut peer = Peer::accept(&origin, &[]).await;
            let stream = peer.request().await;
            (peer, stream)
        } => seen,
    };
    assert!(!gate.close());
    assert_eq!(peer.is_reset(stream).await, CANCEL);
    assert_eq!((upstream.stats().open, upstream.stats().in_flight), (1, 0));
    let (answer, ()) = tokio::join!(status(&upstream), async {
        let stream = peer.request().await;
        peer.answer(stream).await;
    });
    assert_eq!((answer, upstream.stats().connects), (Ok(200), 1));
}

#[tokio::test]
async fn a_response_that_is_not_read_to_the_end_resets_its_stream() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let (response, (mut peer, stream)) = tokio::join!(send(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
        peer.write(DATA, 0, stream, b"begun").await;
        (peer, stream)
    });
    assert_eq!(upstream.stats().in_flight, 1);
    drop(response.unwrap());
    assert_eq!(peer.is_reset(stream).await, CANCEL);
    assert_eq!((upstream.stats().open, upstream.stats().in_flight), (1, 0));
}

#[tokio::test]
async fn a_response_that_breaks_off_or_is_not_as_long_as_it_said_fails_while_it_is_read() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    // `content-length: 5`: a literal with the name at 28.
    let five = [STATUS_200, &[0x0f, 13, 1, b'5']].concat();
    for (data, flags) in [(&b"ok"[..], END_STREAM), (b"longer", 0), (b"ok", 0)] {
        let (response, mut peer) = tokio::join!(send(&upstream), async {
            let mut peer = Peer::accept(&origin, &[]).await;
            let stream = peer.request().await;
            peer.write(HEADERS, END_HEADERS, stream, &five).await;
            peer.write(DATA, flags, stream, data).await;
            if data == b"ok" && flags == 0 {
                peer.reset(stream, 0).await;
            }
            peer
        });
        assert!(read_all(response.unwrap()).await.is_err(), "{data:?}");
        peer.say_goodbye(1).await;
        while upstream.stats().open > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(
        (upstream.stats().cut_off, upstream.stats().in_flight),
        (3, 0)
    );
}

#[tokio::test]
async fn a_head_that_is_no_response_is_a_bad_response() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let twice = [STATUS_200, &[0x0f, 13, 1, b'2', 0x0f, 13, 1, b'2']].concat();
    let connection = [STATUS_200, &[0x00, 10], b"connection", &[1, b'a']].concat();
    for bad in [&twice[..], &connection, &[]] {
        let (result, mut peer) = tokio::join!(status(&upstream), async {
            let mut peer = Peer::accept(&origin, &[]).await;
            let stream = peer.request().await;
            peer.write(HEADERS, END_HEADERS, stream, bad).await;
            peer.write(DATA, END_STREAM, stream, b"ok").await;
            peer
        });
        assert_eq!(result, Err(sent(SendErrorKind::BadResponse)), "{bad:?}");
        peer.say_goodbye(1).await;
        while upstream.stats().open > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn idle_connections_that_were_shared_are_closed_after_the_idle_timeout() {
    let origin = Origin::bind().await;
    let mut config = config(vec![origin.endpoint()]);
    config.idle_timeout = Duration::from_millis(50);
    let upstream = with(config);
    let (answer, mut peer) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    });
    assert_eq!((answer, upstream.stats().idle), (Ok(200), 1));
    assert!(peer.next().await.is_none());
    assert_eq!((upstream.stats().idle, upstream.stats().open), (0, 0));
}

fn impatient(origin: &Origin, doubt: Duration, give_up: Duration) -> Arc<Upstream> {
    let mut upstream = shared(&[origin]);
    let liveness = &mut Arc::get_mut(&mut upstream).unwrap().liveness;
    *liveness = Liveness {
        quiet: Duration::from_millis(20),
        doubt,
        give_up,
    };
    upstream
}

#[tokio::test]
async fn an_upstream_that_answers_no_ping_is_given_up() {
    let origin = Origin::bind().await;
    let moment = Duration::from_millis(20);
    let upstream = impatient(&origin, moment, moment);
    let (result, _peer) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        peer.answers_pings = false;
        peer.request().await;
        // A cut network: what is read here is answered by nobody.
        assert!(peer.next().await.is_none());
        assert_eq!(peer.pings, 1);
    });
    assert_eq!(result, Err(sent(SendErrorKind::ConnectionLost)));
}

#[tokio::test]
async fn requests_go_by_another_connection_while_a_ping_is_not_answered() {
    let origin = Origin::bind().await;
    let upstream = impatient(&origin, Duration::from_millis(20), FOREVER);
    let first = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move { status(&upstream).await }
    });
    let mut silent = Peer::accept(&origin, &[]).await;
    silent.answers_pings = false;
    let stream = silent.request().await;
    let target = Arc::clone(&upstream.balance.targets()[0]);
    let doubt = async {
        while !target.shared.is_doubtful() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(FOREVER, doubt).await.expect("doubt");
    let (answer, _other) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    });
    assert_eq!(answer, Ok(200));
    silent.answer(stream).await;
    assert_eq!(first.await.unwrap(), Ok(200));
}

/// As servers of gRPC demand it.
#[tokio::test]
async fn an_upstream_that_answers_pings_and_nothing_else_is_asked_thrice() {
    let origin = Origin::bind().await;
    let upstream = impatient(&origin, FOREVER, FOREVER);
    let (answer, peer) = tokio::join!(status(&upstream), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let stream = peer.request().await;
        let quiet = timeout(Duration::from_millis(400), peer.socket.readable());
        quiet.await.unwrap().unwrap();
        let listening = timeout(Duration::from_millis(400), peer.next()).await;
        assert!(listening.is_err());
        peer.answer(stream).await;
        peer
    });
    assert_eq!((answer, peer.pings), (Ok(200), 3));
}

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves connections of hyper's with what becomes of each body.
fn serve(origin: Origin, becomes: impl Fn(Incoming) -> Body + Clone + Send + 'static) {
    let answer = move |request: http::Request<Incoming>| {
        let body = becomes(request.into_body());
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    };
    tokio::spawn(async move {
        loop {
            let socket = TokioIo::new(origin.accept().await);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let answer = answer.clone();
            tokio::spawn(server.serve_connection(socket, service_fn(answer)));
        }
    });
}

#[tokio::test]
async fn bodies_stream_both_ways_with_their_trailers() {
    const PIECES: usize = 256;
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    // They are sent back.
    serve(origin, Incoming::boxed);
    let pieces = (0..PIECES).map(|_| Frame::data(Bytes::from(vec![b'x'; 16 * 1024])));
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert(TE, HeaderValue::from_static("gzip"));
    let frames = pieces.chain([Frame::trailers(trailers)]);
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let gate = Gate::open();
    let sending = upstream.send(request(OutBody::streaming(body)), &gate);
    let response = timeout(FOREVER, sending).await.unwrap().unwrap();
    let collecting = timeout(FOREVER, response.into_body().collect());
    let whole = collecting.await.unwrap().unwrap();
    let trailers = whole.trailers().expect("trailers").clone();
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"]),
        (1, &HeaderValue::from_static("0"))
    );
    assert_eq!(whole.to_bytes().len(), PIECES * 16 * 1024);
    assert_eq!((upstream.stats().in_flight, upstream.stats().idle), (0, 1));
}

/// The window of one response is full, and the others go on.
#[tokio::test]
async fn a_response_that_nobody_reads_holds_up_no_other_one() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    serve(origin, |_| {
        let large = Bytes::from(vec![b'x'; 1024 * 1024]);
        http_body_util::Full::new(large)
            .map_err(|never| match never {})
            .boxed()
    });
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(send(&upstream).await.unwrap());
    }
    let read = read_all(send(&upstream).await.unwrap());
    let read = timeout(FOREVER, read)
        .await
        .expect("the others do not hold it up");
    assert_eq!(read.unwrap().len(), 1024 * 1024);
    assert_eq!(upstream.stats().connects, 1);
}

#[tokio::test]
async fn a_streamed_body_that_is_not_as_long_as_announced_resets_its_stream() {
    for given in [None, Some(&b"four"[..])] {
        let origin = Origin::bind().await;
        let upstream = shared(&[&origin]);
        let gate = Gate::open();
        let sending = upstream.send(request(OutBody::streaming(Misjudged(given))), &gate);
        let (result, _peer) = tokio::join!(sending, async {
            let mut peer = Peer::accept(&origin, &[]).await;
            let head = peer.next().await.unwrap();
            assert_eq!(peer.is_reset(head.stream).await, CANCEL);
            peer
        });
        assert_eq!(result.err(), Some(sent(SendErrorKind::RequestBody)));
        assert_eq!(upstream.stats().open, 1);
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_streamed_body_is_an_answer() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    let body = OutBody::streaming(StreamBody::new(futures_util::StreamExt::chain(
        stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"a")))]),
        stream::pending(),
    )));
    let gate = Gate::open();
    let (response, (mut peer, stream)) = tokio::join!(upstream.send(request(body), &gate), async {
        let mut peer = Peer::accept(&origin, &[]).await;
        let head = peer.next().await.unwrap();
        assert_eq!(peer.next().await.unwrap().payload, b"a");
        peer.answer(head.stream).await;
        (peer, head.stream)
    });
    assert_eq!(read_all(response.unwrap()).await.unwrap(), "ok");
    assert_eq!(peer.is_reset(stream).await, CANCEL);
    assert_eq!((upstream.stats().open, upstream.stats().idle), (1, 1));
}
