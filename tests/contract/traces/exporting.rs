//! Collectors that are there, away, silent or strangers, and what the environment says of them.

use std::time::{Duration, Instant};

use super::collector::{Collector, exporting};
use super::traceparent;
use crate::secure_upstreams::Front;
use crate::support::{
    Act, Authority, Gateway, PATIENCE, RefusedPort, Setup, StalledUpstream, ToyUpstream, payment,
    until,
};

#[tokio::test]
async fn a_word_switches_all_of_it_off() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    for word in ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"] {
        let gateway = collector.told(&Setup::payments(&upstream), &[word]).await;
        let request = payment("k").header("traceparent", &traceparent());
        gateway.send(&request).await.is(201, "executed");
        let received = upstream.next_request().await;
        assert_eq!(received.headers.all("traceparent"), [traceparent()]);
        assert!(gateway.log().messages("spans are exported").is_empty());
    }
}

#[tokio::test]
async fn the_end_of_a_drain_exports_what_is_left() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let seldom = ["OTEL_BSP_SCHEDULE_DELAY=3600000"];
    let mut gateway = collector.told(&Setup::payments(&upstream), &seldom).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.sigterm();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(collector.so_far().len(), 4);
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_costs_no_request_anything() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).rest_passes();
    let plain = setup.start().await;
    let (away, silent) = (RefusedPort::take(), StalledUpstream::start().await);
    for url in [away.url(), silent.url()] {
        // As many spans as would fill the queue many times over.
        let small = [
            "OTEL_BSP_MAX_QUEUE_SIZE=16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=8",
        ];
        let mut gateway = exporting(&setup, &url, &small).await;
        // The best of several: what holds one of them up is the machine.
        let (mut without, mut with) = (Duration::MAX, Duration::MAX);
        for round in 0..ROUNDS {
            let keys = format!("{url}/{round}");
            without = without.min(took(&plain, &keys).await);
            with = with.min(took(&gateway, &keys).await);
        }
        println!("{url}: {with:?} with, {without:?} without");
        assert!(
            with < without * 3 + SLACK,
            "{with:?} with, {without:?} without"
        );
        gateway.sigterm();
        let began = Instant::now();
        assert_eq!(gateway.ended().await.code(), Some(0));
        assert!(began.elapsed() < PATIENCE / 6, "{:?}", began.elapsed());
        let said = gateway.log().messages(LOST);
        assert!(said.len() <= 1, "{said:?}");
    }
}

#[tokio::test]
async fn a_line_says_when_spans_begin_to_be_lost_and_one_when_that_is_over() {
    let (upstream, away) = (ToyUpstream::start(), RefusedPort::take());
    let more = ["OTEL_EXPORTER_OTLP_TIMEOUT=5000"];
    let gateway = exporting(&Setup::payments(&upstream), &away.url(), &more).await;
    for key in ["a", "b", "c"] {
        gateway.send(&payment(key)).await.is(201, "executed");
    }
    gateway.log().message(LOST).await;
    let collector = away.listen();
    collector.always(|_| Act::respond(200, &[], ""));
    until("an export", || async {
        gateway.send(&payment("d")).await;
        let said = gateway.log().messages("spans reach their collector again");
        (!said.is_empty()).then_some(())
    })
    .await;
    assert_eq!(gateway.log().messages(LOST).len(), 1);
}

#[tokio::test]
async fn a_collector_behind_tls_has_to_be_whom_the_authorities_in_the_file_know() {
    let (upstream, collector, authority) =
        (ToyUpstream::start(), Collector::start(), Authority::new());
    let front = Front::before(&collector.0, &authority).await;
    let setup = Setup::payments(&upstream);
    let certificate = format!(
        "OTEL_EXPORTER_OTLP_CERTIFICATE={}",
        authority.path("ca.pem")
    );
    let gateway = exporting(&setup, &front.url, &[&certificate]).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    collector.request(1).await;
    let stranger = Authority::new();
    let certificate = format!("OTEL_EXPORTER_OTLP_CERTIFICATE={}", stranger.path("ca.pem"));
    let exports = collector.0.charges();
    let gateway = exporting(&setup, &front.url, &[&certificate]).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.log().message(LOST).await;
    assert_eq!(collector.0.charges(), exports);
}

#[tokio::test]
async fn what_the_environment_asks_for_in_vain_is_said_and_stops_nothing() {
    let upstream = ToyUpstream::start();
    for (variable, part) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=no url", "endpoint"),
    ] {
        let setup = Setup::payments(&upstream);
        let gateway = exporting(&setup, "http://127.0.0.1:1", &[variable]).await;
        let line = gateway.log().message("no spans are exported").await;
        let error = line["error"].as_str().expect("a reason");
        assert!(error.contains(part), "{line}");
        gateway.send(&payment("k")).await.is(201, "executed");
    }
}

const LOST: &str = "spans do not reach their collector; they are dropped";

/// How long the requests took, besides what other processes of a busy machine take.
async fn took(gateway: &Gateway, seed: &str) -> Duration {
    let began = Instant::now();
    let mut connection = gateway.connect().await;
    for number in 0..REQUESTS {
        let request = payment(&format!("{seed}/{number}"));
        connection.send(&request).await.is(201, "executed");
    }
    began.elapsed()
}

/// Enough for a ratio that says something, several times.
const REQUESTS: usize = 100;
const ROUNDS: usize = 3;
/// What a machine may be held up by at any moment.
const SLACK: Duration = Duration::from_millis(500);
