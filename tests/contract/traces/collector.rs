//! A collector of spans, and gateways that export to it.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use crate::support::{Act, Gateway, Received, Setup, ToyUpstream};

/// A receiver of OTLP over HTTP, which decodes by the specification's own types.
pub struct Collector(pub ToyUpstream);

/// A span that it got, with the resource that it is of.
#[derive(Clone, Debug)]
pub struct Got {
    pub span: Span,
    pub resource: HashMap<String, String>,
}

impl Collector {
    pub fn start() -> Self {
        let toy = ToyUpstream::start();
        toy.always(|_| Act::respond(200, &[("Content-Type", "application/x-protobuf")], ""));
        Self(toy)
    }

    /// Starts a gateway that exports here.
    pub async fn before(&self, setup: &Setup) -> Gateway {
        self.told(setup, &[]).await
    }

    /// The same with more variables.
    pub async fn told(&self, setup: &Setup, more: &[&str]) -> Gateway {
        exporting(setup, &self.0.url(), more).await
    }

    /// Waits until there are such among the spans that have come.
    pub async fn until<T>(&self, mut find: impl FnMut(&[Got]) -> Option<T>) -> T {
        for exports in 1.. {
            self.0.received_at_least(exports).await;
            if let Some(found) = find(&self.so_far()) {
                return found;
            }
        }
        unreachable!("numbers do not end");
    }

    /// Waits for so many spans, and says which have come.
    pub async fn spans(&self, count: usize) -> Vec<Got> {
        self.until(|spans| (spans.len() >= count).then(|| spans.to_vec()))
            .await
    }

    /// Waits for this many requests, and says what is known of the last one.
    pub async fn request(&self, number: usize) -> Got {
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

    pub fn so_far(&self) -> Vec<Got> {
        self.0.requests().iter().flat_map(decoded).collect()
    }
}

/// A gateway whose spans go there; an option of the environment is `NAME=value`.
pub async fn exporting(setup: &Setup, url: &str, more: &[&str]) -> Gateway {
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
    pub fn attribute(&self, name: &str) -> Option<String> {
        texts(&self.span.attributes).remove(name)
    }

    pub fn is(&self, kind: SpanKind) -> bool {
        self.span.kind() == kind
    }

    /// As a header names it that is sent from it.
    pub fn as_parent(&self) -> String {
        let (trace, span) = (hex(&self.span.trace_id), hex(&self.span.span_id));
        format!("00-{trace}-{span}-01")
    }

    pub fn failure(&self) -> Option<&str> {
        let status = self.span.status.as_ref()?;
        (status.code() == StatusCode::Error).then_some(&*status.message)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The only one of them, in the order of their beginnings the last.
pub fn last(spans: &[Got], kind: SpanKind) -> &Got {
    let of_kind = spans.iter().filter(|got| got.is(kind));
    let last = of_kind.max_by_key(|got| got.span.start_time_unix_nano);
    last.unwrap_or_else(|| panic!("no {kind:?} in {spans:#?}"))
}

/// Traces and spans that it links to.
pub fn links(got: &Got) -> Vec<(&Vec<u8>, &Vec<u8>)> {
    let links = got.span.links.iter();
    links.map(|link| (&link.trace_id, &link.span_id)).collect()
}
