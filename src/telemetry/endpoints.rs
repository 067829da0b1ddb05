//! The metrics of the endpoints of upstreams, each as it is configured. They are there from the first scrape on, and as long
//! as their endpoint is configured.

use super::instrument::{CounterFamily, GaugeFamily, Registrar};
use super::label::{AddressState, HealthResult, Label, LookupResult};

/// Makes the series of endpoints, once these are known.
#[derive(Debug)]
pub struct EndpointMetrics {
    up: GaugeFamily,
    addresses: GaugeFamily,
    ejections: CounterFamily,
    checks: CounterFamily,
    lookups: CounterFamily,
}

/// The series of one endpoint.
pub struct EndpointSeries<'a> {
    metrics: &'a EndpointMetrics,
    upstream: &'a str,
    endpoint: &'a str,
}

impl EndpointMetrics {
    pub(super) fn register(registrar: &Registrar<'_>) -> Self {
        Self {
            up: registrar.gauge_family(
                "oncegate_upstream_endpoint_up",
                &["upstream", "endpoint"],
                "1 while at least one address of the endpoint is usable, else 0.",
            ),
            addresses: registrar.gauge_family(
                "oncegate_upstream_endpoint_addresses",
                &["upstream", "endpoint", "state"],
                "Addresses of the endpoint now; ejected: it could not be connected to, unhealthy: it fails its health checks.",
            ),
            ejections: registrar.counter_family(
                "oncegate_upstream_ejections_total",
                &["upstream", "endpoint"],
                "Addresses that were ejected because they could not be connected to.",
            ),
            checks: registrar.counter_family(
                "oncegate_upstream_health_checks_total",
                &["upstream", "endpoint", "result"],
                "Health checks of the endpoint's addresses.",
            ),
            lookups: registrar.counter_family(
                "oncegate_upstream_lookups_total",
                &["upstream", "endpoint", "result"],
                "Answers about the endpoint's name; none: it has no address, failed: nobody answered. The last addresses stay in use.",
            ),
        }
    }

    /// The series of this endpoint.
    #[must_use]
    pub fn of<'a>(&'a self, upstream: &'a str, endpoint: &'a str) -> EndpointSeries<'a> {
        EndpointSeries {
            metrics: self,
            upstream,
            endpoint,
        }
    }
}

impl EndpointSeries<'_> {
    /// Set: how many of its addresses are in which state.
    pub fn addresses(&self, count: impl Fn(AddressState) -> usize) {
        let own = [self.upstream, self.endpoint];
        for state in AddressState::ALL {
            let labels = [self.upstream, self.endpoint, state.name()];
            self.metrics
                .addresses
                .with(&labels)
                .set(count(*state) as u64);
        }
        let is_up = count(AddressState::Usable) > 0;
        self.metrics.up.with(&own).set(is_up.into());
    }

    /// So many more addresses were ejected.
    pub fn ejections(&self, more: u64) {
        let labels = [self.upstream, self.endpoint];
        self.metrics.ejections.with(&labels).add(more);
    }

    /// So many more health checks had this result.
    pub fn checks(&self, result: HealthResult, more: u64) {
        let labels = [self.upstream, self.endpoint, result.name()];
        self.metrics.checks.with(&labels).add(more);
    }

    /// So many more times this was said about its name.
    pub fn lookups(&self, result: LookupResult, more: u64) {
        let labels = [self.upstream, self.endpoint, result.name()];
        self.metrics.lookups.with(&labels).add(more);
    }

    /// All of them, with nothing in them.
    pub(super) fn mention(&self) {
        self.addresses(|_| 0);
        self.ejections(0);
        for result in HealthResult::ALL {
            self.checks(*result, 0);
        }
        for result in LookupResult::ALL {
            self.lookups(*result, 0);
        }
    }

    /// It is configured no more: nothing is said about how it is.
    pub fn leave(&self) {
        self.metrics.up.forget(&[self.upstream, self.endpoint]);
        for state in AddressState::ALL {
            let labels = [self.upstream, self.endpoint, state.name()];
            self.metrics.addresses.forget(&labels);
        }
    }
}
