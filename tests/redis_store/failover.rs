//! Three gateways on one cluster whose servers are killed, frozen, promoted over, demoted and emptied of scripts, and
//! gateways that freeze and die, while clients send new keys and old ones. What the upstream was sent and what the
//! clients were told is compared afterwards.
//!
//! `ONCEGATE_FAILOVER_ROUNDS` makes it longer; one round has each fault once. `ONCEGATE_FAILOVER_REPLICAS_ACK=0` shows
//! that the proof is one: claims are lost with their primaries then, and something is sent twice.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{
    Act, Gate, Gateway, Problem, RedisCluster, RedisServer, Setup, ToyUpstream, payment, until,
};

/// Clients at once.
const CLIENTS: usize = 12;

/// What a client waits for an answer, and how often it tries, as SDKs do.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
const TRIES: u32 = 5;

/// How many replicas claims wait for.
fn replicas_ack() -> String {
    std::env::var("ONCEGATE_FAILOVER_REPLICAS_ACK").unwrap_or_else(|_| "1".to_owned())
}

/// After a fault's end there may be errors for so long.
const RECOVERY: Duration = Duration::from_secs(5);

/// So long without an error, and a fault counts as over.
const QUIET: Duration = Duration::from_secs(1);

/// How long a primary goes on without its replicas: shorter than it takes others to notice those.
const AHEAD: Duration = Duration::from_millis(400);

const LEASE: Duration = Duration::from_secs(4);

/// What a client was told.
struct Told {
    key: String,
    begun: Instant,
    ended: Instant,
    /// `None`: no answer.
    status: Option<u16>,
    /// The last part of a refusal's type, or empty.
    slug: String,
    body: String,
}

impl Told {
    /// Whether the client was not served for a reason that is none of the key's.
    fn is_error(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}

/// When something was wrong, and what.
struct Fault {
    name: String,
    begun: Instant,
    ended: Instant,
    /// When the last error came.
    errors_until: Instant,
}

struct Book {
    told: Mutex<Vec<Told>>,
    faults: Mutex<Vec<Fault>>,
    is_over: AtomicBool,
}

impl Book {
    /// The keys that clients were told something of since then.
    fn told_since(&self, begun: Instant) -> BTreeSet<String> {
        let told = self.told.lock().expect("no panic");
        let since = told.iter().rev().take_while(|told| told.ended >= begun);
        since.map(|told| told.key.clone()).collect()
    }

    fn last_error(&self) -> Option<Instant> {
        let told = self.told.lock().expect("no panic");
        let errors = told.iter().rev().filter(|told| told.is_error());
        errors.map(|told| told.ended).max()
    }
}

/// What runs.
struct Scene {
    cluster: RedisCluster,
    upstream: ToyUpstream,
    gateways: Vec<Gateway>,
    book: Arc<Book>,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        let (cluster, upstream) = (RedisCluster::with_replicas(2), ToyUpstream::start());
        upstream.always(|request| {
            let body = format!("{{\"charge\":\"ch_{}\"}}", request.number);
            let act = Act::respond(201, &[("Content-Type", "application/json")], body);
            let pause = [0, 0, 5, 20, 100][request.number % 5];
            act.after_pause(Duration::from_millis(pause))
        });
        let directory = tempfile::tempdir().expect("a directory");
        let id_key = directory.path().join("id-key");
        std::fs::write(&id_key, "k".repeat(32)).expect("a file");
        let hosts: Vec<String> = cluster.ports()[..3]
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let url = format!("redis-cluster://{}", hosts.join(","));
        let setup = Setup::payments(&upstream)
            .shared(&url, &id_key)
            .store(&format!("replicas_ack = {}", replicas_ack()))
            .store("timeout = \"500ms\"")
            .route("fingerprint = { host = false }")
            .route(&format!("lease = \"{}s\"", LEASE.as_secs()));
        let mut gateways = Vec::new();
        for _ in 0..3 {
            gateways.push(setup.start().await);
        }
        let book = Book {
            told: Mutex::default(),
            faults: Mutex::default(),
            is_over: AtomicBool::new(false),
        };
        Self {
            cluster,
            upstream,
            gateways,
            book: Arc::new(book),
            _directory: directory,
        }
    }

