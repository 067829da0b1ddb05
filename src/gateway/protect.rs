//! A request on a protected route, up to its exchange and, for duplicates, around somebody else's.
//!
//! This runs in the connection's task. What is in here ends when the client hangs up, which costs nothing; the exchange
//! goes on then in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::UPGRADE;
use http::{HeaderMap, Request, Response, request};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Shared;
use super::age;
use super::body::{self, Body, Unread, Whole};
use super::detach::Detach;
use super::exchange::{Exchange, Reply};
use super::headers;
use super::outbound::Outbound;
use super::pass;
use super::problem::Problem;
use super::subject::{Lane, Subject, Tally};
use super::waiters::{Ended, Met, Ticket, Waiting};
use crate::identity::{
    Key, KeyFormat, KeyInvalid, KeySource, Reference, RequestParts, Scope, ScopeMissing, key, scope,
};
use crate::protocol::{Origin, Owner, Verdict};
use crate::route::{OnStoreDown, Policy};
use crate::server::{Fault, Peer, RequestBody};
use crate::telemetry::Decision;

/// How long duplicates go on waiting for attempts that the end of a drain cuts short. These say that they are unknown
/// at once, unless their store does not answer.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Answers a request on a protected route.
pub async fn protected(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    mut tally: Box<Tally>,
    request: Box<Request<RequestBody>>,
    peer: &Peer,
) -> Response<Body> {
    let policy = lane.policy();
    if request.headers().contains_key(UPGRADE) {
        return malformed(shared, tally, "Upgrades are refused on this route.");
    }
    // What needs no body is decided before it is read: the client is not even told to continue.
    let (key, scope) = match identified(shared, lane, request.headers()) {
        Ok(Some(who)) => who,
        Ok(None) => {
            let unkeyed = pass::unkeyed(shared, lane, policy, tally, request, peer);
            return unkeyed.boxed().await;
        }
        Err((decision, refusal)) => {
            tally.decide(decision);
            return *refusal;
        }
    };
    // A block, so that there is no room for all this beside what is awaited behind it.
    let (call, owner, outbound) = {
        let host = super::host(&request);
        let (head, mut incoming) = request.into_parts();
        let whole = match body::read(&mut incoming, policy.max_request_body, &shared.budget).await {
            Ok(whole) => whole,
            Err(partial) => {
                tally.body_read(partial.bytes.len() as u64);
                return unread(shared, tally, &partial.reason, incoming.verdict().fault());
            }
        };
        let read_at = tally.body_read(whole.bytes.len() as u64);
        if names_key(policy, whole.trailers.as_ref()) {
            tally.decide(Decision::KeyInvalid);
            let mut refusal = shared.refusal(Problem::KeyInvalid);
            refusal.detail = Some("A key in a trailer comes too late to be looked at.".to_owned());
            return refusal.protected();
        }
        let (subject, owner) = subject(lane, &head, host.as_ref(), &key, &scope, &whole);
        tally.identified(subject.id);
        if let Some((recorded, age)) = shared.cache.find(&subject.id, &subject.origin.fingerprint) {
            shared.metrics.replay_cache.hits.inc();
            lane.metrics().replayed(age);
            let (decision, response) = shared.replayed(&subject, &recorded, Decision::Replayed);
            tally.decide(decision);
            return response;
        }
        let outbound = outbound(policy, head, host.as_ref(), peer, whole);
        let call = Call {
            shared: Arc::clone(shared),
            subject: Arc::new(subject),
            give_up: read_at + policy.wait,
        };
        (call, owner, outbound)
    };
    call.answered(owner, outbound, tally).await
}

/// Why it cannot be said which operation a request is.
pub enum Unidentified {
    /// It bears no key or no scope, and its route requires none.
    Unkeyed,
    /// It bears no key.
    KeyMissing,
    /// It bears none that can be one.
    KeyInvalid(KeyInvalid),
    /// It does not say who asks.
    ScopeMissing(ScopeMissing),
}

