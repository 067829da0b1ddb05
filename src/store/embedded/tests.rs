//! The store on a disk that fails.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::engine::Engine;
use super::file::Disk;
use super::{CACHE_BYTES, Embedded, QUEUE, Settings};
use crate::protocol::{
    Fingerprint, MARK_KEEP, Op, Origin, Owner, Record, RecordId, Timestamp, Verdict,
};
use crate::store::{NotDone, Store, StoreError};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const RECORDS: u8 = 100;
/// Longer than the longest pause of the writer between two tries.
const RECOVERY: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_full_disk_is_said_and_survived_without_a_restart() {
    let (store, faults, _directory) = store_with_records(CACHE_BYTES).await;
    faults.writes_fail.store(true, Ordering::SeqCst);
    let claimed = store.apply(id(200), claim(200)).await;
    let Err(StoreError::NotDone(NotDone::OutOfOrder(reason)) | StoreError::InDoubt(reason)) =
        claimed
    else {
        panic!("{claimed:?}");
    };
    assert!(
        reason.contains("store.db") && reason.contains("No space left"),
        "{reason}"
    );
    assert!(store.ping().await.is_err());
    faults.writes_fail.store(false, Ordering::SeqCst);
    recovered(&store).await;
    expect_records(&store).await;
    assert!(matches!(
        store.apply(id(201), claim(201)).await,
        Ok(Verdict::Acquired { .. })
    ));
}

/// Every place where a change can break, and what is said of it compared with what is found later.
#[tokio::test]
async fn what_is_said_of_a_change_that_failed_is_true() {
    let (store, faults, _directory) = store_with_records(CACHE_BYTES).await;
    let mut said = BTreeMap::new();
    for n in 0..40 {
        let id = RecordId([n; 32]);
        let owner = Owner(1000 + u128::from(n));
        faults.fail_call(n.into());
        let result = store.apply(id, Op::Release { owner }).await;
        assert!(
            result.is_ok(),
            "nothing is written where nothing changes: {result:?}"
        );
        let id = RecordId([100 + n; 32]);
        let result = store.apply(id, claim(100 + n)).await;
        faults.fail_call(i64::MAX);
        recovered(&store).await;
        let found = store.read(id).await.unwrap().is_some();
        match &result {
            Ok(_) => assert!(found, "call {n}: acknowledged and not there"),
            Err(StoreError::NotDone(_)) => assert!(!found, "call {n}: {result:?}, and there it is"),
            Err(StoreError::InDoubt(_)) => {}
        }
        expect_index_of_what_is_committed(&store);
        *said
            .entry(if result.is_ok() {
                "done"
            } else {
                "not done, or in doubt"
            })
            .or_insert(0) += 1;
    }
    expect_records(&store).await;
    assert_eq!(
        said.len(),
        2,
        "calls failed within the change, and after it: {said:?}"
    );
}

#[tokio::test]
async fn a_mark_of_a_release_that_failed_is_taken_back() {
    let (store, faults, _directory) = store_with_records(CACHE_BYTES).await;
    faults.writes_fail.store(true, Ordering::SeqCst);
    let released = store.apply(id(0), Op::Release { owner: Owner(0) }).await;
    assert!(released.is_err());
    faults.writes_fail.store(false, Ordering::SeqCst);
    recovered(&store).await;
    if let Err(StoreError::NotDone(_)) = released {
        assert!(matches!(
            store.apply(id(0), claim(0)).await,
            Ok(Verdict::Acquired { .. })
        ));
    }
}

#[tokio::test]
async fn a_disk_that_stands_still_fills_the_queue_and_no_more() {
    let (store, faults, _directory) = store_with_records(CACHE_BYTES).await;
    let still = faults.syncing.lock().unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let n = u16::try_from(waiting.len()).unwrap();
        let mut id = [0xff; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        let mut call = store.apply(RecordId(id), claim(1));
        match (&mut call).now_or_never() {
            None => waiting.push(call),
            Some(refused) => break refused,
        }
    };
    assert_eq!(refused, Err(StoreError::NotDone(NotDone::Overloaded)));
    assert!(
        waiting.len() >= QUEUE && waiting.len() < QUEUE + 1000,
        "{}",
        waiting.len()
    );
    drop(still);
    for verdict in join_all(waiting).await {
        assert!(
            matches!(verdict, Ok(Verdict::Acquired { .. })),
            "{verdict:?}"
        );
    }
}

/// Nobody would dispatch for it, and somebody would have to release it.
#[tokio::test]
async fn a_claim_whose_caller_went_away_while_it_waited_is_passed_over() {
    let (store, faults, _directory) = store_with_records(CACHE_BYTES).await;
    let still = faults.syncing.lock().unwrap();
    let mut first = store.apply(id(200), claim(200));
    assert!((&mut first).now_or_never().is_none());
    while !faults.waits.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    // The writer is under way with the first one.
    assert!(store.apply(id(201), claim(201)).now_or_never().is_none());
    let mut last = store.apply(id(202), claim(202));
    assert!((&mut last).now_or_never().is_none());
    drop(still);
    assert!(matches!(first.await, Ok(Verdict::Acquired { .. })));
    assert!(matches!(last.await, Ok(Verdict::Acquired { .. })));
    assert_eq!(store.read(id(201)).await, Ok(None));
}

