//! A store that fails as a test says. What it applies, it applies by the protocol.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture, FutureExt};
use oncegate::protocol::{
    self, Answer, Cause, Fingerprint, Mark, Op, Origin, Owner, Record, RecordId, Resolution,
    Response, Retention, State, Timestamp, Verdict, Version,
};
use oncegate::store::{NotDone, Store, StoreError, Unresolved, Usage, system_clock};
use oncegate::telemetry::StoreOp;
use tokio::sync::watch;

use crate::support::{Gate, within};

/// An owner in another gateway.
pub const STRANGER: Owner = Owner(7);

/// For how long strangers and operators keep records.
const KEEP: Duration = Duration::from_secs(3600);

/// For how long a stranger's claim is good: longer than any test.
const STRANGERS_LEASE: Duration = Duration::from_secs(600);

/// What becomes of a call of the store.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is applied twice, as a call that was repeated on its way; the first verdict is the answer.
    AppliedTwice,
    /// It is applied, and no answer comes.
    Unanswered,
    /// It is neither applied nor answered.
    Dropped,
    /// No answer comes; it is applied when the gate opens, whether or not anybody waits for it.
    AppliedLate(Gate),
    /// It is applied at once and answered when the gate opens.
    AnsweredLate(Gate),
    /// It is applied and answered when the gate opens, unless its caller has gone.
    Slow(Gate),
    /// It is not applied.
    NotDone(NotDone),
    /// The same claim by [`STRANGER`] is applied before it.
    AfterAStrangers,
    /// [`STRANGER`] has claimed and declared its outcome unknown; the claim takes over from it.
    TakesOver,
}

impl Fate {
    /// The store cannot be reached.
    pub fn down() -> Self {
        Self::NotDone(NotDone::OutOfOrder("it is down".to_owned()))
    }
}

/// The store. Clones are the same one.
#[derive(Clone)]
pub struct FaultyStore(Arc<Shared>);

struct Shared {
    records: Mutex<Records>,
    fates: Mutex<Fates>,
    /// How often each op was asked for.
    asked: watch::Sender<HashMap<StoreOp, usize>>,
    /// What was answered to each op that was applied, heard or not.
    verdicts: watch::Sender<Vec<(StoreOp, Verdict)>>,
}

#[derive(Default)]
struct Records {
    held: HashMap<RecordId, Record>,
    marks: Vec<(RecordId, Mark)>,
    /// What the first claim was about.
    first: Option<(RecordId, Origin)>,
    /// What the clock is ahead of the machine's.
    ahead: Duration,
}

#[derive(Default)]
struct Fates {
    next: HashMap<StoreOp, VecDeque<Fate>>,
    always: HashMap<StoreOp, Fate>,
    madness: Option<Madness>,
}

/// Fates at random.
struct Madness {
    random: fastrand::Rng,
    /// Of calls that are still on their way.
    late: VecDeque<Gate>,
}

