//! HTTP/2 clients that answer pings and settings, as hyper's does by itself, and take little of their responses.

use futures_util::future::join_all;
use hyper::body::Incoming;
use hyper::client::conn::http2::Builder;

use super::*;

/// A client whose streams have this window until it reads, and its end.
async fn with_window(window: u32, running: &Running) -> (Http2, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(running.connect().await);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    (sender, tokio::spawn(connection))
}

async fn begin(http2: &mut Http2, path: &str) -> Incoming {
    let request = Request::get(format!("http://a{path}")).body(Full::default());
    let response = timeout(FOREVER, http2.send_request(request.unwrap())).await;
    response.expect("a response").unwrap().into_body()
}

/// Waits, without reading before, until the body's stream was reset.
async fn is_reset(mut body: Incoming) {
    let reset = async {
        loop {
            let frame = body.frame().await.expect("no end but a reset");
            if let Err(error) = frame {
                return format!("{error:?}");
            }
        }
    };
    let error = timeout(FOREVER, reset).await.expect("a reset");
    assert!(error.contains("CANCEL"), "{error}");
}

/// Reads while the future runs.
async fn reading(body: &mut Incoming, until: impl Future<Output = ()>) {
    let mut until = pin!(until);
    loop {
        tokio::select! {
            () = until.as_mut() => return,
            frame = body.frame() => assert!(frame.expect("no end").is_ok()),
        }
    }
}

fn impatient() -> Limits {
    Limits {
        body_idle: SHORT,
        ..limits()
    }
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_after_body_idle_and_its_body_dropped() {
    let running = start(&impatient());
    let (mut shut, end) = with_window(0, &running).await;
    let dropped = running.token();
    let start = Instant::now();
    let body = begin(&mut shut, "/flood").await;
    dropped.await;
    assert!(start.elapsed() > SHORT / 2);
    is_reset(body).await;

    let bodies = join_all((0..20).map(|_| {
        let mut shut = shut.clone();
        async move { begin(&mut shut, "/flood").await }
    }));
    join_all(bodies.await.into_iter().map(is_reset)).await;
    assert!(!end.is_finished(), "the connection goes on");
}

#[tokio::test]
async fn a_live_stream_does_not_hide_a_stuck_one_nor_suffer_by_it() {
    // Those that read are to have time for it on a busy machine.
    let running = start(&Limits {
        body_idle: LONGER,
        ..limits()
    });
    let (mut http2, _) = http2(&running).await;
    let (mut elsewhere, _) = super::http2(&running).await;
    let mut live = begin(&mut http2, "/flood").await;
    let mut other = begin(&mut elsewhere, "/flood").await;
    let dropped = running.token();
    let stuck = begin(&mut http2, "/flood").await;
    reading(&mut live, reading(&mut other, dropped)).await;
    is_reset(stuck).await;
    reading(&mut live, reading(&mut other, sleep(LONGER * 2))).await;
    assert_eq!(ask(&mut http2, "/").await, (StatusCode::OK, "ok".into()));
}

#[tokio::test]
async fn a_body_of_one_piece_is_reset_too_whether_none_or_some_of_it_was_taken() {
    let running = start(&impatient());
    for (window, path) in [
        (0, "/small"),
        (0, "/large"),
        (1, "/large"),
        (1000, "/large"),
    ] {
        let (mut http2, end) = with_window(window, &running).await;
        let body = begin(&mut http2, path).await;
        sleep(SHORT * 3).await;
        is_reset(body).await;
        assert!(!end.is_finished(), "the connection goes on");
    }
}

#[tokio::test]
async fn a_connection_with_the_end_of_a_response_that_stays_is_told_to_go_and_dropped() {
    let running = start(&Limits {
        headers: SHORT,
        ..impatient()
    });
    let (mut http2, end) = with_window(1000, &running).await;
    let _stays = begin(&mut http2, "/small").await;
    let mut holding = http2.clone();
    let held = tokio::spawn(async move { begin(&mut holding, "/hold").await });
    timeout(FOREVER, end).await.expect("the end").unwrap().ok();
    held.abort();
}

#[tokio::test]
async fn a_client_that_is_slow_but_moves_gets_all_of_a_body() {
    let running = start(&Limits {
        body_idle: LONGER,
        ..limits()
    });
    let (mut http2, _) = with_window(20_000, &running).await;
    let start = Instant::now();
    let mut body = begin(&mut http2, "/large").await;
    let mut heard = 0;
    while let Some(frame) = body.frame().await {
        heard += frame.unwrap().into_data().unwrap().len();
        sleep(SHORT).await;
    }
    assert_eq!(heard, LARGE);
    assert!(start.elapsed() > LONGER * 2, "slower than the limit");
}

#[tokio::test]
async fn a_body_waits_for_its_source_longer_than_body_idle() {
    let running = start(&impatient());
    let (mut http2, _) = http2(&running).await;
    let mut body = begin(&mut http2, "/late").await;
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "be"
    );
    sleep(SHORT * 3).await;
    running.paths.may_answer.notify_one();
    let rest = body.collect().await.unwrap();
    assert!(rest.trailers().is_some());
    assert_eq!(rest.to_bytes(), "gun");
}
