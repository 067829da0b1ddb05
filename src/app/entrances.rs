//! What listeners do before HTTP, between the server, which does it, and those who look after it: metrics, and
//! certificates that change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::ListenerConfig;
use crate::server::{Change, Entrance, HandshakeFailure, ProxyFailure, Tls};
use crate::telemetry::{
    Metrics, MirroredCounter, PerLabel, ProxyRefused, Reload, TlsFailed, TlsMetrics,
};

/// How often the files of certificates are looked at. Whoever renews them does so days before they end.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long files have to stay as they are before they are judged: certificate and key are written one after the other.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// All listeners.
pub struct Entrances(ArcSwap<Watched>);

/// Those of one configuration.
#[derive(Default)]
struct Watched {
    encrypted: Vec<Arc<Encrypted>>,
    proxied: Vec<Arc<Proxied>>,
}

/// One that speaks TLS.
struct Encrypted {
    entrance: Arc<Entrance>,
    tls: Arc<Tls>,
    files: Vec<String>,
    metrics: TlsMetrics,
    /// What its files were when they were looked at last.
    last_look: Mutex<Option<[u8; 32]>>,
}

/// One that requires PROXY headers.
struct Proxied {
    entrance: Arc<Entrance>,
    metrics: PerLabel<ProxyRefused, MirroredCounter>,
}

impl Entrances {
    /// Makes the metrics of these listeners.
    pub fn new(
        entrances: Vec<Arc<Entrance>>,
        configs: &[ListenerConfig],
        metrics: &Metrics,
    ) -> Arc<Self> {
        let watched = Watched::default().followed_by(entrances, configs, metrics);
        Arc::new(Self(ArcSwap::from_pointee(watched)))
    }

    /// The same where they were others before.
    pub fn change(
        &self,
        entrances: Vec<Arc<Entrance>>,
        configs: &[ListenerConfig],
        metrics: &Metrics,
    ) {
        // What has been counted until now is told by those who are leaving.
        self.mirror();
        let before = self.0.load();
        self.0
            .store(Arc::new(before.followed_by(entrances, configs, metrics)));
    }

    /// Sets the counters that mirror what listeners count; for each scrape.
    pub fn mirror(&self) {
        let watched = self.0.load();
        for Encrypted { tls, metrics, .. } in watched.encrypted.iter().map(AsRef::as_ref) {
            for (failure, count) in HandshakeFailure::ALL.into_iter().zip(tls.failures()) {
                metrics.handshakes_failed.of(failed(failure)).mirror(count);
            }
        }
        for Proxied { entrance, metrics } in watched.proxied.iter().map(AsRef::as_ref) {
            for (failure, count) in ProxyFailure::ALL.into_iter().zip(entrance.proxy_failures()) {
                metrics.of(refused(failure)).mirror(count);
            }
        }
    }

    /// Uses certificates that have changed, from time to time and whenever the process is told to. For ever.
    pub async fn watch(self: Arc<Self>, mut hangups: Signal) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_told = tokio::select! {
                _ = ticks.tick() => false,
                _ = hangups.recv() => true,
            };
            if is_told && !self.0.load().encrypted.is_empty() {
                tracing::info!("looking at the certificates of listeners, as SIGHUP asks");
            }
            self.look().await;
            sleep(SETTLED_AFTER).await;
            self.look().await;
        }
    }

    /// One look at all files.
    async fn look(&self) {
        let watched = self.0.load_full();
        if watched.encrypted.is_empty() {
            return;
        }
        // A look that fails has seen nothing.
        let _ = spawn_blocking(move || watched.encrypted.iter().for_each(|one| one.look())).await;
    }
}

