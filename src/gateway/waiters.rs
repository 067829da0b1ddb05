//! Duplicates within this process: they wait for the attempt that is under way instead of asking the store.
//!
//! An attempt enters before it claims. Until its verdict is known, those that come later wait for the verdict and
//! then ask the store themselves; once it has acquired the claim, they join it. What they are told is read from
//! the record, or is the recorded response itself: they never learn of anything before it is recorded. An attempt whose
//! claim may be another's by now (its lease is over by this process's clock, or a beat found it lost) is joined by nobody:
//! only the store knows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::protocol::{BuildIdHasher, Fingerprint, RecordId, Response};
use crate::upstream::Gate;

/// Attempts under way in this process, by record id, and how many wait for them.
#[derive(Debug)]
pub struct Waiters {
    attempts: Mutex<HashMap<RecordId, Attempt, BuildIdHasher>>,
    waiting: AtomicUsize,
    max_waiting: AtomicUsize,
    max_waiting_per_key: AtomicUsize,
}

#[derive(Debug)]
struct Attempt {
    fingerprint: Fingerprint,
    /// What says whether its claim may be lost; `None` while it has none.
    claim: Option<Arc<Gate>>,
    /// Made for the first one that waits: most attempts are nobody else's concern.
    stage: Option<watch::Sender<Stage>>,
}

/// How far an attempt is.
#[derive(Clone, Debug)]
enum Stage {
    /// It has asked for the claim.
    Claiming,
    /// It has the claim, and dispatches.
    Acquired,
    /// It is over.
    Over(Ended),
}

/// How an attempt ended for those that waited.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It was recorded.
    Recorded(Arc<Response>),
    /// The record says what became of it.
    AskStore,
}

/// What a newcomer meets.
#[derive(Debug)]
pub enum Met {
    /// Nobody: the ticket makes it the attempt that others wait for.
    Nobody(Ticket),
    /// An attempt whose verdict is not known yet.
    Claiming(Waiting),
    /// An attempt at the same request that has the claim.
    Acquired(Waiting),
    /// An attempt at another request under the same key, which has the claim: only the store can tell.
    Stranger,
    /// An attempt at the same request whose claim may be lost: only the store can tell. Nothing is sent meanwhile.
    Lapsed,
    /// As many wait as may.
    Full {
        /// Whether that for which they wait has the claim.
        acquired: bool,
    },
}

/// The right to be waited for. When it is dropped, waiters are sent to the store.
#[derive(Debug)]
pub struct Ticket {
    waiters: Arc<Waiters>,
    id: RecordId,
    ended: Ended,
}

/// A duplicate that waits for an attempt of this process.
#[derive(Debug)]
pub struct Waiting {
    stage: watch::Receiver<Stage>,
    claim: Option<Arc<Gate>>,
    _place: Place,
}

/// A place among those that wait.
#[derive(Debug)]
pub struct Place(Arc<Waiters>);

impl Waiters {
    /// Nobody yet, and the bounds of how many may wait.
    #[must_use]
    pub fn new(max_waiting: usize, max_waiting_per_key: usize) -> Arc<Self> {
        Arc::new(Self {
            attempts: Mutex::default(),
            waiting: AtomicUsize::new(0),
            max_waiting: AtomicUsize::new(max_waiting),
            max_waiting_per_key: AtomicUsize::new(max_waiting_per_key),
        })
    }

    /// Other bounds. Where more wait already they go on waiting, and nobody else may before there is room.
    pub fn set_limits(&self, max_waiting: usize, max_waiting_per_key: usize) {
        self.max_waiting.store(max_waiting, Ordering::Relaxed);
        self.max_waiting_per_key
            .store(max_waiting_per_key, Ordering::Relaxed);
    }

    /// How many wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Looks who is there, and takes a place: the first one's, or one among those that wait.
    #[must_use]
    pub fn enter(self: &Arc<Self>, id: RecordId, fingerprint: Fingerprint) -> Met {
        let mut attempts = self.attempts();
        let attempt = match attempts.entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert(Attempt {
                    fingerprint,
                    claim: None,
                    stage: None,
                });
                return Met::Nobody(Ticket {
                    waiters: Arc::clone(self),
                    id,
                    ended: Ended::AskStore,
                });
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        let acquired = attempt.claim.is_some();
        if acquired && attempt.fingerprint != fingerprint {
            return Met::Stranger;
        }
        if attempt
            .claim
            .as_ref()
            .is_some_and(|claim| claim.is_lapsed())
        {
            return Met::Lapsed;
        }
        let stage = attempt.stage.get_or_insert_with(|| {
            watch::Sender::new(if acquired {
                Stage::Acquired
            } else {
                Stage::Claiming
            })
        });
        if stage.receiver_count() >= self.max_waiting_per_key.load(Ordering::Relaxed) {
            return Met::Full { acquired };
        }
        let Some(place) = self.place() else {
            return Met::Full { acquired };
        };
        let waiting = Waiting {
            stage: stage.subscribe(),
            claim: attempt.claim.clone(),
            _place: place,
        };
        if acquired {
            Met::Acquired(waiting)
        } else {
            Met::Claiming(waiting)
        }
    }

