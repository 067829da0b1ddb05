//! Every metric there is. Making a [`Metrics`] registers them; the reference in the README is read from what
//! was registered.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;

use super::endpoints::EndpointMetrics;
use super::health::StoreHealth;
use super::instrument::{Counter, Families, Gauge, MirroredCounter, PerLabel, Registrar, Timing};
use super::label::{
    Beat, ClaimResult, ConnectionRefused, Label, LeaseLost, LimitOver, Reload, StoreOp,
    StoreResult, Unrouted, UpstreamError,
};
use super::listeners::ListenerMetrics;
use super::resolutions::ResolutionMetrics;
use super::routes::{RouteMetrics, register_routes};
use super::unresolved::UnresolvedMetrics;

/// Bounds of the buckets of what crosses a network: from a loopback answer to `response_timeout` and beyond.
pub(super) const REQUEST_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// Bounds of the buckets of store calls: from a map in memory to four times the default `timeout`.
const STORE_SECONDS: [f64; 13] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// All metrics of a process.
///
/// Every series exists with value 0 from the start, and the values of labels come from the configuration or from
/// the closed sets of [`Label`]. Routes and upstreams are addressed by their place in the configuration. Gauges
/// are either *held* (by [`Gauge::hold`]), *limits* (set once), or *mirrors* (set before each scrape).
#[derive(Debug)]
pub struct Metrics {
    families: Arc<Families>,
    routes: Box<[RouteMetrics]>,
    upstreams: Box<[UpstreamMetrics]>,
    /// Those of the upstreams' endpoints.
    pub endpoints: EndpointMetrics,
    /// Requests that met no route.
    pub unrouted: PerLabel<Unrouted, Counter>,
    /// Calls of the store, and how full it is.
    pub store: StoreMetrics,
    /// Held: from `Acquired` until the record is settled or the claim given back.
    pub claims_held: Gauge,
    /// Held: claims of which it is not known whether the store took them, until they are settled.
    pub claims_in_doubt: Gauge,
    /// Claims by what they met.
    pub claims: PerLabel<ClaimResult, Counter>,
    /// Beats by what they met.
    pub beats: PerLabel<Beat, Counter>,
    /// Claims found lost by their owner.
    pub leases_lost: PerLabel<LeaseLost, Counter>,
    /// Held: dispatches open past their `response_timeout`.
    pub late_dispatches: Gauge,
    /// Limit: `max_late`.
    pub late_dispatches_limit: Gauge,
    /// Held: outcomes known to this process and not yet in the store.
    pub recordings_pending: Gauge,
    /// Held: duplicates that wait for the first request.
    pub waiters: Gauge,
    /// Limit: `max_waiters`.
    pub waiters_limit: Gauge,
    /// Held: bytes of bodies in memory.
    pub buffered: Gauge,
    /// Limit: `max_buffered`, in bytes.
    pub buffered_limit: Gauge,
    /// Replays that needed no store.
    pub replay_cache: CacheMetrics,
    /// Mirror: client connections open now.
    pub connections: Gauge,
    /// Limit: `max_connections`.
    pub connections_limit: Gauge,
    /// Mirror: client connections accepted since the start.
    pub connections_total: MirroredCounter,
    /// Mirror: failed attempts to accept client connections since the start.
    pub accept_failures: MirroredCounter,
    /// Mirror: client connections turned away since the start.
    pub connections_refused: PerLabel<ConnectionRefused, MirroredCounter>,
    /// Mirror: clients that were silent for too long, since the start.
    pub client_timeouts: PerLabel<LimitOver, MirroredCounter>,
    /// Mirror: HTTP/2 clients that flooded, since the start.
    pub http2_floods: MirroredCounter,
    /// Mirror: log lines dropped since the start.
    pub log_lines_dropped: MirroredCounter,
    /// 1 while draining.
    pub draining: Gauge,
    /// Set by a count from time to time: records without a final outcome.
    pub unresolved: UnresolvedMetrics,
    /// Records settled by operators and probes.
    pub resolutions: ResolutionMetrics,
    /// TLS and PROXY headers.
    pub listeners: ListenerMetrics,
    /// What became of reading the configuration again.
    pub config_reloads: PerLabel<Reload, Counter>,
    /// Set: when the configuration in force was read, in seconds since the Unix epoch.
    pub config_loaded: Gauge,
}

/// The metrics of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    duration: Timing,
    errors: PerLabel<UpstreamError, Counter>,
    /// Mirror: connections open now, idle ones among them.
    pub connections: Gauge,
    /// Mirror: connections that wait for a request.
    pub connections_idle: Gauge,
    /// Held or mirror, as the upstream prefers: requests under way now.
    pub in_flight: Gauge,
    /// Limit: `max_in_flight`.
    pub in_flight_limit: Gauge,
}

