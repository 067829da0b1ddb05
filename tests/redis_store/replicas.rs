//! Claims that count only when replicas have them.

use std::time::Duration;

use oncegate::config::{RedisConfig, RedisForm};
use oncegate::protocol::Verdict;
use oncegate::store::{Redis, Store, StoreError};
use tokio::time::{Instant, timeout};

use crate::conformance;
use crate::rig::{Virtual, claim, complete, config, id, release, seed, store_at};
use crate::support::{
    Engine, Gateway, Problem, RedisServer, Setup, ToyUpstream, payment, until, within,
};

/// Of one call.
const PATIENCE: Duration = Duration::from_secs(1);

/// A primary and its replicas.
pub struct Group {
    pub primary: RedisServer,
    pub replicas: Vec<RedisServer>,
}

impl Group {
    pub async fn start(replicas: usize, settings: &[&str]) -> Self {
        let primary = RedisServer::start_with(Engine::Redis, settings);
        let port = primary.port.to_string();
        let follow = ["--replicaof", "127.0.0.1", &port];
        let all: Vec<&str> = follow.iter().chain(settings).copied().collect();
        let replica = |_| RedisServer::start_with(Engine::Redis, &all);
        let replicas: Vec<_> = (0..replicas).map(replica).collect();
        let group = Self { primary, replicas };
        group.is_linked().await;
        group
    }

    /// Waits until every replica has acknowledged what the primary wrote: one that has only just been synchronised
    /// says nothing for a second.
    async fn is_linked(&self) {
        self.primary.cli(&["SET", "linked", "1"]);
        until("the replicas to be linked", || async {
            let replication = self.primary.cli(&["INFO", "replication"]);
            let offset = replication
                .lines()
                .find_map(|line| line.strip_prefix("master_repl_offset:"))?;
            let in_step = format!("state=online,offset={offset},");
            let count = replication.matches(&in_step).count();
            (count == self.replicas.len()).then_some(())
        })
        .await;
    }

    fn config(&self, replicas_ack: u32) -> RedisConfig {
        RedisConfig {
            replicas_ack,
            ..config(RedisForm::Single, &[self.primary.port])
        }
    }

    fn store(&self, replicas_ack: u32) -> Redis {
        store_at(&self.config(replicas_ack), PATIENCE)
    }
}

