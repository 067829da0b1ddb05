//! The database in the file: its tables, what is verified when it is opened, and one change to it at a time.
//!
//! | table | holds |
//! | --- | --- |
//! | `claimed` | claimed records by id. Few, so that all claims and renewals of a group meet in a few pages |
//! | `settled` | all other records by id |
//! | `due` | settled records' ids by (bucket, change, part): when they are looked at again |
//! | `meta` | the [`Tally`] |

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition, WriteTransaction,
};

use super::file::{Backend, StoreFile};
use crate::protocol::{Record, RecordId, State, Timestamp};
use crate::store::codec::{self, Unreadable};
use crate::store::retention::{self, Bucket, Look};
use crate::store::unresolved::{Move, Open};

/// Ids in one entry of the schedule, which is looked at as a whole: so a step of the sweep is bounded.
const DUE_IDS: usize = 64;
const ID_LEN: usize = 32;

const CLAIMED: TableDefinition<&[u8; ID_LEN], &[u8]> = TableDefinition::new("claimed");
const SETTLED: TableDefinition<&[u8; ID_LEN], &[u8]> = TableDefinition::new("settled");
const DUE: TableDefinition<(Bucket, u64, u32), &[u8]> = TableDefinition::new("due");
const META: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("meta");
const TALLY: &str = "tally";

/// What the database holds, as of its last change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of that change, from 1.
    pub sequence: u64,
    /// Records.
    pub records: u64,
    /// Bytes of them, keys included.
    pub bytes: u64,
}

/// What one change did.
#[derive(Debug)]
pub struct Changed {
    /// What the database holds from now on.
    pub tally: Tally,
    /// What it means for records without a final outcome.
    pub moves: Vec<Move>,
}

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A read or a write failed, or what was read is not what was written.
    #[error(transparent)]
    Storage(#[from] redb::Error),
    /// What was read contradicts itself.
    #[error("{0}")]
    Damaged(String),
    /// The record cannot be read; the rest of the database can.
    #[error("record {0:?}: {1}")]
    Record(RecordId, Unreadable),
}

/// An open database.
pub struct Engine {
    database: Database,
}

impl Engine {
    /// Makes an empty database in a file that has only its head.
    pub fn create(file: &Arc<StoreFile>, cache_bytes: usize) -> Result<Self, Failure> {
        let engine = Self {
            database: build(file, cache_bytes)?,
        };
        let transaction = engine.database.begin_write().map_err(stored)?;
        let change = Change::begin(&transaction, Tally::default())?;
        change.finish()?;
        transaction.commit().map_err(stored)?;
        Ok(engine)
    }

    /// Opens the database and verifies all of it: every page by its checksum, the count of records, and that no
    /// change is missing which was acknowledged.
    pub fn open(file: &Arc<StoreFile>, cache_bytes: usize) -> Result<(Self, Tally), Failure> {
        file.forget_sums();
        let acknowledged = file.acknowledged().map_err(redb::Error::Io)?;
        let acknowledged = acknowledged
            .ok_or_else(|| Failure::Damaged("the number of its last change is damaged".into()))?;
        guarded(|| {
            let engine = Self {
                database: build(file, cache_bytes)?,
            };
            let tally = engine.verified_tally(acknowledged)?;
            Ok((engine, tally))
        })
    }