/// The metrics of the store.
#[derive(Debug)]
pub struct StoreMetrics {
    calls: PerLabel<StoreOp, PerLabel<StoreResult, Counter>>,
    durations: PerLabel<StoreOp, Timing>,
    /// Whether the store answers, by what it was heard to say.
    pub health: Arc<StoreHealth>,
    /// 1 while the store answers.
    pub up: Gauge,
    /// Mirror: records held.
    pub records: Gauge,
    /// Mirror: bytes held.
    pub bytes: Gauge,
    /// Limit: `max_size`, in bytes.
    pub limit_bytes: Gauge,
    /// Mirror: records that nobody settled before their retention was over.
    pub aged_out: MirroredCounter,
}

/// The metrics of the replay cache.
#[derive(Debug)]
pub struct CacheMetrics {
    /// Answers found in the cache.
    pub hits: Counter,
    /// Replays that were read from the store.
    pub misses: Counter,
    /// Mirror: bytes held.
    pub bytes: Gauge,
    /// Limit: `replay_cache`, in bytes.
    pub limit_bytes: Gauge,
}

impl Metrics {
    /// Registers every series for these routes and upstreams, given by name in the order of the configuration.
    #[must_use]
    pub fn new(routes: &[&str], upstreams: &[&str]) -> Self {
        Self::of_version(routes, upstreams, env!("CARGO_PKG_VERSION"))
    }

    /// The same, under another version: the reference leaves the version out.
    pub(super) fn of_version(routes: &[&str], upstreams: &[&str], version: &str) -> Self {
        let families = Arc::new(Families::default());
        describe_process(&Registrar(&families), version);
        Self::of_families(families, routes, upstreams, Arc::default())
    }

    /// The same process's, for other routes and upstreams. What both have goes on, what is gone keeps its last values. What
    /// is mirrored stays with the first.
    #[must_use]
    pub fn reloaded(&self, routes: &[&str], upstreams: &[&str]) -> Self {
        let (families, health) = (Arc::clone(&self.families), Arc::clone(&self.store.health));
        Self::of_families(families, routes, upstreams, health)
    }

    fn of_families(
        families: Arc<Families>,
        routes: &[&str],
        upstreams: &[&str],
        health: Arc<StoreHealth>,
    ) -> Self {
        let registrar = Registrar(&families);
        Self {
            routes: register_routes(&registrar, routes),
            upstreams: register_upstreams(&registrar, upstreams),
            endpoints: EndpointMetrics::register(&registrar),
            unrouted: registrar.counters(
                "oncegate_unrouted_total",
                "reason",
                "Requests that no route has: refused before one was chosen, or answered by the gateway itself (preflights, keys).",
            ),
            store: StoreMetrics::register(&registrar, health),
            claims_held: registrar.gauge(
                "oncegate_claims_held",
                "Claims that this process holds now.",
            ),
            claims_in_doubt: registrar.gauge(
                "oncegate_claims_in_doubt",
                "Claims of which the store has not yet said whether it took them. They are never dispatched.",
            ),
            claims: registrar.counters(
                "oncegate_claims_total",
                "result",
                "Claims asked of the store by what they met; no_verdict: the store did not say, and nothing was sent.",
            ),
            beats: registrar.counters(
                "oncegate_beats_total",
                "result",
                "Renewals of claims under way.",
            ),
            leases_lost: registrar.counters(
                "oncegate_leases_lost_total",
                "phase",
                "Claims that their owner found lost.",
            ),
            late_dispatches: registrar.gauge(
                "oncegate_late_dispatches",
                "Dispatches open now past their response_timeout.",
            ),
            late_dispatches_limit: registrar.gauge(
                "oncegate_late_dispatches_limit",
                "The setting max_late.",
            ),
            recordings_pending: registrar.gauge(
                "oncegate_recordings_pending",
                "Outcomes known now and not yet in the store.",
            ),
            waiters: registrar.gauge(
                "oncegate_waiters",
                "Duplicates that wait now for the first request.",
            ),
            waiters_limit: registrar.gauge("oncegate_waiters_limit", "The setting max_waiters."),
            buffered: registrar.gauge(
                "oncegate_buffered_bytes",
                "Bodies held in memory now.",
            ),
            buffered_limit: registrar.gauge(
                "oncegate_buffered_limit_bytes",
                "The setting max_buffered.",
            ),
            replay_cache: CacheMetrics::register(&registrar),
            connections: registrar.gauge(
                "oncegate_connections",
                "Client connections open now.",
            ),
            connections_limit: registrar.gauge(
                "oncegate_connections_limit",
                "The setting max_connections.",
            ),
            connections_total: registrar.mirrored_counter(
                "oncegate_connections_total",
                "Client connections accepted.",
            ),
            accept_failures: registrar.mirrored_counter(
                "oncegate_accept_failures_total",
                "Attempts to accept client connections that failed because the process or the machine is out of something, such as file descriptors; about ten a second for each listener while it is.",
            ),
            connections_refused: registrar.mirrored_counters(
                "oncegate_connections_refused_total",
                "reason",
                "Client connections turned away because as many as this limit allows were open.",
            ),
            client_timeouts: registrar.mirrored_counters(
                "oncegate_client_timeouts_total",
                "limit",
                "Connections closed, requests given up and responses cut short because the client was silent for longer, or slower, than this limit lets it.",
            ),
            http2_floods: registrar.mirrored_counter(
                "oncegate_http2_floods_total",
                "HTTP/2 connections closed because their client went on sending frames that carry nothing, or resets.",
            ),
            log_lines_dropped: registrar.mirrored_counter(
                "oncegate_log_lines_dropped_total",
                "Log lines that were not written, because their reader was too slow or gone.",
            ),
            draining: registrar.gauge(
                "oncegate_draining",
                "1 from the beginning of a drain, else 0.",
            ),
            unresolved: UnresolvedMetrics::register(&registrar, routes),
            resolutions: ResolutionMetrics::register(&registrar, routes),
            listeners: ListenerMetrics::register(&registrar),
            config_reloads: registrar.counters(
                "oncegate_config_reloads_total",
                "result",
                "Readings of the configuration after the start; failed: what was in force still is.",
            ),
            config_loaded: registrar.gauge(
                "oncegate_config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, in seconds since the Unix epoch.",
            ),
            families,
        }
    }