#[track_caller]
fn is_acquired(verdict: &Result<Verdict, StoreError>) {
    assert!(
        matches!(verdict, Ok(Verdict::Acquired { .. })),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn a_store_that_waits_for_replicas_agrees_with_apply() {
    let group = Group::start(1, &[]).await;
    conformance::agrees_with_apply(&mut Virtual::new(&group.config(1)), seed()).await;
}

#[tokio::test]
async fn claims_at_once_are_waited_for_together() {
    let group = Group::start(1, &[]).await;
    let store = group.store(1);
    is_acquired(&store.apply(id(0), claim(1)).await);
    let before = group.primary.calls("wait");
    let claims = (1..=100).map(|n| store.apply(id(n), claim(1)));
    for verdict in futures_util::future::join_all(claims).await {
        is_acquired(&verdict);
    }
    let waits = group.primary.calls("wait") - before;
    assert!((1..=20).contains(&waits), "{waits} waits for 100 claims");
    // What acquires nothing waits for nobody.
    let before = group.primary.calls("wait");
    let told = store.apply(id(1), claim(2)).await;
    assert!(matches!(told, Ok(Verdict::InFlight { .. })), "{told:?}");
    assert_eq!(group.primary.calls("wait"), before);
}

#[tokio::test]
async fn a_claim_that_no_replica_has_is_in_doubt_in_time_and_its_release_settles_it() {
    let group = Group::start(1, &[]).await;
    let store = group.store(1);
    is_acquired(&store.apply(id(1), claim(1)).await);
    assert_eq!(store.apply(id(2), complete(1)).await, Ok(Verdict::Done));
    group.replicas[0].freeze();
    let begun = Instant::now();
    let refused = timeout(PATIENCE, store.apply(id(3), claim(1))).await;
    let Ok(Err(StoreError::InDoubt(why))) = refused else {
        panic!("{refused:?}");
    };
    assert!(begun.elapsed() < PATIENCE);
    assert!(why.contains("0 have it"), "{why}");
    // Nobody else stands behind it.
    let waiting = store.apply(id(4), claim(1));
    let others = async {
        let begun = Instant::now();
        assert_eq!(store.apply(id(1), complete(1)).await, Ok(Verdict::Done));
        let replayed = store.apply(id(2), claim(2)).await;
        assert!(
            matches!(replayed, Ok(Verdict::Completed(_))),
            "{replayed:?}"
        );
        assert_eq!(store.apply(id(3), release(1)).await, Ok(Verdict::Done));
        begun.elapsed()
    };
    let (waited, took) = tokio::join!(waiting, others);
    assert!(matches!(waited, Err(StoreError::InDoubt(_))), "{waited:?}");
    assert!(took < PATIENCE / 2, "{took:?}");
    group.replicas[0].thaw();
    until("the key to be free for others", || async {
        let verdict = store.apply(id(3), claim(2)).await;
        matches!(verdict, Ok(Verdict::Acquired { .. })).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_between_a_claim_and_its_replicas_vouches_for_nothing() {
    let group = Group::start(1, &[]).await;
    let store = group.store(1);
    is_acquired(&store.apply(id(1), claim(1)).await);
    group.replicas[0].freeze();
    let claiming = store.apply(id(2), claim(1));
    let breaking = async {
        until("the server to wait for its replica", || async {
            let clients = group.primary.cli(&["CLIENT", "LIST"]);
            clients.contains("cmd=wait").then_some(())
        })
        .await;
        group
            .primary
            .cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    };
    let (claimed, ()) = tokio::join!(claiming, breaking);
    assert!(
        matches!(claimed, Err(StoreError::InDoubt(_))),
        "{claimed:?}"
    );
}

/// A frozen primary, promotion of the replica, and the thaw of what still takes itself for the primary: what it
/// acknowledges then is lost, and what replicas had is not.
#[tokio::test]
async fn an_answer_that_is_lost_with_its_server_is_recorded_again() {
    let cluster = crate::support::RedisCluster::start();
    let config = RedisConfig {
        replicas_ack: 1,
        ..config(RedisForm::Cluster, &cluster.ports()[..3])
    };
    let store = store_at(&config, PATIENCE);
    is_acquired(&store.apply(id(0), claim(1)).await);
    let tag = "{payments-test:00}";
    let first = cluster.holder(tag);
    let replica = cluster.replica_of(first);
    replica.freeze();
    // What is written from now on is not even on its way to the replica.
    first.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    // Told at once, though no replica has it.
    assert_eq!(store.apply(id(0), complete(1)).await, Ok(Verdict::Done));
    first.freeze();
    replica.thaw();
    until("the answer to be where the replica took over", || async {
        let other = store_at(&config, PATIENCE);
        let told = timeout(PATIENCE, other.apply(id(0), claim(2))).await;
        matches!(told, Ok(Ok(Verdict::Completed(_)))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_dispatches_nothing_that_no_replica_has() {
    let group = Group::start(1, &[]).await;
    let upstream = ToyUpstream::start();
    let directory = tempfile::tempdir().expect("a directory");
    let id_key = directory.path().join("id-key");
    std::fs::write(&id_key, "k".repeat(32)).expect("a file");
    let setup = Setup::payments(&upstream).shared(&group.primary.url(), &id_key);
    let setup = setup.store("timeout = \"1s\"").store("replicas_ack = 1");
    let gateway: Gateway = setup.start().await;
    gateway.send(&payment("one")).await.is(201, "executed");
    group.replicas[0].freeze();
    let refused = within("an answer", gateway.send(&payment("two"))).await;
    refused.refuses(Problem::STORE_UNAVAILABLE);
    gateway.send(&payment("one")).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
    group.replicas[0].thaw();
    until("the key to be free", || async {
        let answer = gateway.send(&payment("two")).await;
        (answer.status == 201).then_some(())
    })
    .await;
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn too_few_replicas_are_said_by_check_and_at_start() {
    let group = Group::start(1, &[]).await;
    let upstream = ToyUpstream::start();
    let directory = tempfile::tempdir().expect("a directory");
    let id_key = directory.path().join("id-key");
    std::fs::write(&id_key, "k".repeat(32)).expect("a file");
    let setup = Setup::payments(&upstream).shared(&group.primary.url(), &id_key);
    let gateway = setup.store("replicas_ack = 2").start().await;
    let said = gateway
        .log()
        .message("a primary of the store has fewer replicas than claims wait for: its claims are refused")
        .await;
    assert_eq!(said["replicas"], 1, "{said}");
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["check", "--connect", "--config"])
        .arg(gateway.directory().join("oncegate.toml"))
        .output()
        .expect("the binary");
    assert!(!check.status.success(), "{check:?}");
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(
        said.contains("a primary has 1 replicas, and claims wait for 2"),
        "{said}"
    );
}

#[tokio::test]
async fn an_answer_that_an_operator_deleted_is_not_recorded_again_for_its_replicas() {
    let group = Group::start(1, &[]).await;
    // Deletes come from any gateway.
    let (store, operator) = (group.store(1), group.store(1));
    is_acquired(&store.apply(id(1), claim(1)).await);
    group.replicas[0].freeze();
    assert_eq!(store.apply(id(1), complete(1)).await, Ok(Verdict::Done));
    let record = operator.read(id(1)).await.unwrap().expect("a record");
    let deleted = operator.forget(id(1), record.version()).await;
    assert_eq!(deleted, Ok(Verdict::Done));
    let before = group.primary.calls("evalsha");
    until("the answer to be missed and recorded again", || async {
        let calls = group.primary.calls("evalsha") - before;
        (calls >= 2).then_some(())
    })
    .await;
    assert_eq!(operator.read(id(1)).await, Ok(None));
}
