//! What spans say of requests, and how they hang together.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::collector::{Collector, Got, hex, last, links};
use super::{SPAN, TRACE, lines_of, traceparent};
use crate::support::{Act, Gate, RedisServer, Request, Setup, ToyUpstream, payment, until};

#[tokio::test]
async fn a_request_is_a_span_below_its_clients_and_its_dispatch_one_below_that() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let more = [
        "OTEL_SERVICE_NAME=gate",
        "OTEL_EXPORTER_OTLP_HEADERS=x-token=t0k",
    ];
    let gateway = collector.told(&Setup::payments(&upstream), &more).await;
    let request = payment("very-secret-key")
        .auth("Bearer very-secret-token")
        .header("traceparent", &traceparent())
        .header("tracestate", "a=1");
    gateway.send(&request).await.is(201, "executed");
    let received = upstream.next_request().await;

    let spans = collector.spans(4).await;
    let server = last(&spans, SpanKind::Server);
    assert_eq!(server.resource["service.name"], "gate");
    assert_eq!(
        server.resource["service.version"],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(hex(&server.span.trace_id), TRACE);
    assert_eq!(hex(&server.span.parent_span_id), SPAN);
    assert_eq!(server.span.name, "POST /v1/payments");
    assert_eq!(server.span.trace_state, "a=1");
    let line = &lines_of(&gateway, 1).await[0];
    let (host, port) = (
        gateway.address.ip().to_string(),
        gateway.address.port().to_string(),
    );
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "201"),
        ("http.route", "/v1/payments"),
        ("url.path", "/v1/payments"),
        ("url.scheme", "http"),
        ("server.address", &host),
        ("server.port", &port),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("oncegate.route", "pay"),
        ("oncegate.decision", "executed"),
        ("oncegate.operation_state", "completed"),
        (
            "oncegate.key_ref",
            line["key_ref"].as_str().expect("a text"),
        ),
        ("oncegate.fence", "1"),
    ] {
        assert_eq!(server.attribute(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(server.failure(), None);
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["span_id"], hex(&server.span.span_id));

    let client = last(&spans, SpanKind::Client);
    assert_eq!(client.span.parent_span_id, server.span.span_id);
    assert_eq!(
        client.attribute("http.response.status_code").as_deref(),
        Some("201")
    );
    assert_eq!(
        client.attribute("oncegate.upstream").as_deref(),
        Some("toy")
    );
    assert_eq!(received.headers.all("traceparent"), [client.as_parent()]);
    assert_eq!(received.headers.all("tracestate"), ["a=1"]);

    let mut inner: Vec<&str> = spans
        .iter()
        .filter(|got| got.is(SpanKind::Internal))
        .map(|got| &*got.span.name)
        .collect();
    inner.sort_unstable();
    assert_eq!(inner, ["claim", "complete"]);
    for got in &spans {
        let span = &got.span;
        assert!(
            span.start_time_unix_nano <= span.end_time_unix_nano,
            "{span:?}"
        );
    }
    // They come in one export or in several.
    let exports = collector.0.requests();
    let told = exports
        .iter()
        .all(|one| one.header("x-token") == Some("t0k"));
    assert!(told, "{exports:?}");
    let bodies: Vec<u8> = exports.into_iter().flat_map(|one| one.body).collect();
    let has = |text: &[u8]| bodies.windows(text.len()).any(|part| part == text);
    assert!(has(b"oncegate.key_ref"));
    assert!(!has(b"very-secret"), "a key or a credential is in a span");
}

#[tokio::test]
async fn a_request_that_names_no_span_begins_a_trace() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let gateway = collector
        .before(&Setup::payments(&upstream).rest_passes())
        .await;
    let known = traceparent();
    let cases: [&[&str]; 3] = [&[], &["malformed"], &[&known, &known]];
    for (number, values) in cases.into_iter().enumerate() {
        let mut request = Request::get("/else").header("tracestate", "a=1");
        for value in values {
            request = request.header("traceparent", value);
        }
        gateway.send(&request).await.is(201, "");
        let received = upstream.next_request().await;
        let spans = collector.spans((number + 1) * 2).await;
        let server = last(&spans, SpanKind::Server);
        assert_eq!(server.span.parent_span_id, [0_u8; 0]);
        assert_ne!(hex(&server.span.trace_id), TRACE);
        let client = last(&spans, SpanKind::Client);
        assert_eq!(received.headers.all("traceparent"), [client.as_parent()]);
        // It belongs to a trace that there is not.
        assert!(received.headers.all("tracestate").is_empty());
    }
}

