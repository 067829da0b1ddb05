//! Records in a file of one process, durable: what was acknowledged is on disk.
//!
//! - `open`: making, locking and verifying the file;
//! - `head`: its first page; `file`: what lies between it and the disk;
//! - `engine`: the database in it, its tables, one change to it;
//! - `writer`: the one thread that writes, groups of ops at a time, and what it does when the disk fails.
//!
//! # The engine
//!
//! redb, because it can notice damage. Tried against fjall 3.1 with 64 tasks, each claiming (a record of 250
//! bytes) and then completing (600 bytes) under random ids, 500,000 records there before, groups of waiting ops
//! in one synced commit, on two cores and ext4:
//!
//! | | ops/s | CPU an op | one of 150 bits flipped where something is written |
//! | --- | --- | --- | --- |
//! | redb 4.5, records in one table | 17,700 | 36 µs | with its verification at opening: 2 of 150 silent after a kill |
//! | redb 4.5, claims in a table of their own | 26,200 | 22 µs | the same |
//! | fjall 3.1, `SyncData` | 112,300 | 10 µs | 1 to 4 silent: records missing, by flips in the journal |
//!
//! Either is enough for 10,000 ops a second, which cost a quarter of a core here. What redb lets pass is the last
//! commit of a killed process: where a bit of its pages or of redb's header flips (1,016 of the header's 2,560
//! bits), redb goes back to the commit before. Its two-phase commits leave one such bit, at the price of a second
//! sync. So the number of the last acknowledged change is kept beside the database, in the file's head (it is
//! written without a sync of its own), and an opening that finds less refuses.
//!
//! This store with all of its checks: 27,000 ops/s at 31 µs into an empty file; duplicates of a completed
//! record, which do not reach the writer, 3 µs each; opening and verifying a file of 514 MiB, 1 to 1.6 s.

mod engine;
mod file;
mod head;
mod open;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{oneshot, watch};

pub use open::OpenError;

use self::engine::{Engine, Failure, Tally};
use self::file::StoreFile;
use self::writer::{Call, Task};
use super::marks::Marks;
use super::unresolved::Open;
use super::{Clock, NotDone, Store, StoreError, Unresolved, Usage};
use crate::protocol::{self, Fingerprint, Op, Record, RecordId, Timestamp, Verdict, Version};

/// Ops that wait for the writer. At some 20,000 a second this is a fifth of a second: about what callers wait.
const QUEUE: usize = 4096;

/// See [`Settings::cache_bytes`]. The kernel caches the file besides.
const CACHE_BYTES: usize = 64 << 20;

/// Marks held; 60 seconds of 17,000 releases a second.
const MAX_MARKS: usize = 1 << 20;

