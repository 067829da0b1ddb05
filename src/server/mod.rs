//! Where clients connect: sockets, TLS, HTTP/1.1 and HTTP/2 (prior knowledge, RFC 9113 section 3.3, or ALPN) on one port,
//! limits, drain.
//!
//! hyper speaks the protocols; everything that makes it safe to face strangers with is here: how many
//! connections there are and how long each may be silent, in every phase. Nothing in here knows of routes,
//! keys or records; a [`Handler`] makes the answers.
//!
//! Reading order: [`Server::run`], `listeners` (which there are), `listening`, `accepting`, `connection`, `entrance` (what
//! comes before HTTP: `proxy_header`, `tls`), `stream` (what the bytes come through), `activity` (what a connection is doing,
//! and for how long), `rate` (how slow a client may be), `addresses`, [`Budget`], `socket`, `wire` (what of HTTP/1 reaches
//! hyper at all), `trailers`, `frames` (how much of HTTP/2 that carries nothing), `flow` (whether an HTTP/2 client takes its
//! responses), [`RequestBody`], [`Upgrade`], `refusal`, [`Counters`].

mod accepting;
mod activity;
mod addresses;
mod body;
mod budget;
mod connection;
mod counters;
mod entrance;
mod flow;
mod frames;
mod inherited;
mod listeners;
mod listening;
mod pieces;
mod proxy_header;
mod rate;
mod refusal;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod trailers;
mod upgrade;
mod wire;

use std::error::Error;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{Limits, ListenAddress, ListenerConfig};

pub(crate) use accepting::{AcceptFailures, concerns_one_connection};
pub use body::{BodyVerdict, RequestBody, RequestBodyError};
pub use budget::{Budget, Held};
pub use counters::{Counters, Limit, Refused, Stats};
pub use entrance::{Entrance, Peer, ProxyFailure};
pub use inherited::Inherited;
pub use listeners::{Listeners, Prepared};
pub use tls::{Change, HandshakeFailure, Tls, TlsFilesError};
pub use upgrade::Upgrade;
pub use wire::{Fault, is_plain_host};

use addresses::{AddressPlace, Addresses, Crowded};
use counters::Closed;
use entrance::Opening;
use listeners::{Opened, Openings};
use listening::{BACKLOG, Listening};
use stream::{Raw, Transport};

/// How long accepting rests when the process or the machine is out of something, such as file descriptors.
/// It goes on earlier when a connection ends.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Connections that are being told that the server is full, at a time; further ones are closed unanswered.
const MAX_REFUSALS: usize = 64;

/// Says when to drain: `None` to serve, then how to end. What it says may be changed. A dropped sender never drains.
pub type Drain = watch::Receiver<Option<Ending>>;

/// How a server ends. Every connection is told at once that it ends: by GOAWAY, which loses no request, or by
/// `Connection: close` on its next answer, for an HTTP/1 connection that is closed may just have been sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Until when new connections are taken: whoever sends them may not have heard yet.
    pub accepts_until: Instant,
    /// When idle HTTP/1 connections are closed.
    pub idle_until: Instant,
    /// When connections that have not ended are dropped.
    pub deadline: Instant,
}

/// Makes the answers.
pub trait Handler: Clone + Send + Sync + 'static {
    /// What a response's body is.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers a request. The future is dropped when the client goes; what must outlive that runs in a task of
    /// its own.
    ///
    /// The request is boxed because futures bear it: one inside the other, each moves it twice.
    fn handle(
        &self,
        request: Box<Request<RequestBody>>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers what is no request, because it breaks a rule of HTTP/1. The connection ends with it. To a HEAD only the
    /// answer's head is sent.
    fn malformed(&self, fault: Fault, is_head: bool, peer: Peer) -> Response<Self::Body>;
}

/// Some sockets that listen.
pub struct Server {
    openings: Openings,
    shared: Arc<Shared>,
}

/// Why a listener cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct BindError {
    address: ListenAddress,
    reason: BindFailure,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
enum BindFailure {
    /// The system refuses it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    /// Somebody else listens for this process, and it does not mean to.
    #[error(
        "a socket with this address was passed to the process (LISTEN_FDS), and no listener has it"
    )]
    Unwanted,
}

/// What all connections share.
struct Shared {
    limits: ArcSwap<Limits>,
    places: Arc<Budget>,
    handshakes: Arc<Budget>,
    refusal_places: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    refusal: ArcSwap<Bytes>,
    accepted: AtomicU64,
    accept_failures: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    closed: Arc<Closed>,
}

