//! What requests cost the server: its commands and its CPU time, by its own count.
//!
//! ```sh
//! cargo nextest run --locked --test redis_store --run-ignored all --no-capture what_requests_cost
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncegate::config::{RedisConfig, RedisForm};
use oncegate::protocol::{RecordId, Verdict};
use oncegate::store::{Redis, Store};
use tokio::task::JoinSet;

use crate::replicas::Group;
use crate::rig::{TIMEOUT, claim, complete, config, store_at};
use crate::support::RedisServer;

/// How often each is measured, in turns; medians are printed.
const ROUNDS: usize = 5;

/// Requests of each kind in a turn, by how many of them are under way at once.
const REQUESTS: [(usize, usize); 2] = [(64, 4_000), (1, 1_000)];

/// What one request does to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// A claim alone: an operation is under way.
    Claim,
    /// A duplicate of that.
    InFlight,
    /// The answer.
    Complete,
    /// A duplicate of what is done.
    Replay,
}

const KINDS: [Kind; 4] = [Kind::Claim, Kind::InFlight, Kind::Complete, Kind::Replay];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::InFlight => "duplicate of one under way",
            Self::Complete => "answer",
            Self::Replay => "replay",
        }
    }

    async fn ask(self, store: &Redis, id: RecordId) {
        let (op, is_so): (_, fn(&Verdict) -> bool) = match self {
            Self::Claim => (claim(1), |said| matches!(said, Verdict::Acquired { .. })),
            Self::InFlight => (claim(2), |said| matches!(said, Verdict::InFlight { .. })),
            Self::Complete => (complete(1), |said| matches!(said, Verdict::Done)),
            Self::Replay => (claim(2), |said| matches!(said, Verdict::Completed(_))),
        };
        let said = store.apply(id, op).await.expect("a verdict");
        assert!(is_so(&said), "{self:?}: {said:?}");
    }
}

/// What a server has counted.
struct Count {
    /// By command, those in scripts, too: calls, and their time in µs.
    commands: HashMap<String, (f64, f64)>,
    /// Of the thread that serves, in µs.
    cpu: f64,
}

impl Count {
    fn of(server: &RedisServer) -> Self {
        let field = |line: &str, name: &str| -> f64 {
            let start = format!("{name}=");
            let mut fields = line.split([',', ':']);
            let number = fields.find_map(|field| field.strip_prefix(&start));
            number.expect("a field").parse().expect("a number")
        };
        let stats = server.cli(&["INFO", "commandstats"]);
        let commands = stats.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            Some((name.to_owned(), (field(line, "calls"), field(line, "usec"))))
        });
        let cpu = server.cli(&["INFO", "cpu"]);
        let seconds = |name: &str| -> f64 {
            let line = cpu.lines().find_map(|line| line.strip_prefix(name));
            line.expect("a line").trim().parse().expect("seconds")
        };
        Self {
            commands: commands.collect(),
            cpu: 1e6
                * (seconds("used_cpu_user_main_thread:") + seconds("used_cpu_sys_main_thread:")),
        }
    }

    fn command(&self, name: &str) -> (f64, f64) {
        self.commands.get(name).copied().unwrap_or_default()
    }
}

/// What one request costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    scripts: f64,
    waits: f64,
    /// Time in µs: of SPUBLISH alone, and all of it.
    telling: f64,
    cpu: f64,
}

/// Does this for so many records of this round, so many at once; what each cost.
async fn measure(
    server: &RedisServer,
    config: &RedisConfig,
    kind: Kind,
    round: usize,
    (at_once, requests): (usize, usize),
) -> Cost {
    let store = Arc::new(store_at(config, TIMEOUT));
    store.contact().await.unwrap();
    let before = Count::of(server);
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..at_once {
        let (store, next) = (Arc::clone(&store), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= requests {
                    return;
                }
                kind.ask(&store, record_id(round, n)).await;
            }
        });
    }
    tasks.join_all().await;
    // Waits until the answers are where they have to be.
    store.close().await;
    let after = Count::of(server);
    let each = |now: f64, before: f64| (now - before) / requests as f64;
    let calls = |name| each(after.command(name).0, before.command(name).0);
    Cost {
        scripts: calls("evalsha"),
        waits: calls("wait"),
        telling: each(after.command("spublish").1, before.command("spublish").1),
        cpu: each(after.cpu, before.cpu),
    }
}

fn record_id(round: usize, n: usize) -> RecordId {
    let mut id = [n.to_le_bytes()[0]; 32];
    id[16..24].copy_from_slice(&round.to_be_bytes());
    id[24..].copy_from_slice(&n.to_be_bytes());
    RecordId(id)
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints the README's figures"]
async fn what_requests_cost_the_server() {
    println!("                             scripts   waits  CPU us  of them SPUBLISH");
    for (at_once, requests) in REQUESTS {
        for (replicas, replicas_ack) in [(0, 0), (1, 0), (1, 1)] {
            let group = Group::start(replicas, &[]).await;
            let config = RedisConfig {
                replicas_ack,
                ..config(RedisForm::Single, &[group.primary.port])
            };
            println!("{replicas} replicas, replicas_ack = {replicas_ack}, {at_once} at once");
            let mut costs: HashMap<Kind, Vec<Cost>> = HashMap::new();
            for round in 0..ROUNDS {
                for kind in KINDS {
                    let load = (at_once, requests);
                    let cost = measure(&group.primary, &config, kind, round, load).await;
                    costs.entry(kind).or_default().push(cost);
                }
            }
            for kind in KINDS {
                let median = |of: fn(&Cost) -> f64| median(&costs[&kind], of);
                println!(
                    "  {:<26} {:>7.2} {:>7.3} {:>7.1} {:>17.2}",
                    kind.name(),
                    median(|cost| cost.scripts),
                    median(|cost| cost.waits),
                    median(|cost| cost.cpu),
                    median(|cost| cost.telling),
                );
            }
        }
    }
}
