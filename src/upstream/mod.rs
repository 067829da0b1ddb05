//! Clients of the upstreams: connections, their pool, balancing.
//!
//! The one thing that this module must get right is the line between *not sent* (no byte of the request was given
//! to a socket) and *sent*: what was not sent is tried elsewhere or released, what was sent is never sent
//! again. The line is drawn where bytes reach the kernel (`wire`), behind a [`Gate`] that the owner of a claim
//! can close. Nothing in here knows of keys, claims or records.
//!
//! Reading order: [`Upstream::send`], `attempt` (the way of one request), `balance` (which address), `target` (one of them,
//! with its pool), `names` and `resolver` (where they come from), `health` (whether they are well), `opening`,
//! `connection` (HTTP/1.1), `wire` with [`Gate`] and `watched` (who has a hold of a socket), `head` and `framing` (what is no answer), `tls` (what is between),
//! `lease` and [`InBody`] (how a connection comes back), [`Tunnel`] (how it does not). Connections that requests share are
//! a world of their own: `http2`.

mod attempt;
mod balance;
mod body;
mod connection;
mod endpoint;
mod framing;
mod gate;
mod head;
mod health;
mod http2;
mod lease;
mod names;
mod opening;
mod resolver;
mod socket;
mod stats;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;
mod watched;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::HeaderValue;
use http::{Request, Response};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{HealthCheck, UpstreamConfig, UpstreamEndpoint};
use crate::process;
use balance::Balance;
use connection::NotConnected;
use endpoint::{Endpoint, Where};
use http2::Liveness;
use lease::Place;
use opening::Opening;
use socket::{Address, Dialer};
use stats::Counters;
use target::{Standing, Target};

pub use body::{AnswerBroken, InBody, OutBody, RequestBodyFailed};
pub use framing::say_length;
pub use gate::Gate;
#[cfg(test)]
pub use socket::{Network, Scripted};
pub use stats::{EndpointCounts, EndpointStats, Stats};
pub use tls::Spoken;
pub use tunnel::{Tunnel, TunnelLost};

/// How often idle connections are looked through: bounds of a half of `idle_timeout`.
const REAP_EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// An upstream: some endpoints that can take the same requests.
pub struct Upstream {
    name: Box<str>,
    endpoints: Vec<Endpoint>,
    balance: Balance,
    dialer: Dialer,
    connect_timeout: Duration,
    idle_timeout: Duration,
    liveness: Liveness,
    max_in_flight: usize,
    in_flight: AtomicUsize,
    has_reaper: AtomicBool,
    counters: Arc<Counters>,
    resolvers: Vec<SocketAddr>,
    health: Option<HealthCheck>,
    /// Cancelled when it is dropped: what runs for it ends then.
    life: CancellationToken,
    _end: DropGuard,
}

/// A request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// What went wrong, last.
    pub kind: SendErrorKind,
    /// Whether at least one byte of the request was given to a socket, of an upstream that does not say that it left the
    /// request alone. If not, none will be.
    pub sent: bool,
}

/// What went wrong on the way to a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SendErrorKind {
    /// The endpoint's name has no address, or the resolver failed or took longer than `connect_timeout`.
    #[error("the upstream's name could not be resolved")]
    Resolve,
    /// The connection was refused or failed, or HTTP/2 is not spoken where it should be.
    #[error("the upstream could not be connected to")]
    Connect,
    /// No connection within `connect_timeout`, the handshake of TLS included.
    #[error("connecting to the upstream took too long")]
    ConnectTimeout,
    /// The handshake of TLS failed: the certificate of one side, or what both speak, did not please the other one.
    #[error("the TLS handshake with the upstream failed")]
    Tls,
    /// The upstream said that it does not process the request (RFC 9113, section 8.7).
    #[error("the upstream refused the request without processing it")]
    Refused,
    /// The [`Gate`] was closed, or its deadline over, before the first byte.
    #[error("the request was withdrawn before its first byte")]
    GateClosed,
    /// `max_in_flight` requests are under way.
    #[error("too many requests are under way to the upstream")]
    Overloaded,
    /// The connection ended before a response's head was read.
    #[error("the connection to the upstream was lost before its response")]
    ConnectionLost,
    /// What came is no response of HTTP/1.1 or HTTP/2, can be read as another one, has too large a head, or switches to a
    /// protocol that nobody asked for.
    #[error("the upstream's response is not valid")]
    BadResponse,
    /// The request's body failed, or stalled, or did not have the length that was announced.
    #[error("the request's body failed")]
    RequestBody,
}