impl Server {
    /// Listens on every address, with the certificates that are there now. Connections wait in the kernel until
    /// [`Server::run`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where an address cannot be listened on, or certificates cannot be used.
    pub fn bind(
        listeners: &[ListenerConfig],
        limits: &Limits,
    ) -> Result<(Self, Listeners), BindError> {
        Self::bind_or_take(listeners, limits, Inherited::default())
    }

    /// The same, where listeners whose address one of these sockets has take it instead.
    ///
    /// # Errors
    /// See [`Server::bind`]; and where a socket is left over: nobody would ever serve who connects to it.
    pub fn bind_or_take(
        listeners: &[ListenerConfig],
        limits: &Limits,
        inherited: Inherited,
    ) -> Result<(Self, Listeners), BindError> {
        let (listeners, openings) = Listeners::open(listeners, inherited)?;
        let server = Self {
            openings,
            shared: Arc::new(Shared {
                places: Budget::new(limits.max_connections as u64),
                handshakes: Budget::new(max_handshakes(limits)),
                refusal_places: Arc::new(Semaphore::new(MAX_REFUSALS)),
                addresses: Addresses::new(limits.max_connections_per_address),
                refusal: ArcSwap::from_pointee(refusal::message(b"")),
                accepted: AtomicU64::new(0),
                accept_failures: AtomicU64::new(0),
                refused: Default::default(),
                closed: Arc::default(),
                limits: ArcSwap::from_pointee(limits.clone()),
            }),
        };
        Ok((server, listeners))
    }

    /// Sets the body (`application/problem+json`) of the 503 that clients get where `max_connections` are open; it is
    /// empty otherwise.
    #[must_use]
    pub fn when_full(self, problem: &[u8]) -> Self {
        self.counters().when_full(problem);
        self
    }

    /// The counters, to be kept while the server runs.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters(Arc::clone(&self.shared))
    }

    /// Serves until `drain` says otherwise: then tells every connection (`Connection: close`, GOAWAY), stops listening
    /// when it is time, and returns when all connections have ended or, at the drain's deadline, were dropped.
    ///
    /// Where `max_connections` are open, a further one is accepted and, once it has sent something, told 503 and
    /// closed (GOAWAY where it speaks HTTP/2): a balancer then goes elsewhere at once, and a person sees why.
    pub async fn run<H: Handler>(self, handler: H, mut drain: Drain) {
        let Openings { first, mut later } = self.openings;
        let mut doors = Doors {
            shared: self.shared,
            handler,
            tasks: JoinSet::new(),
            endings: Vec::new(),
        };
        doors.open(first);
        drain.mark_changed();
        let mut is_ending = false;
        while !(is_ending && doors.tasks.is_empty()) {
            tokio::select! {
                biased;
                Ok(()) = drain.changed() => {
                    let ending = *drain.borrow_and_update();
                    if ending.is_some() {
                        is_ending = true;
                        doors.end(ending);
                        // Nobody is to connect where nobody will accept.
                        later.close();
                        while later.try_recv().is_ok() {}
                    }
                }
                Some(opened) = later.recv() => doors.open(opened),
                Some(_) = doors.tasks.join_next() => {}
                // Nobody is left who could ask for anything.
                else => return,
            }
        }
    }
}

/// All doors of a server.
struct Doors<H> {
    shared: Arc<Shared>,
    handler: H,
    tasks: JoinSet<()>,
    /// By which they hear of the drain.
    endings: Vec<watch::Sender<Option<Ending>>>,
}

impl<H: Handler> Doors<H> {
    fn open(&mut self, opened: Vec<Opened>) {
        // Those whose listener is gone have ended.
        self.endings.retain(|ending| ending.receiver_count() > 0);
        for opened in opened {
            let door = Door {
                shared: Arc::clone(&self.shared),
                entrance: opened.entrance,
                address: opened.address,
                is_passed: opened.is_passed,
                handler: self.handler.clone(),
                drain: opened.ending.subscribe(),
                connections: JoinSet::new(),
            };
            self.endings.push(opened.ending);
            self.tasks.spawn(door.serve(opened.listening));
        }
    }

    fn end(&self, ending: Option<Ending>) {
        for one in &self.endings {
            one.send_replace(ending);
        }
    }
}

/// Those who never get beyond it leave the other half to those who do, and to other listeners.
fn max_handshakes(limits: &Limits) -> u64 {
    (limits.max_connections as u64 / 2).max(1)
}

