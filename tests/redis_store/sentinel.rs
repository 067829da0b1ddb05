//! A master and its replicas, found through sentinels.

use std::time::Duration;

use oncegate::config::RedisForm;
use oncegate::protocol::Verdict;
use oncegate::store::Store;
use tokio::time::timeout;

use crate::rig::{claim, complete, config, id, store_at};
use crate::support::{Engine, RedisServer, until};

struct Group {
    master: RedisServer,
    _replicas: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Group {
    async fn start() -> Self {
        let master = RedisServer::start();
        let port = master.port.to_string();
        let follow = ["--replicaof", "127.0.0.1", &port];
        let replica = |_| RedisServer::start_with(Engine::Redis, &follow);
        let replicas: Vec<_> = (0..2).map(replica).collect();
        until("the replicas to be linked", || async {
            let is_linked = |replica: &RedisServer| {
                replica
                    .cli(&["INFO", "replication"])
                    .contains("master_link_status:up")
            };
            replicas.iter().all(is_linked).then_some(())
        })
        .await;
        let sentinels: Vec<_> = (0..3).map(|_| RedisServer::sentinel_of(&master)).collect();
        until("the sentinels to know of each other", || async {
            let knows = |sentinel: &RedisServer| {
                let group = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
                let lines: Vec<&str> = group.lines().collect();
                let value = |name| {
                    let at = lines.iter().position(|line| *line == name)?;
                    lines.get(at + 1).copied()
                };
                value("num-other-sentinels") == Some("2") && value("num-slaves") == Some("2")
            };
            sentinels.iter().all(knows).then_some(())
        })
        .await;
        Self {
            master,
            _replicas: replicas,
            sentinels,
        }
    }
}

#[tokio::test]
async fn the_master_is_found_and_its_successor_too() {
    let group = Group::start().await;
    let ports: Vec<u16> = group
        .sentinels
        .iter()
        .map(|sentinel| sentinel.port)
        .collect();
    let master = "main".to_owned();
    let config = config(RedisForm::Sentinel { master }, &ports);
    let store = store_at(&config, Duration::from_secs(1));
    let patience = Duration::from_secs(1);
    let verdict = store.apply(id(1), claim(1)).await;
    assert!(
        matches!(verdict, Ok(Verdict::Acquired { .. })),
        "{verdict:?}"
    );
    assert_eq!(store.apply(id(1), complete(1)).await, Ok(Verdict::Done));
    until("a replica to have the record", || async {
        (group.master.cli(&["WAIT", "2", "1000"]) == "2").then_some(())
    })
    .await;
    // Frozen, it closes nothing and refuses nothing.
    group.master.freeze();
    until("its successor to be found", || async {
        timeout(patience, store.apply(id(2), claim(1)))
            .await
            .ok()?
            .ok()
    })
    .await;
    let replayed = store.apply(id(1), claim(2)).await;
    assert!(
        matches!(replayed, Ok(Verdict::Completed(_))),
        "{replayed:?}"
    );
}
