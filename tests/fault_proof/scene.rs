//! What runs: gateways, their wires, and the store that they share.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::clock::{Clock, preload};
use crate::history::Journal;
use crate::relay::{Relay, Tap, Weather};
use crate::support::{
    Engine, Gateway, Operator, Place, RedisCluster, RedisServer, Setup, ToyUpstream, within,
};
use crate::upstream::{self, Books};
use crate::wiretap::Wiretap;

/// Gateways on a shared store.
const GATEWAYS: usize = 3;

/// Replicas of each primary: what the README recommends.
const REPLICAS: usize = 2;

/// The lease of every claim.
pub const LEASE: Duration = Duration::from_secs(2);

/// The pause between two looks at a cluster, each of which starts a dozen processes.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long a cluster may take to mend: on a busy machine its servers take each other for gone, and vote again and again.
const MENDS_WITHIN: Duration = Duration::from_secs(120);

/// Where servers of the store are reached by gateways, and not by each other.
const BEFORE_SERVERS: &str = "127.0.0.2";

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The gateways and what is before and behind them.
pub struct Gateways {
    pub processes: Vec<Gateway>,
    pub clocks: Vec<Clock>,
    pub links: Arc<Vec<Relay>>,
    /// Where operators ask each of them; that changes when it is started again.
    pub admins: Arc<Mutex<Vec<SocketAddr>>>,
    pub operator: Operator,
    /// What the upstream has done.
    pub books: Arc<Books>,
    _upstreams: Vec<ToyUpstream>,
}

impl Gateways {
    /// As many as there are to be, all with this store.
    pub async fn start(
        journal: &Arc<Journal>,
        seed: u64,
        count: usize,
        store: impl Fn(Setup) -> Setup,
    ) -> Self {
        let folder = journal.folder();
        let library = |source| preload(source, folder).display().to_string();
        let libraries = format!(
            "LD_PRELOAD={} {}",
            library("fault_proof/clock.c"),
            library("limits/bad_disk.c")
        );
        let mut gateways = Self {
            processes: Vec::new(),
            clocks: Vec::new(),
            links: Arc::default(),
            admins: Arc::default(),
            operator: Operator::new(),
            books: Arc::default(),
            _upstreams: Vec::new(),
        };
        let (mut clocks, mut links) = (Vec::new(), Vec::new());
        for number in 0..count {
            let books = Arc::clone(&gateways.books);
            let door = upstream::door(Arc::clone(journal), books, number, seed);
            let to = door.url();
            let to = to
                .trim_start_matches("http://")
                .parse()
                .expect("an address");
            let ear = Arc::clone(journal);
            let tap: Tap = Arc::new(move || Wiretap::new(Arc::clone(&ear), number));
            let link = Relay::start(ANY_PORT, to, Some(tap)).await;
            let clock = Clock::new(folder.join(format!("clock-{number}")));
            let setup = routes(store(Setup::payments_at(&link.url())));
            let setup = setup.operators(gateways.operator.token_file());
            let through = ["env", &clock.environment(), &libraries];
            let process = Gateway::start_through(&through, &setup.toml()).await;
            gateways.processes.push(process);
            gateways._upstreams.push(door);
            links.push(link);
            clocks.push(clock);
        }
        let admins = gateways.processes.iter().map(|one| one.admin);
        gateways.admins = Arc::new(Mutex::new(admins.collect()));
        gateways.clocks = clocks;
        gateways.links = Arc::new(links);
        gateways
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.processes.iter().map(|one| one.address).collect()
    }

    /// Adds what a gateway has logged since it was last started to the files of the run.
    pub fn keep_log(&self, number: usize, folder: &Path) {
        use std::io::Write;
        let path = folder.join(format!("gateway-{number}.log"));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path);
        let text = self.processes[number].log().text();
        let written = file.and_then(|mut file| writeln!(file, "{text}"));
        written.expect("room on the disk");
    }
}

/// Short times, so that all of them are met.
fn routes(setup: Setup) -> Setup {
    let lease = format!("lease = \"{}s\"", LEASE.as_secs());
    let lines = [
        "fingerprint = { host = false }",
        "response_timeout = \"1s\"",
        "late_response = \"3s\"",
        "record_timeout = \"1s\"",
        &lease,
    ];
    let setup = lines.into_iter().fold(setup, Setup::route);
    let transfers = [
        "name = \"transfers\"",
        "methods = [\"POST\"]",
        "path = \"/v1/transfers\"",
        "on_unknown = \"resend\"",
    ];
    // The upstream has to have what it will ever have by then: longer than any wire holds a request back.
    let refunds = [
        "name = \"refunds\"",
        "methods = [\"POST\"]",
        "path = \"/v1/refunds\"",
        "on_unknown = \"probe\"",
        "probe = { path = \"/v1/refunds?key={key}\", absent_after = \"5s\", timeout = \"1s\" }",
    ];
    setup
        .another_route(&[&transfers[..], &lines[..]].concat().join("\n"))
        .another_route(&[&refunds[..], &lines[..]].concat().join("\n"))
        .top("drain_timeout = \"2s\"")
        .store("timeout = \"500ms\"")
}

