//! How slowly a client may send, or take, what it is waited for.
//!
//! A client that moves a byte now and then is never silent for long, and would hold its place for ever. So it has an
//! allowance of time to be waited for, which bytes that move add to: the average over any longer while is then no less
//! than the rate. Time in which nobody waits for the client (the upstream is slow, a stream of events is silent) is
//! not asked about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Limits;

/// What a byte is worth, in the unit of allowances, which is what a byte a second makes in a microsecond: so bytes and time
/// are whole numbers of it at every rate.
const BYTE: u64 = 1_000_000;

/// The least rate of bytes in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeastRate {
    /// Bytes a second; also what a microsecond is worth.
    rate: u64,
    /// What an allowance begins with.
    grace: u64,
    /// What it has at most: who was fast may then be silent for as long as everybody else, and not for hours.
    most: u64,
}

impl LeastRate {
    /// Of the bodies that clients send; `None` where any rate will do.
    pub(super) fn receiving(limits: &Limits) -> Option<Self> {
        Self::new(limits.min_receive_rate, limits)
    }

    /// Of the answers that they take.
    pub(super) fn sending(limits: &Limits) -> Option<Self> {
        Self::new(limits.min_send_rate, limits)
    }

    fn new(rate: u64, limits: &Limits) -> Option<Self> {
        let worth = |time: Duration| microseconds(time).saturating_mul(rate);
        (rate > 0).then(|| Self {
            rate,
            grace: worth(limits.rate_grace),
            most: worth(limits.rate_grace.max(limits.body_idle)),
        })
    }
}

/// What one client has left of the time in which it may be waited for.
#[derive(Debug)]
pub(super) struct Allowance {
    rate: LeastRate,
    left: AtomicU64,
}

impl Allowance {
    pub(super) fn new(rate: LeastRate) -> Self {
        Self {
            rate,
            left: AtomicU64::new(rate.grace),
        }
    }

    /// So many bytes moved, after the client was waited for this long. Called by one task at a time.
    pub(super) fn moved(&self, bytes: usize, waited: Duration) {
        let spent = microseconds(waited).saturating_mul(self.rate.rate);
        let left = self.left.load(Ordering::Relaxed).saturating_sub(spent);
        let earned = (bytes as u64).saturating_mul(BYTE);
        let left = left.saturating_add(earned).min(self.rate.most);
        self.left.store(left, Ordering::Relaxed);
    }

    /// Something else begins: the client has its grace again.
    pub(super) fn renew(&self) {
        self.left.fetch_max(self.rate.grace, Ordering::Relaxed);
    }

    /// How long it may be waited for if nothing more moves.
    pub(super) fn left(&self) -> Duration {
        let left = self.left.load(Ordering::Relaxed);
        Duration::from_micros(left.div_ceil(self.rate.rate))
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 bytes a second, with 5 seconds of grace, and 15 at most.
    fn allowance() -> Allowance {
        Allowance::new(LeastRate {
            rate: 100,
            grace: 500_000_000,
            most: 1_500_000_000,
        })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn who_keeps_to_the_rate_is_waited_for_without_end() {
        let allowance = allowance();
        for _ in 0..10_000 {
            allowance.moved(1, ms(10));
        }
        assert_eq!(allowance.left(), ms(5000));
    }

    #[test]
    fn who_is_slower_comes_to_the_end_of_it_and_waiting_for_others_costs_nothing() {
        let allowance = allowance();
        allowance.moved(1, ms(1000));
        assert_eq!(allowance.left(), ms(4010));
        allowance.moved(0, ms(0));
        allowance.moved(1, ms(4000));
        assert_eq!(allowance.left(), ms(20));
        allowance.moved(0, ms(4000));
        assert_eq!(allowance.left(), ms(0));
        allowance.renew();
        assert_eq!(allowance.left(), ms(5000));
    }

    #[test]
    fn who_was_fast_has_that_to_its_credit_for_as_long_as_anybody_may_be_silent() {
        let allowance = allowance();
        allowance.moved(1_000_000_000, ms(0));
        assert_eq!(allowance.left(), ms(15_000));
        allowance.renew();
        assert_eq!(allowance.left(), ms(15_000));
    }
}
