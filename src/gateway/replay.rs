//! Answers from the record.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::{Instant, sleep, sleep_until};

use super::body::Body;
use super::headers::{IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED};
use super::ledger::Ledger;
use crate::protocol::{Answer, Fingerprint, Found, RecordId, Response, Timestamp};
use crate::server::Budget;

/// A recorded response as it is replayed, where the budget has room for its body. Its `Date` is that of its sending.
#[must_use]
pub fn replayed(recorded: &Response, budget: &Arc<Budget>) -> Option<http::Response<Body>> {
    let held = budget.take(recorded.body.len() as u64)?;
    let body = Body::held(recorded.body.clone(), held)
        .replay_of(recorded.trace)
        .with_trailers(lines(&recorded.trailers));
    let mut response = http::Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(recorded.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    *headers = lines(&recorded.headers);
    headers.insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("replayed"));
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    Some(response)
}

/// Recorded lines. They came from a parsed response: one that does not parse any more was damaged on its way through a
/// store without checksums, and leaving it out is all that can be done.
fn lines(recorded: &[(String, Bytes)]) -> HeaderMap {
    let mut lines = HeaderMap::with_capacity(recorded.len());
    for (name, value) in recorded {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(value.clone());
        if let (Ok(name), Ok(value)) = (name, value) {
            // More lines than a message can have are left out like damaged ones.
            let _ = lines.try_append(name, value);
        }
    }
    lines
}

/// How long ago that was, by this machine's clock; nothing depends on it.
#[must_use]
pub fn age(completed_at: Timestamp) -> Duration {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch
        .unwrap_or_default()
        .saturating_sub(Duration::from_millis(completed_at.0))
}

/// Completed records that were replayed lately. They are immutable, so that no store need be asked until they expire,
/// but for those that an operator takes away: where other processes have the store, too, what is held counts only while
/// its epoch is known to be unchanged ([`ReplayCache::follow`]).
pub struct ReplayCache {
    /// `None` where it is switched off. Another limit makes another one.
    cache: ArcSwapOption<Within>,
    /// Until when what is held counts.
    counts_until: Mutex<Option<Instant>>,
    /// Taken away by hand lately, each with the moment from which on an answer about it is a new one.
    forgotten: Mutex<Vec<(RecordId, Instant)>>,
}

/// How often the epoch is asked for, and how long what is held counts after it was last known: an operator's word is
/// heeded everywhere within two seconds, or, where the store cannot be asked, the cache is of no use until it can.
const EPOCH_EVERY: Duration = Duration::from_secs(1);
const EPOCH_COUNTS: Duration = Duration::from_millis(1900);

/// What is held, within these bytes.
struct Within {
    limit_bytes: u64,
    records: Cache<RecordId, Arc<Cached>, Weight>,
}

struct Cached {
    fingerprint: Fingerprint,
    response: Arc<Response>,
    completed_at: Timestamp,
    until: Instant,
}

/// What one entry takes besides its body and header lines, in bytes.
const ENTRY_BYTES: u64 = 256;
/// What one header line takes besides its text.
const LINE_BYTES: u64 = 64;
/// The size of a typical entry, from which the cache guesses how many it will hold.
const TYPICAL_BYTES: u64 = 1024;

#[derive(Clone)]
struct Weight;

impl Weighter<RecordId, Arc<Cached>> for Weight {
    fn weight(&self, _: &RecordId, cached: &Arc<Cached>) -> u64 {
        let response = &cached.response;
        let lines = response.lines();
        let lines = lines.map(|(name, value)| (name.len() + value.len()) as u64 + LINE_BYTES);
        ENTRY_BYTES + response.body.len() as u64 + lines.sum::<u64>()
    }
}

