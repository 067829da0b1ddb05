//! What a connection is doing, and for how long.
//!
//! Noted by whoever sees it (the socket, the handler's service, bodies) as a few atomic numbers, and judged from
//! time to time by the connection's one timer, so that a request costs no timers.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::flow::Flows;
use super::frames::Flood;
use super::rate::{Allowance, LeastRate};
use super::{Closed, Limit};
use crate::config::Limits;

/// The timer does not go off more often than this, whatever the limits.
const SOONEST: Duration = Duration::from_millis(1);

/// How long a tunnel may be without a byte in either direction: a peer that has gone without a word must not keep its
/// place for ever. Protocols that are quiet by nature send signs of life more often than this.
const TUNNEL_IDLE: Duration = Duration::from_secs(60 * 60);

pub(super) struct Activity {
    epoch: Instant,
    /// HTTP/2 frames come at any time; only requests tell that a client is still at work.
    is_http2: bool,
    /// Whether the client sends more that carries nothing than is borne.
    is_flooded: AtomicBool,
    /// Halves of exchanges that have not ended: requests with a body still to come, and responses.
    halves: AtomicUsize,
    /// Since when there is no half.
    idle_since: Mark,
    /// Since when a request's head is coming in.
    head_since: Mark,
    /// Since when the client takes nothing of what we have for it.
    stuck_since: Mark,
    /// How long it did not, by then, in milliseconds.
    stuck_ms: AtomicU64,
    /// How slowly it may take its responses.
    least_sent: Option<LeastRate>,
    /// What it has left of that, as the socket shows it.
    taking: Option<Allowance>,
    /// Whether the last request's body was given up before its end.
    left_unread: AtomicBool,
    /// Of HTTP/2 responses; over HTTP/1 the socket tells enough.
    flows: Flows,
    /// Since when nothing has moved in the tunnel that the connection is now; none while it speaks HTTP.
    tunnel_since: Mark,
    /// What follows the 101, until the connection's task takes it.
    tunnel: Mutex<Option<BoxFuture<'static, ()>>>,
    /// Whether the connection is to end with a reset.
    is_broken_off: AtomicBool,
    /// Whether the next answer is to be the last.
    is_ending: AtomicBool,
    /// Counts the limits that were over.
    closed: Arc<Closed>,
}

/// A half of an exchange; it ends when this is dropped.
pub(super) struct Half(Arc<Activity>);

/// What is to be done about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judgement {
    /// Nothing, but look again after this long.
    Fine(Duration),
    /// Close it in an orderly way: it was idle for as long as it may, or has ends of responses to give that the
    /// client does not take.
    Close(Limit),
    /// The client keeps us waiting in the middle of something: drop it.
    Stalled(Limit),
}

impl Activity {
    /// Of a connection whose first bytes have just been read.
    pub(super) fn new(
        is_http2: bool,
        least_sent: Option<LeastRate>,
        closed: Arc<Closed>,
    ) -> Arc<Self> {
        let activity = Self {
            epoch: Instant::now(),
            is_http2,
            is_flooded: AtomicBool::new(false),
            halves: AtomicUsize::new(0),
            idle_since: Mark::default(),
            head_since: Mark::default(),
            stuck_since: Mark::default(),
            stuck_ms: AtomicU64::new(0),
            least_sent,
            taking: least_sent.map(Allowance::new),
            left_unread: AtomicBool::new(false),
            flows: Flows::default(),
            tunnel_since: Mark::default(),
            tunnel: Mutex::default(),
            is_broken_off: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            closed,
        };
        activity.idle_since.set(activity.now());
        activity.bytes_came();
        Arc::new(activity)
    }

    /// The socket has given bytes: where no exchange is under way, they begin a request's head.
    pub(super) fn bytes_came(&self) {
        if self.is_tunnel() {
            self.tunnel_since.set(self.now());
        } else if !self.is_http2
            && self.halves.load(Ordering::Relaxed) == 0
            && self.head_since.get().is_none()
        {
            self.head_since.set(self.now());
        }
    }

    /// The socket takes nothing.
    pub(super) fn stuck(&self) {
        if self.stuck_since.get().is_none() {
            self.stuck_since.set(self.now());
        }
    }

    /// The socket has taken so many bytes.
    pub(super) fn unstuck(&self, taken: usize) {
        if self.is_tunnel() {
            self.tunnel_since.set(self.now());
        }
        let stuck_since = self.stuck_since.get();
        if let Some(taking) = &self.taking {
            let waited = stuck_since.map_or(Duration::ZERO, |since| self.since(since));
            taking.moved(taken, waited);
        }
        if let Some(since) = stuck_since {
            let stuck = self.now().saturating_sub(since);
            self.stuck_since.clear();
            self.stuck_ms.fetch_add(stuck, Ordering::Relaxed);
        }
    }

    /// A request's head is complete: an exchange begins, with the request's half where there is a body.
    pub(super) fn begin(self: &Arc<Self>, has_body: bool) -> (Option<Half>, Half) {
        self.head_since.clear();
        self.left_unread.store(false, Ordering::Relaxed);
        if let Some(taking) = self.taking.as_ref().filter(|_| !self.is_http2) {
            taking.renew();
        }
        let half = || {
            self.halves.fetch_add(1, Ordering::Relaxed);
            Half(Arc::clone(self))
        };
        (has_body.then(half), half())
    }

    /// Nobody will read the rest of the request's body.
    pub(super) fn leave_unread(&self) {
        self.left_unread.store(true, Ordering::Relaxed);
    }

    /// A body kept us waiting for longer than this limit lets it, and is given up.
    pub(super) fn body_over(&self, limit: Limit) {
        self.closed.count(limit);
    }

