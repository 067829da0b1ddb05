//! The only thread that writes: it takes what waits in the queue, applies it in one change to the database, and
//! answers once that is on disk.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::engine::{Change, Changed, Engine, Failure, Tally};
use super::{MAX_MARKS, Phase, Shared};
use crate::protocol::{self, Mark, Op, Owner, RecordId, Timestamp, Verdict, Version};
use crate::store::{NotDone, StoreError};

/// Ops in one change at most. Groups grow by themselves while a sync is under way; the bound keeps a single
/// change, and the wait of the first op in it, short.
const GROUP_MAX: usize = 256;

/// How often the writer looks at claims whose retention has ended, and at the schedule while nobody calls.
const TICK: Duration = Duration::from_secs(1);

/// Claimed records looked at with a tick.
const CLAIMED_STEP: usize = 256;

/// How long the writer waits until it tries again to open a database that failed; doubled up to the longest.
const RETRY_SHORTEST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// How long changes have to succeed until the trouble before them is over.
const CALM: Duration = Duration::from_secs(3);

/// What is asked of a record.
#[derive(Clone)]
pub enum Task {
    /// One op.
    Op(Op),
    /// An operator's delete.
    Forget(Version),
}

/// One that waits for its verdict.
pub struct Call {
    pub id: RecordId,
    pub task: Task,
    pub reply: oneshot::Sender<Result<Verdict, StoreError>>,
}

/// The writer's own state.
pub struct Writer {
    pub shared: Arc<Shared>,
    pub calls: Receiver<Call>,
    /// What the database holds.
    pub tally: Tally,
    /// It was said that the file cannot be written, and not yet that it can.
    pub trouble: Option<Trouble>,
    /// Told when the file is let go of.
    pub closed: watch::Sender<bool>,
}

impl Writer {
    /// Works until nobody can call any more, then closes the database.
    pub fn run(mut self) {
        let mut sweep = Sweep::default();
        let mut retry = Retry::default();
        loop {
            let wait = if sweep.behind { Duration::ZERO } else { TICK };
            let first = match self.calls.recv_timeout(wait) {
                Ok(call) => Some(call),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut group: Vec<Call> = first.into_iter().collect();
            group.extend(self.calls.try_iter().take(GROUP_MAX - group.len()));
            self.say_calm();
            if !self.is_open() {
                self.try_again(&mut retry);
            }
            if self.is_open() {
                self.work(group, &mut sweep);
            } else {
                sweep.behind = false;
                self.refuse(group);
            }
        }
        self.close();
    }

    /// Applies a group of ops, with a step of the sweep, in one change.
    fn work(&mut self, group: Vec<Call>, sweep: &mut Sweep) {
        let now = (self.shared.settings.clock)();
        let mut results = Vec::with_capacity(group.len());
        let mut marks = Marked::new(Arc::clone(&self.shared), now);
        let mut committing = None;
        let shared = Arc::clone(&self.shared);
        let outcome = shared.with_engine(|engine| {
            let steps = |change: &mut Change<'_>| {
                for call in &group {
                    results.push(apply(
                        change,
                        call,
                        &mut marks,
                        self.shared.settings.max_size,
                        now,
                    )?);
                }
                sweep.step(change, group.len(), now)
            };
            engine.change(self.tally, steps, |sequence| committing = Some(sequence))
        });
        let outcome = match outcome {
            Ok(changed) => self.acknowledge(changed),
            Err(failure) => Err(failure),
        };
        let fate = match outcome {
            Ok(()) => Fate::Done,
            Err(failure) => self.fail(&failure, committing),
        };
        marks.settle(&fate);
        answer(group, results, &fate);
    }

    /// Notes the change in the file's head before anybody is told of it.
    fn acknowledge(&mut self, Changed { tally, moves }: Changed) -> Result<(), Failure> {
        if tally != self.tally {
            self.shared
                .file
                .acknowledge(tally.sequence)
                .map_err(redb::Error::Io)?;
            self.hold(tally);
            let now = (self.shared.settings.clock)();
            let mut open = self.shared.open();
            let aged_out = moves.into_iter().map(|moved| open.make(moved, now));
            let aged_out = aged_out.map(u64::from).sum();
            drop(open);
            self.shared.aged_out.fetch_add(aged_out, Ordering::Relaxed);
            if let Some(trouble) = &mut self.trouble {
                trouble.wrote_since = true;
            }
        }
        Ok(())
    }