    /// The metrics of a route, by its place in the configuration.
    ///
    /// # Panics
    /// Where there is no such route: the place comes from the table that was made of the same configuration.
    #[must_use]
    pub fn route(&self, index: usize) -> &RouteMetrics {
        &self.routes[index]
    }

    /// The metrics of an upstream, by its place in the configuration.
    ///
    /// # Panics
    /// Where there is no such upstream.
    #[must_use]
    pub fn upstream(&self, index: usize) -> &UpstreamMetrics {
        &self.upstreams[index]
    }

    /// Everything in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.gather())
            .expect("registered families are never empty, and a string takes every write")
    }

    pub(super) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.families.gather()
    }
}

impl UpstreamMetrics {
    /// From the dispatch to the end of the answer's head.
    pub fn observe(&self, span: Duration) {
        self.duration.observe(span);
    }

    /// One attempt at one address failed.
    pub fn error(&self, kind: UpstreamError) {
        self.errors.inc(kind);
    }
}

impl StoreMetrics {
    /// A call ended so, after so long.
    pub fn call(&self, op: StoreOp, result: StoreResult, span: Duration) {
        self.calls.of(op).inc(result);
        self.durations.of(op).observe(span);
    }

    fn register(registrar: &Registrar<'_>, health: Arc<StoreHealth>) -> Self {
        let calls = registrar.counter_family(
            "oncegate_store_operations_total",
            &["op", "result"],
            "Calls of the store by how they ended; done is any verdict.",
        );
        let durations = registrar.timing_family(
            "oncegate_store_operation_duration_seconds",
            &["op"],
            &STORE_SECONDS,
            "How long calls of the store took, failed ones included.",
        );
        Self {
            calls: PerLabel::new(|op: StoreOp| calls.each(&[op.name()])),
            durations: PerLabel::new(|op: StoreOp| durations.with(&[op.name()])),
            health,
            up: registrar.gauge(
                "oncegate_store_up",
                "1 while the store answers what it is asked, else 0.",
            ),
            records: registrar.gauge(
                "oncegate_store_records",
                "Records held, those past their retention included until they are swept.",
            ),
            bytes: registrar.gauge("oncegate_store_bytes", "Bytes that the store holds."),
            limit_bytes: registrar.gauge(
                "oncegate_store_limit_bytes",
                "The setting max_size: beyond it new claims are refused.",
            ),
            aged_out: registrar.mirrored_counter(
                "oncegate_unresolved_aged_out_total",
                "Records whose retention (retention.unknown) was over before anybody settled them, as they were noticed; of a shared store each by one of its gateways.",
            ),
        }
    }
}

impl CacheMetrics {
    fn register(registrar: &Registrar<'_>) -> Self {
        Self {
            hits: registrar.counter(
                "oncegate_replay_cache_hits_total",
                "Answers found in the replay cache.",
            ),
            misses: registrar.counter(
                "oncegate_replay_cache_misses_total",
                "Replays that were read from the store.",
            ),
            bytes: registrar.gauge(
                "oncegate_replay_cache_bytes",
                "Bytes that the replay cache holds.",
            ),
            limit_bytes: registrar.gauge(
                "oncegate_replay_cache_limit_bytes",
                "The setting replay_cache; 0: switched off.",
            ),
        }
    }
}