/// A flipped bit in a key, or in an inner page of the tree, would make a record look absent.
#[tokio::test]
async fn a_key_that_changes_on_disk_while_the_store_runs_does_not_hide_its_record() {
    let (store, _, directory) = store_with_records(CACHE_BYTES).await;
    store.close().await;
    let path = directory.path().join("store.db");
    let whole = std::fs::read(&path).unwrap();
    for n in (0..RECORDS).step_by(11) {
        std::fs::write(&path, &whole).unwrap();
        // Without a cache every read goes to the disk.
        let (store, _) = open(&path, Arc::new(Faults::new()), 0);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let mut changed = 0;
        // Wherever it stands: in the page that is read, in inner pages, in pages of former states.
        for at in 0..bytes.len() - 32 {
            if bytes[at..at + 32] == id(n).0 {
                bytes[at + 3] ^= 1;
                file.write_all_at(&bytes[at + 3..=at + 3], at as u64 + 3)
                    .unwrap();
                changed += 1;
            }
        }
        assert!(changed > 0);
        let read = store.read(id(n)).await;
        // The writer may have met it first, and taken the store out of order.
        let Err(StoreError::NotDone(NotDone::Unreadable(reason) | NotDone::OutOfOrder(reason))) =
            &read
        else {
            panic!("record {n}: {read:?}");
        };
        assert!(reason.contains("store.db"), "{reason}");
        let claimed = store.apply(id(n), claim(n + 100)).await;
        assert!(claimed.is_err(), "record {n}: {claimed:?}");
        for n in 0..RECORDS {
            let read = store.read(id(n)).await;
            assert!(!matches!(read, Ok(None)), "record {n} reads as absent");
        }
        store.close().await;
    }
}

/// Fails calls of the disk.
#[derive(Debug)]
struct Faults {
    writes_fail: AtomicBool,
    /// Writing calls until one fails; below zero: it has.
    calls: AtomicI64,
    /// Held by a test for as long as no sync may end.
    syncing: Mutex<()>,
    /// A sync has begun since the store was filled.
    waits: AtomicBool,
}

impl Faults {
    fn new() -> Self {
        Self {
            writes_fail: AtomicBool::new(false),
            calls: AtomicI64::new(i64::MAX),
            syncing: Mutex::new(()),
            waits: AtomicBool::new(false),
        }
    }

    fn fail_call(&self, n: i64) {
        self.calls.store(n, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        // ENOSPC
        if self.writes_fail.load(Ordering::SeqCst) || self.calls.fetch_sub(1, Ordering::SeqCst) == 0
        {
            return Err(io::Error::from_raw_os_error(28));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Faulty(File, Arc<Faults>);

impl Disk for Faulty {
    fn len(&self) -> io::Result<u64> {
        Disk::len(&self.0)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        Disk::read_at(&self.0, offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.check()?;
        Disk::write_at(&self.0, offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.check()?;
        Disk::set_len(&self.0, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.check()?;
        self.1.waits.store(true, Ordering::SeqCst);
        drop(self.1.syncing.lock());
        Disk::sync(&self.0)
    }

    fn unlock(&self) -> io::Result<()> {
        Disk::unlock(&self.0)
    }
}

async fn store_with_records(cache_bytes: usize) -> (Embedded, Arc<Faults>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (store, _) = Embedded::open(&path, None, 1 << 30, Arc::new(|| NOW)).unwrap();
    store.close().await;
    let faults = Arc::new(Faults::new());
    let (store, _) = open(&path, Arc::clone(&faults), cache_bytes);
    let claims = (0..RECORDS).map(|n| store.apply(id(n), claim(n)));
    for acquired in join_all(claims).await {
        assert!(
            matches!(acquired, Ok(Verdict::Acquired { .. })),
            "{acquired:?}"
        );
    }
    faults.waits.store(false, Ordering::SeqCst);
    (store, faults, directory)
}

fn open(path: &Path, faults: Arc<Faults>, cache_bytes: usize) -> (Embedded, [u8; 32]) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let settings = Settings {
        max_size: 1 << 30,
        cache_bytes,
        clock: Arc::new(|| NOW),
    };
    let disk = Box::new(Faulty(file, faults));
    Embedded::open_disk(disk, path, None, settings).unwrap()
}

async fn recovered(store: &Embedded) {
    let start = Instant::now();
    while store.ping().await.is_err() {
        assert!(start.elapsed() < RECOVERY, "the store does not recover");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn expect_records(store: &Embedded) {
    for n in 0..RECORDS {
        let record: Option<Record> = store.read(id(n)).await.unwrap();
        let seen = record.as_ref().and_then(Record::seen);
        assert_eq!(
            seen.map(|seen| seen.owner),
            Some(Owner(n.into())),
            "record {n}"
        );
    }
}

fn expect_index_of_what_is_committed(store: &Embedded) {
    let committed = store.shared.with_engine(Engine::index).unwrap();
    assert_eq!(*store.shared.open(), committed);
}

fn id(n: u8) -> RecordId {
    // Never all zeros: a test looks for ids in the file.
    let mut id = [n.wrapping_mul(37) | 1; 32];
    id[31] = n;
    RecordId(id)
}

fn claim(n: u8) -> Op {
    Op::Claim {
        owner: Owner(n.into()),
        origin: Origin {
            fingerprint: Fingerprint([1; 32]),
            route: "create-payment".into(),
            reference: Bytes::from(vec![n; 500]),
        },
        lease: MARK_KEEP,
        keep: Duration::from_secs(86_400),
    }
}
