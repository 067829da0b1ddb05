//! Whether it is the store that it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use oncegate::config::RedisForm;
use oncegate::identity::IdKeyBytes;
use oncegate::protocol::{RecordId, Verdict};
use oncegate::store::{ContactError, NotDone, Redis, Store, StoreError, Time};

use crate::rig::{NAMESPACE, TIMEOUT, claim, complete, config, id, store};
use crate::support::{RedisServer, until};

#[tokio::test]
async fn another_id_key_on_the_same_namespace_is_refused() {
    let server = RedisServer::start();
    store(&server).contact().await.unwrap();
    store(&server).contact().await.unwrap();
    let config = config(RedisForm::Single, &[server.port]);
    let with = |namespace, id_key| {
        Redis::new(
            &config,
            namespace,
            &IdKeyBytes([id_key; 32]),
            TIMEOUT,
            Time::Server,
        )
    };
    let other = with(NAMESPACE, 8);
    assert_eq!(other.contact().await, Err(ContactError::OtherIdKey));
    let refused = other.apply(id(1), claim(1)).await;
    assert!(
        matches!(refused, Err(StoreError::NotDone(NotDone::OutOfOrder(_)))),
        "{refused:?}"
    );
    with("elsewhere", 8).contact().await.unwrap();
}

#[tokio::test]
async fn an_emptied_store_takes_no_new_claims_until_it_is_accepted() {
    let server = RedisServer::start();
    let store = store(&server);
    store.apply(id(1), claim(1)).await.unwrap();
    server.cli(&["FLUSHALL"]);
    refuses(&store, 2).await;
    // The truth of a dispatch that is under way is kept all the same.
    assert_eq!(store.apply(id(1), complete(1)).await, Ok(Verdict::Done));
    // A gateway that starts now finds a new store; that is no acceptance for those that knew the old one.
    let later = crate::rig::store(&server);
    later.contact().await.unwrap();
    refuses(&store, 3).await;

    later.accept().await.unwrap();
    let _ = store.apply(id(4), claim(1)).await;
    let taken = store.apply(id(4), claim(1)).await;
    assert!(matches!(taken, Ok(Verdict::Acquired { .. })), "{taken:?}");
}

/// Many claim at once; whoever asks after the store was emptied is refused, and nobody is let through a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_under_load_gives_no_claim_after_that() {
    let server = RedisServer::start();
    let store = Arc::new(store(&server));
    store.contact().await.unwrap();
    let emptied = Arc::new(AtomicBool::new(false));
    let begun = Arc::new(AtomicUsize::new(0));
    let claims = (0..8_u8).map(|task| {
        let (store, emptied, begun) = (store.clone(), emptied.clone(), begun.clone());
        tokio::spawn(async move {
            let (mut granted, mut refused) = (0, 0);
            for n in 0_u16.. {
                let was_emptied = emptied.load(Ordering::SeqCst);
                let mut id = [task; 32];
                id[..2].copy_from_slice(&n.to_le_bytes());
                let claimed = store.apply(RecordId(id), claim(1)).await;
                begun.fetch_add(1, Ordering::SeqCst);
                match claimed {
                    Ok(_) if was_emptied => panic!("a claim in an emptied store"),
                    Ok(_) => granted += 1,
                    Err(_) => refused += 1,
                }
                if refused == 20 {
                    break;
                }
            }
            granted
        })
    });
    let claims: Vec<_> = claims.collect();
    until("claims to be made", || async {
        (begun.load(Ordering::SeqCst) > 200).then_some(())
    })
    .await;
    assert_eq!(server.cli(&["FLUSHALL"]), "OK");
    emptied.store(true, Ordering::SeqCst);
    for claims in claims {
        assert!(claims.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_store_of_which_a_part_was_emptied_takes_no_new_claims_there() {
    let server = RedisServer::start();
    let store = store(&server);
    store.contact().await.unwrap();
    server.cli(&["DEL", "{payments-test:05}:identity"]);
    refuses(&store, 5).await;
    let elsewhere = store.apply(id(6), claim(1)).await;
    assert!(
        matches!(elsewhere, Ok(Verdict::Acquired { .. })),
        "{elsewhere:?}"
    );
    assert_eq!(store.accept().await.unwrap().buckets, 1);
    let taken = store.apply(id(5), claim(1)).await;
    assert!(matches!(taken, Ok(Verdict::Acquired { .. })), "{taken:?}");

    // What stands for the whole is lost with its part.
    server.cli(&["DEL", "{payments-test:00}:store"]);
    let later = crate::rig::store(&server);
    assert_eq!(later.contact().await, Err(ContactError::PartlyEmptied));
    later.accept().await.unwrap();
    later.contact().await.unwrap();
}

/// Emptied while no gateway was running: nobody is left who knew it.
#[tokio::test]
async fn a_gateway_that_may_begin_no_store_takes_no_claims_where_there_is_none() {
    let server = RedisServer::start();
    let mut config = config(RedisForm::Single, &[server.port]);
    config.begin = false;
    let store = crate::rig::store_at(&config, TIMEOUT);
    assert_eq!(store.contact().await, Err(ContactError::NotBegun));
    assert_eq!(store.inspect().await, Err(ContactError::NotBegun));
    refuses(&store, 1).await;
    store.ping().await.unwrap_err();
    assert_eq!(server.cli(&["DBSIZE"]), "0", "nothing was begun");
    crate::rig::store_at(&config, TIMEOUT)
        .accept()
        .await
        .unwrap();
    // The gateway that waited needs no restart.
    let taken = store.apply(id(1), claim(1)).await;
    assert!(matches!(taken, Ok(Verdict::Acquired { .. })), "{taken:?}");
    assert!(store.inspect().await.unwrap().is_begun);
}

async fn refuses(store: &Redis, n: u8) {
    let refused = store.apply(id(n), claim(1)).await;
    let Err(StoreError::NotDone(NotDone::OutOfOrder(why))) = &refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("oncegate store accept"), "{why}");
}
