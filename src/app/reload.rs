//! A configuration that changes while the gateway runs: read whole, and in force at once or not at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::entrances::Entrances;
use super::gauges::set_limits;
use super::unresolved::Census;
use super::{Desk, Drained, Error, open_files};
use crate::admin::Records;
use crate::config::{Config, Effective, Faults, Loaded, StoreConfig, UpstreamConfig};
use crate::gateway::{Changed, Gateway};
use crate::route::Table;
use crate::server::{BindError, Counters, Listeners};
use crate::telemetry::log::Log;
use crate::telemetry::{AccessLog, Metrics, Reload};
use crate::upstream::Upstream;

/// How long a file has to stay as it is before it is judged: half of one may be a configuration, too.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Faults that one line of the log names.
const FAULTS_SAID: usize = 10;

/// What only a start reads: sections, and settings at the top.
const FIXED: [&str; 2] = ["store", "admin.address"];

/// Reads the file again, and puts it in force.
pub struct Reloader {
    pub file: PathBuf,
    /// How often it is looked at; `None`: when the process is told to.
    pub every: Option<Duration>,
    /// What was read last, whatever became of it.
    pub seen: Option<[u8; 32]>,
    pub in_force: Effective,
    pub store: StoreConfig,
    pub upstreams: Vec<UpstreamConfig>,
    pub gateway: Gateway,
    pub server: Counters,
    pub listeners: Listeners,
    pub entrances: Arc<Entrances>,
    /// How long whatever ends may take: a listener that is there no more as well as the process.
    pub drained: Arc<ArcSwap<Drained>>,
    pub desk: Desk,
    pub records: Arc<ArcSwapOption<Records>>,
    pub census: Arc<ArcSwap<Census>>,
    pub metrics: Arc<Metrics>,
    pub log: Log,
}

