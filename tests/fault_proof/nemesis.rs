//! What goes wrong, and when, by the seed: one lane each for the gateways' processes, for their wires to the upstream and
//! for the store, so that faults of different kinds meet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::Clock;
use crate::history::{Journal, On, Sight};
use crate::relay::{Relay, Way, Weather};
use crate::scene::{Cluster, Gateways, LEASE};

/// What one lane of faults is run by.
pub struct Nemesis {
    journal: Arc<Journal>,
    rng: Rng,
    lane: Lane,
    acts: Acts,
}

/// What faults befall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Gateways,
    Links,
    Store,
}

/// When which lanes have faults: all of them for a while, each of them alone, so that nothing else excuses what comes of
/// it, and none, so that nothing does.
#[derive(Clone, Copy, Debug)]
pub struct Acts {
    pub seed: u64,
    begun: Instant,
    /// No fault begins after that.
    pub ends: Instant,
}

/// How long an act takes, and how many there are before they come again in another order.
const ACT: Duration = Duration::from_secs(3);
const CYCLE: usize = 5;

/// What an act has faults of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Everything,
    Alone(Lane),
    Calm,
}

impl Acts {
    pub fn new(seed: u64, length: Duration) -> Self {
        let begun = Instant::now();
        Self {
            seed,
            begun,
            ends: begun + length,
        }
    }

    /// Whether this lane has faults now.
    fn has(self, lane: Lane) -> bool {
        let act = self.begun.elapsed().as_secs() / ACT.as_secs();
        let act = usize::try_from(act).expect("a short run");
        let mut order: [Act; CYCLE] = [
            Act::Everything,
            Act::Alone(Lane::Gateways),
            Act::Alone(Lane::Links),
            Act::Alone(Lane::Store),
            Act::Calm,
        ];
        Rng::with_seed(self.seed ^ (act / CYCLE) as u64).shuffle(&mut order);
        match order[act % CYCLE] {
            Act::Everything => true,
            Act::Alone(alone) => alone == lane,
            Act::Calm => false,
        }
    }
}

/// How long a nemesis waits for the moment that it wants.
const MOMENT: Duration = Duration::from_secs(1);

/// How far clocks are put: by several leases, and, where nobody else's clock has to agree, by much more. Put back, a
/// clock keeps claims in progress whose owners are gone, for as long as it was put back.
const SECONDS_MS: i64 = 8_000;
const TWO_HOURS_MS: i64 = 7_200_000;

const WAYS: [Way; 3] = [Way::Up, Way::Down, Way::Both];

impl Nemesis {
    pub fn new(journal: &Arc<Journal>, lane: Lane, acts: Acts) -> Self {
        Self {
            journal: Arc::clone(journal),
            rng: Rng::with_seed(acts.seed ^ lane as u64),
            lane,
            acts,
        }
    }

    /// What befalls gateways. All of them run when this returns.
    pub async fn of_gateways(mut self, mut gateways: Gateways) -> Gateways {
        while self.goes_on(100..1000).await {
            let number = self.rng.usize(0..gateways.processes.len());
            match self.rng.u8(0..10) {
                0..=4 => self.kills(&mut gateways, number).await,
                5 | 6 => self.terminates(&mut gateways, number).await,
                7 | 8 => self.freezes(&gateways, number).await,
                _ => self.sets_clock(&mut gateways.clocks[number], "gateway", TWO_HOURS_MS),
            }
        }
        gateways
    }

    /// Waits for a while, of milliseconds, and for an act with faults of this lane; whether there is time for another.
    async fn goes_on(&mut self, pause: std::ops::Range<u64>) -> bool {
        loop {
            sleep(Duration::from_millis(self.rng.u64(pause.clone()))).await;
            if Instant::now() >= self.acts.ends {
                return false;
            }
            if self.acts.has(self.lane) {
                return true;
            }
        }
    }

    async fn kills(&mut self, gateways: &mut Gateways, number: usize) {
        let name = match self.rng.u8(0..3) {
            0 => "gateway killed",
            1 => {
                self.comes(Sight::Received(number)).await;
                "gateway killed when the upstream had a request"
            }
            _ => {
                self.comes(Sight::Executed(number)).await;
                "gateway killed when a client had its answer"
            }
        };
        let fault = self.journal.begins(name, On::Gateway(number));
        gateways.processes[number].kill9().await;
        self.starts_again(gateways, number).await;
        self.journal.ends(fault);
    }

