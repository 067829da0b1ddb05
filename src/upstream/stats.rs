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