impl SendErrorKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Resolve,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
        Self::Refused,
        Self::GateClosed,
        Self::Overloaded,
        Self::ConnectionLost,
        Self::BadResponse,
        Self::RequestBody,
    ];

    /// The kind as a metrics label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::Refused => "refused",
            Self::GateClosed => "gate_closed",
            Self::Overloaded => "overloaded",
            Self::ConnectionLost => "connection_lost",
            Self::BadResponse => "bad_response",
            Self::RequestBody => "request_body",
        }
    }
}

impl Upstream {
    /// An upstream without connections; they are made as requests need them. Names are asked for from now on.
    ///
    /// # Panics
    /// Outside of a runtime, where an endpoint is a name, or there are health checks.
    #[must_use]
    pub fn new(config: &UpstreamConfig) -> Arc<Self> {
        Self::through(Dialer::default(), config)
    }

    /// The same, in a network that a test scripts.
    #[cfg(test)]
    #[must_use]
    pub fn within(network: Arc<dyn Network>, config: &UpstreamConfig) -> Arc<Self> {
        Self::through(Dialer::of(network), config)
    }

    fn through(dialer: Dialer, config: &UpstreamConfig) -> Arc<Self> {
        let endpoints = Endpoint::all(config);
        let life = CancellationToken::new();
        let upstream = Arc::new(Self {
            name: config.name.as_str().into(),
            dialer,
            balance: Balance::of(&endpoints),
            endpoints,
            connect_timeout: config.connect_timeout,
            idle_timeout: config.idle_timeout,
            liveness: Liveness::USUAL,
            max_in_flight: config.max_in_flight,
            in_flight: AtomicUsize::new(0),
            has_reaper: AtomicBool::new(false),
            counters: Arc::default(),
            resolvers: config.resolvers.clone(),
            health: config.health.clone(),
            _end: life.clone().drop_guard(),
            life,
        });
        upstream.begin();
        upstream
    }