    fn clients(&self, seed: u64) -> JoinSet<()> {
        let addresses: Vec<_> = self
            .gateways
            .iter()
            .map(|gateway| gateway.address)
            .collect();
        let mut clients = JoinSet::new();
        let past: Arc<Mutex<Vec<String>>> = Arc::default();
        for client in 0..CLIENTS {
            let (book, past) = (Arc::clone(&self.book), Arc::clone(&past));
            let mut random = fastrand::Rng::with_seed(seed ^ client as u64);
            let addresses = addresses.clone();
            clients.spawn(async move {
                for n in 0.. {
                    if book.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = {
                        let mut past = past.lock().expect("no panic");
                        if past.len() > 50 && random.u8(..) < 80 {
                            // One of the last is perhaps under way.
                            let last = past.len() - random.usize(0..50) - 1;
                            past[last].clone()
                        } else {
                            let key = format!("{client}-{n}");
                            past.push(key.clone());
                            key
                        }
                    };
                    present(&book, &addresses, &key, &mut random).await;
                    sleep(Duration::from_millis(random.u64(5..40))).await;
                }
            });
        }
        clients
    }

    /// One fault, and the time until clients are served again. Then those come back who were there when it began: what
    /// a server has forgotten is sent again now.
    fn ended(&self, name: &str, begun: Instant) -> impl Future<Output = ()> + use<> {
        let (book, name) = (Arc::clone(&self.book), name.to_owned());
        let address = self.gateways[self.gateways.len() - 1].address;
        let ended = Instant::now();
        async move {
            let quiet_since = || book.last_error().map_or(ended, |last| last.max(ended));
            while quiet_since().elapsed() < QUIET && ended.elapsed() < RECOVERY + QUIET {
                sleep(Duration::from_millis(20)).await;
            }
            let errors_until = quiet_since();
            book.faults.lock().expect("no panic").push(Fault {
                name,
                begun,
                ended,
                errors_until,
            });
            for key in book.told_since(begun) {
                tell(&book, address, &key).await;
            }
        }
    }

    /// A primary, by chance, and the replicas that it has.
    async fn victim(&self, random: &mut fastrand::Rng) -> (usize, Vec<usize>) {
        self.is_whole().await;
        let tag = format!("{{payments-test:{:02x}}}", random.u8(..));
        let primary = self.cluster.holder(&tag);
        let place = |server: &RedisServer| {
            let is_it = |other: &RedisServer| other.port == server.port;
            self.cluster.servers.iter().position(is_it).expect("ours")
        };
        let replicas = self.cluster.replicas_of(primary);
        (place(primary), replicas.into_iter().map(place).collect())
    }

    async fn is_whole(&self) {
        until("the cluster to be whole", || async {
            self.cluster.is_whole(2).then_some(())
        })
        .await;
    }

    async fn is_succeeded(&self, replicas: &[usize]) {
        until("a replica to take over", || async {
            let has_taken_over = |replica: &usize| {
                self.cluster.servers[*replica]
                    .cli(&["ROLE"])
                    .starts_with("master")
            };
            replicas.iter().any(has_taken_over).then_some(())
        })
        .await;
    }

    async fn primary_killed(&mut self, random: &mut fastrand::Rng) {
        let (primary, replicas) = self.victim(random).await;
        let begun = Instant::now();
        self.cluster.servers[primary].kill9();
        self.is_succeeded(&replicas).await;
        let ended = self.ended("a primary killed", begun);
        ended.await;
        self.cluster.servers[primary].restart();
    }

    async fn primary_frozen(&mut self, random: &mut fastrand::Rng) {
        let (primary, replicas) = self.victim(random).await;
        let begun = Instant::now();
        self.cluster.servers[primary].freeze();
        self.is_succeeded(&replicas).await;
        // The others know their new primary, and the old one still takes itself for one.
        sleep(Duration::from_millis(random.u64(0..300))).await;
        self.cluster.servers[primary].thaw();
        self.ended("a primary frozen, promoted over and thawed", begun)
            .await;
    }

