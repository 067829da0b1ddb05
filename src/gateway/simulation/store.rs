//! A store of several processes whose answers are late, lost or refused, and whose ops may be applied late or twice. What
//! it applies is what [`protocol::apply`] says, unless a test breaks it.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::history::{Event, Stood};
use super::plan::{Fault, Operation};
use super::world::World;
use crate::process::Here;
use crate::protocol::{
    self, Answer, Fingerprint, Mark, Op, Owner, Record, RecordId, Resolution, Response, Retention,
    State, Timestamp, Verdict, Version,
};
use crate::store::{Hints, NotDone, Store, StoreError, Unresolved, Usage};

/// The store's clock when a run begins.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// How long the store's ops may be on their way; marks stand for longer.
const LATEST_MS: u64 = 20_000;

/// A guard of the protocol that a test takes away, to see the checker find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing is.
    Nothing,
    /// What may have been sent is released: the record goes instead of saying unknown.
    UnknownIsReleased,
    /// An answer completes whatever record there is.
    CompleteComparesNothing,
    /// A claim in doubt is not given back.
    DoubtIsNotSettled,
    /// A claim whose lease is over counts as none.
    LapsedIsAbsent,
    /// An answer is acknowledged before it is stored.
    AnsweredBeforeStored,
    /// A release leaves no mark.
    ReleaseLeavesNoMark,
    /// A store that has asked twice trusts the first answer.
    CopiesAreNoDoubt,
}

/// Whether the store can be asked at all.
const WELL: u8 = 0;
const DOWN: u8 = 1;
const MUTE: u8 = 2;

/// The store of a run.
pub struct ScriptedStore {
    world: Arc<World>,
    broken: Broken,
    clock_offset_ms: AtomicI64,
    condition: AtomicU8,
    epoch: AtomicU64,
    hints: watch::Sender<()>,
    state: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    records: BTreeMap<RecordId, Record>,
    marks: Vec<(RecordId, Mark)>,
    /// The attempts behind owners.
    owners: HashMap<Owner, u64>,
    /// The operations behind record ids.
    operations: BTreeMap<RecordId, (Operation, HashMap<Fingerprint, u64>)>,
}

/// What the network makes of a call.
enum Way {
    /// It arrives after this long, and the answer comes back.
    Arrives(Duration),
    /// It arrives after this long, and no answer comes back.
    Unheard(Duration),
    /// The same, and the caller is told that it is in doubt.
    InDoubt(Duration),
    /// It arrives, is answered, and arrives again so much later.
    Twice(Duration, Duration),
    /// It never arrives, and the caller hears nothing.
    Lost,
    /// The caller is told that it was not done, after so long.
    Refused(Duration),
}

impl ScriptedStore {
    /// An empty one.
    pub fn new(world: Arc<World>, broken: Broken) -> Arc<Self> {
        Arc::new(Self {
            world,
            broken,
            clock_offset_ms: AtomicI64::new(EPOCH_MS),
            condition: AtomicU8::new(WELL),
            epoch: AtomicU64::new(1),
            hints: watch::Sender::new(()),
            state: Mutex::default(),
        })
    }

    /// The hold of one process on it.
    pub fn client(self: &Arc<Self>) -> Arc<dyn Store> {
        Arc::new(StoreClient(Arc::clone(self)))
    }

