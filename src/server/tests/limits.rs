//! How long a client may be silent, in every phase.

use futures_util::FutureExt;

use super::super::activity::{Activity, Judgement};
use super::super::rate::LeastRate;
use super::*;

#[tokio::test]
async fn a_connection_that_does_not_say_its_protocol_is_closed_after_first_byte() {
    let running = start(&Limits {
        first_byte: SHORT,
        ..limits()
    });
    for beginning in ["", "PRI * HTTP/2.0\r\n"] {
        let mut socket = running.connect().await;
        say(&mut socket, beginning).await;
        ends_silently(&mut socket, SHORT, FOREVER).await;
    }
}

#[tokio::test]
async fn a_head_that_stalls_is_closed_after_headers_on_the_first_request_and_on_later_ones() {
    let running = start(&Limits {
        headers: SHORT,
        ..limits()
    });
    let mut first = running.connect().await;
    say(&mut first, "GET / HTTP/1.1\r\nho").await;
    ends_silently(&mut first, SHORT, FOREVER).await;

    let mut later = running.connect().await;
    say(&mut later, get("/")).await;
    hear(&mut later, "ok").await;
    say(&mut later, "GET / HTTP/1.1\r\nho").await;
    ends_silently(&mut later, SHORT, FOREVER).await;
}

