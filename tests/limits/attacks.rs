//! Slow clients by the hundred, as slowhttptest makes them.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::bystander::Bystander;
use crate::support::{Act, Gateway, Setup, ToyUpstream, tool, until};
use crate::{settles, timeouts};

/// Slow clients at a time.
const CLIENTS: &str = "300";

/// How long each attack lasts, in seconds.
const SECONDS: &str = "6";

/// The same where an edge's limits are what ends it: fewer than one address may have, and for longer than the test waits.
const EDGE_CLIENTS: &str = "200";
const LONG_SECONDS: &str = "240";

/// `body_idle` of the edge, and what a busy machine takes to begin and to notice the end.
const EDGE_BOUND: Duration = Duration::from_secs(45);

/// Runs one attack beside a client that does nothing wrong, and waits until nothing is left of it.
async fn attacked(words: &[&str]) {
    let upstream = large();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("first_byte = \"2s\"")
        .limits("headers = \"2s\"")
        .limits("body_idle = \"2s\"");
    let gateway = setup.start().await;
    attacked_at(&gateway, CLIENTS, SECONDS, words).await;
}

/// The same with the limits of an edge: the attack would go on for much longer than its clients can.
async fn attacked_at_the_edge(words: &[&str]) -> Gateway {
    let upstream = large();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .top("profile = \"edge\"");
    let gateway = setup.start().await;
    let begun = Instant::now();
    attacked_at(&gateway, EDGE_CLIENTS, LONG_SECONDS, words).await;
    let took = begun.elapsed();
    assert!(took < EDGE_BOUND, "they held their places for {took:?}");
    gateway
}

fn large() -> ToyUpstream {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; 1_000_000]),
        _ => Act::respond(201, &[], ""),
    });
    upstream
}

async fn attacked_at(
    gateway: &Gateway,
    clients: &'static str,
    seconds: &'static str,
    words: &[&str],
) {
    let bystander = Bystander::begin(gateway).await;
    let attack = attack(gateway, clients, seconds, words);
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
        settles(gateway, gauge, &[], 0).await;
    }
}

/// `-r`: clients a second; `-i`: seconds between two pieces; `-l`: seconds of the attack; `-p`: seconds after which it
/// takes the server for dead.
fn attack(
    gateway: &Gateway,
    clients: &'static str,
    seconds: &'static str,
    words: &[&str],
) -> tokio::task::JoinHandle<String> {
    let large = format!("http://{}/large", gateway.address);
    let mut command = Command::new(tool("slowhttptest"));
    command
        .args(words)
        .args([
            "-c", clients, "-r", clients, "-i", "1", "-l", seconds, "-p", "3", "-u", &large,
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

/// `-x`: the longest piece; one a second is less than the 240 bytes of the edge, and more often than its `body_idle`.
#[tokio::test]
async fn clients_that_trickle_their_bodies_lose_an_edges_places_in_bounded_time() {
    let words = ["-B", "-s", "8192", "-t", "POST", "-x", "16"];
    let gateway = attacked_at_the_edge(&words).await;
    let closed = timeouts(&gateway, "min_receive_rate").await;
    assert!(closed >= 150, "only {closed} of them for their rate");
}

#[tokio::test]
async fn clients_that_trickle_their_answers_lose_an_edges_places_in_bounded_time() {
    let words = [
        "-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32", "-k", "3",
    ];
    let gateway = attacked_at_the_edge(&words).await;
    let rate = timeouts(&gateway, "min_send_rate").await;
    let idle = timeouts(&gateway, "body_idle").await;
    assert!(rate + idle >= 150, "only {rate} for their rate, and {idle}");
}
