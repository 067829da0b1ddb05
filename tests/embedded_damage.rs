//! A file that is damaged anywhere is noticed and named, and never becomes a silent fresh start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use oncegate::protocol::{
    Answer, Fingerprint, Op, Origin, Owner, Record, RecordId, Response, Retention, Timestamp,
    Verdict,
};
use oncegate::store::{Clock, Embedded, OpenError, Store};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const RECORDS: u16 = 300;
/// Flips in each of three kinds of places; `ONCEGATE_TEST_FLIPS` sets it.
const FLIPS: usize = 25;
/// The head page's and redb's headers, where a bit decides about the whole file.
const HEADERS: [(u64, u64); 3] = [(0, 59), (512, 528), (4096, 4096 + 320)];
/// redb's byte that says which of two states is the newer one.
const GOD_BYTE: u64 = 4096 + 9;

#[tokio::test]
async fn a_flipped_bit_is_noticed_or_harmless_in_a_file_that_was_closed() {
    let store = Filled::new().await;
    store.embedded.close().await;
    store.flip_bits(&fs::read(&store.path).unwrap()).await;
}

/// What a process that is killed leaves behind is what is in the file at that moment.
#[tokio::test]
async fn a_flipped_bit_is_noticed_or_harmless_in_a_file_of_a_killed_process() {
    let store = Filled::new().await;
    let bytes = fs::read(&store.path).unwrap();
    store.flip_bits(&bytes).await;
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_noticed_or_whole() {
    let store = Filled::new().await;
    let killed = fs::read(&store.path).unwrap();
    store.embedded.close().await;
    let closed = fs::read(&store.path).unwrap();
    let mut random = Random::new();
    for bytes in [killed, closed] {
        let mut lengths = vec![0, 1, 58, 59, 512, 4095, 4096, 4097, 4416, 8192, 12_288];
        lengths.extend((0..FLIPS).map(|_| random.below(bytes.len())));
        // On page borders, too, where no page is torn.
        lengths.extend((0..FLIPS).map(|_| random.below(bytes.len()) / 4096 * 4096));
        for len in lengths {
            store
                .expect_noticed_or_whole(&bytes[..len], &format!("cut at {len}"))
                .await;
        }
    }
}

#[tokio::test]
async fn an_empty_file_is_an_error_and_stays_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    fs::write(&path, b"").unwrap();
    let error = open(&path).err().expect("an empty file is no store");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("store.db"), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[tokio::test]
async fn another_kind_of_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let text = "precious ".repeat(2000);
    fs::write(&path, &text).unwrap();
    assert!(matches!(open(&path).err(), Some(OpenError::Foreign(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

/// A state that was acknowledged and is not in the file is damage, even if the file is whole in itself.
#[tokio::test]
async fn a_file_that_lost_its_last_changes_is_noticed() {
    let store = Filled::new().await;
    let before = fs::read(&store.path).unwrap();
    store
        .embedded
        .apply(RecordId([0xee; 32]), claim(1))
        .await
        .unwrap();
    store.embedded.close().await;
    let after = fs::read(&store.path).unwrap();
    // The database of before, the number of the last acknowledged change of after.
    let mut bytes = before;
    bytes[512..528].copy_from_slice(&after[512..528]);
    let error = store.open_copy(&bytes).err().expect("a change is missing");
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test]
async fn a_second_opener_is_told_that_a_store_serves_one_process() {
    let store = Filled::new().await;
    let error = open(&store.path).err().expect("it is in use");
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("store.db") && text.contains("single process"),
        "{text}"
    );
    store.embedded.close().await;
    assert!(open(&store.path).is_ok(), "it was let go of");
}

#[test]
fn the_id_key_is_made_once_and_another_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (_, made) = open(&path).map(let_go).unwrap();
    let (_, again) = open(&path).map(let_go).unwrap();
    assert_eq!(made, again);
    assert!(open_with(&path, Some(made)).map(let_go).is_ok());
    assert!(matches!(
        open_with(&path, Some([1; 32])).err(),
        Some(OpenError::OtherIdKey(_))
    ));
}

#[test]
fn a_configured_id_key_is_wanted_again_and_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let key = *b"a configured key of 32 bytes ...";
    assert_eq!(open_with(&path, Some(key)).map(let_go).unwrap().1, key);
    assert_eq!(open_with(&path, Some(key)).map(let_go).unwrap().1, key);
    assert!(matches!(
        open_with(&path, Some([1; 32])).err(),
        Some(OpenError::OtherIdKey(_))
    ));
    assert!(matches!(
        open(&path).err(),
        Some(OpenError::IdKeyMissing(_))
    ));
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(key.len()).any(|window| window == key));
}

#[test]
fn a_creation_that_was_broken_off_does_not_stand_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    fs::write(directory.path().join("store.db.new"), b"half a store").unwrap();
    let (store, _) = open(&path).unwrap();
    assert!(store.created());
    assert!(!directory.path().join("store.db.new").exists());
}

/// A store with records of all kinds, open, and what must be read from it.
struct Filled {
    embedded: Embedded,
    path: PathBuf,
    records: BTreeMap<RecordId, Record>,
    directory: tempfile::TempDir,
}

