//! Upstreams that say nothing: who is asked by a PING, and given up.

use super::super::http2::Liveness;
use super::*;

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
