//! No spans: what a request says of its place in a trace is all that there is.

use std::time::Duration;

use http::{HeaderMap, Request};

use super::{Answered, Begun, Ended, Sent, has_endpoint};
use crate::protocol::TraceRef;
use crate::telemetry::traceparent::Traceparent;

/// What makes spans: nothing.
#[derive(Clone, Debug, Default)]
pub struct Spans;

impl Spans {
    /// Makes no spans; where the environment asks for them, a line says that there are none.
    #[must_use]
    pub fn from_env() -> Self {
        if has_endpoint() {
            tracing::warn!(
                "no spans are exported: this program was built without the feature `otlp`"
            );
        }
        Self
    }

    /// A request whose head has just been read.
    #[must_use]
    pub fn request<B>(&self, request: &Request<B>, _: Begun) -> RequestSpan {
        RequestSpan(Traceparent::of(request.headers()).map(|parent| parent.at))
    }

    /// Nothing is left to export.
    #[expect(
        clippy::unused_async,
        reason = "where there are spans it takes its time"
    )]
    pub async fn finish(&self) {}
}

/// Where in a trace a request says that it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestSpan(Option<TraceRef>);

impl RequestSpan {
    /// The client's span.
    #[must_use]
    pub fn at(&self) -> Option<TraceRef> {
        self.0
    }

    /// For what is done for the request.
    #[must_use]
    pub fn branch(&self) -> Branch {
        Branch(self.0)
    }

    /// Nothing comes of it.
    pub fn end<'a>(&mut self, _: impl FnOnce() -> Ended<'a>) {}
}

/// Where in a trace that is done which is done for a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Branch(Option<TraceRef>);

impl Branch {
    /// Nothing comes of it.
    pub fn did(&self, _: &'static str, _: Duration) {}

    /// The request goes to its upstream with its headers as they are.
    #[must_use]
    pub fn dispatch(&self, _: &mut HeaderMap, _: Sent<'_>) -> DispatchSpan {
        DispatchSpan(self.0)
    }
}

/// Where in a trace the client says that a request's dispatch is.
#[derive(Clone, Copy, Debug)]
pub struct DispatchSpan(Option<TraceRef>);

impl DispatchSpan {
    /// The client's span.
    #[must_use]
    pub fn at(&self) -> Option<TraceRef> {
        self.0
    }

    /// Nothing comes of it.
    pub fn answered(&self, _: Answered) {}

    /// Nothing comes of it.
    pub fn failed(&self, _: &'static str) {}

    /// Nothing comes of it.
    pub fn late(&self) {}

    /// Nothing comes of it.
    pub fn end(&self) {}
}
