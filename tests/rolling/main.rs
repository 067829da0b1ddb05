//! Gateways that are restarted one after the other while clients are at work: nothing fails, nothing happens twice.

mod balancer;
mod clients;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use balancer::Balancer;
use clients::{Clients, receipt};
use support::{Act, Gateway, RedisServer, Setup, ToyUpstream, free_port, payment, seed};

/// How many gateways share the store.
const GATEWAYS: usize = 3;
/// How often each of them is restarted.
const ROUNDS: usize = 2;
/// Clients at a time.
const CLIENTS: usize = 24;
/// Answers between two restarts.
const PROGRESS: usize = 40;

/// Gateways with a store and an upstream in common.
struct Fleet {
    gateways: Vec<Gateway>,
    upstream: ToyUpstream,
    _store: RedisServer,
    _folder: TempDir,
}

impl Fleet {
    async fn start(seed: u64) -> Self {
        let (upstream, store) = (paying_upstream(seed), RedisServer::start());
        let folder = tempfile::tempdir().expect("a folder");
        let id_key = folder.path().join("id-key");
        std::fs::write(&id_key, "k".repeat(32)).expect("a file");
        let mut gateways = Vec::new();
        for _ in 0..GATEWAYS {
            gateways.push(gateway(&upstream, &store, &id_key).await);
        }
        Self {
            gateways,
            upstream,
            _store: store,
            _folder: folder,
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|one| one.address).collect()
    }

    /// Restarts one, as a supervisor does.
    async fn restart(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        gateway.sigterm();
        assert_eq!(gateway.ended().await.code(), Some(0));
        gateway.restart().await;
    }

    /// Restarts all of them, one after the other, while these are at work.
    async fn rolls(&mut self, clients: &Clients) {
        for number in 0..GATEWAYS {
            clients.progress(PROGRESS).await;
            self.restart(number).await;
        }
    }

    /// Lets these go on for a while, and then compares what they have with what was done.
    async fn holds_after(&self, clients: Clients) {
        clients.progress(PROGRESS).await;
        self.holds(&clients.end().await).await;
    }

    /// Every payment was made once, and is replayed as it was answered by whichever gateway is asked.
    async fn holds(&self, paid: &[(String, String)]) {
        let charges = self.upstream.charges_by_key();
        for (key, _) in paid {
            assert_eq!(charges.get(key), Some(&1), "{key}");
        }
        // What passes has no key.
        let keyed = charges.keys().filter(|key| !key.is_empty()).count();
        assert_eq!(keyed, paid.len(), "nothing was done that nobody knows of");
        for (number, (key, answer)) in paid.iter().enumerate() {
            let mut gateway = self.gateways[number % GATEWAYS].connect().await;
            let replayed = gateway.send(&payment(key)).await;
            assert_eq!(replayed.is(201, "replayed").text(), *answer);
        }
        assert_eq!(self.upstream.charges_by_key(), charges);
    }
}

/// An upstream that takes a moment for everything, so that whenever a gateway is told to end something is under way.
fn paying_upstream(seed: u64) -> ToyUpstream {
    let upstream = ToyUpstream::start();
    upstream.always(move |request| {
        let number = request.number as u64;
        let pause = fastrand::Rng::with_seed(seed ^ number).u64(1..100);
        let body = format!("{}{number}", receipt(&request.key()));
        Act::respond(201, &[], body).after_pause(Duration::from_millis(pause))
    });
    upstream
}

async fn gateway(upstream: &ToyUpstream, store: &RedisServer, id_key: &Path) -> Gateway {
    // A balancer asks at the same address after a restart.
    let admin = format!("[admin]\naddress = \"127.0.0.1:{}\"", free_port());
    let setup = Setup::payments(upstream)
        .shared(&store.url(), id_key)
        // The machine may be busy.
        .store("timeout = \"5s\"")
        .top("drain_delay = \"2s\"")
        .top("drain_timeout = \"20s\"")
        // Some clients call each gateway by an address of its own.
        .route("fingerprint = { host = false }")
        .route("wait = \"20s\"")
        .rest_passes();
    Gateway::start(&format!("{}\n{admin}\n", setup.toml())).await
}

#[tokio::test]
async fn a_rolling_restart_behind_a_balancer_fails_no_request_and_doubles_none() {
    let seed = seed();
    let mut fleet = Fleet::start(seed).await;
    let balancer = Balancer::before(&fleet.gateways).await;
    let clients = Clients::start(CLIENTS, balancer.address, seed);
    for _ in 0..ROUNDS {
        for number in 0..GATEWAYS {
            clients.progress(PROGRESS).await;
            fleet.restart(number).await;
            balancer.sends_to(number).await;
        }
    }
    fleet.holds_after(clients).await;
}

#[tokio::test]
async fn clients_that_heed_a_goodbye_lose_nothing_by_a_rolling_restart() {
    let seed = seed();
    let mut fleet = Fleet::start(seed).await;
    let clients = Clients::start_shared(CLIENTS, &fleet.addresses(), seed);
    fleet.rolls(&clients).await;
    fleet.holds_after(clients).await;
}

#[tokio::test]
async fn who_sends_a_key_again_to_whichever_gateway_is_there_gets_the_one_answer() {
    let seed = seed();
    let mut fleet = Fleet::start(seed).await;
    let clients = Clients::start_insisting(CLIENTS / 2, &fleet.addresses(), seed);
    fleet.rolls(&clients).await;
    fleet.holds_after(clients).await;
}
