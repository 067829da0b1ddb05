//! The only place where the parts are put together: a configuration becomes a running gateway, and ends with a
//! drain.

mod entrances;
mod open_files;
mod reload;
mod unresolved;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use arc_swap::ArcSwap;

use self::entrances::Entrances;
use self::reload::Reloader;
use self::unresolved::Census;
use crate::admin::{Admin, Readiness, Records, RecordsParts};
use crate::config::{
    Config, EncryptionKey, Limits, Loaded, OperatorsConfig, RedisConfig, StoreConfig,
    StoreLocation, UpstreamConfig,
};
use crate::gateway::{Gateway, Parts};
use crate::identity::{IdKeyBytes, Identifier};
use crate::route::{Route, Table};
use crate::server::{BindError, Ending, Inherited, Limit, Refused, Server};
use crate::store::{
    Accepted, ContactError, Embedded, Found, Inspected, Memory, OpenError, Redis, Sealing,
    SealingKey, Store, Time, system_clock,
};
use crate::telemetry::log::Log;
use crate::telemetry::spans::Spans;
use crate::telemetry::{AccessLog, AuditLog, ConnectionRefused, LimitOver, Metrics, StoreHealth};
use crate::upstream::Upstream;

/// How often the store is asked whether it is there, until it was there once.
const FIRST_PINGS_EVERY: Duration = Duration::from_millis(200);
/// How long a start waits for a store on servers, to hear whether it is the right one.
const FIRST_CONTACT: Duration = Duration::from_secs(3);
/// How often after that.
const PINGS_EVERY: Duration = Duration::from_secs(5);
/// How long the last words of exchanges that a drain cuts short may take to reach the store.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the answers to them may take to reach their clients.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What the kernel says to a process whose file grows beyond its limit (Linux).
const SIGXFSZ: i32 = 25;

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
        let (store, id_key) = open(&config.store).await?;
        let store = sealed(store, &config.store.encryption_keys);
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
        let desk = Desk {
            store: Arc::clone(&store),
            store_timeout: config.store.timeout,
            id_key,
            namespace: config.store.namespace.clone(),
            gateway: gateway.clone(),
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
        tokio::spawn(watch_store(gateway.clone(), census, health));
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
        };
        if timeout_at(deadline, in_time).await.is_err() {
            tracing::warn!("the drain takes too long; what is under way is cut short");
            self.gateway.cut_short();
            if timeout(LAST_WORDS, self.gateway.finished()).await.is_err() {
                tracing::error!("not everything was settled; open claims will read as unknown");
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
}

impl Desk {
    fn records(
        &self,
        operators: OperatorsConfig,
        routes: Vec<Arc<Route>>,
        metrics: &Arc<Metrics>,
        log: &Log,
    ) -> Result<Records, Error> {
        let audit = audit_log(&operators, log)?;
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
        }))
    }
}

async fn open(config: &StoreConfig) -> Result<(Arc<dyn Store>, IdKeyBytes), Error> {
    match &config.location {
        StoreLocation::Memory => {
            let id_key = match &config.id_key {
                Some(id_key) => id_key.clone(),
                None => random_id_key()?,
            };
            tracing::info!("records are kept in memory, for as long as this process lives");
            let store = Memory::new(config.max_size, system_clock());
            Ok((Arc::new(store), id_key))
        }
        StoreLocation::Embedded(path) => {
            let (path, max_size) = (absolute(path), config.max_size);
            let id_key = config.id_key.as_ref().map(|id_key| id_key.0);
            let opened = path.clone();
            let (store, id_key) = tokio::task::spawn_blocking(move || {
                Embedded::open(&opened, id_key, max_size, system_clock())
            })
            .await??;
            tracing::info!(
                path = %path.display(),
                "records are kept in a file; an embedded store serves a single process",
            );
            say_found(store.found());
            Ok((Arc::new(store), IdKeyBytes(id_key)))
        }
        StoreLocation::Redis(redis) => shared(config, redis).await,
    }
}

