//! Keys that gateways issue, and the time by which they do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncegate::store::Store;

use crate::gateways::{id_key, setup};
use crate::rig;
use crate::support::{RedisServer, Request, ToyUpstream, payment};

#[tokio::test]
async fn the_time_is_the_servers_and_is_not_asked_for_each_time() {
    let server = RedisServer::start();
    let store = rig::store(&server);
    store.now().await.expect("a time");
    let calls = || (server.calls("time"), server.calls("ping"));
    let before = calls();
    let now = store.now().await.expect("a time");
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let apart = here.abs_diff(Duration::from_millis(now.0));
    assert!(apart < Duration::from_secs(10), "{apart:?}");
    for _ in 0..100 {
        assert!(store.now().await.expect("a time") >= now);
    }
    assert_eq!(calls(), before);
}

#[tokio::test]
async fn a_key_that_one_gateway_issued_another_one_takes() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (file, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &file)
        .store("timeout = \"2s\"")
        .route("key_format = \"issued\"\nkey_age = \"reject\"");
    let (one, other) = (setup.start().await, setup.start().await);
    let ask = Request::post("/.well-known/oncegate/keys");
    let answer = one.send(&ask).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let key = answer.json()["key"].as_str().expect("a key").to_owned();
    other.send(&payment(&key)).await.is(201, "executed");
    one.send(&payment(&key)).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}
