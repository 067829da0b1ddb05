//! How the gateway asks the store: under one deadline for each call, counted, and with the difference between
//! *not done* and *not known whether done* kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::protocol::{Fingerprint, Op, Record, RecordId, Timestamp, Verdict};
use crate::store::{Hints, NotDone, Store, StoreError, Unresolved, Usage};
use crate::telemetry::{Metrics, StoreOp, StoreResult};

/// The first pause before a call is repeated.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest one: a store that was away is found again within so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time that a repeated call waits for its answer: a store that is merely slow is understood at last.
const LONGEST_PATIENCE: Duration = Duration::from_secs(2);

/// The store, as the gateway asks it.
pub struct Ledger {
    store: Arc<dyn Store>,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Ledger {
    /// `timeout` is that of one operation (`store.timeout`).
    #[must_use]
    pub fn new(store: Arc<dyn Store>, timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            timeout,
            metrics,
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// What the store says; [`StoreError::InDoubt`] where it says nothing in time.
    pub fn ask(&self, id: RecordId, op: Op) -> impl Future<Output = Result<Verdict, StoreError>> {
        let label = StoreOp::from(&op);
        self.bounded(label, self.timeout, self.store.apply(id, op))
    }

    /// Asks until there is a verdict. Where none came in time, the next call is given longer: one that gave up at the
    /// same moment again and again would never hear a store that takes a little more.
    ///
    /// # Errors
    /// Where there can be none: the record is unreadable, or the store is closed.
    pub async fn insist(&self, id: RecordId, op: &Op) -> Result<Verdict, NotDone> {
        let label = StoreOp::from(op);
        let (mut pause, mut patience) = (FIRST_PAUSE, self.timeout);
        loop {
            let call = self.store.apply(id, op.clone());
            match self.bounded(label, patience, call).await {
                Ok(verdict) => return Ok(verdict),
                Err(StoreError::NotDone(reason @ (NotDone::Unreadable(_) | NotDone::Closed))) => {
                    return Err(reason);
                }
                Err(StoreError::NotDone(_)) => {}
                Err(StoreError::InDoubt(_)) => {
                    patience = (patience * 2).min(LONGEST_PATIENCE.max(self.timeout));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What a client is told of the record, without claiming anything.
    ///
    /// # Errors
    /// What the store says, or that it says nothing in time.
    pub async fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> Result<Option<Verdict>, StoreError> {
        self.bounded(
            StoreOp::Look,
            self.timeout,
            self.store.look(id, fingerprint),
        )
        .await
    }

    /// The record as it is, see [`Store::read`].
    ///
    /// # Errors
    /// What the store says, or that it says nothing in time.
    pub async fn read(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        self.bounded(StoreOp::Read, self.timeout, self.store.read(id))
            .await
    }

    /// A page of unresolved records, see [`Store::unresolved`].
    ///
    /// # Errors
    /// What the store says, or that it says nothing in time.
    pub async fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, StoreError> {
        let page = self.store.unresolved(after, limit);
        self.bounded(StoreOp::Unresolved, self.timeout, page).await
    }

    /// Hints about a record that another process may be settling, see [`Store::hints`].
    #[must_use]
    pub fn hints(&self, id: RecordId) -> Option<Hints> {
        self.store.hints(id)
    }

    /// See [`Store::epoch`].
    ///
    /// # Errors
    /// What the store says, or that it says nothing in time.
    pub async fn epoch(&self) -> Result<Option<u64>, StoreError> {
        timeout(self.timeout, self.store.epoch())
            .await
            .unwrap_or_else(|_| Err(silent()))
    }

    /// The time by the store's clock, see [`Store::now`].
    ///
    /// # Errors
    /// Where the store does not say, certainly [`StoreError::NotDone`].
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        let silent = || NotDone::OutOfOrder("no answer in time".to_owned());
        match timeout(self.timeout, self.store.now()).await {
            Ok(Err(StoreError::InDoubt(reason))) => Err(NotDone::OutOfOrder(reason).into()),
            Ok(answer) => answer,
            Err(_) => Err(silent().into()),
        }
    }

    /// How long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How full the store is. Never waits.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// Whether the store can be asked.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.bounded(StoreOp::Ping, self.timeout, self.store.ping())
            .await
    }

    async fn bounded<T>(
        &self,
        label: StoreOp,
        patience: Duration,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let answer = timeout_at(asked + patience, call)
            .await
            .unwrap_or_else(|_| Err(silent()));
        let result = match &answer {
            Ok(_) => StoreResult::Done,
            Err(StoreError::NotDone(_)) => StoreResult::NotDone,
            Err(StoreError::InDoubt(_)) => StoreResult::InDoubt,
        };
        let store = &self.metrics.store;
        store.call(label, result, asked.elapsed());
        let is_op = !label.is_question();
        match &answer {
            Ok(_) if is_op => store.health.applied(),
            Ok(_) => store.health.answered(),
            // Such answers are about one record or one moment; the store that gives them is there.
            Err(StoreError::NotDone(
                NotDone::Full | NotDone::Overloaded | NotDone::Unreadable(_),
            )) => {}
            Err(error) => store.health.failed(is_op, error),
        }
        answer
    }
}

fn silent() -> StoreError {
    StoreError::InDoubt("no answer in time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::elsewhere::Elsewhere;
    use super::*;
    use crate::protocol::Owner;
    use crate::telemetry::Health;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_merely_slow_is_heard_at_last() {
        let slow = Elsewhere {
            takes: Duration::from_secs(1),
            ..Elsewhere::default()
        };
        let ledger = Arc::new(slow).ledger();
        let release = Op::Release { owner: Owner(1) };
        let id = RecordId([1; 32]);
        let asked = ledger.ask(id, release.clone()).await;
        assert!(matches!(asked, Err(StoreError::InDoubt(_))), "{asked:?}");
        let insisted = timeout(Duration::from_secs(5), ledger.insist(id, &release)).await;
        assert_eq!(insisted, Ok(Ok(Verdict::Done)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_can_only_be_read_is_not_up_because_it_says_what_is_unresolved() {
        let slow = Elsewhere {
            takes: Duration::from_secs(1),
            ..Elsewhere::default()
        };
        let ledger = Arc::new(slow).ledger();
        let id = RecordId([1; 32]);
        let asked = ledger.ask(id, Op::Release { owner: Owner(1) }).await;
        assert!(asked.is_err(), "{asked:?}");
        assert!(ledger.unresolved(None, 1).await.is_ok());
        assert_eq!(ledger.metrics.store.health.state(), Health::Down);
    }
}
