//! Where requests stand in traces: what upstreams are told, what is logged and, with the feature `otlp`, what a collector
//! gets.

use crate::support::{Gateway, Request, Setup, ToyUpstream, payment};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// What a client says that is in a sampled trace.
fn traceparent() -> String {
    format!("00-{TRACE}-{SPAN}-01")
}

#[tokio::test]
async fn without_a_collector_upstreams_get_what_the_client_sent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let (known, later) = (traceparent(), format!("cc-{TRACE}-{SPAN}-01-more"));
    let cases: [&[&str]; 4] = [&[&known], &[&later], &["malformed"], &[&known, &known]];
    for (number, values) in cases.into_iter().enumerate() {
        let passing = Request::get("/else");
        let unkeyed = payment("k").without("Idempotency-Key");
        for mut request in [payment(&number.to_string()), passing, unkeyed] {
            for value in values {
                request = request.header("traceparent", value);
            }
            let request = request
                .header("tracestate", "a=1")
                .header("tracestate", "b=2");
            if gateway.send(&request).await.status == 400 {
                // The route requires a key.
                continue;
            }
            let received = upstream.next_request().await;
            assert_eq!(received.headers.all("traceparent"), values);
            assert_eq!(received.headers.all("tracestate"), ["a=1", "b=2"]);
        }
    }
    let lines = lines_of(&gateway, 12).await;
    for (number, line) in lines.iter().enumerate() {
        // The first two of the cases say where they are.
        let (trace, span) = match number / 3 {
            0 | 1 => (Some(TRACE), Some(SPAN)),
            _ => (None, None),
        };
        assert_eq!(line["trace_id"].as_str(), trace, "{line}");
        assert_eq!(line["span_id"].as_str(), span, "{line}");
    }
}

async fn lines_of(gateway: &Gateway, count: usize) -> Vec<serde_json::Value> {
    gateway.log().nth_message("request", count - 1).await;
    gateway.log().messages("request")
}

#[cfg(feature = "otlp")]
mod exported {
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
    use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
    use prost::Message;

    use super::{SPAN, TRACE, lines_of, traceparent};
    use crate::secure_upstreams::Front;
    use crate::support::{
        Act, Authority, Gate, Gateway, PATIENCE, Received, RedisServer, RefusedPort, Request,
        Setup, StalledUpstream, ToyUpstream, payment, until,
    };

    /// A receiver of OTLP over HTTP, which decodes by the specification's own types.
    struct Collector(ToyUpstream);

    /// A span that it got, with the resource that it is of.
    #[derive(Clone, Debug)]
    struct Got {
        span: Span,
        resource: HashMap<String, String>,
    }

    impl Collector {
        fn start() -> Self {
            let toy = ToyUpstream::start();
            toy.always(|_| Act::respond(200, &[("Content-Type", "application/x-protobuf")], ""));
            Self(toy)
        }

        /// Starts a gateway that exports here.
        async fn before(&self, setup: &Setup) -> Gateway {
            self.told(setup, &[]).await
        }

        /// The same with more variables.
        async fn told(&self, setup: &Setup, more: &[&str]) -> Gateway {
            exporting(setup, &self.0.url(), more).await
        }

        /// Waits until there are such among the spans that have come.
        async fn until<T>(&self, mut find: impl FnMut(&[Got]) -> Option<T>) -> T {
            for exports in 1.. {
                self.0.received_at_least(exports).await;
                if let Some(found) = find(&self.so_far()) {
                    return found;
                }
            }
            unreachable!("numbers do not end");
        }

        /// Waits for so many spans, and says which have come.
        async fn spans(&self, count: usize) -> Vec<Got> {
            self.until(|spans| (spans.len() >= count).then(|| spans.to_vec()))
                .await
        }

        /// Waits for this many requests, and says what is known of the last one.
        async fn request(&self, number: usize) -> Got {
            self.until(|spans| {
                let mut requests: Vec<&Got> = spans
                    .iter()
                    .filter(|got| got.is(SpanKind::Server))
                    .collect();
                requests.sort_by_key(|got| got.span.start_time_unix_nano);
                requests.get(number - 1).copied().cloned()
            })
            .await
        }