    /// A change failed. The database refuses everything after a failure, so it is opened anew; then it is known
    /// whether the change is in it.
    fn fail(&mut self, failure: &Failure, committing: Option<u64>) -> Fate {
        let reason = self.shared.named(failure);
        self.shared.set_phase(Phase::Failed(reason.clone()));
        self.say_trouble(&reason);
        let reopened = self.confirm().and_then(|()| self.reopen());
        match (committing, reopened) {
            (None, _) => Fate::NotDone(reason),
            (Some(sequence), Ok(())) if self.tally.sequence >= sequence => Fate::Done,
            (Some(_), Ok(())) => Fate::NotDone(reason),
            (Some(_), Err(_)) => Fate::InDoubt(reason),
        }
    }

    /// Said once, however many changes fail.
    fn say_trouble(&mut self, reason: &str) {
        let trouble = Trouble {
            failed: Instant::now(),
            wrote_since: false,
        };
        if self.trouble.replace(trouble).is_none() {
            tracing::error!(
                reason,
                "the store cannot write; it refuses what it cannot record, and tries again by itself",
            );
        }
    }

    /// Said after a calm: on a full disk a small change may find room between two large ones that do not.
    fn say_calm(&mut self) {
        let is_over =
            |trouble: &mut Trouble| trouble.wrote_since && trouble.failed.elapsed() >= CALM;
        if self.trouble.take_if(is_over).is_some() {
            tracing::info!(path = %self.shared.path.display(), "the store writes again");
        }
    }

    /// What the disk did not confirm is written again before the database is opened anew, or the verification would
    /// read it from memory and call it whole. A disk that is still full mostly says so here already.
    fn confirm(&self) -> Result<(), Failure> {
        self.shared.file.confirm().map_err(redb::Error::Io)?;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        let (engine, tally) = Engine::open(&self.shared.file, self.shared.settings.cache_bytes)?;
        self.shared
            .file
            .acknowledge(tally.sequence)
            .map_err(redb::Error::Io)?;
        *self.shared.open() = engine.index()?;
        self.hold(tally);
        self.shared.set_phase(Phase::Open(Box::new(engine)));
        Ok(())
    }

    fn try_again(&mut self, retry: &mut Retry) {
        if !retry.is_due() {
            return;
        }
        let confirmed = self.confirm();
        let wrote = confirmed.is_ok();
        match confirmed.and_then(|()| self.reopen()) {
            Ok(()) => *retry = Retry::default(),
            Err(failure) => {
                let reason = self.shared.named(&failure);
                self.shared.set_phase(Phase::Failed(reason));
                if wrote {
                    retry.later();
                } else {
                    retry.soon();
                }
            }
        }
    }

    fn refuse(&self, group: Vec<Call>) {
        let reason = match &*self
            .shared
            .phase
            .read()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Phase::Failed(reason) => reason.clone(),
            Phase::Open(_) | Phase::Closed => String::new(),
        };
        answer(group, Vec::new(), &Fate::NotDone(reason));
    }

    fn is_open(&self) -> bool {
        let phase = self
            .shared
            .phase
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        matches!(&*phase, Phase::Open(_))
    }

    fn hold(&mut self, tally: Tally) {
        self.tally = tally;
        self.shared.show(tally);
    }

    fn close(self) {
        if let Phase::Open(engine) = self.shared.set_phase(Phase::Closed) {
            // Every change is on disk already; what fails here only makes the next opening repair more.
            let _ = engine.close();
        }
        self.shared.file.release();
        let _ = self.closed.send(true);
    }
}

/// The file could not be written.
pub struct Trouble {
    /// When last.
    failed: Instant,
    /// A change was committed since.
    wrote_since: bool,
}

/// What became of a group.
enum Fate {
    Done,
    NotDone(String),
    InDoubt(String),
}

fn answer(group: Vec<Call>, results: Vec<Result<Verdict, NotDone>>, fate: &Fate) {
    let mut results = results.into_iter();
    for call in group {
        let result = match (fate, results.next()) {
            (Fate::Done, Some(result)) => result.map_err(StoreError::from),
            (Fate::NotDone(reason), _) => Err(NotDone::OutOfOrder(reason.clone()).into()),
            (Fate::InDoubt(reason), _) => Err(StoreError::InDoubt(reason.clone())),
            (Fate::Done, None) => Err(StoreError::InDoubt("the op was passed over".into())),
        };
        // Nobody waits any more: to whoever asked, the op is in doubt.
        let _ = call.reply.send(result);
    }
}