    /// Becomes the attempt that others wait for, unless there is one.
    #[must_use]
    pub fn first(self: &Arc<Self>, id: RecordId, fingerprint: Fingerprint) -> Option<Ticket> {
        match self.enter(id, fingerprint) {
            Met::Nobody(ticket) => Some(ticket),
            _ => None,
        }
    }

    /// A place among those that wait, for an attempt that is not in this process.
    #[must_use]
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        let max_waiting = self.max_waiting.load(Ordering::Relaxed);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= max_waiting {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(self)))
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<RecordId, Attempt, BuildIdHasher>> {
        // Nothing panics while it holds the lock; if it did, the map would still be whole.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The claim is acquired: duplicates may join from now on, until its gate lapses.
    pub fn acquired(&self, gate: &Arc<Gate>) {
        if let Some(attempt) = self.waiters.attempts().get_mut(&self.id) {
            attempt.claim = Some(Arc::clone(gate));
            if let Some(stage) = &attempt.stage {
                stage.send_replace(Stage::Acquired);
            }
        }
    }

    /// The outcome is recorded: those that wait get it.
    pub fn recorded(mut self, response: Arc<Response>) {
        self.ended = Ended::Recorded(response);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let attempt = self.waiters.attempts().remove(&self.id);
        if let Some(stage) = attempt.and_then(|attempt| attempt.stage) {
            let ended = std::mem::replace(&mut self.ended, Ended::AskStore);
            stage.send_replace(Stage::Over(ended));
        }
    }
}

impl Waiting {
    /// Waits until the attempt's verdict is known, whichever it is.
    pub async fn verdict(mut self) {
        let known = |stage: &Stage| !matches!(stage, Stage::Claiming);
        // An error means that the attempt is gone, which is a verdict, too.
        let _ = self.stage.wait_for(known).await;
    }

    /// Waits until the attempt is over.
    pub async fn ended(&mut self) -> Ended {
        let over = |stage: &Stage| matches!(stage, Stage::Over(_));
        match self.stage.wait_for(over).await.as_deref() {
            Ok(Stage::Over(ended)) => ended.clone(),
            _ => Ended::AskStore,
        }
    }

    /// Whether the attempt's claim may be lost.
    pub fn is_lapsed(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.is_lapsed())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RecordId = RecordId([1; 32]);
    const PRINT: Fingerprint = Fingerprint([2; 32]);

    fn first(waiters: &Arc<Waiters>) -> Ticket {
        match waiters.enter(ID, PRINT) {
            Met::Nobody(ticket) => ticket,
            met => panic!("the first one met {met:?}"),
        }
    }

    #[tokio::test]
    async fn those_that_come_before_the_verdict_wait_for_it() {
        let waiters = Waiters::new(9, 9);
        let ticket = first(&waiters);
        let Met::Claiming(waiting) = waiters.enter(ID, PRINT) else {
            panic!("the attempt has no verdict yet");
        };
        let ((), ()) = tokio::join!(waiting.verdict(), async { ticket.acquired(&Gate::open()) });
        assert!(matches!(waiters.enter(ID, PRINT), Met::Acquired(_)));
    }

    #[tokio::test]
    async fn an_attempt_that_is_dropped_sends_its_waiters_to_the_store() {
        let waiters = Waiters::new(9, 9);
        let ticket = first(&waiters);
        ticket.acquired(&Gate::open());
        let Met::Acquired(mut waiting) = waiters.enter(ID, PRINT) else {
            panic!("the attempt has the claim");
        };
        drop(ticket);
        assert!(matches!(waiting.ended().await, Ended::AskStore));
        drop(waiting);
        assert_eq!(waiters.waiting(), 0);
        drop(first(&waiters));
    }

    #[test]
    fn another_request_under_the_same_key_does_not_join() {
        let waiters = Waiters::new(9, 9);
        let ticket = first(&waiters);
        ticket.acquired(&Gate::open());
        let other = waiters.enter(ID, Fingerprint([3; 32]));
        assert!(matches!(other, Met::Stranger));
    }

    #[test]
    fn an_attempt_whose_claim_may_be_lost_is_joined_by_nobody() {
        let waiters = Waiters::new(9, 9);
        let (ticket, gate) = (first(&waiters), Gate::open());
        ticket.acquired(&gate);
        let Met::Acquired(waiting) = waiters.enter(ID, PRINT) else {
            panic!("the attempt has the claim");
        };
        assert!(!waiting.is_lapsed());
        assert!(gate.close());
        assert!(waiting.is_lapsed());
        let met = waiters.enter(ID, PRINT);
        assert!(matches!(met, Met::Lapsed), "{met:?}");
    }

    #[test]
    fn no_more_wait_than_may() {
        for waiters in [Waiters::new(1, 9), Waiters::new(9, 1)] {
            let ticket = first(&waiters);
            let _place = waiters.enter(ID, PRINT);
            assert_eq!(waiters.waiting(), 1);
            let met = waiters.enter(ID, PRINT);
            assert!(matches!(met, Met::Full { acquired: false }), "{met:?}");
            ticket.acquired(&Gate::open());
            let met = waiters.enter(ID, PRINT);
            assert!(matches!(met, Met::Full { acquired: true }), "{met:?}");
            assert_eq!(waiters.waiting(), 1);
        }
    }
}
