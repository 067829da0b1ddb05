//! HTTP/2 to the upstreams: connections that many requests share.
//!
//! The line between *not sent* and *sent* is drawn here in two places. A request is given to a connection by the
//! connection's own task ([`driver`]), one at a time and only while the socket takes bytes, so that its HEADERS are
//! written in the same breath in which its gate was asked. And where nothing was written since, or the upstream says
//! itself that it did not process the request (REFUSED_STREAM, or a GOAWAY below its stream: RFC 9113, sections 6.8 and
//! 8.7), it is taken back. Everything else is sent.
//!
//! What an upstream can make a connection hold is bounded: response bodies by [`CONNECTION_WINDOW`], heads by
//! [`MAX_RESPONSE_HEAD`], streams by [`MAX_STREAMS`], interim responses by `MOST_INTERIM`. h2 bounds the rest:
//! one PING and one SETTINGS are answered before the next frame is read; CONTINUATION frames are counted against the
//! head's bound; small DATA frames that wait to be read have a budget, empty ones a number (100), and so have frames on
//! streams that are gone (1024). Pushes are switched off.
//!
//! Reading order: [`Pool`], [`Multiplexed`], `driver`, `exchange`, `line`, `head`, `body`.

mod body;
mod driver;
mod exchange;
mod head;
mod line;
mod pool;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::{Reason, client};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::SendErrorKind;
use super::connection::{MAX_RESPONSE_HEAD, NotConnected};
use super::socket::Socket;
use super::stats::Counters;
use crate::process;
use exchange::Job;
use line::{Line, LineIo};

pub(super) use body::Received;
pub(super) use exchange::Held;
#[cfg(test)]
pub(super) use pool::MAX_CONNECTIONS;
pub(super) use pool::{Opened, Pool, Way};

/// Streams of one connection at a time, where its upstream allows as many or more; further requests go by another one.
/// So many readers that have stopped reading fill [`CONNECTION_WINDOW`], and none of them holds up another one.
const MAX_STREAMS: usize = 128;

/// What one response may send ahead of its reader: 100 MB/s at a distance of a millisecond.
const STREAM_WINDOW: u32 = 128 * 1024;

/// What all responses of a connection may send ahead of their readers.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 128;

/// What h2 holds of one request's streamed body beside what the socket has; it also bounds how long new requests wait
/// behind bodies.
const SEND_BUFFER: usize = 64 * 1024;

/// [`MAX_RESPONSE_HEAD`], as SETTINGS_MAX_HEADER_LIST_SIZE has it.
const MAX_HEADER_LIST: u32 = 128 * 1024;
const _: () = assert!(MAX_HEADER_LIST as usize == MAX_RESPONSE_HEAD);

/// Streams that were cancelled and are remembered for [`REMEMBER_RESET`], since frames for them may be on the way. For
/// one that is forgotten, each such frame counts against a bound of h2's that ends the connection.
const REMEMBERED_RESETS: usize = 1024;

/// Longer than a frame is on its way.
const REMEMBER_RESET: Duration = Duration::from_secs(2);

/// When an upstream that says nothing is taken for dead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    /// After so long, at most twice, without a byte on a connection in use its upstream is asked by a PING.
    pub(super) quiet: Duration,
    /// Without an answer for so long, new requests go by other connections.
    pub(super) doubt: Duration,
    /// And for so long, counted from then, the connection is given up. A service that computes instead of answering may be
    /// at work on the requests all the same, and their outcomes would not be known.
    pub(super) give_up: Duration,
}

impl Liveness {
    /// Of connections to upstreams.
    pub(super) const USUAL: Self = Self {
        quiet: Duration::from_secs(5),
        doubt: Duration::from_secs(5),
        give_up: Duration::from_secs(25),
    };
}

type Handshake = (
    client::SendRequest<Bytes>,
    client::Connection<LineIo, Bytes>,
);

/// A connection that requests share. Dropping the last reference ends it when its streams have ended.
pub(super) struct Multiplexed {
    jobs: mpsc::Sender<Box<Job>>,
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    is_secure: bool,
}

/// What a connection's task and its streams know of each other.
struct Shared {
    line: Line,
    usage: Mutex<Usage>,
    /// It takes no more requests: its upstream has said so, or it has ended.
    is_leaving: AtomicBool,
    /// A PING has not been answered in time.
    is_doubtful: AtomicBool,
    /// Heads and bytes of responses that came.
    answers: AtomicU64,
    /// Wakes the connection's task.
    task: AtomicWaker,
    /// Told where a stream may have become free.
    freed: Arc<Notify>,
}

