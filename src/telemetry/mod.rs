//! What an operator sees: metrics and log lines.
//!
//! It knows routes and upstreams by name only, and takes what it counts from the modules that do the work; it
//! never sees a key, a credential, a body or a query.
//!
//! Reading order: [`Metrics`], then the labels ([`Decision`] first), then [`log`] with its [`Sink`], then
//! [`AccessLog`], then [`spans`].

mod access;
mod audit;
mod endpoints;
mod health;
mod instrument;
mod label;
mod listeners;
pub mod log;
mod metrics;
mod reference;
mod resolutions;
mod routes;
mod sink;
pub mod spans;
mod traceparent;
mod unresolved;

pub use access::{AccessLog, Hex, Line, Ms, Whom};
pub use audit::{AuditLog, Pending as PendingAudit, Unwritten};
pub use endpoints::{EndpointMetrics, EndpointSeries};
pub use health::{Health, StoreHealth};
pub use instrument::{Amount, Counter, Gauge, Hold, MirroredCounter, PerLabel, Timing};
pub use label::{
    AddressState, Beat, ClaimResult, ConnectionRefused, Decision, HealthResult, Label, LateAnswer,
    LeaseLost, LimitOver, LookupResult, ObservedReplay, ProbeResult, ProxyRefused, Reload, Resend,
    Settled, Settler, StoreOp, StoreResult, TlsFailed, Unrouted, UpstreamError, WouldBe,
};
pub use listeners::{ListenerMetrics, TlsMetrics};
pub use metrics::{CacheMetrics, Metrics, StoreMetrics, UpstreamMetrics};
pub use reference::{access_log_reference, reference};
pub use resolutions::ResolutionMetrics;
pub use routes::RouteMetrics;
pub use sink::Sink;
pub use unresolved::{UNRESOLVED_COUNTED, UnresolvedGauges, UnresolvedMetrics};