    /// Begins to ask for names, and to check addresses.
    fn begin(self: &Arc<Self>) {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let Where::Name { host, port } = &endpoint.place {
                let (servers, name) = (self.resolvers.clone(), (host.clone(), *port));
                let asking = names::keep_up(Arc::downgrade(self), servers, index, name);
                self.while_it_lives(asking);
            }
        }
        for target in &*self.balance.targets() {
            self.watch(target);
        }
    }

    /// From now on the endpoint has these addresses.
    fn renew(self: &Arc<Self>, endpoint: usize, addresses: Vec<Address>) {
        for target in self.balance.renew(endpoint, addresses) {
            self.watch(&target);
        }
    }

    fn watch(self: &Arc<Self>, target: &Arc<Target>) {
        let Some(check) = &self.health else {
            return;
        };
        let gone = target.gone();
        let watching = health::watch(Arc::downgrade(self), Arc::clone(target), check.clone());
        self.while_it_lives(async move {
            gone.run_until_cancelled_owned(watching).await;
        });
    }

    fn while_it_lives(&self, work: impl Future<Output = ()> + Send + 'static) {
        let life = self.life.clone();
        tokio::spawn(process::task(async move {
            life.run_until_cancelled_owned(work).await;
        }));
    }

    /// Connects to an endpoint once, as a request would, sends it none, and says what it speaks. HTTP/2 it has to begin to
    /// speak; that it speaks HTTP/1.1 is taken for granted unless it says otherwise.
    ///
    /// # Errors
    /// Why there is no connection: `TimedOut` where it took longer than `connect_timeout`.
    pub async fn try_out(
        config: &UpstreamConfig,
        endpoint: &UpstreamEndpoint,
    ) -> io::Result<Spoken> {
        let endpoint = Endpoint::new(endpoint, config);
        let opening = Opening {
            dialer: &Dialer::default(),
            security: endpoint.security(),
            offer: endpoint.offer(false),
            limit: config.connect_timeout,
            counters: &Arc::default(),
        };
        let mut last = io::ErrorKind::NotFound.into();
        for address in endpoint.addresses(&config.resolvers).await? {
            match opening.try_out(&address).await {
                Ok(spoken) => return Ok(spoken),
                Err(NotConnected { error, .. }) => last = error,
            }
        }
        Err(last)
    }

    /// Sends a request once and returns the head of its response with the body to come.
    ///
    /// The URI is origin-form and `Host` is set; version, `Content-Length` and `Transfer-Encoding` are set anew
    /// from the body. The first byte asks `gate`. As long as no byte was given to a socket, other connections and
    /// addresses are tried, each address once (a streaming body only while untouched); afterwards nothing is,
    /// unless an upstream says over HTTP/2 that it did not process the request. Nothing limits the wait for the response but
    /// the caller, who drops the future: that closes the connection, or resets the stream, and `gate` says whether the
    /// request was sent.
    /// Interim responses (1xx) are dropped. A request with `Upgrade` may be answered with 101, whose extensions then
    /// bear a [`Tunnel`]; over HTTP/2 it goes as one without `Upgrade`.
    ///
    /// # Errors
    /// See [`SendErrorKind`].
    pub async fn send(
        self: &Arc<Self>,
        request: impl Into<Box<Request<OutBody>>>,
        gate: &Arc<Gate>,
    ) -> Result<Response<InBody>, SendError> {
        let mut request = request.into();
        framing::frame(&mut request);
        let result = match Place::take(self) {
            Some(place) => self.try_targets(place, request, gate).await,
            None => Err(SendError::unsent(SendErrorKind::Overloaded)),
        };
        if let Err(error) = &result {
            self.counters.failed(error.kind);
        }
        result
    }

    /// The host and port that it is called by where no client says one: its first endpoint's.
    #[must_use]
    pub fn authority(&self) -> Option<HeaderValue> {
        self.endpoints.first().and_then(Endpoint::authority)
    }

    /// How every endpoint is, in the order of the configuration; what was counted since the last call is in it.
    #[must_use]
    pub fn endpoint_stats(&self) -> Vec<EndpointStats> {
        let targets = self.balance.targets();
        let endpoints = self.endpoints.iter().enumerate();
        let stats = endpoints.map(|(index, endpoint)| {
            let own = || {
                targets
                    .iter()
                    .filter(move |target| target.endpoint == index)
            };
            let count = |standing| own().filter(|one| one.standing() == standing).count();
            EndpointStats {
                endpoint: endpoint.label.to_string(),
                usable: count(Standing::Usable),
                ejected: count(Standing::Ejected),
                unhealthy: count(Standing::Unhealthy),
                since: endpoint.counters.take(),
            }
        });
        stats.collect()
    }

    /// A snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            idle: self.idle_count(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            ..self.counters.snapshot()
        }
    }

    fn idle_count(&self) -> usize {
        let targets = self.balance.targets();
        targets.iter().map(|target| target.idle_count()).sum()
    }

    /// Sees to it that idle connections are closed in time. It runs only while there are any.
    fn start_reaper(self: &Arc<Self>) {
        if self.has_reaper.load(Ordering::SeqCst) || self.has_reaper.swap(true, Ordering::SeqCst) {
            return;
        }
        let every = (self.idle_timeout / 2).clamp(REAP_EVERY.0, REAP_EVERY.1);
        tokio::spawn(process::task(reap(Arc::downgrade(self), every)));
    }
}

async fn reap(upstream: Weak<Upstream>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let targets = upstream.balance.targets();
        let idle_timeout = upstream.idle_timeout;
        let left: usize = targets.iter().map(|one| one.reap(idle_timeout)).sum();
        if left > 0 {
            continue;
        }
        upstream.has_reaper.store(false, Ordering::SeqCst);
        // A connection that came back before the line above saw a reaper and started none.
        let targets = upstream.balance.targets();
        let is_needed = targets.iter().any(|one| one.needs_reaper());
        if !is_needed || upstream.has_reaper.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}

impl SendError {
    fn unsent(kind: SendErrorKind) -> Self {
        Self { kind, sent: false }
    }
}
