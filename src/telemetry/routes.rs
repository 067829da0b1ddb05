//! The metrics of routes: what became of their requests, how long it took, and how large it was.

use std::time::Duration;

use super::instrument::{Amount, Counter, Gauge, PerLabel, Registrar, Timing};
use super::label::{Decision, LateAnswer, ObservedReplay, ProbeResult, Resend, WouldBe};
use super::metrics::REQUEST_SECONDS;
use crate::protocol::{Cause, NotStored};

/// Bounds of the buckets of what a request costs here: a store in memory is in the first, a disk in the middle.
const OVERHEAD_SECONDS: [f64; 10] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0,
];

/// Bounds of the buckets of waiting for another attempt.
const WAITING_SECONDS: [f64; 7] = [0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0];

/// Bounds of the buckets of the age of replays: a second, ten, a minute, ten, an hour, six, a day, a week.
const AGE_SECONDS: [f64; 8] = [
    1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0,
];

/// Bounds of the buckets of bodies: from 256 B to the default limits of 1 MiB and beyond.
const BODY_BYTES: [f64; 8] = [
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    16_777_216.0,
];

/// The metrics of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    decisions: PerLabel<Decision, Counter>,
    duration: Timing,
    overhead: Timing,
    waiting: Timing,
    replay_age: Timing,
    request_bytes: Amount,
    response_bytes: Amount,
    /// Held: requests under way.
    pub in_flight: Gauge,
    unknown_outcomes: PerLabel<Cause, Counter>,
    late_answers: PerLabel<LateAnswer, Counter>,
    resends: PerLabel<Resend, Counter>,
    probes: PerLabel<ProbeResult, Counter>,
    probe_duration: Timing,
    not_stored: PerLabel<NotStored, Counter>,
    observed: PerLabel<WouldBe, Counter>,
    observed_replays: PerLabel<ObservedReplay, Counter>,
}

impl RouteMetrics {
    /// Counts a request; once for each.
    pub fn decision(&self, decision: Decision) {
        self.decisions.inc(decision);
    }

    /// From the request's head to the answer's.
    pub fn observe(&self, span: Duration) {
        self.duration.observe(span);
    }

    /// What of that was oncegate's own.
    pub fn overhead(&self, span: Duration) {
        self.overhead.observe(span);
    }

    /// How long a duplicate waited for another attempt.
    pub fn waited(&self, span: Duration) {
        self.waiting.observe(span);
    }

    /// How old a recorded answer was when it was replayed.
    pub fn replayed(&self, age: Duration) {
        self.replay_age.observe(age);
    }

    /// The body of a request, as far as it was read.
    pub fn request_body(&self, bytes: u64) {
        self.request_bytes.observe(bytes);
    }

    /// The body of an answer, as far as it was given to the client.
    pub fn response_body(&self, bytes: u64) {
        self.response_bytes.observe(bytes);
    }

    /// An attempt of this process ended without a known outcome.
    pub fn unknown_outcome(&self, cause: Cause) {
        self.unknown_outcomes.inc(cause);
    }

    /// A dispatch that was kept open past its `response_timeout` has ended.
    pub fn late_answer(&self, result: LateAnswer) {
        self.late_answers.inc(result);
    }

    /// A duplicate might have sent an operation of unknown outcome again.
    pub fn resend(&self, result: Resend) {
        self.resends.inc(result);
    }

    /// The upstream was asked whether an operation happened, or would have been; with how long that took.
    pub fn probe(&self, result: ProbeResult, span: Option<Duration>) {
        self.probes.inc(result);
        if let Some(span) = span {
            self.probe_duration.observe(span);
        }
    }

    /// A request that was let through would have become this.
    pub fn observed(&self, would_be: WouldBe) {
        self.observed.inc(would_be);
    }

    /// A duplicate that was let through got this instead of a replay.
    pub fn observed_replay(&self, answer: ObservedReplay) {
        self.observed_replays.inc(answer);
    }

    /// A response was passed on without being kept.
    pub fn not_stored(&self, reason: NotStored) {
        self.not_stored.inc(reason);
    }
}

