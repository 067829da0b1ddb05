//! HTTP/1.1 clients of the upstreams: connections, their pool, balancing.
//!
//! The one thing that this module must get right is the line between *not sent* (no byte of the request was given
//! to a socket) and *sent*: what was not sent is tried elsewhere or released, what was sent is never sent
//! again. The line is drawn where bytes reach the kernel (`wire`), behind a [`Gate`] that the owner of a claim
//! can close. Nothing in here knows of keys, claims or records.
//!
//! Reading order: [`Upstream::send`], `balance` (which address), `target` (one of them, with its pool), `names` (where they
//! come from), `connection`, `wire` with [`Gate`], `head` and `framing` (what is no answer), `tls` (what is between),
//! `lease` and [`InBody`] (how a connection comes back), [`Tunnel`] (how it does not).

mod balance;
mod body;
mod connection;
mod endpoint;
mod framing;
mod gate;
mod head;
mod lease;
mod names;
mod socket;
mod stats;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;
mod wire;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{UpstreamConfig, UpstreamEndpoint};
use crate::process;
use balance::Balance;
use connection::{Connection, Failed, NotConnected};
use endpoint::{Endpoint, Where};
use lease::{Lease, Place};
use socket::Dialer;
use stats::Counters;
use target::Target;

pub use body::{InBody, OutBody, RequestBodyFailed};
pub use gate::Gate;
#[cfg(test)]
pub use socket::{Network, Scripted};
pub use stats::Stats;
pub use tunnel::{Tunnel, TunnelLost};

/// How often idle connections are looked through: bounds of a half of `idle_timeout`.
const REAP_EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// An upstream: some endpoints that can take the same requests.
pub struct Upstream {
    endpoints: Vec<Endpoint>,
    balance: Balance,
    dialer: Dialer,
    connect_timeout: Duration,
    idle_timeout: Duration,
    max_in_flight: usize,
    in_flight: AtomicUsize,
    has_reaper: AtomicBool,
    counters: Arc<Counters>,
    /// What runs for as long as it lives.
    tasks: OnceLock<Vec<AbortOnDropHandle<()>>>,
}

/// A request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// What went wrong, last.
    pub kind: SendErrorKind,
    /// Whether at least one byte of the request was given to a socket. If not, none will be.
    pub sent: bool,
}

/// What went wrong on the way to a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SendErrorKind {
    /// The endpoint's name has no address, or the resolver failed or took longer than `connect_timeout`.
    #[error("the upstream's name could not be resolved")]
    Resolve,
    /// The connection was refused or failed.
    #[error("the upstream could not be connected to")]
    Connect,
    /// No connection within `connect_timeout`, the handshake of TLS included.
    #[error("connecting to the upstream took too long")]
    ConnectTimeout,
    /// The handshake of TLS failed: the certificate of one side, or what both speak, did not please the other one.
    #[error("the TLS handshake with the upstream failed")]
    Tls,
    /// The [`Gate`] was closed, or its deadline over, before the first byte.
    #[error("the request was withdrawn before its first byte")]
    GateClosed,
    /// `max_in_flight` requests are under way.
    #[error("too many requests are under way to the upstream")]
    Overloaded,
    /// The connection ended before a response's head was read.
    #[error("the connection to the upstream was lost before its response")]
    ConnectionLost,
    /// What came is no HTTP/1.1 response, can be read as another one, has too large a head, or switches to a
    /// protocol that nobody asked for.
    #[error("the upstream's response is not valid")]
    BadResponse,
    /// The request's body failed, or stalled, or did not have the length that was announced.
    #[error("the request's body failed")]
    RequestBody,
}