/// Applies one op. What fails for this op only is the inner error; the outer one fails the whole change.
fn apply(
    change: &mut Change<'_>,
    call: &Call,
    marks: &mut Marked,
    max_size: u64,
    now: Timestamp,
) -> Result<Result<Verdict, NotDone>, Failure> {
    let id = call.id;
    let claims = matches!(call.task, Task::Op(Op::Claim { .. }));
    if claims && call.reply.is_closed() {
        // Its caller has given up. Nobody would dispatch for this claim, and somebody would have to release it.
        return Ok(Err(NotDone::Overloaded));
    }
    let before = match change.read(&id) {
        Ok(before) => before,
        Err(Failure::Record(_, error)) => return Ok(Err(NotDone::Unreadable(error.to_string()))),
        Err(failure) => return Err(failure),
    };
    let leaves_mark = match &call.task {
        Task::Op(op) => crate::store::leaves_mark(op),
        Task::Forget(_) => true,
    };
    if leaves_mark && !marks.have_room() {
        return Ok(Err(NotDone::Overloaded));
    }
    let current = before.clone().and_then(|record| record.at(now));
    let (after, left, verdict) = match call.task.clone() {
        Task::Op(op) => {
            let marked = op.owner().is_some_and(|owner| marks.contains(id, owner));
            let (after, mark, verdict) = protocol::apply(current.clone(), marked, op, now);
            (after, Vec::from_iter(mark), verdict)
        }
        Task::Forget(version) => protocol::forget(current.clone(), version, now),
    };
    if claims && current.is_none() && after.is_some() && change.bytes() >= max_size {
        return Ok(Err(NotDone::Full));
    }
    for mark in left {
        marks.insert(id, mark);
    }
    if after != current {
        change.replace(&id, before.as_ref(), after.as_ref())?;
    }
    Ok(Ok(verdict))
}

/// The marks that a group sets. They stand before the change is visible, so that whoever sees it sees them.
struct Marked {
    shared: Arc<Shared>,
    now: Timestamp,
    added: Vec<(RecordId, Owner)>,
}

impl Marked {
    fn new(shared: Arc<Shared>, now: Timestamp) -> Self {
        shared.marks().forget_some(now);
        Self {
            shared,
            now,
            added: Vec::new(),
        }
    }

    fn have_room(&self) -> bool {
        self.shared.marks().len() < MAX_MARKS
    }

    fn contains(&self, id: RecordId, owner: Owner) -> bool {
        self.shared.marks().contains(id, owner, self.now)
    }

    fn insert(&mut self, id: RecordId, mark: Mark) {
        let mut marks = self.shared.marks();
        if !marks.contains(id, mark.owner, self.now) {
            self.added.push((id, mark.owner));
        }
        marks.insert(id, mark, self.now);
    }

    /// Takes the marks back where the change certainly did not come about.
    fn settle(self, fate: &Fate) {
        if matches!(fate, Fate::NotDone(_)) {
            let mut marks = self.shared.marks();
            for (id, owner) in self.added {
                marks.remove(id, owner);
            }
        }
    }
}

/// How far the writer is with forgetting what has ended.
#[derive(Default)]
struct Sweep {
    /// More settled records are due.
    behind: bool,
    /// The claimed record that was looked at last.
    claimed: Option<RecordId>,
    ticked: Option<Instant>,
}

impl Sweep {
    /// Looks at about as many records as the group has ops, so that forgetting keeps up with what comes in.
    fn step(&mut self, change: &mut Change<'_>, ops: usize, now: Timestamp) -> Result<(), Failure> {
        if self.ticked.is_none_or(|ticked| ticked.elapsed() >= TICK) {
            self.ticked = Some(Instant::now());
            self.claimed = change.sweep_claimed(self.claimed, CLAIMED_STEP, now)?;
        }
        let mut looked = 0;
        loop {
            let step = change.sweep_settled(now)?;
            self.behind = step > 0;
            looked += step;
            if step == 0 || looked >= ops {
                return Ok(());
            }
        }
    }
}

/// When to try again to open the database.
#[derive(Default)]
struct Retry {
    next: Option<(Instant, Duration)>,
}

impl Retry {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|(at, _)| Instant::now() >= at)
    }

    /// Trying was cheap, and what is in the way may be gone at any moment.
    fn soon(&mut self) {
        self.next = Some((Instant::now() + RETRY_SHORTEST, RETRY_SHORTEST));
    }

    /// Trying has read the whole file.
    fn later(&mut self) {
        let wait = self
            .next
            .map_or(RETRY_SHORTEST, |(_, wait)| (wait * 2).min(RETRY_LONGEST));
        self.next = Some((Instant::now() + wait, wait));
    }
}