/// A store in a file. What it has acknowledged is on disk.
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` once the store is closed.
    calls: RwLock<Option<SyncSender<Call>>>,
    closed: watch::Receiver<bool>,
    created: bool,
    found: Found,
}

/// What a file held when it was opened, of records without a final outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Claims whose owners cannot have renewed them since the file was used last.
    pub claims: u64,
    /// Outcomes that were declared unknown.
    pub unknown: u64,
}

/// What callers and the writer share.
struct Shared {
    path: PathBuf,
    file: Arc<StoreFile>,
    settings: Settings,
    phase: RwLock<Phase>,
    marks: Mutex<Marks>,
    records: AtomicU64,
    bytes: AtomicU64,
    aged_out: AtomicU64,
    /// Of what is committed. It is changed before anybody is told of the change.
    open: Mutex<Open>,
}

/// How a store is run.
struct Settings {
    /// In bytes of records.
    max_size: u64,
    /// Pages that redb keeps in memory, read and unwritten ones together.
    cache_bytes: usize,
    clock: Clock,
}

/// Whether the database can be asked.
enum Phase {
    Open(Box<Engine>),
    /// It failed and is opened anew from time to time; why it failed.
    Failed(String),
    Closed,
}

impl Embedded {
    /// Whether the file was made by this opening.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// What the file held without a final outcome when it was opened.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// The verdict of a claim that changes nothing because there is a record, from the last state on disk.
    ///
    /// As exact as the writer's: everything acknowledged is in that state, a claim of a record that exists leaves
    /// it as it is, and the mark of an owner is set before the change that goes with it can be seen. It is read on
    /// the caller's thread: from memory, as a rule, or at the cost of a read from disk.
    fn known_verdict(&self, id: RecordId, op: &Op) -> Result<Option<Verdict>, NotDone> {
        let (Op::Claim { .. }, Some(owner)) = (op, op.owner()) else {
            return Ok(None);
        };
        let record = self.shared.read(id)?;
        let now = (self.shared.settings.clock)();
        let Some(record) = record.and_then(|record| record.at(now)) else {
            return Ok(None);
        };
        if self.shared.marks().contains(id, owner, now) {
            return Ok(None);
        }
        let (_, _, verdict) = protocol::apply(Some(record), false, op.clone(), now);
        Ok(Some(verdict))
    }

    /// What the writer says to this.
    async fn written(&self, id: RecordId, task: Task) -> Result<Verdict, StoreError> {
        let (reply, verdict) = oneshot::channel();
        self.enqueue(Call { id, task, reply })?;
        verdict
            .await
            .unwrap_or_else(|_| Err(StoreError::InDoubt("the store's writer has ended".into())))
    }

    fn enqueue(&self, call: Call) -> Result<(), NotDone> {
        let calls = self.calls.read().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.as_ref().ok_or(NotDone::Closed)?;
        calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => NotDone::Overloaded,
            TrySendError::Disconnected(_) => NotDone::Closed,
        })
    }
}

impl Store for Embedded {
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        async move {
            if let Some(verdict) = self.known_verdict(id, &op)? {
                return Ok(verdict);
            }
            self.written(id, Task::Op(op)).await
        }
        .boxed()
    }

    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        async move {
            let record = self.shared.read(id)?;
            Ok(protocol::look(
                record.as_ref(),
                &fingerprint,
                (self.shared.settings.clock)(),
            ))
        }
        .boxed()
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move {
            let record = self.shared.read(id)?;
            Ok(record.and_then(|record| record.at((self.shared.settings.clock)())))
        }
        .boxed()
    }

    fn forget(&self, id: RecordId, version: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        self.written(id, Task::Forget(version)).boxed()
    }

    fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        async move {
            let now = (self.shared.settings.clock)();
            let page = |_: &Engine| {
                let open = self.shared.open();
                Ok(open.unresolved(after, now).take(limit).collect())
            };
            Ok(self.shared.with_open(page)?)
        }
        .boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { Ok(self.shared.with_open(|_| Ok(()))?) }.boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        async move { Ok((self.shared.settings.clock)()) }.boxed()
    }

    fn usage(&self) -> Usage {
        Usage {
            records: self.shared.records.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            limit_bytes: self.shared.settings.max_size,
            aged_out: self.shared.aged_out.load(Ordering::Relaxed),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let mut closed = self.closed.clone();
        async move {
            // The writer ends when the last sender is gone and the queue is empty.
            drop(
                self.calls
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
            let _ = closed.wait_for(|closed| *closed).await;
        }
        .boxed()
    }
}

impl Shared {
    fn read(&self, id: RecordId) -> Result<Option<Record>, NotDone> {
        self.with_open(|engine| {
            engine.read(&id).map_err(|failure| match &failure {
                Failure::Record(_, error) => NotDone::Unreadable(error.to_string()),
                Failure::Damaged(_) => NotDone::Unreadable(self.named(&failure)),
                Failure::Storage(error) if is_damage(error) => {
                    NotDone::Unreadable(self.named(&failure))
                }
                Failure::Storage(_) => NotDone::OutOfOrder(self.named(&failure)),
            })
        })
    }

    fn with_open<T>(&self, work: impl FnOnce(&Engine) -> Result<T, NotDone>) -> Result<T, NotDone> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Open(engine) => work(engine),
            Phase::Failed(reason) => Err(NotDone::OutOfOrder(reason.clone())),
            Phase::Closed => Err(NotDone::Closed),
        }
    }

    fn with_engine<T>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Open(engine) => work(engine),
            Phase::Failed(reason) => Err(Failure::Damaged(reason.clone())),
            Phase::Closed => Err(Failure::Damaged("the store is closed".into())),
        }
    }

    /// Waits until nobody reads, and returns the phase before.
    fn set_phase(&self, phase: Phase) -> Phase {
        let mut current = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, phase)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, tally: Tally) {
        self.records.store(tally.records, Ordering::Relaxed);
        self.bytes.store(tally.bytes, Ordering::Relaxed);
    }

    fn named(&self, failure: &Failure) -> String {
        format!("{}: {failure}", self.path.display())
    }
}

fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}
