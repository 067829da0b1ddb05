//! One server.

use std::sync::Arc;
use std::time::Duration;

use oncegate::config::RedisForm;
use oncegate::protocol::{MARK_KEEP, Op, Owner, Verdict};
use oncegate::store::{NotDone, Store, StoreError};

use crate::conformance;
use crate::rig::{FINGERPRINT, Virtual, claim, complete, config, id, origin, release, seed, store};
use crate::support::{Engine, RedisServer, until, within};

/// Sequences of each run.
const SEQUENCES: u64 = 3;

#[tokio::test]
async fn redis_agrees_with_apply() {
    agrees_with_apply(Engine::Redis).await;
}

#[tokio::test]
async fn valkey_agrees_with_apply() {
    agrees_with_apply(Engine::Valkey).await;
}

async fn agrees_with_apply(engine: Engine) {
    let server = RedisServer::start_with(engine, &[]);
    let config = config(RedisForm::Single, &[server.port]);
    let first = seed();
    for seed in (0..SEQUENCES).map(|n| first.wrapping_add(n)) {
        conformance::agrees_with_apply(&mut Virtual::new(&config), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_and_valkey_give_a_claim_to_one_of_many() {
    for engine in [Engine::Redis, Engine::Valkey] {
        let server = RedisServer::start_with(engine, &[]);
        let config = config(RedisForm::Single, &[server.port]);
        conformance::one_of_many_acquires(&Virtual::new(&config), seed()).await;
    }
}

#[tokio::test]
async fn a_closed_redis_says_so() {
    let server = RedisServer::start();
    let config = config(RedisForm::Single, &[server.port]);
    conformance::closed_says_so(&Virtual::new(&config)).await;
}

#[tokio::test]
async fn a_claim_a_completion_and_a_replay_take_one_round_trip_each() {
    let server = RedisServer::start();
    let store = store(&server);
    // So that the server knows the scripts.
    for op in [claim(1), complete(1), claim(2)] {
        store.apply(id(1), op).await.unwrap();
    }
    let calls = || server.calls("evalsha") + server.calls("eval");
    for (op, name) in [
        (claim(1), "claim"),
        (complete(1), "completion"),
        (claim(2), "replay"),
    ] {
        let before = calls();
        store.apply(id(2), op).await.unwrap();
        assert_eq!(calls() - before, 1, "{name}");
    }
}

#[tokio::test]
async fn leases_are_judged_by_the_servers_clock_and_keys_go_after_their_records() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = Duration::from_millis(300);
    let keep = Duration::from_secs(3600);
    let claim = |owner| Op::Claim {
        owner: Owner(owner),
        origin: origin(),
        lease,
        keep,
    };
    store.apply(id(1), claim(1)).await.unwrap();
    let in_flight = store.apply(id(1), claim(2)).await;
    let Ok(Verdict::InFlight { lease_left, .. }) = in_flight else {
        panic!("{in_flight:?}");
    };
    assert!(lease_left <= lease, "{lease_left:?}");
    let unknown = until("the lease to lapse", || async {
        match store.look(id(1), FINGERPRINT).await {
            Ok(Some(Verdict::Unknown { since, .. })) => Some(since),
            _ => None,
        }
    })
    .await;
    let now = oncegate::store::system_clock()();
    assert!(
        now.since(unknown) < Duration::from_secs(60),
        "{unknown:?}, {now:?}"
    );
    let listed = store.unresolved(None, 10).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");

    store.apply(id(2), release(1)).await.unwrap();
    let ttl = |kind: &str, n: u8| {
        let keys = server.cli(&["KEYS", &format!("{{payments-test:{n:02x}}}:{kind}:*")]);
        let ttl: u64 = server.cli(&["PTTL", &keys]).parse().expect("an expiry");
        Duration::from_millis(ttl)
    };
    assert!(ttl("r", 1) > keep, "no sooner than the record's own end");
    assert!(ttl("r", 1) < keep + Duration::from_secs(3600));
    assert!(ttl("m", 2) <= MARK_KEEP);
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_scripts_is_told_them_anew() {
    let server = RedisServer::start();
    let store = store(&server);
    let acquired = |verdict| matches!(verdict, Ok(Verdict::Acquired { .. }));
    assert!(acquired(store.apply(id(1), claim(1)).await));
    server.cli(&["SCRIPT", "FLUSH"]);
    assert!(acquired(store.apply(id(2), claim(2)).await));
}

#[tokio::test]
async fn a_full_server_refuses_new_claims_only() {
    let server = RedisServer::start();
    let store = store(&server);
    let acquired = store.apply(id(1), claim(1)).await;
    assert!(
        matches!(acquired, Ok(Verdict::Acquired { .. })),
        "{acquired:?}"
    );
    assert_eq!(store.apply(id(2), complete(2)).await, Ok(Verdict::Done));
    server.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);

    let refused = store.apply(id(3), claim(3)).await;
    assert_eq!(refused, Err(StoreError::NotDone(NotDone::Full)));
    // What is there is told, and what is true is kept.
    let replayed = store.apply(id(2), claim(4)).await;
    assert!(
        matches!(replayed, Ok(Verdict::Completed(_))),
        "{replayed:?}"
    );
    let again = store.apply(id(1), claim(1)).await;
    assert!(matches!(again, Ok(Verdict::Acquired { .. })), "{again:?}");
    assert_eq!(store.apply(id(1), complete(1)).await, Ok(Verdict::Done));
    assert_eq!(store.apply(id(4), complete(5)).await, Ok(Verdict::Done));

    store.ping().await.unwrap();
    let usage = store.usage();
    assert_eq!(usage.limit_bytes, 1 << 20);
    assert!(
        usage.bytes > usage.limit_bytes && usage.records > 0,
        "{usage:?}"
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_never_absent() {
    let server = RedisServer::start();
    let store = Arc::new(store(&server));
    let key = |n: u8| {
        let digits = format!("{n:02x}");
        format!("{{payments-test:{digits}}}:r:{}", digits.repeat(32))
    };
    // What is done to the record, each word but the first after its key.
    let spoil: [(&str, &[&str]); 8] = [
        ("a newer version", &["HSET", "v", "2.1"]),
        ("no version", &["HDEL", "v"]),
        ("no state", &["HDEL", "st"]),
        ("a strange state", &["HSET", "st", "gone"]),
        ("no end", &["HSET", "fo", "soon"]),
        ("no answer", &["HDEL", "an"]),
        ("another answer", &["HSET", "an", "no answer"]),
        ("another type", &["SET", "no record"]),
    ];
    for (n, (what, spoil)) in (1_u8..).zip(spoil) {
        store.apply(id(n), claim(1)).await.unwrap();
        assert_eq!(store.apply(id(n), complete(1)).await, Ok(Verdict::Done));
        let key = key(n);
        let command: Vec<&str> = [spoil[0], &key]
            .into_iter()
            .chain(spoil[1..].iter().copied())
            .collect();
        server.cli(&command);
        let answers = [
            store.apply(id(n), claim(2)).await.map(drop),
            store.look(id(n), FINGERPRINT).await.map(drop),
            store.read(id(n)).await.map(drop),
        ];
        for answer in answers {
            let unreadable = matches!(&answer, Err(StoreError::NotDone(NotDone::Unreadable(_))));
            assert!(unreadable, "{what}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_epoch_stays_until_it_is_changed_and_is_the_same_for_all() {
    let server = RedisServer::start();
    let (one, other) = (store(&server), store(&server));
    let before = one.epoch().await.unwrap();
    assert_eq!(other.epoch().await.unwrap(), before);
    let changed = one.new_epoch().await.unwrap();
    assert_ne!(Some(changed), before);
    assert_eq!(other.epoch().await.unwrap(), Some(changed));
    assert_ne!(one.new_epoch().await.unwrap(), changed);
}

#[tokio::test]
async fn whoever_waits_for_a_record_is_told_when_it_is_settled_or_freed() {
    let server = RedisServer::start();
    let (one, other) = (store(&server), store(&server));
    let unknown = Op::MarkUnknown {
        owner: Owner(1),
        origin: origin(),
        fence: 1,
        cause: oncegate::protocol::Cause::Timeout,
        sent: oncegate::protocol::Sent::default(),
        keep: Duration::from_secs(3600),
    };
    for (n, end) in (1..).zip([complete(1), release(1), unknown]) {
        one.apply(id(n), claim(1)).await.unwrap();
        let mut hints = other.hints(id(n)).expect("hints");
        within("the first hint", hints.changed()).await.unwrap();
        one.apply(id(n), end).await.unwrap();
        within("a hint of the end", hints.changed()).await.unwrap();
        assert!(!hints.has_changed().unwrap(), "one hint for one end");
    }
}
