//! Spans as OpenTelemetry has them: one for each request, below it one for its dispatch and one for each thing that it
//! waited for. What they say is in `words`.
//!
//! What is not sampled costs one decision and the ids of one span. Spans wait in a bounded queue for a thread that exports
//! them; where it is full they are dropped.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Request};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::collector;
use super::words::{self, Failure, code, conclude, describe, fail, method};
use super::{Answered, Begun, Ended, Sent, has_endpoint};
use crate::protocol::TraceRef;
use crate::telemetry::traceparent::{TRACEPARENT, TRACESTATE, Traceparent};

/// How long the last spans may take to reach their collector when the process ends: it adds to what supervisors have to
/// give a drain.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The name of a service that has been given none.
const SERVICE_NAME: &str = env!("CARGO_PKG_NAME");

/// What makes spans, if anything does.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Spans {
    /// Makes spans as the environment asks for them (`OTEL_*`). What it asks for that there is not is said in a line,
    /// and then there are no spans: no request fails for their sake. To be called within a runtime, which then exports.
    #[must_use]
    pub fn from_env() -> Self {
        if !is_wanted() {
            return Self::default();
        }
        let exporter = match collector::exporter() {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(%error, "no spans are exported");
                return Self::default();
            }
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_batch_exporter(exporter)
            .build();
        tracing::info!("spans are exported");
        Self(Some(Arc::new(Exporting {
            tracer: provider.tracer(SERVICE_NAME),
            provider,
        })))
    }

    /// A request whose head has just been read.
    #[must_use]
    pub fn request<B>(&self, request: &Request<B>, begun: Begun) -> RequestSpan {
        let parent = Traceparent::of(request.headers());
        let Some(exporting) = &self.0 else {
            return RequestSpan {
                branch: Branch(Place::Received(parent.map(|parent| parent.at))),
                span: None,
            };
        };
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(
                parent.at,
                TraceFlags::new(parent.flags),
                state(request.headers()),
            )),
            None => Context::new(),
        };
        let builder = SpanBuilder::from_name(method(request.method())).with_kind(SpanKind::Server);
        let mut span = exporting.tracer.build_with_context(builder, &context);
        if !span.span_context().is_valid() {
            // The process ends, and no span is made any more.
            return RequestSpan {
                branch: Branch(Place::Received(parent.map(|parent| parent.at))),
                span: None,
            };
        }
        let own = traceparent(span.span_context());
        if !span.is_recording() {
            let place = Place::Unsampled {
                own,
                is_root: parent.is_none(),
            };
            return RequestSpan {
                branch: Branch(place),
                span: None,
            };
        }
        describe(&mut span, request, begun);
        let under = Under {
            context: Context::new().with_remote_span_context(span.span_context().clone()),
            own,
            is_root: parent.is_none(),
            exporting: Arc::clone(exporting),
        };
        RequestSpan {
            branch: Branch(Place::Sampled(Arc::new(under))),
            span: Some(Box::new(span)),
        }
    }

    /// Exports what is left, for no longer than a second. No span is made any more.
    pub async fn finish(&self) {
        let Some(exporting) = self.0.clone() else {
            return;
        };
        let (done, is_done) = oneshot::channel();
        // A thread that nothing waits for: the collector may not answer.
        std::thread::spawn(move || {
            let _ = done.send(exporting.provider.shutdown_with_timeout(LAST_SPANS));
        });
        match timeout(LAST_SPANS, is_done).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the last spans were not exported in time"),
        }
    }
}

/// Whether the environment asks for spans: there is an endpoint, and nothing says that there shall be none.
fn is_wanted() -> bool {
    let says = |name, word: &str| {
        std::env::var(name).is_ok_and(|value| value.trim().eq_ignore_ascii_case(word))
    };
    has_endpoint() && !says("OTEL_SDK_DISABLED", "true") && !says("OTEL_TRACES_EXPORTER", "none")
}

/// What all spans say of this process, as `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have it.
fn resource() -> Resource {
    let found = Resource::builder().build();
    let is_named = found
        .get(&"service.name".into())
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    // What is added here would win over what the environment says.
    let mut builder = Resource::builder();
    if !is_named {
        builder = builder.with_service_name(SERVICE_NAME);
    }
    if found.get(&version.key).is_none() {
        builder = builder.with_attribute(version);
    }
    builder.build()
}

/// A request's own span, and its place in a trace.
#[derive(Debug, Default)]
pub struct RequestSpan {
    branch: Branch,
    /// `None` where nothing is exported of it.
    span: Option<Box<Span>>,
}

impl RequestSpan {
    /// Its own span where spans are exported, whether this one is or not; the client's where none are.
    #[must_use]
    pub fn at(&self) -> Option<TraceRef> {
        self.branch.at()
    }

    /// For what is done for the request.
    #[must_use]
    pub fn branch(&self) -> Branch {
        self.branch.clone()
    }

    /// Ends it with all that is known.
    pub fn end<'a>(&mut self, ended: impl FnOnce() -> Ended<'a>) {
        if let Some(mut span) = self.span.take() {
            conclude(&mut span, &ended());
            span.end();
        }
    }
}

/// Where in a trace that is done which is done for a request.
#[derive(Clone, Debug, Default)]
pub struct Branch(Place);

