//! How the store is, as far as it was heard.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long after a failed op the store's answers to mere questions say nothing: a store that can be read and not
/// written is down, and must not seem up and down by turns.
const READS_COUNT_AFTER: Duration = Duration::from_secs(7);

/// Learns from every answer of the store how it is. A store that is well costs one look at a number.
#[derive(Debug)]
pub struct StoreHealth {
    /// A [`Health`].
    state: AtomicU8,
    contacted: AtomicBool,
    since: Instant,
    /// When an op failed last, in milliseconds since `since`.
    failed_at: AtomicU64,
}

/// What the store did when it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It was never asked.
    NotAsked = 0,
    /// It answered.
    Up = 1,
    /// It did not.
    Down = 2,
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(Health::NotAsked as u8),
            contacted: AtomicBool::new(false),
            since: Instant::now(),
            failed_at: AtomicU64::new(0),
        }
    }
}

impl StoreHealth {
    /// How it is.
    #[must_use]
    pub fn state(&self) -> Health {
        match self.state.load(Ordering::Relaxed) {
            up if up == Health::Up as u8 => Health::Up,
            down if down == Health::Down as u8 => Health::Down,
            _ => Health::NotAsked,
        }
    }

    /// Whether it has ever answered.
    #[must_use]
    pub fn was_contacted(&self) -> bool {
        self.contacted.load(Ordering::Relaxed)
    }

    /// An op has its verdict: the store can be asked and can write.
    pub fn applied(&self) {
        if self.state() != Health::Up {
            self.up();
        }
    }

    /// A question has its answer.
    pub fn answered(&self) {
        let is_down = match self.state() {
            Health::Up => return,
            Health::NotAsked => false,
            Health::Down => true,
        };
        let failed_at = Duration::from_millis(self.failed_at.load(Ordering::Relaxed));
        let since_failure = self.since.elapsed().saturating_sub(failed_at);
        if !is_down || failed_at.is_zero() || since_failure >= READS_COUNT_AFTER {
            self.up();
        }
    }

    /// It did not answer an op (`is_op`) or a question, or said that it is out of order.
    pub fn failed(&self, is_op: bool, reason: &impl Display) {
        if is_op {
            let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.failed_at.store(now.max(1), Ordering::Relaxed);
        }
        if self.state.swap(Health::Down as u8, Ordering::Relaxed) != Health::Down as u8 {
            tracing::warn!(%reason, "the store does not answer");
        }
    }

    fn up(&self) {
        self.contacted.store(true, Ordering::Relaxed);
        self.failed_at.store(0, Ordering::Relaxed);
        if self.state.swap(Health::Up as u8, Ordering::Relaxed) == Health::Down as u8 {
            tracing::info!("the store answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_verdict_is_enough_to_be_up_and_one_failure_to_be_down() {
        let health = StoreHealth::default();
        assert_eq!(health.state(), Health::NotAsked);
        health.answered();
        assert_eq!(health.state(), Health::Up);
        health.failed(true, &"away");
        assert_eq!(health.state(), Health::Down);
        health.applied();
        assert_eq!(health.state(), Health::Up);
        assert!(health.was_contacted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_can_only_be_read_is_steadily_down() {
        let health = StoreHealth::default();
        health.answered();
        for _ in 0..10 {
            health.failed(true, &"read-only");
            for _ in 0..2 {
                tokio::time::advance(Duration::from_secs(2)).await;
                health.answered();
                assert_eq!(health.state(), Health::Down);
            }
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        health.answered();
        assert_eq!(health.state(), Health::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_failed_is_made_good_by_the_next_one() {
        let health = StoreHealth::default();
        health.failed(false, &"away");
        assert_eq!(
            (health.state(), health.was_contacted()),
            (Health::Down, false)
        );
        health.answered();
        assert_eq!((health.state(), health.was_contacted()), (Health::Up, true));
    }
}
