//! The way of a request.
//!
//! ```text
//! HTTP policy → route → pass ─────────────────────────────────────────────→ forward, perhaps tunnel
//!       → observe, sight: forward, and count beside it what `protect` would have made of it
//!       → protect: read body, identify, replay cache, waiters
//!                  → exchange (outlives its client): claim → attempt: dispatch, judge, settle → answer
//! ```
//!
//! Reading order: [`Gateway::handle`], then `protect`, `exchange`, `attempt`, `dispatch`. `ledger` is how the store
//! is asked, `lease` keeps a claim alive, `waiters`, `foreign` and `replay` answer duplicates, `resend` lets one of them
//! dispatch what nobody knows the outcome of, `probe` asks the upstream about it at the `pace` that it bears, `age` knows keys
//! that are too old, `problem` words refusals, `grpc` knows what the statuses of gRPC say, and words them for its clients,
//! `cors` lets pages of other origins read it all.
//! Nothing in here opens a socket or a file.

mod age;
mod attempt;
mod body;
mod cors;
mod course;
mod detach;
mod dispatch;
#[cfg(test)]
mod elsewhere;
mod entry;
mod exchange;
mod foreign;
mod forwarded;
mod grpc;
mod headers;
mod lease;
mod ledger;
mod message;
mod observe;
mod outbound;
mod pace;
mod pass;
mod probe;
mod problem;
mod protect;
mod replay;
mod resend;
mod sight;
#[cfg(test)]
mod simulation;
mod subject;
mod tunnel;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::identity::{IdKeyBytes, Identifier};
use crate::protocol::{Answer, RecordId, Response as RecordedResponse, Timestamp, Verdict};
use crate::route::{Found, Mode, Table};
use crate::server::{Budget, Fault, Handler, Held, Peer, RequestBody};
use crate::store::{Store, StoreError, Unresolved};
use crate::telemetry::spans::Spans;
use crate::telemetry::{
    AccessLog, AddressState, Decision, EndpointSeries, HealthResult, Hold, LookupResult, Metrics,
    Unrouted,
};
use crate::upstream::{EndpointStats, Upstream};

pub use body::Body;

use age::Issuer;
use cors::Called;
use entry::{Entry, Sending};
use foreign::Foreign;
use headers::Taker;
use ledger::Ledger;
use observe::UnderWay;
use pace::Paces;
use problem::{Problem, Refusal};
use replay::ReplayCache;
use resend::Sightings;
use subject::{Lane, Subject, Tally};
use waiters::Waiters;

/// Claims without a verdict at a time: those that are being asked for, and those in doubt. More come up only where the
/// store does not keep up; each is a small task that goes on asking.
const MAX_CLAIMS: usize = 8192;

/// What a gateway is made of.
pub struct Parts {
    /// In order of precedence.
    pub routes: Table,
    /// By name; each route's is among them, in the order of the metrics.
    pub upstreams: Vec<(String, Arc<Upstream>)>,
    /// Where records are kept.
    pub store: Arc<dyn Store>,
    /// Of one store operation.
    pub store_timeout: Duration,
    /// Keys record ids and fingerprints.
    pub id_key: IdKeyBytes,
    /// Goes into record ids.
    pub namespace: String,
    /// Bounds of everything that waits or is held.
    pub limits: Limits,
    /// What the `type` of problems begins with.
    pub problem_base: Option<String>,
    /// What counts it all; its routes and upstreams are these.
    pub metrics: Arc<Metrics>,
    /// Where a line is written for each request.
    pub access_log: Arc<AccessLog>,
    /// What makes a span of each request.
    pub spans: Spans,
}

/// What of a gateway's parts a new configuration changes.
pub struct Changed {
    /// In order of precedence.
    pub routes: Table,
    /// By name; each route's is among them, in the order of the metrics.
    pub upstreams: Vec<(String, Arc<Upstream>)>,
    /// Bounds of everything that waits or is held.
    pub limits: Limits,
    /// What the `type` of problems begins with.
    pub problem_base: Option<String>,
    /// The same process's; its routes and upstreams are these.
    pub metrics: Arc<Metrics>,
    /// Where a line is written for each request.
    pub access_log: Arc<AccessLog>,
}

/// Takes requests and lets each operation through once.
#[derive(Clone)]
pub struct Gateway(Arc<ArcSwap<Shared>>);

