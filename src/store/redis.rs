//! Records on servers that speak Redis' protocol, shared by any number of gateways.
//!
//! Each op is one script and one round trip (`lua/`), by the server's clock. All keys of a record are in one slot,
//! so that a cluster serves it as one server does.
//!
//! Reading order: [`Redis`], then `call` (what is sent, how often, and what a failure means), `servers` and `node`
//! (to whom), `lane` and `answers` (what waits for replicas), `script` with `lua/`, `reply` (what scripts say), `identity`
//! (whether it is still the same store), `listening` (who waits is told), `clock`, `epoch`, `forget`, `unresolved`, `usage`,
//! `rights`.

mod answers;
mod call;
mod clock;
mod epoch;
mod forget;
mod identity;
mod keys;
mod lane;
mod listening;
mod node;
mod reply;
mod rights;
mod script;
mod servers;
mod unresolved;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};

use self::answers::{Answers, Recorded};
use self::call::{Call, Outcome, Purpose, asked, failure};
use self::identity::Identity;
use self::keys::Keys;
use self::listening::Listening;
use self::reply::{Said, answer_bytes, cause_text, origin_bytes, sent_text};
use self::script::Script;
use self::servers::Servers;
use self::usage::Gauge;
use super::{Clock, Hints, NotDone, Store, StoreError, Unresolved, Usage};
use crate::config::RedisConfig;
use crate::identity::IdKeyBytes;
use crate::protocol::{
    Fingerprint, Op, Origin, Owner, Record, RecordId, Resolution, Timestamp, Verdict, Version,
};

pub use self::identity::{Accepted, ContactError};
pub use self::rights::Inspected;

/// Where the store's time comes from.
#[derive(Clone)]
pub enum Time {
    /// From the server that holds the record.
    Server,
    /// From a clock that tests set.
    Given(Clock),
}

/// A store that gateways share.
pub struct Redis {
    servers: Arc<Servers>,
    listening: Arc<Listening>,
    /// Where replicas are waited for.
    answers: Option<Answers>,
    keys: Keys,
    time: Time,
    timeout: Duration,
    identity: Identity,
    gauge: Gauge,
    clock: clock::Clock,
    is_closed: AtomicBool,
    replicas_ack: u32,
}

