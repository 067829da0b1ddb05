//! The only place where the parts are put together: a configuration becomes a running gateway, and ends with a
//! drain.
//!
//! Reading order: [`run`], then `store` (which one, and how it is), `reload` (another configuration), `entrances`
//! (certificates that change), `gauges` and `unresolved` (what metrics say of it all), `signals`, `open_files`.

mod entrances;
mod gauges;
mod open_files;
mod reload;
mod signals;
mod store;
mod unresolved;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::join;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use arc_swap::ArcSwap;

use self::entrances::Entrances;
use self::gauges::{metrics, refresh};
use self::reload::Reloader;
use self::signals::Signals;
pub use self::store::{accept_store, ask_store};
use self::unresolved::Census;
use crate::admin::{Admin, Readiness, Records, RecordsParts};
use crate::config::{Loaded, OperatorsConfig};
use crate::gateway::{Gateway, Parts};
use crate::identity::{IdKeyBytes, Identifier};
use crate::route::{Route, Table};
use crate::server::{BindError, Ending, Inherited, Server};
use crate::store::{ContactError, OpenError, Store};
use crate::telemetry::log::Log;
use crate::telemetry::spans::Spans;
use crate::telemetry::{AccessLog, AuditLog, Metrics, PendingAudit};
use crate::upstream::Upstream;

/// How long the last words of exchanges that a drain cuts short may take to reach the store.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the answers to them may take to reach their clients.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why the gateway could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store's task died.
    #[error("the store could not be opened: {0}")]
    StoreTask(#[from] tokio::task::JoinError),
    /// A shared store is another one than the configuration means.
    #[error(transparent)]
    Contact(ContactError),
    /// A shared store without an id key; the configuration asks for one.
    #[error("a shared store needs an id_key")]
    NoIdKey,
    /// A store that lives and dies with its gateway is never another one.
    #[error("only a store on servers is accepted anew")]
    NotOnServers,
    /// A shared store did not answer.
    #[error("the store does not answer")]
    NoAnswer,
    /// A primary of a shared store has fewer replicas than claims wait for.
    #[error(
        "a primary has {replicas} replicas, and claims wait for {replicas_ack}: they would be refused"
    )]
    FewReplicas {
        /// How many it has.
        replicas: u32,
        /// `store.replicas_ack`.
        replicas_ack: u32,
    },
    /// The system gave no randomness.
    #[error("the system has no source of randomness")]
    Randomness,
    /// A listener cannot begin.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The admin listener's address cannot be bound.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The audit log cannot be written.
    #[error("the audit log {path} cannot be written: {error}")]
    AuditLog {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A socket that was passed to the process is none that it can serve.
    #[error("the sockets passed to the process (LISTEN_FDS) cannot be used: {0}")]
    Inherited(std::io::Error),
    /// Signals cannot be caught.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// Runs a gateway until SIGTERM or SIGINT and the end of its drain; a second signal ends it at once. With the file that
/// the configuration was read from, it is read again when that is asked for.
///
/// # Errors
/// Where it cannot start.
pub async fn run(loaded: Loaded, file: Option<&Path>, log: &Log) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let hangups = signal(SignalKind::hangup()).map_err(Error::Signals)?;
    open_files::raise(&loaded.config);
    let metrics = Arc::new(metrics(&loaded.config));
    metrics.config_loaded.set(reload::now());
    let readiness = Arc::new(Readiness::new(Arc::clone(&metrics.store.health)));
    let running =
        Running::start(loaded, file, metrics, Arc::clone(&readiness), hangups, log).await?;
    signals.next().await;
    tracing::info!("draining; a second signal ends at once");
    readiness.draining();
    tokio::select! {
        () = running.drain() => tracing::info!("drained"),
        () = signals.next() => tracing::warn!("ended before the drain was over"),
    }
    Ok(())
}

/// A gateway at work.
struct Running {
    gateway: Gateway,
    store: Arc<dyn Store>,
    drained: Arc<ArcSwap<Drained>>,
    spans: Spans,
    settling: TaskTracker,
    draining: watch::Sender<Option<Ending>>,
    server: JoinHandle<()>,
}