#[tokio::test]
async fn a_replay_links_to_the_dispatch_that_made_it_whichever_gateway_did() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let server = RedisServer::start();
    let keys = tempfile::tempdir().expect("a directory");
    let id_key = keys.path().join("id-key");
    std::fs::write(&id_key, [7; 32]).expect("a file");
    let setup = Setup::payments(&upstream).shared(&server.url(), &id_key);
    let (first, second) = (
        collector.before(&setup).await,
        collector.before(&setup).await,
    );
    let request = payment("k").header("traceparent", &traceparent());
    first.send(&request).await.is(201, "executed");
    let spans = collector.spans(4).await;
    let dispatch = last(&spans, SpanKind::Client).span.clone();
    for (number, gateway) in [(2, &first), (3, &second), (4, &second)] {
        gateway.send(&payment("k")).await.is(201, "replayed");
        let replay = collector.request(number).await;
        assert_ne!(replay.span.trace_id, dispatch.trace_id);
        assert_eq!(links(&replay), [(&dispatch.trace_id, &dispatch.span_id)]);
    }
    for (gateway, count) in [(&first, 2), (&second, 2)] {
        let lines = lines_of(gateway, count).await;
        assert_eq!(lines[1]["origin_trace_id"], TRACE, "{}", lines[1]);
    }
}

#[tokio::test]
async fn a_duplicate_that_waited_links_to_the_dispatch_that_it_waited_for() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let setup = Setup::payments(&upstream).route("wait = \"10s\"");
    let gateway = collector.before(&setup).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let second = gateway.spawn(&payment("k"));
    until("the duplicate to wait", || async {
        let waiting = gateway.metrics().await.value("oncegate_waiters", &[]);
        (waiting == Some(1.0)).then_some(())
    })
    .await;
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    second.await.expect("an answer").is(201, "replayed");
    let joined = collector.request(2).await;
    assert_eq!(
        joined.attribute("oncegate.decision").as_deref(),
        Some("joined")
    );
    let spans = collector.so_far();
    let dispatch = &last(&spans, SpanKind::Client).span;
    assert_eq!(links(&joined), [(&dispatch.trace_id, &dispatch.span_id)]);
    let waited = |got: &&Got| got.span.name == "wait";
    let waited = spans.iter().find(waited).expect("a span of the waiting");
    assert_eq!(waited.span.parent_span_id, joined.span.span_id);
}

#[tokio::test]
async fn an_unknown_outcome_is_an_error_and_its_dispatch_ends_with_the_late_answer() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let setup = Setup::payments(&upstream).route("response_timeout = \"100ms\"");
    let gateway = collector.before(&setup).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    gateway.send(&payment("k")).await.is(504, "unknown");
    let server = collector.request(1).await;
    assert_eq!(server.failure(), Some("timeout"));
    assert_eq!(server.attribute("error.type").as_deref(), Some("timeout"));
    assert_eq!(
        server.attribute("oncegate.operation_state").as_deref(),
        Some("unknown")
    );
    assert_eq!(
        server.attribute("http.response.status_code").as_deref(),
        Some("504")
    );
    let dispatch = |spans: &[Got]| spans.iter().find(|got| got.is(SpanKind::Client)).cloned();
    assert!(
        dispatch(&collector.so_far()).is_none(),
        "it is under way still"
    );
    gate.open();
    let dispatch = collector.until(dispatch).await;
    assert!(dispatch.span.end_time_unix_nano > server.span.end_time_unix_nano);
    assert_eq!(dispatch.failure(), Some("timeout"));
    assert_eq!(dispatch.attribute("oncegate.late").as_deref(), Some("true"));
    assert_eq!(
        dispatch.attribute("http.response.status_code").as_deref(),
        Some("201")
    );
    // The late answer is the dispatch's all the same.
    until("the late answer to be recorded", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() == "replayed").then_some(())
    })
    .await;
    let (trace, span) = (dispatch.span.trace_id, dispatch.span.span_id);
    collector
        .until(|spans| {
            spans
                .iter()
                .find(|got| links(got) == [(&trace, &span)])
                .map(drop)
        })
        .await;
}

#[tokio::test]
async fn an_upstream_that_hangs_up_is_the_error_of_the_dispatch_and_of_the_request() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let gateway = collector.before(&Setup::payments(&upstream)).await;
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("k")).await.is(502, "unknown");
    let server = collector.request(1).await;
    assert_eq!(server.failure(), Some("connection_lost"));
    let spans = collector.so_far();
    assert_eq!(
        last(&spans, SpanKind::Client).failure(),
        Some("connection_lost")
    );
}

#[tokio::test]
async fn what_is_not_sampled_is_told_on_and_not_exported() {
    let (upstream, collector) = (ToyUpstream::start(), Collector::start());
    let setup = Setup::payments(&upstream);
    let gateway = collector.before(&setup).await;
    let unsampled = payment("a").header("traceparent", &format!("00-{TRACE}-{SPAN}-00"));
    gateway.send(&unsampled).await.is(201, "executed");
    let received = upstream.next_request().await;
    let told = received.header("traceparent").expect("a trace");
    assert!(
        told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"),
        "{told}"
    );
    gateway.send(&payment("b")).await.is(201, "executed");
    collector.request(1).await;
    assert!(
        collector
            .so_far()
            .iter()
            .all(|got| hex(&got.span.trace_id) != TRACE)
    );

    let never = ["OTEL_TRACES_SAMPLER=always_off"];
    let mut gateway = collector.told(&setup, &never).await;
    let exports = collector.0.charges();
    gateway
        .send(&payment("c").header("traceparent", &traceparent()))
        .await
        .is(201, "executed");
    gateway.sigterm();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(collector.0.charges(), exports);
}