/// A store on servers. Where they do not answer the gateway starts all the same, and is ready once they do; where they
/// answer that this is not the store that the configuration means, it does not start.
async fn shared(
    config: &StoreConfig,
    redis: &RedisConfig,
) -> Result<(Arc<dyn Store>, IdKeyBytes), Error> {
    let (store, id_key) = on_servers(config, redis)?;
    let first = async {
        loop {
            match store.contact().await {
                Err(ContactError::Store(error)) => tracing::debug!(%error, "no contact yet"),
                contact => break contact,
            }
            sleep(FIRST_PINGS_EVERY).await;
        }
    };
    match timeout(FIRST_CONTACT, first).await {
        Ok(Ok(())) => store.warn().await,
        Ok(Err(error @ ContactError::OtherIdKey)) => return Err(Error::Contact(error)),
        Ok(Err(error)) => tracing::error!(%error, "the store cannot be used as it is"),
        Err(_) => tracing::warn!("the store does not answer yet"),
    }
    let namespace = &config.namespace;
    tracing::info!(
        namespace,
        "records are kept on servers, which gateways may share"
    );
    Ok((Arc::new(store), id_key))
}

fn on_servers(config: &StoreConfig, redis: &RedisConfig) -> Result<(Redis, IdKeyBytes), Error> {
    let id_key = config.id_key.clone().ok_or(Error::NoIdKey)?;
    // Where there is one already it is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (namespace, timeout) = (&config.namespace, config.timeout);
    let store = Redis::new(redis, namespace, &id_key, timeout, Time::Server);
    Ok((store, id_key))
}

/// Accepts a store on servers as it is, after it lost records.
///
/// # Errors
/// Where it is no such store, or cannot be asked.
pub async fn accept_store(config: &StoreConfig) -> Result<Accepted, Error> {
    let StoreLocation::Redis(redis) = &config.location else {
        return Err(Error::NotOnServers);
    };
    let (store, _) = on_servers(config, redis)?;
    let accepting = timeout(FIRST_CONTACT, store.accept()).await;
    accepting
        .map_err(|_| Error::NoAnswer)?
        .map_err(Error::Contact)
}

/// Asks a store on servers whether it is the one that the configuration means, and what there is to say of it; of other
/// stores there is nothing to ask.
///
/// # Errors
/// Why it is not.
pub async fn ask_store(config: &StoreConfig) -> Result<Inspected, Error> {
    let StoreLocation::Redis(redis) = &config.location else {
        return Ok(Inspected::default());
    };
    let (store, _) = on_servers(config, redis)?;
    let asking = async {
        let inspected = store.inspect().await?;
        // Who lacks rights may not be able to count.
        let few = match inspected.missing.is_empty() {
            true => store.missing_replicas().await?,
            false => None,
        };
        Ok((inspected, few))
    };
    let asked = timeout(FIRST_CONTACT, asking).await;
    match asked
        .map_err(|_| Error::NoAnswer)?
        .map_err(Error::Contact)?
    {
        (inspected, None) => Ok(inspected),
        (_, Some(replicas)) => Err(Error::FewReplicas {
            replicas,
            replicas_ack: redis.replicas_ack,
        }),
    }
}

/// Where operators' words are written down.
fn audit_log(operators: &OperatorsConfig, log: &Log) -> Result<AuditLog, Error> {
    match &operators.audit_log {
        None => Ok(AuditLog::among(log)),
        Some(path) => AuditLog::in_file(path).map_err(|error| Error::AuditLog {
            path: absolute(path),
            error,
        }),
    }
}

/// The store, with its responses encrypted at rest where there is a key to do it with.
fn sealed(store: Arc<dyn Store>, keys: &[EncryptionKey]) -> Arc<dyn Store> {
    if keys.is_empty() {
        return store;
    }
    let keys: Vec<_> = keys
        .iter()
        .map(|key| SealingKey {
            id: key.id.clone(),
            bytes: key.bytes,
        })
        .collect();
    tracing::info!(key = keys[0].id, "recorded responses are encrypted at rest");
    Arc::new(Sealing::new(store, &keys))
}

/// What the last run left without a final outcome.
fn say_found(Found { claims, unknown }: Found) {
    if claims > 0 || unknown > 0 {
        tracing::warn!(
            claims,
            unknown,
            "the store holds operations without a known outcome; claims were open when it was used last, and read as \
             unknown once a lease is over",
        );
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn random_id_key() -> Result<IdKeyBytes, Error> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Randomness)?;
    Ok(IdKeyBytes(bytes))
}