impl Running {
    async fn start(
        loaded: Loaded,
        file: Option<&Path>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        hangups: Signal,
        log: &Log,
    ) -> Result<Self, Error> {
        let Loaded {
            config,
            effective,
            digest,
            ..
        } = loaded;
        let spans = Spans::from_env();
        let inherited = Inherited::from_env().map_err(Error::Inherited)?;
        let (store, id_key) = store::open(&config.store).await?;
        let upstreams: Vec<(String, Arc<Upstream>)> = config
            .upstreams
            .iter()
            .map(|upstream| (upstream.name.clone(), Upstream::new(upstream)))
            .collect();
        let routes = Table::new(config.routes);
        let listed = routes.routes().to_vec();
        let census = Census::new(Arc::clone(&metrics), &listed);
        let census = Arc::new(ArcSwap::from_pointee(census));
        let gateway = Gateway::new(Parts {
            routes,
            upstreams,
            store: Arc::clone(&store),
            store_timeout: config.store.timeout,
            id_key: id_key.clone(),
            namespace: config.store.namespace.clone(),
            limits: config.limits.clone(),
            problem_base: config.problem_base,
            metrics: Arc::clone(&metrics),
            access_log: AccessLog::new(config.access_log, log),
            spans: spans.clone(),
        });
        let (server, listeners) =
            Server::bind_or_take(&config.listeners, &config.limits, inherited)?;
        let server = server.when_full(&gateway.refusal_when_full());
        let entrances = Entrances::new(listeners.entrances(), &config.listeners, &metrics);
        let refresh = refresh(&gateway, &store, &server, &entrances, log, &metrics);
        let admin = Admin::bind(config.admin, Arc::clone(&metrics), readiness, refresh)
            .await
            .map_err(|error| Error::Bind {
                address: config.admin,
                error,
            })?;
        let settling = TaskTracker::new();
        let desk = Desk {
            store: Arc::clone(&store),
            store_timeout: config.store.timeout,
            id_key,
            namespace: config.store.namespace.clone(),
            gateway: gateway.clone(),
            pending_audit: PendingAudit::default(),
            settling: settling.clone(),
        };
        let drained = Drained::new(config.drain_delay, config.drain_timeout);
        let drained = Arc::new(ArcSwap::from_pointee(drained));
        let records = config
            .operators
            .map(|operators| desk.records(operators, listed, &metrics, log))
            .transpose()?;
        admin.records().store(records.map(Arc::new));
        for address in listeners.addresses() {
            tracing::info!(%address, "listening");
        }
        if let Ok(address) = admin.local_address() {
            tracing::info!(%address, "admin listening");
        }
        if let Some(file) = file {
            let reloader = Reloader {
                file: file.to_owned(),
                every: config.reload_every,
                seen: Some(digest),
                in_force: effective,
                store: config.store,
                upstreams: config.upstreams,
                gateway: gateway.clone(),
                server: server.counters(),
                listeners,
                entrances: Arc::clone(&entrances),
                drained: Arc::clone(&drained),
                desk,
                records: admin.records(),
                census: Arc::clone(&census),
                metrics: Arc::clone(&metrics),
                log: log.clone(),
            };
            let hangups = signal(SignalKind::hangup()).map_err(Error::Signals)?;
            tokio::spawn(reloader.watch(hangups));
        }
        tokio::spawn(admin.serve());
        tokio::spawn(entrances.watch(hangups));
        let health = Arc::clone(&metrics.store.health);
        tokio::spawn(store::watch(gateway.clone(), census, health));
        let follower = gateway.clone();
        tokio::spawn(async move { follower.follow_epoch().await });
        let prober = gateway.clone();
        tokio::spawn(async move { prober.probe_unresolved().await });
        let (draining, drain) = watch::channel(None);
        let server = tokio::spawn(server.run(gateway.clone(), drain));
        Ok(Self {
            gateway,
            store,
            drained,
            spans,
            settling,
            draining,
            server,
        })
    }

