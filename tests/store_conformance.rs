//! Every store does what the protocol says.

mod conformance;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conformance::{Harness, Reopened};
use futures_util::future::{BoxFuture, FutureExt, ready};
use oncegate::protocol::Timestamp;
use oncegate::store::{Clock, Embedded, Memory, Sealing, SealingKey, Store};

const ROOMY: u64 = 1 << 30;
const TIGHT: u64 = 4096;
/// Sequences of each run; fewer where every op waits for the disk.
const SEQUENCES: u64 = 12;
const SEQUENCES_ON_DISK: u64 = 3;

#[tokio::test]
async fn memory_agrees_with_apply() {
    for seed in seeds(SEQUENCES) {
        conformance::agrees_with_apply(&mut InMemory::new(ROOMY), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_gives_a_claim_to_one_of_many() {
    conformance::one_of_many_acquires(&InMemory::new(ROOMY), seed()).await;
}

#[tokio::test]
async fn a_full_memory_refuses_new_claims_only() {
    conformance::full_refuses_new_claims_only(&InMemory::new(TIGHT)).await;
}

#[tokio::test]
async fn memory_forgets_what_has_ended() {
    conformance::forgets_what_has_ended(&mut InMemory::new(ROOMY)).await;
}

#[tokio::test]
async fn memory_remembers_keys_until_they_may_be_forgotten() {
    conformance::remembers_keys_until_they_may_be_forgotten(&mut InMemory::new(ROOMY)).await;
}

#[tokio::test]
async fn a_closed_memory_says_so() {
    conformance::closed_says_so(&InMemory::new(ROOMY)).await;
}

#[tokio::test]
async fn a_sealed_store_agrees_with_apply() {
    for seed in seeds(SEQUENCES) {
        conformance::agrees_with_apply(&mut InMemory::sealed(ROOMY), seed).await;
    }
}

#[tokio::test]
async fn embedded_agrees_with_apply_and_stays_as_it_was_when_opened_anew() {
    for seed in seeds(SEQUENCES_ON_DISK) {
        conformance::agrees_with_apply(&mut InFile::new(ROOMY), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_gives_a_claim_to_one_of_many() {
    conformance::one_of_many_acquires(&InFile::new(ROOMY), seed()).await;
}

#[tokio::test]
async fn a_full_embedded_store_refuses_new_claims_only() {
    conformance::full_refuses_new_claims_only(&InFile::new(TIGHT)).await;
}

#[tokio::test]
async fn embedded_forgets_what_has_ended() {
    conformance::forgets_what_has_ended(&mut InFile::new(ROOMY)).await;
}

#[tokio::test]
async fn embedded_remembers_keys_until_they_may_be_forgotten() {
    conformance::remembers_keys_until_they_may_be_forgotten(&mut InFile::new(ROOMY)).await;
}

#[tokio::test]
async fn a_closed_embedded_store_says_so() {
    conformance::closed_says_so(&InFile::new(ROOMY)).await;
}

/// `ONCEGATE_TEST_SEED` repeats a failure.
fn seed() -> u64 {
    let given = std::env::var("ONCEGATE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos()) << 20 ^ since.as_secs()
    });
    println!("seed {seed}");
    seed
}

fn seeds(sequences: u64) -> impl Iterator<Item = u64> {
    let first = seed();
    (0..sequences).map(move |n| first.wrapping_add(n))
}

/// A clock that stands until it is moved.
#[derive(Clone)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000_000)))
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, by: Duration) {
        self.0
            .fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    fn for_store(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

struct InMemory {
    clock: SetClock,
    store: Arc<dyn Store>,
}

impl InMemory {
    fn new(max_size: u64) -> Self {
        let clock = SetClock::new();
        let store = Arc::new(Memory::new(max_size, clock.for_store()));
        Self { clock, store }
    }

    fn sealed(max_size: u64) -> Self {
        let Self { clock, store } = Self::new(max_size);
        let key = SealingKey {
            id: "a".to_owned(),
            bytes: [1; 32],
        };
        let store = Arc::new(Sealing::new(store, &[key]));
        Self { clock, store }
    }
}

impl Harness for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn advance(&mut self, by: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(by);
        ready(()).boxed()
    }
}

struct InFile {
    clock: SetClock,
    store: Arc<Embedded>,
    path: PathBuf,
    max_size: u64,
    _directory: tempfile::TempDir,
}

impl InFile {
    fn new(max_size: u64) -> Self {
        let clock = SetClock::new();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let (store, _) = Embedded::open(&path, None, max_size, clock.for_store()).unwrap();
        Self {
            clock,
            store: Arc::new(store),
            path,
            max_size,
            _directory: directory,
        }
    }
}

impl Harness for InFile {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn advance(&mut self, by: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(by);
        ready(()).boxed()
    }

    fn reopen(&mut self) -> BoxFuture<'_, Option<Reopened>> {
        async {
            self.store.close().await;
            let clock = self.clock.for_store();
            let (store, _) = Embedded::open(&self.path, None, self.max_size, clock).unwrap();
            self.store = Arc::new(store);
            Some(Reopened {
                leases_fresh: true,
                marks_gone: true,
            })
        }
        .boxed()
    }
}