impl FaultyStore {
    /// An empty store that works.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            records: Mutex::default(),
            fates: Mutex::default(),
            asked: watch::Sender::default(),
            verdicts: watch::Sender::default(),
        }))
    }

    /// What becomes of the next call of this op that no earlier call of this is for.
    pub fn next(&self, op: StoreOp, fate: Fate) -> &Self {
        self.fates().next.entry(op).or_default().push_back(fate);
        self
    }

    /// What becomes of every call of this op that [`Self::next`] says nothing about.
    pub fn always(&self, op: StoreOp, fate: Fate) -> &Self {
        self.fates().always.insert(op, fate);
        self
    }

    /// From now on this op works.
    pub fn works(&self, op: StoreOp) -> &Self {
        self.fates().always.remove(&op);
        self
    }

    /// From now on every second call or so fails, in one way or another.
    pub fn goes_mad(&self, seed: u64) {
        self.fates().madness = Some(Madness {
            random: fastrand::Rng::with_seed(seed),
            late: VecDeque::new(),
        });
    }

    /// From now on it works again. Calls that are still on their way arrive now.
    pub fn recovers(&self) {
        let madness = self.fates().madness.take();
        for late in madness.into_iter().flat_map(|madness| madness.late) {
            late.open();
        }
    }

    /// Returns once an op was asked for so often.
    pub async fn asked(&self, op: StoreOp, times: usize) {
        let mut asked = self.0.asked.subscribe();
        let enough = asked.wait_for(|asked| asked.get(&op).copied().unwrap_or(0) >= times);
        let what = format!("{op:?} to be asked for {times} times");
        within(&what, enough).await.expect("the store lives on");
    }

    /// How often an op was asked for so far.
    pub fn calls(&self, op: StoreOp) -> usize {
        self.0.asked.borrow().get(&op).copied().unwrap_or(0)
    }

    /// What was answered to the applied calls of an op, once there are so many.
    pub async fn verdicts(&self, op: StoreOp, times: usize) -> Vec<Verdict> {
        let of_op = |verdicts: &Vec<(StoreOp, Verdict)>| -> Vec<Verdict> {
            let of_op = verdicts.iter().filter(|(other, _)| *other == op);
            of_op.map(|(_, verdict)| verdict.clone()).collect()
        };
        let mut verdicts = self.0.verdicts.subscribe();
        let enough = verdicts.wait_for(|verdicts| of_op(verdicts).len() >= times);
        let what = format!("{op:?} to be applied {times} times");
        let enough = within(&what, enough).await.expect("the store lives on");
        of_op(&enough)
    }

    /// The record that the first claim was for.
    pub fn record(&self) -> Option<Record> {
        let records = self.records();
        let (id, _) = records.first();
        let now = records.now();
        records
            .held
            .get(&id)
            .cloned()
            .and_then(|record| record.at(now))
    }

    /// The state of that record.
    pub fn state(&self) -> Option<State> {
        self.record().map(|record| record.state)
    }

    /// The states of all records.
    pub fn states(&self) -> Vec<State> {
        let records = self.records();
        let states = records.held.values().map(|record| record.state.clone());
        states.collect()
    }

    /// Whether the record says that an owner is executing.
    pub fn is_claimed(&self) -> bool {
        matches!(self.state(), Some(State::Claimed(_)))
    }

    /// Why the record says that the outcome is unknown.
    pub fn unknown_cause(&self) -> Option<Cause> {
        match self.state()? {
            State::Unknown(unknown) => Some(unknown.cause),
            _ => None,
        }
    }

    /// The body that the record would replay.
    pub fn recorded_body(&self) -> Option<Bytes> {
        match self.state()? {
            State::Completed(completed) => match completed.answer {
                Answer::Stored(response) => Some(response.body.clone()),
                Answer::NotStored(_) | Answer::Sealed(_) => None,
            },
            _ => None,
        }
    }

    /// Time goes by for the store.
    pub fn ages(&self, by: Duration) {
        self.records().ahead += by;
    }

    /// Its clock is set back to the machine's.
    pub fn is_set_right(&self) {
        self.records().ahead = Duration::ZERO;
    }

    /// An operator settles the record, whose owner has gone silent by this store's clock.
    pub fn resolve(&self, resolution: Resolution) {
        let mut records = self.records();
        let (id, _) = records.first();
        let now = records.now();
        if let Some(State::Claimed(claim)) = records.held.get(&id).map(|record| &record.state) {
            let left = claim.lease_until.since(now);
            records.ahead += left;
        }
        let seen = records.held.get(&id).and_then(Record::seen);
        let op = Op::Resolve {
            seen: seen.expect("a record that can be settled"),
            verdict: resolution,
        };
        assert_eq!(records.apply(id, op), Verdict::Done);
    }

    /// Another gateway takes the record over from its owner.
    pub fn take_over(&self) {
        let mut records = self.records();
        let (id, _) = records.first();
        let seen = records.held.get(&id).and_then(Record::seen);
        let op = Op::TakeOver {
            seen: seen.expect("a record that can be taken over"),
            owner: STRANGER,
            lease: STRANGERS_LEASE,
            keep: KEEP,
        };
        let verdict = records.apply(id, op);
        assert!(matches!(verdict, Verdict::Acquired { .. }), "{verdict:?}");
    }

    /// Another gateway claims the first claim's key, for the same request.
    pub fn stranger_claims(&self) -> Verdict {
        self.stranger(strangers_claim)
    }

    /// The same under this lease.
    pub fn stranger_claims_for(&self, lease: Duration) -> Verdict {
        self.stranger(|origin| Op::Claim {
            owner: STRANGER,
            origin,
            lease,
            keep: KEEP,
        })
    }

    /// Another gateway claims the first claim's key, for another request.
    pub fn stranger_claims_for_something_else(&self) -> Verdict {
        self.stranger(|mut origin| {
            origin.fingerprint = Fingerprint([0; 32]);
            strangers_claim(origin)
        })
    }

    /// Another gateway records this answer.
    pub fn stranger_completes(&self, status: u16, body: &str) -> Verdict {
        let (answer, retention) = (stored(status, body), retention());
        self.stranger(|origin| Op::Complete {
            owner: STRANGER,
            origin,
            answer,
            retention,
        })
    }

    /// Another gateway knows no outcome.
    pub fn stranger_marks_unknown(&self) -> Verdict {
        self.stranger(strangers_declaration)
    }

    /// Another gateway gives its claim back.
    pub fn stranger_releases(&self) -> Verdict {
        self.stranger(|_| Op::Release { owner: STRANGER })
    }

    fn stranger(&self, op: impl FnOnce(Origin) -> Op) -> Verdict {
        let mut records = self.records();
        let (id, origin) = records.first();
        records.apply(id, op(origin))
    }

    /// Counts a call and says what becomes of it.
    fn fate(&self, id: RecordId, op: &Op) -> Option<Fate> {
        if let Op::Claim { origin, .. } = op {
            let first = &mut self.records().first;
            first.get_or_insert_with(|| (id, origin.clone()));
        }
        self.called(op.into())
    }

    fn called(&self, op: StoreOp) -> Option<Fate> {
        let fate = {
            let mut fates = self.fates();
            let next = fates.next.get_mut(&op).and_then(VecDeque::pop_front);
            next.or_else(|| fates.always.get(&op).cloned())
                .or_else(|| fates.madness.as_mut().and_then(Madness::fate))
        };
        self.0
            .asked
            .send_modify(|asked| *asked.entry(op).or_default() += 1);
        fate
    }

    fn apply_now(&self, id: RecordId, op: Op) -> Verdict {
        let name = StoreOp::from(&op);
        let verdict = self.records().apply(id, op);
        self.0
            .verdicts
            .send_modify(|verdicts| verdicts.push((name, verdict.clone())));
        verdict
    }

    /// The claim of an owner that takes over from a stranger.
    fn take_over_from_a_stranger(&self, id: RecordId, op: Op) -> Verdict {
        let Op::Claim {
            owner,
            origin,
            lease,
            keep,
        } = op
        else {
            panic!("only a claim takes over: {op:?}");
        };
        let mut records = self.records();
        records.apply(id, strangers_claim(origin.clone()));
        records.apply(id, strangers_declaration(origin));
        let seen = records.held.get(&id).and_then(Record::seen);
        let op = Op::TakeOver {
            seen: seen.expect("the stranger's attempt"),
            owner,
            lease,
            keep,
        };
        records.apply(id, op)
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.records.lock().expect("no panic")
    }

    fn fates(&self) -> MutexGuard<'_, Fates> {
        self.0.fates.lock().expect("no panic")
    }
}