#[derive(Clone, Debug)]
enum Place {
    /// No spans are exported: it is where the client says.
    Received(Option<TraceRef>),
    /// Below a span that is not exported.
    Unsampled { own: Traceparent, is_root: bool },
    /// Below one that is.
    Sampled(Arc<Under>),
}

#[derive(Debug)]
struct Under {
    exporting: Arc<Exporting>,
    /// For the spans below it.
    context: Context,
    own: Traceparent,
    /// Whether the trace begins with it.
    is_root: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self::Received(None)
    }
}

impl Branch {
    fn at(&self) -> Option<TraceRef> {
        match &self.0 {
            Place::Received(at) => *at,
            Place::Unsampled { own, .. } => Some(own.at),
            Place::Sampled(under) => Some(under.own.at),
        }
    }

    /// This was done until now, and took so long.
    pub fn did(&self, name: &'static str, took: Duration) {
        let Place::Sampled(under) = &self.0 else {
            return;
        };
        let now = SystemTime::now();
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(now.checked_sub(took).unwrap_or(now));
        let mut span = under
            .exporting
            .tracer
            .build_with_context(builder, &under.context);
        span.end_with_timestamp(now);
    }

    /// The request goes to its upstream, which is told of the dispatch's span.
    #[must_use]
    pub fn dispatch(&self, headers: &mut HeaderMap, sent: Sent<'_>) -> DispatchSpan {
        let (own, is_root, span) = match &self.0 {
            Place::Received(at) => {
                return DispatchSpan {
                    at: *at,
                    under_way: None,
                };
            }
            Place::Unsampled { own, is_root } => (*own, *is_root, None),
            Place::Sampled(under) => {
                let span = under.dispatch(sent);
                (traceparent(span.span_context()), under.is_root, Some(span))
            }
        };
        if let Ok(value) = HeaderValue::from_str(&own.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if is_root {
            // It belongs to a `traceparent` that was none.
            headers.remove(TRACESTATE);
        }
        DispatchSpan {
            at: Some(own.at),
            under_way: span.map(|span| {
                let has_failed = false;
                Box::new(Mutex::new(UnderWay { span, has_failed }))
            }),
        }
    }
}

impl Under {
    fn dispatch(&self, sent: Sent<'_>) -> Span {
        let method = method(sent.method);
        let builder = SpanBuilder::from_name(method)
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("http.request.method", method),
                KeyValue::new("oncegate.upstream", sent.upstream.to_owned()),
            ]);
        self.exporting
            .tracer
            .build_with_context(builder, &self.context)
    }
}

/// The span of a dispatch; it ends with this at the latest.
#[derive(Debug)]
pub struct DispatchSpan {
    at: Option<TraceRef>,
    /// `None` where nothing is exported of it.
    under_way: Option<Box<Mutex<UnderWay>>>,
}

#[derive(Debug)]
struct UnderWay {
    span: Span,
    /// The first word counts: an attribute that is set twice is there twice.
    has_failed: bool,
}

impl UnderWay {
    fn fail(&mut self, error: Failure) {
        if !std::mem::replace(&mut self.has_failed, true) {
            fail(&mut self.span, error);
        }
    }
}

impl DispatchSpan {
    /// What the upstream is told: its own span where spans are exported, else the client's.
    #[must_use]
    pub fn at(&self) -> Option<TraceRef> {
        self.at
    }

    /// The head of an answer has come.
    pub fn answered(&self, answered: Answered) {
        self.tell(|dispatch| {
            let status = answered.status;
            dispatch.span.set_attribute(code(status));
            if let Some(endpoint) = answered.endpoint {
                words::peer(&mut dispatch.span, endpoint);
            }
            if status.is_client_error() || status.is_server_error() {
                dispatch.fail(Failure::Status(status));
            }
        });
    }

    /// There is no answer, or none in time, for this reason.
    pub fn failed(&self, reason: &'static str) {
        self.tell(|dispatch| dispatch.fail(Failure::Reason(reason)));
    }

    /// What comes from now on comes late.
    pub fn late(&self) {
        let late = KeyValue::new("oncegate.late", true);
        self.tell(|dispatch| dispatch.span.set_attribute(late));
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.tell(|dispatch| dispatch.span.end());
    }

    fn tell(&self, say: impl FnOnce(&mut UnderWay)) {
        if let Some(dispatch) = &self.under_way {
            say(&mut dispatch.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

pub(super) fn remote(at: TraceRef, flags: TraceFlags, state: TraceState) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(at.trace_id),
        SpanId::from_bytes(at.span_id),
        flags,
        true,
        state,
    )
}

/// What `tracestate` says, all lines together; nothing where it is malformed.
fn state(headers: &HeaderMap) -> TraceState {
    let mut all = String::new();
    for line in headers.get_all(TRACESTATE) {
        let Ok(line) = line.to_str() else {
            return TraceState::default();
        };
        all.push_str(if all.is_empty() { "" } else { "," });
        all.push_str(line);
    }
    TraceState::from_str(&all).unwrap_or_default()
}

fn traceparent(context: &SpanContext) -> Traceparent {
    Traceparent {
        at: TraceRef {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
        },
        flags: context.trace_flags().to_u8(),
    }
}
