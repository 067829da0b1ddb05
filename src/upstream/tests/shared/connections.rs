//! Which connection a request goes by, and when there is another one.

use http::header::{CONNECTION, CONTENT_LENGTH, TE, UPGRADE};

use super::*;

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