    /// The client sends more that carries nothing than is borne; the connection ends at once, with what this returns.
    pub(super) fn flooded(&self, Flood: Flood) -> io::Error {
        self.is_flooded.store(true, Ordering::Relaxed);
        io::Error::new(io::ErrorKind::ConnectionAborted, "the client floods")
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.load(Ordering::Relaxed)
    }

    /// Whether the client may still be sending something that nobody will read. Closing then resets the
    /// connection, and the client may lose our answer.
    pub(super) fn has_unread(&self) -> bool {
        let mid_request =
            self.left_unread.load(Ordering::Relaxed) || self.head_since.get().is_some();
        mid_request && !self.is_http2
    }

    /// From the next answer on, which is a 101, the connection speaks another protocol.
    pub(super) fn begin_tunnel(&self, tunnel: BoxFuture<'static, ()>) {
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        self.tunnel_since.set(self.now());
    }

    /// Whether what the client sends is no HTTP any more.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel_since.get().is_some()
    }

    /// What follows the 101; given once.
    pub(super) fn tunnel(&self) -> Option<BoxFuture<'static, ()>> {
        let mut tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        tunnel.take()
    }

    /// The connection is to end with a reset.
    pub(super) fn break_off(&self) {
        self.is_broken_off.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_broken_off(&self) -> bool {
        self.is_broken_off.load(Ordering::Relaxed)
    }

    /// The connection is to end with its next answer, over HTTP/1.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// How slowly the client may take its responses.
    pub(super) fn least_sent(&self) -> Option<LeastRate> {
        self.least_sent
    }

    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Also resets the streams whose client takes nothing of its response, or too little, where that can be done.
    pub(super) fn judge(&self, limits: &Limits) -> Judgement {
        let now = self.now();
        // A phase that begins right after this is seen again before it is over.
        let mut next = limits.headers.min(limits.body_idle).min(limits.keep_alive);
        if self.least_sent.is_some() {
            next = next.min(limits.rate_grace);
        }
        let mut over = |now: u64, since: Option<u64>, limit: Duration| {
            let Some(since) = since else {
                return false;
            };
            let left = limit.saturating_sub(Duration::from_millis(now.saturating_sub(since)));
            next = next.min(left);
            left.is_zero()
        };
        let mut keeps_waiting = |now, since, taking: Option<&Allowance>| {
            if over(now, since, limits.body_idle) {
                Some(Limit::BodyIdle)
            } else if taking.is_some_and(|taking| over(now, since, taking.left())) {
                Some(Limit::MinSendRate)
            } else {
                None
            }
        };
        if self.is_tunnel() {
            return if over(now, self.tunnel_since.get(), TUNNEL_IDLE) {
                Judgement::Stalled(Limit::TunnelIdle)
            } else {
                Judgement::Fine(next.max(SOONEST))
            };
        }
        let is_idle = self.halves.load(Ordering::Acquire) == 0;
        // While the socket takes nothing it is what all streams wait for.
        let left_behind = match self.stuck_since.get() {
            Some(_) => None,
            None => {
                let open = self.open_for();
                self.flows
                    .reset_stuck(|since, taking| keeps_waiting(open, since, taking))
            }
        };
        let stuck = keeps_waiting(now, self.stuck_since.get(), self.taking.as_ref());
        if let Some(limit) = stuck {
            Judgement::Stalled(limit)
        } else if over(now, self.head_since.get(), limits.headers) {
            Judgement::Stalled(Limit::Headers)
        } else if let Some(limit) = left_behind {
            Judgement::Close(limit)
        } else if is_idle && over(now, self.idle_since.get(), limits.keep_alive) {
            Judgement::Close(Limit::KeepAlive)
        } else {
            Judgement::Fine(next.max(SOONEST))
        }
    }

    /// For how long the socket has taken whatever there was, in milliseconds. Streams that share a slow one wait for each
    /// other, and only for this long for their client.
    pub(super) fn open_for(&self) -> u64 {
        // In this order, what ends in between is not taken for the client's waiting twice.
        let stuck = self.stuck_ms.load(Ordering::Relaxed);
        let now = self.now();
        let stuck_now = self
            .stuck_since
            .get()
            .map_or(0, |since| now.saturating_sub(since));
        now.saturating_sub(stuck + stuck_now)
    }

    /// How long ago that was.
    pub(super) fn since(&self, moment: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(moment))
    }

    /// In milliseconds since the connection's first bytes.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let Activity {
            halves, idle_since, ..
        } = &*self.0;
        // Only the last one begins an idle time, which has to stand before anybody can see that there is none left.
        let is_not_last = |halves: usize| (halves > 1).then(|| halves - 1);
        if halves
            .fetch_update(Ordering::Release, Ordering::Relaxed, is_not_last)
            .is_err()
        {
            idle_since.set(self.0.now());
            halves.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A moment or none, as one more than its milliseconds or 0.
#[derive(Default)]
pub(super) struct Mark(AtomicU64);

impl Mark {
    pub(super) fn set(&self, ms: u64) {
        self.0.store(ms + 1, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_since_the_last_half_has_ended() {
        let second = Duration::from_secs(1);
        for is_answered_early in [false, true] {
            let activity = Activity::new(false, None, Arc::default());
            advance(second).await;
            let (request, response) = activity.begin(true);
            let (first, last) = match is_answered_early {
                true => (Some(response), request),
                false => (request, Some(response)),
            };
            advance(second).await;
            drop(first);
            assert_eq!(activity.idle_since.get(), Some(0));
            advance(second).await;
            drop(last);
            assert_eq!(activity.idle_since.get(), Some(3000));
        }
    }
}
