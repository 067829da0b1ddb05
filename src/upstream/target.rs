//! One address of an endpoint: what requests are balanced over. Its idle connections, the requests under way to it, and
//! whether it is worth trying.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::OutBody;
use super::connection::{Condition, Connection};
use super::http2;
use super::socket::Address;

/// Idle connections kept for one address; more are closed when their exchange ends. It holds the bursts of a
/// busy gateway, and stays well below the usual limit of 1024 file descriptors.
const MAX_IDLE: usize = 256;

/// How long an address that could not be connected to is tried only where no other one is well: at first, and at most.
/// It doubles with every trial that fails.
const AVOID_MS: (u64, u64) = (2_000, 30_000);

/// How often an ejection of one address is logged.
const SAY_EVERY_MS: u64 = 10_000;

pub(super) struct Target {
    pub(super) address: Address,
    /// The endpoint's place in the configuration.
    pub(super) endpoint: usize,
    /// Requests whose response has not ended.
    in_flight: AtomicUsize,
    idle: Mutex<Pool>,
    /// Connections that requests share whose bodies are at hand, and those of requests whose bodies stream.
    ///
    /// Whoever takes in such a body may stop reading it, which uses up what the upstream takes on the whole connection,
    /// of all requests together: it must not be one that others wait for.
    pub(super) shared: http2::Pool,
    streaming: http2::Pool,
    /// Since when `avoid_until` counts.
    epoch: Instant,
    /// Milliseconds since `epoch`; 0 for an address that is well.
    avoid_until: AtomicU64,
    /// Trials in a row that failed.
    failures: AtomicU32,
    /// It fails its health checks.
    is_unhealthy: AtomicBool,
    /// When its standing was last logged; as `avoid_until`.
    said_at: AtomicU64,
    /// And that it is over was not.
    is_said: AtomicBool,
    /// Cancelled when the endpoint has left it.
    gone: CancellationToken,
}

/// How an address stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It gets its share of the requests.
    Usable,
    /// It could not be connected to, and nobody has succeeded since.
    Ejected,
    /// It fails its health checks.
    Unhealthy,
}

#[derive(Default)]
struct Pool {
    /// The last one in is the first one out: the others may grow old and go.
    idle: Vec<Idle>,
    /// The endpoint has left the address: nothing is kept any more.
    is_gone: bool,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

/// What the end of an attempt to connect says about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trial {
    /// It was well when the attempt began.
    Usual,
    /// It was avoided long enough, and this attempt is the one that finds out.
    First,
    /// It was avoided, and nothing better was there.
    Desperate,
}

impl Target {
    pub(super) fn new(address: Address, endpoint: usize) -> Self {
        Self {
            address,
            endpoint,
            in_flight: AtomicUsize::new(0),
            idle: Mutex::default(),
            shared: http2::Pool::default(),
            streaming: http2::Pool::default(),
            epoch: Instant::now(),
            avoid_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            is_unhealthy: AtomicBool::new(false),
            said_at: AtomicU64::new(0),
            is_said: AtomicBool::new(false),
            gone: CancellationToken::new(),
        }
    }

    /// The connections that requests with such a body share.
    pub(super) fn pool_for(&self, body: Option<&OutBody>) -> &http2::Pool {
        match body {
            Some(OutBody::Streaming(_)) => &self.streaming,
            Some(OutBody::Empty | OutBody::Full(_)) | None => &self.shared,
        }
    }

    /// Requests whose response has not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn entered(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn left(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// What is to be said about it.
    pub(super) fn standing(&self) -> Standing {
        if self.is_unhealthy.load(Ordering::Relaxed) {
            Standing::Unhealthy
        } else if self.avoid_until.load(Ordering::Relaxed) != 0 {
            Standing::Ejected
        } else {
            Standing::Usable
        }
    }

    /// What its health checks say.
    pub(super) fn set_healthy(&self, is_healthy: bool) {
        self.is_unhealthy.store(!is_healthy, Ordering::Relaxed);
    }