    /// The record as it is stored.
    pub fn read(&self, id: &RecordId) -> Result<Option<Record>, Failure> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(stored)?;
            for table in [CLAIMED, SETTLED] {
                let table = transaction.open_table(table).map_err(stored)?;
                if let Some(bytes) = table.get(&id.0).map_err(stored)? {
                    return decode(id, bytes.value()).map(Some);
                }
            }
            Ok(None)
        })
    }

    /// Makes one change, whatever `steps` do within it, and returns once it is on disk. Nothing is written where
    /// they change nothing.
    ///
    /// `committing` is called when everything has succeeded but the commit, with the number of the change.
    pub fn change(
        &self,
        tally: Tally,
        steps: impl FnOnce(&mut Change<'_>) -> Result<(), Failure>,
        committing: impl FnOnce(u64),
    ) -> Result<Changed, Failure> {
        guarded(|| {
            let transaction = self.database.begin_write().map_err(stored)?;
            let mut change = Change::begin(&transaction, tally)?;
            steps(&mut change)?;
            if !change.is_some() {
                drop(change);
                transaction.abort().map_err(stored)?;
                return Ok(Changed {
                    tally,
                    moves: Vec::new(),
                });
            }
            let changed = change.finish()?;
            committing(changed.tally.sequence);
            transaction.commit().map_err(stored)?;
            Ok(changed)
        })
    }

    /// Gives every open claim a fresh lease: its owner cannot have renewed it while nobody was here.
    pub fn renew_leases(&self, tally: Tally, now: Timestamp) -> Result<Tally, Failure> {
        let renewed = self.change(tally, |change| change.renew_leases(now), |_| {})?;
        Ok(renewed.tally)
    }

    /// The index of all records without a final outcome. One that cannot be read is not in it: nothing is known of
    /// its outcome, nor of its route.
    pub fn index(&self) -> Result<Open, Failure> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(stored)?;
            let mut open = Open::default();
            for table in [CLAIMED, SETTLED] {
                let table = transaction.open_table(table).map_err(stored)?;
                for entry in table.iter().map_err(stored)? {
                    let (id, bytes) = entry.map_err(stored)?;
                    let id = RecordId(*id.value());
                    if let Ok(Some(record)) = codec::decode_open(&id, bytes.value())
                        && let Some(moved) = Move::of(id, None, Some(&record))
                    {
                        open.make(moved, Timestamp(0));
                    }
                }
            }
            Ok(open)
        })
    }

    /// Lets go of the file, whole and clean.
    pub fn close(self) -> Result<(), Failure> {
        guarded(|| self.database.close().map_err(stored))
    }

    fn verified_tally(&self, acknowledged: u64) -> Result<Tally, Failure> {
        let transaction = self.database.begin_read().map_err(stored)?;
        let tally = read_tally(&transaction)?;
        if tally.sequence < acknowledged {
            return Err(Failure::Damaged(format!(
                "changes {} to {acknowledged} were acknowledged and are missing",
                tally.sequence + 1
            )));
        }
        let claimed = transaction.open_table(CLAIMED).map_err(stored)?;
        let settled = transaction.open_table(SETTLED).map_err(stored)?;
        let records = claimed.len().map_err(stored)? + settled.len().map_err(stored)?;
        if records != tally.records {
            return Err(Failure::Damaged(format!(
                "it should hold {} records and holds {records}",
                tally.records
            )));
        }
        Ok(tally)
    }
}

/// One change under way.
pub struct Change<'txn> {
    claimed: Table<'txn, &'static [u8; ID_LEN], &'static [u8]>,
    settled: Table<'txn, &'static [u8; ID_LEN], &'static [u8]>,
    due: Table<'txn, (Bucket, u64, u32), &'static [u8]>,
    meta: Table<'txn, &'static str, (u64, u64, u64)>,
    tally: Tally,
    /// Entries of the schedule that this change adds.
    scheduled: BTreeMap<Bucket, Vec<u8>>,
    moves: Vec<Move>,
    writes: bool,
}

impl<'txn> Change<'txn> {
    fn begin(transaction: &'txn WriteTransaction, tally: Tally) -> Result<Self, Failure> {
        Ok(Self {
            claimed: transaction.open_table(CLAIMED).map_err(stored)?,
            settled: transaction.open_table(SETTLED).map_err(stored)?,
            due: transaction.open_table(DUE).map_err(stored)?,
            meta: transaction.open_table(META).map_err(stored)?,
            tally,
            scheduled: BTreeMap::new(),
            moves: Vec::new(),
            writes: false,
        })
    }

