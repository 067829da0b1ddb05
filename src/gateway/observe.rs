//! Observe mode: requests go through as on a pass route, and beside each of them a task finds out what enforce mode
//! would have made of it.
//!
//! The request never waits for that task. It learns from [`sight`] what passes, asks the store under ids that no
//! protected request is ever looked for under, and counts. Whatever goes wrong with it changes a count and nothing
//! else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::UPGRADE;
use http::{HeaderValue, Request, Response};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use super::age;
use super::body::Body;
use super::dispatch::Says;
use super::grpc;
use super::headers::IDEMPOTENCY_STATUS;
use super::lease::Keeper;
use super::pass;
use super::protect::{self, Random, Unidentified};
use super::sight::{self, Ended, Ending, Payload, PayloadWatch, Print};
use super::subject::{Lane, ObservedTally, Tally};
use crate::identity::RequestParts;
use crate::process;
use crate::protocol::{
    self, Answer, Cause, Fingerprint, Op, Origin, Outcome, Owner, RecordId, Sent, Timestamp,
    Verdict,
};
use crate::route::{Policy, Standing};
use crate::server::{Peer, RequestBody};
use crate::store::{StoreError, Usage};
use crate::telemetry::{Decision, Label, ObservedReplay, WouldBe};
use crate::upstream::OutBody;

/// Requests that are observed at a time, from their heads to the ends of their answers: twice the default of client
/// connections. Further ones go through uncounted, so that observing takes no more than some tens of megabytes.
const MAX_OBSERVED: usize = 8192;

/// How often it is looked whether the store has heard how the first request ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The part of a store that observations leave to records that protect something: a fourth.
const ROOM_LEFT: u64 = 4;

/// Forwards a request, and counts what would have become of it.
pub async fn observed(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    mut tally: Box<Tally>,
    request: Box<Request<RequestBody>>,
    peer: &Peer,
) -> Response<Body> {
    let is_grpc = grpc::is_grpc(request.headers());
    let (watch, ended) = begin(shared, lane, tally.observed(), &request).unzip();
    let counter = tally.counter();
    let body = |body| match watch {
        Some(watch) => OutBody::streaming(counter.over(watch.over(body))),
        None => OutBody::streaming(counter.over(body)),
    };
    let mut response = pass::through(shared, lane, &mut tally, request, peer, body).await;
    tally.decide(Decision::Observed);
    let headers = response.headers_mut();
    headers.insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("observed"));
    match ended {
        Some(ended) => {
            let limit = lane.policy().max_response_body;
            sight::answer(response, is_grpc, limit, ended)
        }
        None => response,
    }
}

/// Begins to observe a request: with what looks at its body, and with what is to be told how it ends. `None` where
/// nothing more need be seen of it.
fn begin(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    tally: ObservedTally,
    request: &Request<RequestBody>,
) -> Option<(PayloadWatch, Ended)> {
    let policy = lane.policy();
    let headers = request.headers();
    let place = shared.observed.place();
    // In the order in which `protect` looks.
    let found = if headers.contains_key(UPGRADE) {
        Err(WouldBe::BadRequest)
    } else {
        protect::identity(lane, headers).map_err(|reason| match reason {
            Unidentified::Unkeyed => WouldBe::Unkeyed,
            Unidentified::KeyMissing => WouldBe::KeyMissing,
            Unidentified::KeyInvalid(_) => WouldBe::KeyInvalid,
            Unidentified::ScopeMissing(_) => WouldBe::ScopeMissing,
        })
    };
    let (key, scope, place) = match (found, place) {
        (Ok((key, scope)), Some(place)) => (key, scope, place),
        (found, _) => {
            let would_be = found.map_or_else(|would_be| would_be, |_| WouldBe::NotObserved);
            count(lane, tally, would_be);
            return None;
        }
    };
    let host = super::host(request);
    let parts = RequestParts {
        method: request.method(),
        host: host.as_ref().and_then(|host| host.to_str().ok()),
        path: request.uri().path(),
        query: request.uri().query(),
        headers,
    };
    let rules = &policy.fingerprint;
    let under_way = lane.identifier.observed_fingerprint(rules, &parts);
    let (seen, payload) = oneshot::channel();
    let (ended, ending) = watch::channel(None);
    let observation = Observation {
        id: lane.identifier.observed_id(&lane.route.id, &scope, &key),
        owner: Random::new().owner,
        made_at: age::relevant(policy, &key),
        shared: Arc::clone(shared),
        lane: Arc::clone(lane),
        place,
    };
    let observing = observation.run(tally, payload, ending).boxed();
    shared.tasks.spawn(process::task(observing));
    let print = Print::new(rules.body, under_way, &shared.budget);
    Some((PayloadWatch::new(Arc::clone(lane), print, seen), ended))
}

