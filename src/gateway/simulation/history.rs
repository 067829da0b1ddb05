//! What happened in a run, in the order of its virtual time.

use std::fmt;
use std::future::pending;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::plan::{Operation, Wanted};

/// What happens. Attempts are requests of clients by their number; an attempt's owner bears its number, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client begins an attempt, at the gateway of this name.
    Sent {
        attempt: u64,
        wants: Wanted,
        host: String,
    },
    /// No gateway listens there.
    NotConnected { attempt: u64 },
    /// The client leaves.
    HungUp { attempt: u64 },
    /// The client has an answer.
    Heard { attempt: u64, answer: Heard },
    /// The store has applied an op.
    Applied {
        /// Whose request it is on behalf of; 0 for an operator.
        attempt: u64,
        operation: Operation,
        op: &'static str,
        verdict: &'static str,
        before: Stood,
        after: Stood,
        /// Whether the request's payload is the record's.
        is_same_payload: bool,
    },
    /// A gateway has heard that it is on record what became of its claim.
    Acknowledged { attempt: u64 },
    /// A gateway has given the first byte of an attempt's request to a socket.
    Dispatched { attempt: u64 },
    /// The upstream has done what the attempt asks for.
    Executed { attempt: u64 },
    /// The upstream has written an answer, whole or not.
    Answered {
        attempt: u64,
        status: u16,
        is_whole: bool,
    },
    /// An operator's word on this operation was taken.
    Released(Operation),
    /// An operator has deleted a record.
    Deleted { operation: Operation, was: Stood },
    /// The store has lost a record.
    Lost { operation: Operation, was: Stood },
    /// A gateway has crashed, or was ended before it had settled everything.
    Crashed { host: String },
    /// Something else befalls.
    Befell(String),
    /// All faults have ended.
    Calm,
    /// Something that must be back to nothing at the end is not.
    Left { host: String, what: String },
}

impl Event {
    fn moment(&self) -> Option<(Moment, u64)> {
        match self {
            Self::Applied {
                attempt,
                op: "claim" | "take_over",
                verdict: "acquired",
                ..
            } => Some((Moment::Claimed, *attempt)),
            Self::Applied {
                attempt,
                op: "complete" | "mark_unknown",
                ..
            } => Some((Moment::Recorded, *attempt)),
            Self::Dispatched { attempt } => Some((Moment::Dispatched, *attempt)),
            Self::Answered { attempt, .. } => Some((Moment::Answered, *attempt)),
            _ => None,
        }
    }
}

/// How a record stood, with the attempt that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stood {
    /// There was none.
    Absent,
    /// Claimed, alive or not.
    Claimed(u64),
    /// Unknown.
    Unknown(u64),
    /// Completed, with what identifies its answer.
    Completed(Option<u64>, String),
    /// A tombstone.
    Expired,
}

/// What a client was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The status.
    pub status: u16,
    /// `Idempotency-Status`.
    pub idempotency: String,
    /// The slug of a refusal.
    pub problem: String,
    /// Its `operation_state`.
    pub state: String,
    /// Its `safe_new_key`.
    pub safe_new_key: bool,
    /// The lines that identify an answer of the upstream's, and its body.
    pub content: String,
    /// Whether the body came to its end.
    pub is_whole: bool,
}

/// An event and its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the run began.
    pub at: Duration,
    /// What happened.
    pub event: Event,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} ", self.at.as_secs_f64())?;
        match &self.event {
            Event::Heard { attempt, answer } => {
                write!(
                    f,
                    "r{attempt} hears {} {}",
                    answer.status, answer.idempotency
                )?;
                if !answer.problem.is_empty() {
                    write!(f, " {} ({})", answer.problem, answer.state)?;
                }
                if !answer.is_whole {
                    write!(f, ", broken off")?;
                }
                write!(f, " {}", answer.content)
            }
            Event::Applied {
                attempt,
                op,
                verdict,
                before,
                after,
                ..
            } => write!(
                f,
                "store: r{attempt} {op}: {before:?} -> {after:?}: {verdict}"
            ),
            event => write!(f, "{event:?}"),
        }
    }
}

/// Where events are written down.
pub struct History {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
    awaited: Mutex<Vec<Awaited>>,
}

/// A moment that a history can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The store has granted a claim.
    Claimed,
    /// The first byte of a request is given to a socket.
    Dispatched,
    /// The upstream has written an answer.
    Answered,
    /// The store has an outcome.
    Recorded,
}

/// Somebody who waits for a moment, and wants to know whose it is.
type Awaited = (Moment, oneshot::Sender<u64>);

impl History {
    /// Begins now.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            entries: Mutex::default(),
            awaited: Mutex::default(),
        }
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// It happens now.
    pub fn add(&self, event: Event) {
        let at = self.now();
        if let Some((moment, attempt)) = event.moment() {
            let mut awaited = self.awaited();
            for (_, told) in awaited.extract_if(.., |(other, _)| *other == moment) {
                // Who waited may have gone.
                let _ = told.send(attempt);
            }
        }
        self.entries().push(Entry { at, event });
    }

    /// Waits for the next such moment; says whose attempt it is.
    pub async fn next(&self, moment: Moment) -> u64 {
        let (told, comes) = oneshot::channel();
        self.awaited().push((moment, told));
        match comes.await {
            Ok(attempt) => attempt,
            Err(_) => pending().await,
        }
    }

    fn awaited(&self) -> MutexGuard<'_, Vec<Awaited>> {
        self.awaited.lock().expect("nothing panics with the lock")
    }

    /// Everything so far.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries())
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().expect("nothing panics with the lock")
    }
}