#[tokio::test]
async fn a_head_that_drips_is_closed_after_headers() {
    let running = start(&Limits {
        headers: SHORT,
        ..limits()
    });
    let mut socket = running.connect().await;
    say(&mut socket, "GET / HTTP/1.1\r\n").await;
    let start = Instant::now();
    while socket.write_all(b"a: b\r\n").await.is_ok() {
        assert!(start.elapsed() < FOREVER);
        sleep(SHORT / 10).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keep_alive_and_not_after_headers() {
    let running = start(&Limits {
        headers: SHORT,
        keep_alive: LONGER,
        ..limits()
    });
    let mut socket = running.connect().await;
    say(&mut socket, get("/")).await;
    hear(&mut socket, "ok").await;
    ends_silently(&mut socket, LONGER, FOREVER).await;
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go_after_keep_alive() {
    let running = start(&Limits {
        keep_alive: SHORT,
        ..limits()
    });
    let (mut http2, end) = http2(&running).await;
    ask(&mut http2, "/").await;
    let end = timeout(FOREVER, end).await.expect("the connection's end");
    end.unwrap().expect("an orderly end");
}

#[tokio::test]
async fn an_http2_connection_that_ignores_being_told_to_go_is_dropped() {
    let running = start(&Limits {
        keep_alive: SHORT,
        headers: SHORT,
        ..limits()
    });
    let mut socket = running.connect().await;
    say(&mut socket, PREFACE).await;
    say(&mut socket, b"\0\0\0\x04\0\0\0\0\0").await;
    hear_all(&mut socket).await;
}

#[tokio::test]
async fn an_http2_client_that_answers_no_ping_is_dropped_and_one_that_does_is_waited_for() {
    let mut limits = limits();
    limits.http2.ping_every = SHORT;
    limits.http2.ping_timeout = SHORT;
    let running = start(&limits);
    let dropped = running.token();
    let mut gone = running.connect().await;
    say(&mut gone, PREFACE).await;
    say(&mut gone, b"\0\0\0\x04\0\0\0\0\0").await;
    // GET /hold, whole: https, no authority (RFC 7541, appendix A, for the numbers).
    say(
        &mut gone,
        b"\0\0\x09\x01\x05\0\0\0\x01\x82\x87\x44\x05/hold",
    )
    .await;
    hear_all(&mut gone).await;
    dropped.await;

    let (mut http2, _end) = http2(&running).await;
    let answer = tokio::spawn(async move { ask(&mut http2, "/hold").await });
    sleep(SHORT * 5).await;
    running.paths.may_answer.notify_one();
    assert_eq!(answer.await.unwrap(), (StatusCode::OK, "held".into()));
}

#[tokio::test]
async fn a_running_exchange_is_not_idle() {
    let running = start(&Limits {
        headers: SHORT / 4,
        body_idle: SHORT / 4,
        keep_alive: SHORT / 2,
        ..limits()
    });
    let mut socket = running.connect().await;
    say(&mut socket, get("/hold")).await;
    running.paths.begun.notified().await;
    sleep(SHORT).await;
    running.paths.may_answer.notify_one();
    hear(&mut socket, "held").await;
}

#[tokio::test]
async fn a_body_that_stalls_fails_after_body_idle_in_both_protocols() {
    let running = start(&Limits {
        body_idle: SHORT,
        ..limits()
    });
    let mut socket = running.connect().await;
    say(
        &mut socket,
        "POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\na",
    )
    .await;
    let start = Instant::now();
    assert!(
        hear(&mut socket, "stalled")
            .await
            .starts_with("HTTP/1.1 408")
    );
    assert!(start.elapsed() > SHORT / 2);

    let io = TokioIo::new(running.connect().await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut http2, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let request = Request::post("http://a/echo").body(body).unwrap();
    let response = http2.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_body_that_keeps_coming_may_take_longer_than_body_idle() {
    let running = start(&Limits {
        body_idle: SHORT,
        headers: SHORT,
        ..limits()
    });
    let mut socket = running.connect().await;
    say(
        &mut socket,
        "POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\n",
    )
    .await;
    for _ in 0..9 {
        sleep(SHORT / 4).await;
        say(&mut socket, "a").await;
    }
    hear(&mut socket, "\r\n\r\naaaaaaaaa").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_response_is_dropped_after_body_idle() {
    let running = start(&Limits {
        body_idle: SHORT,
        ..limits()
    });
    let dropped = running.token();
    let mut socket = running.connect().await;
    say(&mut socket, get("/flood")).await;
    dropped.await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_fails_though_it_never_stalls() {
    let running = start(&Limits {
        min_receive_rate: 1_000_000,
        rate_grace: SHORT,
        ..limits()
    });
    let mut socket = running.connect().await;
    let head = "POST /echo HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n";
    say(&mut socket, head).await;
    let start = Instant::now();
    let (mut reads, mut writes) = socket.split();
    let mut said = [0; 12];
    tokio::select! {
        read = reads.read_exact(&mut said) => drop(read.expect("an answer")),
        () = async {
            while writes.write_all(b"a").await.is_ok() {
                assert!(start.elapsed() < FOREVER);
                sleep(SHORT / 10).await;
            }
            pending::<()>().await;
        } => {}
    }
    assert_eq!(&said, b"HTTP/1.1 408");
    assert!(start.elapsed() > SHORT / 2);
}

/// In virtual time: what sockets take comes in lumps that no test foresees.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_too_little_is_dropped_and_one_that_is_sent_nothing_is_not() {
    let second = Duration::from_secs(1);
    let limits = Limits {
        min_send_rate: 100,
        rate_grace: second * 5,
        body_idle: second * 15,
        ..limits()
    };
    let activity = Activity::new(false, LeastRate::sending(&limits), Arc::default());
    let (_, _response) = activity.begin(false);
    let is_fine = || matches!(activity.judge(&limits), Judgement::Fine(_));
    // Nothing waits for the client.
    for _ in 0..100 {
        tokio::time::advance(second * 60).await;
        activity.unstuck(1);
        assert!(is_fine());
    }
    // As fast as it has to be.
    for _ in 0..100 {
        activity.stuck();
        tokio::time::advance(second * 4).await;
        assert!(is_fine());
        activity.unstuck(400);
    }
    // A byte in each second; what came before counts for no longer than `body_idle`.
    let mut seconds = 0;
    activity.unstuck(1_000_000);
    while is_fine() {
        activity.unstuck(1);
        activity.stuck();
        tokio::time::advance(second).await;
        seconds += 1;
    }
    assert_eq!(
        activity.judge(&limits),
        Judgement::Stalled(Limit::MinSendRate)
    );
    assert_eq!(seconds, 16);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_given_up_when_nothing_has_moved_in_it_for_an_hour() {
    let limits = limits();
    let activity = Activity::new(false, None, Arc::default());
    activity.begin_tunnel(std::future::ready(()).boxed());
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let is_fine = || matches!(activity.judge(&limits), Judgement::Fine(_));
    activity.stuck();
    tokio::time::advance(minutes(59)).await;
    assert!(is_fine());
    activity.bytes_came();
    tokio::time::advance(minutes(59)).await;
    assert!(is_fine());
    activity.unstuck(1);
    tokio::time::advance(minutes(59)).await;
    assert!(is_fine());
    tokio::time::advance(minutes(1)).await;
    assert_eq!(
        activity.judge(&limits),
        Judgement::Stalled(Limit::TunnelIdle)
    );
}
