//! The configuration: the file as typed (`file`), lowered in one step that reports every fault (`lower`) into
//! what the program needs (here).
//!
//! Reading order: [`Config::load`], then `file`, where every setting is defined, then `lower`.

mod certificates;
mod cors;
mod document;
mod edge;
mod effective;
mod endpoint;
mod file;
mod finding;
mod fit;
mod health;
mod home;
mod listener;
mod lower;
mod order;
mod probe;
mod quantity;
mod redis;
mod reference;
mod secret;
mod setting;
mod store;
mod value;
mod words;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use self::file::ConfigFile;
use self::finding::Findings;
use self::setting::{Value, Written};
use crate::identity::ScopeSource;
use crate::route::{Mode, Route};

pub use self::certificates::{
    Certificate, Certificates, ClientAuth, TlsConfig, TlsFault, TlsFiles, authorities,
    system_authorities, trouble as tls_trouble,
};
pub use self::effective::Effective;
pub use self::endpoint::{UpstreamEndpoint, UpstreamTls};
pub use self::finding::{Faults, Finding, Position};
pub use self::health::HealthCheck;
pub use self::listener::{ListenAddress, ListenerConfig, TrustedProxies, TrustedProxy};
pub use self::quantity::duration_in_words;
pub use self::redis::{ClientCertificate, Password, PrivateKey, RedisConfig, RedisForm, RedisTls};
pub use self::reference::{reference, schema};

/// The longest configuration file, in bytes: some thousand routes.
const MAX_FILE: u64 = 1 << 20;

/// What the program needs to run.
#[derive(Debug)]
pub struct Config {
    /// How often the file is looked at for changes; `None`: when the process is told to.
    pub reload_every: Option<Duration>,
    /// A URL that the problem slugs are appended to; `None`: `urn:oncegate:problem:`.
    pub problem_base: Option<String>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// For how long of it new connections are taken.
    pub drain_delay: Duration,
    /// Where clients connect; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// Who may see and settle records; `None`: nobody.
    pub operators: Option<OperatorsConfig>,
    /// Where records are kept.
    pub store: StoreConfig,
    /// Bounds of everything that waits or is held.
    pub limits: Limits,
    /// What is written of requests.
    pub access_log: AccessLogConfig,
    /// By name; each route's upstream is among them.
    pub upstreams: Vec<UpstreamConfig>,
    /// In order of precedence.
    pub routes: Vec<Route>,
}

/// A configuration that can be used, and what deserves a look.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// In the order of the file.
    pub warnings: Vec<Finding>,
    /// Every setting, and where it comes from.
    pub effective: Effective,
    /// Tells the text that it was read from from any other.
    pub digest: [u8; 32],
}

impl Config {
    /// Reads a configuration file, and the secrets that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(path: &Path) -> Result<Loaded, Faults> {
        let name = path.display().to_string();
        let text = read(path).map_err(|message| {
            Faults(vec![Finding {
                file: name.clone(),
                position: None,
                setting: String::new(),
                message,
                others: Vec::new(),
                excerpt: None,
            }])
        })?;
        Self::parse(&text, &name)
    }

    /// Tells the content of a configuration file from any other; `None` where it cannot be read.
    #[must_use]
    pub fn digest(path: &Path) -> Option<[u8; 32]> {
        read(path).ok().map(|text| digest_of(&text))
    }

    /// Reads a configuration from a text, and the secrets that it names. `name` stands before every fault.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(text: &str, name: &str) -> Result<Loaded, Faults> {
        let mut findings = Findings::default();
        let root = DeValue::Table(document::parse(text, &mut findings));
        let config = ConfigFile::read(&Written::root(&root), &mut findings)
            .and_then(|file| lower::lower(&file, &mut findings));
        let (faults, warnings) = findings.resolve(text, name);
        match config {
            Some(config) if faults.is_empty() => Ok(Loaded {
                config,
                warnings,
                effective: Effective::of(&root, text, name),
                digest: digest_of(text),
            }),
            _ => Err(Faults(faults)),
        }
    }

    /// The configuration of `serve --upstream URL`: POST and PATCH are protected where a key is sent, by
    /// `Authorization` where it is sent, and the rest passes. Addresses and URLs are as in a file.
    ///
    /// # Errors
    /// Everything that is wrong with the arguments, at once.
    pub fn quick(upstream: &str, listen: &str, admin: &str, store: &str) -> Result<Loaded, Faults> {
        let quote = |text: &str| toml::Value::from(text).to_string();
        let text = format!(
            include_str!("quick.toml"),
            upstream = quote(upstream),
            listen = quote(listen),
            admin = quote(admin),
            store = quote(store),
        );
        let loaded = Self::parse(&text, "command line");
        loaded
            .map(|loaded| Loaded {
                config: scoped_where_sent(loaded.config),
                ..loaded
            })
            .map_err(|Faults(mut faults)| {
                for fault in &mut faults {
                    fault.position = None;
                    fault.others.clear();
                    fault.setting = match fault.setting.as_str() {
                        "upstreams.upstream.endpoints[0]" => "--upstream".to_owned(),
                        "listeners[0].address" => "--listen".to_owned(),
                        "admin.address" => "--admin".to_owned(),
                        "store.url" => "--store".to_owned(),
                        _ => std::mem::take(&mut fault.setting),
                    };
                }
                Faults(faults)
            })
    }
}

