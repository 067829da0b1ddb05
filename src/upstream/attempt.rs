//! The way of one request: from address to address, and from connection to connection, until one of them takes it.
//!
//! As long as nothing of it was sent there is a next one. What an attempt to connect comes to is noted with its address.

use std::io;
use std::sync::Arc;

use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::body::Source;
use super::connection::{Connection, Failed, NotConnected};
use super::http2::{self, Opened, Way};
use super::lease::{Lease, Place};
use super::opening::Opening;
use super::target::Target;
use super::tls::Offer;
use super::{Gate, InBody, OutBody, SendError, SendErrorKind, Tunnel, Upstream, framing};

/// Shared connections to one address that may go away under a request before it is sent, in a row: some servers end each
/// after a number of requests.
const MAX_GOODBYES: usize = 4;

impl Upstream {
    /// Sends a request to one address after another, until one of them has it.
    pub(super) async fn try_targets(
        self: &Arc<Self>,
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
            if let Some(exchanged) = self.try_target(&target, &mut attempt).await? {
                return Ok(exchanged.taken_in(place));
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
        self: &Arc<Self>,
        target: &Target,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<Exchanged>, SendError> {
        let offer = self.endpoints[target.endpoint].offer(attempt.upgrade.is_some());
        let may_be_alone = match offer {
            Offer::Http1 => true,
            Offer::Either => attempt.pool(target).prefers_http1(),
            Offer::Http2 => false,
        };
        if may_be_alone
            && let Some(connection) = target.check_out()
            && let Some(exchanged) = attempt.alone(connection).await?
        {
            return Ok(Some(exchanged));
        }
        // Boxed, so that what finds a connection, as most requests do, needs no room for making one.
        match offer {
            Offer::Http1 => self.try_anew(target, attempt).boxed().await,
            Offer::Either | Offer::Http2 => self.try_shared(target, attempt).boxed().await,
        }
    }

    /// The same, on a connection that others use, too, or on one of its own where the endpoint wants that. An upstream that
    /// says goodbye just then is connected to anew.
    async fn try_shared(
        self: &Arc<Self>,
        target: &Target,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<Exchanged>, SendError> {
        let pool = attempt.pool(target);
        for _ in 0..MAX_GOODBYES {
            attempt.check_gate()?;
            // Boxed, as above: most find a connection here, too.
            let open = || self.connect_shared(target, pool).boxed();
            let way = pool.way(self.connect_timeout, open).await;
            // Not before the pool has what was made: a reaper that has just found nothing there might have gone.
            self.start_reaper();
            let way = match way {
                Ok(way) => way,
                Err(kind) => {
                    attempt.last = kind;
                    return Ok(None);
                }
            };
            if let Some(exchanged) = attempt.on(way).await? {
                return Ok(Some(exchanged));
            }
            if attempt.last == SendErrorKind::Refused {
                break;
            }
        }
        Ok(None)
    }

    /// The same, on a connection that is made for it.
    async fn try_anew(
        &self,
        target: &Target,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<Exchanged>, SendError> {
        attempt.check_gate()?;
        match self.connect(target).await {
            Ok(connection) => attempt.alone(connection).await,
            Err(kind) => {
                attempt.last = kind;
                Ok(None)
            }
        }
    }

    /// Makes a connection for one request at a time.
    async fn connect(&self, target: &Target) -> Result<Connection, SendErrorKind> {
        let opening = self.opening(target);
        let connecting = opening.open_alone(target.address.clone());
        self.remembered(target, connecting).await
    }

    /// Makes a connection that requests may share, for this pool of the address.
    async fn connect_shared(
        self: &Arc<Self>,
        target: &Target,
        pool: &http2::Pool,
    ) -> Result<Opened<Connection>, SendErrorKind> {
        let opening = self.opening(target);
        let (address, freed) = (target.address.clone(), pool.freed());
        let connecting = opening.open(address, self.liveness, freed);
        self.remembered(target, connecting).await
    }

    /// Makes a connection to an address, which remembers how that went.
    async fn remembered<T>(
        &self,
        target: &Target,
        connecting: impl Future<Output = Result<T, NotConnected>>,
    ) -> Result<T, SendErrorKind> {
        let trial = target.try_out();
        match connecting.await {
            Ok(connection) => {
                self.is_back(target);
                Ok(connection)
            }
            Err(failed) => {
                if target.failed(trial) {
                    self.is_ejected(target, &failed);
                }
                Err(failed.kind)
            }
        }
    }

    /// Makes a connection of the protocol that requests take, and for nobody else.
    pub(super) async fn open(&self, target: &Target) -> Result<Way<Connection>, NotConnected> {
        let opening = self.opening(target);
        let (address, freed) = (target.address.clone(), Arc::default());
        match opening.open(address, self.liveness, freed).await? {
            Opened::Alone(connection) => Ok(Way::Alone(connection)),
            Opened::Shared(connection) => connection.place().map(Way::Shared).ok_or_else(|| {
                NotConnected::because(SendErrorKind::ConnectionLost)(
                    io::ErrorKind::ConnectionAborted.into(),
                )
            }),
        }
    }

    pub(super) fn opening(&self, target: &Target) -> Opening<'_> {
        let endpoint = &self.endpoints[target.endpoint];
        Opening {
            dialer: &self.dialer,
            security: endpoint.security(),
            offer: endpoint.offer(false),
            limit: self.connect_timeout,
            counters: &self.counters,
        }
    }

    fn is_ejected(&self, target: &Target, failed: &NotConnected) {
        let endpoint = &self.endpoints[target.endpoint];
        endpoint.counters.ejected();
        if target.says_ejected() {
            tracing::warn!(
                upstream = &*self.name, endpoint = &*endpoint.label, address = %target.address, reason = %failed,
                "an address cannot be connected to; for a while it is tried only where no other one is well"
            );
        }
    }

    /// There is a connection.
    pub(super) fn is_back(&self, target: &Target) {
        if target.succeeded() && target.says_back() {
            tracing::info!(
                upstream = &*self.name, endpoint = &*self.endpoints[target.endpoint].label, address = %target.address,
                "an address can be connected to again"
            );
        }
    }
}

/// The head of a response, and what its body comes on.
enum Exchanged {
    Alone(Response<hyper::body::Incoming>, Connection),
    Shared(Response<http2::Received>, http2::Held),
}

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
    /// The connections that it may share.
    fn pool<'t>(&self, target: &'t Target) -> &'t http2::Pool {
        target.pool_for(self.request.as_ref().map(|request| request.body()))
    }

