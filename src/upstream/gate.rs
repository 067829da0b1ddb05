//! The gate before a request's first byte.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::time::Instant;

/// Decides, once, whether the first byte of a request may be given to a socket.
///
/// A gate is open until either the socket has taken a byte ([`Gate::written`]) or somebody has closed it
/// ([`Gate::close`]); exactly one of the two happens first and the other never does. It may carry a deadline
/// by the monotonic clock, after which the first write is refused and the gate closes.
///
/// A write that the socket turned away (it was full, or reset) has given it nothing: the gate stays open and
/// the request may be tried on another connection. So it may where an upstream says of a request that was written that it
/// will not process it (RFC 9113, section 8.7): the gate is as it was before, and closed if somebody tried to close it
/// since.
pub struct Gate(Mutex<State>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open {
        until: Option<Instant>,
    },
    Written {
        at: Instant,
        until: Option<Instant>,
        /// Whether somebody tried to close it since.
        is_unwanted: bool,
    },
    Closed,
}

impl Gate {
    /// A gate that refuses the first write after `deadline`.
    #[must_use]
    pub fn until(deadline: Instant) -> Arc<Self> {
        Self::with(Some(deadline))
    }

    /// A gate without a deadline.
    #[must_use]
    pub fn open() -> Arc<Self> {
        Self::with(None)
    }

