//! Answers from the record.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::body::{Body, Budget};
use super::headers::{IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED};
use crate::protocol::{Answer, Fingerprint, Found, RecordId, Response};

/// A recorded response as it is replayed, where the budget has room for its body. Its `Date` is that of its sending.
#[must_use]
pub fn replayed(recorded: &Response, budget: &Arc<Budget>) -> Option<http::Response<Body>> {
    let held = budget.take(recorded.body.len() as u64)?;
    let mut response = http::Response::new(Body::held(recorded.body.clone(), held));
    // What was recorded came from a parsed response; a line that does not parse any more was damaged on its way
    // through a store without checksums, and leaving it out is all that can be done.
    *response.status_mut() =
        StatusCode::from_u16(recorded.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in &recorded.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(value.clone());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers.insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("replayed"));
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    Some(response)
}

/// Completed records that were replayed lately. They are immutable, so that no store need be asked until they
/// expire.
pub struct ReplayCache {
    /// `None` where it is switched off.
    cache: Option<Cache<RecordId, Arc<Cached>, Weight>>,
}

struct Cached {
    fingerprint: Fingerprint,
    response: Arc<Response>,
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
        let lines = response.headers.iter();
        let lines = lines.map(|(name, value)| (name.len() + value.len()) as u64 + LINE_BYTES);
        ENTRY_BYTES + response.body.len() as u64 + lines.sum::<u64>()
    }
}

impl ReplayCache {
    /// A cache of so many bytes; 0 switches it off.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        let items = usize::try_from(limit_bytes / TYPICAL_BYTES).unwrap_or(usize::MAX);
        Self {
            cache: (limit_bytes > 0).then(|| Cache::with_weighter(items, limit_bytes, Weight)),
        }
    }

    /// The bytes held now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::weight)
    }

    /// The response to this very request, if it is held and has not expired.
    #[must_use]
    pub fn find(&self, id: &RecordId, fingerprint: &Fingerprint) -> Option<Arc<Response>> {
        let cache = self.cache.as_ref()?;
        let cached = cache.get(id)?;
        if cached.until <= Instant::now() {
            cache.remove(id);
            return None;
        }
        (cached.fingerprint == *fingerprint).then(|| Arc::clone(&cached.response))
    }

    /// Holds a completed record that was just found.
    pub fn keep(&self, id: RecordId, found: &Found) {
        let (Some(cache), Answer::Stored(response)) = (&self.cache, &found.completed.answer) else {
            return;
        };
        // A record without an end within the process's life needs no expiry here.
        if let Some(until) = Instant::now().checked_add(found.expires_in) {
            let cached = Cached {
                fingerprint: found.fingerprint,
                response: Arc::clone(response),
                until,
            };
            cache.insert(id, Arc::new(cached));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::protocol::{Completed, Owner, Timestamp};

    fn found(body: &'static [u8]) -> Found {
        Found {
            fingerprint: Fingerprint([7; 32]),
            completed: Completed {
                owner: Some(Owner(1)),
                answer: Answer::Stored(Arc::new(Response {
                    status: 201,
                    headers: vec![("location".to_owned(), Bytes::from_static(b"/p/1"))],
                    body: Bytes::from_static(body),
                })),
                completed_at: Timestamp(0),
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
}
