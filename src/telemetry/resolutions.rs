//! How often somebody settled a record whose outcome was not known, or deleted one.

use super::instrument::{Counter, PerLabel, Registrar};
use super::label::{Label, Settled, Settler};
use super::unresolved::OTHER;

/// Records settled by hand or by a probe, by route.
#[derive(Debug)]
pub struct ResolutionMetrics {
    routes: Box<[BySettler]>,
    other: BySettler,
}

type BySettler = PerLabel<Settler, PerLabel<Settled, Counter>>;

impl ResolutionMetrics {
    pub(super) fn register(registrar: &Registrar<'_>, routes: &[&str]) -> Self {
        let family = registrar.counter_family(
            "oncegate_resolutions_total",
            &["route", "actor", "as"],
            "Records without a known outcome that somebody settled, and records that an operator deleted.",
        );
        let of_route = |route: &str| -> BySettler {
            PerLabel::new(|actor: Settler| family.each(&[route, actor.name()]))
        };
        Self {
            routes: routes.iter().map(|route| of_route(route)).collect(),
            other: of_route(OTHER),
        }
    }

    /// Counts one: of a route by its place in the configuration; without a place, of all that have none.
    pub fn inc(&self, route: Option<usize>, actor: Settler, settled: Settled) {
        let route = route.and_then(|index| self.routes.get(index));
        route.unwrap_or(&self.other).of(actor).inc(settled);
    }
}
