//! The places for connections, of which those that say nothing are given to others.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Connections at a time: a scraper or two, probes, and somebody who looks.
pub(super) const MAX_CONNECTIONS: usize = 32;

/// How long a connection has for its request before its place may be given to another one: that of a probe is there when
/// the connection is. So all that wait in a listener's queue have had their turn within a second.
const SILENT_AT_LEAST: Duration = Duration::from_millis(25);

/// Connections under way.
#[derive(Default)]
pub(super) struct Places {
    connections: JoinSet<()>,
    /// Those that may not have asked yet, oldest first.
    silent: VecDeque<Silent>,
}

/// Decides whether a connection asks something before its place is given away.
#[derive(Clone, Default)]
pub(super) struct FirstWord(Arc<AtomicBool>);

struct Silent {
    since: Instant,
    first_word: FirstWord,
    task: AbortHandle,
}

impl FirstWord {
    /// Whether this is called for the first time.
    pub(super) fn is_first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

impl Places {
    /// Runs a connection once there is a place for it: where all are taken, that of the oldest one that has not asked
    /// anything is. It calls [`FirstWord::is_first`] when it does, and must do nothing where that says no.
    pub(super) async fn admit<C>(&mut self, converse: impl FnOnce(FirstWord) -> C)
    where
        C: Future<Output = ()> + Send + 'static,
    {
        while self.connections.try_join_next().is_some() {}
        self.silent.retain(|silent| !silent.task.is_finished());
        while self.connections.len() >= MAX_CONNECTIONS {
            tokio::select! {
                biased;
                _ = self.connections.join_next() => {}
                () = is_due(self.silent.front()) => self.give_oldest_away().await,
            }
        }
        let first_word = FirstWord::default();
        let task = self.connections.spawn(converse(first_word.clone()));
        self.silent.push_back(Silent {
            since: Instant::now(),
            first_word,
            task,
        });
    }

    async fn give_oldest_away(&mut self) {
        let Some(oldest) = self.silent.pop_front() else {
            return;
        };
        if !oldest.task.is_finished() && oldest.first_word.is_first() {
            oldest.task.abort();
            self.connections.join_next().await;
        }
    }
}

async fn is_due(silent: Option<&Silent>) {
    match silent {
        Some(silent) => sleep_until(silent.since + SILENT_AT_LEAST).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::{Notify, mpsc};

    use super::*;

    /// Fills all places, every second one with somebody who has asked. Each tells its number when it ends.
    fn full(places: &mut Places, may_end: &Arc<Notify>) -> mpsc::Receiver<usize> {
        struct Tells(usize, mpsc::Sender<usize>);
        impl Drop for Tells {
            fn drop(&mut self) {
                let _ = self.1.try_send(self.0);
            }
        }
        let (ended, ends) = mpsc::channel(MAX_CONNECTIONS);
        for number in 0..MAX_CONNECTIONS {
            let (tells, may_end) = (Tells(number, ended.clone()), Arc::clone(may_end));
            let converse = |first_word: FirstWord| async move {
                let _tells = tells;
                if number % 2 == 1 {
                    assert!(first_word.is_first());
                }
                may_end.notified().await;
            };
            places.admit(converse).now_or_never().expect("a free place");
        }
        ends
    }

    #[tokio::test(start_paused = true)]
    async fn the_places_of_the_silent_are_given_away_the_oldest_first() {
        let (mut places, may_end) = (Places::default(), Arc::default());
        let mut ends = full(&mut places, &may_end);
        let begun = Instant::now();
        for silent in (0..MAX_CONNECTIONS).step_by(2) {
            places.admit(|_| pending()).await;
            assert_eq!(ends.recv().await, Some(silent));
        }
        assert!(begun.elapsed() < 2 * SILENT_AT_LEAST);
        assert!(ends.try_recv().is_err(), "who has asked is let finish");
        assert_eq!(places.connections.len(), MAX_CONNECTIONS);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_loses_a_place_as_soon_as_it_has_it() {
        let (mut places, may_end) = (Places::default(), Arc::default());
        let mut ends = full(&mut places, &may_end);
        let begun = Instant::now();
        places.admit(|_| pending()).await;
        assert_eq!(begun.elapsed().as_millis(), SILENT_AT_LEAST.as_millis());
        assert_eq!(ends.recv().await, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_have_asked_one_has_to_end() {
        let (mut places, may_end) = (Places::default(), Arc::<Notify>::default());
        for _ in 0..MAX_CONNECTIONS {
            let may_end = Arc::clone(&may_end);
            let converse = |first_word: FirstWord| async move {
                assert!(first_word.is_first());
                may_end.notified().await;
            };
            places.admit(converse).await;
        }
        let late = places.admit(|_| pending());
        let wait = tokio::time::timeout(Duration::from_secs(60), late).await;
        assert!(wait.is_err(), "a place of somebody who has asked");
        may_end.notify_one();
        places.admit(|_| pending()).await;
    }
}
