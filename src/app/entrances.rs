//! What listeners do before HTTP, between the server, which does it, and those who look after it: metrics, and
//! certificates that change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::ListenerConfig;
use crate::server::{Change, Entrance, HandshakeFailure, ProxyFailure, Server, Tls};
use crate::telemetry::{
    Metrics, MirroredCounter, PerLabel, ProxyRefused, Reload, TlsFailed, TlsMetrics,
};

/// How often the files of certificates are looked at. Whoever renews them does so days before they end.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long files have to stay as they are before they are judged: certificate and key are written one after the other.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// All listeners.
pub struct Entrances {
    tls: Vec<(Arc<Entrance>, Arc<Tls>, TlsMetrics)>,
    proxy: Vec<(Arc<Entrance>, PerLabel<ProxyRefused, MirroredCounter>)>,
}

impl Entrances {
    /// Makes the metrics of these listeners.
    pub fn new(server: &Server, configs: &[ListenerConfig], metrics: &Metrics) -> Arc<Self> {
        let (mut encrypted, mut proxy) = (Vec::new(), Vec::new());
        for (entrance, config) in server.entrances().into_iter().zip(configs) {
            let listener = entrance.address().to_string();
            if let (Some(tls), Some(files)) = (entrance.tls(), &config.tls) {
                let files: Vec<_> = files.files().map(Path::to_string_lossy).collect();
                let files: Vec<&str> = files.iter().map(AsRef::as_ref).collect();
                let metrics = metrics.listeners.tls(&listener, &files);
                show_expiries(tls, &metrics);
                encrypted.push((Arc::clone(&entrance), Arc::clone(tls), metrics));
            }
            if entrance.requires_proxy_header() {
                let metrics = metrics.listeners.proxy_protocol(&listener);
                proxy.push((entrance, metrics));
            }
        }
        Arc::new(Self {
            tls: encrypted,
            proxy,
        })
    }

    /// Sets the counters that mirror what listeners count; for each scrape.
    pub fn mirror(&self) {
        for (_, tls, metrics) in &self.tls {
            for (failure, count) in HandshakeFailure::ALL.into_iter().zip(tls.failures()) {
                metrics.handshakes_failed.of(failed(failure)).mirror(count);
            }
        }
        for (entrance, metrics) in &self.proxy {
            for (failure, count) in ProxyFailure::ALL.into_iter().zip(entrance.proxy_failures()) {
                metrics.of(refused(failure)).mirror(count);
            }
        }
    }

    /// Uses certificates that have changed, from time to time and whenever the process is told to. For ever.
    pub async fn watch(self: Arc<Self>, mut hangups: Signal) {
        let mut looks = vec![None; self.tls.len()];
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_told = tokio::select! {
                _ = ticks.tick() => false,
                _ = hangups.recv() => true,
            };
            if is_told {
                tracing::info!("looking at the certificates of listeners, as SIGHUP asks");
            }
            looks = Arc::clone(&self).look(looks).await;
            sleep(SETTLED_AFTER).await;
            looks = Arc::clone(&self).look(looks).await;
        }
    }

    /// One look at all files.
    async fn look(self: Arc<Self>, mut looks: Vec<Option<[u8; 32]>>) -> Vec<Option<[u8; 32]>> {
        if self.tls.is_empty() {
            return looks;
        }
        let unseen = vec![None; looks.len()];
        let looked = spawn_blocking(move || {
            for ((entrance, tls, metrics), last_look) in self.tls.iter().zip(&mut looks) {
                note(entrance, tls.look(last_look), tls, metrics);
            }
            looks
        });
        // A look that fails has seen nothing.
        looked.await.unwrap_or(unseen)
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