/// What all requests share. A new configuration makes another one: what routes are is its own, what keeps the protocol true
/// and whatever is held within bounds is that of the first.
pub struct Shared {
    http: message::Policy,
    routes: Table,
    lanes: Vec<Arc<Lane>>,
    upstreams: Vec<(String, Arc<Upstream>)>,
    identifier: Arc<Identifier>,
    ledger: Arc<Ledger>,
    waiters: Arc<Waiters>,
    foreign: Arc<Foreign>,
    cache: Arc<ReplayCache>,
    sightings: Arc<Sightings>,
    paces: Arc<Paces>,
    budget: Arc<Budget>,
    late: Arc<Budget>,
    claims: Arc<Semaphore>,
    observed: Arc<UnderWay>,
    issuer: Option<(Issuer, Arc<Identifier>)>,
    problem_base: Option<String>,
    metrics: Arc<Metrics>,
    access_log: Arc<AccessLog>,
    spans: Spans,
    /// Exchanges under way, claims in doubt, recordings that go on in the background.
    tasks: TaskTracker,
    /// Cancelled at the end of a drain: what can be settled now is settled.
    stop: CancellationToken,
}

impl Gateway {
    /// Puts the parts together.
    ///
    /// # Panics
    /// Where a route's upstream is not among the parts: the configuration was lowered with that checked.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            routes,
            upstreams,
            limits,
            metrics,
            ..
        } = parts;
        let identifier = Arc::new(Identifier::new(&parts.id_key, &parts.namespace));
        show(&limits, &metrics);
        let ledger = Ledger::new(parts.store, parts.store_timeout, Arc::clone(&metrics));
        let ledger = Arc::new(ledger);
        Self(Arc::new(ArcSwap::from_pointee(Shared {
            http: message::Policy::new(&routes),
            issuer: Issuer::new(&routes).map(|issuer| (issuer, Arc::clone(&identifier))),
            lanes: lanes(&routes, &upstreams, &identifier, &metrics),
            routes,
            upstreams,
            identifier,
            foreign: Foreign::new(Arc::clone(&ledger)),
            ledger,
            waiters: Waiters::new(limits.max_waiters, limits.max_waiters_per_key),
            cache: Arc::new(ReplayCache::new(limits.replay_cache)),
            sightings: Arc::new(Sightings::new()),
            paces: Paces::new(),
            budget: Budget::new(limits.max_buffered),
            late: Budget::new(limits.max_late as u64),
            claims: Arc::new(Semaphore::new(MAX_CLAIMS)),
            observed: UnderWay::new(),
            problem_base: parts.problem_base,
            metrics,
            access_log: parts.access_log,
            spans: parts.spans,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })))
    }

    /// Takes requests by another configuration from now on. Those under way end by the one that they began with; whoever
    /// waits goes on waiting, and what is held, counted or in doubt stays so.
    ///
    /// # Panics
    /// Where a route's upstream is not among the parts.
    pub fn change(&self, changed: Changed) {
        // What has been counted until now is told by those upstreams that are leaving.
        self.mirror();
        let now = self.0.load();
        self.0.store(Arc::new(now.changed(changed)));
    }

    /// The upstreams by name, in the order of the metrics.
    #[must_use]
    pub fn upstreams(&self) -> Vec<(String, Arc<Upstream>)> {
        self.0.load().upstreams.clone()
    }

    /// Asks the store whether it can be asked.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping_store(&self) -> Result<(), StoreError> {
        self.ledger().ping().await
    }

    /// A page of unresolved records, see [`Store::unresolved`].
    ///
    /// # Errors
    /// Why there is none.
    pub async fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, StoreError> {
        self.ledger().unresolved(after, limit).await
    }

    /// What clients are told that find no place among `max_connections`.
    #[must_use]
    pub fn refusal_when_full(&self) -> Vec<u8> {
        self.0.load().refusal(Problem::Overloaded).unread()
    }

    /// Keeps the replay cache true where other processes have the store, too: to be run beside the gateway.
    pub async fn follow_epoch(&self) {
        let cache = Arc::clone(&self.0.load().cache);
        cache.follow(&self.ledger()).await;
    }

    /// Somebody has deleted this record or settled it by hand: it is not answered from memory any more.
    pub fn forget(&self, id: RecordId) {
        let shared = self.0.load();
        shared.cache.forget(id, shared.ledger.timeout());
    }

    /// Asks upstreams about what is unresolved, where routes say how: to be run beside the gateway.
    pub async fn probe_unresolved(&self) {
        probe::unresolved(|| self.0.load_full()).await;
    }

    /// Sets the gauges that mirror what is held here; for each scrape.
    pub fn mirror(&self) {
        let shared = self.0.load();
        let metrics = &shared.metrics;
        metrics.waiters.set(shared.waiters.waiting() as u64);
        metrics.buffered.set(shared.budget.held());
        metrics.replay_cache.bytes.set(shared.cache.bytes());
        for (index, (_, upstream)) in shared.upstreams.iter().enumerate() {
            let (stats, mirrored) = (upstream.stats(), metrics.upstream(index));
            mirrored.connections.set(stats.open as u64);
            mirrored.connections_idle.set(stats.idle as u64);
            mirrored.in_flight.set(stats.in_flight as u64);
        }
        for (name, upstream) in &shared.upstreams {
            for stats in upstream.endpoint_stats() {
                mirror_endpoint(&metrics.endpoints.of(name, &stats.endpoint), &stats);
            }
        }
    }

    /// Waits until every exchange has ended and every claim in doubt is settled.
    ///
    /// No request may come any more; call it after the server's drain.
    pub async fn finished(&self) {
        let tasks = self.0.load().tasks.clone();
        tasks.close();
        tasks.wait().await;
    }

    /// Ends what is still under way: what is provably unsent is released, the rest is marked unknown. Await
    /// [`Gateway::finished`] for these last words to reach the store.
    pub fn cut_short(&self) {
        self.0.load().stop.cancel();
    }

    fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.0.load().ledger)
    }
}

