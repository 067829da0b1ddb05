//! The connections to one place that requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{Multiplexed, Place};
use crate::upstream::SendErrorKind;

/// Connections to one place that take requests, at a time. A request that finds no stream on any of them waits for one.
pub(in crate::upstream) const MAX_CONNECTIONS: usize = 16;

/// The connections of HTTP/2 to one place.
#[derive(Default)]
pub(in crate::upstream) struct Pool {
    connections: Mutex<Vec<Arc<Multiplexed>>>,
    /// Whoever connects holds it; the others wait for what comes of that.
    connecting: tokio::sync::Mutex<Connecting>,
    /// Whether the place took HTTP/1.1 when it was asked last.
    prefers_http1: AtomicBool,
    freed: Arc<Notify>,
}

#[derive(Default)]
struct Connecting {
    /// When the last attempt that failed was begun, and why it failed.
    failed: Option<(Instant, SendErrorKind)>,
}

/// What a request can be sent on.
pub(in crate::upstream) enum Way<A> {
    /// A connection of its own, which speaks HTTP/1.1.
    Alone(A),
    /// A place on one that is shared.
    Shared(Place),
}

/// What came of connecting.
pub(in crate::upstream) enum Opened<A> {
    Alone(A),
    Shared(Arc<Multiplexed>),
}

impl Pool {
    /// Whether requests find connections of their own rather than shared ones.
    pub(in crate::upstream) fn prefers_http1(&self) -> bool {
        self.prefers_http1.load(Ordering::Relaxed)
    }

    /// What is told when a stream may have become free.
    pub(in crate::upstream) fn freed(&self) -> Arc<Notify> {
        Arc::clone(&self.freed)
    }

    /// A way for one request: on a connection that is there, or else on one that `open` makes. One is made at a time, in
    /// no more than `limit`, unless they are HTTP/1.1; who waits for one that fails has failed, too. Where there are as
    /// many as there may be, it waits for a stream.
    pub(in crate::upstream) async fn way<A, F>(
        &self,
        limit: Duration,
        open: impl FnOnce() -> F,
    ) -> Result<Way<A>, SendErrorKind>
    where
        F: Future<Output = Result<Opened<A>, SendErrorKind>>,
    {
        let arrived = Instant::now();
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.place() {
                return Ok(Way::Shared(place));
            }
            if !self.is_full() {
                break;
            }
            freed.await;
        }
        let locking = timeout(limit, self.connecting.lock()).await;
        let mut connecting = locking.map_err(|_| SendErrorKind::ConnectTimeout)?;
        if let Some(place) = self.place() {
            return Ok(Way::Shared(place));
        }
        if let Some((begun, kind)) = connecting.failed
            && begun >= arrived
        {
            return Err(kind);
        }
        let begun = Instant::now();
        let opened = match self.prefers_http1() {
            true => {
                drop(connecting);
                open().await
            }
            false => {
                let opened = open().await;
                if let Err(kind) = &opened {
                    connecting.failed = Some((begun, *kind));
                }
                opened
            }
        };
        match opened? {
            Opened::Alone(connection) => {
                self.prefers_http1.store(true, Ordering::Relaxed);
                Ok(Way::Alone(connection))
            }
            Opened::Shared(connection) => {
                self.prefers_http1.store(false, Ordering::Relaxed);
                let place = connection.place();
                self.connections().push(connection);
                self.freed.notify_waiters();
                place.map(Way::Shared).ok_or(SendErrorKind::ConnectionLost)
            }
        }
    }

    /// A place on a connection that is there. One whose socket takes no bytes is a last resort: what is given to it waits.
    fn place(&self) -> Option<Place> {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.is_leaving());
        let may_wait = connections.len() >= MAX_CONNECTIONS;
        let sound = || connections.iter().filter(|one| !one.is_doubtful());
        let flowing = sound()
            .filter(|one| !one.is_clogged())
            .find_map(Multiplexed::place);
        flowing.or_else(|| sound().filter(|_| may_wait).find_map(Multiplexed::place))
    }

    fn is_full(&self) -> bool {
        self.connections().len() >= MAX_CONNECTIONS
    }

    /// Ends the connections that were idle for so long; says how many are left.
    pub(in crate::upstream) fn reap(&self, idle_timeout: Duration) -> usize {
        let now = Instant::now();
        let mut connections = self.connections();
        connections.retain(|connection| {
            let is_old = |since| now.saturating_duration_since(since) >= idle_timeout;
            !connection.is_leaving() && !connection.idle_since().is_some_and(is_old)
        });
        connections.len()
    }

    /// The address is left: idle connections end now, those in use when their streams do.
    pub(in crate::upstream) fn leave(&self) {
        let left = std::mem::take(&mut *self.connections());
        drop(left);
    }

    /// Connections.
    pub(in crate::upstream) fn count(&self) -> usize {
        self.connections().len()
    }

    /// Connections without a request.
    pub(in crate::upstream) fn idle_count(&self) -> usize {
        let connections = self.connections();
        let idle = |connection: &&Arc<Multiplexed>| {
            !connection.is_leaving() && connection.idle_since().is_some()
        };
        connections.iter().filter(idle).count()
    }

    /// Whether a connection's socket takes no more for now.
    #[cfg(test)]
    pub(in crate::upstream) fn is_clogged(&self) -> bool {
        self.connections().iter().any(|one| one.is_clogged())
    }

    /// Whether a connection's upstream has not answered a PING in time.
    #[cfg(test)]
    pub(in crate::upstream) fn is_doubtful(&self) -> bool {
        self.connections().iter().any(|one| one.is_doubtful())
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Multiplexed>>> {
        let connections = self.connections.lock();
        connections.unwrap_or_else(PoisonError::into_inner)
    }
}