/// Why what is in force stays.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{}", in_a_line(.0))]
    Faults(#[from] Faults),
    #[error("only a restart can change {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    #[error(transparent)]
    Parts(#[from] Error),
    #[error(transparent)]
    Listen(#[from] BindError),
    #[error("it could not be read: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Reloader {
    /// Reloads whenever the process is told to, or the file changes. For ever.
    pub async fn watch(mut self, mut hangups: Signal) {
        loop {
            let every = self.every;
            let is_told = tokio::select! {
                _ = hangups.recv() => true,
                () = sleep(every.unwrap_or_default()), if every.is_some() => false,
            };
            let found = self.look().await;
            if !is_told {
                if found == self.seen {
                    continue;
                }
                sleep(SETTLED_AFTER).await;
                if self.look().await != found {
                    continue;
                }
            }
            self.seen = found;
            match self.reload().await {
                Ok(()) => {
                    self.metrics.config_reloads.inc(Reload::Done);
                    self.metrics.config_loaded.set(now());
                    tracing::info!(file = %self.file.display(), "the configuration was read again, and is in force");
                }
                Err(error) => {
                    self.metrics.config_reloads.inc(Reload::Failed);
                    tracing::error!(
                        file = %self.file.display(), %error,
                        "the configuration was read again and cannot be used; the one in force stays",
                    );
                }
            }
        }
    }

    async fn look(&self) -> Option<[u8; 32]> {
        let file = self.file.clone();
        spawn_blocking(move || Config::digest(&file)).await.ok()?
    }

    async fn reload(&mut self) -> Result<(), Refused> {
        let file = self.file.clone();
        let loaded = spawn_blocking(move || Config::load(&file)).await??;
        let needing = self.fixed(&loaded);
        if !needing.is_empty() {
            return Err(Refused::NeedsRestart(needing));
        }
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        open_files::raise(&loaded.config);
        self.put_in_force(loaded).await
    }

    /// The settings that have changed and that only a start reads.
    fn fixed(&self, loaded: &Loaded) -> Vec<String> {
        let is_fixed = |path: &String| {
            FIXED.iter().any(|fixed| {
                let rest = path.strip_prefix(fixed);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
        };
        let changed = self.in_force.differences(&loaded.effective);
        let mut changed: Vec<String> = changed.into_iter().filter(is_fixed).collect();
        // What secrets are stands in no file.
        let (now, then) = (&loaded.config.store, &self.store);
        let secrets = [
            ("store.url", now.location == then.location),
            (
                "store.id_key",
                now.id_key.as_ref().map(|key| key.0) == then.id_key.as_ref().map(|key| key.0),
            ),
            (
                "store.encryption_keys",
                now.encryption_keys == then.encryption_keys,
            ),
        ];
        for (name, is_same) in secrets {
            let is_said = changed.iter().any(|path| path.starts_with("store."));
            if !is_same && !is_said {
                changed.push(name.to_owned());
            }
        }
        changed
    }

    /// Everything that can fail comes before the first change.
    async fn put_in_force(&mut self, loaded: Loaded) -> Result<(), Refused> {
        let Loaded {
            config, effective, ..
        } = loaded;
        let names: Vec<&str> = config.upstreams.iter().map(|u| u.name.as_str()).collect();
        let routes: Vec<&str> = config.routes.iter().map(|r| r.name.as_str()).collect();
        let metrics = Arc::new(self.metrics.reloaded(&routes, &names));
        let upstreams = self.upstreams(&config.upstreams);
        let table = Table::new(config.routes);
        let listed = table.routes().to_vec();
        let operators = config.operators;
        let records = operators
            .map(|operators| {
                self.desk
                    .records(operators, listed.clone(), &metrics, &self.log)
            })
            .transpose()?;
        let listeners = self.listeners.prepare(&config.listeners)?;
        set_limits(&metrics, &config.limits, &config.upstreams);
        self.gateway.change(Changed {
            routes: table,
            upstreams,
            limits: config.limits.clone(),
            problem_base: config.problem_base,
            metrics: Arc::clone(&metrics),
            access_log: AccessLog::new(config.access_log, &self.log),
        });
        self.server.set_limits(&config.limits);
        self.server.when_full(&self.gateway.refusal_when_full());
        // Those who come by them are served by all of the above.
        let drained = Drained::new(config.drain_delay, config.drain_timeout);
        self.drained.store(Arc::new(drained));
        self.listeners.change(listeners, drained.now()).await;
        let entrances = self.listeners.entrances();
        self.entrances
            .change(entrances, &config.listeners, &metrics);
        self.records.store(records.map(Arc::new));
        let census = Census::new(Arc::clone(&metrics), &listed);
        self.census.store(Arc::new(census));
        self.say_gone(&config.upstreams);
        self.metrics = metrics;
        self.upstreams = config.upstreams;
        self.store = config.store;
        self.every = config.reload_every;
        self.in_force = effective;
        Ok(())
    }

    /// The upstreams in force; one that has not changed keeps its connections, and its bound.
    fn upstreams(&self, configs: &[UpstreamConfig]) -> Vec<(String, Arc<Upstream>)> {
        let running = self.gateway.upstreams();
        let upstream = |config: &UpstreamConfig| {
            let same = self.upstreams.contains(config);
            let kept = running
                .iter()
                .find(|(name, _)| same && *name == config.name);
            let upstream = match kept {
                Some((_, kept)) => Arc::clone(kept),
                None => Upstream::new(config),
            };
            (config.name.clone(), upstream)
        };
        configs.iter().map(upstream).collect()
    }

    /// Nothing more is mirrored of upstreams that are gone.
    fn say_gone(&self, configs: &[UpstreamConfig]) {
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let stays = configs.iter().find(|config| config.name == upstream.name);
            for endpoint in &upstream.endpoints {
                if !stays.is_some_and(|config| config.endpoints.contains(endpoint)) {
                    let endpoint = endpoint.to_string();
                    self.metrics.endpoints.of(&upstream.name, &endpoint).leave();
                }
            }
            if !configs.iter().any(|config| config.name == upstream.name) {
                let gone = self.metrics.upstream(index);
                for gauge in [&gone.connections, &gone.connections_idle, &gone.in_flight] {
                    gauge.set(0);
                }
            }
        }
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs()
}

fn in_a_line(faults: &Faults) -> String {
    let said: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
    match said.get(FAULTS_SAID..) {
        Some(more @ [_, ..]) => {
            format!(
                "{}; and {} more",
                said[..FAULTS_SAID].join("; "),
                more.len()
            )
        }
        _ => said.join("; "),
    }
}
