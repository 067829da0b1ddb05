//! What each setting loses in each fault, for the table in the README: acknowledged claims that are not there afterwards.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncegate::config::{RedisConfig, RedisForm};
use oncegate::protocol::{RecordId, Verdict};
use oncegate::store::Store;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::replicas::Group;
use crate::rig::{claim, config, store_at};
use crate::support::{RedisServer, until};

/// Clients at once, and the pause of each between two claims.
const CLIENTS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(2);

/// Of one call.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long claims are made before a fault, and how long the wrong server is in charge.
const BEFORE: Duration = Duration::from_millis(500);
const WRONG: Duration = Duration::from_millis(200);

/// How a store is set up: each has a primary and two replicas.
struct Setting {
    name: &'static str,
    replicas_ack: u32,
    servers: &'static [&'static str],
}

const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
const EVERYSEC: &[&str] = &["--appendonly", "yes", "--appendfsync", "everysec"];

const SETTINGS: &[Setting] = &[
    Setting {
        name: "`replicas_ack = 2`, `appendfsync always`",
        replicas_ack: 2,
        servers: ALWAYS,
    },
    Setting {
        name: "`replicas_ack = 1`, `appendfsync always`",
        replicas_ack: 1,
        servers: ALWAYS,
    },
    Setting {
        name: "`replicas_ack = 1`, `appendfsync everysec`",
        replicas_ack: 1,
        servers: EVERYSEC,
    },
    Setting {
        name: "`replicas_ack = 2`, no file",
        replicas_ack: 2,
        servers: &[],
    },
    Setting {
        name: "`replicas_ack = 1`, no file",
        replicas_ack: 1,
        servers: &[],
    },
    Setting {
        name: "0, `appendfsync always`",
        replicas_ack: 0,
        servers: ALWAYS,
    },
    Setting {
        name: "0, `appendfsync everysec`",
        replicas_ack: 0,
        servers: EVERYSEC,
    },
    Setting {
        name: "0, `min-replicas-to-write 1`, no file",
        replicas_ack: 0,
        servers: &["--min-replicas-to-write", "1"],
    },
    Setting {
        name: "0, no file",
        replicas_ack: 0,
        servers: &[],
    },
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The primary is killed, and the replica that is ahead takes over.
    Killed,
    /// It freezes, the replica that is ahead takes over, and it thaws and takes itself for the primary for a moment.
    Frozen,
    /// It and one replica go on by themselves while the other one has taken over; gateways are on the wrong side.
    Parted,
    /// It is killed and started again, before any replica takes over.
    Restarted,
    /// The same, and its snapshot is older.
    Stale,
}

const FAULTS: [Fault; 5] = [
    Fault::Killed,
    Fault::Frozen,
    Fault::Parted,
    Fault::Restarted,
    Fault::Stale,
];

