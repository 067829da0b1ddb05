//! TLS on a listener: the handshake, whose certificate is shown, and certificates that change while connections stay.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error as TlsError, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::stream::Raw;
use crate::config::{
    Certificate, Certificates, ClientAuth, TlsConfig, TlsFault, TlsFiles, tls_trouble,
};

/// The protocols that clients may choose from, in our order.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How much of what a client did wrong is said, in characters: some of it is the client's own words.
const MAX_WHY: usize = 300;

/// TLS on one listener. It lives as long as the listener; what it shows changes.
pub struct Tls {
    files: TlsConfig,
    now: RwLock<Arc<ServerConfig>>,
    shown: Mutex<Shown>,
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
}

/// What is known of the files, and of what is in use.
struct Shown {
    /// Of the files when they were last judged.
    digest: [u8; 32],
    /// When each certificate ends, in seconds since the Unix epoch.
    expiries: Vec<u64>,
    is_expired: bool,
}

/// Why the files of a listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// Something is wrong with them.
    #[error("{}", list(.0))]
    Faults(Vec<TlsFault>),
    /// TLS cannot be done with them.
    #[error("{0}")]
    Refused(String),
    /// They have expired, and what is in use has not.
    #[error("a certificate has expired, and the one in use has not")]
    Expired,
}

/// What has become of the files since they were last looked at.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// They are in use now.
    Used,
    /// They cannot be used; what was in use still is.
    Refused(TlsFilesError),
}

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It took too long.
    TimedOut,
    /// The client left.
    ClientGone,
    /// The client refused, our certificate perhaps.
    RefusedByClient,
    /// The client's certificate is missing or not good.
    ClientCertificate,
    /// There is no version, cipher or protocol that both know.
    Incompatible,
    /// What came is no TLS, or broke its rules.
    Invalid,
    /// As many handshakes as may be were under way.
    Overloaded,
}