impl Madness {
    fn fate(&mut self) -> Option<Fate> {
        // One that is on its way may arrive.
        if self.random.bool()
            && let Some(late) = self.late.pop_front()
        {
            late.open();
        }
        match self.random.u8(..12) {
            0 => Some(Fate::AppliedTwice),
            1 => Some(Fate::Unanswered),
            2 => Some(Fate::Dropped),
            3 => Some(Fate::down()),
            4 => Some(Fate::NotDone(NotDone::Overloaded)),
            5 => {
                let late = Gate::closed();
                self.late.push_back(late.clone());
                Some(Fate::AppliedLate(late))
            }
            _ => None,
        }
    }
}

impl Records {
    fn apply(&mut self, id: RecordId, op: Op) -> Verdict {
        let now = self.now();
        let marked = op.owner().is_some_and(|owner| {
            let mut marks = self.marks.iter();
            marks.any(|(of, mark)| *of == id && mark.owner == owner && now < mark.until)
        });
        let (after, mark, verdict) = protocol::apply(self.held.remove(&id), marked, op, now);
        self.held.extend(after.map(|record| (id, record)));
        self.marks.extend(mark.map(|mark| (id, mark)));
        verdict
    }

    fn now(&self) -> Timestamp {
        system_clock()().plus(self.ahead)
    }

