//! What a request is about: its route with everything that belongs to it, its operation, and its count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Became, Counter, Entry, Outcome, Times};
use crate::identity::{Identifier, KeyRef};
use crate::protocol::{Cause, Origin, RecordId, Timestamp};
use crate::route::{Policy, Route};
use crate::telemetry::spans::Branch;
use crate::telemetry::{
    Decision, Hold, Label, Metrics, RouteMetrics, StoreOp, Unrouted, UpstreamError, UpstreamMetrics,
};
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
            SendErrorKind::Resolve
            | SendErrorKind::Connect
            | SendErrorKind::ConnectTimeout
            | SendErrorKind::Tls => UpstreamError::Connect,
            SendErrorKind::Refused => UpstreamError::Refused,
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
    /// When its key was made, where that matters.
    pub made_at: Option<Timestamp>,
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
/// was one. It collects what its [`Entry`] is told then.
pub struct Tally {
    lane: Arc<Lane>,
    entry: Arc<Entry>,
    /// What the request counts as if its client leaves now.
    otherwise: Option<Decision>,
    /// Since when it waits for another attempt.
    waiting_since: Option<Instant>,
    id: Option<RecordId>,
    fence: Option<u64>,
    dispatched: bool,
    endpoint: Option<SocketAddr>,
    unknown: Option<Cause>,
    times: Times,
    /// Gone once it is decided upon.
    in_flight: Option<Hold>,
    /// Whether an [`ObservedTally`] does the counting.
    is_observed: bool,
}

/// Counts an observed request exactly once, whenever it is known what it would have been.
pub struct ObservedTally {
    lane: Arc<Lane>,
    entry: Arc<Entry>,
    decided: bool,
}

impl Tally {
    /// A request whose head has just been read. Boxed, because it goes through many hands.
    #[must_use]
    pub fn new(lane: Arc<Lane>, entry: Arc<Entry>) -> Box<Self> {
        Box::new(Self {
            in_flight: Some(lane.metrics().in_flight.hold()),
            lane,
            entry,
            otherwise: None,
            waiting_since: None,
            id: None,
            fence: None,
            dispatched: false,
            endpoint: None,
            unknown: None,
            times: Times::default(),
            is_observed: false,
        })
    }

    /// Its body is in, and is held; says since when.
    pub fn body_read(&mut self, bytes: u64) -> Instant {
        self.entry.read(bytes);
        let now = Instant::now();
        self.times.body = Some(now - self.entry.started());
        now
    }

    /// Counts a body that passes through.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter(Arc::clone(&self.entry))
    }

    /// Where in a trace that is done which is done for it.
    #[must_use]
    pub fn branch(&self) -> Branch {
        self.entry.branch()
    }

    /// Its outcome is not known, for this reason.
    pub fn unknown(&mut self, cause: Cause) {
        self.unknown = Some(cause);
    }

    /// Leaves the counting to another, which may be done later than the answer.
    #[must_use]
    pub fn observed(&mut self) -> ObservedTally {
        self.is_observed = true;
        ObservedTally {
            lane: Arc::clone(&self.lane),
            entry: Arc::clone(&self.entry),
            decided: false,
        }
    }

    /// This is the operation that it is about.
    pub fn identified(&mut self, id: RecordId) {
        self.id = Some(id);
    }

    /// It has the claim of this number.
    pub fn acquired(&mut self, fence: u64) {
        self.fence = Some(fence);
    }

    /// It waits for another attempt: if its client leaves meanwhile, that is what it met.
    pub fn waits(&mut self) {
        self.otherwise = Some(Decision::InProgress);
        if !self.lane.policy().wait.is_zero() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
    }

    /// It has waited for the verdict of another attempt.
    pub fn waited(&mut self, span: Duration) {
        self.entry.branch().did("wait", span);
        add(&mut self.times.waited, span);
    }

    /// The store was asked for it, for this op.
    pub fn asked_store(&mut self, op: StoreOp, span: Duration) {
        self.entry.branch().did(op.name(), span);
        add(&mut self.times.store, span);
    }

    /// It was handed to the upstream, of which this address has answered.
    pub fn dispatched(&mut self, span: Duration, endpoint: Option<SocketAddr>) {
        self.dispatched = true;
        self.endpoint = endpoint;
        add(&mut self.times.upstream, span);
    }

    /// This is what became of it.
    pub fn decide(mut self: Box<Self>, decision: Decision) {
        self.count(decision);
    }

    /// It is no request that could be decided upon.
    pub fn malformed(mut self: Box<Self>) {
        self.unrouted(Unrouted::BadRequest);
    }

    fn count(&mut self, decision: Decision) {
        let head = self.entry.started().elapsed();
        if let Some(since) = self.waiting_since.take() {
            self.waited(since.elapsed());
        }
        let times = &mut self.times;
        let elsewhere = [times.body, times.waited, times.upstream];
        let overhead = head.saturating_sub(elsewhere.into_iter().flatten().sum());
        times.overhead = Some(overhead);
        let metrics = self.lane.metrics();
        if !self.is_observed {
            metrics.decision(decision);
        }
        metrics.observe(head);
        metrics.overhead(overhead);
        if let Some(waited) = times.waited {
            metrics.waited(waited);
        }
        self.enter(Became::Decided(decision));
    }

    fn unrouted(&mut self, reason: Unrouted) {
        if !self.is_observed {
            self.lane.all_metrics.unrouted.inc(reason);
        }
        self.enter(Became::Unrouted(reason));
    }

    fn enter(&mut self, became: Became) {
        self.entry.decided(Outcome {
            became,
            lane: Some(Arc::clone(&self.lane)),
            id: self.id,
            fence: self.fence,
            dispatched: self.dispatched,
            endpoint: self.endpoint,
            unknown: self.unknown,
            times: self.times,
            in_flight: self.in_flight.take(),
        });
    }
}

fn add(sum: &mut Option<Duration>, span: Duration) {
    *sum = Some(sum.unwrap_or_default() + span);
}

impl ObservedTally {
    /// This is what became of it.
    pub fn decide(mut self, decision: Decision) {
        self.decided = true;
        self.lane.metrics().decision(decision);
        self.entry.observed(decision);
    }
}

impl Drop for ObservedTally {
    fn drop(&mut self) {
        if !self.decided {
            let reason = Unrouted::Abandoned;
            self.lane.all_metrics.unrouted.inc(reason);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        match self.otherwise {
            _ if self.in_flight.is_none() => {}
            Some(decision) => self.count(decision),
            None => self.unrouted(Unrouted::Abandoned),
        }
    }
}
