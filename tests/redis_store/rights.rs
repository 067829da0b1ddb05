//! What the servers' user needs, and what `check --connect` and the log say of it.

use std::process::{Command, Output};

use oncegate::config::{Password, RedisConfig, RedisForm};
use oncegate::store::{Redis, Store};

use crate::conformance;
use crate::gateways::{id_key, setup};
use crate::rig::{NAMESPACE, TIMEOUT, Virtual, config, seed, store_at};
use crate::support::{RedisServer, Setup, ToyUpstream};

/// A server with the user `gate` that has the rights which `check --connect` names, and how to log in as it.
fn server_with_user() -> (RedisServer, RedisConfig) {
    let server = RedisServer::start();
    let mut config = config(RedisForm::Single, &[server.port]);
    config.user = Some("gate".to_owned());
    config.password = Some(Password("hunter2".to_owned()));
    let rights = Redis::rights(&config, NAMESPACE);
    let set: Vec<&str> = rights.split_whitespace().chain([">hunter2"]).collect();
    assert_eq!(server.cli(&set), "OK");
    (server, config)
}

fn as_user(upstream: &ToyUpstream, server: &RedisServer, key: &std::path::Path) -> Setup {
    let url = format!("redis://gate:hunter2@127.0.0.1:{}", server.port);
    setup(upstream, server, key).shared(&url, key)
}

pub fn check(setup: &Setup, directory: &std::path::Path) -> (Output, String) {
    let file = directory.join("checked.toml");
    std::fs::write(&file, setup.toml()).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .output()
        .expect("the binary");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output, said)
}

#[tokio::test]
async fn a_user_with_the_rights_that_are_named_is_enough() {
    let (server, config) = server_with_user();
    conformance::agrees_with_apply(&mut Virtual::new(&config), seed()).await;
    let store = store_at(&config, TIMEOUT);
    store.ping().await.unwrap();
    let inspected = store.inspect().await.unwrap();
    assert!(inspected.missing.is_empty(), "{inspected:?}");
    assert_eq!(server.cli(&["ACL", "LOG"]), "", "nothing was refused");
    let rights = Redis::rights_for_a_shell(&config, "NAMESPACE");
    let readme = include_str!("../../README.md");
    assert!(
        readme.contains(&rights),
        "README names other rights than\n{rights}"
    );
}

#[tokio::test]
async fn check_names_the_rights_that_are_needed_and_those_that_are_missing() {
    let (upstream, (server, _)) = (ToyUpstream::start(), server_with_user());
    let (key, directory) = id_key("k");
    let setup = as_user(&upstream, &server, &key);
    let (output, said) = check(&setup, directory.path());
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("redis-cli ACL SETUSER gate on resetkeys '~{payments-test:*' resetchannels '&{payments-test:*' -@all"),
        "{said}"
    );
    assert!(said.contains("its user has these rights"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    for (taken, missing) in [
        ("-hget", ": +hget\n"),
        ("-info", ": +info\n"),
        ("resetchannels", ": +spublish +ssubscribe\n"),
    ] {
        let full = Redis::rights(&config(RedisForm::Single, &[1]), NAMESPACE);
        let full = full.replace("default", "gate");
        let full: Vec<&str> = full.split_whitespace().collect();
        assert_eq!(server.cli(&full), "OK");
        assert_eq!(server.cli(&["ACL", "SETUSER", "gate", taken]), "OK");
        let (output, said) = check(&setup, directory.path());
        assert!(!output.status.success(), "{taken}: {said}");
        let at = format!("channels at 127.0.0.1:{}", server.port);
        assert!(said.contains(&(at + missing)), "{taken}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_forgets_or_takes_strangers_is_warned_of() {
    let (upstream, (server, _)) = (ToyUpstream::start(), server_with_user());
    let (key, directory) = id_key("k");
    let setup = as_user(&upstream, &server, &key);
    let (forgets, strangers) = ("forgets records", "takes commands without a password");
    assert_eq!(
        server.cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]),
        "OK"
    );
    let (output, said) = check(&setup, directory.path());
    assert!(output.status.success(), "{said}");
    assert!(said.contains(forgets) && said.contains(strangers), "{said}");
    let gateway = setup.start().await;
    for warning in [forgets, strangers] {
        crate::support::until("the warning", || async {
            gateway.log().text().contains(warning).then_some(())
        })
        .await;
    }

    assert_eq!(
        server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]),
        "OK"
    );
    assert_eq!(
        server.cli(&["ACL", "SETUSER", "default", "resetpass", ">other"]),
        "OK"
    );
    let (output, said) = check(&setup, directory.path());
    assert!(output.status.success(), "{said}");
    assert!(
        !said.contains(forgets) && !said.contains(strangers),
        "{said}"
    );
    let gateway = setup.start().await;
    let log = gateway.log().text();
    assert!(!log.contains(forgets) && !log.contains(strangers), "{log}");
}