    fn first(&self) -> (RecordId, Origin) {
        self.first.clone().expect("a claim was asked for")
    }
}

impl Store for FaultyStore {
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        async move {
            match self.fate(id, &op) {
                None => Ok(self.apply_now(id, op)),
                Some(Fate::AppliedTwice) => {
                    let verdict = self.apply_now(id, op.clone());
                    self.apply_now(id, op);
                    Ok(verdict)
                }
                Some(Fate::Unanswered) => {
                    self.apply_now(id, op);
                    pending().await
                }
                Some(Fate::Dropped) => pending().await,
                Some(Fate::AppliedLate(gate)) => {
                    let store = self.clone();
                    tokio::spawn(async move {
                        gate.opened().await;
                        store.apply_now(id, op);
                    });
                    pending().await
                }
                Some(Fate::AnsweredLate(gate)) => {
                    let verdict = self.apply_now(id, op);
                    gate.opened().await;
                    Ok(verdict)
                }
                Some(Fate::Slow(gate)) => {
                    gate.opened().await;
                    Ok(self.apply_now(id, op))
                }
                Some(Fate::NotDone(reason)) => Err(reason.into()),
                Some(Fate::AfterAStrangers) => {
                    self.stranger_claims();
                    Ok(self.apply_now(id, op))
                }
                Some(Fate::TakesOver) => Ok(self.take_over_from_a_stranger(id, op)),
            }
        }
        .boxed()
    }

    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        async move {
            match self.called(StoreOp::Look) {
                Some(Fate::NotDone(reason)) => return Err(reason.into()),
                Some(Fate::Slow(gate)) => gate.opened().await,
                None | Some(Fate::AppliedTwice) => {}
                Some(_) => pending().await,
            }
            let records = self.records();
            let record = records.held.get(&id);
            Ok(protocol::look(record, &fingerprint, records.now()))
        }
        .boxed()
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        let records = self.records();
        let record = records.held.get(&id).cloned();
        let now = records.now();
        future::ready(Ok(record.and_then(|record| record.at(now)))).boxed()
    }

    /// Nothing in these tests asks for it.
    fn forget(&self, _: RecordId, _: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        unreachable!("no operator is at work")
    }

    fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        // It always works.
        let _ = self.called(StoreOp::Unresolved);
        let records = self.records();
        let now = records.now();
        let mut listed: Vec<Unresolved> = records
            .held
            .iter()
            .filter_map(|(id, record)| {
                let since = match &record.state {
                    State::Claimed(claim) if claim.lapsed(now) => claim.lease_until,
                    State::Unknown(unknown) => unknown.since,
                    _ => return None,
                };
                let (id, route) = (*id, Arc::clone(&record.route));
                Some(Unresolved { id, route, since })
            })
            .filter(|unresolved| after.is_none_or(|after| unresolved.place() > after))
            .collect();
        listed.sort_by_key(Unresolved::place);
        listed.truncate(limit);
        future::ready(Ok(listed)).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        future::ready(Ok(())).boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        future::ready(Ok(self.records().now())).boxed()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }
}

/// An operator's word that it was executed, with this answer.
pub fn executed(status: u16, body: &str) -> Resolution {
    Resolution::Completed {
        answer: stored(status, body),
        retention: retention(),
    }
}

fn stored(status: u16, body: &str) -> Answer {
    Answer::Stored(Arc::new(Response::new(
        status,
        Vec::new(),
        Bytes::copy_from_slice(body.as_bytes()),
    )))
}

fn retention() -> Retention {
    Retention {
        keep: KEEP,
        tombstone: Duration::ZERO,
    }
}

fn strangers_claim(origin: Origin) -> Op {
    Op::Claim {
        owner: STRANGER,
        origin,
        lease: STRANGERS_LEASE,
        keep: KEEP,
    }
}

fn strangers_declaration(origin: Origin) -> Op {
    Op::MarkUnknown {
        owner: STRANGER,
        origin,
        fence: 1,
        cause: Cause::ConnectionLost,
        sent: oncegate::protocol::Sent::default(),
        keep: KEEP,
    }
}