impl Redis {
    /// The store at these servers. Nothing is sent before the first call; where no server answers, calls say so.
    ///
    /// - `namespace`: goes before every key;
    /// - `id_key`: a store that was begun with another one is refused;
    /// - `timeout`: of one call, as callers bound it; waiting for a connection takes less.
    #[must_use]
    pub fn new(
        config: &RedisConfig,
        namespace: &str,
        id_key: &IdKeyBytes,
        timeout: Duration,
        time: Time,
    ) -> Self {
        let keys = Keys::new(namespace);
        let servers = Arc::new(Servers::new(config, &keys, timeout));
        let waits = config.replicas_ack > 0;
        Self {
            listening: Listening::new(Arc::clone(&servers), timeout),
            answers: waits.then(|| Answers::new(Arc::clone(&servers))),
            replicas_ack: config.replicas_ack,
            servers,
            keys,
            time,
            timeout,
            identity: Identity::unknown(id_key, config.begin),
            gauge: Gauge::default(),
            clock: clock::Clock::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    async fn apply_op(&self, id: RecordId, op: Op) -> Result<Verdict, StoreError> {
        self.open()?;
        let store = self.contacted().await?;
        let (script, call) = self.op_call(&id, &op, &store)?;
        let purpose = match op {
            Op::Claim { .. } | Op::TakeOver { .. } => Purpose::Claim,
            _ => Purpose::Plain,
        };
        if let Some(answer) = self.answer_while_short(&id, &op).await {
            return Ok(answer);
        }
        let running = self
            .servers
            .run(script, Keys::bucket(&id), &call, purpose)
            .await;
        let Outcome {
            value,
            in_doubt,
            lacks,
        } = running?;
        let verdict = match reply::said(&id, value) {
            Ok(Said::Verdict(verdict)) => verdict,
            Ok(Said::NotTheStore(found)) => {
                let why = self.not_the_store(&store, found).await;
                return Err(failure(why, in_doubt));
            }
            Ok(Said::Absent) => return Err(failure(reply::strange(), in_doubt)),
            Err(why) => return Err(failure(why, in_doubt)),
        };
        if let Verdict::Acquired { .. } = verdict
            && let Some(why) = lacks
        {
            // Another server may take over, and know nothing of it; or has done so, and taken the replicas along.
            self.look_around();
            return Err(StoreError::InDoubt(why));
        }
        self.look_after(&id, &op, call, &verdict);
        match in_doubt {
            // The other copy may land yet. Only where this one did what was asked does it not matter when.
            Some(why) if !is_granted(&verdict) => Err(StoreError::InDoubt(why)),
            _ => Ok(verdict),
        }
    }

    /// Asks in the background who holds what by now.
    fn look_around(&self) {
        let servers = Arc::clone(&self.servers);
        tokio::spawn(async move { servers.look_around().await });
    }

    /// While claims wait for replicas that do not answer, duplicates of what is done need not: they are answered from
    /// what is there.
    async fn answer_while_short(&self, id: &RecordId, op: &Op) -> Option<Verdict> {
        let Op::Claim { origin, .. } = op else {
            return None;
        };
        let way = self.servers.way(Keys::bucket(id)).await.ok()?;
        if !way.node().claims()?.is_short() {
            return None;
        }
        let told = self.look_at(*id, origin.fingerprint).await.ok()??;
        matches!(told, Verdict::Completed(_)).then_some(told)
    }

    /// Sees to it that replicas get an answer that was just recorded.
    fn look_after(&self, id: &RecordId, op: &Op, complete: Call, verdict: &Verdict) {
        let (
            Some(answers),
            Op::Complete {
                owner, retention, ..
            },
            Verdict::Done,
        ) = (&self.answers, op, verdict)
        else {
            return;
        };
        answers.look_after(Recorded {
            bucket: Keys::bucket(id),
            again: complete.text("again"),
            confirm: self.call(id, *owner).owner(*owner),
            keep: retention.keep,
        });
    }

    /// The script of an op, and what it is given.
    fn op_call(
        &self,
        id: &RecordId,
        op: &Op,
        store: &str,
    ) -> Result<(&'static Script, Call), NotDone> {
        let by = |owner: &Owner| self.call(id, *owner).owner(*owner);
        let of = |owner: &Owner, origin: &Origin| -> Result<Call, NotDone> {
            let call = by(owner).bytes(origin.fingerprint.0.to_vec());
            Ok(call.text(&origin.route).bytes(origin_bytes(id, origin)?))
        };
        Ok(match op {
            Op::Claim {
                owner,
                origin,
                lease,
                keep,
            } => {
                let call = of(owner, origin)?.span(*lease).span(*keep);
                (&script::CLAIM, call.text(store))
            }
            Op::Renew {
                owner,
                origin,
                fence,
                lease,
                keep,
            } => {
                let call = of(owner, origin)?.number(*fence);
                (&script::RENEW, call.span(*lease).span(*keep))
            }
            Op::Complete {
                owner,
                origin,
                answer,
                retention,
            } => {
                let call = of(owner, origin)?.bytes(answer_bytes(id, answer)?);
                let call = call.span(retention.keep).span(retention.tombstone);
                (&script::COMPLETE, call)
            }
            Op::MarkUnknown {
                owner,
                origin,
                fence,
                cause,
                sent,
                keep,
            } => {
                let call = of(owner, origin)?.number(*fence);
                let call = call.text(&cause_text(*cause)).text(&sent_text(sent));
                let call = call.span(*keep);
                (&script::MARK_UNKNOWN, call)
            }
            Op::Release { owner } => (&script::RELEASE, by(owner)),
            Op::TakeOver {
                seen,
                owner,
                lease,
                keep,
            } => {
                let call = by(owner).seen(*seen).span(*lease).span(*keep);
                (&script::TAKE_OVER, call)
            }
            Op::Resolve { seen, verdict } => {
                let call = self.call(id, seen.owner).seen(*seen);
                let call = match verdict {
                    Resolution::Gone => call,
                    Resolution::Completed { answer, retention } => call
                        .bytes(answer_bytes(id, answer)?)
                        .span(retention.keep)
                        .span(retention.tombstone),
                };
                (&script::RESOLVE, call)
            }
        })
    }

    /// A call that concerns this record and the mark of this owner.
    fn call(&self, id: &RecordId, owner: Owner) -> Call {
        self.with_time(id, self.keys_of(id, owner))
    }

    /// A call that concerns this record and the marks of its owner and of the one before.
    fn call_to_forget(&self, id: &RecordId, owner: Owner, prior: Option<Owner>) -> Call {
        let mut keys = self.keys_of(id, owner);
        keys.push(self.keys.mark(id, prior.unwrap_or(owner)));
        self.with_time(id, keys)
    }

    /// The keys of a record, in the order in which the scripts know them.
    fn keys_of(&self, id: &RecordId, owner: Owner) -> Vec<String> {
        let bucket = Keys::bucket(id);
        vec![
            self.keys.record(id),
            self.keys.index(bucket),
            self.keys.mark(id, owner),
            self.keys.identity(bucket),
        ]
    }

    /// A call that concerns this record alone: no more keys than it needs, since a cluster that moves a slot answers
    /// only for keys that are all in one place.
    fn question(&self, id: &RecordId) -> Call {
        self.with_time(id, vec![self.keys.record(id)])
    }

    fn with_time(&self, id: &RecordId, keys: Vec<String>) -> Call {
        Call::new(keys).text(&self.now()).text(&keys::hex(&id.0))
    }

    /// The time for a script: empty where the server is to look at its own clock.
    fn now(&self) -> String {
        match &self.time {
            Time::Server => String::new(),
            Time::Given(clock) => clock().0.to_string(),
        }
    }

    async fn look_at(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> Result<Option<Verdict>, StoreError> {
        self.open()?;
        self.contacted().await?;
        let call = self.question(&id).bytes(fingerprint.0.to_vec());
        let outcome = self.run(&script::LOOK, Keys::bucket(&id), &call).await;
        match reply::said(&id, outcome.map_err(asked)?.value)? {
            Said::Absent => Ok(None),
            Said::Verdict(verdict) => Ok(Some(verdict)),
            Said::NotTheStore(_) => Err(reply::strange().into()),
        }
    }

    async fn read_record(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        self.open()?;
        self.contacted().await?;
        let call = self.question(&id);
        let outcome = self.run(&script::READ, Keys::bucket(&id), &call).await;
        Ok(reply::record(&id, outcome.map_err(asked)?.value)?)
    }

    fn open(&self) -> Result<(), StoreError> {
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(NotDone::Closed.into()),
            false => Ok(()),
        }
    }
}

/// Whether the op did what its caller wanted, so that another copy of it changes nothing any more.
fn is_granted(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Acquired { .. } | Verdict::Held { .. } | Verdict::Done | Verdict::Restored
    )
}

impl Store for Redis {
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        self.apply_op(id, op).boxed()
    }

    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        self.look_at(id, fingerprint).boxed()
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.read_record(id).boxed()
    }

    fn forget(&self, id: RecordId, version: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        self.forget_record(id, version).boxed()
    }

    fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        self.list_unresolved(after, limit).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async {
            self.open()?;
            let store = self.contacted().await?;
            self.look_around();
            self.is_still(&store).await?;
            self.measure().await
        }
        .boxed()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        self.time_there().boxed()
    }

    fn usage(&self) -> Usage {
        self.gauge.read()
    }

    fn hints(&self, id: RecordId) -> Option<Hints> {
        let channel = self.keys.record(&id);
        Some(self.listening.hints(Keys::bucket(&id), channel))
    }

    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.known_epoch().map_ok(Some).boxed()
    }

    fn change_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.new_epoch().map_ok(drop).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // What was acknowledged is with the servers already; replicas may lack the last answers.
        self.is_closed.store(true, Ordering::Release);
        async {
            if let Some(answers) = &self.answers {
                answers.finished().await;
            }
            self.listening.close();
            self.servers.disconnect();
        }
        .boxed()
    }
}
