//! A cluster.

use std::time::Duration;

use oncegate::config::{Password, RedisConfig, RedisForm};
use oncegate::protocol::Verdict;
use oncegate::store::{NotDone, Store, StoreError};
use tokio::time::timeout;

use crate::conformance;
use crate::rig::{Virtual, claim, complete, config, id, seed, store_at};
use crate::support::{Engine, RedisCluster, RedisServer, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_agrees_with_apply_and_a_frozen_primary_holds_up_nobody_else() {
    let cluster = RedisCluster::start();
    let config = config(RedisForm::Cluster, &cluster.ports()[..2]);
    conformance::agrees_with_apply(&mut Virtual::new(&config), seed()).await;
    conformance::one_of_many_acquires(&Virtual::new(&config), seed()).await;

    let patience = Duration::from_secs(1);
    let store = store_at(&config, patience);
    for n in 0..32 {
        let verdict = store.apply(id(n), claim(1)).await;
        assert!(
            matches!(verdict, Ok(Verdict::Acquired { .. })),
            "{verdict:?}"
        );
    }
    assert_eq!(store.apply(id(0), complete(1)).await, Ok(Verdict::Done));
    let tag = |n: u8| format!("{{payments-test:{n:02x}}}");
    let frozen = cluster.holder(&tag(0));
    assert_eq!(frozen.cli(&["WAIT", "1", "5000"]), "1");
    let elsewhere = (1..32).find(|n| cluster.holder(&tag(*n)).port != frozen.port);
    let elsewhere = elsewhere.expect("buckets are spread");
    frozen.freeze();
    let held_up = timeout(Duration::from_millis(100), store.apply(id(0), claim(2))).await;
    assert!(!matches!(held_up, Ok(Ok(_))), "{held_up:?}");
    let goes_on = timeout(patience, store.apply(id(elsewhere), complete(1))).await;
    assert_eq!(goes_on, Ok(Ok(Verdict::Done)));
    until("its replica to be found in its place", || async {
        let verdict = timeout(patience, store.apply(id(0), claim(2)))
            .await
            .ok()?
            .ok()?;
        matches!(verdict, Verdict::Completed(_)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_valkey_agrees_with_apply_and_gives_a_claim_to_one_of_many() {
    let cluster = RedisCluster::start_with(Engine::Valkey, 1);
    let config = RedisConfig {
        replicas_ack: 1,
        ..config(RedisForm::Cluster, &cluster.ports()[..2])
    };
    conformance::agrees_with_apply(&mut Virtual::new(&config), seed()).await;
    conformance::one_of_many_acquires(&Virtual::new(&config), seed()).await;
    conformance::closed_says_so(&Virtual::new(&config)).await;
}

#[tokio::test]
async fn a_password_that_servers_do_not_take_is_said() {
    let server = RedisServer::start_with(Engine::Redis, &["--requirepass", "hunter2"]);
    for (user, password, why) in [
        (None, Some("hunter4"), "uthentication failed"),
        (Some("gone"), Some("hunter2"), "uthentication failed"),
        (None, None, "NOAUTH"),
    ] {
        let config = RedisConfig {
            user: user.map(str::to_owned),
            password: password.map(|password: &str| Password(password.to_owned())),
            ..config(RedisForm::Cluster, &[server.port])
        };
        let refused = store_at(&config, Duration::from_secs(5)).ping().await;
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(why) && !said.contains("hunter"), "{said}");
    }
}

#[tokio::test]
async fn a_part_that_moves_is_followed() {
    let cluster = RedisCluster::start();
    let config = config(RedisForm::Cluster, &cluster.ports()[..1]);
    let store = store_at(&config, crate::rig::TIMEOUT);
    let other = store_at(&config, crate::rig::TIMEOUT);
    for n in 1..16 {
        store.apply(id(n), claim(1)).await.unwrap();
        let mut hints = other.hints(id(n)).expect("hints");
        within("the first hint", hints.changed()).await.unwrap();
        store.apply(id(n), complete(1)).await.unwrap();
        within("a hint of the end", hints.changed()).await.unwrap();
    }
    store.apply(id(0), claim(1)).await.unwrap();
    let mut hints = other.hints(id(0)).expect("hints");
    within("the first hint", hints.changed()).await.unwrap();
    let (tag, from) = ("{payments-test:00}", cluster.holder("{payments-test:00}"));
    let slot = from.cli(&["CLUSTER", "KEYSLOT", tag]);
    let other = (0..=255).map(|n| cluster.holder(&format!("{{payments-test:{n:02x}}}")));
    let to = other
        .into_iter()
        .find(|to| to.port != from.port)
        .expect("another primary");
    let (from_id, to_id) = (from.cli(&["CLUSTER", "MYID"]), to.cli(&["CLUSTER", "MYID"]));
    to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    for key in keys.lines() {
        let port = to.port.to_string();
        assert_eq!(
            from.cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]),
            "OK"
        );
    }
    // On its way: the old server says to ask the new one; an op, which needs more keys, waits for the end of the move.
    let record = store.read(id(0)).await;
    assert!(matches!(record, Ok(Some(_))), "{record:?}");
    let moving = store.apply(id(0), complete(1)).await;
    assert!(
        matches!(moving, Err(StoreError::NotDone(NotDone::OutOfOrder(_)))),
        "{moving:?}"
    );
    for server in [to, from] {
        server.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    // Moved, and listened to at its new place.
    within("a hint that it moved", hints.changed())
        .await
        .unwrap();
    assert_eq!(store.apply(id(0), complete(1)).await, Ok(Verdict::Done));
    within("a hint of the end", hints.changed()).await.unwrap();
    let replayed = store.apply(id(0), claim(2)).await;
    assert!(
        matches!(replayed, Ok(Verdict::Completed(_))),
        "{replayed:?}"
    );
    assert!(to.cli(&["KEYS", "{payments-test:00}:r:*"]).contains(":r:"));
}
