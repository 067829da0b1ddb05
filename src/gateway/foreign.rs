//! Duplicates of attempts that other processes make: one watch for each, however many wait for it here.
//!
//! A watch asks the store when it hints that there may be something new, and once a second besides: hints can be lost.
//! It holds no connection, and ends when nobody waits any more.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::ledger::Ledger;
use crate::process;
use crate::protocol::{Fingerprint, RecordId, Verdict};
use crate::store::Hints;

/// How often the store is asked about one record where it hints at nothing.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// The watches of this process.
pub struct Foreign {
    ledger: Arc<Ledger>,
    watches: Mutex<HashMap<Watched, watch::Sender<Stage>>>,
}

/// What is watched: the verdict differs by payload.
type Watched = (RecordId, Fingerprint);

/// How far the attempt is.
#[derive(Clone, Debug)]
enum Stage {
    UnderWay,
    /// What the record says now; `None` where there is no record any more.
    Over(Option<Verdict>),
}

impl Foreign {
    /// No watches yet.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            watches: Mutex::default(),
        })
    }

    /// Waits until the record is no longer in flight, and says what a client with this fingerprint is told of it then;
    /// `None` where there is no record any more.
    pub async fn ended(
        self: &Arc<Self>,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> Option<Verdict> {
        let mut stage = self.watching((id, fingerprint));
        let over = |stage: &Stage| matches!(stage, Stage::Over(_));
        if stage.wait_for(over).await.is_ok()
            && let Stage::Over(verdict) = stage.borrow().clone()
        {
            return verdict;
        }
        // Its task is gone: the process ends.
        pending().await
    }

    fn watching(self: &Arc<Self>, watched: Watched) -> watch::Receiver<Stage> {
        let mut watches = self.watches();
        if let Some(stage) = watches.get(&watched) {
            return stage.subscribe();
        }
        let (stage, watching) = watch::channel(Stage::UnderWay);
        watches.insert(watched, stage.clone());
        tokio::spawn(process::task(Arc::clone(self).watch(watched, stage)));
        watching
    }

    async fn watch(self: Arc<Self>, watched: Watched, stage: watch::Sender<Stage>) {
        let mut hints = self.ledger.hints(watched.0);
        loop {
            tokio::select! {
                biased;
                () = stage.closed() => {
                    // Somebody may have come in between.
                    if self.left(&watched, &stage) {
                        return;
                    }
                }
                () = hinted(&mut hints) => {}
                () = sleep(POLL_EVERY) => {}
            }
            match self.ledger.look(watched.0, watched.1).await {
                Ok(Some(Verdict::InFlight { .. })) | Err(_) => {}
                Ok(verdict) => {
                    // Before those that wait are told: who comes from now on begins a watch of its own.
                    self.watches().remove(&watched);
                    stage.send_replace(Stage::Over(verdict));
                    return;
                }
            }
        }
    }

    /// Whether nobody waits any more; then the watch is taken away.
    fn left(&self, watched: &Watched, stage: &watch::Sender<Stage>) -> bool {
        let mut watches = self.watches();
        let left = stage.receiver_count() == 0;
        if left {
            watches.remove(watched);
        }
        left
    }

    fn watches(&self) -> MutexGuard<'_, HashMap<Watched, watch::Sender<Stage>>> {
        // Nothing panics while it holds the lock.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a hint; for ever where there are none.
async fn hinted(hints: &mut Option<Hints>) {
    match hints {
        Some(told) => {
            if told.changed().await.is_err() {
                *hints = None;
            }
        }
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures_util::future::join_all;
    use tokio::time::{Instant, timeout};

    use super::super::elsewhere::Elsewhere;
    use super::*;

    const ID: RecordId = RecordId([1; 32]);
    const PRINT: Fingerprint = Fingerprint([2; 32]);

    fn watches() -> (Arc<Elsewhere>, Arc<Foreign>) {
        let store = Arc::new(Elsewhere::default());
        let ledger = store.ledger();
        (store, Foreign::new(Arc::new(ledger)))
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_wait_ask_the_store_once_a_second_together() {
        let (store, foreign) = watches();
        let all = join_all((0..50).map(|_| foreign.ended(ID, PRINT)));
        assert!(timeout(Duration::from_millis(10_500), all).await.is_err());
        assert_eq!(store.looks.load(Ordering::Relaxed), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_followed_at_once() {
        let (store, foreign) = watches();
        let begun = Instant::now();
        let ended = tokio::spawn({
            let foreign = Arc::clone(&foreign);
            async move { foreign.ended(ID, PRINT).await }
        });
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        store.over.store(true, Ordering::Relaxed);
        store.hints.send_replace(());
        assert_eq!(ended.await.unwrap(), None);
        assert!(begun.elapsed() < Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_when_nobody_waits_any_more() {
        let (store, foreign) = watches();
        let waits = timeout(Duration::from_millis(1500), foreign.ended(ID, PRINT));
        assert!(waits.await.is_err());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(store.looks.load(Ordering::Relaxed), 1);
        assert!(foreign.watches().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn lost_hints_are_made_up_for_by_asking() {
        let (store, foreign) = watches();
        store.over.store(true, Ordering::Relaxed);
        assert_eq!(foreign.ended(ID, PRINT).await, None);
    }
}
