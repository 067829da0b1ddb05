//! One endpoint of an upstream: its idle connections and whether it is worth trying.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::connection::{Condition, Connection};
use super::resolved::Resolved;
use super::socket::Address;
use super::tls::Security;
use crate::config::{self, UpstreamConfig, UpstreamEndpoint, UpstreamTls};

/// Idle connections kept for one endpoint; more are closed when their exchange ends. It holds the bursts of a
/// busy gateway, and stays well below the usual limit of 1024 file descriptors.
pub(super) const MAX_IDLE: usize = 256;

/// How long an endpoint that could not be connected to is tried only after the others.
const AVOID_MS: u64 = 2_000;

pub(super) struct Endpoint {
    place: Where,
    /// Where TLS is spoken to it.
    security: Option<Security>,
    /// Requests whose response has not ended.
    pub(super) in_flight: AtomicUsize,
    /// The last one in is the first one out: the others may grow old and go.
    idle: Mutex<Vec<Idle>>,
    /// Since when `avoid_until` counts.
    epoch: Instant,
    /// Milliseconds since `epoch`; 0 for an endpoint that is well.
    avoid_until: AtomicU64,
}

enum Where {
    Name { names: Resolved, authority: String },
    Address(Address),
}

struct Idle {
    connection: Connection,
    until: Instant,
}

/// How an endpoint stands in the choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It is well, or this request is the one that finds out.
    Good,
    /// It could not be connected to a moment ago.
    Avoided,
}

impl Where {
    fn of(endpoint: &config::Endpoint) -> Self {
        let config::Endpoint { host, port } = endpoint;
        match host.parse::<IpAddr>() {
            Ok(address) => Self::Address(Address::Tcp(SocketAddr::new(address, *port))),
            Err(_) => Self::Name {
                names: Resolved::new(host, *port),
                authority: format!("{host}:{port}"),
            },
        }
    }
}

impl Endpoint {
    pub(super) fn all(config: &UpstreamConfig) -> Vec<Self> {
        let tls = config.tls.as_ref();
        let endpoints = config.endpoints.iter();
        endpoints.map(|endpoint| Self::new(endpoint, tls)).collect()
    }

    pub(super) fn new(endpoint: &UpstreamEndpoint, tls: Option<&UpstreamTls>) -> Self {
        let (place, security) = match endpoint {
            UpstreamEndpoint::Http(endpoint) => (Where::of(endpoint), None),
            UpstreamEndpoint::Https(endpoint) => {
                let tls = tls.expect("an `https:` endpoint is lowered with its TLS");
                (
                    Where::of(endpoint),
                    Some(Security::new(tls, &endpoint.host)),
                )
            }
            UpstreamEndpoint::Unix(path) => {
                let address = Address::Unix(path.as_path().into());
                (Where::Address(address), None)
            }
        };
        Self {
            place,
            security,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            epoch: Instant::now(),
            avoid_until: AtomicU64::new(0),
        }
    }

    /// What it is called by where no client says a host; a path has no name of its own.
    pub(super) fn authority(&self) -> Option<HeaderValue> {
        let authority = match &self.place {
            Where::Name { authority, .. } => authority.clone(),
            Where::Address(Address::Tcp(address)) => address.to_string(),
            Where::Address(Address::Unix(_)) => "localhost".to_owned(),
        };
        HeaderValue::from_str(&authority).ok()
    }

    pub(super) fn security(&self) -> Option<&Security> {
        self.security.as_ref()
    }

    pub(super) fn standing(&self) -> Standing {
        match self.avoid_until.load(Ordering::Relaxed) {
            0 => Standing::Good,
            until if until <= self.now_ms() => Standing::Good,
            _ => Standing::Avoided,
        }
    }

    /// Says that a request is about to connect. Of those that find the time of avoidance over, the first one
    /// tries; the others see the endpoint avoided until that one has succeeded.
    pub(super) fn try_out(&self) {
        if self.avoid_until.load(Ordering::Relaxed) != 0 {
            self.failed();
        }
    }

    pub(super) fn failed(&self) {
        let until = self.now_ms() + AVOID_MS;
        self.avoid_until.store(until, Ordering::Relaxed);
    }

    pub(super) fn succeeded(&self) {
        if self.avoid_until.load(Ordering::Relaxed) != 0 {
            self.avoid_until.store(0, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// The addresses to try, at least one; those of a name take turns in being the first.
    ///
    /// # Errors
    /// Where the name has no address, or the resolver says nothing within `limit`.
    pub(super) async fn addresses(&self, limit: Duration) -> io::Result<Vec<Address>> {
        match &self.place {
            Where::Name { names, .. } => names.addresses(limit).await,
            Where::Address(address) => Ok(vec![address.clone()]),
        }
    }

    /// The youngest idle connection that may take a request; those known to be dead or too old on the way are closed. The
    /// wire looks closely before the first byte.
    pub(super) fn check_out(&self) -> Option<Connection> {
        let mut busy = Vec::new();
        let found = loop {
            let Some(idle) = self.idle().pop() else {
                break None;
            };
            if idle.until <= Instant::now() {
                continue;
            }
            match idle.connection.condition(false) {
                Condition::Ready => break Some(idle.connection),
                Condition::Busy => busy.push(idle),
                Condition::Dead => {}
            }
        };
        if !busy.is_empty() {
            self.idle().append(&mut busy);
        }
        found
    }

    /// Keeps a connection whose exchange has ended for at most `keep`; false where there are too many.
    pub(super) fn check_in(&self, connection: Connection, keep: Duration) -> bool {
        let until = Instant::now() + keep;
        let mut idle = self.idle();
        let room = idle.len() < MAX_IDLE;
        if room {
            idle.push(Idle { connection, until });
        }
        room
    }

    /// Closes the idle connections that are too old or dead; says how many are left.
    pub(super) fn reap(&self) -> usize {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut idle = self.idle();
        for index in (0..idle.len()).rev() {
            let is_dead = || idle[index].connection.condition(true) == Condition::Dead;
            if idle[index].until <= now || is_dead() {
                gone.push(idle.remove(index));
            }
        }
        idle.len()
    }

    pub(super) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
