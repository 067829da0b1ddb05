//! What was found on the wire, for those who answer; and what was answered, for those who follow the wire.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;

use super::Fault;

/// What both sides of hyper know of one HTTP/1 connection. Requests are numbered from 1, in their order, which hyper
/// keeps: it calls for the next one when the one before is answered.
#[derive(Default)]
pub(in crate::server) struct Findings {
    calls: AtomicU64,
    fault: OnceLock<Found>,
    /// The last request that asked for another protocol; 0: none has.
    asked: AtomicU64,
    told: AtomicU8,
    waits: AtomicWaker,
}

struct Found {
    /// Of the request.
    number: u64,
    fault: Fault,
    in_body: bool,
}

/// What became of a request to change the protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Http,
    Tunnel,
}

impl Findings {
    /// hyper has called for an answer: the request's number, and what is wrong with it where it is only a stand-in.
    pub(in crate::server) fn call(&self) -> (u64, Option<Fault>) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let found = self.fault.get();
        let found = found.filter(|found| found.number == number && !found.in_body);
        (number, found.map(|found| found.fault))
    }

    /// The request has its answer. From a 101 on the connection's bytes are no HTTP any more, and pass unlooked at.
    pub(in crate::server) fn answered(&self, number: u64, is_tunnel: bool) {
        if self.has_asked(number) {
            let told = if is_tunnel { Told::Tunnel } else { Told::Http };
            self.told.store(told as u8, Ordering::Release);
            self.waits.wake();
        }
    }

    /// What broke the body that is being read.
    pub(in crate::server) fn body_fault(&self) -> Option<Fault> {
        let found = self.fault.get().filter(|found| found.in_body)?;
        Some(found.fault)
    }

    pub(super) fn refuse(&self, number: u64, fault: Fault) {
        // The first fault is the last: nothing is read behind it.
        let _ = self.fault.set(Found {
            number,
            fault,
            in_body: false,
        });
    }

    pub(super) fn break_body(&self, number: u64, fault: Fault) {
        let _ = self.fault.set(Found {
            number,
            fault,
            in_body: true,
        });
    }

    pub(super) fn asked(&self, number: u64) {
        self.told.store(Told::Nothing as u8, Ordering::Relaxed);
        self.asked.store(number, Ordering::Release);
    }

    pub(super) fn has_asked(&self, number: u64) -> bool {
        self.asked.load(Ordering::Acquire) == number
    }

    /// Wakes `cx` up once there is something to tell.
    pub(super) fn poll_told(&self, cx: &Context<'_>) -> Told {
        self.waits.register(cx.waker());
        match self.told.load(Ordering::Acquire) {
            told if told == Told::Http as u8 => Told::Http,
            told if told == Told::Tunnel as u8 => Told::Tunnel,
            _ => Told::Nothing,
        }
    }
}