impl HandshakeFailure {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::TimedOut,
        Self::ClientGone,
        Self::RefusedByClient,
        Self::ClientCertificate,
        Self::Incompatible,
        Self::Invalid,
        Self::Overloaded,
    ];
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub(super) fn new(files: &TlsConfig) -> Result<Self, TlsFilesError> {
        let read = files.read().map_err(TlsFilesError::Faults)?;
        let digest = read.digest();
        let certificates = files.understand(&read).map_err(TlsFilesError::Faults)?;
        let (config, shown) = offered(&certificates, files.client_auth, digest)?;
        Ok(Self {
            files: files.clone(),
            now: RwLock::new(Arc::new(config)),
            shown: Mutex::new(shown),
            failures: Default::default(),
        })
    }

    /// Looks at the files, and uses them where they have changed and are good. Reads files: not to be called where others
    /// wait.
    ///
    /// Whoever writes them may be in the middle of it: a change is judged only once the files are what they were at
    /// `last_look`, which is brought up to date.
    pub fn look(&self, last_look: &mut Option<[u8; 32]>) -> Change {
        let read = self.files.read();
        // Files that cannot be read are another content.
        let digest = read.as_ref().map_or([0; 32], TlsFiles::digest);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if last_look.replace(digest) != Some(digest) || shown.digest == digest {
            return Change::None;
        }
        shown.digest = digest;
        let new = read
            .and_then(|read| self.files.understand(&read))
            .map_err(TlsFilesError::Faults)
            .and_then(|new| offered(&new, self.files.client_auth, digest));
        match new {
            Ok((_, new)) if new.is_expired && !shown.is_expired => {
                Change::Refused(TlsFilesError::Expired)
            }
            Ok((config, new)) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                *shown = new;
                Change::Used
            }
            Err(error) => Change::Refused(error),
        }
    }

    /// When each certificate in use ends, in seconds since the Unix epoch; in the order of the configuration.
    #[must_use]
    pub fn expiry_timestamps_seconds(&self) -> Vec<u64> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.expiries.clone()
    }

    /// The handshakes that came to nothing since the start, in the order of [`HandshakeFailure::ALL`].
    #[must_use]
    pub fn failures(&self) -> [u64; HandshakeFailure::ALL.len()] {
        self.failures
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Counts a handshake that came to nothing, and says why to who wants to know.
    pub(super) fn failed(&self, client: Option<SocketAddr>, failure: HandshakeFailure, why: &str) {
        self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
        let client = client.map(tracing::field::display);
        tracing::debug!(client, ?failure, why, "a TLS handshake came to nothing");
    }

    /// Does the handshake, and says what became of it.
    pub(super) async fn shake_hands(&self, raw: Raw) -> Result<TlsStream<Raw>, io::Error> {
        TlsAcceptor::from(self.now()).accept(raw).await
    }

    fn now(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Whether the client has chosen HTTP/2.
pub(super) fn speaks_http2(stream: &TlsStream<Raw>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

fn list(faults: &[TlsFault]) -> String {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    faults.join("; ")
}

/// What clients are offered from now on. Sessions of before are not resumed: who vouches for clients may have changed.
fn offered(
    certificates: &Certificates,
    client_auth: ClientAuth,
    digest: [u8; 32],
) -> Result<(ServerConfig, Shown), TlsFilesError> {
    let refused = |error: &dyn fmt::Display| TlsFilesError::Refused(error.to_string());
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| refused(&error))?;
    let builder = match (&certificates.authorities, client_auth) {
        (None, _) | (_, ClientAuth::None) => builder.with_no_client_auth(),
        (Some(authorities), _) => {
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider);
            if client_auth == ClientAuth::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().map_err(|error| refused(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Showcase::new(certificates)));
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| refused(&error))?;
    // A request that comes with the first flight can be sent again by anybody who has seen it.
    config.max_early_data_size = 0;
    let shown = Shown {
        digest,
        expiries: certificates
            .certificates
            .iter()
            .map(Certificate::expiry_timestamp_seconds)
            .collect(),
        is_expired: certificates
            .certificates
            .iter()
            .any(Certificate::is_expired),
    };
    Ok((config, shown))
}

/// The certificates by the hosts that they are for.
#[derive(Debug)]
struct Showcase {
    by_host: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl Showcase {
    fn new(certificates: &Certificates) -> Self {
        let mut by_host: HashMap<String, Vec<_>> = HashMap::new();
        for certificate in &certificates.certificates {
            for host in &certificate.hosts {
                let keys = by_host.entry(host.clone()).or_default();
                keys.push(Arc::clone(&certificate.key));
            }
        }
        let first = certificates.certificates.first();
        Self {
            by_host,
            first: Arc::clone(&first.expect("a listener has a certificate").key),
        }
    }

    fn named(&self, host: &str) -> Option<&[Arc<CertifiedKey>]> {
        let exact = self.by_host.get(host);
        let wildcard = || {
            let (_, parent) = host.split_once('.')?;
            self.by_host.get(&format!("*.{parent}"))
        };
        exact.or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Showcase {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().map(str::to_ascii_lowercase);
        let named = host.and_then(|host| self.named(&host));
        let keys = named.unwrap_or(std::slice::from_ref(&self.first));
        // One host may have certificates of several kinds, and not every client knows every kind.
        let is_known = |key: &&Arc<CertifiedKey>| {
            let scheme = key.key.choose_scheme(hello.signature_schemes());
            scheme.is_some()
        };
        keys.iter().find(is_known).or(keys.first()).cloned()
    }
}

/// What a failure is counted as, and what there is to say of it.
pub(super) fn failure(error: &io::Error) -> (HandshakeFailure, String) {
    let tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<TlsError>());
    let why = tls.map_or_else(|| error.to_string(), tls_trouble);
    (kind(tls), why.chars().take(MAX_WHY).collect())
}

fn kind(error: Option<&TlsError>) -> HandshakeFailure {
    match error {
        None => HandshakeFailure::ClientGone,
        Some(TlsError::AlertReceived(_)) => HandshakeFailure::RefusedByClient,
        Some(TlsError::NoCertificatesPresented | TlsError::InvalidCertificate(_)) => {
            HandshakeFailure::ClientCertificate
        }
        Some(TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol) => {
            HandshakeFailure::Incompatible
        }
        Some(_) => HandshakeFailure::Invalid,
    }
}
