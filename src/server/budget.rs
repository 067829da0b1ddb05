//! Bounds on how much of something there is at a time, which may change while it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much of something at a time: bytes of bodies (`limits.max_buffered`), connections, dispatches.
#[derive(Debug)]
pub struct Budget {
    held: AtomicU64,
    limit: AtomicU64,
}

/// Some of the budget, given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    amount: u64,
}

impl Budget {
    /// A budget of so much.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
        })
    }

    /// Sets another limit. Where more is held already it stays held, and no more is given before it is below.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How much may be held.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// How much is held now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// So much of it, where there is room for it.
    #[must_use]
    pub fn take(self: &Arc<Self>, amount: u64) -> Option<Held> {
        let mut held = self.hold();
        held.grow(amount).then_some(held)
    }

    /// Nothing of it yet.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        Held {
            budget: Arc::clone(self),
            amount: 0,
        }
    }
}

impl Held {
    /// Takes more of the budget; false, and nothing taken, where that is too much.
    #[must_use]
    pub fn grow(&mut self, amount: u64) -> bool {
        self.grow_within(amount, self.budget.limit())
    }

    /// The same for what can be done without: the other half of the budget is left to those that cannot.
    #[must_use]
    pub fn grow_spare(&mut self, amount: u64) -> bool {
        self.grow_within(amount, self.budget.limit() / 2)
    }

    fn grow_within(&mut self, amount: u64, limit: u64) -> bool {
        let before = self.budget.held.fetch_add(amount, Ordering::Relaxed);
        if before.saturating_add(amount) > limit {
            self.budget.held.fetch_sub(amount, Ordering::Relaxed);
            return false;
        }
        self.amount += amount;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_limit_takes_nothing_away_and_gives_nothing_before_it_is_kept() {
        let budget = Budget::new(3);
        let (one, two) = (budget.take(1).unwrap(), budget.take(2).unwrap());
        budget.set_limit(2);
        assert_eq!(budget.held(), 3);
        drop(one);
        assert!(budget.take(1).is_none());
        drop(two);
        assert!(budget.take(2).is_some());
        budget.set_limit(4);
        assert!(budget.take(4).is_some());
    }
}