/// One listening socket with the connections that came through it.
struct Door<H> {
    shared: Arc<Shared>,
    entrance: Arc<ArcSwap<Entrance>>,
    address: ListenAddress,
    /// Whether somebody else keeps the socket open.
    is_passed: bool,
    handler: H,
    drain: Drain,
    connections: JoinSet<()>,
}

impl<H: Handler> Door<H> {
    async fn serve(mut self, listener: Listening) {
        let mut failures = AcceptFailures::default();
        loop {
            tokio::select! {
                biased;
                () = refuses(&mut self.drain) => break,
                Some(_) = self.connections.join_next() => {}
                (socket, addr) = accept(&listener, &mut failures, &self.shared) => self.admit(socket, addr),
            }
        }
        if !self.is_passed {
            // They are connected already, and the kernel would reset them.
            for _ in 0..BACKLOG {
                match listener.accept().now_or_never() {
                    Some(Ok((socket, addr))) => self.admit(socket, addr),
                    Some(Err(error)) if concerns_one_connection(&error) => {}
                    _ => break,
                }
            }
        }
        drop(listener);
        self.wait_for_connections().await;
    }

    fn admit(&mut self, socket: Transport, addr: Option<SocketAddr>) {
        let local = match &socket {
            Transport::Tcp(socket) => socket.local_addr().map(ListenAddress::Tcp),
            Transport::Unix(_) => Ok(self.address.clone()),
        };
        let Ok(local) = local else {
            return; // It has gone already.
        };
        let (shared, raw) = (Arc::clone(&self.shared), Raw::new(socket));
        let peer = self.entrance.load_full().peer(addr, local);
        let admitted = match shared.addresses.place(&peer) {
            Err(Crowded) => Err(Refused::Address),
            Ok(of_address) => match shared.places.take(1) {
                Some(place) => Ok((place, of_address)),
                None => Err(Refused::Full),
            },
        };
        let refused = match admitted {
            Ok((place, of_address)) => return self.serve_one(raw, peer, place, of_address),
            Err(refused) => refused,
        };
        shared.refused[refused as usize].fetch_add(1, Ordering::Relaxed);
        if let Ok(place) = Arc::clone(&shared.refusal_places).try_acquire_owned() {
            self.connections.spawn(async move {
                let opening = Opening {
                    limits: &shared.limits.load_full(),
                    handshakes: &shared.handshakes,
                };
                refusal::refuse(raw, peer, opening, &shared.refusal.load_full()).await;
                drop(place);
            });
        }
    }

    fn serve_one(&mut self, raw: Raw, peer: Peer, place: Held, of_address: Option<AddressPlace>) {
        let shared = Arc::clone(&self.shared);
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let (handler, drain) = (self.handler.clone(), self.drain.clone());
        self.connections.spawn(async move {
            connection::serve(raw, peer, of_address, shared, handler, drain).await;
            drop(place);
        });
    }

    async fn wait_for_connections(&mut self) {
        while !self.connections.is_empty() {
            let ending = *self.drain.borrow_and_update();
            let deadline = ending.map_or_else(Instant::now, |ending| ending.deadline);
            tokio::select! {
                biased;
                _ = self.connections.join_next() => {}
                () = sleep_until(deadline) => return self.connections.shutdown().await,
                Ok(()) = self.drain.changed() => {}
            }
        }
    }
}

/// Waits until the drain begins; for ever where nobody can begin it any more.
async fn begins(drain: &mut Drain) {
    if drain.wait_for(Option::is_some).await.is_err() {
        pending::<()>().await;
    }
}

/// Waits until no new connections are taken any more.
async fn refuses(drain: &mut Drain) {
    reaches(drain, |ending| ending.accepts_until).await;
}

/// Waits until this moment of the ending.
async fn reaches(drain: &mut Drain, moment: impl Fn(&Ending) -> Instant) {
    loop {
        begins(drain).await;
        let Some(moment) = drain.borrow_and_update().as_ref().map(&moment) else {
            continue;
        };
        tokio::select! {
            () = sleep_until(moment) => return,
            Ok(()) = drain.changed() => {}
        }
    }
}

async fn accept(
    listener: &Listening,
    failures: &mut AcceptFailures,
    shared: &Shared,
) -> (Transport, Option<SocketAddr>) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                shared.accept_failures.fetch_add(1, Ordering::Relaxed);
                if let Some(failures) = failures.count() {
                    tracing::warn!(%error, failures, "cannot accept connections");
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }
}