    /// What it acknowledged last is with no replica, not even on the way to one: whoever takes over knows nothing of it.
    async fn primary_killed_ahead(&mut self, random: &mut fastrand::Rng) {
        let (primary, replicas) = self.victim(random).await;
        let begun = Instant::now();
        for replica in &replicas {
            self.cluster.servers[*replica].freeze();
        }
        self.cluster.servers[primary].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
        sleep(AHEAD).await;
        self.cluster.servers[primary].kill9();
        for replica in &replicas {
            self.cluster.servers[*replica].thaw();
        }
        self.is_succeeded(&replicas).await;
        let ended = self.ended("a primary killed ahead of its replicas", begun);
        ended.await;
        self.cluster.servers[primary].restart();
    }

    async fn primary_demoted(&mut self, random: &mut fastrand::Rng) {
        let (_, replicas) = self.victim(random).await;
        let begun = Instant::now();
        self.cluster.servers[replicas[0]].cli(&["CLUSTER", "FAILOVER"]);
        self.is_succeeded(&replicas[..1]).await;
        self.ended("a primary failed over by command", begun).await;
    }

    async fn replica_frozen(&mut self, random: &mut fastrand::Rng) {
        let (_, replicas) = self.victim(random).await;
        let begun = Instant::now();
        self.cluster.servers[replicas[0]].freeze();
        sleep(Duration::from_millis(500)).await;
        self.cluster.servers[replicas[0]].thaw();
        self.ended("one of two replicas frozen", begun).await;
    }

    async fn scripts_flushed(&mut self) {
        let begun = Instant::now();
        for server in &self.cluster.servers {
            server.cli(&["SCRIPT", "FLUSH"]);
        }
        self.ended("scripts flushed", begun).await;
    }

    /// A gateway that sleeps through its lease while it waits for an answer, and one that dies then. The others say
    /// what they know.
    async fn gateway_gone(&mut self, round: usize, is_killed: bool) {
        self.is_whole().await;
        let begun = Instant::now();
        let key = format!("gone-{round}-{is_killed}");
        let gate = Gate::closed();
        // Every other request meanwhile is none of this script's: it goes by the key.
        let (held, opened) = (key.clone(), gate.clone());
        self.upstream.always(move |request| {
            let body = format!("{{\"charge\":\"ch_{}\"}}", request.number);
            let act = Act::respond(201, &[("Content-Type", "application/json")], body);
            if request.key() == held {
                act.after(&opened)
            } else {
                act
            }
        });
        let address = self.gateways[0].address;
        let book = Arc::clone(&self.book);
        let first = tokio::spawn({
            let key = key.clone();
            async move { tell(&book, address, &key).await }
        });
        until("its dispatch", || async {
            self.upstream
                .charges_by_key()
                .contains_key(&key)
                .then_some(())
        })
        .await;
        let other = self.gateways[1].send(&payment(&key)).await;
        other.refuses(Problem::IN_PROGRESS);
        if is_killed {
            self.gateways[0].kill9().await;
        } else {
            self.signal_gateway("STOP");
        }
        until("the others to say that nobody knows", || async {
            let answer = self.gateways[2].send(&payment(&key)).await;
            let slug = slug(&answer.text());
            assert!(
                ["outcome-unknown", "request-in-progress"].contains(&slug.as_str()),
                "{answer:?}"
            );
            (slug == "outcome-unknown").then_some(())
        })
        .await;
        gate.open();
        if is_killed {
            self.gateways[0].restart().await;
            let answer = self.gateways[0].send(&payment(&key)).await;
            answer.refuses(Problem::OUTCOME_UNKNOWN);
        } else {
            self.signal_gateway("CONT");
            until("its answer to be known at last", || async {
                let answer = self.gateways[1].send(&payment(&key)).await;
                (answer.status == 201).then_some(())
            })
            .await;
        }
        let _ = first.await;
        let name = if is_killed {
            "a gateway killed"
        } else {
            "a gateway frozen"
        };
        self.ended(name, begun).await;
    }

    fn signal_gateway(&self, signal: &str) {
        let pid = self.gateways[0].pid().to_string();
        let status = std::process::Command::new("kill")
            .args([format!("-{signal}"), pid])
            .status();
        assert!(status.expect("kill").success());
    }
}

