//! What every store must do, whatever it keeps its records in: the same verdicts and the same records as
//! `protocol::apply`, op by op, for random sequences of ops on a few ids.
//!
//! A store is plugged in by a [`Harness`]. One that keeps its own time says by how much it may differ.

#![allow(dead_code, reason = "each test crate has stores of another kind")]

mod blur;
mod random;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all, ready};
use oncegate::protocol::{
    self, Fingerprint, Op, Origin, Owner, Record, RecordId, Resolution, State, Timestamp, Verdict,
    Version,
};
use oncegate::store::{NotDone, Store, StoreError, Unresolved, Usage};

pub use random::Random;

const OPS: usize = 400;
const RIVALS: u128 = 32;

/// A store under test, and its time.
pub trait Harness {
    /// The store; asked for anew after every [`Harness::reopen`].
    fn store(&self) -> Arc<dyn Store>;
    /// The time by the store's clock.
    fn now(&self) -> Timestamp;
    /// Moves the store's clock on.
    fn advance(&mut self, by: Duration) -> BoxFuture<'_, ()>;
    /// Closes the store and opens it anew; `None` for a store that lives elsewhere or not beyond its process.
    fn reopen(&mut self) -> BoxFuture<'_, Option<Reopened>> {
        ready(None).boxed()
    }
    /// By how much a time in the store may differ from the one that [`Harness::now`] gave before the op.
    fn tolerance(&self) -> Duration {
        Duration::ZERO
    }
}

/// What becomes of a store's contents, besides staying as they are, when it is opened anew.
#[derive(Clone, Copy, Debug)]
pub struct Reopened {
    /// Open claims have a fresh lease.
    pub leases_fresh: bool,
    /// Marks are gone, with everything that they turn away.
    pub marks_gone: bool,
}

/// Drives one random sequence through the store and through `apply`.
pub async fn agrees_with_apply(harness: &mut dyn Harness, seed: u64) {
    let mut random = Random::new(seed);
    let mut model = Model::default();
    // Ids of its own for each seed, for stores that outlive the test.
    let ids: Vec<RecordId> = (0..3).map(|_| RecordId(random.bytes())).collect();
    for step in 0..OPS {
        let context = format!("seed {seed}, step {step}");
        if random.one_in(4) {
            harness.advance(random.pause()).await;
        }
        if random.one_in(40) {
            let reopened = harness.reopen().await;
            model.reopened(reopened, harness.now());
        }
        let id = ids[random.below(ids.len())];
        let op = random.op(model.records.get(&id).and_then(Record::seen));
        compare_op(harness, &mut model, id, op, &context).await;
        compare_record(harness, &model, id, random.fingerprint(), &context).await;
        if random.one_in(12) {
            let other = random.one_in(3).then(|| Version::Open(random.seen()));
            compare_forget(harness, &mut model, id, other, &context).await;
            compare_record(harness, &model, id, random.fingerprint(), &context).await;
        }
        if random.one_in(4) {
            compare_unresolved(harness, &model, &ids, 1 + random.below(3), &context).await;
        }
    }
    for id in ids {
        compare_record(
            harness,
            &model,
            id,
            random.fingerprint(),
            &format!("seed {seed}, end"),
        )
        .await;
    }
}

/// Rivals claim one id at the same time, again and again: one of them gets it.
pub async fn one_of_many_acquires(harness: &dyn Harness, seed: u64) {
    let mut random = Random::new(seed);
    for round in 0..20 {
        let id = RecordId(random.bytes());
        let claims = (0..RIVALS).map(|owner| {
            let (store, op) = (
                harness.store(),
                claim(Owner(owner + 1), Fingerprint([1; 32])),
            );
            tokio::spawn(async move { store.apply(id, op).await })
        });
        let verdicts: Vec<_> = join_all(claims)
            .await
            .into_iter()
            .map(|verdict| verdict.unwrap())
            .collect();
        let acquired = verdicts
            .iter()
            .filter(|verdict| matches!(verdict, Ok(Verdict::Acquired { .. })));
        assert_eq!(
            acquired.count(),
            1,
            "seed {seed}, round {round}: {verdicts:?}"
        );
        let in_flight = verdicts
            .iter()
            .filter(|verdict| matches!(verdict, Ok(Verdict::InFlight { .. })));
        assert_eq!(
            in_flight.count(),
            RIVALS as usize - 1,
            "seed {seed}, round {round}: {verdicts:?}"
        );
    }
}

