//! The configuration: the file as typed (`file`), lowered in one step that reports every fault (`lower`) into
//! what the program needs (here).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::route::Route;

/// What the program needs to run.
#[derive(Debug)]
pub struct Config {
    /// A URL that the problem slugs are appended to; `None`: `urn:oncegate:problem:`.
    pub problem_base: Option<String>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Where clients connect; at least one.
    pub listeners: Vec<SocketAddr>,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// Where records are kept.
    pub store: StoreConfig,
    /// Bounds of everything that waits or is held.
    pub limits: Limits,
    /// By name; each route's upstream is among them.
    pub upstreams: Vec<UpstreamConfig>,
    /// In order of precedence.
    pub routes: Vec<Route>,
}

/// Where records are kept.
#[derive(Debug)]
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
}

/// Which store.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// `memory:`
    Memory,
    /// `embedded:PATH`
    Embedded(PathBuf),
}

/// Section `[limits]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Client connections at a time.
    pub max_connections: usize,
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
    /// Between two requests on a connection.
    pub keep_alive: Duration,
    /// Bytes of completed records held for replay; 0 switches the cache off.
    pub replay_cache: u64,
}

/// One `[upstreams.NAME]`.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The name in routes, metrics and logs.
    pub name: String,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// Of one attempt at one address.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Requests under way at a time.
    pub max_in_flight: usize,
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}
