//! Slow clients by the hundred, as slowhttptest makes them.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::bystander::Bystander;
use crate::support::{Act, Gateway, Setup, ToyUpstream, tool, until};
use crate::{leaves_nothing, timeouts};

/// Slow clients at a time.
const CLIENTS: &str = "300";

/// How long each attack lasts, in seconds.
const SECONDS: &str = "6";

/// How long one lasts where an edge's limits are what ends it, in seconds.
const LONG_SECONDS: &str = "30";

/// When it has to have ended: `body_idle` of the edge, and what a busy machine takes to begin and to notice.
const EDGE_BOUND: Duration = Duration::from_secs(25);

/// Runs one attack beside a client that does nothing wrong, and waits until nothing is left of it.
async fn attacked(words: &[&str]) {
    let upstream = large(1_000_000);
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .limits("first_byte = \"2s\"")
        .limits("headers = \"2s\"")
        .limits("body_idle = \"2s\"");
    let gateway = setup.start().await;
    attacked_at(&gateway, CLIENTS, SECONDS, words).await;
}

/// The same with the limits of an edge, which its clients are to meet long before they are tired.
async fn attacked_at_the_edge(clients: &'static str, words: &[&str]) -> Gateway {
    // More than a system takes of an answer.
    let upstream = large(4_000_000);
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .top("profile = \"edge\"");
    let gateway = setup.start().await;
    let begun = Instant::now();
    let attacked = attacked_at(&gateway, clients, LONG_SECONDS, words);
    let alone = async {
        connections_above(&gateway, 50.0).await;
        loop {
            let open = gateway.metrics().await.value("oncegate_connections", &[]);
            if open.is_some_and(|open| open <= 1.0) {
                return begun.elapsed();
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let ((), took) = tokio::join!(attacked, alone);
    assert!(took < EDGE_BOUND, "they held their places for {took:?}");
    gateway
}

fn large(bytes: usize) -> ToyUpstream {
    let upstream = ToyUpstream::start();
    upstream.always(move |request| match request.target.as_str() {
        "/large" => Act::respond(200, &[], vec![b'a'; bytes]),
        _ => Act::respond(201, &[], ""),
    });
    upstream
}

/// Waits until more connections are open than this.
async fn connections_above(gateway: &Gateway, connections: f64) {
    until("the attack to be under way", || async {
        let open = gateway.metrics().await.value("oncegate_connections", &[]);
        open.filter(|open| *open > connections)
    })
    .await;
}

async fn attacked_at(
    gateway: &Gateway,
    clients: &'static str,
    seconds: &'static str,
    words: &[&str],
) {
    let bystander = Bystander::begin(gateway).await;
    let attack = attack(gateway, clients, seconds, words);
    connections_above(gateway, 50.0).await;
    let said = attack.await.expect("the attack's end");
    let served = bystander.was_served().await;
    println!("{served} payments alongside\n{said}");
    leaves_nothing(gateway).await;
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
    let gateway = attacked_at_the_edge("200", &words).await;
    let closed = timeouts(&gateway, "min_receive_rate").await;
    assert!(closed >= 150, "only {closed} of them for their rate");
}

#[tokio::test]
async fn clients_that_trickle_their_answers_lose_an_edges_places_in_bounded_time() {
    let words = [
        "-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32", "-k", "3",
    ];
    let gateway = attacked_at_the_edge("60", &words).await;
    let rate = timeouts(&gateway, "min_send_rate").await;
    let idle = timeouts(&gateway, "body_idle").await;
    assert!(rate + idle >= 50, "only {rate} for their rate, and {idle}");
}