fn count(lane: &Lane, tally: ObservedTally, would_be: WouldBe) {
    lane.metrics().observed(would_be);
    tally.decide(if would_be.is_duplicate() {
        Decision::ObservedDuplicate
    } else {
        Decision::Observed
    });
}

/// What the store says to a claim.
type Asked = Result<Verdict, StoreError>;

/// Where it is learned how a request ended.
type Ends = watch::Receiver<Option<Ending>>;

/// The requests that are observed now: how many, and the first one of each key.
pub struct UnderWay {
    observed: AtomicUsize,
    firsts: Mutex<HashMap<RecordId, Ends>>,
}

/// A place among them.
struct Place {
    under_way: Arc<UnderWay>,
    /// Where this one is the first of its key.
    entered: Option<RecordId>,
}

impl UnderWay {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            observed: AtomicUsize::new(0),
            firsts: Mutex::default(),
        })
    }

    fn place(self: &Arc<Self>) -> Option<Place> {
        let place = Place {
            under_way: Arc::clone(self),
            entered: None,
        };
        let others = self.observed.fetch_add(1, Ordering::Relaxed);
        // Dropped, it is given back.
        (others < MAX_OBSERVED).then_some(place)
    }

    fn firsts(&self) -> MutexGuard<'_, HashMap<RecordId, Ends>> {
        // Nothing panics while it holds the lock; if it did, the map would still be whole.
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Becomes the first of its key, unless there is one. Says whether there is one that has ended by now.
    fn enter(&mut self, id: RecordId, ending: &Ends) -> bool {
        match self.under_way.firsts().entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert(ending.clone());
                self.entered = Some(id);
                false
            }
            Entry::Occupied(first) => first.get().borrow().is_some(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.under_way.observed.fetch_sub(1, Ordering::Relaxed);
        if let Some(id) = self.entered {
            self.under_way.firsts().remove(&id);
        }
    }
}

/// What goes on beside one observed request.
struct Observation {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    id: RecordId,
    owner: Owner,
    /// When its key was made, where that matters.
    made_at: Option<Timestamp>,
    place: Place,
}

impl Observation {
    async fn run(
        mut self,
        tally: ObservedTally,
        payload: oneshot::Receiver<Payload>,
        mut ending: Ends,
    ) {
        let print = match self.unless_stopped(async { payload.await.ok() }).await {
            Some(Payload::Whole(print)) => print,
            Some(Payload::TooLarge) => return count(&self.lane, tally, WouldBe::BodyTooLarge),
            Some(Payload::KeyInTrailer) => return count(&self.lane, tally, WouldBe::KeyInvalid),
            Some(Payload::NoRoom) => return count(&self.lane, tally, WouldBe::NotObserved),
            None => {
                return match self.ended(&mut ending).await {
                    Some(Ending::BodyBroken) => count(&self.lane, tally, WouldBe::BadRequest),
                    Some(_) => count(&self.lane, tally, WouldBe::NotObserved),
                    // The client left before its request was whole.
                    None => drop(tally),
                };
            }
        };
        if !has_room(self.shared.ledger.usage()) {
            return count(&self.lane, tally, WouldBe::NotObserved);
        }
        let fingerprint = print.fingerprint(&self.policy().fingerprint);
        match age::standing(&self.shared.ledger, self.policy(), self.made_at).await {
            Ok(Standing::Fresh) => {}
            Ok(Standing::Ahead) => return count(&self.lane, tally, WouldBe::KeyInvalid),
            Ok(Standing::Stale) => {
                let would_be = self.of_stale(fingerprint).await;
                return count(&self.lane, tally, would_be);
            }
            Err(_) => return count(&self.lane, tally, WouldBe::StoreUnavailable),
        }
        let asked = Instant::now();
        let first_has_ended = self.place.enter(self.id, &ending);
        let mut verdict = self.ask(fingerprint).await;
        if first_has_ended && matches!(verdict, Ok(Verdict::InFlight { .. })) {
            // Enforce mode answers nobody before the store knows; here the store may learn of it only now.
            verdict = self.ask_after_first(fingerprint, verdict).await;
        }
        let (would_be, first_status) = match verdict {
            Ok(Verdict::Acquired { .. }) => {
                count(&self.lane, tally, WouldBe::Executed);
                return self.follow(fingerprint, asked, ending).await;
            }
            Ok(verdict) => told(&verdict, fingerprint),
            Err(error) => {
                tracing::debug!(route = %self.lane.route.name, %error, "not observed");
                count(&self.lane, tally, WouldBe::StoreUnavailable);
                return self.withdraw(&error).await;
            }
        };
        count(&self.lane, tally, would_be);
        if would_be.is_duplicate() {
            let ending = self.ended(&mut ending).await;
            self.report(would_be, first_status, ending);
        }
    }

