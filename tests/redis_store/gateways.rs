//! Gateways that share a store.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::{
    Act, Gate, Gateway, Http2, Problem, RedisServer, Setup, ToyUpstream, payment, until,
};

/// A file with an id key, and the directory that it is in.
pub fn id_key(text: &str) -> (PathBuf, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("id-key");
    std::fs::write(&file, text.repeat(32)).expect("a file");
    (file, directory)
}

pub fn setup(upstream: &ToyUpstream, server: &RedisServer, id_key: &std::path::Path) -> Setup {
    let setup = Setup::payments(upstream).shared(&server.url(), id_key);
    // The test calls each gateway by an address of its own.
    setup.route("fingerprint = { host = false }")
}

async fn gateway(
    upstream: &ToyUpstream,
    server: &RedisServer,
    id_key: &std::path::Path,
) -> Gateway {
    let setup = setup(upstream, server, id_key);
    setup.store("timeout = \"2s\"").start().await
}

#[tokio::test]
async fn what_one_gateway_has_sent_another_one_replays() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let one = gateway(&upstream, &server, &key).await;
    let other = gateway(&upstream, &server, &key).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[("X-Paid", "yes")], "paid").after(&gate));
    let first = one.spawn(&payment("k"));
    upstream.next_request().await;
    other
        .send(&payment("k"))
        .await
        .refuses(Problem::IN_PROGRESS);
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    let replayed = other.send(&payment("k")).await;
    assert_eq!(replayed.is(201, "replayed").text(), "paid");
    assert_eq!(replayed.header("X-Paid"), Some("yes"));
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn trailers_that_one_gateway_has_recorded_another_one_replays() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    // More than a part of a record in Redis holds, and none at all.
    let large = "x".repeat(300_000);
    for (name, body) in [("small", "paid"), ("large", &large), ("empty", "")] {
        let chunk = match body.len() {
            0 => String::new(),
            length => format!("{length:x}\r\n{body}\r\n"),
        };
        upstream.next(Act::raw(format!(
            "HTTP/1.1 201 Created\r\nX-Paid: yes\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\
             X-Sum: 7\r\nX-Sum: 8\r\nX-Bytes: \u{e4}\r\n\r\n"
        )));
        let mut one = gateway(&upstream, &server, &key).await;
        one.send(&payment(name)).await.is(201, "executed");
        one.kill9().await;
        let other = gateway(&upstream, &server, &key).await;
        let client = Http2::open(other.address).await;
        // From the store, then from the replay cache.
        for _ in 0..2 {
            let answer = client.send(&payment(name)).await;
            assert_eq!(answer.is(201, "replayed").text(), body);
            assert_eq!(answer.header("X-Paid"), Some("yes"));
            assert_eq!(answer.trailers.all("x-sum"), ["7", "8"], "{name}");
            assert_eq!(answer.trailers.all("x-bytes"), ["\u{e4}"], "{name}");
            assert_eq!(answer.trailers.0.len(), 3, "{name}");
        }
    }
    assert_eq!(upstream.charges(), 3);
}

#[tokio::test]
async fn an_emptied_store_takes_no_new_keys_until_an_operator_accepts_it() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let gateway = gateway(&upstream, &server, &key).await;
    gateway.send(&payment("before")).await.is(201, "executed");
    server.cli(&["FLUSHALL"]);
    gateway
        .send(&payment("after"))
        .await
        .refuses(Problem::STORE_UNAVAILABLE);
    assert_eq!(upstream.charges(), 1);

    let config = gateway.directory().join("oncegate.toml");
    let accept = std::process::Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["store", "accept", "--config"])
        .arg(&config)
        .output()
        .expect("the binary");
    assert!(accept.status.success(), "{accept:?}");
    until("the gateway to hear of it", || async {
        let answer = gateway.send(&payment("after")).await;
        (answer.status == 201).then_some(())
    })
    .await;
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_gateway_with_another_id_key_does_not_start() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let gateway = gateway(&upstream, &server, &key).await;
    let (other, _directory) = id_key("o");
    let config = gateway.directory().join("other.toml");
    let setup = Setup::payments(&upstream).shared(&server.url(), &other);
    let listen = "[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n";
    std::fs::write(&config, format!("{}\n{listen}", setup.toml())).expect("a file");
    // One that does start would run until it is told to end.
    let serve = std::process::Command::new("timeout")
        .args(["--signal=KILL", "30", env!("CARGO_BIN_EXE_oncegate")])
        .args(["serve", "--config"])
        .arg(&config)
        .output()
        .expect("the binary");
    assert_eq!(serve.status.code(), Some(1), "{serve:?}");
    let said = String::from_utf8_lossy(&serve.stderr);
    assert!(said.contains("another id_key"), "{said}");
}

#[tokio::test]
async fn a_store_that_is_begun_is_warned_of_at_start_and_before() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, directory) = id_key("k");
    let setup = setup(&upstream, &server, &key);
    let warns = || {
        let (output, said) = crate::rights::check(&setup, directory.path());
        assert!(output.status.success(), "{said}");
        said.contains("there is no store under this namespace yet")
    };
    assert!(warns());
    let begins = setup.start().await;
    let warning = "there is no store under this namespace: a new one is begun";
    let begun = |gateway: &Gateway| gateway.log().text().contains(warning);
    until("the warning", || async { begun(&begins).then_some(()) }).await;
    assert!(!warns());
    let later = setup.start().await;
    assert!(!begun(&later), "{}", later.log().text());

    // Under another namespace there is none, and none is begun.
    let strict = setup.toml().replace("payments-test", "elsewhere");
    let strict = strict.replace("[store]\n", "[store]\nbegin = false\n");
    let file = directory.path().join("strict.toml");
    std::fs::write(&file, &strict).expect("a file");
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .output()
        .expect("the binary");
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(
        !check.status.success() && said.contains("`store.begin` is false"),
        "{check:?}"
    );
}