/// A store with room for a few records refuses new claims once they are in it, and nothing else.
pub async fn full_refuses_new_claims_only(harness: &dyn Harness) {
    let store = harness.store();
    let mut taken = 0_u8;
    let refused = loop {
        match store
            .apply(RecordId([taken; 32]), claim(Owner(1), Fingerprint([1; 32])))
            .await
        {
            Ok(Verdict::Acquired { .. }) => taken += 1,
            refused => break refused,
        }
        assert!(taken < 200, "the store never gets full");
    };
    assert_eq!(refused, Err(StoreError::NotDone(NotDone::Full)));
    assert!(taken > 1, "the store has room for some");
    let usage = store.usage();
    assert_eq!(usage.records, u64::from(taken), "nothing is evicted");
    assert!(usage.bytes >= usage.limit_bytes);

    let mut random = Random::new(1);
    let known = RecordId([0; 32]);
    let origin = Origin {
        fingerprint: Fingerprint([1; 32]),
        route: "create-payment".into(),
        reference: Bytes::new(),
    };
    let again = store
        .apply(known, claim(Owner(1), Fingerprint([1; 32])))
        .await;
    assert!(matches!(again, Ok(Verdict::Acquired { .. })), "{again:?}");
    let complete = Op::Complete {
        owner: Owner(1),
        origin: origin.clone(),
        answer: random.answer(),
        retention: random.retention(),
    };
    assert_eq!(
        store.apply(known, complete.clone()).await,
        Ok(Verdict::Done)
    );
    // A truth that the store had lost makes a record, full or not.
    assert_eq!(
        store.apply(RecordId([250; 32]), complete).await,
        Ok(Verdict::Done)
    );
    assert_eq!(
        store
            .apply(RecordId([1; 32]), Op::Release { owner: Owner(1) })
            .await,
        Ok(Verdict::Done)
    );
}

/// A key that is remembered is held as a tombstone, which takes little room, until it may be forgotten.
pub async fn remembers_keys_until_they_may_be_forgotten(harness: &mut dyn Harness) {
    const ANSWER: usize = 100_000;
    let day = Duration::from_secs(86_400);
    let (id, fingerprint) = (RecordId([7; 32]), Fingerprint([1; 32]));
    let response = protocol::Response::new(201, Vec::new(), Bytes::from(vec![b'x'; ANSWER]));
    let complete = Op::Complete {
        owner: Owner(1),
        origin: Origin {
            fingerprint,
            route: "create-payment".into(),
            reference: Bytes::new(),
        },
        answer: protocol::Answer::Stored(Arc::new(response)),
        retention: protocol::Retention {
            keep: day,
            tombstone: day,
        },
    };
    // One that is met as a tombstone, and one that only the sweep comes upon.
    for id in [id, RecordId([8; 32])] {
        let done = harness.store().apply(id, complete.clone()).await;
        assert_eq!(done, Ok(Verdict::Done));
    }
    assert!(harness.store().usage().bytes > ANSWER as u64);

    // What claims come upon, before and after the sweep and when it is opened anew.
    harness.advance(day + Duration::from_secs(1)).await;
    for round in 0..3 {
        let store = harness.store();
        let told = store.apply(id, claim(Owner(2), fingerprint)).await;
        assert_eq!(told, Ok(Verdict::Expired), "round {round}");
        let told = store.apply(id, claim(Owner(2), Fingerprint([2; 32]))).await;
        assert_eq!(told, Ok(Verdict::Mismatch), "round {round}");
        if round == 0 {
            harness.advance(Duration::from_secs(3600)).await;
            used_until(harness, |usage| usage.bytes < ANSWER as u64).await;
            assert_eq!(harness.store().usage().records, 2);
        }
        if round == 1 {
            harness.reopen().await;
        }
    }
    harness.advance(day).await;
    used_until(harness, |usage| usage.records == 0).await;
    let told = harness
        .store()
        .apply(id, claim(Owner(2), fingerprint))
        .await;
    assert!(matches!(told, Ok(Verdict::Acquired { .. })), "{told:?}");
}

