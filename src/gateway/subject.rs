//! What a request is about: its route with everything that belongs to it, its operation, and its count.

use std::sync::Arc;

use tokio::time::Instant;

use crate::identity::{Identifier, KeyRef};
use crate::protocol::{Origin, RecordId};
use crate::route::{Policy, Route};
use crate::telemetry::{Decision, Metrics, RouteMetrics, Unrouted, UpstreamError, UpstreamMetrics};
use crate::upstream::{SendErrorKind, Upstream};

/// A route and all that its requests need.
pub struct Lane {
    /// The route.
    pub route: Arc<Route>,
    /// Its upstream.
    pub upstream: Arc<Upstream>,
    /// What names its operations.
    pub identifier: Arc<Identifier>,
    /// What counts its requests.
    pub all_metrics: Arc<Metrics>,
    /// The route's place in the configuration.
    pub index: usize,
    /// The upstream's place in the configuration.
    pub upstream_index: usize,
}

impl Lane {
    /// The settings of a route that protects its requests or watches them.
    ///
    /// # Panics
    /// On a pass route: nothing that merely passes asks for them.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.route
            .policy()
            .expect("only protected routes have operations")
    }

    /// What counts the route's requests.
    #[must_use]
    pub fn metrics(&self) -> &RouteMetrics {
        self.all_metrics.route(self.index)
    }

    /// What counts the upstream's answers.
    #[must_use]
    pub fn upstream_metrics(&self) -> &UpstreamMetrics {
        self.all_metrics.upstream(self.upstream_index)
    }

    /// The upstream's name.
    #[must_use]
    pub fn upstream_name(&self) -> &str {
        &self.route.upstream
    }

    /// Counts what went wrong at the upstream; what went wrong here or at the client is not its fault.
    pub fn failed(&self, kind: SendErrorKind) {
        let error = match kind {
            SendErrorKind::Resolve | SendErrorKind::Connect | SendErrorKind::ConnectTimeout => {
                UpstreamError::Connect
            }
            SendErrorKind::Overloaded => UpstreamError::Saturated,
            SendErrorKind::ConnectionLost => UpstreamError::ConnectionLost,
            SendErrorKind::BadResponse => UpstreamError::Truncated,
            SendErrorKind::GateClosed | SendErrorKind::RequestBody => return,
        };
        self.upstream_metrics().error(error);
    }
}

/// One operation of one client: what a record is kept of.
pub struct Subject {
    /// Its route.
    pub lane: Arc<Lane>,
    /// Where its record is.
    pub id: RecordId,
    /// Its fingerprint and sealed reference.
    pub origin: Origin,
}

impl Subject {
    /// How logs and answers name it; most operations are named by neither.
    #[must_use]
    pub fn key_ref(&self) -> KeyRef {
        self.lane.identifier.key_ref(&self.id)
    }

    /// The settings of its route.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.lane.policy()
    }

    /// What counts its route's requests.
    #[must_use]
    pub fn metrics(&self) -> &RouteMetrics {
        self.lane.metrics()
    }

    /// Its route's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.lane.route.name
    }
}

/// Counts a request on a route exactly once: by its decision, or as abandoned where the client left before there
/// was one.
pub struct Tally {
    lane: Arc<Lane>,
    started: Instant,
    /// What the request counts as if its client leaves now.
    otherwise: Option<Decision>,
    decided: bool,
}

impl Tally {
    /// A request whose head has just been read.
    #[must_use]
    pub fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            started: Instant::now(),
            otherwise: None,
            decided: false,
        }
    }

    /// It waits for another attempt: if its client leaves meanwhile, that is what it met.
    pub fn waits(&mut self) {
        self.otherwise = Some(Decision::InProgress);
    }

    /// This is what became of it.
    pub fn decide(mut self, decision: Decision) {
        self.count(decision);
    }

    /// The same where the answer is timed elsewhere, because it does not wait for the decision.
    pub fn decide_untimed(mut self, decision: Decision) {
        self.decided = true;
        self.lane.metrics().decision(decision);
    }

    /// It is no request that could be decided upon.
    pub fn malformed(mut self) {
        self.decided = true;
        self.lane.all_metrics.unrouted.inc(Unrouted::BadRequest);
    }

    fn count(&mut self, decision: Decision) {
        self.decided = true;
        let metrics = self.lane.metrics();
        metrics.decision(decision);
        metrics.observe(self.started.elapsed());
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        match self.otherwise {
            _ if self.decided => {}
            Some(decision) => self.count(decision),
            None => self.lane.all_metrics.unrouted.inc(Unrouted::Abandoned),
        }
    }
}