    /// What becomes of a key whose record may be forgotten: what the record says, or the refusal of an expired one.
    async fn of_stale(&self, fingerprint: Fingerprint) -> WouldBe {
        match self.shared.ledger.look(self.id, fingerprint).await {
            Ok(None) => WouldBe::Expired,
            Ok(Some(verdict)) => told(&verdict, fingerprint).0,
            Err(_) => WouldBe::StoreUnavailable,
        }
    }

    /// The key is new: keeps the claim alive until the request has ended, and records how.
    async fn follow(&self, fingerprint: Fingerprint, asked: Instant, mut ending: Ends) {
        let origin = origin(fingerprint);
        let ending = tokio::select! {
            biased;
            ending = self.ended(&mut ending) => ending,
            never = self.beat(&origin, asked) => match never {},
        };
        let settled = self.settled(origin, ending);
        let settling = self.shared.ledger.insist(self.id, &settled);
        // Without its end the record reads as one that was not seen.
        let _ = timeout(self.policy().record_timeout, settling).await;
    }

    async fn beat(&self, origin: &Origin, asked: Instant) -> std::convert::Infallible {
        let lease = self.policy().lease;
        let mut next = Keeper::next_beat(asked, lease);
        while let Some(due) = next {
            sleep_until(due).await;
            next = Keeper::next_beat(Instant::now(), lease);
            let renewal = Op::Renew {
                owner: self.owner,
                origin: origin.clone(),
                fence: 1,
                lease,
                keep: self.policy().keep_open(),
            };
            if let Ok(Verdict::Lost) = self.shared.ledger.ask(self.id, renewal).await {
                break;
            }
        }
        std::future::pending().await
    }

    /// What the store says to a claim once it has heard how the first request ended.
    async fn ask_after_first(&self, fingerprint: Fingerprint, before: Asked) -> Asked {
        let heard = async {
            let under_way = |record| matches!(record, Ok(Some(Verdict::InFlight { .. })) | Err(_));
            while under_way(self.shared.ledger.look(self.id, fingerprint).await) {
                sleep(LOOK_EVERY).await;
            }
        };
        match timeout(self.policy().record_timeout, heard).await {
            Ok(()) => self.ask(fingerprint).await,
            Err(_) => before,
        }
    }

    async fn ask(&self, fingerprint: Fingerprint) -> Asked {
        let claim = Op::Claim {
            owner: self.owner,
            origin: origin(fingerprint),
            lease: self.policy().lease,
            keep: self.policy().keep_open(),
        };
        self.shared.ledger.ask(self.id, claim).await
    }

    /// The op by which an attempt that ended so would have settled its record.
    fn settled(&self, origin: Origin, ending: Option<Ending>) -> Op {
        let unknown = |cause, origin| Op::MarkUnknown {
            owner: self.owner,
            origin,
            fence: 1,
            cause,
            sent: Sent::default(),
            keep: self.policy().keep_open(),
        };
        let release = Op::Release { owner: self.owner };
        match ending {
            Some(Ending::Answered {
                says: Says::Nothing(cause),
                ..
            }) => unknown(cause, origin),
            Some(Ending::Answered {
                status,
                says: Says::Status(said),
                not_stored,
            }) => match self.policy().outcomes.classify(said, false) {
                Outcome::Record => Op::Complete {
                    owner: self.owner,
                    origin,
                    answer: recorded(status, not_stored),
                    retention: self.policy().keep_answer(said),
                },
                Outcome::Release => release,
                Outcome::Unknown => unknown(Cause::Status(said), origin),
            },
            Some(Ending::NotSent) => release,
            Some(Ending::Unanswered(cause)) => unknown(cause, origin),
            Some(Ending::BodyBroken) | None => unknown(UNSEEN, origin),
        }
    }