    /// Whether its ejection is to be logged: a hasty coming and going is not worth a line each.
    pub(super) fn says_ejected(&self) -> bool {
        let now = self.now_ms();
        let said_at = self.said_at.load(Ordering::Relaxed);
        let is_time = said_at == 0 || now >= said_at + SAY_EVERY_MS;
        let says = is_time
            && self
                .said_at
                .compare_exchange(said_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if says {
            self.is_said.store(true, Ordering::Relaxed);
        }
        says
    }

    /// Whether it is to be logged that it is over: where its beginning was.
    pub(super) fn says_back(&self) -> bool {
        self.is_said.swap(false, Ordering::Relaxed)
    }

    /// Done when the endpoint has left it.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Whether it is worth a request: it passes its checks, and has not failed, or it is time to try it again.
    pub(super) fn is_well(&self) -> bool {
        if self.is_unhealthy.load(Ordering::Relaxed) {
            return false;
        }
        match self.avoid_until.load(Ordering::Relaxed) {
            0 => true,
            until => until <= self.now_ms(),
        }
    }

    /// Says that a request is about to connect. Of those that find the time of avoidance over, the first one
    /// tries; the others see the address avoided until that one has succeeded.
    pub(super) fn try_out(&self) -> Trial {
        let until = self.avoid_until.load(Ordering::Relaxed);
        if until == 0 {
            return Trial::Usual;
        }
        let now = self.now_ms();
        let again = now + self.span_ms();
        let is_first = until <= now
            && self
                .avoid_until
                .compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        match is_first {
            true => Trial::First,
            false => Trial::Desperate,
        }
    }

    /// The attempt did not come to a connection; true where the address is avoided from now on and was not before.
    ///
    /// Of many that fail together, the first one counts.
    pub(super) fn failed(&self, trial: Trial) -> bool {
        let is_avoided = self.avoid_until.load(Ordering::Relaxed) != 0;
        if trial == Trial::Desperate || trial == Trial::Usual && is_avoided {
            return false;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let until = self.now_ms() + self.span_ms();
        self.avoid_until.swap(until, Ordering::Relaxed) == 0
    }

    /// There is a connection; true where the address was avoided before.
    pub(super) fn succeeded(&self) -> bool {
        if self.avoid_until.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.avoid_until.swap(0, Ordering::Relaxed) != 0
    }

    fn span_ms(&self) -> u64 {
        let (first, most) = AVOID_MS;
        let doublings = self.failures.load(Ordering::Relaxed).saturating_sub(1);
        first.saturating_mul(1 << doublings.min(16)).min(most)
    }

    /// Never 0, which means well.
    fn now_ms(&self) -> u64 {
        1 + u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// The youngest idle connection that may take a request; those known to be dead or too old on the way are closed. The
    /// wire looks closely before the first byte.
    pub(super) fn check_out(&self) -> Option<Connection> {
        let mut busy = Vec::new();
        let found = loop {
            let Some(idle) = self.pool().idle.pop() else {
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
            let mut pool = self.pool();
            if !pool.is_gone {
                pool.idle.append(&mut busy);
            }
        }
        found
    }

    /// Keeps a connection whose exchange has ended for at most `keep`; false where there are too many, or the address is
    /// left.
    pub(super) fn check_in(&self, connection: Connection, keep: Duration) -> bool {
        let until = Instant::now() + keep;
        let mut pool = self.pool();
        let has_room = !pool.is_gone && pool.idle.len() < MAX_IDLE;
        if has_room {
            pool.idle.push(Idle { connection, until });
        }
        has_room
    }

    /// Closes the idle connections that are too old or dead; says how many are left, with those that may become idle.
    pub(super) fn reap(&self, idle_timeout: Duration) -> usize {
        let shared = self.shared.reap(idle_timeout) + self.streaming.reap(idle_timeout);
        let now = Instant::now();
        let mut gone = Vec::new();
        let idle = &mut self.pool().idle;
        for index in (0..idle.len()).rev() {
            let is_dead = || idle[index].connection.condition(true) == Condition::Dead;
            if idle[index].until <= now || is_dead() {
                gone.push(idle.remove(index));
            }
        }
        idle.len() + shared
    }

    /// The endpoint has this address no more: idle connections are closed now, those in use when their exchange ends.
    pub(super) fn leave(&self) {
        self.gone.cancel();
        let mut pool = self.pool();
        pool.is_gone = true;
        let idle = std::mem::take(&mut pool.idle);
        drop(pool);
        drop(idle);
        self.shared.leave();
        self.streaming.leave();
    }

    pub(super) fn idle_count(&self) -> usize {
        self.pool().idle.len() + self.shared.idle_count() + self.streaming.idle_count()
    }

    /// Whether there are connections that are to be looked through.
    pub(super) fn needs_reaper(&self) -> bool {
        !self.pool().idle.is_empty() || self.shared.count() + self.streaming.count() > 0
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
