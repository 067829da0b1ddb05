//! What was not sent is tried elsewhere, what was sent is not: refusals, goodbyes, resets, gates.

use super::*;

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
    for interim in [vec![STATUS_101], vec![STATUS_103; 101]] {
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
