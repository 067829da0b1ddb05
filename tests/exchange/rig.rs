//! A gateway in this process, with a faulty store.

use std::net::SocketAddr;
use std::sync::Arc;

use oncegate::config::{Config, ListenerConfig};
use oncegate::gateway::{Gateway, Parts};
use oncegate::identity::IdKeyBytes;
use oncegate::route::Table;
use oncegate::server::{Counters, Ending, Server};
use oncegate::telemetry;
use oncegate::upstream::Upstream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::store::FaultyStore;
use crate::support::{Answer, Connection, Metrics, Request, Setup, ToyUpstream, payment, until};

/// A gateway that serves on a port of its own until it is dropped.
pub struct Rig {
    /// What it asks.
    pub store: FaultyStore,
    /// Itself, for what an ending process tells it.
    pub gateway: Gateway,
    address: SocketAddr,
    metrics: Arc<telemetry::Metrics>,
    counters: Counters,
    server: JoinHandle<()>,
    _drain: watch::Sender<Option<Ending>>,
}

/// One protected route before this upstream, and a store that is soon given up on.
pub fn impatient(upstream: &ToyUpstream) -> Setup {
    Setup::payments(upstream).store("timeout = \"100ms\"")
}

/// The same with a store that is waited for.
pub fn patient(upstream: &ToyUpstream) -> Setup {
    Setup::payments(upstream)
        .store("timeout = \"30s\"")
        .route("lease = \"60s\"")
}

impl Rig {
    /// Starts it with this configuration, except that it keeps records in a faulty store.
    pub fn start(setup: &Setup) -> Self {
        Self::altered(setup, |_| {})
    }

    /// The same, with a change that no file may make.
    pub fn altered(setup: &Setup, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = match Config::parse(&setup.toml(), "test") {
            Ok(loaded) => loaded.config,
            Err(faults) => panic!("{faults}"),
        };
        change(&mut config);
        let store = FaultyStore::new();
        let routes: Vec<&str> = config.routes.iter().map(|route| &*route.name).collect();
        let upstreams: Vec<&str> = config.upstreams.iter().map(|one| &*one.name).collect();
        let metrics = Arc::new(telemetry::Metrics::new(&routes, &upstreams));
        let upstreams = config.upstreams.iter();
        let gateway = Gateway::new(Parts {
            upstreams: upstreams
                .map(|upstream| (upstream.name.clone(), Upstream::new(upstream)))
                .collect(),
            routes: Table::new(config.routes),
            store: Arc::new(store.clone()),
            store_timeout: config.store.timeout,
            id_key: IdKeyBytes([1; 32]),
            namespace: String::new(),
            limits: config.limits.clone(),
            problem_base: None,
            metrics: Arc::clone(&metrics),
            access_log: telemetry::AccessLog::off(),
            spans: telemetry::spans::Spans::default(),
        });
        let any_port = ListenerConfig::plain(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (server, listeners) = Server::bind(&[any_port], &config.limits).expect("a free port");
        let (drain, draining) = watch::channel(None);
        Self {
            store,
            gateway: gateway.clone(),
            address: listeners.addresses()[0].tcp().expect("a port"),
            metrics,
            counters: server.counters(),
            server: tokio::spawn(server.run(gateway, draining)),
            _drain: drain,
        }
    }

    /// Sends a payment under this key on a connection of its own.
    pub async fn pay(&self, key: &str) -> Answer {
        self.send(&payment(key)).await
    }

    /// The same from a task of its own.
    pub fn paying(&self, key: &str) -> JoinHandle<Answer> {
        let (address, request) = (self.address, payment(key));
        tokio::spawn(async move { Connection::open(address).await.send(&request).await })
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Answer {
        self.connect().await.send(request).await
    }

    /// A new client connection.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// A client that has sent a payment under this key and not read the answer.
    pub async fn client(&self, key: &str) -> Connection {
        let mut client = self.connect().await;
        client.write_request(&payment(key)).await;
        client
    }

    /// Returns once no client is connected.
    pub async fn all_have_hung_up(&self) {
        until("the clients to be gone", || async {
            (self.counters.snapshot().connections == 0).then_some(())
        })
        .await;
    }

    /// The value of a series.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "these series count"
    )]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.gateway.mirror();
        let metrics = Metrics::parse(&self.metrics.render());
        let name = format!("oncegate_{name}");
        let value = metrics.value(&name, labels);
        value.unwrap_or_else(|| panic!("no series {name} {labels:?}")) as u64
    }

    /// How the store is, as far as it was heard.
    pub fn store_health(&self) -> telemetry::Health {
        self.metrics.store.health.state()
    }

    /// How many requests were decided so.
    pub fn decisions(&self, decision: &str) -> u64 {
        self.value(
            "decisions_total",
            &[("route", "pay"), ("decision", decision)],
        )
    }

    /// How many requests were decided upon, all decisions together.
    pub fn all_decisions(&self) -> u64 {
        Metrics::parse(&self.metrics.render()).all_decisions("pay")
    }

    /// Returns once a series has this value.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        until(&format!("{name} {labels:?} to be {value}"), || async {
            (self.value(name, labels) == value).then_some(())
        })
        .await;
    }

    /// Returns once no exchange is under way.
    pub async fn is_quiet(&self) {
        self.counts("claims_held", &[], 0).await;
        self.counts("claims_in_doubt", &[], 0).await;
        self.counts("recordings_pending", &[], 0).await;
    }

    /// Waits for the end of everything in a task of its own, as a drain does.
    pub fn finishing(&self) -> JoinHandle<()> {
        let gateway = self.gateway.clone();
        tokio::spawn(async move { gateway.finished().await })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.server.abort();
    }
}