/// Uses the store, by ops on records that are not there, until it holds no more than this.
async fn used_until(harness: &dyn Harness, enough: impl Fn(Usage) -> bool) {
    let (store, mut random) = (harness.store(), Random::new(1));
    let start = std::time::Instant::now();
    while !enough(store.usage()) {
        let usage = store.usage();
        assert!(start.elapsed() < Duration::from_secs(30), "{usage:?}");
        let op = Op::Resolve {
            seen: random.seen(),
            verdict: Resolution::Gone,
        };
        let told = store.apply(RecordId(random.bytes()), op).await;
        assert_eq!(told, Ok(Verdict::Changed));
    }
}

/// What has ended is forgotten while the store is used: answers, unknown outcomes, claims that nobody settled.
pub async fn forgets_what_has_ended(harness: &mut dyn Harness) {
    let (store, mut random) = (harness.store(), Random::new(1));
    let ids: Vec<RecordId> = (0..200).map(|_| RecordId(random.bytes())).collect();
    let (owner, fingerprint) = (Owner(1), Fingerprint([1; 32]));
    let origin = Origin {
        fingerprint,
        route: "create-payment".into(),
        reference: Bytes::new(),
    };
    let day = Duration::from_secs(86_400);
    for (n, id) in ids.iter().enumerate() {
        assert!(matches!(
            store.apply(*id, claim(owner, fingerprint)).await,
            Ok(Verdict::Acquired { .. })
        ));
        let (origin, answer) = (origin.clone(), random.answer());
        let settled = match n % 3 {
            0 => continue,
            1 => Op::MarkUnknown {
                owner,
                origin,
                fence: 1,
                cause: random.cause(),
                sent: random.sent(),
                keep: day,
            },
            _ => Op::Complete {
                owner,
                origin,
                answer,
                retention: random.retention(),
            },
        };
        assert_eq!(store.apply(*id, settled).await, Ok(Verdict::Done));
    }
    let lasting = RecordId(random.bytes());
    let retention = protocol::Retention {
        keep: day * 30,
        tombstone: Duration::ZERO,
    };
    let complete = Op::Complete {
        owner,
        origin,
        answer: random.answer(),
        retention,
    };
    assert_eq!(store.apply(lasting, complete).await, Ok(Verdict::Done));
    assert_eq!(store.usage().records, 201);

    harness.advance(day * 2).await;
    assert_eq!(store.usage().aged_out, 0);
    used_until(harness, |usage| usage.records <= 1).await;
    assert!(matches!(store.read(lasting).await, Ok(Some(_))));
    // The claims and the unknown outcomes: nobody has settled them.
    assert_eq!(store.usage().aged_out, 67 + 67);
}

/// A closed store says so, and does nothing.
pub async fn closed_says_so(harness: &dyn Harness) {
    let store = harness.store();
    store.close().await;
    let closed = StoreError::NotDone(NotDone::Closed);
    let id = RecordId([1; 32]);
    assert_eq!(
        store.apply(id, claim(Owner(1), Fingerprint([1; 32]))).await,
        Err(closed.clone())
    );
    assert_eq!(
        store.apply(id, Op::Release { owner: Owner(1) }).await,
        Err(closed.clone())
    );
    assert_eq!(store.read(id).await, Err(closed.clone()));
    assert_eq!(
        store.look(id, Fingerprint([1; 32])).await,
        Err(closed.clone())
    );
    assert_eq!(store.unresolved(None, 1).await, Err(closed.clone()));
    assert_eq!(store.ping().await, Err(closed));
    store.close().await;
}

