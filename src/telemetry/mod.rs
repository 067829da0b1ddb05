//! What an operator sees: metrics and log lines.
//!
//! It knows routes and upstreams by name only, and takes what it counts from the modules that do the work; it
//! never sees a key, a credential, a body or a query.
//!
//! Reading order: [`Metrics`], then the labels ([`Decision`] first), then [`log`].

mod instrument;
mod label;
pub mod log;
mod metrics;
mod reference;

pub use instrument::{Counter, Gauge, Hold, MirroredCounter, PerLabel, Timing};
pub use label::{
    Beat, Decision, Label, LateAnswer, LeaseLost, StoreOp, StoreResult, TimeLimit, Unrouted,
    UpstreamError,
};
pub use metrics::{CacheMetrics, Metrics, RouteMetrics, StoreMetrics, UpstreamMetrics};
pub use reference::reference;
