//! Servers that are gone, frozen, or no primaries.

use std::time::Duration;

use oncegate::config::{Password, RedisForm};
use oncegate::protocol::Verdict;
use oncegate::store::{NotDone, Store, StoreError};
use tokio::time::timeout;

use crate::rig::{claim, complete, config, id, release, store, store_at};
use crate::support::{Engine, RedisServer, until};

#[tokio::test]
async fn what_cannot_be_sent_was_not_done() {
    let server = RedisServer::start();
    let store = store(&server);
    store.apply(id(1), claim(1)).await.unwrap();
    server.kill9();
    // The connection broke: the first call may learn of it by its own failure.
    let _ = store.apply(id(2), claim(1)).await;
    let refused = store.apply(id(3), claim(1)).await;
    assert!(
        matches!(refused, Err(StoreError::NotDone(NotDone::OutOfOrder(_)))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again() {
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start_with(Engine::Redis, &kept);
    let store = store(&server);
    store.ping().await.unwrap();
    server.kill9();
    assert!(store.ping().await.is_err());
    server.restart();
    until("the server to be found again", || async {
        store.ping().await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_comes_back_empty_is_down_until_an_operator_accepts_it() {
    let mut server = RedisServer::start();
    let store = store(&server);
    store.ping().await.unwrap();
    server.kill9();
    server.restart();
    until("the loss to be noticed", || async {
        let why = store.ping().await.unwrap_err().to_string();
        why.contains("the store was emptied").then_some(())
    })
    .await;
    store.accept().await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_noticed() {
    let server = RedisServer::start();
    let store = store(&server);
    store.apply(id(1), claim(1)).await.unwrap();
    for n in 2..6 {
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        let verdict = store.apply(id(n), claim(1)).await;
        assert!(
            matches!(verdict, Ok(Verdict::Acquired { .. })),
            "{verdict:?}"
        );
    }
}

#[tokio::test]
async fn a_claim_that_a_frozen_server_applies_later_is_settled_by_its_release() {
    let server = RedisServer::start();
    let store = store(&server);
    store.ping().await.unwrap();
    server.freeze();
    let patience = Duration::from_millis(200);
    let claiming = timeout(patience, store.apply(id(1), claim(1))).await;
    assert!(claiming.is_err(), "{claiming:?}");
    server.thaw();
    assert_eq!(store.apply(id(1), release(1)).await, Ok(Verdict::Done));
    // A late copy of the claim meets the mark, and the key is free for others.
    assert_eq!(store.apply(id(1), claim(1)).await, Ok(Verdict::Lost));
    let next = store.apply(id(1), claim(2)).await;
    assert!(matches!(next, Ok(Verdict::Acquired { .. })), "{next:?}");
}

#[tokio::test]
async fn a_frozen_server_is_reached_again_once_it_thaws() {
    let server = RedisServer::start();
    let store = store_at(
        &config(RedisForm::Single, &[server.port]),
        Duration::from_millis(250),
    );
    store.ping().await.unwrap();
    server.freeze();
    for n in 0..20 {
        let answer = timeout(Duration::from_millis(100), store.apply(id(n), claim(1))).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
    }
    server.thaw();
    until("the server to be reached again", || async {
        store.apply(id(99), claim(1)).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_replica_does_nothing_and_says_nothing() {
    let server = RedisServer::start();
    let store = store(&server);
    store.apply(id(1), claim(1)).await.unwrap();
    let primary = RedisServer::start();
    server.cli(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    let out_of_order = |error: &StoreError| {
        assert!(
            matches!(error, StoreError::NotDone(NotDone::OutOfOrder(_))),
            "{error:?}"
        );
    };
    out_of_order(&store.apply(id(2), claim(1)).await.unwrap_err());
    out_of_order(&store.apply(id(1), complete(1)).await.unwrap_err());
    out_of_order(&store.read(id(1)).await.unwrap_err());
}

#[tokio::test]
async fn a_password_opens_the_store_and_is_never_printed() {
    let server = RedisServer::start_with(Engine::Redis, &["--requirepass", "hunter2"]);
    let mut config = config(RedisForm::Single, &[server.port]);
    let refused = store_at(&config, crate::rig::TIMEOUT)
        .ping()
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::NotDone(_)), "{refused:?}");
    config.password = Some(Password("hunter3".to_owned()));
    let refused = store_at(&config, crate::rig::TIMEOUT)
        .ping()
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::NotDone(_)), "{refused:?}");
    assert!(
        !format!("{refused:?} {refused} {config:?}").contains("hunter"),
        "{refused:?}"
    );
    config.password = Some(Password("hunter2".to_owned()));
    store_at(&config, crate::rig::TIMEOUT).ping().await.unwrap();
}