struct Usage {
    /// Requests that have a place, and of them those that were given to h2.
    taken: usize,
    begun: usize,
    /// Places that there are.
    limit: usize,
    idle_since: Instant,
}

impl Multiplexed {
    /// Begins to speak HTTP/2 over a fresh socket and waits for the upstream's SETTINGS. So whoever speaks something else
    /// is found out before a request is sent, and so is how many streams there may be.
    pub(super) async fn open(
        socket: Socket,
        address: Option<SocketAddr>,
        is_secure: bool,
        liveness: Liveness,
        freed: Arc<Notify>,
        counters: &Arc<Counters>,
    ) -> Result<Arc<Self>, NotConnected> {
        let (line, io) = Line::new(socket);
        let (sender, connection) = shake_hands(io).await?;
        let shared = Arc::new(Shared {
            line,
            usage: Mutex::new(Usage {
                taken: 0,
                begun: 0,
                limit: connection.max_concurrent_send_streams().min(MAX_STREAMS),
                idle_since: Instant::now(),
            }),
            is_leaving: AtomicBool::new(false),
            is_doubtful: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            task: AtomicWaker::new(),
            freed,
        });
        // A request that waits in it has its place, of which there are no more.
        let (jobs, queue) = mpsc::channel(MAX_STREAMS);
        let work = driver::run(
            sender,
            connection,
            queue,
            Arc::clone(&shared),
            liveness,
            counters.opened(),
        );
        tokio::spawn(process::task(work));
        Ok(Arc::new(Self {
            jobs,
            shared,
            address,
            is_secure,
        }))
    }

    /// Whether HTTP/2 is spoken at the other end of a fresh socket.
    pub(super) async fn try_out(socket: Socket) -> Result<(), NotConnected> {
        let (_, io) = Line::new(socket);
        shake_hands(io).await.map(drop)
    }

    /// A place for one request, where there is one.
    pub(super) fn place(self: &Arc<Self>) -> Option<Place> {
        let mut usage = self.shared.usage();
        if self.is_leaving() || usage.taken >= usage.limit {
            return None;
        }
        usage.taken += 1;
        drop(usage);
        Some(Place {
            connection: Arc::clone(self),
            is_begun: AtomicBool::new(false),
        })
    }

    fn is_leaving(&self) -> bool {
        self.shared.is_leaving.load(Ordering::Acquire)
    }

    fn is_doubtful(&self) -> bool {
        self.shared.is_doubtful.load(Ordering::Relaxed)
    }

    fn is_clogged(&self) -> bool {
        self.shared.line.is_clogged()
    }

    /// Since when there is no request on it.
    fn idle_since(&self) -> Option<Instant> {
        let usage = self.shared.usage();
        (usage.taken == 0).then_some(usage.idle_since)
    }
}

/// Returns once the upstream's SETTINGS have come.
async fn shake_hands(io: LineIo) -> Result<Handshake, NotConnected> {
    let failed = |error| NotConnected {
        kind: SendErrorKind::Connect,
        error: io::Error::other(format!("it does not speak HTTP/2: {error}")),
    };
    let shaking = builder().handshake::<_, Bytes>(io).await;
    let (sender, mut connection) = shaking.map_err(failed)?;
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(failed(error))),
        Poll::Ready(Ok(())) => Poll::Ready(Err(failed(Reason::NO_ERROR.into()))),
        Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((sender, connection))
}

fn builder() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        // None before the upstream has said how many.
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESET);
    builder
}

impl Shared {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more requests are taken.
    fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
        self.freed.notify_waiters();
    }

    /// A part of a response has come.
    fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// A place for one request on a connection, until its stream has ended.
pub(super) struct Place {
    connection: Arc<Multiplexed>,
    /// Whether h2 has the request.
    is_begun: AtomicBool,
}

impl Place {
    fn begin(&self) {
        self.is_begun.store(true, Ordering::Relaxed);
        self.connection.shared.usage().begun += 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.connection.shared;
        let mut usage = shared.usage();
        usage.taken -= 1;
        usage.begun -= usize::from(*self.is_begun.get_mut());
        if usage.taken == 0 {
            usage.idle_since = Instant::now();
        }
        drop(usage);
        shared.task.wake();
        shared.freed.notify_one();
    }
}