/// Whose operation it is, and which of theirs.
///
/// # Errors
/// Why that cannot be said.
pub fn identity(lane: &Lane, headers: &HeaderMap) -> Result<(Key, Scope), Unidentified> {
    let policy = lane.policy();
    let key = match key::find(&policy.key, &policy.key_format, headers) {
        Ok(Some(key)) => key,
        Ok(None) if !policy.key_required => return Err(Unidentified::Unkeyed),
        Ok(None) => return Err(Unidentified::KeyMissing),
        Err(reason) => return Err(Unidentified::KeyInvalid(reason)),
    };
    if matches!(policy.key_format, KeyFormat::Issued) && !lane.identifier.has_issued(&key) {
        return Err(Unidentified::KeyInvalid(KeyInvalid::NotIssued));
    }
    match scope::find(&policy.scope, headers) {
        Ok(scope) => Ok((key, scope)),
        Err(_) if !policy.scope_required => Err(Unidentified::Unkeyed),
        Err(missing) => Err(Unidentified::ScopeMissing(missing)),
    }
}

/// A refusal and what it counts as.
type Refused = (Decision, Box<Response<Body>>);

/// Key and scope; `None` where one is missing that the route does not require.
fn identified(
    shared: &Shared,
    lane: &Lane,
    headers: &HeaderMap,
) -> Result<Option<(Key, Scope)>, Refused> {
    let policy = lane.policy();
    match identity(lane, headers) {
        Ok(who) => Ok(Some(who)),
        Err(Unidentified::Unkeyed) => Ok(None),
        Err(Unidentified::KeyMissing) => {
            let names: Vec<&str> = policy
                .key
                .iter()
                .map(|KeySource::Header(name)| name.as_str())
                .collect();
            let mut refusal = shared.refusal(Problem::KeyMissing);
            let which = match policy.key_format {
                KeyFormat::Issued => "issued by POST /.well-known/oncegate/keys",
                _ => "of your own making",
            };
            refusal.detail = Some(format!(
                "Send a key {which}, a new one for each operation, in {}.",
                names.join(" or "),
            ));
            Err((Decision::KeyMissing, Box::new(refusal.protected())))
        }
        Err(Unidentified::KeyInvalid(reason)) => {
            let mut refusal = shared.refusal(Problem::KeyInvalid);
            refusal.detail = Some(reason.to_string());
            Err((Decision::KeyInvalid, Box::new(refusal.protected())))
        }
        Err(Unidentified::ScopeMissing(missing)) => {
            let mut refusal = shared.refusal(Problem::ScopeMissing);
            refusal.detail = Some(missing.to_string());
            refusal.challenge = Some(&policy.challenge);
            Err((Decision::ScopeMissing, Box::new(refusal.protected())))
        }
    }
}

fn malformed(shared: &Shared, tally: Box<Tally>, detail: &str) -> Response<Body> {
    tally.malformed();
    let mut refusal = shared.refusal(Problem::BadRequest);
    refusal.detail = Some(detail.to_owned());
    refusal.protected()
}

fn unread(
    shared: &Shared,
    tally: Box<Tally>,
    reason: &Unread,
    fault: Option<Fault>,
) -> Response<Body> {
    let (decision, problem) = match reason {
        Unread::TooLarge => (Decision::BodyTooLarge, Problem::BodyTooLarge),
        Unread::NoRoom => (Decision::Overloaded, Problem::Overloaded),
        Unread::Broken => {
            let fault = fault.map(|fault| fault.to_string());
            let detail = fault
                .as_deref()
                .unwrap_or("The body broke off, or stalled.");
            return malformed(shared, tally, detail);
        }
    };
    tally.decide(decision);
    shared.refusal(problem).protected()
}

/// Whether trailers bear what is looked for as a key.
pub fn names_key(policy: &Policy, trailers: Option<&HeaderMap>) -> bool {
    trailers.is_some_and(|trailers| {
        let mut sources = policy.key.iter();
        sources.any(|KeySource::Header(name)| headers::has_read_as(trailers, name))
    })
}

/// Which operation it is, and an owner for the attempt at it.
fn subject(
    lane: &Arc<Lane>,
    head: &request::Parts,
    host: Option<&http::HeaderValue>,
    key: &Key,
    scope: &Scope,
    whole: &Whole,
) -> (Subject, Owner) {
    let policy = lane.policy();
    let identifier = &lane.identifier;
    let parts = RequestParts {
        method: &head.method,
        host: host.and_then(|host| host.to_str().ok()),
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
    };
    let id = identifier.record_id(&lane.route.id, scope, key);
    let reference = Reference {
        key: key.as_str().to_owned(),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        scope: identifier.scope_name(scope),
    };
    let Random { owner, nonce } = Random::new();
    let subject = Subject {
        lane: Arc::clone(lane),
        id,
        origin: Origin {
            fingerprint: identifier.fingerprint(&policy.fingerprint, &parts, &whole.bytes),
            route: Arc::clone(&lane.route.id),
            reference: identifier.seal_reference(&id, &reference, nonce),
        },
        made_at: age::relevant(policy, key),
    };
    (subject, owner)
}

