//! What a server counts, and the limits that it keeps to, both from outside while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Shared, max_handshakes, refusal};
use crate::config::Limits;

/// A server's counters; they can be read while it runs.
#[derive(Clone)]
pub struct Counters(pub(super) Arc<Shared>);

impl Counters {
    /// Changes what [`super::Server::when_full`] has set.
    pub fn when_full(&self, problem: &[u8]) {
        self.0.refusal.store(Arc::new(refusal::message(problem)));
    }

    /// Changes what everything is bounded by: connections that come, and how long whatever begins may take.
    pub fn set_limits(&self, limits: &Limits) {
        let shared = &self.0;
        shared.places.set_limit(limits.max_connections as u64);
        shared.handshakes.set_limit(max_handshakes(limits));
        shared
            .addresses
            .set_limit(limits.max_connections_per_address);
        shared.limits.store(Arc::new(limits.clone()));
    }

    /// What they are now.
    #[must_use]
    pub fn snapshot(&self) -> Stats {
        Stats {
            connections: self.0.places.held(),
            limit: self.0.places.limit(),
            accepted: self.0.accepted.load(Ordering::Relaxed),
            accept_failures: self.0.accept_failures.load(Ordering::Relaxed),
            refused: self
                .0
                .refused
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
            closed: self
                .0
                .closed
                .limits
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
            floods: self.0.closed.floods.load(Ordering::Relaxed),
        }
    }
}

/// A snapshot of a server's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are open now.
    pub connections: u64,
    /// `max_connections`.
    pub limit: u64,
    /// Connections that were served since the start.
    pub accepted: u64,
    /// Attempts to accept connections that failed since the start, for want of something such as file descriptors.
    pub accept_failures: u64,
    /// Connections that were turned away since the start; in the order of [`Refused::ALL`].
    pub refused: [u64; Refused::ALL.len()],
    /// Connections that were closed since the start because a limit was over; in the order of [`Limit::ALL`].
    pub closed: [u64; Limit::ALL.len()],
    /// HTTP/2 connections that were closed since the start because their client sent too much that carries nothing.
    pub floods: u64,
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `max_connections` are open.
    Full,
    /// `max_connections_per_address` are open from the same address.
    Address,
}

impl Refused {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 2] = [Self::Full, Self::Address];
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
    /// `min_receive_rate`
    MinReceiveRate,
    /// `min_send_rate`
    MinSendRate,
    /// `keep_alive`
    KeepAlive,
    /// An hour, for a tunnel in which nothing moves.
    TunnelIdle,
}

impl Limit {
    /// Every limit, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::FirstByte,
        Self::Headers,
        Self::BodyIdle,
        Self::MinReceiveRate,
        Self::MinSendRate,
        Self::KeepAlive,
        Self::TunnelIdle,
    ];
}

/// Counts the limits that were over, and the floods.
#[derive(Debug, Default)]
pub(super) struct Closed {
    limits: [AtomicU64; Limit::ALL.len()],
    floods: AtomicU64,
}

impl Closed {
    pub(super) fn count(&self, limit: Limit) {
        self.limits[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_flood(&self) {
        self.floods.fetch_add(1, Ordering::Relaxed);
    }
}