    /// A claim that the store may or may not have taken: it is given back, as enforce mode would.
    async fn withdraw(&self, error: &StoreError) {
        if let StoreError::InDoubt(_) = error {
            let release = Op::Release { owner: self.owner };
            let _ = self.shared.ledger.ask(self.id, release).await;
        }
    }

    fn report(&self, would_be: WouldBe, first_status: Option<u16>, ending: Option<Ending>) {
        let status = match ending {
            Some(Ending::Answered { status, .. }) => Some(status),
            _ => None,
        };
        if would_be == WouldBe::Replayed {
            self.lane.metrics().observed_replay(match status {
                None => ObservedReplay::NoAnswer,
                status if status == first_status => ObservedReplay::SameStatus,
                Some(_) => ObservedReplay::OtherStatus,
            });
        }
        let key_ref = self.lane.identifier.key_ref(&self.id);
        tracing::info!(
            %key_ref, route = %self.lane.route.name, would_be = would_be.name(), first_status, status,
            "a duplicate was let through",
        );
    }

    /// How the request ended; `None` where nobody has seen it.
    async fn ended(&self, ending: &mut Ends) -> Option<Ending> {
        let ended = async { *ending.wait_for(Option::is_some).await.ok()? };
        self.unless_stopped(ended).await
    }

    /// What a body tells, unless it tells nothing or a drain is cut short before.
    async fn unless_stopped<T>(&self, told: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::select! {
            biased;
            told = told => told,
            () = self.shared.stop.cancelled() => None,
        }
    }

    fn policy(&self) -> &Policy {
        self.lane.policy()
    }
}

/// Why the outcome of a request is not known that was not seen to its end. No attempt declares that of itself in
/// enforce mode.
const UNSEEN: Cause = Cause::LeaseLapsed;

/// What a client would have heard of this record, and the status of the answer that it would have got from it.
fn told(verdict: &Verdict, fingerprint: Fingerprint) -> (WouldBe, Option<u16>) {
    let would_be = match verdict {
        Verdict::Completed(found) if found.fingerprint != fingerprint => WouldBe::Mismatch,
        Verdict::Completed(found) => match &found.completed.answer {
            Answer::Stored(first) => return (WouldBe::Replayed, Some(first.status)),
            Answer::NotStored(_) => WouldBe::NotStored,
            // Whose key is not configured any more.
            Answer::Sealed(_) => WouldBe::StoreUnavailable,
        },
        Verdict::Mismatch => WouldBe::Mismatch,
        Verdict::InFlight { .. } => WouldBe::InProgress,
        Verdict::Unknown { cause: UNSEEN, .. } => WouldBe::Unseen,
        Verdict::Unknown { .. } => WouldBe::Unknown,
        Verdict::Expired => WouldBe::Expired,
        // Answers to an owner, which one whose claim was not taken is not.
        Verdict::Acquired { .. }
        | Verdict::Held { .. }
        | Verdict::Done
        | Verdict::Restored
        | Verdict::Lost
        | Verdict::Changed => WouldBe::StoreUnavailable,
    };
    (would_be, None)
}

/// Fingerprint and status are all that is kept of a request that was observed.
fn origin(fingerprint: Fingerprint) -> Origin {
    Origin {
        fingerprint,
        // No route: what was only observed is nothing that anybody could settle.
        route: Arc::default(),
        reference: bytes::Bytes::new(),
    }
}

fn recorded(status: u16, not_stored: Option<protocol::NotStored>) -> Answer {
    match not_stored {
        Some(reason) => Answer::NotStored(reason),
        None => Answer::Stored(Arc::new(protocol::Response::new(
            status,
            Vec::new(),
            bytes::Bytes::new(),
        ))),
    }
}

/// Whether there is room for records that protect nothing. A store that does not say how large it may be has some.
fn has_room(usage: Usage) -> bool {
    usage.limit_bytes == 0 || usage.bytes < usage.limit_bytes - usage.limit_bytes / ROOM_LEFT
}