/// A claim good for 15 seconds, kept for a day.
pub fn claim(owner: Owner, fingerprint: Fingerprint) -> Op {
    Op::Claim {
        owner,
        origin: Origin {
            fingerprint,
            route: "create-payment".into(),
            reference: Bytes::from_static(b"reference"),
        },
        lease: Duration::from_secs(15),
        keep: Duration::from_secs(86_400),
    }
}

async fn compare_op(harness: &dyn Harness, model: &mut Model, id: RecordId, op: Op, context: &str) {
    let expected = model.apply(id, op.clone(), harness.now());
    let verdict = harness.store().apply(id, op.clone()).await;
    let verdict = verdict.map(|verdict| blur::verdict(verdict, &expected, harness.tolerance()));
    assert_eq!(verdict, Ok(expected), "{context}: {op:?}");
}

/// An operator deletes what is there, or what was seen there instead.
async fn compare_forget(
    harness: &dyn Harness,
    model: &mut Model,
    id: RecordId,
    other: Option<Version>,
    context: &str,
) {
    // By its own clock a store may have completed a record at another moment than the model.
    let stored = harness.store().read(id).await.unwrap();
    let stored = stored.map(|record| record.version());
    let version = other.or(stored).unwrap_or(Version::Expired(Timestamp(0)));
    let modelled = model.records.get(&id).cloned();
    let modelled = modelled.and_then(|record| record.at(harness.now()));
    let modelled = modelled.map(|record| record.version());
    let modelled = other.or(modelled).unwrap_or(version);
    let expected = model.forget(id, modelled, harness.now());
    let verdict = harness.store().forget(id, version).await;
    assert_eq!(verdict, Ok(expected), "{context}: deleting {version}");
}

async fn compare_record(
    harness: &dyn Harness,
    model: &Model,
    id: RecordId,
    fingerprint: Fingerprint,
    context: &str,
) {
    let now = harness.now();
    let expected = model
        .records
        .get(&id)
        .cloned()
        .and_then(|record| record.at(now));
    let record = harness.store().read(id).await.unwrap();
    let record = record.map(|record| blur::record(record, expected.as_ref(), harness.tolerance()));
    assert_eq!(record, expected, "{context}: the record of {id:?}");
    let expected = protocol::look(expected.as_ref(), &fingerprint, now);
    let seen = harness.store().look(id, fingerprint).await.unwrap();
    let seen = seen.map(|seen| match &expected {
        Some(expected) => blur::verdict(seen, expected, harness.tolerance()),
        None => seen,
    });
    assert_eq!(seen, expected, "{context}: a look at {id:?}");
}

/// Reads the list from its beginning to its end, `limit` records at a time, and compares what it says of `ids`; a store
/// that outlives the test may hold others.
async fn compare_unresolved(
    harness: &dyn Harness,
    model: &Model,
    ids: &[RecordId],
    limit: usize,
    context: &str,
) {
    let mut expected = model.unresolved(ids, harness.now());
    let mut listed: Vec<Unresolved> = Vec::new();
    loop {
        let after = listed.last().map(Unresolved::place);
        let page = harness.store().unresolved(after, limit).await.unwrap();
        assert!(page.len() <= limit, "{context}: {limit} were asked for");
        let is_last = page.len() < limit;
        listed.extend(page);
        if is_last {
            break;
        }
    }
    assert!(
        listed.is_sorted_by(|one, next| one.place() < next.place()),
        "{context}: the oldest first, each once: {listed:?}"
    );
    listed.retain(|unresolved| ids.contains(&unresolved.id));
    // In another order than the list's: where a store keeps its own time, neighbours may change places.
    listed.sort_by_key(|unresolved| unresolved.id);
    expected.sort_by_key(|unresolved| unresolved.id);
    for (listed, expected) in listed.iter_mut().zip(&expected) {
        blur::time(&mut listed.since, expected.since, harness.tolerance());
    }
    assert_eq!(listed, expected, "{context}: what is unresolved");
}