fn describe_process(registrar: &Registrar<'_>, version: &str) {
    registrar
        .gauge_family(
            "oncegate_build_info",
            &["version"],
            "Always 1; the label says which build this is.",
        )
        .with(&[version])
        .set(1);
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    registrar
        .gauge(
            "oncegate_start_time_seconds",
            "When the process started, in seconds since the Unix epoch.",
        )
        .set(since_epoch.as_secs());
}

fn register_upstreams(registrar: &Registrar<'_>, upstreams: &[&str]) -> Box<[UpstreamMetrics]> {
    let duration = registrar.timing_family(
        "oncegate_upstream_duration_seconds",
        &["upstream"],
        &REQUEST_SECONDS,
        "From a dispatch to the head of its answer.",
    );
    let errors = registrar.counter_family(
        "oncegate_upstream_errors_total",
        &["upstream", "kind"],
        "Attempts that an upstream did not answer.",
    );
    let gauges = |name, help| registrar.gauge_family(name, &["upstream"], help);
    let connections = gauges(
        "oncegate_upstream_connections",
        "Connections open now, idle ones among them.",
    );
    let connections_idle = gauges(
        "oncegate_upstream_connections_idle",
        "Connections that wait now for a request.",
    );
    let in_flight = gauges("oncegate_upstream_in_flight", "Requests under way now.");
    let in_flight_limit = gauges(
        "oncegate_upstream_in_flight_limit",
        "The setting max_in_flight.",
    );
    let metrics_of = |upstream: &&str| UpstreamMetrics {
        duration: duration.with(&[upstream]),
        errors: errors.each(&[upstream]),
        connections: connections.with(&[upstream]),
        connections_idle: connections_idle.with(&[upstream]),
        in_flight: in_flight.with(&[upstream]),
        in_flight_limit: in_flight_limit.with(&[upstream]),
    };
    upstreams.iter().map(metrics_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Cause, NotStored};
    use crate::telemetry::label::{Decision, LateAnswer};

    fn metrics() -> Metrics {
        Metrics::new(&["create-payment", "rest"], &["payments"])
    }

    fn line<'a>(text: &'a str, series: &str) -> &'a str {
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no series {series} in\n{text}"))
    }

    #[test]
    fn every_decision_of_every_route_is_there_from_the_start() {
        let text = metrics().render();
        for route in ["create-payment", "rest"] {
            for decision in Decision::ALL {
                let name = decision.name();
                let series =
                    format!("oncegate_decisions_total{{decision=\"{name}\",route=\"{route}\"}}");
                assert_eq!(line(&text, &series), "0");
            }
        }
        assert_eq!(
            text.matches("\noncegate_decisions_total{").count(),
            2 * Decision::ALL.len()
        );
    }

    #[test]
    fn counting_makes_no_new_series() {
        let metrics = metrics();
        let before = metrics.render().lines().count();
        metrics.route(0).decision(Decision::Executed);
        metrics.route(1).unknown_outcome(Cause::Status(503));
        metrics.route(1).not_stored(NotStored::NoRoom);
        metrics.route(1).late_answer(LateAnswer::Completed);
        metrics.upstream(0).error(UpstreamError::Connect);
        metrics.unrouted.inc(Unrouted::NoRoute);
        let took = Duration::from_millis(2);
        metrics
            .store
            .call(StoreOp::Claim, StoreResult::InDoubt, took);
        let text = metrics.render();
        assert_eq!(text.lines().count(), before);
        for series in [
            r#"oncegate_decisions_total{decision="executed",route="create-payment"}"#,
            r#"oncegate_unknown_outcomes_total{cause="status",route="rest"}"#,
            r#"oncegate_responses_not_stored_total{reason="no_room",route="rest"}"#,
            r#"oncegate_late_answers_total{result="completed",route="rest"}"#,
            r#"oncegate_upstream_errors_total{kind="connect",upstream="payments"}"#,
            r#"oncegate_unrouted_total{reason="no_route"}"#,
            r#"oncegate_store_operations_total{op="claim",result="in_doubt"}"#,
            r#"oncegate_store_operation_duration_seconds_bucket{op="claim",le="0.0025"}"#,
        ] {
            assert_eq!(line(&text, series), "1");
        }
    }

    #[test]
    fn a_route_name_with_quotes_cannot_break_out_of_its_label() {
        let text = Metrics::new(&["a\"b\\c\nd"], &[]).render();
        assert!(text.contains(r#"route="a\"b\\c\nd""#));
    }

    #[test]
    fn every_name_starts_with_the_name_of_the_program() {
        for family in metrics().gather() {
            assert!(family.name().starts_with("oncegate_"), "{}", family.name());
            assert!(family.help().ends_with('.'), "{}", family.name());
        }
    }
}