impl Filled {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let (embedded, _) = open(&path).unwrap();
        // All at once, so that they share syncs.
        join_all((0..RECORDS).map(|n| settle_some(&embedded, n))).await;
        let mut records = BTreeMap::new();
        for id in (0..RECORDS).map(id) {
            if let Some(record) = embedded.read(id).await.unwrap() {
                records.insert(id, record);
            }
        }
        Self {
            embedded,
            path,
            records,
            directory,
        }
    }

    async fn flip_bits(&self, bytes: &[u8]) {
        let mut random = Random::new();
        let mut bits: Vec<u64> = (0..8).map(|bit| GOD_BYTE * 8 + bit).collect();
        let given = std::env::var("ONCEGATE_TEST_FLIPS").ok();
        let flips = given.and_then(|flips| flips.parse().ok()).unwrap_or(FLIPS);
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for _ in 0..flips {
            let (start, end) = HEADERS[random.below(HEADERS.len())];
            bits.push(start * 8 + random.next() % ((end - start) * 8));
            bits.push(written[random.below(written.len())] as u64 * 8 + random.next() % 8);
            bits.push(random.below(bytes.len() * 8) as u64);
        }
        let mut noticed = 0;
        for bit in &bits {
            let mut damaged = bytes.to_vec();
            damaged[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            let context = format!("bit {} of byte {}", bit % 8, bit / 8);
            noticed += usize::from(self.expect_noticed_or_whole(&damaged, &context).await);
        }
        assert!(
            noticed > bits.len() / 3,
            "only {noticed} of {} were noticed",
            bits.len()
        );
    }

    /// Opens these bytes: an error that names the file, or every record as it was. Returns whether an error.
    async fn expect_noticed_or_whole(&self, bytes: &[u8], context: &str) -> bool {
        let (store, path) = match self.open_copy(bytes) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(error.to_string().contains("copy.db"), "{context}: {error}");
                return true;
            }
        };
        assert!(!store.created(), "{context}: a fresh start");
        for n in 0..RECORDS {
            let id = id(n);
            let record = store.read(id).await;
            assert_eq!(
                record,
                Ok(self.records.get(&id).cloned()),
                "{context}: record {n}"
            );
        }
        store.close().await;
        drop((store, path));
        false
    }

    fn open_copy(&self, bytes: &[u8]) -> Result<(Embedded, PathBuf), OpenError> {
        let path = self.directory.path().join("copy.db");
        fs::write(&path, bytes).unwrap();
        open(&path).map(|(store, _)| (store, path))
    }
}

/// Claims record `n`, and completes or releases some.
async fn settle_some(store: &Embedded, n: u16) {
    let acquired = store.apply(id(n), claim(n)).await;
    assert!(
        matches!(acquired, Ok(Verdict::Acquired { .. })),
        "{acquired:?}"
    );
    let done = match n % 6 {
        0 | 3 => store.apply(id(n), complete(n)).await,
        1 => {
            store
                .apply(
                    id(n),
                    Op::Release {
                        owner: Owner(n.into()),
                    },
                )
                .await
        }
        _ => return,
    };
    assert_eq!(done, Ok(Verdict::Done));
}

fn open(path: &Path) -> Result<(Embedded, [u8; 32]), OpenError> {
    open_with(path, None)
}

fn open_with(path: &Path, key: Option<[u8; 32]>) -> Result<(Embedded, [u8; 32]), OpenError> {
    let clock: Clock = Arc::new(|| NOW);
    Embedded::open(path, key, 1 << 30, clock)
}

fn let_go((store, key): (Embedded, [u8; 32])) -> ((), [u8; 32]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(store.close());
    ((), key)
}

fn id(n: u16) -> RecordId {
    let mut id = [0; 32];
    // Spread over the tree as hashes are.
    id[..2].copy_from_slice(&n.wrapping_mul(40_503).to_le_bytes());
    id[2..4].copy_from_slice(&n.to_le_bytes());
    RecordId(id)
}

fn origin(n: u16) -> Origin {
    Origin {
        fingerprint: Fingerprint([n.to_le_bytes()[0]; 32]),
        route: "create-payment".into(),
        reference: Bytes::from(vec![b'r'; 90]),
    }
}

fn claim(n: u16) -> Op {
    Op::Claim {
        owner: Owner(n.into()),
        origin: origin(n),
        lease: Duration::from_secs(15),
        keep: Duration::from_secs(86_400),
    }
}

fn complete(n: u16) -> Op {
    let response = Response::new(
        201,
        vec![("location".to_owned(), Bytes::from(format!("/payments/{n}")))],
        Bytes::from(vec![n.to_le_bytes()[0]; 200 + usize::from(n) * 10]),
    );
    Op::Complete {
        owner: Owner(n.into()),
        origin: origin(n),
        answer: Answer::Stored(Arc::new(response)),
        retention: Retention {
            keep: Duration::from_secs(86_400),
            tombstone: Duration::ZERO,
        },
    }
}

/// SplitMix64, from a seed that a failing test prints; `ONCEGATE_TEST_SEED` sets it.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let given = std::env::var("ONCEGATE_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(since.unwrap().subsec_nanos())
        });
        println!("seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}
