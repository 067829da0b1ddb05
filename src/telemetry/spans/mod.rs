//! Spans of requests, for a collector of OpenTelemetry; built with the feature `otlp` only.
//!
//! Whoever answers requests has one interface here, whether spans are exported or not. Without the feature it is
//! that of `none`, which merely remembers the place in a trace that a request says it has.

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod exported;
#[cfg(not(feature = "otlp"))]
mod none;
#[cfg(feature = "otlp")]
mod words;

use std::net::{IpAddr, SocketAddr};

use http::{Method, StatusCode};

use crate::identity::KeyRef;
use crate::protocol::{Cause, GrpcCode, TraceRef};
use crate::route::PathPattern;

#[cfg(feature = "otlp")]
pub use exported::{Branch, DispatchSpan, RequestSpan, Spans};
#[cfg(not(feature = "otlp"))]
pub use none::{Branch, DispatchSpan, RequestSpan, Spans};

/// The environment variables that say where spans go; without one of them, none are exported.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Whether there is a collector to export to.
fn has_endpoint() -> bool {
    let mut values = ENDPOINTS.into_iter().filter_map(std::env::var_os);
    values.any(|value| !value.is_empty())
}

/// What is known of a request when its span begins, besides what its head says.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Whether it came under TLS.
    pub is_encrypted: bool,
    /// Whether the path may be shown.
    pub shows_path: bool,
}

/// What is known of a request when its span ends. Neither keys nor credentials are.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The name and the pattern of its route.
    pub route: Option<(&'a str, &'a PathPattern)>,
    /// The status of its answer; `None` where the client left before there was one.
    pub status: Option<StatusCode>,
    /// The code of a call of gRPC.
    pub grpc_status: Option<GrpcCode>,
    /// What became of it.
    pub decision: &'static str,
    /// Whether its outcome is not known; `unknown` says why, where this attempt has met the reason itself.
    pub is_unknown: bool,
    /// Why its outcome is not known.
    pub unknown: Option<Cause>,
    /// How the operation stands, as refusals say it.
    pub operation_state: Option<&'static str>,
    /// What the type of a refusal ends with.
    pub problem: Option<&'static str>,
    /// Which key.
    pub key_ref: Option<KeyRef>,
    /// The number of its claim.
    pub fence: Option<u64>,
    /// The dispatch whose answer it was given.
    pub replay_of: Option<TraceRef>,
}

/// What is known of a dispatch when its span begins.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The upstream's name.
    pub upstream: &'a str,
}

/// What an upstream's answer says of its dispatch.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// The address that it came from.
    pub endpoint: Option<SocketAddr>,
}
