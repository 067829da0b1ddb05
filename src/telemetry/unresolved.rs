//! How many records are unresolved, by route, and since when.

use super::instrument::{Gauge, Registrar};

/// Unresolved records that are counted, the oldest ones of all routes together. A number beyond it says nothing more
/// to anybody, and counting them would take its time.
pub const UNRESOLVED_COUNTED: usize = 100_000;

/// The label of records whose route is not configured, or that were made before records bore their route. It is no
/// name that a route can have.
pub(super) const OTHER: &str = "(other)";

/// Unresolved records by route.
#[derive(Debug)]
pub struct UnresolvedMetrics {
    routes: Box<[UnresolvedGauges]>,
    other: UnresolvedGauges,
}

/// Those of one route.
#[derive(Debug)]
pub struct UnresolvedGauges {
    /// Set: how many there are.
    pub records: Gauge,
    /// Set: for how long the oldest has been unresolved; 0 where there is none.
    pub oldest_age_seconds: Gauge,
}

impl UnresolvedMetrics {
    pub(super) fn register(registrar: &Registrar<'_>, routes: &[&str]) -> Self {
        let records = registrar.gauge_family(
            "oncegate_unresolved_records",
            &["route"],
            &format!(
                "Records of which no final outcome is known: declared unknown, or claimed by a gateway that has gone \
                 silent. Counted every 5 seconds, up to the {UNRESOLVED_COUNTED} oldest of all routes together; \
                 {OTHER:?} are those of routes that are not configured."
            ),
        );
        let ages = registrar.gauge_family(
            "oncegate_unresolved_oldest_age_seconds",
            &["route"],
            "For how long the oldest of them has been unresolved; 0 where there is none.",
        );
        let gauges = |route: &str| UnresolvedGauges {
            records: records.with(&[route]),
            oldest_age_seconds: ages.with(&[route]),
        };
        Self {
            routes: routes.iter().map(|route| gauges(route)).collect(),
            other: gauges(OTHER),
        }
    }

    /// Of a route by its place in the configuration; without a place, of all that have none.
    #[must_use]
    pub fn route(&self, index: Option<usize>) -> &UnresolvedGauges {
        let route = index.and_then(|index| self.routes.get(index));
        route.unwrap_or(&self.other)
    }
}