/// The store that `apply` alone makes.
#[derive(Default)]
struct Model {
    records: HashMap<RecordId, Record>,
    marks: HashMap<(RecordId, Owner), Timestamp>,
}

impl Model {
    fn apply(&mut self, id: RecordId, op: Op, now: Timestamp) -> Verdict {
        let until = op.owner().and_then(|owner| self.marks.get(&(id, owner)));
        let marked = until.is_some_and(|until| now < *until);
        let (record, mark, verdict) = protocol::apply(self.records.remove(&id), marked, op, now);
        if let Some(record) = record {
            self.records.insert(id, record);
        }
        if let Some(mark) = mark {
            self.marks.insert((id, mark.owner), mark.until);
        }
        verdict
    }

    fn forget(&mut self, id: RecordId, version: Version, now: Timestamp) -> Verdict {
        let (record, marks, verdict) = protocol::forget(self.records.remove(&id), version, now);
        if let Some(record) = record {
            self.records.insert(id, record);
        }
        let marks = marks.iter().map(|mark| ((id, mark.owner), mark.until));
        self.marks.extend(marks);
        verdict
    }

    fn unresolved(&self, ids: &[RecordId], now: Timestamp) -> Vec<Unresolved> {
        let unresolved = |id: &RecordId| {
            let record = self.records.get(id)?.clone().at(now)?;
            let since = match &record.state {
                State::Claimed(claim) if claim.lapsed(now) => claim.lease_until,
                State::Unknown(unknown) => unknown.since,
                _ => return None,
            };
            Some(Unresolved {
                id: *id,
                route: record.route,
                since,
            })
        };
        ids.iter().filter_map(unresolved).collect()
    }

    fn reopened(&mut self, reopened: Option<Reopened>, now: Timestamp) {
        let Some(reopened) = reopened else { return };
        if reopened.marks_gone {
            self.marks.clear();
        }
        for record in self.records.values_mut() {
            if let State::Claimed(claim) = &mut record.state
                && reopened.leases_fresh
            {
                claim.lease_until = now.plus(claim.lease);
            }
        }
    }
}

impl Random {
    /// Any op, by one of a few owners; one that compares mostly compares what is there.
    fn op(&mut self, seen: Option<protocol::Seen>) -> Op {
        let owner = self.owner();
        let seen = seen
            .filter(|_| !self.one_in(4))
            .unwrap_or_else(|| self.seen());
        match self.below(12) {
            0..4 => Op::Claim {
                owner,
                origin: self.origin(),
                lease: self.lease(),
                keep: self.keep(),
            },
            4 => Op::Renew {
                owner,
                origin: self.origin(),
                fence: seen.fence,
                lease: self.lease(),
                keep: self.keep(),
            },
            5 | 6 => Op::Complete {
                owner,
                origin: self.origin(),
                answer: self.answer(),
                retention: self.retention(),
            },
            7 => Op::MarkUnknown {
                owner,
                origin: self.origin(),
                fence: seen.fence,
                cause: self.cause(),
                sent: self.sent(),
                keep: self.keep(),
            },
            8 | 9 => Op::Release { owner },
            10 => Op::TakeOver {
                seen,
                owner,
                lease: self.lease(),
                keep: self.keep(),
            },
            _ if self.one_in(2) => Op::Resolve {
                seen,
                verdict: Resolution::Gone,
            },
            _ => Op::Resolve {
                seen,
                verdict: Resolution::Completed {
                    answer: self.answer(),
                    retention: self.retention(),
                },
            },
        }
    }

    fn origin(&mut self) -> Origin {
        Origin {
            fingerprint: self.fingerprint(),
            route: ["create-payment", "refund"][self.below(2)].into(),
            reference: self.reference(),
        }
    }
}
