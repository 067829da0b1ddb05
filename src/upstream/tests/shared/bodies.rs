//! Bodies on streams, and streams that end before them.

use http::header::TE;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

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

/// It uses up what hyper's server takes on a connection before somebody reads: 1 MiB.
#[tokio::test]
async fn a_streamed_body_that_nobody_reads_holds_up_no_body_that_is_at_hand() {
    let origin = Origin::bind().await;
    let upstream = shared(&[&origin]);
    // Sent back, it is read as fast as the answer is.
    serve(origin, Incoming::boxed);
    let taken = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&taken);
    let pieces = stream::repeat_with(move || {
        counts.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; 16 * 1024])))
    });
    let endless = OutBody::streaming(StreamBody::new(pieces));
    let gate = Gate::open();
    let unread = upstream.send(request(endless), &gate).await.unwrap();
    let mut before = 0;
    while before != taken.load(Ordering::Relaxed) {
        before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = timeout(FOREVER, status(&upstream)).await;
    assert_eq!(answer.expect("it is not held up"), Ok(200));
    assert_eq!(upstream.stats().connects, 2);
    drop(unread);
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