impl Watched {
    /// Those of the next configuration, of which some may be the same.
    fn followed_by(
        &self,
        entrances: Vec<Arc<Entrance>>,
        configs: &[ListenerConfig],
        metrics: &Metrics,
    ) -> Self {
        let mut next = Self::default();
        for (entrance, config) in entrances.into_iter().zip(configs) {
            let listener = entrance.address().to_string();
            if let (Some(tls), Some(files)) = (entrance.tls(), &config.tls) {
                let is_same = |one: &&Arc<Encrypted>| Arc::ptr_eq(&one.entrance, &entrance);
                let encrypted = match self.encrypted.iter().find(is_same) {
                    Some(same) => Arc::clone(same),
                    None => {
                        let files = files
                            .files()
                            .map(|file| file.to_string_lossy().into_owned());
                        let files: Vec<String> = files.collect();
                        let names: Vec<&str> = files.iter().map(String::as_str).collect();
                        let encrypted = Encrypted {
                            metrics: metrics.listeners.tls(&listener, &names),
                            entrance: Arc::clone(&entrance),
                            tls: Arc::clone(tls),
                            last_look: Mutex::default(),
                            files,
                        };
                        show_expiries(tls, &encrypted.metrics);
                        Arc::new(encrypted)
                    }
                };
                next.encrypted.push(encrypted);
            }
            if entrance.requires_proxy_header() {
                let is_same = |one: &&Arc<Proxied>| Arc::ptr_eq(&one.entrance, &entrance);
                let proxied = match self.proxied.iter().find(is_same) {
                    Some(same) => Arc::clone(same),
                    None => Arc::new(Proxied {
                        metrics: metrics.listeners.proxy_protocol(&listener),
                        entrance,
                    }),
                };
                next.proxied.push(proxied);
            }
        }
        // Nobody is to be alarmed by a certificate that is not in use any more.
        for gone in &self.encrypted {
            let address = gone.entrance.address();
            let is_used = |file: &String| {
                let mut uses = next.encrypted.iter();
                uses.any(|one| one.entrance.address() == address && one.files.contains(file))
            };
            for file in gone.files.iter().filter(|file| !is_used(file)) {
                let listener = address.to_string();
                metrics.listeners.forget_expiry(&listener, file);
            }
        }
        next
    }
}

impl Encrypted {
    fn look(&self) {
        let mut last_look = self
            .last_look
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let change = self.tls.look(&mut last_look);
        note(&self.entrance, change, &self.tls, &self.metrics);
    }
}

fn note(entrance: &Entrance, change: Change, tls: &Tls, metrics: &TlsMetrics) {
    let listener = entrance.address();
    match change {
        Change::None => {}
        Change::Used => {
            metrics.reloads.inc(Reload::Done);
            show_expiries(tls, metrics);
            tracing::info!(%listener, "the listener's certificates have changed, and are in use");
        }
        Change::Refused(error) => {
            metrics.reloads.inc(Reload::Failed);
            tracing::error!(
                %listener, %error,
                "the listener's certificates have changed and cannot be used; those in use stay",
            );
        }
    }
}

fn show_expiries(tls: &Tls, metrics: &TlsMetrics) {
    for (gauge, expiry) in metrics.expiries.iter().zip(tls.expiry_timestamps_seconds()) {
        gauge.set(expiry);
    }
}

/// What metrics call a failure by.
fn failed(failure: HandshakeFailure) -> TlsFailed {
    match failure {
        HandshakeFailure::TimedOut => TlsFailed::TimedOut,
        HandshakeFailure::ClientGone => TlsFailed::ClientGone,
        HandshakeFailure::RefusedByClient => TlsFailed::RefusedByClient,
        HandshakeFailure::ClientCertificate => TlsFailed::ClientCertificate,
        HandshakeFailure::Incompatible => TlsFailed::Incompatible,
        HandshakeFailure::Invalid => TlsFailed::Invalid,
        HandshakeFailure::Overloaded => TlsFailed::Overloaded,
    }
}

fn refused(failure: ProxyFailure) -> ProxyRefused {
    match failure {
        ProxyFailure::Untrusted => ProxyRefused::Untrusted,
        ProxyFailure::Invalid => ProxyRefused::Invalid,
    }
}