    /// The clock jumps, forward or back.
    pub fn jump(&self, by_ms: i64) {
        self.clock_offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Refuses everything from now on.
    pub fn down(&self) {
        self.condition.store(DOWN, Ordering::Relaxed);
    }

    /// Says nothing from now on.
    pub fn mute(&self) {
        self.condition.store(MUTE, Ordering::Relaxed);
    }

    /// Works from now on.
    pub fn well(&self) {
        self.condition.store(WELL, Ordering::Relaxed);
    }

    /// Loses what there is about an operation.
    pub fn lose(&self, operation: Operation) {
        let mut held = self.held();
        let known = held.operations.iter();
        let found = known.filter(|(_, (known, _))| *known == operation);
        let found: Option<RecordId> = found.map(|(id, _)| *id).next();
        if let Some(record) = found.and_then(|id| held.records.remove(&id)) {
            let was = held.stood(Some(&record));
            self.world.history.add(Event::Lost { operation, was });
        }
    }

    /// An operator who saw the record some time ago says what became of it.
    pub fn resolve(&self, operation: Operation, gone: bool) {
        let (id, seen) = {
            let held = self.held();
            let mut found = held.operations.iter();
            let Some((id, _)) = found.find(|(_, (known, _))| *known == operation) else {
                return;
            };
            let seen = held.records.get(id).and_then(Record::seen);
            (*id, seen)
        };
        let Some(seen) = seen else { return };
        let answer = Response {
            status: 200,
            headers: Vec::new(),
            body: bytes::Bytes::from_static(b"settled by hand"),
        };
        let verdict = match gone {
            true => Resolution::Gone,
            false => Resolution::Completed {
                answer: Answer::Stored(Arc::new(answer)),
                retention: Retention {
                    keep: Duration::from_secs(86_400),
                    tombstone: Duration::ZERO,
                },
            },
        };
        if self.apply_now(id, Op::Resolve { seen, verdict }, 0) == Verdict::Done && gone {
            self.world.history.add(Event::Released(operation));
        }
    }

    /// An operator deletes what there is about an operation, and says so to all gateways.
    pub fn delete(&self, operation: Operation) {
        let mut held = self.held();
        let mut known = held.operations.iter();
        let found = known.find(|(_, (known, _))| *known == operation);
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        let now = self.now();
        let record = held.records.get(&id).cloned();
        let Some(record) = record.and_then(|record| record.at(now)) else {
            return;
        };
        let was = held.stood(Some(&record));
        let version = record.version();
        let (after, marks, verdict) = protocol::forget(Some(record), version, now);
        if verdict != Verdict::Done || after.is_some() {
            return;
        }
        held.records.remove(&id);
        held.marks.extend(marks.into_iter().map(|mark| (id, mark)));
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.world.history.add(Event::Deleted { operation, was });
    }

    /// How every record stands, at the end.
    pub fn records(&self) -> Vec<(Operation, Stood)> {
        let held = self.held();
        let now = self.now();
        let stood = |(id, (operation, _)): (&RecordId, &(Operation, _))| {
            let record = held.records.get(id).cloned();
            let record = record.and_then(|record| record.at(now));
            (*operation, held.stood(record.as_ref()))
        };
        held.operations.iter().map(stood).collect()
    }

    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.world.history.now().as_millis()).expect("a run is short");
        let ms = ms + self.clock_offset_ms.load(Ordering::Relaxed);
        Timestamp(u64::try_from(ms).expect("the clock jumps a little"))
    }

    fn way(&self, op: &'static str, attempt: u64) -> Way {
        let world = &self.world;
        let mut draw = world.draw(op, attempt);
        let quick = draw.ms(0..=4);
        let once = |draw: &mut super::chance::Draw, fault| world.has(fault) && draw.percent(20);
        if once(&mut draw, Fault::StoreRefuses) {
            return Way::Refused(quick);
        }
        if once(&mut draw, Fault::StoreSilent) {
            return match draw.number(0..=2) {
                0 => Way::Unheard(quick),
                1 => Way::InDoubt(quick),
                _ => Way::Lost,
            };
        }
        if once(&mut draw, Fault::StoreLate) {
            let late = draw.ms_to_one(250, &[1_000, LATEST_MS]);
            return match draw.percent(50) {
                true => Way::Unheard(late),
                false => Way::InDoubt(late),
            };
        }
        if once(&mut draw, Fault::StoreRepeats) {
            let again = draw.ms_to_one(1, &[100, LATEST_MS]);
            return Way::Twice(quick, again);
        }
        if once(&mut draw, Fault::StoreSlow) {
            return Way::Arrives(draw.ms(50..=600));
        }
        Way::Arrives(quick)
    }

    /// Applies an op by the rules, unless they are broken.
    fn apply_now(&self, id: RecordId, op: Op, attempt: u64) -> Verdict {
        let mut held = self.held();
        let held = &mut *held;
        if let Some(owner) = op.owner() {
            held.owners.entry(owner).or_insert(attempt);
        }
        let wants = self.world.plan.wanted(attempt);
        let known = held.operations.entry(id).or_insert_with(|| {
            let operation = wants.map_or(Operation { scope: 9, key: 9 }, |wants| wants.operation);
            (operation, HashMap::new())
        });
        if let (Some(wants), Some(fingerprint)) = (wants, fingerprint(&op)) {
            known.1.insert(fingerprint, wants.payload);
        }
        let operation = known.0;
        let now = self.now();
        let before = held.records.get(&id).cloned();
        let before = before.and_then(|record| record.at(now));
        let is_same_payload = before.as_ref().is_none_or(|record| {
            let payload = known.1.get(&record.fingerprint).copied();
            wants.is_none_or(|wants| payload.is_none_or(|payload| payload == wants.payload))
        });
        let is_marked = |mark: &(RecordId, Mark)| {
            mark.0 == id && Some(mark.1.owner) == op.owner() && now < mark.1.until
        };
        let marked = held.marks.iter().any(is_marked);
        let name = op.name();
        let (after, mark, verdict) = self.broken.apply(before.clone(), marked, op, now);
        if let Some(mark) = mark {
            held.marks.push((id, mark));
        }
        let event = Event::Applied {
            attempt,
            operation,
            op: name,
            verdict: said(&verdict),
            before: held.stood(before.as_ref()),
            after: held.stood(after.as_ref()),
            is_same_payload,
        };
        match after {
            Some(after) => held.records.insert(id, after),
            None => held.records.remove(&id),
        };
        self.world.history.add(event);
        verdict
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.state.lock().expect("nothing panics with the lock")
    }
}

