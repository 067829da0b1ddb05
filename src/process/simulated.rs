//! Several processes in one: each polls its tasks unless it is frozen, and drops them once it has crashed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fastrand::Rng;

thread_local! {
    /// Whose task is being polled.
    static CURRENT: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Where a task runs and whom it serves. The tasks that it makes inherit both.
#[derive(Clone)]
pub struct Here {
    /// The process.
    pub process: Process,
    /// The request on whose behalf, by a number that a test gave it.
    pub request: u64,
}

/// A process of a simulation.
#[derive(Clone)]
pub struct Process(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    random: Rng,
    next_task: u64,
    /// Whom to wake when the phase changes, in the order of the tasks' making.
    wakers: BTreeMap<u64, Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Runs,
    Frozen,
    Crashed,
}

impl Here {
    /// Where the task runs that asks; `None` outside of all processes.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// A task of this process on behalf of this request.
    pub fn task<F: Future<Output = ()> + Send + 'static>(self, work: F) -> Task {
        Task::new(Some(self), Box::pin(work))
    }

    fn scoped<T>(&self, run: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let result = run();
        CURRENT.set(before);
        result
    }
}

impl Process {
    /// One whose chance comes from this seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            phase: Phase::Runs,
            random: Rng::with_seed(seed),
            next_task: 0,
            wakers: BTreeMap::new(),
        })))
    }

    /// Its tasks are not polled until it thaws; time and the kernel's buffers go on without it.
    pub fn freeze(&self) {
        let mut state = self.state();
        if state.phase == Phase::Runs {
            state.phase = Phase::Frozen;
        }
    }

    /// Goes on after a freeze.
    pub fn thaw(&self) {
        if self.state().phase == Phase::Frozen {
            self.enter(Phase::Runs);
        }
    }

    /// Every task ends where it is, none of them finds out, and whatever it held is let go.
    pub fn crash(&self) {
        self.enter(Phase::Crashed);
    }

    fn enter(&self, phase: Phase) {
        let wakers: Vec<Waker> = {
            let mut state = self.state();
            state.phase = phase;
            state.wakers.values().flatten().cloned().collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics with the lock")
    }
}

/// A task of the process that makes it, for whatever spawns it.
pub fn task<F: Future<Output = ()> + Send + 'static>(work: F) -> Task {
    Task::new(Here::current(), Box::pin(work))
}

/// A part of this time: at random, or in a process of a simulation as its seed will have it.
pub fn jitter(span: Duration) -> Duration {
    let share = match Here::current() {
        Some(here) => here.process.state().random.u16(..),
        None => super::chance(),
    };
    super::part(span, share)
}

/// A number at random, or in a process of a simulation as its seed will have it.
pub fn dice() -> u64 {
    match Here::current() {
        Some(here) => here.process.state().random.u64(..),
        None => super::thrown(),
    }
}

/// The work of a task, as far as its process lets it go on.
pub struct Task {
    here: Option<(Here, u64)>,
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Task {
    fn new(here: Option<Here>, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        let here = here.map(|here| {
            let mut state = here.process.state();
            state.next_task += 1;
            let number = state.next_task;
            state.wakers.insert(number, None);
            drop(state);
            (here, number)
        });
        Self {
            here,
            work: Some(work),
        }
    }

    fn end(&mut self) {
        if let Some((here, number)) = &self.here {
            // What is dropped with it may make tasks, which belong to the same process.
            here.scoped(|| self.work = None);
            here.process.state().wakers.remove(number);
        }
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(work) = &mut this.work else {
            return Poll::Ready(());
        };
        let Some((here, number)) = &this.here else {
            return work.as_mut().poll(cx);
        };
        let phase = {
            let mut state = here.process.state();
            state.wakers.insert(*number, Some(cx.waker().clone()));
            state.phase
        };
        let polled = match phase {
            Phase::Runs => here.scoped(|| work.as_mut().poll(cx)),
            Phase::Frozen => Poll::Pending,
            Phase::Crashed => Poll::Ready(()),
        };
        if polled.is_ready() {
            this.end();
        }
        polled
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.work.is_some() {
            self.end();
        }
    }
}