impl Handler for Gateway {
    type Body = Body;

    async fn handle(&self, request: Box<Request<RequestBody>>, peer: Peer) -> Response<Body> {
        let shared = self.0.load_full();
        let entry = Entry::begin(&shared.access_log, &shared.spans, &request, &peer);
        let (taker, is_grpc) = (Taker::of(&request), grpc::is_grpc(request.headers()));
        // Dropped with this future where the client leaves before there is an answer.
        let mut sending = Sending::new(Arc::clone(&entry));
        let mut response = shared.answer(request, &peer, entry).await;
        if is_grpc {
            if response.body().is_refusal() {
                response = grpc::refusal(response);
            }
            sending.answers_call(response.headers());
        }
        taker.fit(&mut response);
        let status = response.status();
        response.map(|body| body.counted(sending, status))
    }

    fn malformed(&self, fault: Fault, is_head: bool, peer: Peer) -> Response<Body> {
        let shared = self.0.load();
        let entry = Entry::unread(&shared.access_log, is_head, &peer);
        let problem = match fault.is_too_large() {
            true => Problem::HeadTooLarge,
            false => Problem::BadRequest,
        };
        let response = shared.unread(&entry, problem, &fault.to_string());
        let status = response.status();
        response.map(|body| body.counted(Sending::new(entry), status))
    }
}

impl Shared {
    async fn answer(
        self: &Arc<Self>,
        request: Box<Request<RequestBody>>,
        peer: &Peer,
        entry: Arc<Entry>,
    ) -> Response<Body> {
        let shared = self;
        if let Some(fault) = shared.http.fault(&request) {
            return shared.malformed(&entry, fault, request.version());
        }
        if let Some((issuer, identifier)) = &shared.issuer
            && issuer.is_asked(request.method(), request.uri().path())
        {
            let cors = issuer.cors(cors::origin(request.headers()));
            let called = cors.map(|cors| Called::new(cors, request.headers()));
            let mut response = issuer.issued(shared, identifier, &entry).boxed().await;
            if let Some(called) = called {
                called.tell(response.headers_mut());
            }
            return response;
        }
        let host = request.uri().authority().map_or_else(
            || {
                request
                    .headers()
                    .get(HOST)
                    .and_then(|host| host.to_str().ok())
            },
            |authority| Some(authority.as_str()),
        );
        if let Some(method) = cors::preflighted(&request)
            && let Some(response) = shared.preflight(&method, host, &request, &entry)
        {
            return response;
        }
        let found = shared
            .routes
            .find(request.method(), host, request.uri().path());
        let (index, route, policy) = match found {
            Found::NotFound => {
                shared.metrics.unrouted.inc(Unrouted::NoRoute);
                entry.unrouted(Unrouted::NoRoute);
                return shared.refusal(Problem::NoRoute).unrouted();
            }
            Found::Ambiguous => {
                let detail = "The path could be read as another route's.";
                return shared.malformed(&entry, detail, request.version());
            }
            Found::Route {
                index,
                route,
                policy,
            } => (index, route, policy),
        };
        let lane = &shared.lanes[index];
        let tally = Tally::new(Arc::clone(lane), entry);
        let cors = route.cors.as_deref();
        let called = cors.map(|cors| Called::new(cors, request.headers()));
        let mut response = match (policy, &route.mode) {
            (None, _) => pass::untouched(shared, lane, tally, request, peer).await,
            (Some(_), Mode::Observe(_)) => {
                observe::observed(shared, lane, tally, request, peer)
                    .boxed()
                    .await
            }
            // Boxed, so that what passes needs no room for what is protected.
            (Some(_), _) => {
                protect::protected(shared, lane, tally, request, peer)
                    .boxed()
                    .await
            }
        };
        if let Some(called) = called {
            called.tell(response.headers_mut());
        }
        response
    }