fn metrics(config: &Config) -> Metrics {
    let routes: Vec<&str> = config.routes.iter().map(|r| r.name.as_str()).collect();
    let upstreams: Vec<&str> = config.upstreams.iter().map(|u| u.name.as_str()).collect();
    let metrics = Metrics::new(&routes, &upstreams);
    metrics.store.limit_bytes.set(config.store.max_size);
    set_limits(&metrics, &config.limits, &config.upstreams);
    metrics
}

fn set_limits(metrics: &Metrics, limits: &Limits, upstreams: &[UpstreamConfig]) {
    metrics.connections_limit.set(limits.max_connections as u64);
    for (index, upstream) in upstreams.iter().enumerate() {
        let limit = &metrics.upstream(index).in_flight_limit;
        limit.set(upstream.max_in_flight as u64);
    }
}

/// Sets the gauges that mirror what other parts hold; called before each scrape.
fn refresh(
    gateway: &Gateway,
    store: &Arc<dyn Store>,
    server: &Server,
    entrances: &Arc<Entrances>,
    log: &Log,
    metrics: &Arc<Metrics>,
) -> crate::admin::Refresh {
    let (gateway, store, metrics) = (gateway.clone(), Arc::clone(store), Arc::clone(metrics));
    let (server, log) = (server.counters(), log.clone());
    let entrances = Arc::clone(entrances);
    Arc::new(move || {
        gateway.mirror();
        let usage = store.usage();
        metrics.store.records.set(usage.records);
        metrics.store.bytes.set(usage.bytes);
        metrics.store.limit_bytes.set(usage.limit_bytes);
        metrics.store.aged_out.mirror(usage.aged_out);
        let stats = server.snapshot();
        metrics.connections.set(stats.connections);
        metrics.connections_total.mirror(stats.accepted);
        for (reason, refused) in Refused::ALL.into_iter().zip(stats.refused) {
            let reason = match reason {
                Refused::Full => ConnectionRefused::MaxConnections,
                Refused::Address => ConnectionRefused::MaxConnectionsPerAddress,
            };
            metrics.connections_refused.of(reason).mirror(refused);
        }
        for (limit, closed) in Limit::ALL.into_iter().zip(stats.closed) {
            metrics.client_timeouts.of(limit_over(limit)).mirror(closed);
        }
        metrics.http2_floods.mirror(stats.floods);
        entrances.mirror();
        metrics.log_lines_dropped.mirror(log.dropped());
    })
}

/// What metrics call a limit by.
fn limit_over(limit: Limit) -> LimitOver {
    match limit {
        Limit::FirstByte => LimitOver::FirstByte,
        Limit::Headers => LimitOver::Headers,
        Limit::BodyIdle => LimitOver::BodyIdle,
        Limit::MinReceiveRate => LimitOver::MinReceiveRate,
        Limit::MinSendRate => LimitOver::MinSendRate,
        Limit::KeepAlive => LimitOver::KeepAlive,
        Limit::TunnelIdle => LimitOver::TunnelIdle,
    }
}

/// Asks the store from time to time, so that readiness, `store_up` and what is unresolved are true without traffic,
/// too. What requests hear of the store counts as well.
async fn watch_store(gateway: Gateway, census: Arc<ArcSwap<Census>>, health: Arc<StoreHealth>) {
    let mut counting = census.load_full();
    loop {
        let in_force = census.load_full();
        if !Arc::ptr_eq(&in_force, &counting) {
            // What is counted anew is set anew, and the rest is gone.
            counting.end();
            counting = in_force;
        }
        // What it says is heard by the health itself.
        if gateway.ping_store().await.is_ok() {
            let _ = counting.take(&gateway).await;
        }
        sleep(match health.was_contacted() {
            true => PINGS_EVERY,
            false => FIRST_PINGS_EVERY,
        })
        .await;
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        // With a handler, a write beyond the process's limit of file sizes fails as one to a full disk does; without
        // one it would be the end of the process. Nobody need wait for it.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
