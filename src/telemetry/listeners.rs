//! The metrics of listeners that do more than listen: TLS and PROXY headers. Each is addressed by its address as it is
//! configured.

use super::instrument::{
    Counter, CounterFamily, Gauge, GaugeFamily, MirroredCounter, PerLabel, Registrar,
};
use super::label::{ProxyRefused, Reload, TlsFailed};

/// Makes the series of listeners, once these are known; they exist with value 0 from then on.
#[derive(Debug)]
pub struct ListenerMetrics {
    expiries: GaugeFamily,
    reloads: CounterFamily,
    handshakes_failed: CounterFamily,
    proxy_refused: CounterFamily,
}

/// The metrics of TLS on one listener.
#[derive(Debug)]
pub struct TlsMetrics {
    /// Set: when each certificate ends, in seconds since the Unix epoch; in the order of the configuration.
    pub expiries: Box<[Gauge]>,
    /// What became of changed files.
    pub reloads: PerLabel<Reload, Counter>,
    /// Mirror: handshakes that came to nothing.
    pub handshakes_failed: PerLabel<TlsFailed, MirroredCounter>,
}

impl ListenerMetrics {
    pub(super) fn register(registrar: &Registrar<'_>) -> Self {
        Self {
            expiries: registrar.gauge_family(
                "oncegate_tls_certificate_expiry_timestamp_seconds",
                &["listener", "certificate"],
                "When the certificate in use ends, in seconds since the Unix epoch; certificate is its file.",
            ),
            reloads: registrar.counter_family(
                "oncegate_tls_reloads_total",
                &["listener", "result"],
                "Changes of a listener's certificates, keys or authorities; failed: what was in use still is.",
            ),
            handshakes_failed: registrar.counter_family(
                "oncegate_tls_handshake_failures_total",
                &["listener", "reason"],
                "TLS handshakes that came to nothing.",
            ),
            proxy_refused: registrar.counter_family(
                "oncegate_proxy_protocol_failures_total",
                &["listener", "reason"],
                "Connections closed because they lack the PROXY header that their listener requires, or are not from a trusted proxy.",
            ),
        }
    }

    /// The series of a listener with TLS and these certificates.
    #[must_use]
    pub fn tls(&self, listener: &str, certificates: &[&str]) -> TlsMetrics {
        let expiry = |certificate: &&str| self.expiries.with(&[listener, certificate]);
        TlsMetrics {
            expiries: certificates.iter().map(expiry).collect(),
            reloads: self.reloads.each(&[listener]),
            handshakes_failed: self.handshakes_failed.each_mirrored(&[listener]),
        }
    }

    /// Nothing more is said of when this certificate ends.
    pub fn forget_expiry(&self, listener: &str, certificate: &str) {
        self.expiries.forget(&[listener, certificate]);
    }

    /// Mirrors: the connections closed on a listener that requires a PROXY header.
    #[must_use]
    pub fn proxy_protocol(&self, listener: &str) -> PerLabel<ProxyRefused, MirroredCounter> {
        self.proxy_refused.each_mirrored(&[listener])
    }
}