    /// Takes no new connections after a moment, lets exchanges end, and settles what does not end in time: what is
    /// provably unsent is released, the rest is marked unknown.
    async fn drain(mut self) {
        let drained = self.drained.load();
        let deadline = Instant::now() + drained.timeout;
        let gone = drained.now();
        let ending = Ending {
            // Whoever sends connections may not have heard yet.
            accepts_until: gone.idle_until,
            ..gone
        };
        self.draining.send_replace(Some(ending));
        let in_time = async {
            let _ = (&mut self.server).await;
            self.gateway.finished().await;
            self.finish_settling().await;
        };
        if timeout_at(deadline, in_time).await.is_err() {
            tracing::warn!("the drain takes too long; what is under way is cut short");
            self.gateway.cut_short();
            let last_words = async { join!(self.gateway.finished(), self.finish_settling()) };
            if timeout(LAST_WORDS, last_words).await.is_err() {
                tracing::error!("not everything was settled; open claims will read as unknown");
                if !self.settling.is_empty() {
                    tracing::error!(
                        "what an operator settled last may lack its line in the audit log"
                    );
                }
            }
            // The answers are on their way to the clients; what only passes through is cut off.
            let deadline = Instant::now() + LAST_ANSWERS;
            self.draining
                .send_replace(Some(Ending { deadline, ..ending }));
            // A handle must not be asked again after its end.
            if !self.server.is_finished() {
                let _ = (&mut self.server).await;
            }
        }
        self.store.close().await;
        self.spans.finish().await;
    }

    /// Lets operators settle nothing more, and waits for what they have begun: the audit log is to say who did it.
    async fn finish_settling(&self) {
        self.settling.close();
        if !self.settling.is_empty() {
            tracing::info!("waiting for what an operator settles at this moment");
            self.settling.wait().await;
        }
    }
}

/// How long what ends may take.
#[derive(Clone, Copy)]
struct Drained {
    /// `drain_delay`
    delay: Duration,
    /// `drain_timeout`
    timeout: Duration,
}

impl Drained {
    fn new(delay: Duration, timeout: Duration) -> Self {
        Self { delay, timeout }
    }

    /// The ending of whatever begins to end now, and takes no new connections.
    fn now(self) -> Ending {
        let now = Instant::now();
        Ending {
            accepts_until: now,
            idle_until: now + self.delay.min(self.timeout),
            deadline: now + self.timeout + LAST_WORDS,
        }
    }
}

/// What the pages about records are made of, whatever routes and operators there are.
struct Desk {
    store: Arc<dyn Store>,
    store_timeout: Duration,
    id_key: IdKeyBytes,
    namespace: String,
    gateway: Gateway,
    pending_audit: PendingAudit,
    settling: TaskTracker,
}

impl Desk {
    fn records(
        &self,
        operators: OperatorsConfig,
        routes: Vec<Arc<Route>>,
        metrics: &Arc<Metrics>,
        log: &Log,
    ) -> Result<Records, Error> {
        let audit = audit_log(&operators, log, &self.pending_audit)?;
        let forgetful = self.gateway.clone();
        Ok(Records::new(RecordsParts {
            token: operators.token,
            store: Arc::clone(&self.store),
            store_timeout: self.store_timeout,
            routes,
            identifier: Identifier::new(&self.id_key, &self.namespace),
            metrics: Arc::clone(metrics),
            audit,
            forgotten: Arc::new(move |id| forgetful.forget(id)),
            settling: self.settling.clone(),
        }))
    }
}

/// Where operators' words are written down.
fn audit_log(
    operators: &OperatorsConfig,
    log: &Log,
    pending: &PendingAudit,
) -> Result<AuditLog, Error> {
    match &operators.audit_log {
        None => Ok(AuditLog::among(log, pending)),
        Some(path) => AuditLog::in_file(path, pending).map_err(|error| Error::AuditLog {
            path: absolute(path),
            error,
        }),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
