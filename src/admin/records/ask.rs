//! How the store is asked: again for a while, since an operator asks seldom and waits gladly.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::Records;
use super::problem::Problem;
use crate::protocol::{Record, RecordId};
use crate::store::{NotDone, Store, StoreError};

/// How long the store is asked in all, so that an answer comes before the connection's own deadline.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// How many times the configured timeout one try may take: a store that is merely slow is understood.
const TIMES: u32 = 4;

/// What came of asking.
pub struct Said<T> {
    /// The last answer.
    pub answer: Result<T, StoreError>,
    /// Whether an earlier try may have been carried out without a word.
    pub doubted: bool,
}

impl Records {
    /// Asks until there is an answer.
    pub(super) async fn insist<'a, T>(
        &'a self,
        call: impl Fn(&'a dyn Store) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Said<T> {
        let begun = Instant::now();
        let mut doubted = false;
        loop {
            let asked = call(&*self.parts.store);
            let answer = timeout(self.parts.store_timeout * TIMES, asked).await;
            let answer =
                answer.unwrap_or_else(|_| Err(StoreError::InDoubt("no answer in time".to_owned())));
            let is_over = match &answer {
                Ok(_) => true,
                Err(StoreError::NotDone(NotDone::Unreadable(_) | NotDone::Closed)) => true,
                Err(_) => begun.elapsed() >= PATIENCE,
            };
            if is_over {
                return Said { answer, doubted };
            }
            doubted |= matches!(answer, Err(StoreError::InDoubt(_)));
            sleep(PAUSE).await;
        }
    }

    /// The record as it is now.
    pub(super) async fn read(&self, id: RecordId) -> Result<Option<Record>, Problem> {
        self.insist(|store| store.read(id))
            .await
            .answer
            .map_err(unasked)
    }
}

/// Why a question has no answer.
pub fn unasked(error: StoreError) -> Problem {
    match error {
        StoreError::NotDone(NotDone::Unreadable(why)) => Problem::Unreadable(why),
        error => Problem::Store(error.to_string()),
    }
}
