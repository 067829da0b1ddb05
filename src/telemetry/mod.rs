//! What an operator sees: metrics and log lines.
//!
//! It knows routes and upstreams by name only, and takes what it counts from the modules that do the work; it
//! never sees a key, a credential, a body or a query.
//!
//! Reading order: [`Metrics`], then the labels ([`Decision`] first), then [`log`] with its [`Sink`], then
//! [`AccessLog`].

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
mod unresolved;

pub use access::{AccessLog, Line, Ms, Whom};
pub use audit::{AuditLog, Unwritten};
pub use endpoints::{EndpointMetrics, EndpointSeries};
pub use health::{Health, StoreHealth};
pub use instrument::{Amount, Counter, Gauge, Hold, MirroredCounter, PerLabel, Timing};
pub use label::{AddressState, HealthResult, LookupResult};
pub use label::{
    Beat, ClaimResult, ConnectionRefused, Decision, Label, LateAnswer, LeaseLost, LimitOver,
    ObservedReplay, ProbeResult, Resend, Settled, Settler, StoreOp, StoreResult, Unrouted,
    UpstreamError, WouldBe,
};
pub use label::{ProxyRefused, Reload, TlsFailed};
pub use listeners::{ListenerMetrics, TlsMetrics};
pub use metrics::{CacheMetrics, Metrics, StoreMetrics, UpstreamMetrics};
pub use reference::{access_log_reference, reference};
pub use resolutions::ResolutionMetrics;
pub use routes::RouteMetrics;
pub use sink::Sink;
pub use unresolved::{UNRESOLVED_COUNTED, UnresolvedGauges, UnresolvedMetrics};
