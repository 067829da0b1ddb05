//! Every bound on what clients and upstreams may take, from outside: the real binary, real sockets, and a client
//! alongside whom nothing of it may harm.
//!
//! Each test goes beyond one bound and sees three things: it is refused or closed cleanly, the metrics count it, and the
//! bystander is served all the while.

#[path = "../support/mod.rs"]
mod support;

mod attacker;
mod attacks;
mod bodies;
mod bystander;
mod connections;
mod disk;
mod floods;
mod heads;
mod held;
mod rates;
mod reloading;
mod silence;
mod streams;
mod upstreams;

use std::time::Duration;

use support::{Gateway, until};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How much earlier than its setting says a limit may seem to end, by clocks that are read at other moments.
const SLACK: Duration = Duration::from_millis(100);

/// The one value of a series; 0 where there is none.
async fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> u64 {
    let value = gateway.metrics().await.value(name, labels);
    let value = value.unwrap_or_else(|| panic!("no series {name} {labels:?}"));
    value.to_string().parse().expect("a whole number")
}

/// How often clients were silent for longer than this limit lets them.
async fn timeouts(gateway: &Gateway, limit: &str) -> u64 {
    let name = "oncegate_client_timeouts_total";
    metric(gateway, name, &[("limit", limit)]).await
}

/// Waits until a gauge says so.
async fn settles(gateway: &Gateway, name: &str, labels: &[(&str, &str)], value: u64) {
    let what = format!("{name} to be {value}");
    until(&what, || async {
        (metric(gateway, name, labels).await == value).then_some(())
    })
    .await;
}

/// Waits until nothing is left of whatever was done to the gateway.
async fn leaves_nothing(gateway: &Gateway) {
    for gauge in [
        "oncegate_connections",
        "oncegate_buffered_bytes",
        "oncegate_claims_held",
        "oncegate_upstream_in_flight",
    ] {
        settles(gateway, gauge, &[], 0).await;
    }
}

/// Waits until the gateway has closed the connection, and returns what it said; not before `limit` was over. It begins to
/// count after `begun`, and not after this client comes to look.
async fn closes_after(socket: &mut TcpStream, begun: Instant, limit: Duration) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset closes it as well.
    let _ = support::within("the connection to close", socket.read_to_end(&mut said)).await;
    let took = begun.elapsed();
    assert!(
        took + SLACK >= limit,
        "closed after {took:?}, not {limit:?}"
    );
    said
}
