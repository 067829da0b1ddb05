//! The harness of the black-box tests: the real binary between a scripted upstream and raw clients, over real
//! sockets.
//!
//! It knows the gateway only from outside: its configuration file, its two ports, its log lines and its exit
//! code. Nothing here sleeps to let something happen: every wait is for an event, and bounded by [`PATIENCE`].

#![allow(
    dead_code,
    unused_imports,
    reason = "each test crate uses another part of the harness"
)]

mod act;
mod client;
mod dns;
pub mod frames;
mod gateway;
mod h2;
mod log;
mod metrics;
mod operator;
mod problem;
mod redis;
mod setup;
mod stalled;
mod tls;
mod tool;
mod upstream;
mod usage;
mod wire;

use std::future::Future;
use std::time::Duration;

pub use act::{Act, Gate, Step};
pub use client::{Answer, Connection, Request, payment};
pub use dns::DnsServer;
pub use gateway::Gateway;
pub use h2::{Http2, Missed};
pub use log::Log;
pub use metrics::Metrics;
pub use operator::Operator;
pub use problem::Problem;
pub use redis::{Engine, IN_A_CLUSTER, Place, RedisCluster, RedisServer, free_port};
pub use setup::Setup;
pub use stalled::StalledUpstream;
pub use tls::{Authority, HOST};
pub use tool::tool;
pub use upstream::{RefusedPort, ToyUpstream};
pub use usage::Usage;
pub use wire::{Headers, Received};

/// How long anything may take before the test fails: far more than it needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits for `event`, and fails the test with `what` where it does not come within [`PATIENCE`].
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// Looks again and again until `look` finds something: for states that are announced by no event, as a record
/// that the gateway writes behind its answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await
}

/// The seed of a random test: `ONCEGATE_SEED`, or a new one. Printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("ONCEGATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("ONCEGATE_SEED={seed}");
    seed
}