    /// Bytes of records held, this change included.
    pub fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// The record as this change has left it.
    pub fn read(&self, id: &RecordId) -> Result<Option<Record>, Failure> {
        for table in [&self.claimed, &self.settled] {
            if let Some(bytes) = table.get(&id.0).map_err(stored)? {
                return decode(id, bytes.value()).map(Some);
            }
        }
        Ok(None)
    }

    /// Puts `after` in the place of `before`.
    pub fn replace(
        &mut self,
        id: &RecordId,
        before: Option<&Record>,
        after: Option<&Record>,
    ) -> Result<(), Failure> {
        let bytes = after.map(|after| codec::encode(id, after)).transpose();
        let bytes = bytes.map_err(|error| Failure::Record(*id, error))?;
        self.writes = true;
        self.moves.extend(Move::of(*id, before, after));
        let (was, is) = (
            before.map(retention::is_settled),
            after.map(retention::is_settled),
        );
        if let Some(settled) = was
            && was != is
        {
            let removed = self.table(settled).remove(&id.0).map_err(stored)?;
            let removed = removed.map(|bytes| bytes.value().len());
            self.count_out(removed);
        }
        if let (Some(settled), Some(bytes)) = (is, bytes) {
            let replaced = self
                .table(settled)
                .insert(&id.0, bytes.as_slice())
                .map_err(stored)?;
            let replaced = replaced.map(|bytes| bytes.value().len());
            self.count_out(replaced);
            self.tally.records += 1;
            self.tally.bytes += (ID_LEN + bytes.len()) as u64;
        }
        if let Some(bucket) = after.and_then(|after| retention::schedule(before, after)) {
            self.schedule(bucket, id);
        }
        Ok(())
    }

    /// Looks at settled records that are due, `DUE_IDS` at most, and forgets those that have ended. Returns how
    /// many it looked at: 0 where nothing is due.
    pub fn sweep_settled(&mut self, now: Timestamp) -> Result<usize, Failure> {
        let entry = self.due.first().map_err(stored)?;
        let Some((key, ids)) = entry.map(|(key, ids)| (key.value(), ids.value().to_vec())) else {
            return Ok(0);
        };
        if key.0 >= retention::current(now) {
            return Ok(0);
        }
        let (ids, _) = ids.as_chunks::<ID_LEN>();
        for id in ids {
            let id = RecordId(*id);
            let bytes = self.settled.get(&id.0).map_err(stored)?;
            let record = bytes.map(|bytes| decode(&id, bytes.value())).transpose();
            match record {
                Ok(None) => {}
                Ok(Some(record)) => match retention::look(&record, now) {
                    Look::Forget => self.replace(&id, Some(&record), None)?,
                    Look::Shrink(bucket) => {
                        let tombstone = record.clone().at(now);
                        self.replace(&id, Some(&record), tombstone.as_ref())?;
                        self.schedule(bucket, &id);
                    }
                    Look::Again(bucket) => self.schedule(bucket, &id),
                    Look::Drop => {}
                },
                Err(Failure::Record(..)) => {
                    self.schedule(retention::look_again_unread(now), &id);
                }
                Err(failure) => return Err(failure),
            }
        }
        self.due.remove(key).map_err(stored)?;
        self.writes = true;
        Ok(ids.len().max(1))
    }

    /// Looks at the `steps` claimed records after `from` and forgets those that nobody settled in all their
    /// retention. Returns where to go on; `None`: from the start.
    pub fn sweep_claimed(
        &mut self,
        from: Option<RecordId>,
        steps: usize,
        now: Timestamp,
    ) -> Result<Option<RecordId>, Failure> {
        let start = from.map_or([0; ID_LEN], |id| id.0);
        let mut last = None;
        let mut ended = Vec::new();
        for entry in self
            .claimed
            .range::<&[u8; ID_LEN]>(&start..)
            .map_err(stored)?
            .take(steps)
        {
            let (id, bytes) = entry.map_err(stored)?;
            let id = RecordId(*id.value());
            // One that cannot be read stays: nothing is known of its end.
            if let Ok(record) = decode(&id, bytes.value())
                && now >= record.forget_at
            {
                ended.push((id, record));
            }
            last = Some(id);
        }
        for (id, record) in &ended {
            self.replace(id, Some(record), None)?;
        }
        Ok(last.filter(|last| Some(*last) != from))
    }

