//! Stores for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use oncegate::config::{Endpoint, RedisConfig, RedisForm};
use oncegate::identity::IdKeyBytes;
use oncegate::protocol::{
    Answer, Fingerprint, Op, Origin, Owner, RecordId, Response, Retention, Timestamp,
};
use oncegate::store::{Clock, Redis, Store, Time};

use crate::conformance::Harness;
use crate::support::RedisServer;

pub const NAMESPACE: &str = "payments-test";
pub const FINGERPRINT: Fingerprint = Fingerprint([1; 32]);

/// As long as one call may take: far more than it needs on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(10);

pub fn config(form: RedisForm, ports: &[u16]) -> RedisConfig {
    let endpoint = |port: &u16| Endpoint {
        host: "127.0.0.1".to_owned(),
        port: *port,
    };
    RedisConfig {
        form,
        servers: ports.iter().map(endpoint).collect(),
        user: None,
        password: None,
        sentinel_user: None,
        sentinel_password: None,
        database: 0,
        tls: None,
        replicas_ack: 0,
        begin: true,
    }
}

pub fn store_at(config: &RedisConfig, timeout: Duration) -> Redis {
    Redis::new(
        config,
        NAMESPACE,
        &IdKeyBytes([7; 32]),
        timeout,
        Time::Server,
    )
}

/// A store on this server, by the server's clock.
pub fn store(server: &RedisServer) -> Redis {
    store_at(&config(RedisForm::Single, &[server.port]), TIMEOUT)
}

/// A store, and a clock that stands until it is moved.
pub struct Virtual {
    store: Arc<dyn Store>,
    clock: Arc<AtomicU64>,
}

impl Virtual {
    pub fn new(config: &RedisConfig) -> Self {
        let clock = Arc::new(AtomicU64::new(1_700_000_000_000));
        let read = Arc::clone(&clock);
        let given: Clock = Arc::new(move || Timestamp(read.load(Ordering::SeqCst)));
        let id_key = IdKeyBytes([7; 32]);
        let store = Redis::new(config, NAMESPACE, &id_key, TIMEOUT, Time::Given(given));
        Self {
            store: Arc::new(store),
            clock,
        }
    }
}

impl Harness for Virtual {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.clock.load(Ordering::SeqCst))
    }

    fn advance(&mut self, by: Duration) -> BoxFuture<'_, ()> {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.clock.fetch_add(by, Ordering::SeqCst);
        ready(()).boxed()
    }
}

/// `ONCEGATE_TEST_SEED` repeats a failure.
pub fn seed() -> u64 {
    let given = std::env::var("ONCEGATE_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos()) << 20 ^ since.as_secs()
    });
    println!("seed {seed}");
    seed
}

pub fn id(n: u8) -> RecordId {
    RecordId([n; 32])
}

pub fn origin() -> Origin {
    Origin {
        fingerprint: FINGERPRINT,
        route: "create-payment".into(),
        reference: Bytes::from_static(b"reference"),
    }
}

pub fn claim(owner: u128) -> Op {
    crate::conformance::claim(Owner(owner), FINGERPRINT)
}

pub fn release(owner: u128) -> Op {
    Op::Release {
        owner: Owner(owner),
    }
}

pub fn complete(owner: u128) -> Op {
    let response = Response::new(
        201,
        vec![("content-type".to_owned(), Bytes::from_static(b"text/plain"))],
        Bytes::from_static(b"paid"),
    );
    Op::Complete {
        owner: Owner(owner),
        origin: origin(),
        answer: Answer::Stored(Arc::new(response)),
        retention: Retention {
            keep: Duration::from_secs(86_400),
            tombstone: Duration::ZERO,
        },
    }
}
