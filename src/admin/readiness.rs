//! Whether this process should be sent requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::telemetry::{Health, StoreHealth as Heard};

/// Shared by whoever learns something (those that ask the store, the drain) and `/readyz`.
///
/// Ready from the first contact with the store until a drain begins. A store that goes down later is said, but
/// changes nothing: falling out of every balancer at once when a shared store blinks would take the routes along
/// that need no store.
#[derive(Debug)]
pub struct Readiness {
    store: Arc<Heard>,
    draining: AtomicBool,
}

impl Readiness {
    /// Ready as soon as this store has answered.
    #[must_use]
    pub fn new(store: Arc<Heard>) -> Self {
        Self {
            store,
            draining: AtomicBool::new(false),
        }
    }

    /// A drain has begun; it never ends.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> Report {
        let status = if self.draining.load(Ordering::Relaxed) {
            Status::Draining
        } else if self.store.was_contacted() {
            Status::Ready
        } else {
            Status::Starting
        };
        let store = match self.store.state() {
            Health::NotAsked => StoreHealth::NotAsked,
            Health::Up => StoreHealth::Up,
            Health::Down => StoreHealth::Down,
        };
        Report { status, store }
    }
}

/// The body of `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether requests are welcome.
    pub status: Status,
    /// What the store did when it was asked last.
    pub store: StoreHealth,
}

/// Whether requests are welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The store has not answered yet.
    Starting,
    /// They are.
    Ready,
    /// Those under way are finished, and no more are taken.
    Draining,
}

/// What the store did when it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreHealth {
    /// It was never asked.
    NotAsked,
    /// It answered.
    Up,
    /// It did not answer.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness() -> (Arc<Heard>, Readiness) {
        let store = Arc::<Heard>::default();
        (Arc::clone(&store), Readiness::new(store))
    }

    fn status(readiness: &Readiness) -> Status {
        readiness.report().status
    }

    #[test]
    fn ready_from_the_first_contact_with_the_store_until_a_drain_begins() {
        let (store, readiness) = readiness();
        assert_eq!(status(&readiness), Status::Starting);
        store.failed(false, &"away");
        assert_eq!(status(&readiness), Status::Starting);
        store.answered();
        assert_eq!(status(&readiness), Status::Ready);
        readiness.draining();
        assert_eq!(status(&readiness), Status::Draining);
        store.applied();
        assert_eq!(status(&readiness), Status::Draining);
    }

    #[test]
    fn a_store_that_goes_down_later_is_said_and_changes_nothing() {
        let (store, readiness) = readiness();
        store.answered();
        store.failed(true, &"away");
        assert_eq!(
            readiness.report(),
            Report {
                status: Status::Ready,
                store: StoreHealth::Down
            }
        );
    }
}