    fn renew_leases(&mut self, now: Timestamp) -> Result<(), Failure> {
        let mut renewed = Vec::new();
        for entry in self.claimed.iter().map_err(stored)? {
            let (id, bytes) = entry.map_err(stored)?;
            let id = RecordId(*id.value());
            let Ok(mut record) = decode(&id, bytes.value()) else {
                continue;
            };
            if let State::Claimed(claim) = &mut record.state {
                claim.lease_until = now.plus(claim.lease);
                renewed.push((id, record));
            }
        }
        for (id, record) in &renewed {
            self.replace(id, Some(record), Some(record))?;
        }
        Ok(())
    }

    fn is_some(&self) -> bool {
        self.writes
    }

    /// Writes the schedule and the tally.
    fn finish(mut self) -> Result<Changed, Failure> {
        self.tally.sequence += 1;
        for (bucket, ids) in &self.scheduled {
            for (part, ids) in (0..).zip(ids.chunks(DUE_IDS * ID_LEN)) {
                let key = (*bucket, self.tally.sequence, part);
                self.due.insert(key, ids).map_err(stored)?;
            }
        }
        let Tally {
            sequence,
            records,
            bytes,
        } = self.tally;
        self.meta
            .insert(TALLY, (sequence, records, bytes))
            .map_err(stored)?;
        Ok(Changed {
            tally: self.tally,
            moves: self.moves,
        })
    }

    fn table(&mut self, settled: bool) -> &mut Table<'txn, &'static [u8; ID_LEN], &'static [u8]> {
        if settled {
            &mut self.settled
        } else {
            &mut self.claimed
        }
    }

    fn count_out(&mut self, bytes: Option<usize>) {
        if let Some(bytes) = bytes {
            self.tally.records = self.tally.records.saturating_sub(1);
            self.tally.bytes = self.tally.bytes.saturating_sub((ID_LEN + bytes) as u64);
        }
    }

    fn schedule(&mut self, bucket: Bucket, id: &RecordId) {
        self.scheduled.entry(bucket).or_default().extend(id.0);
    }
}

/// One commit is one sync: with the number of the last acknowledged change beside the database nobody is told of
/// anything that a torn commit could take back, and whatever is taken back is noticed.
fn build(file: &Arc<StoreFile>, cache_bytes: usize) -> Result<Database, Failure> {
    Database::builder()
        .set_cache_size(cache_bytes)
        .set_check_integrity_on_open(true)
        .create_with_backend(Backend(Arc::clone(file)))
        .map_err(stored)
}

fn read_tally(transaction: &ReadTransaction) -> Result<Tally, Failure> {
    let meta = transaction.open_table(META).map_err(stored)?;
    let tally = meta.get(TALLY).map_err(stored)?;
    let (sequence, records, bytes) = tally
        .ok_or_else(|| Failure::Damaged("it does not say what it holds".into()))?
        .value();
    Ok(Tally {
        sequence,
        records,
        bytes,
    })
}

fn decode(id: &RecordId, bytes: &[u8]) -> Result<Record, Failure> {
    codec::decode(id, bytes).map_err(|error| Failure::Record(*id, error))
}

/// redb promises errors for damage that its verification finds, and may panic on other damage.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Failure::Damaged(
            "the database engine gave up on what it read".into(),
        ))
    })
}

fn stored(error: impl Into<redb::Error>) -> Failure {
    Failure::Storage(error.into())
}
