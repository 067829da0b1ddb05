//! What metrics are made of: counters, gauges that something holds, and timings. A series is looked up by its
//! labels once, when it is made; from then on counting is an atomic addition.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::label::Label;

/// Something that happens.
#[derive(Clone, Debug)]
pub struct Counter(IntCounter);

impl Counter {
    /// It happened once.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// It happened so many times.
    pub fn add(&self, more: u64) {
        self.0.inc_by(more);
    }
}

/// A counter that another module counts; it is copied here before a scrape.
#[derive(Debug)]
pub struct MirroredCounter {
    counter: IntCounter,
    /// The highest total seen. Two scrapes at a time each add their own part of the difference, or nothing.
    total: AtomicU64,
}

impl MirroredCounter {
    /// Of a total that goes on from what the series says.
    fn of(counter: IntCounter) -> Self {
        Self {
            total: AtomicU64::new(counter.get()),
            counter,
        }
    }

    /// Takes over the other module's total; a total below an earlier one changes nothing.
    pub fn mirror(&self, total: u64) {
        let before = self.total.fetch_max(total, Ordering::Relaxed);
        self.counter.inc_by(total.saturating_sub(before));
    }
}

/// How much there is of something now.
#[derive(Clone, Debug)]
pub struct Gauge(IntGauge);

impl Gauge {
    /// One more, until the guard is dropped.
    #[must_use = "the gauge falls again when the guard is dropped"]
    pub fn hold(&self) -> Hold {
        self.hold_many(1)
    }

    /// So many more (bytes, for example), until the guard is dropped.
    #[must_use = "the gauge falls again when the guard is dropped"]
    pub fn hold_many(&self, amount: u64) -> Hold {
        let mut hold = Hold {
            gauge: self.0.clone(),
            amount: 0,
        };
        hold.grow(amount);
        hold
    }

    /// There is so much. For limits, and for gauges that mirror another module; not for those that are held.
    pub fn set(&self, amount: u64) {
        self.0.set(clamped(amount));
    }

    /// How much there is.
    #[must_use]
    pub fn value(&self) -> u64 {
        u64::try_from(self.0.get()).unwrap_or(0)
    }
}

/// A part of a [`Gauge`]; dropping it takes the part away again.
#[derive(Debug)]
pub struct Hold {
    gauge: IntGauge,
    amount: i64,
}

impl Hold {
    /// So many more.
    pub fn grow(&mut self, amount: u64) {
        let amount = clamped(amount);
        self.gauge.add(amount);
        self.amount = self.amount.saturating_add(amount);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.gauge.sub(self.amount);
    }
}

/// How long something takes.
#[derive(Clone, Debug)]
pub struct Timing(Histogram);

impl Timing {
    /// It took so long.
    pub fn observe(&self, span: Duration) {
        self.0.observe(span.as_secs_f64());
    }
}

/// How large something is, in bytes.
#[derive(Clone, Debug)]
pub struct Amount(Histogram);

impl Amount {
    /// It had so many bytes.
    pub fn observe(&self, bytes: u64) {
        // Beyond 4 GiB everything is in the last bucket.
        self.0
            .observe(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }
}

/// One instrument for each value of a label.
#[derive(Debug)]
pub struct PerLabel<L, I> {
    instruments: Box<[I]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, I> PerLabel<L, I> {
    pub(super) fn new(instrument: impl FnMut(L) -> I) -> Self {
        Self {
            instruments: L::ALL.iter().copied().map(instrument).collect(),
            label: PhantomData,
        }
    }

    /// The instrument of this value.
    #[must_use]
    pub fn of(&self, value: L) -> &I {
        &self.instruments[value.index()]
    }
}

impl<L: Label> PerLabel<L, Counter> {
    /// It happened once, this way.
    pub fn inc(&self, value: L) {
        self.of(value).inc();
    }
}

/// Makes instruments and registers each under its name, help and labels: the one place where they are defined.
pub(super) struct Registrar<'a>(pub &'a Families);

/// What is registered, by name. What is made again is what was there, so that a new configuration goes on counting where
/// the last one was.
#[derive(Default)]
pub(super) struct Families {
    registry: Registry,
    known: Mutex<HashMap<String, Box<dyn Any + Send + Sync>>>,
}

impl Families {
    pub(super) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registry.fmt(f)
    }
}