impl ReplayCache {
    /// A cache of so many bytes; 0 switches it off.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            cache: ArcSwapOption::new(Within::bytes(limit_bytes)),
            counts_until: Mutex::new(None),
            forgotten: Mutex::default(),
        }
    }

    /// Sets another limit, and forgets what is held where it is another one; the store knows it all.
    pub fn set_limit(&self, limit_bytes: u64) {
        let held = self.cache.load();
        if held.as_ref().map_or(0, |held| held.limit_bytes) != limit_bytes {
            self.cache.store(Within::bytes(limit_bytes));
        }
    }

    /// Follows the store's epoch for as long as it has one, and forgets everything whenever it changes.
    pub async fn follow(&self, ledger: &Ledger) {
        let mut known = None;
        // Nothing counts before the epoch is known for the first time.
        self.count_until(Some(Instant::now()));
        loop {
            let asked = Instant::now();
            if self.cache.load().is_none() {
                // It may be switched on.
                sleep_until(asked + EPOCH_EVERY).await;
                continue;
            }
            match ledger.epoch().await {
                Ok(None) => return self.count_until(None),
                Ok(epoch) => {
                    if known != epoch {
                        self.clear();
                        // Answers from before may be on their way still; none is after this.
                        sleep(ledger.timeout()).await;
                        self.clear();
                    }
                    known = epoch;
                    self.count_until(Some(asked + EPOCH_COUNTS));
                }
                Err(_) => {}
            }
            sleep_until(asked + EPOCH_EVERY).await;
        }
    }

    /// Forgets one record at once. `answers_take`: for so long answers may be on their way that know it still; none of
    /// them is held.
    pub fn forget(&self, id: RecordId, answers_take: Duration) {
        let now = Instant::now();
        let mut forgotten = self.forgotten();
        forgotten.retain(|(_, until)| now < *until);
        forgotten.push((id, now + answers_take));
        // Under the lock: whoever holds an answer now has asked before, or asks after.
        if let Some(held) = &*self.cache.load() {
            held.records.remove(&id);
        }
    }

    fn clear(&self) {
        if let Some(held) = &*self.cache.load() {
            held.records.clear();
        }
    }

    fn forgotten(&self) -> MutexGuard<'_, Vec<(RecordId, Instant)>> {
        self.forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn count_until(&self, moment: Option<Instant>) {
        *self.moment() = moment;
    }

    fn counts(&self) -> bool {
        self.moment().is_none_or(|moment| Instant::now() < moment)
    }

    fn moment(&self) -> MutexGuard<'_, Option<Instant>> {
        self.counts_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes held now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let held = self.cache.load();
        held.as_ref().map_or(0, |held| held.records.weight())
    }

    /// The response to this very request and its age, if it is held and has not expired.
    #[must_use]
    pub fn find(
        &self,
        id: &RecordId,
        fingerprint: &Fingerprint,
    ) -> Option<(Arc<Response>, Duration)> {
        let held = self.cache.load();
        let records = &held.as_ref()?.records;
        let cached = records.get(id)?;
        if !self.counts() {
            return None;
        }
        if cached.until <= Instant::now() {
            records.remove(id);
            return None;
        }
        (cached.fingerprint == *fingerprint)
            .then(|| (Arc::clone(&cached.response), age(cached.completed_at)))
    }

    /// Holds a completed record that was just found.
    pub fn keep(&self, id: RecordId, found: &Found) {
        let Answer::Stored(response) = &found.completed.answer else {
            return;
        };
        let forgotten = self.forgotten();
        let now = Instant::now();
        if forgotten
            .iter()
            .any(|(gone, until)| *gone == id && now < *until)
        {
            return;
        }
        // Under the lock: whoever forgets it looks at the same cache.
        let held = self.cache.load();
        let Some(held) = &*held else {
            return;
        };
        // A record without an end within the process's life needs no expiry here.
        if let Some(until) = Instant::now().checked_add(found.expires_in) {
            let cached = Cached {
                fingerprint: found.fingerprint,
                response: Arc::clone(response),
                completed_at: found.completed.completed_at,
                until,
            };
            held.records.insert(id, Arc::new(cached));
        }
    }
}

