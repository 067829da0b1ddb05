//! A primary that is cut off from the majority, with a gateway that still reaches it: what it acknowledges there is lost
//! when the others have promoted a replica. The network is really cut, and who is promoted is the servers' own business.
//!
//! ```sh
//! unshare --map-root-user --net cargo nextest run --locked --test redis_store --run-ignored all --no-capture cut::
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oncegate::config::{Endpoint, RedisConfig, RedisForm};
use oncegate::protocol::{Op, RecordId, Verdict};
use oncegate::store::Store;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::network::{FAR, NEAR, Network};
use crate::rig::{claim, config, store_at};
use crate::support::{IN_A_CLUSTER, RedisCluster, RedisServer, until};

/// Clients at once behind the cut, and the pause of each between two claims.
const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(2);

/// Of one call.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long claims are made before the cut, and after another primary was promoted.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(2);

/// As long as a gateway may take to serve again once the cut is over. Sentinels leave a master that has come back alone
/// for eight seconds, and the replicas that it took along with it: nobody has replicas meanwhile.
const RECOVERY: Duration = Duration::from_secs(15);

/// Parts of the store that are claimed in: enough that some lie on each server of a cluster.
const BUCKETS: u8 = 32;

/// Within that somebody else is primary, or nobody will be.
const ELECTED: Duration = Duration::from_secs(15);

/// How often a cut is tried.
const TRIES: usize = 5;

const PORTS: std::ops::Range<u16> = 7001..7099;

struct Setting {
    name: &'static str,
    replicas_ack: u32,
    servers: &'static [&'static str],
}

const ONE: &[&str] = &[
    "--min-replicas-to-write",
    "1",
    "--min-replicas-max-lag",
    "1",
];
const TWO: &[&str] = &[
    "--min-replicas-to-write",
    "2",
    "--min-replicas-max-lag",
    "1",
];