    /// Answers a browser that asks whether a page may use this method here, where the route that would have such a request
    /// says who may call it. It is no request on that route: nothing is claimed, sent or counted there.
    fn preflight<B>(
        &self,
        method: &Method,
        host: Option<&str>,
        request: &Request<B>,
        entry: &Entry,
    ) -> Option<Response<Body>> {
        let (headers, path) = (request.headers(), request.uri().path());
        let issuer = self.issuer.as_ref().map(|(issuer, _)| issuer);
        let cors = match issuer.filter(|issuer| issuer.is_asked(method, path)) {
            Some(issuer) => issuer.cors(cors::origin(headers))?,
            None => match self.routes.find(method, host, path) {
                Found::Route { route, .. } => route.cors.as_deref()?,
                Found::NotFound | Found::Ambiguous => return None,
            },
        };
        let response = cors::preflight(cors, method, headers);
        self.metrics.unrouted.inc(Unrouted::Preflight);
        entry.unrouted(Unrouted::Preflight);
        Some(response)
    }
}

fn mirror_endpoint(series: &EndpointSeries<'_>, stats: &EndpointStats) {
    series.addresses(|state| match state {
        AddressState::Usable => stats.usable,
        AddressState::Ejected => stats.ejected,
        AddressState::Unhealthy => stats.unhealthy,
    });
    let since = stats.since;
    series.ejections(since.ejections);
    series.checks(HealthResult::Passed, since.checks_passed);
    series.checks(HealthResult::Failed, since.checks_failed);
    series.lookups(LookupResult::Answered, since.lookups_answered);
    series.lookups(LookupResult::None, since.lookups_without_address);
    series.lookups(LookupResult::Failed, since.lookups_unanswered);
}

/// Each route with all that its requests need.
fn lanes(
    routes: &Table,
    upstreams: &[(String, Arc<Upstream>)],
    identifier: &Arc<Identifier>,
    metrics: &Arc<Metrics>,
) -> Vec<Arc<Lane>> {
    let lane = |(index, route): (usize, &Arc<crate::route::Route>)| {
        let upstream_index = upstreams
            .iter()
            .position(|(name, _)| *name == route.upstream)
            .expect("every route's upstream is configured");
        Arc::new(Lane {
            route: Arc::clone(route),
            upstream: Arc::clone(&upstreams[upstream_index].1),
            identifier: Arc::clone(identifier),
            all_metrics: Arc::clone(metrics),
            index,
            upstream_index,
        })
    };
    routes.routes().iter().enumerate().map(lane).collect()
}

impl Shared {
    fn changed(&self, changed: Changed) -> Self {
        let Changed {
            routes,
            upstreams,
            limits,
            problem_base,
            metrics,
            access_log,
        } = changed;
        show(&limits, &metrics);
        self.waiters
            .set_limits(limits.max_waiters, limits.max_waiters_per_key);
        self.cache.set_limit(limits.replay_cache);
        self.budget.set_limit(limits.max_buffered);
        self.late.set_limit(limits.max_late as u64);
        let identifier = Arc::clone(&self.identifier);
        Self {
            http: message::Policy::new(&routes),
            lanes: lanes(&routes, &upstreams, &identifier, &metrics),
            issuer: Issuer::new(&routes).map(|issuer| (issuer, Arc::clone(&identifier))),
            routes,
            upstreams,
            identifier,
            problem_base,
            metrics,
            access_log,
            ledger: Arc::clone(&self.ledger),
            waiters: Arc::clone(&self.waiters),
            foreign: Arc::clone(&self.foreign),
            cache: Arc::clone(&self.cache),
            sightings: Arc::clone(&self.sightings),
            paces: Arc::clone(&self.paces),
            budget: Arc::clone(&self.budget),
            late: Arc::clone(&self.late),
            claims: Arc::clone(&self.claims),
            observed: Arc::clone(&self.observed),
            spans: self.spans.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        }
    }

