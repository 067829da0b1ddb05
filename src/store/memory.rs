//! Records in the memory of this process: for tests, demonstrations, and services that can lose them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{self, BoxFuture, FutureExt};

use super::marks::Marks;
use super::retention::{self, Bucket, Look};
use super::unresolved::{Move, Open};
use super::{Clock, NotDone, Store, StoreError, Unresolved, Usage, leaves_mark};
use crate::protocol::{
    self, Answer, BuildIdHasher, Fingerprint, Op, Record, RecordId, State, Timestamp, Verdict,
    Version,
};

/// Parts of the store with a lock each: enough that two of a few cores seldom meet at one.
const SHARDS: usize = 64;

/// Settled records, and claimed ones, looked at with every op, to see whether they may be forgotten. More than
/// the one that an op can add, so that forgetting keeps up.
const SWEEP_STEP: usize = 4;

/// Marks held by one shard; 60 seconds of some 250 releases a second there, 16,000 in all.
const MAX_MARKS: usize = 1 << 14;

/// What a record takes besides the bytes that it refers to: itself, its places in the map and in the schedule, the room
/// that these grow by, and what the allocator adds. Measured: 80,000 records, counted as 280 bytes besides this, took
/// 1,310 bytes each of resident memory.
const RECORD_OVERHEAD: u64 = 1024;
/// What a header line takes besides its bytes.
const HEADER_OVERHEAD: u64 = 64;

/// A store that a restart empties.
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    clock: Clock,
    max_size: u64,
    records: AtomicU64,
    bytes: AtomicU64,
    aged_out: AtomicU64,
    closed: AtomicBool,
}

#[derive(Default)]
struct Shard {
    /// Boxed: a map that grows moves its entries, and has room for twice as many.
    records: HashMap<RecordId, Box<Record>, BuildIdHasher>,
    /// When settled records are looked at.
    due: BTreeMap<Bucket, Vec<RecordId>>,
    /// Claimed records, and some that were: looked at in turn.
    claimed: VecDeque<RecordId>,
    marks: Marks,
    open: Open,
}

impl Memory {
    /// An empty store.
    ///
    /// - `max_size`: bytes of records from which on no new claim is taken;
    /// - `clock`: judges leases, retention and marks.
    #[must_use]
    pub fn new(max_size: u64, clock: Clock) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            clock,
            max_size,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            aged_out: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn apply_now(&self, id: RecordId, op: Op) -> Result<Verdict, NotDone> {
        let mut shard = self.open_shard(id)?;
        let now = (self.clock)();
        self.sweep_settled(&mut shard, now);
        self.sweep_claimed(&mut shard, now);
        shard.marks.forget_some(now);
        if shard.marks.len() >= MAX_MARKS && leaves_mark(&op) {
            return Err(NotDone::Overloaded);
        }
        let claims = matches!(op, Op::Claim { .. });
        let marked = op
            .owner()
            .is_some_and(|owner| shard.marks.contains(id, owner, now));
        let before = shard.record(&id);
        let has_no_room = claims && self.is_full() && shard.read(&id, now).is_none();
        let (after, mark, verdict) = protocol::apply(before, marked, op, now);
        if has_no_room && after.is_some() {
            return Err(NotDone::Full);
        }
        if let Some(mark) = mark {
            shard.marks.insert(id, mark, now);
        }
        self.keep(&mut shard, id, after, now);
        Ok(verdict)
    }

    fn forget_now(&self, id: RecordId, version: Version) -> Result<Verdict, NotDone> {
        let mut shard = self.open_shard(id)?;
        let now = (self.clock)();
        shard.marks.forget_some(now);
        if shard.marks.len() >= MAX_MARKS {
            return Err(NotDone::Overloaded);
        }
        let (after, marks, verdict) = protocol::forget(shard.record(&id), version, now);
        for mark in marks {
            shard.marks.insert(id, mark, now);
        }
        self.keep(&mut shard, id, after, now);
        Ok(verdict)
    }

    fn look_now(
        &self,
        id: RecordId,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Verdict>, NotDone> {
        let shard = self.open_shard(id)?;
        Ok(protocol::look(
            shard.records.get(&id).map(Box::as_ref),
            fingerprint,
            (self.clock)(),
        ))
    }

    fn read_now(&self, id: RecordId) -> Result<Option<Record>, NotDone> {
        let shard = self.open_shard(id)?;
        Ok(shard.read(&id, (self.clock)()))
    }

    /// The lists of all shards, merged as far as the page goes. Each is as it is at its own moment, and a record never
    /// changes its shard.
    fn unresolved_now(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, NotDone> {
        let mut page: Vec<Unresolved> = Vec::new();
        for shard in &self.shards {
            let shard = self.locked(shard)?;
            let full = page.get(limit.saturating_sub(1)).map(Unresolved::place);
            let listed = shard.open.unresolved(after, (self.clock)()).take(limit);
            page.extend(listed.take_while(|next| full.is_none_or(|last| next.place() < last)));
            page.sort_by_key(Unresolved::place);
            page.truncate(limit);
        }
        Ok(page)
    }

    fn open_shard(&self, id: RecordId) -> Result<MutexGuard<'_, Shard>, NotDone> {
        // Ids are hashes: any byte spreads them evenly.
        self.locked(&self.shards[usize::from(id.0[0]) % SHARDS])
    }

    fn locked<'a>(&self, shard: &'a Mutex<Shard>) -> Result<MutexGuard<'a, Shard>, NotDone> {
        if self.closed.load(Ordering::Acquire) {
            return Err(NotDone::Closed);
        }
        // A poisoned lock is read through: `apply` is pure, and what follows it does not panic half-way.
        Ok(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.max_size
    }