    async fn terminates(&mut self, gateways: &mut Gateways, number: usize) {
        let fault = self
            .journal
            .begins("gateway terminated", On::Gateway(number));
        gateways.processes[number].sigterm();
        gateways.processes[number].ended().await;
        self.starts_again(gateways, number).await;
        self.journal.ends(fault);
    }

    async fn starts_again(&mut self, gateways: &mut Gateways, number: usize) {
        gateways.keep_log(number, self.journal.folder());
        sleep(Duration::from_millis(self.rng.u64(0..1000))).await;
        gateways.processes[number].restart().await;
        let admin = gateways.processes[number].admin;
        gateways.admins.lock().expect("no panic")[number] = admin;
    }

    async fn freezes(&mut self, gateways: &Gateways, number: usize) {
        if self.rng.bool() {
            self.comes(Sight::Received(number)).await;
        }
        let fault = self.journal.begins("gateway frozen", On::Gateway(number));
        let pid = gateways.processes[number].pid();
        signal(pid, "STOP");
        let longer = Duration::from_millis(self.rng.u64(0..1500));
        sleep(LEASE + longer).await;
        signal(pid, "CONT");
        self.journal.ends(fault);
    }

    /// Waits for a sight, or as long as may be.
    async fn comes(&self, wanted: Sight) {
        let mut sights = self.journal.sights();
        let coming = async {
            // One that was missed is another one soon.
            while sights.recv().await != Ok(wanted) {}
        };
        let _ = timeout(MOMENT, coming).await;
    }

    /// Puts a clock forth by so much at most, or back a little.
    fn sets_clock(&mut self, clock: &mut Clock, whose: &str, forth_ms: i64) {
        let (way, by_ms) = if self.rng.bool() {
            ("forth", self.rng.i64(0..forth_ms))
        } else {
            ("back", -self.rng.i64(0..SECONDS_MS))
        };
        let name = format!("{whose}'s clock put {way}");
        let fault = self.journal.begins(&name, On::Harmless);
        clock.put(by_ms, forth_ms);
        self.journal.ends(fault);
    }

    /// What befalls the wires to the upstream.
    pub async fn of_links(mut self, links: Arc<Vec<Relay>>) {
        while self.goes_on(200..1500).await {
            let number = self.rng.usize(0..links.len());
            let (name, weather) = self.weather();
            let name = format!("wire to the upstream {name}");
            let fault = self.journal.begins(&name, On::Link(number));
            self.lasts(&links[number], weather, 50..1500).await;
            self.journal.ends(fault);
        }
    }

    /// Bad weather of some kind; `None` is a moment in which everything is cut.
    fn weather(&mut self) -> (&'static str, Option<Weather>) {
        let way = WAYS[self.rng.usize(0..3)];
        match self.rng.u8(0..5) {
            0 => ("cut", None),
            1 => ("refuses", Some(Weather::Refuses)),
            2 => ("holds", Some(Weather::Holds(way))),
            3 => ("loses", Some(Weather::Loses(way))),
            _ => {
                let pause = Duration::from_millis(self.rng.u64(20..400));
                ("is slow", Some(Weather::Slow(pause)))
            }
        }
    }

    async fn lasts(
        &mut self,
        link: &Relay,
        weather: Option<Weather>,
        milliseconds: std::ops::Range<u64>,
    ) {
        if weather.is_none_or(|weather| weather == Weather::Refuses) {
            link.cut();
        }
        if let Some(weather) = weather {
            link.set(weather);
            sleep(Duration::from_millis(self.rng.u64(milliseconds))).await;
            link.set(Weather::Fair);
        }
    }

    /// What befalls a cluster and the wires to it. It is whole when this returns.
    pub async fn of_cluster(mut self, mut cluster: Cluster) -> Cluster {
        while self.goes_on(100..1000).await {
            match self.rng.u8(0..17) {
                0..=3 => self.one_server_far(&cluster).await,
                4 | 5 => self.all_servers_far(&cluster).await,
                6 => self.scripts_flushed(&cluster),
                7 | 8 => {
                    let number = self.rng.usize(0..cluster.clocks.len());
                    self.sets_clock(&mut cluster.clocks[number], "server", SECONDS_MS);
                }
                9 | 10 => self.primary_killed(&mut cluster).await,
                11 => self.primary_frozen(&cluster).await,
                14..=16 => self.all_servers_slow(&cluster).await,
                12 => self.primary_demoted(&cluster).await,
                _ => self.replica_frozen(&cluster).await,
            }
        }
        cluster.is_whole().await;
        cluster
    }

