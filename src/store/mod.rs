//! Where records are kept.
//!
//! A store applies [`Op`]s to records one at a time for each record, exactly as [`crate::protocol::apply`] says,
//! by its own clock. It knows nothing of HTTP, routes or configuration files.

mod codec;
mod embedded;
mod marks;
mod memory;
mod redis;
mod retention;
mod sealing;
mod unresolved;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;

use crate::protocol::{Fingerprint, Op, Record, RecordId, Timestamp, Verdict, Version};

pub use codec::Unreadable;
pub use embedded::{Embedded, Found, OpenError};
pub use memory::Memory;
pub use redis::{Accepted, ContactError, Inspected, Redis, Time};
pub use sealing::{Sealing, SealingKey};
pub use unresolved::Unresolved;

/// A clock that a store reads: milliseconds since the Unix epoch. Tests pass one that they set.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Told when there may be something new to see, see [`Store::hints`].
pub type Hints = watch::Receiver<()>;

/// What every store does.
///
/// A future that is dropped before it ended leaves its op in doubt: it may still be applied.
pub trait Store: Send + Sync + 'static {
    /// Applies one op. When this returns a verdict, what it says is as durable as the store promises.
    ///
    /// # Errors
    /// [`StoreError::NotDone`] where the op was certainly not applied and never will be,
    /// [`StoreError::InDoubt`] where it may have been, or may yet be.
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>>;

    /// What a client with this fingerprint would be told, without claiming anything: see
    /// [`crate::protocol::look`]. `None` where there is no record.
    ///
    /// # Errors
    /// [`StoreError::NotDone`]: a question that fails has no effect.
    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>>;

    /// The record as it is at this moment by the store's clock: a tombstone once its answer has expired, `None`
    /// past that.
    ///
    /// # Errors
    /// [`StoreError::NotDone`], above all [`NotDone::Unreadable`].
    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// An operator's delete, as [`crate::protocol::forget`] says, and as durable as an op. Gateways of other processes
    /// may remember a completed record until the epoch changes: see [`Store::change_epoch`].
    ///
    /// # Errors
    /// As of [`Store::apply`]. It may be repeated: what is gone already is [`Verdict::Done`].
    fn forget(&self, id: RecordId, version: Version) -> BoxFuture<'_, Result<Verdict, StoreError>>;

    /// Records of which no final outcome is known, the oldest first: those after the given place, `limit` at most. Claims
    /// whose owners are alive are not among them, nor is what is past its retention. The place of a record is its
    /// `since` and its id; pages that are asked for one after the other are no snapshot.
    ///
    /// # Errors
    /// [`StoreError::NotDone`]: a question that fails has no effect.
    fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>>;

    /// Asks the store whether it can be asked.
    ///
    /// # Errors
    /// Why not.
    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The time by the store's clock: what judges leases and retention. It may be a little behind, by no more than one
    /// call takes, and is not asked for anew each time.
    ///
    /// # Errors
    /// [`StoreError::NotDone`]: a question that fails has no effect.
    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>>;

    /// Sizes for metrics. Never waits.
    fn usage(&self) -> Usage;

    /// Hints about a record that another process may be settling. `None` for a store that serves a single process.
    ///
    /// The receiver is told whenever there may be something new to see, and once when the hints begin, so that what
    /// was settled before is not missed. Hints may come for nothing, and may be lost: they are no substitute for
    /// asking from time to time. A receiver costs no connection; it is dropped when nobody waits any more.
    fn hints(&self, _id: RecordId) -> Option<Hints> {
        None
    }

    /// A number that changes whenever a completed record was taken away or replaced by hand, by whichever process:
    /// whatever was remembered of completed records before that is to be forgotten. `None` for a store that serves a
    /// single process, which knows by itself.
    ///
    /// # Errors
    /// [`StoreError::NotDone`].
    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        ready(Ok(None)).boxed()
    }

    /// Changes the epoch: to be done after a record was deleted or settled by hand, and again where it failed. Before, a
    /// gateway might remember the old record anew. A store that serves a single process has none.
    ///
    /// # Errors
    /// As of [`Store::apply`].
    fn change_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    /// Makes what was acknowledged safe and lets go of files; later calls answer [`NotDone::Closed`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Why an op has no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The op was not applied and never will be.
    #[error(transparent)]
    NotDone(#[from] NotDone),
    /// The op may have been applied, or may yet be: nobody may act as if it were, or as if it were not.
    #[error("it is not known whether the store did it: {0}")]
    InDoubt(String),
}

/// Why an op was certainly not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// `max_size` is reached: no new claim is taken, and nothing is evicted.
    #[error("the store is full")]
    Full,
    /// More calls are waiting than the store's queue holds.
    #[error("the store's queue is full")]
    Overloaded,
    /// The store could not be reached, or refused to write.
    #[error("the store is out of order: {0}")]
    OutOfOrder(String),
    /// There is a record, and it cannot be read: damaged, sealed with a missing key, or of a newer version.
    #[error("the record cannot be read: {0}")]
    Unreadable(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Records held, those past their retention included until they are swept.
    pub records: u64,
    /// Bytes held.
    pub bytes: u64,
    /// `max_size`, in bytes.
    pub limit_bytes: u64,
    /// Unresolved records that this process has seen the end of: nobody settled them in all their retention.
    pub aged_out: u64,
}

/// The wall clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }))
    })
}

/// Whether the op may set a mark, see [`crate::protocol::apply`].
fn leaves_mark(op: &Op) -> bool {
    matches!(op, Op::Release { .. } | Op::Resolve { .. })
}