/// Claims that are made without end, and those that were acknowledged.
struct Load {
    acknowledged: Arc<Mutex<Vec<RecordId>>>,
    is_over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    fn on(config: &RedisConfig) -> Self {
        let store = Arc::new(store_at(config, PATIENCE));
        let (acknowledged, is_over) = (Arc::<Mutex<Vec<_>>>::default(), Arc::default());
        let numbers = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (store, numbers) = (Arc::clone(&store), Arc::clone(&numbers));
            let (acknowledged, is_over) = (Arc::clone(&acknowledged), Arc::clone(&is_over));
            clients.spawn(async move {
                while !AtomicBool::load(&is_over, Ordering::Relaxed) {
                    let id = record_id(numbers.fetch_add(1, Ordering::Relaxed));
                    let claimed = timeout(PATIENCE, store.apply(id, claim(1))).await;
                    if let Ok(Ok(Verdict::Acquired { .. })) = claimed {
                        acknowledged.lock().expect("no panic").push(id);
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        Self {
            acknowledged,
            is_over,
            clients,
        }
    }

    async fn end(self) -> Vec<RecordId> {
        self.is_over.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        std::mem::take(&mut self.acknowledged.lock().expect("no panic"))
    }
}

/// Spread over the parts of the store.
fn record_id(n: u64) -> RecordId {
    let mut id = [n.to_le_bytes()[0]; 32];
    id[24..].copy_from_slice(&n.to_be_bytes());
    RecordId(id)
}

/// How many claims were acknowledged, and how many of them are not there after the fault.
async fn lost(setting: &Setting, fault: Fault) -> (usize, usize) {
    let mut group = Group::start(2, setting.servers).await;
    let load = Load::on(&RedisConfig {
        replicas_ack: setting.replicas_ack,
        ..config(RedisForm::Single, &[group.primary.port])
    });
    until("the store to be begun", || async {
        let acknowledged = load.acknowledged.lock().expect("no panic");
        (!acknowledged.is_empty()).then_some(())
    })
    .await;
    sleep(BEFORE).await;
    let (acknowledged, survivor) = match fault {
        Fault::Killed => {
            group.primary.kill9();
            let ahead = promoted(&group);
            (load.end().await, &group.replicas[ahead])
        }
        Fault::Frozen => {
            group.primary.freeze();
            sleep(WRONG).await;
            let ahead = promoted(&group);
            follow(&group.replicas[1 - ahead], &group.replicas[ahead]);
            group.primary.thaw();
            sleep(WRONG).await;
            follow(&group.primary, &group.replicas[ahead]);
            (load.end().await, &group.replicas[ahead])
        }
        Fault::Parted => {
            group.replicas[1].cli(&["REPLICAOF", "NO", "ONE"]);
            sleep(WRONG).await;
            follow(&group.primary, &group.replicas[1]);
            follow(&group.replicas[0], &group.replicas[1]);
            (load.end().await, &group.replicas[1])
        }
        Fault::Restarted | Fault::Stale => {
            if matches!(fault, Fault::Stale) {
                assert_eq!(group.primary.cli(&["SAVE"]), "OK");
                sleep(BEFORE).await;
            }
            group.primary.kill9();
            let acknowledged = load.end().await;
            group.primary.restart();
            (acknowledged, &group.primary)
        }
    };
    until("the server to have read its file", || async {
        let persistence = survivor.cli(&["INFO", "persistence"]);
        persistence.contains("\nloading:0").then_some(())
    })
    .await;
    let there = records(survivor);
    let is_lost = |id: &&RecordId| !there.contains(&hex(id));
    let lost = acknowledged.iter().filter(is_lost).count();
    (acknowledged.len(), lost)
}

/// Makes the replica that is ahead a primary; its place.
fn promoted(group: &Group) -> usize {
    let offset = |place: &usize| {
        let replication = group.replicas[*place].cli(&["INFO", "replication"]);
        let mut lines = replication.lines();
        let offset = lines.find_map(|line| line.strip_prefix("slave_repl_offset:"));
        offset.and_then(|offset| offset.parse::<u64>().ok())
    };
    let ahead = (0..group.replicas.len()).max_by_key(offset);
    let ahead = ahead.expect("a replica");
    group.replicas[ahead].cli(&["REPLICAOF", "NO", "ONE"]);
    ahead
}

fn follow(server: &RedisServer, primary: &RedisServer) {
    server.cli(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
}

/// The ids of all records.
fn records(server: &RedisServer) -> HashSet<String> {
    let keys = server.cli(&["KEYS", "*:r:*"]);
    let id = |key: &str| key.rsplit(':').next().map(str::to_owned);
    keys.lines().filter_map(id).collect()
}

fn hex(id: &RecordId) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints the README's table; takes two minutes"]
async fn what_each_setting_loses_in_each_fault() {
    println!("| setting | {FAULTS:?} |");
    for setting in SETTINGS {
        let mut row = format!("| {} |", setting.name);
        for fault in FAULTS {
            let (acknowledged, lost) = lost(setting, fault).await;
            row.push_str(&format!(" {lost} of {acknowledged} |"));
        }
        println!("{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_promoted_over_takes_no_acknowledged_claim_along() {
    let setting = |replicas_ack| Setting {
        name: "",
        replicas_ack,
        servers: &[],
    };
    let (acknowledged, taken) = lost(&setting(1), Fault::Frozen).await;
    assert!(acknowledged > 50, "{acknowledged}");
    assert_eq!(taken, 0, "of {acknowledged}");
    // It would be seen.
    let (acknowledged, taken) = lost(&setting(0), Fault::Frozen).await;
    assert!(taken > 0, "of {acknowledged}");
}
