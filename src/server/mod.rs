//! Where clients connect: sockets, HTTP/1.1 and HTTP/2 (prior knowledge, RFC 9113 section 3.3) on one port, limits,
//! drain.
//!
//! hyper speaks the protocols; everything that makes it safe to face strangers with is here: how many
//! connections there are and how long each may be silent, in every phase. Nothing in here knows of routes,
//! keys or records; a [`Handler`] makes the answers.
//!
//! Reading order: [`Server::run`], `connection`, `activity` (what a connection is doing, and for how long),
//! `socket`, `wire` (what of HTTP/1 reaches hyper at all), `flow` (whether an HTTP/2 client takes its responses),
//! [`RequestBody`], [`Upgrade`], `refusal`.

mod activity;
mod body;
mod connection;
mod flow;
mod refusal;
mod socket;
#[cfg(test)]
mod tests;
mod upgrade;
mod wire;

use std::error::Error;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body::Body;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Limits;

pub use body::{BodyVerdict, RequestBody, RequestBodyError};
pub use upgrade::Upgrade;
pub use wire::{Fault, is_plain_host};

/// Connections that the kernel holds until they are accepted; it cuts this down to its own limit.
const BACKLOG: i32 = 1024;

/// How long accepting rests when the process or the machine is out of something, such as file descriptors.
/// It goes on earlier when a connection ends.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Connections that are being told that the server is full, at a time; further ones are closed unanswered.
const MAX_REFUSALS: usize = 64;

/// Says when to drain: `None` to serve, then how to end. What it says may be changed. A dropped sender never drains.
pub type Drain = watch::Receiver<Option<Ending>>;

/// How a server ends. Every connection is told at once that it ends (`Connection: close`, GOAWAY), and closed where it
/// is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Until when new connections are taken: whoever sends them may not have heard yet.
    pub accepts_until: Instant,
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

    /// Answers what is no request, because it breaks a rule of HTTP/1. The connection ends with it.
    fn malformed(&self, fault: Fault, peer: Peer) -> Response<Self::Body>;
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address.
    pub addr: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

/// Some sockets that listen.
pub struct Server {
    listeners: Vec<(TcpListener, SocketAddr)>,
    shared: Arc<Shared>,
}

/// A server's counters; they can be read while it runs.
#[derive(Clone)]
pub struct Counters(Arc<Shared>);

/// A snapshot of a server's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are open now.
    pub connections: usize,
    /// `max_connections`.
    pub limit: usize,
    /// Connections that were served since the start.
    pub accepted: u64,
    /// Connections that were turned away since the start, because the server was full.
    pub refused: u64,
    /// Connections that were closed since the start because a limit was over; in the order of [`Limit::ALL`].
    pub closed: [u64; Limit::ALL.len()],
}

/// What a connection may keep waiting for, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `first_byte`
    FirstByte,
    /// `headers`
    Headers,
    /// `body_idle`
    BodyIdle,
    /// `keep_alive`
    KeepAlive,
    /// An hour, for a tunnel in which nothing moves.
    TunnelIdle,
}

impl Limit {
    /// Every limit, in the order of their declaration.
    pub const ALL: [Self; 5] = [
        Self::FirstByte,
        Self::Headers,
        Self::BodyIdle,
        Self::KeepAlive,
        Self::TunnelIdle,
    ];
}

/// Counts the limits that were over.
#[derive(Debug, Default)]
struct Closed([AtomicU64; Limit::ALL.len()]);

impl Closed {
    fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// What all connections share.
struct Shared {
    limits: Limits,
    places: Arc<Semaphore>,
    refusal_places: Arc<Semaphore>,
    refusal: Bytes,
    accepted: AtomicU64,
    refused: AtomicU64,
    closed: Arc<Closed>,
}

impl Server {
    /// Listens on every address. Connections wait in the kernel until [`Server::run`]. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// Where an address cannot be listened on.
    pub fn bind(addresses: &[SocketAddr], limits: &Limits) -> io::Result<Self> {
        let max = limits.max_connections.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            listeners: addresses
                .iter()
                .map(|address| listen(*address))
                .collect::<Result<_, _>>()?,
            shared: Arc::new(Shared {
                places: Arc::new(Semaphore::new(max)),
                refusal_places: Arc::new(Semaphore::new(MAX_REFUSALS)),
                refusal: refusal::message(b""),
                accepted: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                closed: Arc::default(),
                limits: Limits {
                    max_connections: max,
                    ..limits.clone()
                },
            }),
        })
    }

    /// Sets the body (`application/problem+json`) of the 503 that clients get where `max_connections` are open; it is
    /// empty otherwise.
    #[must_use]
    pub fn when_full(mut self, problem: &[u8]) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.refusal = refusal::message(problem);
        }
        self
    }

    /// The addresses that are listened on, in the order of [`Server::bind`], with the ports that the kernel chose.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, address)| *address).collect()
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
    pub async fn run<H: Handler>(self, handler: H, drain: Drain) {
        let shared = &self.shared;
        join_all(self.listeners.into_iter().map(|(listener, _)| {
            let door = Door {
                shared: Arc::clone(shared),
                handler: handler.clone(),
                drain: drain.clone(),
                connections: JoinSet::new(),
            };
            door.serve(listener)
        }))
        .await;
    }
}

impl Counters {
    /// What they are now.
    #[must_use]
    pub fn snapshot(&self) -> Stats {
        let limit = self.0.limits.max_connections;
        Stats {
            connections: limit - self.0.places.available_permits(),
            limit,
            accepted: self.0.accepted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            closed: self
                .0
                .closed
                .0
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for connections of the last run that the kernel still remembers.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// One listening socket with the connections that came through it.
struct Door<H> {
    shared: Arc<Shared>,
    handler: H,
    drain: Drain,
    connections: JoinSet<()>,
}

impl<H: Handler> Door<H> {
    async fn serve(mut self, listener: TcpListener) {
        loop {
            tokio::select! {
                biased;
                () = refuses(&mut self.drain) => break,
                Some(_) = self.connections.join_next() => {}
                (socket, address) = accept(&listener) => self.admit(socket, address),
            }
        }
        drop(listener);
        self.wait_for_connections().await;
    }

    fn admit(&mut self, socket: TcpStream, addr: SocketAddr) {
        let shared = &self.shared;
        let Ok(local) = socket.local_addr() else {
            return; // It has gone already.
        };
        if let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() {
            shared.accepted.fetch_add(1, Ordering::Relaxed);
            let peer = Peer { addr, local };
            let limits = shared.limits.clone();
            let closed = Arc::clone(&shared.closed);
            let (handler, drain) = (self.handler.clone(), self.drain.clone());
            self.connections.spawn(async move {
                connection::serve(socket, peer, limits, closed, handler, drain).await;
                drop(place);
            });
            return;
        }
        shared.refused.fetch_add(1, Ordering::Relaxed);
        if let Ok(place) = Arc::clone(&shared.refusal_places).try_acquire_owned() {
            let message = shared.refusal.clone();
            self.connections.spawn(async move {
                refusal::refuse(socket, &message).await;
                drop(place);
            });
        }
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
    loop {
        begins(drain).await;
        let Some(Ending { accepts_until, .. }) = *drain.borrow_and_update() else {
            continue;
        };
        tokio::select! {
            () = sleep_until(accepts_until) => return,
            Ok(()) = drain.changed() => {}
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Errors of a connection that failed between its arrival and our accepting it; the next one may be well.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
