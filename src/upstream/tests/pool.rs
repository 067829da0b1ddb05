//! Which connections are used again, and which are not.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again_once_its_response_was_read_to_the_end() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let (response, mut socket) = tokio::join!(send(&upstream), origin.answer(OK));
    assert_eq!(upstream.stats().in_flight, 1);
    read_all(response.unwrap()).await.unwrap();
    assert_eq!((upstream.stats().idle, upstream.stats().in_flight), (1, 0));

    let (response, _) = tokio::join!(send(&upstream), answer(&mut socket, OK));
    read_all(response.unwrap()).await.unwrap();
    assert_eq!((upstream.stats().connects, upstream.stats().open), (1, 1));
}

/// The response's end is seen on one thread, perhaps, while another one still makes the connection ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_several_threads_requests_in_a_row_use_one_connection() {
    const REQUESTS: u64 = 500;
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    tokio::spawn(async move {
        loop {
            let mut socket = origin.accept().await;
            tokio::spawn(async move {
                loop {
                    answer(&mut socket, OK).await;
                }
            });
        }
    });
    let row = tokio::spawn(async move {
        for _ in 0..REQUESTS {
            read_all(send(&upstream).await.unwrap()).await.unwrap();
        }
        upstream
    });
    let upstream = row.await.unwrap();
    let connects = upstream.stats().connects;
    println!("{connects} connections");
    assert!(connects <= REQUESTS / 50, "{connects}");
}

#[tokio::test]
async fn a_response_without_a_body_gives_its_connection_back_at_once() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
    let (response, _socket) = tokio::join!(send(&upstream), origin.answer(empty));
    let _unread = response.unwrap();
    assert_eq!((upstream.stats().idle, upstream.stats().in_flight), (1, 0));
}

/// The connection goes away, by an end, a reset or bytes that nobody asked for, after the pool took it back and
/// before anything of this runtime had the chance to notice.
#[tokio::test]
async fn a_pooled_connection_that_is_not_quiet_never_gets_a_request() {
    let leave: [fn(TcpStream) -> Option<TcpStream>; 3] = [
        |socket| {
            drop(socket);
            None
        },
        |socket| {
            reset(socket);
            None
        },
        |socket| {
            socket
                .try_write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
                .unwrap();
            Some(socket)
        },
    ];
    for leave in leave {
        let origin = Origin::bind().await;
        let upstream = origin.upstream();
        let (response, socket) = tokio::join!(send(&upstream), origin.answer(OK));
        read_all(response.unwrap()).await.unwrap();
        assert_eq!(upstream.stats().idle, 1);
        let left = leave(socket);

        let (response, _) = tokio::join!(send(&upstream), origin.answer(OK));
        assert_eq!(response.unwrap().status(), 200);
        assert_eq!(upstream.stats().connects, 2);
        if let Some(mut left) = left {
            assert_eq!(reads_to_end(&mut left).await, b"", "it got a request");
        }
    }
}

#[tokio::test]
async fn connections_that_said_they_would_close_are_not_kept() {
    for head in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let origin = Origin::bind().await;
        let upstream = origin.upstream();
        let (response, mut socket) = tokio::join!(send(&upstream), origin.answer(head.as_bytes()));
        read_all(response.unwrap()).await.unwrap();
        assert_eq!(upstream.stats().idle, 0, "{head}");
        assert_eq!(reads_to_end(&mut socket).await, b"");
        assert_eq!(upstream.stats().open, 0);
    }
}

#[tokio::test]
async fn a_response_that_is_not_read_to_the_end_closes_its_connection() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let (response, mut socket) = tokio::join!(send(&upstream), origin.answer(OK));
    drop(response.unwrap());
    assert_eq!((upstream.stats().open, upstream.stats().in_flight), (0, 0));
    assert_eq!(reads_to_end(&mut socket).await, b"");
}

#[tokio::test]
async fn idle_connections_are_closed_after_the_idle_timeout() {
    let origin = Origin::bind().await;
    let mut config = config(vec![origin.endpoint()]);
    config.idle_timeout = Duration::from_millis(50);
    let upstream = Upstream::new(&config);
    let (response, mut socket) = tokio::join!(send(&upstream), origin.answer(OK));
    read_all(response.unwrap()).await.unwrap();
    assert_eq!(upstream.stats().idle, 1);
    assert_eq!(reads_to_end(&mut socket).await, b"");
    assert_eq!((upstream.stats().idle, upstream.stats().open), (0, 0));
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_an_answer() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let body = OutBody::streaming(StreamBody::new(futures_util::StreamExt::chain(
        stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"a")))]),
        stream::pending(),
    )));
    let gate = Gate::open();
    let (response, mut socket) = tokio::join!(upstream.send(request(body), &gate), async {
        let mut socket = origin.accept().await;
        let mut read = Vec::new();
        while !read.ends_with(b"1\r\na\r\n") {
            assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
        }
        socket
            .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
            .await
            .unwrap();
        socket
    });
    assert_eq!(read_all(response.unwrap()).await.unwrap(), "no");

    let (response, _) = tokio::join!(send(&upstream), origin.answer(OK));
    assert!(
        response.is_ok(),
        "the next request waits behind the unfinished body"
    );
    drop(upstream);
    assert_eq!(reads_to_end(&mut socket).await, b"");
}

#[tokio::test]
async fn a_connection_is_not_used_after_the_time_that_its_upstream_announced() {
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let announcing = b"HTTP/1.1 204 No Content\r\nkeep-alive: timeout=2\r\n\r\n";
    let (response, _socket) = tokio::join!(send(&upstream), origin.answer(announcing));
    drop(response);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    assert_eq!(upstream.stats().idle, 1, "it is too early for the reaper");
    let (response, _) = tokio::join!(send(&upstream), origin.answer(OK));
    assert!(response.is_ok());
    assert_eq!((upstream.stats().connects, upstream.stats().open), (2, 1));
}

/// The upstream may take what is still to come for another request.
#[tokio::test]
async fn a_connection_that_answered_before_it_had_the_whole_request_is_not_used_again() {
    const MORE_THAN_FITS: usize = 16 * 1024 * 1024;
    let origin = Origin::bind().await;
    let upstream = origin.upstream();
    let body = OutBody::from(Bytes::from(vec![b'x'; MORE_THAN_FITS]));
    let gate = Gate::open();
    let (response, mut socket) = tokio::join!(upstream.send(request(body), &gate), async {
        let mut socket = origin.accept().await;
        socket.read_u8().await.unwrap();
        socket.write_all(OK).await.unwrap();
        socket
    });
    assert_eq!(read_all(response.unwrap()).await.unwrap(), "ok");
    assert_eq!((upstream.stats().open, upstream.stats().idle), (0, 0));
    assert!(reads_to_end(&mut socket).await.len() < MORE_THAN_FITS);
}