        fn so_far(&self) -> Vec<Got> {
            self.0.requests().iter().flat_map(decoded).collect()
        }
    }

    /// A gateway whose spans go there; an option of the environment is `NAME=value`.
    async fn exporting(setup: &Setup, url: &str, more: &[&str]) -> Gateway {
        let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT={url}");
        let mut through = vec!["env", "OTEL_BSP_SCHEDULE_DELAY=20", &endpoint];
        through.extend(more);
        Gateway::start_through(&through, &setup.toml()).await
    }

    fn decoded(export: &Received) -> Vec<Got> {
        assert_eq!(export.target, "/v1/traces");
        assert_eq!(
            export.header("Content-Type"),
            Some("application/x-protobuf")
        );
        let request = ExportTraceServiceRequest::decode(&*export.body).expect("an export");
        let mut spans = Vec::new();
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.expect("a resource");
            let resource = texts(&resource.attributes);
            for of_scope in of_resource.scope_spans {
                spans.extend(of_scope.spans.into_iter().map(|span| Got {
                    span,
                    resource: resource.clone(),
                }));
            }
        }
        spans
    }

    fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
        let text = |value: &AnyValue| match &value.value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(is)) => is.to_string(),
            other => panic!("{other:?}"),
        };
        let value = |one: &KeyValue| text(one.value.as_ref().expect("a value"));
        let pairs = attributes.iter().map(|one| (one.key.clone(), value(one)));
        pairs.collect()
    }

    impl Got {
        fn attribute(&self, name: &str) -> Option<String> {
            texts(&self.span.attributes).remove(name)
        }

        fn is(&self, kind: SpanKind) -> bool {
            self.span.kind() == kind
        }

        /// As a header names it that is sent from it.
        fn as_parent(&self) -> String {
            let (trace, span) = (hex(&self.span.trace_id), hex(&self.span.span_id));
            format!("00-{trace}-{span}-01")
        }

        fn failure(&self) -> Option<&str> {
            let status = self.span.status.as_ref()?;
            (status.code() == StatusCode::Error).then_some(&*status.message)
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The only one of them, in the order of their beginnings the last.
    fn last(spans: &[Got], kind: SpanKind) -> &Got {
        let of_kind = spans.iter().filter(|got| got.is(kind));
        let last = of_kind.max_by_key(|got| got.span.start_time_unix_nano);
        last.unwrap_or_else(|| panic!("no {kind:?} in {spans:#?}"))
    }

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
        for export in collector.0.requests() {
            assert_eq!(export.header("x-token"), Some("t0k"));
            let has = |text: &[u8]| export.body.windows(text.len()).any(|part| part == text);
            assert!(has(b"oncegate.key_ref"));
            assert!(!has(b"very-secret"), "a key or a credential is in a span");
        }
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

    /// Traces and spans that it links to.
    fn links(got: &Got) -> Vec<(&Vec<u8>, &Vec<u8>)> {
        let links = got.span.links.iter();
        links.map(|link| (&link.trace_id, &link.span_id)).collect()
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
            let (without, with) = (took(&plain, &url).await, took(&gateway, &url).await);
            println!("{url}: {with:?} with, {without:?} without");
            assert!(
                with < without * 3 + SLACK,
                "{with:?} with, {without:?} without"
            );
            gateway.sigterm();
            let began = Instant::now();
            assert_eq!(gateway.ended().await.code(), Some(0));
            assert!(began.elapsed() < PATIENCE / 3, "{:?}", began.elapsed());
            let said = gateway.log().messages(LOST);
            assert!(said.len() <= 1, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_line_says_when_spans_begin_to_be_lost_and_one_when_that_is_over() {
        let (upstream, away) = (ToyUpstream::start(), RefusedPort::take());
        let more = ["OTEL_EXPORTER_OTLP_TIMEOUT=200"];
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

    /// Enough for a ratio that says something.
    const REQUESTS: usize = 300;
    /// What a machine may be held up by at any moment.
    const SLACK: Duration = Duration::from_millis(500);
}
