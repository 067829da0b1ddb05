//! Counting what is unresolved, for the gauges.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::gateway::Gateway;
use crate::protocol::Timestamp;
use crate::route::Route;
use crate::store::{Clock, StoreError, Unresolved, system_clock};
use crate::telemetry::{Metrics, UNRESOLVED_COUNTED};

/// Records asked for at a time, so that no call of the store is long.
const PAGE: usize = 1000;

/// Counts unresolved records by route.
pub struct Census {
    metrics: Arc<Metrics>,
    /// The place of each route's name in the metrics, by its id. Where two routes share an id, so do their records: they
    /// count as the first one's.
    routes: HashMap<Arc<str>, usize>,
    clock: Clock,
}

/// By the place of the route; `None`: of all that have none.
pub type Counts = HashMap<Option<usize>, Count>;

/// Of one route.
#[derive(Clone, Copy, Default)]
pub struct Count {
    records: u64,
    oldest: Option<Timestamp>,
}

impl Census {
    /// Of these routes, in the order of the metrics.
    pub fn new(metrics: Arc<Metrics>, routes: &[Arc<Route>]) -> Self {
        // The first one of an id comes last, and stays.
        let last_first = routes.iter().enumerate().rev();
        let by_id = last_first.map(|(place, route)| (Arc::clone(&route.id), place));
        Self {
            metrics,
            routes: by_id.collect(),
            clock: system_clock(),
        }
    }

    /// Counts.
    ///
    /// # Errors
    /// Where the store does not say all.
    pub async fn count(&self, gateway: &Gateway) -> Result<Counts, StoreError> {
        let mut counts = Counts::new();
        let (mut after, mut counted) = (None, 0);
        while counted < UNRESOLVED_COUNTED {
            let page = gateway.unresolved(after, PAGE).await?;
            for unresolved in &page {
                let route = self.routes.get(&unresolved.route).copied();
                let count = counts.entry(route).or_default();
                count.records += 1;
                // The list begins with the oldest.
                count.oldest.get_or_insert(unresolved.since);
            }
            counted += page.len();
            after = page.last().map(Unresolved::place);
            if page.len() < PAGE {
                break;
            }
        }
        Ok(counts)
    }

    /// Sets the gauges to nothing: other routes are counted from now on.
    pub fn end(&self) {
        self.show(&Counts::new());
    }

    /// Sets the gauges.
    pub fn show(&self, counts: &Counts) {
        let now = (self.clock)();
        for route in self.routes.values().copied().map(Some).chain([None]) {
            let count = counts.get(&route).copied().unwrap_or_default();
            let gauges = self.metrics.unresolved.route(route);
            gauges.records.set(count.records);
            let age = count.oldest.map(|oldest| now.since(oldest));
            gauges
                .oldest_age_seconds
                .set(age.as_ref().map_or(0, Duration::as_secs));
        }
    }
}