impl SendErrorKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Resolve,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
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
    /// Outside of a runtime, where an endpoint is a name.
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
        let upstream = Arc::new(Self {
            dialer,
            balance: Balance::of(&endpoints),
            endpoints,
            connect_timeout: config.connect_timeout,
            idle_timeout: config.idle_timeout,
            max_in_flight: config.max_in_flight,
            in_flight: AtomicUsize::new(0),
            has_reaper: AtomicBool::new(false),
            counters: Arc::default(),
            tasks: OnceLock::new(),
        });
        let _ = upstream.tasks.set(upstream.start());
        upstream
    }

    fn start(self: &Arc<Self>) -> Vec<AbortOnDropHandle<()>> {
        let mut tasks = Vec::new();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let Where::Name { host, port } = &endpoint.place {
                let asking = names::keep_up(Arc::downgrade(self), index, host.clone(), *port);
                tasks.push(tokio::spawn(process::task(asking)));
            }
        }
        tasks.into_iter().map(AbortOnDropHandle::new).collect()
    }

    /// Connects to an endpoint once, as a request would, and sends it nothing.
    ///
    /// # Errors
    /// Why there is no connection: `TimedOut` where it took longer than `connect_timeout`.
    pub async fn try_out(config: &UpstreamConfig, endpoint: &UpstreamEndpoint) -> io::Result<()> {
        let (limit, dialer) = (config.connect_timeout, Dialer::default());
        let endpoint = Endpoint::new(endpoint, config.tls.as_ref());
        let mut last = io::ErrorKind::NotFound.into();
        for address in endpoint.addresses(limit).await? {
            let connecting = async {
                let socket = dialer.connect(&address).await?;
                match endpoint.security() {
                    Some(security) => security.shake_hands(socket).await.map(drop),
                    None => Ok(()),
                }
            };
            match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = error,
                Err(over) => last = over.into(),
            }
        }
        Err(last)
    }

    /// Sends a request once and returns the head of its response with the body to come.
    ///
    /// The URI is origin-form and `Host` is set; version, `Content-Length` and `Transfer-Encoding` are set anew
    /// from the body. The first byte asks `gate`. As long as no byte was given to a socket, other connections and
    /// addresses are tried, each address once (a streaming body only while untouched); afterwards nothing is. Nothing limits the wait for the response but the caller, who drops the future: that closes
    /// the connection, and `gate` says whether the request was sent.
    /// Interim responses (1xx) are dropped. A request with `Upgrade` may be answered with 101, whose extensions then
    /// bear a [`Tunnel`].
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

    async fn try_targets(
        &self,
        mut place: Place,
        request: Box<Request<OutBody>>,
        gate: &Arc<Gate>,
    ) -> Result<Response<InBody>, SendError> {
        let mut attempt = Attempt {
            upgrade: request.headers().get(UPGRADE).cloned(),
            request: Some(request),
            last: SendErrorKind::Resolve,
            gate,
        };
        let mut tried = Vec::new();
        while let Some(target) = self.next(&tried).await {
            place.move_to(&target);
            if let Some((response, connection)) = self.try_target(&target, &mut attempt).await? {
                return Ok(taken_in(response, place, connection));
            }
            tried.push(target);
        }
        Err(SendError::unsent(attempt.last))
    }

    async fn next(&self, tried: &[Arc<Target>]) -> Option<Arc<Target>> {
        if let Some(target) = self.balance.choose(tried) {
            return Some(target);
        }
        let deadline = Instant::now() + self.connect_timeout;
        // Boxed: most requests find an address that is known.
        self.balance.next(tried, deadline).boxed().await
    }

    /// `None`: nothing was sent, and another address may be tried.
    async fn try_target(
        &self,
        target: &Target,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<Exchanged>, SendError> {
        if let Some(connection) = target.check_out()
            && let Some(exchanged) = attempt.on(connection).await?
        {
            return Ok(Some(exchanged));
        }
        // Boxed, so that what finds a connection, as most requests do, needs no room for making one.
        self.try_anew(target, attempt).boxed().await
    }

    /// The same, on a connection that is made for it.
    async fn try_anew(
        &self,
        target: &Target,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<Exchanged>, SendError> {
        attempt.check_gate()?;
        match self.connect(target).await {
            Ok(connection) => attempt.on(connection).await,
            Err(kind) => {
                attempt.last = kind;
                Ok(None)
            }
        }
    }

    /// Makes a connection to an address, and remembers how that went.
    async fn connect(&self, target: &Target) -> Result<Connection, SendErrorKind> {
        let trial = target.try_out();
        let connecting = Connection::open(
            &self.dialer,
            target.address.clone(),
            self.endpoints[target.endpoint].security(),
            self.connect_timeout,
            &self.counters,
        );
        match connecting.await {
            Ok(connection) => {
                target.succeeded();
                Ok(connection)
            }
            Err(NotConnected { kind, .. }) => {
                target.failed(trial);
                Err(kind)
            }
        }
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
        let left: usize = targets.iter().map(|target| target.reap()).sum();
        if left > 0 {
            continue;
        }
        upstream.has_reaper.store(false, Ordering::SeqCst);
        // A connection that came back before the line above saw a reaper and started none.
        if upstream.idle_count() == 0 || upstream.has_reaper.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}

type Exchanged = (Response<hyper::body::Incoming>, Connection);

/// One request on its way through connections that take nothing of it.
struct Attempt<'a> {
    /// Gone where nothing of it was sent and yet it cannot be tried again.
    request: Option<Box<Request<OutBody>>>,
    /// The protocols that it may be answered with.
    upgrade: Option<HeaderValue>,
    last: SendErrorKind,
    gate: &'a Arc<Gate>,
}

impl Attempt<'_> {
    fn check_gate(&self) -> Result<(), SendError> {
        if self.gate.refuses() {
            return Err(SendError::unsent(SendErrorKind::GateClosed));
        }
        Ok(())
    }

    /// `None`: nothing was sent, and another connection may be tried.
    async fn on(&mut self, connection: Connection) -> Result<Option<Exchanged>, SendError> {
        let Some(request) = self.request.take() else {
            return Err(SendError::unsent(self.last));
        };
        match connection.exchange(*request, self.gate).await {
            Ok((response, _)) if self.is_doubtful(&response) => Err(SendError {
                kind: SendErrorKind::BadResponse,
                sent: true,
            }),
            Ok(exchanged) => Ok(Some(exchanged)),
            Err(Failed {
                kind,
                sent: false,
                request: Some(request),
            }) if kind != SendErrorKind::RequestBody => {
                self.last = kind;
                self.request = Some(request);
                Ok(None)
            }
            Err(Failed { kind, sent, .. }) => Err(SendError { kind, sent }),
        }
    }

    fn is_doubtful<B>(&self, response: &Response<B>) -> bool {
        framing::is_ambiguous(response.headers())
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
                && !framing::switches_as_asked(self.upgrade.as_ref(), response.headers())
    }
}

/// A response whose end, or whose tunnel's end, gives back what it took.
fn taken_in(
    mut response: Response<hyper::body::Incoming>,
    place: Place,
    connection: Connection,
) -> Response<InBody> {
    let lease = Lease::new(place, connection, &response);
    let address = lease.address();
    if response.status() == StatusCode::NO_CONTENT {
        // It has none, and must not speak of one (RFC 9110, section 8.6).
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response.map(|incoming| InBody::new(incoming, address, Some(lease)));
    }
    let tunnel = Tunnel::new(hyper::upgrade::on(&mut response), lease);
    response.extensions_mut().insert(tunnel);
    response.map(|incoming| InBody::new(incoming, address, None))
}

impl SendError {
    fn unsent(kind: SendErrorKind) -> Self {
        Self { kind, sent: false }
    }
}