impl Registrar<'_> {
    pub(super) fn counter(&self, name: &str, help: &str) -> Counter {
        Counter(self.registered(IntCounter::new(name, help)))
    }

    pub(super) fn mirrored_counter(&self, name: &str, help: &str) -> MirroredCounter {
        MirroredCounter::of(self.registered(IntCounter::new(name, help)))
    }

    /// Mirrored counters by one label.
    pub(super) fn mirrored_counters<L: Label>(
        &self,
        name: &str,
        label: &str,
        help: &str,
    ) -> PerLabel<L, MirroredCounter> {
        let counters: PerLabel<L, Counter> = self.counters(name, label, help);
        PerLabel::new(|value: L| MirroredCounter::of(counters.of(value).0.clone()))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        Gauge(self.registered(IntGauge::new(name, help)))
    }

    /// Counters by one label.
    pub(super) fn counters<L: Label>(
        &self,
        name: &str,
        label: &str,
        help: &str,
    ) -> PerLabel<L, Counter> {
        self.counter_family(name, &[label], help).each(&[])
    }

    pub(super) fn counter_family(&self, name: &str, labels: &[&str], help: &str) -> CounterFamily {
        CounterFamily(self.registered(IntCounterVec::new(Opts::new(name, help), labels)))
    }

    pub(super) fn gauge_family(&self, name: &str, labels: &[&str], help: &str) -> GaugeFamily {
        GaugeFamily(self.registered(IntGaugeVec::new(Opts::new(name, help), labels)))
    }

    pub(super) fn timing_family(
        &self,
        name: &str,
        labels: &[&str],
        buckets_seconds: &[f64],
        help: &str,
    ) -> TimingFamily {
        let options = HistogramOpts::new(name, help).buckets(buckets_seconds.to_vec());
        TimingFamily(self.registered(HistogramVec::new(options, labels)))
    }

    pub(super) fn amount_family(
        &self,
        name: &str,
        labels: &[&str],
        buckets_bytes: &[f64],
        help: &str,
    ) -> AmountFamily {
        let options = HistogramOpts::new(name, help).buckets(buckets_bytes.to_vec());
        AmountFamily(self.registered(HistogramVec::new(options, labels)))
    }

    fn registered<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("names and labels are constants that Prometheus accepts");
        let name = made.desc().first().map(|desc| desc.fq_name.clone());
        let known = self.0.known.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        let same = name.as_ref().and_then(|name| known.get(name));
        if let Some(same) = same.and_then(|same| same.downcast_ref::<C>()) {
            return same.clone();
        }
        known.insert(name.unwrap_or_default(), Box::new(made.clone()));
        self.0
            .registry
            .register(Box::new(made.clone()))
            .expect("every name is registered once");
        made
    }
}

/// Counters of one name whose labels are not yet bound.
#[derive(Debug)]
pub(super) struct CounterFamily(IntCounterVec);

impl CounterFamily {
    /// The series of these values, which exists from now on.
    pub(super) fn with(&self, values: &[&str]) -> Counter {
        Counter(self.0.with_label_values(values))
    }

    /// The series of these values, one for each value of the label behind them.
    pub(super) fn each<L: Label>(&self, values: &[&str]) -> PerLabel<L, Counter> {
        PerLabel::new(|value: L| self.with(&[values, &[value.name()]].concat()))
    }

    /// The same, of something that another module counts, and has begun to count anew: a listener after a reload goes on
    /// where the one before it was.
    pub(super) fn each_mirrored<L: Label>(&self, values: &[&str]) -> PerLabel<L, MirroredCounter> {
        let counters = self.each(values);
        PerLabel::new(|value: L| MirroredCounter {
            counter: counters.of(value).0.clone(),
            total: AtomicU64::new(0),
        })
    }
}

/// Gauges of one name whose labels are not yet bound.
#[derive(Debug)]
pub(super) struct GaugeFamily(IntGaugeVec);

impl GaugeFamily {
    /// The series of these values, which exists from now on.
    pub(super) fn with(&self, values: &[&str]) -> Gauge {
        Gauge(self.0.with_label_values(values))
    }

    /// The series of these values is gone.
    pub(super) fn forget(&self, values: &[&str]) {
        // Where there is none, nothing has to go.
        let _ = self.0.remove_label_values(values);
    }
}

/// Timings of one name whose labels are not yet bound.
pub(super) struct TimingFamily(HistogramVec);

impl TimingFamily {
    /// The series of these values, which exists from now on.
    pub(super) fn with(&self, values: &[&str]) -> Timing {
        Timing(self.0.with_label_values(values))
    }
}

/// Amounts of one name whose labels are not yet bound.
pub(super) struct AmountFamily(HistogramVec);

impl AmountFamily {
    /// The series of these values, which exists from now on.
    pub(super) fn with(&self, values: &[&str]) -> Amount {
        Amount(self.0.with_label_values(values))
    }
}

fn clamped(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::label::TlsFailed;

    #[test]
    fn a_gauge_falls_by_what_its_guard_held() {
        let families = Families::default();
        let gauge = Registrar(&families).gauge("held", "Held.");
        let one = gauge.hold();
        let mut many = gauge.hold_many(10);
        many.grow(5);
        assert_eq!(gauge.value(), 16);
        drop(many);
        assert_eq!(gauge.value(), 1);
        drop(one);
        assert_eq!(gauge.value(), 0);
    }

    #[test]
    fn a_mirrored_counter_follows_the_total_and_never_falls() {
        let families = Families::default();
        let counter = Registrar(&families).mirrored_counter("mirrored", "Mirrored.");
        for total in [3, 3, 2, 7] {
            counter.mirror(total);
        }
        assert_eq!(counter.counter.get(), 7);
    }

    #[test]
    fn who_begins_to_count_anew_adds_to_what_was_counted_before() {
        let families = Families::default();
        let labels = ["listener", "reason"];
        let family = Registrar(&families).counter_family("mirrored", &labels, "Mirrored.");
        let listener = || family.each_mirrored::<TlsFailed>(&["a"]);
        let before = listener();
        before.of(TlsFailed::TimedOut).mirror(3);
        let anew = listener();
        for total in [0, 1, 2] {
            anew.of(TlsFailed::TimedOut).mirror(total);
        }
        assert_eq!(anew.of(TlsFailed::TimedOut).counter.get(), 5);
    }
}