const SETTINGS: &[Setting] = &[
    Setting {
        name: "`replicas_ack = 0`",
        replicas_ack: 0,
        servers: &[],
    },
    Setting {
        name: "`replicas_ack = 0`, `min-replicas-to-write 1`",
        replicas_ack: 0,
        servers: ONE,
    },
    Setting {
        name: "`replicas_ack = 0`, `min-replicas-to-write 2`",
        replicas_ack: 0,
        servers: TWO,
    },
    Setting {
        name: "`replicas_ack = 1`",
        replicas_ack: 1,
        servers: &[],
    },
    Setting {
        name: "`replicas_ack = 1`, `min-replicas-to-write 2`",
        replicas_ack: 1,
        servers: TWO,
    },
    Setting {
        name: "`replicas_ack = 2`",
        replicas_ack: 2,
        servers: &[],
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Cluster,
    Sentinel,
}

/// How many of the primary's two replicas are on its side of the cut.
const ALONE: usize = 0;
const WITH_A_REPLICA: usize = 1;

/// Servers on both sides, of which the first is the primary that is cut off.
struct Scene {
    servers: Vec<RedisServer>,
    _sentinels: Vec<RedisServer>,
    /// What the gateways are told.
    config: RedisConfig,
    /// The parts of the store that the primary holds.
    buckets: Vec<u8>,
    network: Network,
}

impl Scene {
    async fn start(form: Form, along: usize, settings: &[&str]) -> Self {
        let network = Network::lay();
        let mut ports = PORTS;
        let mut free = || ports.next().expect("a port");
        let mut usual = vec!["--protected-mode", "no"];
        if form == Form::Cluster {
            usual.extend(IN_A_CLUSTER);
            // The usual one of tests is too short for elections on a busy machine, where a server is not heard of for
            // a second for want of CPU time.
            usual.extend(["--cluster-node-timeout", "2000"]);
        }
        let mut start = |side: usize, more: &[&str]| {
            let all: Vec<&str> = usual.iter().chain(more).copied().collect();
            RedisServer::at(&network.place(side), free(), &all)
        };
        let side_of = |replica: usize| if replica < along { NEAR } else { FAR };
        match form {
            Form::Cluster => {
                // The other primaries have no replicas.
                let primaries = [start(NEAR, settings), start(FAR, &[]), start(FAR, &[])];
                let replicas = [0, 1].map(|replica| start(side_of(replica), settings));
                let (servers, buckets) = cluster(primaries, replicas).await;
                Self {
                    config: at(RedisForm::Cluster, &[&servers[0], &servers[1]]),
                    servers,
                    _sentinels: Vec::new(),
                    buckets,
                    network,
                }
            }
            Form::Sentinel => {
                let primary = start(NEAR, settings);
                let (host, port) = (primary.host().to_owned(), primary.port.to_string());
                let follow = [&["--replicaof", &host, &port], settings].concat();
                let replica = |replica| start(side_of(replica), &follow);
                let mut servers = vec![primary];
                servers.extend([0, 1].map(replica));
                in_step(&servers[0]).await;
                let sentinels = sentinels(&network, &servers[0]).await;
                let master = "main".to_owned();
                let sentinel: Vec<&RedisServer> = sentinels.iter().collect();
                Self {
                    config: at(RedisForm::Sentinel { master }, &sentinel),
                    servers,
                    _sentinels: sentinels,
                    buckets: (0..BUCKETS).collect(),
                    network,
                }
            }
        }
    }

    /// Waits until a server of the other side has taken over; that one. `None`: none does, as elections on a busy
    /// machine go now and then.
    async fn successor(&self) -> Option<&RedisServer> {
        let taking_over = until("a replica to take over", || async {
            let replicas = &self.servers[self.servers.len() - 2..];
            let is_master = |server: &&RedisServer| server.cli(&["ROLE"]).starts_with("master");
            replicas.iter().find(is_master)
        });
        timeout(ELECTED, taking_over).await.ok()
    }
}

fn at(form: RedisForm, servers: &[&RedisServer]) -> RedisConfig {
    let endpoint = |server: &&RedisServer| Endpoint {
        host: server.host().to_owned(),
        port: server.port,
    };
    RedisConfig {
        servers: servers.iter().map(endpoint).collect(),
        ..config(form, &[])
    }
}

/// Three primaries, the first of them with replicas; and which of the first parts of the store that one holds.
async fn cluster(
    primaries: [RedisServer; 3],
    replicas: [RedisServer; 2],
) -> (Vec<RedisServer>, Vec<u8>) {
    let address = |server: &RedisServer| format!("{}:{}", server.host(), server.port);
    let addresses = primaries.each_ref().map(address);
    primaries[0].cluster(&[
        "create",
        &addresses[0],
        &addresses[1],
        &addresses[2],
        "--cluster-yes",
    ]);
    let id = primaries[0].cli(&["CLUSTER", "MYID"]);
    let mut cluster = RedisCluster {
        servers: primaries.into(),
    };
    for replica in replicas {
        let words = [
            "add-node",
            &address(&replica),
            &addresses[0],
            "--cluster-slave",
        ];
        let after = ["--cluster-master-id", &id];
        let is_known = |server: &RedisServer| {
            let known = server.cli(&["CLUSTER", "NODES"]);
            known.lines().count() == cluster.servers.len() && !known.contains("handshake")
        };
        until("the primaries to know each other", || async {
            cluster.servers.iter().all(is_known).then_some(())
        })
        .await;
        cluster.servers[0].cluster(&[&words[..], &after].concat());
        cluster.servers.push(replica);
    }
    in_step(&cluster.servers[0]).await;
    let is_sound = |server: &RedisServer| {
        let nodes = server.cli(&["CLUSTER", "NODES"]);
        nodes.matches(" slave ").count() + nodes.matches("myself,slave ").count() == 2
            && server
                .cli(&["CLUSTER", "INFO"])
                .contains("cluster_state:ok")
    };
    until("all to know all", || async {
        cluster.servers.iter().all(is_sound).then_some(())
    })
    .await;
    let first = cluster.servers[0].port;
    let is_there = |bucket: &u8| {
        let tag = format!("{{payments-test:{bucket:02x}}}");
        cluster.holder(&tag).port == first
    };
    let buckets = (0..BUCKETS).filter(is_there).collect();
    (cluster.servers, buckets)
}

/// One on the primary's side, two on the other one.
async fn sentinels(network: &Network, primary: &RedisServer) -> Vec<RedisServer> {
    let master = network.place(NEAR);
    let sentinel = |(side, port)| {
        let settings = ["--protected-mode", "no"];
        RedisServer::sentinel_at(
            &network.place(side),
            port,
            (&master, primary.port),
            &settings,
        )
    };
    let sentinels: Vec<_> = [(NEAR, 8001), (FAR, 8002), (FAR, 8003)]
        .map(sentinel)
        .into();
    until("the sentinels to know all", || async {
        let knows = |sentinel: &RedisServer| {
            let told = sentinel.cli(&["SENTINEL", "MASTER", "main"]);
            let words: Vec<&str> = told.lines().collect();
            let said = |name, value| words.windows(2).any(|pair| pair == [name, value]);
            said("num-other-sentinels", "2") && said("num-slaves", "2")
        };
        sentinels.iter().all(knows).then_some(())
    })
    .await;
    sentinels
}

/// Waits until both replicas have acknowledged what the primary wrote.
async fn in_step(primary: &RedisServer) {
    until("the replicas to be in step", || async {
        let replication = primary.cli(&["INFO", "replication"]);
        let lags = replication.matches("state=online,").count();
        let late = replication.matches("lag=0").count() + replication.matches("lag=1").count();
        (lags == 2 && late == 2).then_some(())
    })
    .await;
}

/// What clients behind the cut were told.
#[derive(Default)]
struct Book {
    acknowledged: Mutex<Vec<(RecordId, Instant)>>,
    is_over: AtomicBool,
}

impl Book {
    fn acknowledged(&self) -> Vec<(RecordId, Instant)> {
        self.acknowledged.lock().expect("no panic").clone()
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Claims that were acknowledged behind the cut once it was there.
    behind: usize,
    /// Claims of all that were acknowledged that were given a second time on the other side.
    twice: usize,
    /// From the cut to the last acknowledged claim behind it.
    lasted: Duration,
    /// From the end of the cut to the first claim of a gateway that was behind it.
    recovered: Duration,
}

async fn run(form: Form, along: usize, setting: &Setting) -> Option<Outcome> {
    let scene = Scene::start(form, along, setting.servers).await;
    let far = scene.config.clone();
    let near = RedisConfig {
        replicas_ack: setting.replicas_ack,
        ..far.clone()
    };
    let book = Arc::<Book>::default();
    let (healed, is_healed) = oneshot::channel();
    let (over, is_over) = oneshot::channel();
    let (behind, buckets) = (Arc::clone(&book), scene.buckets.clone());
    let recovered = scene.network.inside(NEAR, move || async move {
        let store = Arc::new(store_at(&near, PATIENCE));
        claims(&store, &behind, &buckets).await;
        let _ = over.send(());
        // Nobody was promoted.
        let Ok(healed): Result<Instant, _> = is_healed.await else {
            return Duration::ZERO;
        };
        until("the gateway behind the cut to serve again", || async {
            let id = record_id(usize::MAX, &buckets);
            let claimed = timeout(PATIENCE, store.apply(id, claim(3)))
                .await
                .ok()?
                .ok()?;
            matches!(claimed, Verdict::Acquired { .. }).then_some(())
        })
        .await;
        healed.elapsed()
    });
    until("claims to be made", || async {
        (!book.acknowledged().is_empty()).then_some(())
    })
    .await;
    sleep(BEFORE).await;
    let cut = Instant::now();
    scene.network.cut();
    let Some(successor) = scene.successor().await else {
        book.is_over.store(true, Ordering::Relaxed);
        return None;
    };
    sleep(AFTER).await;
    book.is_over.store(true, Ordering::Relaxed);
    is_over.await.expect("the load");
    let acknowledged = book.acknowledged();
    // It may have too few replicas itself; what it would say is the question.
    successor.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    let ids: Vec<RecordId> = acknowledged.iter().map(|(id, _)| *id).collect();
    let twice = scene.network.inside(FAR, move || again(far, ids));
    let twice = twice.await.expect("the other side");
    scene.network.heal();
    healed.send(Instant::now()).expect("the other gateway");
    let recovered = recovered.await.expect("the gateway behind the cut");
    let behind = acknowledged.iter().filter(|(_, at)| *at >= cut);
    let last = acknowledged.last().map_or(cut, |(_, at)| *at);
    Some(Outcome {
        behind: behind.count(),
        twice,
        lasted: last.saturating_duration_since(cut),
        recovered,
    })
}

/// Claims until the test has enough.
async fn claims(store: &Arc<impl Store + 'static>, book: &Arc<Book>, buckets: &[u8]) {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (store, book, buckets) = (Arc::clone(store), Arc::clone(book), buckets.to_vec());
        clients.spawn(async move {
            for n in 0.. {
                if book.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let id = record_id(n * CLIENTS + client, &buckets);
                let claimed = timeout(PATIENCE, store.apply(id, claim(1))).await;
                if let Ok(Ok(Verdict::Acquired { .. })) = claimed {
                    let mut acknowledged = book.acknowledged.lock().expect("no panic");
                    acknowledged.push((id, Instant::now()));
                }
                sleep(PAUSE).await;
            }
        });
    }
    clients.join_all().await;
}

/// How many of these another gateway is given, too.
async fn again(config: RedisConfig, ids: Vec<RecordId>) -> usize {
    let store = store_at(&config, PATIENCE);
    let mut twice = 0;
    for id in ids {
        let claim: Op = claim(2);
        let verdict = until("the other side to answer", || async {
            timeout(PATIENCE, store.apply(id, claim.clone()))
                .await
                .ok()?
                .ok()
        })
        .await;
        twice += usize::from(matches!(verdict, Verdict::Acquired { .. }));
    }
    twice
}

/// In one of these parts of the store.
fn record_id(n: usize, buckets: &[u8]) -> RecordId {
    let mut id = [buckets[n % buckets.len()]; 32];
    id[24..].copy_from_slice(&n.to_be_bytes());
    RecordId(id)
}

/// The same, again where nobody was promoted.
async fn outcome(form: Form, along: usize, setting: &Setting) -> Outcome {
    for _ in 0..TRIES {
        if let Some(outcome) = run(form, along, setting).await {
            return outcome;
        }
        println!("nobody was promoted; again");
    }
    panic!("nobody was promoted in {TRIES} cuts");
}

async fn table(form: Form) {
    println!("| setting | alone | with one of its replicas |");
    let mut recovered = Vec::new();
    for setting in SETTINGS {
        let mut row = format!("| {} |", setting.name);
        for along in [ALONE, WITH_A_REPLICA] {
            let result = outcome(form, along, setting).await;
            row.push_str(&format!(
                " {} of {} ({:.1} s) |",
                result.twice,
                result.behind,
                result.lasted.as_secs_f32()
            ));
            recovered.push(result.recovered);
            assert!(result.recovered < RECOVERY, "{result:?}");
            let is_safe = setting.replicas_ack as usize > along;
            assert!(
                !is_safe || result.twice == 0,
                "{}: {result:?}",
                setting.name
            );
        }
        println!("{row}");
    }
    println!("gateways behind the cut served again after {recovered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints the README's table; needs the right to make networks, and a minute and a half"]
async fn what_a_primary_of_a_cluster_that_is_cut_off_lets_through_twice() {
    table(Form::Cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints the README's table; needs the right to make networks, and a minute and a half"]
async fn what_a_master_behind_sentinels_that_is_cut_off_lets_through_twice() {
    table(Form::Sentinel).await;
}
