//! A store of which other processes have a hold, for tests: its one record is in flight until a test says otherwise, and
//! ops take as long as a test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ledger::Ledger;
use crate::protocol::{
    Fingerprint, Op, Owner, Record, RecordId, Seen, Timestamp, Verdict, Version,
};
use crate::store::{Hints, NotDone, Store, StoreError, Unresolved, Usage};
use crate::telemetry::Metrics;

/// In flight until it is told otherwise.
#[derive(Default)]
pub struct Elsewhere {
    /// How long an op takes; all of them succeed.
    pub takes: Duration,
    /// How often it was asked for a record.
    pub looks: AtomicUsize,
    /// Whether there is no record any more.
    pub over: AtomicBool,
    /// Where its hints come from.
    pub hints: watch::Sender<()>,
    /// Its epoch; `None`: it cannot be asked.
    pub epoch: Mutex<Option<u64>>,
}

impl Elsewhere {
    /// A ledger that asks it.
    pub fn ledger(self: &Arc<Self>) -> Ledger {
        let store = Arc::clone(self) as Arc<dyn Store>;
        let metrics = Arc::new(Metrics::new(&[], &[]));
        Ledger::new(store, Duration::from_millis(250), metrics)
    }
}

impl Store for Elsewhere {
    fn apply(&self, _: RecordId, _: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        sleep(self.takes).map(|()| Ok(Verdict::Done)).boxed()
    }

    fn look(
        &self,
        _: RecordId,
        _: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let verdict = if self.over.load(Ordering::Relaxed) {
            None
        } else {
            Some(Verdict::InFlight {
                seen: Seen {
                    owner: Owner(1),
                    fence: 1,
                    beat: 0,
                },
                lease_left: Duration::from_secs(15),
            })
        };
        ready(Ok(verdict)).boxed()
    }

    fn read(&self, _: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        ready(Ok(None)).boxed()
    }

    fn forget(&self, _: RecordId, _: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        ready(Ok(Verdict::Done)).boxed()
    }

    fn unresolved(
        &self,
        _: Option<(Timestamp, RecordId)>,
        _: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        ready(Ok(Timestamp(0))).boxed()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        let epoch = *self.epoch.lock().expect("no test panics with the lock");
        let epoch = epoch.ok_or(NotDone::OutOfOrder("away".to_owned()));
        ready(epoch.map(Some).map_err(StoreError::from)).boxed()
    }

    fn hints(&self, _: RecordId) -> Option<Hints> {
        Some(self.hints.subscribe())
    }
}
