//! The marks of a store whose callers all live in its own process.
//!
//! A mark turns away a late call of an owner that has given up. Such a call dies with the process, so marks need
//! no file; they are as durable as what they turn away.

use std::collections::{HashMap, VecDeque};

use crate::protocol::{Mark, Owner, RecordId, Timestamp};

/// Expired marks let go with every new one; more than one, so that the number falls back after a burst.
const FORGET_STEP: usize = 4;

/// Owners that have given up, by record.
#[derive(Debug, Default)]
pub struct Marks {
    until: HashMap<(RecordId, Owner), Timestamp>,
    /// In the order of their making, which is that of their ends.
    ends: VecDeque<(RecordId, Mark)>,
}

impl Marks {
    /// Whether a mark of this owner stands beside the record.
    pub fn contains(&self, id: RecordId, owner: Owner, now: Timestamp) -> bool {
        self.until
            .get(&(id, owner))
            .is_some_and(|until| now < *until)
    }

    /// Marks held, expired ones included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Sets a mark, and lets go of some that have expired.
    pub fn insert(&mut self, id: RecordId, mark: Mark, now: Timestamp) {
        self.forget_some(now);
        self.until.insert((id, mark.owner), mark.until);
        self.ends.push_back((id, mark));
    }

    /// Takes back a mark that was set for a change which did not come about.
    pub fn remove(&mut self, id: RecordId, owner: Owner) {
        self.until.remove(&(id, owner));
    }

    /// Lets go of a bounded number of marks that have expired.
    pub fn forget_some(&mut self, now: Timestamp) {
        for _ in 0..FORGET_STEP {
            match self.ends.front() {
                Some((_, mark)) if now < mark.until => break,
                Some((id, mark)) => {
                    let key = (*id, mark.owner);
                    if self.until.get(&key) == Some(&mark.until) {
                        self.until.remove(&key);
                    }
                    self.ends.pop_front();
                }
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::MARK_KEEP;

    const ID: RecordId = RecordId([1; 32]);
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn a_mark_stands_until_its_end() {
        let mut marks = Marks::default();
        marks.insert(ID, mark(1, NOW), NOW);
        assert!(marks.contains(ID, Owner(1), Timestamp(NOW.plus(MARK_KEEP).0 - 1)));
        assert!(!marks.contains(ID, Owner(1), NOW.plus(MARK_KEEP)));
        assert!(!marks.contains(ID, Owner(2), NOW));
        assert!(!marks.contains(RecordId([2; 32]), Owner(1), NOW));
    }

    #[test]
    fn a_mark_set_again_stands_until_its_later_end() {
        let mut marks = Marks::default();
        marks.insert(ID, mark(1, NOW), NOW);
        let later = NOW.plus(MARK_KEEP / 2);
        marks.insert(ID, mark(1, later), later);
        let between = NOW.plus(MARK_KEEP);
        marks.forget_some(between);
        assert!(marks.contains(ID, Owner(1), between));
    }

    #[test]
    fn expired_marks_go_as_new_ones_come() {
        let mut marks = Marks::default();
        for owner in 0..1000 {
            marks.insert(ID, mark(owner, NOW), NOW);
        }
        let later = NOW.plus(MARK_KEEP);
        for owner in 1000..1400 {
            marks.insert(ID, mark(owner, later), later);
        }
        assert_eq!(marks.len(), 400);
        assert_eq!(marks.until.len(), 400);
    }

    fn mark(owner: u128, now: Timestamp) -> Mark {
        Mark {
            owner: Owner(owner),
            until: now.plus(MARK_KEEP),
        }
    }
}
