//! Heads of requests that are too large.

use crate::bystander::Bystander;
use crate::support::{Http2, Request, Setup, ToyUpstream, payment};
use crate::{metric, settles};

/// The largest head that is taken.
const MAX_HEAD: usize = 64 * 1024;

/// The most header lines that are taken over HTTP/1.
const MAX_LINES: usize = 100;

#[tokio::test]
async fn a_head_of_more_bytes_than_may_be_is_answered_with_431_in_both_protocols() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let bystander = Bystander::begin(&gateway).await;
    let large = |target: &str| Request::get(target).header("X-Large", &"a".repeat(MAX_HEAD));
    let mut http1 = gateway.connect().await;
    // It may be answered before all of it is read.
    let answer = http1.send(&large("/head")).await;
    assert_eq!(answer.status, 431, "{answer:?}");
    http1.closed().await;

    let http2 = Http2::open(gateway.address).await;
    assert_eq!(http2.send(&large("/head")).await.status, 431);
    http2.send(&payment("goes-on")).await.is(201, "executed");

    let within = Request::get("/fits").header("X-Large", &"a".repeat(MAX_HEAD / 2));
    assert_eq!(gateway.send(&within).await.status, 201);
    assert_eq!(http2.send(&within).await.status, 201);

    bystander.was_served().await;
    assert!(
        upstream
            .requests()
            .iter()
            .all(|request| request.target != "/head")
    );
    drop(http2);
    settles(&gateway, "oncegate_connections", &[], 0).await;
}

#[tokio::test]
async fn a_head_of_more_lines_than_may_be_is_answered_with_431() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let bystander = Bystander::begin(&gateway).await;
    // One line is `Host`.
    let lines = |count: usize| {
        (1..count).fold(Request::get("/head"), |request, number| {
            request.header(&format!("X-{number}"), "a")
        })
    };
    let mut connection = gateway.connect().await;
    assert_eq!(connection.send(&lines(MAX_LINES)).await.status, 201);
    let answer = connection.send(&lines(MAX_LINES + 1)).await;
    assert_eq!(answer.status, 431, "{answer:?}");
    connection.closed().await;
    bystander.was_served().await;
    let sent = upstream.requests();
    let heads = sent.iter().filter(|request| request.target == "/head");
    assert_eq!(heads.count(), 1);
    settles(&gateway, "oncegate_connections", &[], 0).await;
    assert!(metric(&gateway, "oncegate_connections_total", &[]).await >= 2);
}