impl Held {
    fn stood(&self, record: Option<&Record>) -> Stood {
        let attempt = |owner: Owner| self.owners.get(&owner).copied().unwrap_or_default();
        match record.map(|record| &record.state) {
            None => Stood::Absent,
            Some(State::Claimed(claim)) => Stood::Claimed(attempt(claim.seen.owner)),
            Some(State::Unknown(unknown)) => Stood::Unknown(attempt(unknown.seen.owner)),
            Some(State::Completed(completed)) => {
                let content = match &completed.answer {
                    Answer::Stored(response) => String::from_utf8_lossy(&response.body).into(),
                    Answer::NotStored(_) | Answer::Sealed(_) => "not stored".to_owned(),
                };
                Stood::Completed(completed.owner.map(attempt), content)
            }
            Some(State::Expired) => Stood::Expired,
        }
    }
}

impl Broken {
    fn apply(
        self,
        record: Option<Record>,
        marked: bool,
        op: Op,
        now: Timestamp,
    ) -> (Option<Record>, Option<Mark>, Verdict) {
        match (self, op) {
            (Self::UnknownIsReleased, Op::MarkUnknown { owner, .. }) => {
                let (after, mark, verdict) =
                    protocol::apply(record, marked, Op::Release { owner }, now);
                (after, mark, verdict)
            }
            (Self::CompleteComparesNothing, op @ Op::Complete { .. }) => {
                protocol::apply(None, marked, op, now)
            }
            (Self::LapsedIsAbsent, op @ Op::Claim { .. }) => {
                let alive = record.filter(|record| match &record.state {
                    State::Claimed(claim) => now < claim.lease_until,
                    _ => true,
                });
                protocol::apply(alive, marked, op, now)
            }
            (Self::ReleaseLeavesNoMark, op @ Op::Release { .. }) => {
                let (after, _, verdict) = protocol::apply(record, marked, op, now);
                (after, None, verdict)
            }
            (_, op) => protocol::apply(record, marked, op, now),
        }
    }
}

fn fingerprint(op: &Op) -> Option<Fingerprint> {
    match op {
        Op::Claim { origin, .. }
        | Op::Renew { origin, .. }
        | Op::Complete { origin, .. }
        | Op::MarkUnknown { origin, .. } => Some(origin.fingerprint),
        _ => None,
    }
}

/// Whether the op did what its caller wanted.
fn is_granted(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Acquired { .. } | Verdict::Held { .. } | Verdict::Done | Verdict::Restored
    )
}

fn said(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Acquired { .. } => "acquired",
        Verdict::Held { .. } => "held",
        Verdict::Done => "done",
        Verdict::Restored => "restored",
        Verdict::Lost => "lost",
        Verdict::Changed => "changed",
        Verdict::Mismatch => "mismatch",
        Verdict::InFlight { .. } => "in flight",
        Verdict::Unknown { .. } => "unknown",
        Verdict::Completed(_) => "completed",
        Verdict::Expired => "expired",
    }
}

/// What one process has of the store.
struct StoreClient(Arc<ScriptedStore>);