/// Registers every series of these routes.
pub(super) fn register_routes(registrar: &Registrar<'_>, routes: &[&str]) -> Box<[RouteMetrics]> {
    let decisions = registrar.counter_family(
        "oncegate_decisions_total",
        &["route", "decision"],
        "What became of requests; every request on a route counts exactly once.",
    );
    let duration = registrar.timing_family(
        "oncegate_request_duration_seconds",
        &["route"],
        &REQUEST_SECONDS,
        "From a request's head to the head of its answer.",
    );
    let overhead = registrar.timing_family(
        "oncegate_overhead_seconds",
        &["route"],
        &OVERHEAD_SECONDS,
        "What oncegate itself adds: from a request's head to the head of its answer, less the time that its body took to \
         come in (where it is held), that it waited for another attempt, and that the upstream took from the dispatch to \
         the end of its answer (where it is held) or of its head. Claiming and recording are part of it.",
    );
    let waiting = registrar.timing_family(
        "oncegate_waiting_duration_seconds",
        &["route"],
        &WAITING_SECONDS,
        "How long duplicates waited for another attempt, where the route lets them wait.",
    );
    let replay_age = registrar.timing_family(
        "oncegate_replay_age_seconds",
        &["route"],
        &AGE_SECONDS,
        "How old recorded answers were when they were replayed.",
    );
    let request_bytes = registrar.amount_family(
        "oncegate_request_body_bytes",
        &["route"],
        &BODY_BYTES,
        "Bodies of requests, as far as they were read.",
    );
    let response_bytes = registrar.amount_family(
        "oncegate_response_body_bytes",
        &["route"],
        &BODY_BYTES,
        "Bodies of answers, refusals among them, as far as they were given to the client.",
    );
    let in_flight = registrar.gauge_family(
        "oncegate_requests_in_flight",
        &["route"],
        "Requests under way now, until their answer has ended; those whose client has left, until they are decided.",
    );
    let unknown_outcomes = registrar.counter_family(
        "oncegate_unknown_outcomes_total",
        &["route", "cause"],
        "Attempts of this process that were sent, or perhaps sent, and whose outcome is not known.",
    );
    let late_answers = registrar.counter_family(
        "oncegate_late_answers_total",
        &["route", "result"],
        "How dispatches ended that were kept open past their response_timeout.",
    );
    let resends = registrar.counter_family(
        "oncegate_resends_total",
        &["route", "result"],
        "What duplicates of operations of unknown outcome met where on_unknown is \"resend\".",
    );
    let probes = registrar.counter_family(
        "oncegate_probes_total",
        &["route", "result"],
        "What came of asking upstreams whether an operation of unknown outcome happened, where on_unknown is \"probe\".",
    );
    let probe_duration = registrar.timing_family(
        "oncegate_probe_duration_seconds",
        &["route"],
        &REQUEST_SECONDS,
        "How long asking took, to the answer's last byte.",
    );
    let not_stored = registrar.counter_family(
        "oncegate_responses_not_stored_total",
        &["route", "reason"],
        "Responses that were passed on and could not be kept for replay.",
    );
    let observed = registrar.counter_family(
        "oncegate_observed_total",
        &["route", "would_be"],
        "What enforce mode would have made of the requests that observe mode let through.",
    );
    let observed_replays = registrar.counter_family(
        "oncegate_observed_replays_total",
        &["route", "answer"],
        "Observed duplicates that would have been replayed, by how the answer that they got instead compares.",
    );
    let metrics_of = |route: &&str| RouteMetrics {
        decisions: decisions.each(&[route]),
        duration: duration.with(&[route]),
        overhead: overhead.with(&[route]),
        waiting: waiting.with(&[route]),
        replay_age: replay_age.with(&[route]),
        request_bytes: request_bytes.with(&[route]),
        response_bytes: response_bytes.with(&[route]),
        in_flight: in_flight.with(&[route]),
        unknown_outcomes: unknown_outcomes.each(&[route]),
        late_answers: late_answers.each(&[route]),
        probes: probes.each(&[route]),
        probe_duration: probe_duration.with(&[route]),
        resends: resends.each(&[route]),
        not_stored: not_stored.each(&[route]),
        observed: observed.each(&[route]),
        observed_replays: observed_replays.each(&[route]),
    };
    routes.iter().map(metrics_of).collect()
}
