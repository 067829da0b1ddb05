//! What metrics say about an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::SendErrorKind;

/// A snapshot of an upstream's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are open now, idle or not.
    pub open: usize,
    /// Connections that wait for a request now.
    pub idle: usize,
    /// Requests whose response has not ended.
    pub in_flight: usize,
    /// Connections opened since the start.
    pub connects: u64,
    /// Responses that broke off after their head, since the start.
    pub cut_off: u64,
    /// Requests that ended with an error since the start; see [`Stats::errors`].
    pub(super) errors: [u64; SendErrorKind::ALL.len()],
}

impl Stats {
    /// How many requests ended with an error of this kind since the start.
    #[must_use]
    pub fn errors(&self, kind: SendErrorKind) -> u64 {
        self.errors[kind as usize]
    }
}

/// How one endpoint of an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStats {
    /// As it is configured.
    pub endpoint: String,
    /// Its addresses that get requests.
    pub usable: usize,
    /// Its addresses that could not be connected to.
    pub ejected: usize,
    /// Its addresses that fail their health checks.
    pub unhealthy: usize,
    /// What was counted since the last time that somebody asked.
    pub since: EndpointCounts,
}

/// What happened at an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Addresses that were ejected.
    pub ejections: u64,
    /// Health checks that passed.
    pub checks_passed: u64,
    /// Health checks that failed.
    pub checks_failed: u64,
    /// Answers about its name with addresses.
    pub lookups_answered: u64,
    /// Answers that its name has none.
    pub lookups_without_address: u64,
    /// Questions about its name that nobody answered.
    pub lookups_unanswered: u64,
}

/// What came of asking for a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lookup {
    Answered,
    NoAddress,
    NoAnswer,
}

#[derive(Debug, Default)]
pub(super) struct EndpointCounters {
    ejections: AtomicU64,
    checks: [AtomicU64; 2],
    lookups: [AtomicU64; 3],
}

impl EndpointCounters {
    pub(super) fn ejected(&self) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn checked(&self, passed: bool) {
        self.checks[usize::from(passed)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lookup(&self, result: Lookup) {
        self.lookups[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last call.
    pub(super) fn take(&self) -> EndpointCounts {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let [checks_failed, checks_passed] = self.checks.each_ref().map(take);
        let lookups = self.lookups.each_ref().map(take);
        let [
            lookups_answered,
            lookups_without_address,
            lookups_unanswered,
        ] = lookups;
        EndpointCounts {
            ejections: take(&self.ejections),
            checks_passed,
            checks_failed,
            lookups_answered,
            lookups_without_address,
            lookups_unanswered,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    open: AtomicUsize,
    connects: AtomicU64,
    cut_off: AtomicU64,
    errors: [AtomicU64; SendErrorKind::ALL.len()],
}

/// Counts a connection as open while it lives.
pub(super) struct OpenConnection(Arc<Counters>);

impl Counters {
    pub(super) fn opened(self: &Arc<Self>) -> OpenConnection {
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    pub(super) fn cut_off(&self) {
        self.cut_off.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, kind: SendErrorKind) {
        self.errors[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Stats {
        Stats {
            open: self.open.load(Ordering::Relaxed),
            connects: self.connects.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
            errors: self
                .errors
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
            ..Stats::default()
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