    async fn one_server_far(&mut self, cluster: &Cluster) {
        let number = self.rng.usize(0..cluster.links.len());
        let (name, weather) = self.weather();
        let name = format!("wire to a server {name}");
        let fault = self.journal.begins(&name, On::StoreLink);
        self.lasts(&cluster.links[number], weather, 100..2500).await;
        self.journal.ends(fault);
    }

    async fn all_servers_far(&mut self, cluster: &Cluster) {
        let way = WAYS[self.rng.usize(0..3)];
        let weather =
            [Weather::Refuses, Weather::Holds(way), Weather::Loses(way)][self.rng.usize(0..3)];
        cluster.set_all(weather);
        if weather == Weather::Refuses {
            cluster.links.iter().for_each(Relay::cut);
        }
        let fault = self.journal.begins("store away", On::StoreAway);
        sleep(Duration::from_millis(self.rng.u64(300..4000))).await;
        self.journal.ends(fault);
        cluster.set_all(Weather::Fair);
    }

    async fn all_servers_slow(&mut self, cluster: &Cluster) {
        let longest = Duration::from_millis(self.rng.u64(20..400));
        let fault = self.journal.begins("store slow", On::StoreLink);
        cluster.set_all(Weather::Slow(longest));
        sleep(Duration::from_millis(self.rng.u64(500..3000))).await;
        cluster.set_all(Weather::Fair);
        self.journal.ends(fault);
    }

    fn scripts_flushed(&self, cluster: &Cluster) {
        let fault = self.journal.begins("scripts flushed", On::Harmless);
        for server in &cluster.cluster.servers {
            server.cli(&["SCRIPT", "FLUSH"]);
        }
        self.journal.ends(fault);
    }

    async fn primary_killed(&mut self, cluster: &mut Cluster) {
        let (primary, replicas) = cluster.victim(&mut self.rng).await;
        let fault = self.journal.begins("primary killed", On::StoreServer);
        cluster.cluster.servers[primary].kill9();
        cluster.is_succeeded(&replicas).await;
        cluster.cluster.servers[primary].restart();
        cluster.is_whole().await;
        self.journal.ends(fault);
    }

    async fn primary_frozen(&mut self, cluster: &Cluster) {
        let (primary, replicas) = cluster.victim(&mut self.rng).await;
        let fault = self
            .journal
            .begins("primary frozen and promoted over", On::StoreServer);
        cluster.cluster.servers[primary].freeze();
        cluster.is_succeeded(&replicas).await;
        // The others know their new primary, and the old one still takes itself for one.
        sleep(Duration::from_millis(self.rng.u64(0..300))).await;
        cluster.cluster.servers[primary].thaw();
        cluster.is_whole().await;
        self.journal.ends(fault);
    }

    async fn primary_demoted(&mut self, cluster: &Cluster) {
        let (_, replicas) = cluster.victim(&mut self.rng).await;
        let fault = self.journal.begins("failover by command", On::StoreServer);
        cluster.cluster.servers[replicas[0]].cli(&["CLUSTER", "FAILOVER"]);
        cluster.is_succeeded(&replicas[..1]).await;
        cluster.is_whole().await;
        self.journal.ends(fault);
    }

    async fn replica_frozen(&mut self, cluster: &Cluster) {
        let (_, replicas) = cluster.victim(&mut self.rng).await;
        let fault = self.journal.begins("replica frozen", On::StoreLink);
        cluster.cluster.servers[replicas[0]].freeze();
        sleep(Duration::from_millis(self.rng.u64(100..700))).await;
        cluster.cluster.servers[replicas[0]].thaw();
        self.journal.ends(fault);
    }

    /// What befalls the disk of a gateway that works in this folder.
    pub async fn of_disk(mut self, folder: PathBuf) {
        let flag = folder.join("stalled");
        while self.goes_on(300..2500).await {
            std::fs::write(&flag, "").expect("a flag");
            let fault = self.journal.begins("disk stalled", On::StoreAway);
            sleep(Duration::from_millis(self.rng.u64(100..2500))).await;
            self.journal.ends(fault);
            std::fs::remove_file(&flag).expect("the flag");
        }
    }
}

fn signal(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status();
    assert!(status.expect("kill").success());
}