/// Presents one key until it is served, as SDKs do.
async fn present(
    book: &Book,
    addresses: &[std::net::SocketAddr],
    key: &str,
    random: &mut fastrand::Rng,
) {
    for attempt in 0..TRIES {
        let address = addresses[random.usize(0..addresses.len())];
        let status = tell(book, address, key).await;
        if status.is_some_and(|status| status < 500 && status != 409) {
            return;
        }
        sleep(Duration::from_millis(50 << attempt)).await;
    }
}

async fn tell(book: &Book, address: std::net::SocketAddr, key: &str) -> Option<u16> {
    let begun = Instant::now();
    let asking = async {
        let mut connection = crate::support::Connection::try_open(address).await.ok()?;
        connection.try_send(&payment(key)).await
    };
    let answer = timeout(CLIENT_PATIENCE, asking).await.ok().flatten();
    let body = answer.as_ref().map(crate::support::Answer::text);
    let body = body.unwrap_or_default();
    let status = answer.map(|answer| answer.status);
    book.told.lock().expect("no panic").push(Told {
        key: key.to_owned(),
        begun,
        ended: Instant::now(),
        status,
        slug: if status == Some(201) {
            String::new()
        } else {
            slug(&body)
        },
        body,
    });
    status
}

/// The last part of a problem's type.
fn slug(body: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let kind = problem.and_then(|problem| Some(problem["type"].as_str()?.to_owned()));
    let last = kind.and_then(|kind| Some(kind.rsplit([':', '/']).next()?.to_owned()));
    last.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_sent_twice_whatever_fails() {
    let rounds = std::env::var("ONCEGATE_FAILOVER_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let seed = crate::rig::seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::start().await;
    let clients = scene.clients(seed);
    sleep(QUIET).await;
    for round in 0..rounds {
        scene.scripts_flushed().await;
        scene.primary_demoted(&mut random).await;
        scene.primary_frozen(&mut random).await;
        scene.replica_frozen(&mut random).await;
        scene.primary_killed(&mut random).await;
        scene.primary_killed_ahead(&mut random).await;
        scene.gateway_gone(round, false).await;
        scene.gateway_gone(round, true).await;
    }
    scene.book.is_over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    check(&scene);
}

/// What was promised, against what happened.
fn check(scene: &Scene) {
    let told = scene.book.told.lock().expect("no panic");
    let faults = scene.book.faults.lock().expect("no panic");
    let requests = scene.upstream.requests();
    let mut sent: HashMap<String, String> = HashMap::new();
    for request in &requests {
        let charge = format!("{{\"charge\":\"ch_{}\"}}", request.number);
        let before = sent.insert(request.key(), charge);
        assert_eq!(before, None, "sent twice: {}", request.key());
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for one in told.iter() {
        let count = match one.status {
            Some(201) => "served",
            None => "no answer",
            Some(_) => one.slug.as_str(),
        };
        *counts.entry(count).or_default() += 1;
        if one.status == Some(201) {
            let charge = sent.get(&one.key);
            assert_eq!(charge, Some(&one.body), "another answer: {}", one.key);
            continue;
        }
        // In progress is no error: somebody else has just presented the key.
        if one.slug == "request-in-progress" {
            continue;
        }
        let is_excused =
            |fault: &Fault| one.ended >= fault.begun && one.begun <= fault.ended + RECOVERY;
        let stays = one.slug == "outcome-unknown";
        assert!(
            stays || faults.iter().any(is_excused),
            "for no reason: {} {:?} {}",
            one.key,
            one.status,
            one.body
        );
    }
    println!("{} keys sent, {counts:?}", sent.len());
    for fault in faults.iter() {
        let lasted = fault.ended - fault.begun;
        let after = fault.errors_until - fault.ended;
        println!("{}: {lasted:?}, errors for {after:?} more", fault.name);
        assert!(after < RECOVERY, "{}: errors for {after:?}", fault.name);
    }
    assert!(sent.len() > 500, "too few to say anything: {}", sent.len());
    assert!(counts["served"] > sent.len(), "{counts:?}");
}