    /// Puts `after` in the place of what is there, and sees to it that somebody looks at it again.
    fn keep(&self, shard: &mut Shard, id: RecordId, after: Option<Record>, now: Timestamp) {
        let before = shard.records.get(&id).map(Box::as_ref);
        if let Some(moved) = Move::of(id, before, after.as_ref()) {
            let aged_out = shard.open.make(moved, now);
            self.aged_out
                .fetch_add(u64::from(aged_out), Ordering::Relaxed);
        }
        if let Some(before) = before {
            self.records.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(size(before), Ordering::Relaxed);
        }
        let Some(after) = after else {
            shard.records.remove(&id);
            return;
        };
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size(&after), Ordering::Relaxed);
        if let Some(bucket) = retention::schedule(before, &after) {
            shard.due.entry(bucket).or_default().push(id);
        }
        if before.is_none_or(retention::is_settled) && !retention::is_settled(&after) {
            shard.claimed.push_back(id);
        }
        match shard.records.entry(id) {
            Entry::Occupied(mut place) => **place.get_mut() = after,
            Entry::Vacant(place) => {
                place.insert(Box::new(after));
            }
        }
    }

    /// Forgets what may be forgotten among the next few settled records that are due.
    fn sweep_settled(&self, shard: &mut Shard, now: Timestamp) {
        for _ in 0..SWEEP_STEP {
            let Some(mut due) = shard.due.first_entry() else {
                return;
            };
            if *due.key() >= retention::current(now) {
                return;
            }
            let id = due.get_mut().pop();
            if due.get().is_empty() {
                due.remove();
            }
            let Some((id, record)) = id.and_then(|id| Some((id, shard.records.get(&id)?))) else {
                continue;
            };
            match retention::look(record, now) {
                Look::Forget => self.keep(shard, id, None, now),
                Look::Shrink(bucket) => {
                    let tombstone = Record::clone(record).at(now);
                    self.keep(shard, id, tombstone, now);
                    shard.due.entry(bucket).or_default().push(id);
                }
                Look::Again(bucket) => shard.due.entry(bucket).or_default().push(id),
                Look::Drop => {}
            }
        }
    }

    /// Goes on a few steps round the claimed records: one that nobody settled in all its retention is forgotten.
    fn sweep_claimed(&self, shard: &mut Shard, now: Timestamp) {
        for _ in 0..SWEEP_STEP.min(shard.claimed.len()) {
            let Some(id) = shard.claimed.pop_front() else {
                return;
            };
            match shard.records.get(&id) {
                Some(record) if retention::is_settled(record) => {}
                Some(record) if now < record.forget_at => shard.claimed.push_back(id),
                Some(_) => self.keep(shard, id, None, now),
                None => {}
            }
        }
    }
}

impl Shard {
    /// The record as it is stored.
    fn record(&self, id: &RecordId) -> Option<Record> {
        self.records.get(id).map(|record| Record::clone(record))
    }

    /// The record as it reads now.
    fn read(&self, id: &RecordId, now: Timestamp) -> Option<Record> {
        self.record(id)?.at(now)
    }
}

impl Store for Memory {
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        // Lazy, as a future is expected to be: one that is never polled has done nothing.
        async move { Ok(self.apply_now(id, op)?) }.boxed()
    }

    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        async move { Ok(self.look_now(id, &fingerprint)?) }.boxed()
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move { Ok(self.read_now(id)?) }.boxed()
    }

    fn forget(&self, id: RecordId, version: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        async move { Ok(self.forget_now(id, version)?) }.boxed()
    }

    fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        async move { Ok(self.unresolved_now(after, limit)?) }.boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let closed = self.closed.load(Ordering::Acquire);
        future::ready(if closed {
            Err(NotDone::Closed.into())
        } else {
            Ok(())
        })
        .boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        future::ready(Ok((self.clock)())).boxed()
    }

    fn usage(&self) -> Usage {
        Usage {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            limit_bytes: self.max_size,
            aged_out: self.aged_out.load(Ordering::Relaxed),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move { self.closed.store(true, Ordering::Release) }.boxed()
    }
}

/// What a record takes, in bytes, about.
fn size(record: &Record) -> u64 {
    let answer = match &record.state {
        State::Completed(completed) => match &completed.answer {
            Answer::Stored(response) => {
                let lines: u64 = response
                    .lines()
                    .map(|(name, value)| length(name.len() + value.len()) + HEADER_OVERHEAD)
                    .sum();
                lines + length(response.body.len())
            }
            Answer::NotStored(_) => 0,
            Answer::Sealed(sealed) => length(sealed.text.len()),
        },
        State::Claimed(_) | State::Unknown(_) | State::Expired => 0,
    };
    RECORD_OVERHEAD + length(record.reference.len()) + answer
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