/// What must not be guessed or repeated.
pub struct Random {
    /// Of one attempt.
    pub owner: Owner,
    nonce: [u8; 12],
}

impl Random {
    /// From the system's source.
    #[must_use]
    pub fn new() -> Self {
        // In one go, which costs as much as either.
        let mut bytes = [0; 16 + 12];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has a source of randomness");
        let (owner, nonce) = bytes.split_at(16);
        Self {
            owner: Owner(u128::from_be_bytes(owner.try_into().expect("16 bytes"))),
            nonce: nonce.try_into().expect("12 bytes"),
        }
    }
}

fn outbound(
    policy: &Policy,
    head: request::Parts,
    host: Option<&http::HeaderValue>,
    peer: &Peer,
    whole: Whole,
) -> Box<Outbound> {
    let mut lines = head.headers;
    headers::to_upstream(
        &mut lines,
        &headers::Origin {
            peer,
            host,
            version: head.version,
        },
    );
    headers::to_protected_upstream(&mut lines, &policy.key, policy.forward_key);
    Box::new(Outbound {
        method: head.method,
        target: pass::target(&head.uri),
        headers: lines,
        body: whole.bytes,
        held: whole.held,
    })
}

/// One request that is identified, and how long it may wait for another attempt.
struct Call {
    shared: Arc<Shared>,
    subject: Arc<Subject>,
    give_up: Instant,
}

impl Call {
    async fn answered(
        self,
        owner: Owner,
        outbound: Box<Outbound>,
        mut tally: Box<Tally>,
    ) -> Response<Body> {
        let ticket = match self.enter() {
            Met::Nobody(ticket) => Some(ticket),
            Met::Acquired(waiting) => {
                // One that waits sends nothing any more, and need not hold a body.
                drop(outbound);
                tally.waits();
                return self.joined(waiting, tally).boxed().await;
            }
            Met::Lapsed => {
                drop(outbound);
                tally.waits();
                return self.polled(tally).boxed().await;
            }
            Met::Full { acquired: true } => return self.full(tally),
            Met::Claiming(waiting) => {
                let since = Instant::now();
                waiting.verdict().await;
                tally.waited(since.elapsed());
                None
            }
            // The store tells; asking it is not waiting.
            Met::Full { acquired: false } | Met::Stranger => None,
        };
        match self.exchanged(owner, outbound, ticket, tally).await {
            Ok(Reply::Answer(response)) => response,
            Ok(Reply::InFlight(mut tally)) => {
                tally.waits();
                self.in_flight(tally).boxed().await
            }
            Ok(Reply::NoClaim(problem, outbound, tally)) => {
                self.no_claim(problem, *outbound, tally).boxed().await
            }
            // The attempt's task ended without a word, which is a defect; what it did is not known.
            Err(_) => self.shared.refused(&self.subject, Problem::OutcomeUnknown),
        }
    }

    fn enter(&self) -> Met {
        let fingerprint = self.subject.origin.fingerprint;
        self.shared.waiters.enter(self.subject.id, fingerprint)
    }

    /// Runs the exchange, which goes on in a task of its own when the client hangs up.
    fn exchanged(
        &self,
        owner: Owner,
        outbound: Box<Outbound>,
        ticket: Option<Ticket>,
        tally: Box<Tally>,
    ) -> Detach<Reply> {
        let (reply, answer) = oneshot::channel();
        let exchange = Exchange {
            shared: Arc::clone(&self.shared),
            subject: Arc::clone(&self.subject),
            owner,
            outbound,
            ticket,
            tally,
            reply,
        };
        Detach::new(exchange.run(), answer, &self.shared.tasks)
    }

    /// Another attempt is under way, here or elsewhere.
    async fn in_flight(self, tally: Box<Tally>) -> Response<Body> {
        while !self.is_over() {
            match self.enter() {
                Met::Acquired(waiting) => return self.joined(waiting, tally).await,
                Met::Full { .. } => return self.full(tally),
                Met::Claiming(waiting) => {
                    let _ = timeout_at(self.give_up, waiting.verdict()).await;
                }
                // Not in this process. The ticket is for those that claim: whoever met this one while it polls would
                // wait for a verdict that it never has.
                Met::Nobody(ticket) => {
                    drop(ticket);
                    return self.polled(tally).await;
                }
                Met::Stranger | Met::Lapsed => return self.polled(tally).await,
            }
        }
        self.refused(tally, Decision::InProgress, Problem::RequestInProgress)
    }