    /// What a client hears that comes upon a record, and what it counts as.
    fn told(&self, subject: &Subject, verdict: Verdict) -> (Decision, Response<Body>) {
        let (decision, problem) = match verdict {
            Verdict::Completed(found) if found.fingerprint != subject.origin.fingerprint => {
                (Decision::Mismatch, Problem::KeyReused)
            }
            Verdict::Completed(found) => match &found.completed.answer {
                Answer::Stored(response) => {
                    self.metrics.replay_cache.misses.inc();
                    subject
                        .metrics()
                        .replayed(replay::age(found.completed.completed_at));
                    self.cache.keep(subject.id, &found);
                    return self.replayed(subject, response, Decision::Replayed);
                }
                Answer::NotStored(_) => (Decision::NotStored, Problem::ResponseNotStored),
                Answer::Sealed(_) => {
                    tracing::error!(
                        key_ref = %subject.key_ref(), route = subject.route(),
                        "the recorded response is sealed, and no `encryption_keys` are configured",
                    );
                    (Decision::StoreUnavailable, Problem::StoreUnavailable)
                }
            },
            Verdict::Unknown { .. } => (Decision::Unknown, Problem::OutcomeUnknown),
            Verdict::Mismatch => (Decision::Mismatch, Problem::KeyReused),
            Verdict::InFlight { .. } => (Decision::InProgress, Problem::RequestInProgress),
            Verdict::Expired => (Decision::Expired, Problem::ResultExpired),
            // Answers to an owner, which a client that comes upon a record is not.
            Verdict::Acquired { .. }
            | Verdict::Held { .. }
            | Verdict::Done
            | Verdict::Restored
            | Verdict::Lost
            | Verdict::Changed => (Decision::StoreUnavailable, Problem::StoreUnavailable),
        };
        (decision, self.refused(subject, problem))
    }

    /// The recorded response, and the decision that it counts as; without room for its body, a refusal.
    fn replayed(
        &self,
        subject: &Subject,
        recorded: &RecordedResponse,
        decision: Decision,
    ) -> (Decision, Response<Body>) {
        match replay::replayed(recorded, &self.budget) {
            Some(response) => (decision, response),
            None => (
                Decision::Overloaded,
                self.refused(subject, Problem::Overloaded),
            ),
        }
    }

    /// A refusal about an operation.
    fn refused(&self, subject: &Subject, problem: Problem) -> Response<Body> {
        let mut refusal = self.refusal(problem);
        refusal.key_ref = Some(subject.key_ref());
        if problem == Problem::OutcomeUnknown {
            refusal.status = StatusCode::from_u16(subject.policy().unknown_status).ok();
        }
        refusal.protected()
    }

    fn refusal(&self, problem: Problem) -> Refusal<'_> {
        Refusal::new(problem, self.problem_base.as_deref())
    }

    /// A refusal before any route was asked. What comes behind such a message on an HTTP/1 connection is not believed
    /// to be one.
    fn malformed(&self, entry: &Entry, detail: &str, version: Version) -> Response<Body> {
        let mut response = self.unread(entry, Problem::BadRequest, detail);
        if version < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    fn unread(&self, entry: &Entry, problem: Problem, detail: &str) -> Response<Body> {
        self.metrics.unrouted.inc(Unrouted::BadRequest);
        entry.unrouted(Unrouted::BadRequest);
        let mut refusal = self.refusal(problem);
        refusal.detail = Some(detail.to_owned());
        refusal.unrouted()
    }

    /// A place among the dispatches that stay open past their `response_timeout`, if there is one left.
    fn late_place(&self) -> Option<(Held, Hold)> {
        let place = self.late.take(1)?;
        Some((place, self.metrics.late_dispatches.hold()))
    }
}

/// Sets the gauges that say what the bounds are.
fn show(limits: &Limits, metrics: &Metrics) {
    metrics.waiters_limit.set(limits.max_waiters as u64);
    metrics.buffered_limit.set(limits.max_buffered);
    metrics.late_dispatches_limit.set(limits.max_late as u64);
    metrics.replay_cache.limit_bytes.set(limits.replay_cache);
}

/// The host that the request asks for: `:authority` or the target's in HTTP/2 and absolute-form targets, else the
/// `Host` header.
fn host<B>(request: &Request<B>) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(HOST).cloned(),
    }
}