/// Whoever sends a key is protected: those who say who they are each for themselves, all others as one.
fn scoped_where_sent(mut config: Config) -> Config {
    for route in &mut config.routes {
        if let Mode::Enforce(policy) = &mut route.mode {
            for source in &mut policy.scope {
                *source = ScopeSource::HeaderIfSent(source.header().clone());
            }
        }
    }
    config
}

fn digest_of(text: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("has more than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("is not UTF-8 in line {line}")
    })
}

/// Who may see and settle records.
pub struct OperatorsConfig {
    /// What they show.
    pub token: Vec<u8>,
    /// Where their words are written down; `None`: in the ordinary log.
    pub audit_log: Option<PathBuf>,
}

impl fmt::Debug for OperatorsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorsConfig")
            .field("audit_log", &self.audit_log)
            .finish_non_exhaustive()
    }
}

/// Where records are kept.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Which store.
    pub location: StoreLocation,
    /// Of one operation, retries included.
    pub timeout: Duration,
    /// In bytes. Full: new claims are refused, nothing is evicted.
    pub max_size: u64,
    /// Goes into record ids; empty where none is set.
    pub namespace: String,
    /// Keys record ids and fingerprints; `None`: made by the store.
    pub id_key: Option<crate::identity::IdKeyBytes>,
    /// The first one encrypts recorded responses, all of them decrypt; empty: they are stored as they are.
    pub encryption_keys: Vec<EncryptionKey>,
}

/// What recorded responses are encrypted with.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey {
    /// Its name.
    pub id: String,
    /// 256 bits.
    pub bytes: [u8; 32],
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EncryptionKey").field(&self.id).finish()
    }
}

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// `memory:`
    Memory,
    /// `embedded:PATH`
    Embedded(PathBuf),
    /// `redis://…` and its like.
    Redis(Box<RedisConfig>),
}

/// Section `[limits]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at a time.
    pub max_connections: usize,
    /// The same of one address; 0: as many as there are.
    pub max_connections_per_address: usize,
    /// Bytes of bodies held in memory, all requests together.
    pub max_buffered: u64,
    /// Duplicates that wait for one key.
    pub max_waiters_per_key: usize,
    /// Duplicates that wait, all keys together.
    pub max_waiters: usize,
    /// Dispatches kept open past their `response_timeout`.
    pub max_late: usize,
    /// From accepting a connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a request to the end of its head.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// Bytes of a body that a client has to send each second, on average; 0: any number.
    pub min_receive_rate: u64,
    /// Bytes of an answer that it has to take each second; 0: any number.
    pub min_send_rate: u64,
    /// How long a client may be slower than that.
    pub rate_grace: Duration,
    /// Between two requests on a connection.
    pub keep_alive: Duration,
    /// What HTTP/2 connections may do.
    pub http2: Http2Limits,
    /// Bytes of completed records held for replay; 0 switches the cache off.
    pub replay_cache: u64,
}

/// What of `[limits]` is about HTTP/2 alone.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Requests under way on one connection.
    pub streams: u32,
    /// Bytes of one body that a client may send ahead of their being read.
    pub stream_window: u32,
    /// The same of all bodies of a connection.
    pub connection_window: u32,
    /// How often a client is asked whether it is still there.
    pub ping_every: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
}

/// Section `[access_log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogConfig {
    /// Whether anything is written.
    pub enabled: bool,
    /// The share of ordinary requests that are written, from 0 to 1.
    pub sample: f64,
    /// What takes longer is not ordinary.
    pub slow: Duration,
    /// Whether paths are written.
    pub path: bool,
}

/// One `[upstreams.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The name in routes, metrics and logs.
    pub name: String,
    /// At least one.
    pub endpoints: Vec<UpstreamEndpoint>,
    /// Where there is an `https:` endpoint.
    pub tls: Option<UpstreamTls>,
    /// What is spoken to it.
    pub protocol: UpstreamProtocol,
    /// Who is asked for names; empty: whom the system would ask.
    pub resolvers: Vec<SocketAddr>,
    /// How addresses are checked; `None`: not at all.
    pub health: Option<HealthCheck>,
    /// Of one attempt at one address.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Requests under way at a time.
    pub max_in_flight: usize,
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// Over TLS what each endpoint prefers, otherwise HTTP/1.1.
    Auto,
    /// HTTP/2, without TLS by prior knowledge (RFC 9113, section 3.3).
    Http2,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}
