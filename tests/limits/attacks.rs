//! Slow clients by the hundred, as slowhttptest makes them.

use std::process::{Command, Stdio};

use crate::bystander::Bystander;
use crate::settles;
use crate::support::{Act, Gateway, Setup, ToyUpstream, tool, until};

/// Slow clients at a time.
const CLIENTS: &str = "300";

/// How long each attack lasts, in seconds.
const SECONDS: &str = "6";

/// Runs one attack beside a client that does nothing wrong, and waits until nothing is left of it.
async fn attacked(words: &[&str]) {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; 1_000_000]),
        _ => Act::respond(201, &[], ""),
    });
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("first_byte = \"2s\"")
        .limits("headers = \"2s\"")
        .limits("body_idle = \"2s\"");
    let gateway = setup.start().await;
    let bystander = Bystander::begin(&gateway).await;
    let attack = attack(&gateway, words);
    until("the attack to be under way", || async {
        let open = gateway.metrics().await.value("oncegate_connections", &[]);
        open.filter(|open| *open > 100.0)
    })
    .await;
    let said = attack.await.expect("the attack's end");
    let served = bystander.was_served().await;
    println!("{served} payments alongside\n{said}");
    for gauge in [
        "oncegate_connections",
        "oncegate_buffered_bytes",
        "oncegate_claims_held",
        "oncegate_upstream_in_flight",
    ] {
        settles(&gateway, gauge, &[], 0).await;
    }
}

/// `-r`: clients a second; `-i`: seconds between two pieces; `-l`: seconds of the attack; `-p`: seconds after which it
/// takes the server for dead.
fn attack(gateway: &Gateway, words: &[&str]) -> tokio::task::JoinHandle<String> {
    let large = format!("http://{}/large", gateway.address);
    let mut command = Command::new(tool("slowhttptest"));
    command
        .args(words)
        .args([
            "-c", CLIENTS, "-r", CLIENTS, "-i", "1", "-l", SECONDS, "-p", "3", "-u", &large,
        ])
        .stdin(Stdio::null());
    tokio::task::spawn_blocking(move || {
        let ended = command.output().expect("slowhttptest");
        assert!(ended.status.success(), "{ended:?}");
        String::from_utf8_lossy(&ended.stdout).into_owned()
    })
}

#[tokio::test]
async fn clients_that_never_end_their_heads_harm_nobody() {
    attacked(&["-H", "-t", "GET"]).await;
}

#[tokio::test]
async fn clients_that_never_end_their_bodies_harm_nobody() {
    attacked(&["-B", "-s", "8192", "-t", "POST"]).await;
}

/// `-w`, `-y`: the window; `-n`, `-z`: seconds between two reads, and bytes read; `-k`: requests of a connection.
#[tokio::test]
async fn clients_that_hardly_read_their_answers_harm_nobody() {
    attacked(&[
        "-X", "-w", "10", "-y", "20", "-n", "3", "-z", "32", "-k", "3",
    ])
    .await;
}
