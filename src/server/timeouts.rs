//! How often clients kept us waiting for longer than they may.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often each limit on a client's silence was over, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Connections closed because they said nothing, or not which protocol they speak.
    pub first_byte: u64,
    /// Connections closed in the middle of a request's head.
    pub headers: u64,
    /// Bodies of requests that stalled, and responses of which the client took nothing more.
    pub body_idle: u64,
    /// Connections closed because they were idle.
    pub keep_alive: u64,
}

/// A limit on a client's silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Silence {
    FirstByte,
    Headers,
    BodyIdle,
    KeepAlive,
}

/// Counts them.
#[derive(Default)]
pub(super) struct Silences {
    first_byte: AtomicU64,
    headers: AtomicU64,
    body_idle: AtomicU64,
    keep_alive: AtomicU64,
}

impl Silences {
    pub(super) fn count(&self, silence: Silence) {
        let counter = match silence {
            Silence::FirstByte => &self.first_byte,
            Silence::Headers => &self.headers,
            Silence::BodyIdle => &self.body_idle,
            Silence::KeepAlive => &self.keep_alive,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Timeouts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Timeouts {
            first_byte: read(&self.first_byte),
            headers: read(&self.headers),
            body_idle: read(&self.body_idle),
            keep_alive: read(&self.keep_alive),
        }
    }
}