/// A cluster behind relays that gateways see, and its servers do not.
pub struct Cluster {
    pub cluster: RedisCluster,
    pub clocks: Vec<Clock>,
    pub links: Vec<Relay>,
}

impl Cluster {
    pub async fn start(folder: &Path) -> Self {
        let library = preload("fault_proof/clock.c", folder);
        let library = format!("LD_PRELOAD={}", library.display());
        let clock = |number| Clock::new(folder.join(format!("server-clock-{number}")));
        let clocks: Vec<Clock> = (0..3 * (1 + REPLICAS)).map(clock).collect();
        // Clients are told this name, servers go on talking to each other by their addresses.
        let settings = [
            "--cluster-announce-hostname",
            BEFORE_SERVERS,
            "--cluster-preferred-endpoint-type",
            "hostname",
        ];
        let cluster = RedisCluster::arranged(Engine::Redis, REPLICAS, &settings, |number| {
            let environment = clocks[number].environment();
            let through = ["env".to_owned(), environment, library.clone()].to_vec();
            Place {
                through,
                ..Place::here()
            }
        });
        let mut links = Vec::new();
        for port in cluster.ports() {
            let at = SocketAddr::new(BEFORE_SERVERS.parse().expect("an address"), port);
            let to = SocketAddr::new(ANY_PORT.ip(), port);
            links.push(Relay::start(at, to, None).await);
        }
        Self {
            cluster,
            clocks,
            links,
        }
    }

    /// The gateways on it.
    pub async fn gateways(&self, journal: &Arc<Journal>, seed: u64) -> Gateways {
        let id_key = journal.folder().join("id-key");
        std::fs::write(&id_key, "k".repeat(32)).expect("a file");
        let ports = self.cluster.ports();
        let servers = ports[..3]
            .iter()
            .map(|port| format!("{BEFORE_SERVERS}:{port}"));
        let url = format!("redis-cluster://{}", servers.collect::<Vec<_>>().join(","));
        let store = |setup: Setup| setup.shared(&url, &id_key).store("replicas_ack = 1");
        Gateways::start(journal, seed, GATEWAYS, store).await
    }

    /// The same weather on every wire to the store.
    pub fn set_all(&self, weather: Weather) {
        for link in &self.links {
            link.set(weather);
        }
    }

    /// Returns once every primary has its replicas.
    pub async fn is_whole(&self) {
        let whole = async {
            while !self.cluster.is_whole(REPLICAS) {
                sleep(LOOK_AGAIN).await;
            }
        };
        if timeout(MENDS_WITHIN, whole).await.is_err() {
            let says = |server: &RedisServer| {
                let (info, nodes) = (["INFO", "replication"], ["CLUSTER", "NODES"]);
                format!(
                    "{}\n{}{}\n",
                    server.port,
                    server.cli(&info),
                    server.cli(&nodes)
                )
            };
            let said: String = self.cluster.servers.iter().map(says).collect();
            panic!("the cluster was not whole within {MENDS_WITHIN:?}:\n{said}");
        }
    }

    /// A primary and its replicas, by their places.
    pub async fn victim(&self, rng: &mut fastrand::Rng) -> (usize, Vec<usize>) {
        self.is_whole().await;
        let tag = format!("{{payments-test:{:02x}}}", rng.u8(..));
        let primary = self.cluster.holder(&tag);
        let place = |port: u16| {
            let mut servers = self.cluster.servers.iter();
            servers
                .position(|server| server.port == port)
                .expect("ours")
        };
        let replicas = self.cluster.replicas_of(primary);
        let replicas = replicas.iter().map(|replica| place(replica.port)).collect();
        (place(primary.port), replicas)
    }

    /// Returns once one of these replicas is a primary.
    pub async fn is_succeeded(&self, replicas: &[usize]) {
        let has_taken_over = |replica: &usize| {
            self.cluster.servers[*replica]
                .cli(&["ROLE"])
                .starts_with("master")
        };
        within("a replica to take over", async {
            while !replicas.iter().any(has_taken_over) {
                sleep(LOOK_AGAIN / 4).await;
            }
        })
        .await;
    }
}
