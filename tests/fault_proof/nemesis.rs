//! What goes wrong, and when, by the seed: one lane each for the gateways' processes, for their wires to the upstream and
//! for the store, so that faults of different kinds meet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{Clock, jump};
use crate::history::{Journal, On, Sight};
use crate::relay::{Relay, Way, Weather};
use crate::scene::{Cluster, Gateways, LEASE};

/// What one lane of faults is run by.
pub struct Nemesis {
    journal: Arc<Journal>,
    rng: Rng,
    /// No fault begins after that.
    ends: Instant,
}

/// How long a nemesis waits for the moment that it wants.
const MOMENT: Duration = Duration::from_secs(1);

const WAYS: [Way; 3] = [Way::Up, Way::Down, Way::Both];

impl Nemesis {
    pub fn new(journal: &Arc<Journal>, seed: u64, ends: Instant) -> Self {
        Self {
            journal: Arc::clone(journal),
            rng: Rng::with_seed(seed),
            ends,
        }
    }

    /// What befalls gateways. All of them run when this returns.
    pub async fn of_gateways(mut self, mut gateways: Gateways) -> Gateways {
        while self.goes_on(200..2500).await {
            let number = self.rng.usize(0..gateways.processes.len());
            match self.rng.u8(0..10) {
                0..=4 => self.kills(&mut gateways, number).await,
                5 | 6 => self.terminates(&mut gateways, number).await,
                7 | 8 => self.freezes(&gateways, number).await,
                _ => self.sets_clock(&gateways.clocks[number], "gateway"),
            }
        }
        for clock in gateways.clocks.iter() {
            clock.set(0);
        }
        gateways
    }

    /// Waits for a while, of milliseconds; whether there is time for another fault.
    async fn goes_on(&mut self, pause: std::ops::Range<u64>) -> bool {
        sleep(Duration::from_millis(self.rng.u64(pause))).await;
        Instant::now() < self.ends
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

    fn sets_clock(&mut self, clock: &Clock, whose: &str) {
        let offset_ms = jump(&mut self.rng);
        let way = if offset_ms < 0 { "back" } else { "forth" };
        let name = format!("{whose}'s clock put {way}");
        let fault = self.journal.begins(&name, On::Harmless);
        clock.set(offset_ms);
        self.journal.ends(fault);
    }

    /// What befalls the wires to the upstream.
    pub async fn of_links(mut self, links: Arc<Vec<Relay>>) {
        while self.goes_on(500..3000).await {
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
        while self.goes_on(200..2000).await {
            match self.rng.u8(0..14) {
                0..=3 => self.one_server_far(&cluster).await,
                4 | 5 => self.all_servers_far(&cluster).await,
                6 => self.scripts_flushed(&cluster),
                7 | 8 => {
                    let number = self.rng.usize(0..cluster.clocks.len());
                    self.sets_clock(&cluster.clocks[number], "server");
                }
                9 | 10 => self.primary_killed(&mut cluster).await,
                11 => self.primary_frozen(&cluster).await,
                12 => self.primary_demoted(&cluster).await,
                _ => self.replica_frozen(&cluster).await,
            }
        }
        for clock in &cluster.clocks {
            clock.set(0);
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
        while self.goes_on(1000..5000).await {
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