    fn with(until: Option<Instant>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Open { until })))
    }

    /// Moves the deadline to `deadline` where that is later; without effect on a gate that has none, that is
    /// closed or that was passed. A deadline that went by unnoticed is revived: nothing was refused by it.
    pub fn extend(&self, deadline: Instant) {
        match &mut *self.state() {
            State::Open { until: Some(until) }
            | State::Written {
                until: Some(until), ..
            } => *until = deadline.max(*until),
            State::Open { until: None } | State::Written { until: None, .. } | State::Closed => {}
        }
    }

    /// Closes the gate. True: no byte was given to a socket and none will be. False: it was passed before.
    #[must_use]
    pub fn close(&self) -> bool {
        let mut state = self.state();
        if let State::Written { is_unwanted, .. } = &mut *state {
            *is_unwanted = true;
            return false;
        }
        *state = State::Closed;
        true
    }

    /// What was written has reached nobody, and will not: the next write is a first one again.
    pub(super) fn take_back(&self) {
        let mut state = self.state();
        if let State::Written {
            until, is_unwanted, ..
        } = *state
        {
            *state = match is_unwanted {
                true => State::Closed,
                false => State::Open { until },
            };
        }
    }

    /// Whether a socket has taken at least one byte.
    #[must_use]
    pub fn written(&self) -> bool {
        self.written_at().is_some()
    }

    /// When a socket took the first byte.
    #[must_use]
    pub fn written_at(&self) -> Option<Instant> {
        match *self.state() {
            State::Written { at, .. } => Some(at),
            State::Open { .. } | State::Closed => None,
        }
    }

    /// Whether its deadline is over, or somebody has closed it or tried to. The claim behind it may be another's by now:
    /// what became of the operation is to be asked elsewhere.
    #[must_use]
    pub fn is_lapsed(&self) -> bool {
        match *self.state() {
            State::Closed
            | State::Written {
                is_unwanted: true, ..
            } => true,
            State::Open { until } | State::Written { until, .. } => {
                until.is_some_and(|until| until <= Instant::now())
            }
        }
    }

    /// Whether a first write would be refused now; closes a gate whose deadline is over.
    pub(super) fn refuses(&self) -> bool {
        self.state().refuses()
    }

    /// Lets `write` try to give the first bytes to a socket; `None` where the gate refuses it.
    ///
    /// The gate is locked meanwhile, so `write` must not block: what it says decides the state, and nobody
    /// can close the gate between the attempt and its result.
    pub(super) fn pass<E>(
        &self,
        write: impl FnOnce() -> Poll<Result<usize, E>>,
    ) -> Option<Poll<Result<usize, E>>> {
        let mut state = self.state();
        if state.refuses() {
            return None;
        }
        let result = write();
        if let State::Open { until } = *state
            && matches!(result, Poll::Ready(Ok(1..)))
        {
            *state = State::Written {
                at: Instant::now(),
                until,
                is_unwanted: false,
            };
        }
        Some(result)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refuses(&mut self) -> bool {
        match *self {
            Self::Closed => true,
            Self::Open { until: Some(until) } if until <= Instant::now() => {
                *self = Self::Closed;
                true
            }
            Self::Open { .. } | Self::Written { .. } => false,
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&*self.state()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn write(gate: &Gate, taken: usize) -> Option<Poll<Result<usize, ()>>> {
        gate.pass(|| Poll::Ready(Ok(taken)))
    }

    #[test]
    fn a_write_that_the_socket_turned_away_leaves_the_gate_open() {
        let gate = Gate::open();
        assert!(gate.pass(|| Poll::<Result<usize, ()>>::Pending).is_some());
        assert!(gate.pass(|| Poll::Ready(Err(()))).is_some());
        assert!(write(&gate, 0).is_some());
        assert!(!gate.written());
        assert!(gate.close());
        assert!(write(&gate, 1).is_none());
    }

    #[test]
    fn a_gate_that_was_passed_cannot_be_closed() {
        let gate = Gate::open();
        assert!(write(&gate, 1).is_some());
        assert!(!gate.close());
        assert!(gate.written());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lapsed_deadline_refuses_the_first_write_for_good() {
        let gate = Gate::until(Instant::now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(write(&gate, 1).is_none());
        gate.extend(Instant::now() + Duration::from_secs(1));
        assert!(write(&gate, 1).is_none());
        assert!(gate.close());
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_extends_the_deadline_and_never_shortens_it() {
        let gate = Gate::until(Instant::now() + Duration::from_secs(1));
        gate.extend(Instant::now() + Duration::from_secs(3));
        gate.extend(Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!gate.is_lapsed() && !gate.refuses());
        assert!(write(&gate, 1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_was_passed_lapses_too_and_a_beat_revives_it() {
        let gate = Gate::until(Instant::now() + Duration::from_secs(1));
        assert!(write(&gate, 1).is_some());
        assert!(!gate.is_lapsed());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(gate.is_lapsed());
        gate.extend(Instant::now() + Duration::from_secs(1));
        assert!(!gate.is_lapsed());
        assert!(!gate.close());
        assert!(gate.is_lapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_back_asks_again() {
        let gate = Gate::until(Instant::now() + Duration::from_secs(1));
        assert!(write(&gate, 1).is_some());
        gate.extend(Instant::now() + Duration::from_secs(3));
        gate.take_back();
        assert!(!gate.written());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(write(&gate, 1).is_some());
        gate.take_back();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(write(&gate, 1).is_none());
    }

    #[test]
    fn what_is_taken_back_after_somebody_wanted_it_closed_is_closed() {
        let gate = Gate::open();
        assert!(write(&gate, 1).is_some());
        assert!(!gate.close());
        gate.take_back();
        assert!(write(&gate, 1).is_none());
        assert!(gate.close());
    }

    #[test]
    fn of_a_close_and_a_write_that_race_exactly_one_wins() {
        const ROUNDS: usize = 2_000;
        let wins = AtomicUsize::new(0);
        for _ in 0..ROUNDS {
            let (gate, start) = (Gate::open(), Barrier::new(2));
            let (written, closed) = thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    start.wait();
                    write(&gate, 1).is_some()
                });
                start.wait();
                let closed = gate.close();
                (writer.join().unwrap(), closed)
            });
            assert_ne!(written, closed);
            assert_eq!(gate.written(), written);
            wins.fetch_add(usize::from(written), Ordering::Relaxed);
        }
        println!("the write won {} of {ROUNDS}", wins.into_inner());
    }
}
