//! Where requests stand in traces: what upstreams are told, what is logged and, with the feature `otlp`, what a collector
//! gets.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod exporting;
#[cfg(feature = "otlp")]
mod spans;

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