impl Within {
    /// `None` where there is room for nothing.
    fn bytes(limit_bytes: u64) -> Option<Arc<Self>> {
        let items = usize::try_from(limit_bytes / TYPICAL_BYTES).unwrap_or(usize::MAX);
        (limit_bytes > 0).then(|| {
            Arc::new(Self {
                limit_bytes,
                records: Cache::with_weighter(items, limit_bytes, Weight),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::advance;

    use super::super::elsewhere::Elsewhere;
    use super::*;
    use crate::protocol::{Completed, Owner};

    fn found(body: &'static [u8]) -> Found {
        Found {
            fingerprint: Fingerprint([7; 32]),
            completed: Completed {
                owner: Some(Owner(1)),
                answer: Answer::Stored(Arc::new(Response::new(
                    201,
                    vec![("location".to_owned(), Bytes::from_static(b"/p/1"))],
                    Bytes::from_static(body),
                ))),
                completed_at: Timestamp(0),
                begun: crate::protocol::Begun::default(),
            },
            expires_in: Duration::from_secs(60),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_ends_with_its_record() {
        let cache = ReplayCache::new(1 << 20);
        let id = RecordId([1; 32]);
        cache.keep(id, &found(b"paid"));
        assert!(cache.find(&id, &Fingerprint([7; 32])).is_some());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(cache.find(&id, &Fingerprint([7; 32])).is_none());
    }

    #[tokio::test]
    async fn another_request_under_the_same_key_is_not_answered() {
        let cache = ReplayCache::new(1 << 20);
        let id = RecordId([1; 32]);
        cache.keep(id, &found(b"paid"));
        assert!(cache.find(&id, &Fingerprint([8; 32])).is_none());
    }

    #[tokio::test]
    async fn the_cache_stays_within_its_bytes() {
        static BODY: [u8; 10_000] = [b'x'; 10_000];
        let cache = ReplayCache::new(100_000);
        for n in 0..100 {
            cache.keep(RecordId([n; 32]), &found(&BODY));
        }
        assert!((1..=100_000).contains(&cache.bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operators_word_empties_the_cache_within_two_seconds() {
        let (store, cache) = followed().await;
        cache.keep(ID, &found(b"paid"));
        advance(Duration::from_secs(10)).await;
        settle().await;
        assert!(cache.find(&ID, &PRINT).is_some(), "nothing has changed");
        *store.epoch.lock().unwrap() = Some(8);
        sleep(Duration::from_secs(2)).await;
        assert!(cache.find(&ID, &PRINT).is_none());
        cache.keep(ID, &found(b"paid"));
        assert!(cache.find(&ID, &PRINT).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_of_no_use_while_the_epoch_cannot_be_asked_for() {
        let (store, cache) = followed().await;
        cache.keep(ID, &found(b"paid"));
        *store.epoch.lock().unwrap() = None;
        sleep(Duration::from_secs(2)).await;
        assert!(cache.find(&ID, &PRINT).is_none());
        *store.epoch.lock().unwrap() = Some(7);
        sleep(Duration::from_secs(2)).await;
        assert!(cache.find(&ID, &PRINT).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_does_not_come_back_with_an_answer_that_was_on_its_way() {
        let cache = ReplayCache::new(1 << 20);
        cache.keep(ID, &found(b"paid"));
        cache.forget(ID, Duration::from_millis(250));
        assert!(cache.find(&ID, &PRINT).is_none());
        cache.keep(ID, &found(b"paid"));
        assert!(cache.find(&ID, &PRINT).is_none());
        advance(Duration::from_millis(250)).await;
        cache.keep(ID, &found(b"paid anew"));
        assert!(cache.find(&ID, &PRINT).is_some());
    }

    const ID: RecordId = RecordId([1; 32]);
    const PRINT: Fingerprint = Fingerprint([7; 32]);

    /// A cache that follows a store's epoch, 7 at first.
    async fn followed() -> (Arc<Elsewhere>, Arc<ReplayCache>) {
        let (store, cache) = (
            Arc::new(Elsewhere::default()),
            Arc::new(ReplayCache::new(1 << 20)),
        );
        *store.epoch.lock().unwrap() = Some(7);
        let (ledger, follower) = (store.ledger(), Arc::clone(&cache));
        tokio::spawn(async move { follower.follow(&ledger).await });
        sleep(Duration::from_secs(1)).await;
        (store, cache)
    }

    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }
}
