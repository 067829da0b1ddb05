//! How the gateway asks the store: under one deadline for each call, counted, and with the difference between
//! *not done* and *not known whether done* kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::protocol::{Fingerprint, Op, RecordId, Verdict};
use crate::store::{NotDone, Store, StoreError};
use crate::telemetry::{Metrics, StoreOp, StoreResult};

/// The first pause before a call is repeated.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest one: a store that was away is found again within so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    pub async fn ask(&self, id: RecordId, op: Op) -> Result<Verdict, StoreError> {
        let label = StoreOp::from(&op);
        self.bounded(label, self.store.apply(id, op)).await
    }

    /// Asks until there is a verdict.
    ///
    /// # Errors
    /// Where there can be none: the record is unreadable, or the store is closed.
    pub async fn insist(&self, id: RecordId, op: Op) -> Result<Verdict, NotDone> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask(id, op.clone()).await {
                Ok(verdict) => return Ok(verdict),
                Err(StoreError::NotDone(reason @ (NotDone::Unreadable(_) | NotDone::Closed))) => {
                    return Err(reason);
                }
                Err(StoreError::NotDone(_) | StoreError::InDoubt(_)) => {}
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
        self.bounded(StoreOp::Look, self.store.look(id, fingerprint))
            .await
    }

    /// Whether the store can be asked.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.bounded(StoreOp::Ping, self.store.ping()).await
    }

    async fn bounded<T>(
        &self,
        label: StoreOp,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let answer = timeout(self.timeout, call)
            .await
            .unwrap_or_else(|_| Err(StoreError::InDoubt("no answer in time".to_owned())));
        let result = match &answer {
            Ok(_) => StoreResult::Done,
            Err(StoreError::NotDone(_)) => StoreResult::NotDone,
            Err(StoreError::InDoubt(_)) => StoreResult::InDoubt,
        };
        self.metrics.store.call(label, result, asked.elapsed());
        if let Some(up) = answers(answer.as_ref().err()) {
            self.metrics.store.up.set(u64::from(up));
        }
        answer
    }
}

/// Whether an answer shows that the store is there; `None` where it shows neither. A record that cannot be read
/// and a full store are answers, too.
fn answers(error: Option<&StoreError>) -> Option<bool> {
    match error {
        None | Some(StoreError::NotDone(NotDone::Full | NotDone::Unreadable(_))) => Some(true),
        Some(StoreError::NotDone(NotDone::OutOfOrder(_) | NotDone::Closed)) => Some(false),
        Some(StoreError::InDoubt(_)) => Some(false),
        Some(StoreError::NotDone(NotDone::Overloaded)) => None,
    }
}