    fn check_gate(&self) -> Result<(), SendError> {
        if self.gate.refuses() {
            return Err(SendError::unsent(SendErrorKind::GateClosed));
        }
        Ok(())
    }

    /// `None`: nothing was sent, and another connection may be tried.
    async fn on(&mut self, way: Way<Connection>) -> Result<Option<Exchanged>, SendError> {
        match way {
            Way::Alone(connection) => self.alone(connection).await,
            Way::Shared(place) => {
                let exchange = place.exchange(self.taken()?, self.gate).await;
                self.judged(exchange.map(|(response, held)| Exchanged::Shared(response, held)))
            }
        }
    }

    /// The same, on a connection of its own.
    async fn alone(&mut self, connection: Connection) -> Result<Option<Exchanged>, SendError> {
        let exchange = connection.exchange(*self.taken()?, self.gate).await;
        self.judged(exchange.map(|(response, own)| Exchanged::Alone(response, own)))
    }

    fn taken(&mut self) -> Result<Box<Request<OutBody>>, SendError> {
        self.request.take().ok_or(SendError::unsent(self.last))
    }

    fn judged(
        &mut self,
        exchanged: Result<Exchanged, Failed>,
    ) -> Result<Option<Exchanged>, SendError> {
        match exchanged {
            Ok(exchanged) if self.is_doubtful(&exchanged) => Err(SendError {
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

    fn is_doubtful(&self, exchanged: &Exchanged) -> bool {
        let (status, headers) = match exchanged {
            Exchanged::Alone(response, _) => (response.status(), response.headers()),
            Exchanged::Shared(response, _) => (response.status(), response.headers()),
        };
        framing::is_ambiguous(headers)
            || status == StatusCode::SWITCHING_PROTOCOLS
                && !framing::switches_as_asked(self.upgrade.as_ref(), headers)
    }
}

impl Exchanged {
    /// The response, whose end, or whose tunnel's end, gives back what it took.
    fn taken_in(self, place: Place) -> Response<InBody> {
        let (mut response, lease) = match self {
            Self::Alone(response, connection) => {
                let lease = Lease::new(place, connection, &response);
                (response.map(Source::Connection), lease)
            }
            Self::Shared(response, held) => {
                let lease = Lease::of_stream(place, held);
                (response.map(Source::Stream), lease)
            }
        };
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
}