    /// Waits for an attempt of this process.
    async fn joined(self, mut waiting: Waiting, tally: Box<Tally>) -> Response<Body> {
        if self.is_over() {
            return self.refused(tally, Decision::InProgress, Problem::RequestInProgress);
        }
        let ended = tokio::select! {
            biased;
            ended = waiting.ended() => Some(ended),
            () = sleep_until(self.give_up) => None,
            () = self.cut_short() => None,
        };
        match ended {
            Some(Ended::Recorded(response)) => {
                let joined = Decision::Joined;
                let (decision, response) = self.shared.replayed(&self.subject, &response, joined);
                tally.decide(decision);
                response
            }
            Some(Ended::AskStore) => self.looked(tally).await,
            // It may have been settled elsewhere while this process stood still.
            None if waiting.is_lapsed() => self.looked(tally).await,
            None => self.refused(tally, Decision::InProgress, Problem::RequestInProgress),
        }
    }

    /// Waits for an attempt of which only the store knows.
    async fn polled(self, tally: Box<Tally>) -> Response<Body> {
        let Some(_place) = self.shared.waiters.place() else {
            return self.full(tally);
        };
        let fingerprint = self.subject.origin.fingerprint;
        let ended = tokio::select! {
            biased;
            ended = self.shared.foreign.ended(self.subject.id, fingerprint) => Some(ended),
            () = sleep_until(self.give_up) => None,
            () = self.shared.stop.cancelled() => None,
        };
        match ended {
            Some(verdict) => self.after_waiting(tally, verdict),
            None => self.looked(tally).await,
        }
    }

    /// Answers what the record says now.
    async fn looked(self, tally: Box<Tally>) -> Response<Body> {
        let fingerprint = self.subject.origin.fingerprint;
        match self.shared.ledger.look(self.subject.id, fingerprint).await {
            Ok(verdict) => self.after_waiting(tally, verdict),
            Err(_) => self.refused(tally, Decision::StoreUnavailable, Problem::StoreUnavailable),
        }
    }

    /// Answers one that has waited. Where there is no record any more, the first attempt was released: those that
    /// waited for it are told to come again, and do not all dispatch at once.
    fn after_waiting(&self, tally: Box<Tally>, verdict: Option<Verdict>) -> Response<Body> {
        let Some(verdict) = verdict else {
            return self.refused(tally, Decision::InProgress, Problem::RequestInProgress);
        };
        let (decision, response) = self.shared.told(&self.subject, verdict);
        tally.decide(match decision {
            Decision::Replayed => Decision::Joined,
            decision => decision,
        });
        response
    }

    /// The store gave no claim. Nothing was sent under it, and nothing will be.
    async fn no_claim(
        self,
        problem: Problem,
        outbound: Outbound,
        tally: Box<Tally>,
    ) -> Response<Body> {
        match (self.subject.policy().on_store_down, problem) {
            (OnStoreDown::Forward, Problem::StoreUnavailable) => {
                tracing::warn!(key_ref = %self.subject.key_ref(), route = self.subject.route(), "forwarded unprotected");
                pass::unprotected(&self.shared, &self.subject.lane, tally, outbound).await
            }
            (_, Problem::Overloaded) => {
                self.refused(tally, Decision::Overloaded, Problem::Overloaded)
            }
            _ => self.refused(tally, Decision::StoreUnavailable, Problem::StoreUnavailable),
        }
    }

    /// As many wait as may. Who would not have waited anyway is told what it met.
    fn full(self, tally: Box<Tally>) -> Response<Body> {
        if self.is_over() {
            self.refused(tally, Decision::InProgress, Problem::RequestInProgress)
        } else {
            self.refused(tally, Decision::Overloaded, Problem::Overloaded)
        }
    }

    /// Waits for the end of a drain, and for as long as the attempts that it cuts short may take to say so.
    async fn cut_short(&self) {
        self.shared.stop.cancelled().await;
        sleep(LAST_WAIT).await;
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.give_up
    }

    fn refused(&self, tally: Box<Tally>, decision: Decision, problem: Problem) -> Response<Body> {
        tally.decide(decision);
        self.shared.refused(&self.subject, problem)
    }
}