impl StoreClient {
    /// Asks as the network lets it. What was sent arrives though the caller may be gone by then. `is_settled` says of an
    /// answer that another copy of the question changes nothing any more: a store that has asked twice knows that the
    /// first copy may arrive yet.
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        run: impl Fn(&ScriptedStore, u64) -> T + Send + Sync + 'static,
        is_settled: impl Fn(&T) -> bool,
    ) -> Result<T, StoreError> {
        let store = &self.0;
        match store.condition.load(Ordering::Relaxed) {
            WELL => {}
            DOWN => return Err(NotDone::OutOfOrder("down".to_owned()).into()),
            _ => return pending().await,
        }
        let attempt = Here::current().map_or(0, |here| here.request);
        let way = store.way(name, attempt);
        let (arrives, again) = match way {
            Way::Arrives(after) | Way::Unheard(after) | Way::InDoubt(after) => (after, None),
            Way::Twice(after, again) => (after, Some(again)),
            Way::Lost => return pending().await,
            Way::Refused(after) => {
                sleep(after).await;
                return Err(NotDone::OutOfOrder("no luck".to_owned()).into());
            }
        };
        let (answer, answered) = oneshot::channel();
        let target = Arc::clone(store);
        tokio::spawn(async move {
            sleep(arrives).await;
            // Whoever asked may have gone.
            let _ = answer.send(run(&target, attempt));
            if let Some(again) = again {
                sleep(again).await;
                drop(run(&target, attempt));
            }
        });
        match way {
            Way::Unheard(_) => pending().await,
            Way::InDoubt(_) => {
                let patience = store.world.draw("doubt", attempt).ms(0..=300);
                sleep(patience).await;
                Err(StoreError::InDoubt("lost on its way".to_owned()))
            }
            Way::Twice(..) => {
                let answer = answered.await.expect("the store goes on");
                if is_settled(&answer) || store.broken == Broken::CopiesAreNoDoubt {
                    Ok(answer)
                } else {
                    Err(StoreError::InDoubt("asked twice".to_owned()))
                }
            }
            _ => Ok(answered.await.expect("the store goes on")),
        }
    }
}

impl Store for StoreClient {
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        let name = op.name();
        let settles = matches!(
            op,
            Op::Complete { .. } | Op::MarkUnknown { .. } | Op::Release { .. }
        );
        async move {
            let broken = self.0.broken;
            let acknowledge = |attempt| {
                if settles {
                    self.0.world.history.add(Event::Acknowledged { attempt });
                }
            };
            if broken == Broken::DoubtIsNotSettled && matches!(op, Op::Release { .. }) {
                return Ok(Verdict::Done);
            }
            if broken == Broken::AnsweredBeforeStored && matches!(op, Op::Complete { .. }) {
                let store = Arc::clone(&self.0);
                let here = Here::current().expect("a gateway asks");
                let request = here.request;
                tokio::spawn(here.task(async move {
                    sleep(Duration::from_secs(1)).await;
                    store.apply_now(id, op, request);
                }));
                acknowledge(request);
                return Ok(Verdict::Done);
            }
            let verdict = self
                .call(
                    name,
                    move |store, attempt| store.apply_now(id, op.clone(), attempt),
                    is_granted,
                )
                .await;
            // Others may hear of it.
            let attempt = Here::current().map_or(0, |here| here.request);
            if self.0.world.draw("hint", attempt).percent(50) {
                self.0.hints.send_replace(());
            }
            if verdict.is_ok() {
                acknowledge(attempt);
            }
            verdict
        }
        .boxed()
    }

    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        self.call(
            "look",
            move |store, _| {
                let held = store.held();
                protocol::look(held.records.get(&id), &fingerprint, store.now())
            },
            |_| true,
        )
        .boxed()
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.call(
            "read",
            move |store, _| {
                let record = store.held().records.get(&id).cloned();
                record.and_then(|record| record.at(store.now()))
            },
            |_| true,
        )
        .boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        self.call("now", |store, _| store.now(), |_| true).boxed()
    }

    fn forget(&self, _: RecordId, _: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        unreachable!("operators have a hold of their own on the store")
    }

    fn unresolved(
        &self,
        _: Option<(Timestamp, RecordId)>,
        _: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.call("ping", |_, _| (), |()| true).boxed()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        if !self.0.world.plan.deletes() {
            return ready(Ok(None)).boxed();
        }
        self.call(
            "epoch",
            |store, _| Some(store.epoch.load(Ordering::Relaxed)),
            |_| true,
        )
        .boxed()
    }

    fn hints(&self, _: RecordId) -> Option<Hints> {
        Some(self.0.hints.subscribe())
    }
}
