//! Whether this process should be sent requests.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use serde::Serialize;

/// Shared by whoever learns something (the store's pings, the drain) and `/readyz`.
///
/// Ready from the first contact with the store until a drain begins. A store that goes down later is said, but
/// changes nothing: falling out of every balancer at once when a shared store blinks would take the routes along
/// that need no store.
#[derive(Debug, Default)]
pub struct Readiness {
    contacted: AtomicBool,
    /// A [`StoreHealth`].
    store: AtomicU8,
    draining: AtomicBool,
}

impl Readiness {
    /// Not ready: nobody has asked the store yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The store was asked, and answered or did not.
    pub fn store_answered(&self, answered: bool) {
        let health = if answered {
            StoreHealth::Up
        } else {
            StoreHealth::Down
        };
        self.store.store(health as u8, Ordering::Relaxed);
        if answered {
            self.contacted.store(true, Ordering::Relaxed);
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
        } else if self.contacted.load(Ordering::Relaxed) {
            Status::Ready
        } else {
            Status::Starting
        };
        let store = match self.store.load(Ordering::Relaxed) {
            up if up == StoreHealth::Up as u8 => StoreHealth::Up,
            down if down == StoreHealth::Down as u8 => StoreHealth::Down,
            _ => StoreHealth::NotAsked,
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
    NotAsked = 0,
    /// It answered.
    Up = 1,
    /// It did not answer.
    Down = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(readiness: &Readiness) -> Status {
        readiness.report().status
    }

    #[test]
    fn ready_from_the_first_contact_with_the_store_until_a_drain_begins() {
        let readiness = Readiness::new();
        assert_eq!(status(&readiness), Status::Starting);
        readiness.store_answered(false);
        assert_eq!(status(&readiness), Status::Starting);
        readiness.store_answered(true);
        assert_eq!(status(&readiness), Status::Ready);
        readiness.draining();
        assert_eq!(status(&readiness), Status::Draining);
        readiness.store_answered(true);
        assert_eq!(status(&readiness), Status::Draining);
    }

    #[test]
    fn a_store_that_goes_down_later_is_said_and_changes_nothing() {
        let readiness = Readiness::new();
        readiness.store_answered(true);
        readiness.store_answered(false);
        assert_eq!(
            readiness.report(),
            Report {
                status: Status::Ready,
                store: StoreHealth::Down
            }
        );
    }
}
