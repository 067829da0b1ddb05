//! One attempt at one operation: it claims, and goes on as an [`Attempt`] where the claim is acquired.
//!
//! It outlives the connection that it came from: a client that hangs up cancels neither the dispatch nor the recording
//! of its outcome. Nothing is sent before the claim is acquired, and nothing is answered before it is recorded.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::Shared;
use super::age;
use super::attempt::Attempt;
use super::body::Body;
use super::course::Course;
use super::lease::Keeper;
use super::outbound::Outbound;
use super::problem::Problem;
use super::subject::{Subject, Tally};
use super::waiters::Ticket;
use crate::identity::KeyInvalid;
use crate::protocol::{Op, Owner, Unknown, Verdict};
use crate::route::Standing;
use crate::store::{NotDone, StoreError};
use crate::telemetry::{ClaimResult, Decision, StoreOp};
use crate::upstream::Gate;

/// What an attempt has for the one who asked.
#[allow(clippy::large_enum_variant, reason = "nearly every reply is an answer")]
pub enum Reply {
    /// The answer; it is counted.
    Answer(http::Response<Body>),
    /// Another attempt is under way.
    InFlight(Box<Tally>),
    /// The claim could not be made; nothing was sent, and the request comes back.
    NoClaim(Problem, Box<Outbound>, Box<Tally>),
}

/// One attempt.
pub struct Exchange {
    /// What all attempts share.
    pub shared: Arc<Shared>,
    /// Which operation.
    pub subject: Arc<Subject>,
    /// This attempt's owner.
    pub owner: Owner,
    /// What is sent once the claim is acquired.
    pub outbound: Box<Outbound>,
    /// The right to be waited for, where this attempt has it.
    pub ticket: Option<Ticket>,
    /// What counts the request.
    pub tally: Box<Tally>,
    /// Where the answer goes; the receiver is gone where the client has hung up.
    pub reply: oneshot::Sender<Reply>,
}

impl Exchange {
    /// Claims, and dispatches where the claim is acquired.
    pub async fn run(mut self) {
        let policy = self.subject.policy();
        match age::standing(&self.shared.ledger, policy, self.subject.made_at).await {
            Ok(Standing::Fresh) => {}
            Ok(Standing::Stale) => return self.unclaimed(Self::too_old).boxed().await,
            Ok(Standing::Ahead) => return self.unclaimed(Self::ahead).boxed().await,
            Err(error) => return self.no_claim(error).boxed().await,
        }
        // Held until the claim has a verdict, or its doubt is settled.
        let Ok(asking) = Arc::clone(&self.shared.claims).try_acquire_owned() else {
            let reply = Reply::NoClaim(Problem::StoreUnavailable, self.outbound, self.tally);
            return send(self.reply, reply);
        };
        let (asked, verdict) = self.claim().await;
        match verdict {
            Ok(met @ Verdict::Unknown { .. })
                if self.subject.policy().on_unknown.probe().is_some() =>
            {
                drop(asking);
                self.probe(met).boxed().await;
            }
            verdict => self.claimed(asked, verdict, asking).await,
        }
    }

    /// Asks for the claim; says when, too.
    pub async fn claim(&mut self) -> (Instant, Result<Verdict, StoreError>) {
        let policy = self.subject.policy();
        let asked = Instant::now();
        let claim = Op::Claim {
            owner: self.owner,
            origin: self.subject.origin.clone(),
            lease: policy.lease,
            keep: policy.keep_open(),
        };
        let verdict = self.shared.ledger.ask(self.subject.id, claim).await;
        self.tally.asked_store(StoreOp::Claim, asked.elapsed());
        self.shared.metrics.claims.inc(met(verdict.as_ref().ok()));
        (asked, verdict)
    }

    /// Dispatches where the claim is acquired.
    #[allow(
        clippy::manual_async_fn,
        reason = "the future of an `async fn` has room for its arguments twice"
    )]
    pub fn claimed(
        self,
        asked: Instant,
        verdict: Result<Verdict, StoreError>,
        asking: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> {
        async move {
            let policy = self.subject.policy();
            match verdict {
                Ok(Verdict::Acquired { seen, prior }) => {
                    drop(asking);
                    let (attempt, outbound) = self.acquired(asked, seen.fence, prior);
                    // Boxed, so that duplicates, which get no further than this, need no room for a dispatch.
                    attempt.run(outbound).boxed().await;
                }
                Ok(Verdict::InFlight { seen, .. }) => {
                    if policy.on_unknown.is_resend() {
                        self.shared.sightings.saw(self.subject.id, seen);
                    }
                    send(self.reply, Reply::InFlight(self.tally));
                }
                Ok(met @ Verdict::Unknown { .. }) if policy.on_unknown.is_resend() => {
                    self.resend(met, asking).boxed().await;
                }
                Ok(verdict) => {
                    let (decision, answer) = self.shared.told(&self.subject, verdict);
                    self.tally.decide(decision);
                    send(self.reply, Reply::Answer(answer));
                }
                Err(error) => self.no_claim(error).boxed().await,
            }
        }
    }

    /// It is never sent, for its key says so: what there is answers, and only where there is nothing it is refused. Whatever
    /// the clock says by now, the key may have been used before. Of an unknown outcome the upstream is asked as ever.
    async fn unclaimed(mut self, refused: impl FnOnce(&Self) -> (Decision, http::Response<Body>)) {
        let mut record = self.look().await;
        if self.subject.policy().on_unknown.probe().is_some()
            && let Ok(Some(met)) = &record
            && self.has_asked(met).await
        {
            record = self.look().await;
        }
        let (decision, answer) = match record {
            Ok(Some(Verdict::InFlight { .. })) => {
                return send(self.reply, Reply::InFlight(self.tally));
            }
            Ok(Some(verdict)) => self.shared.told(&self.subject, verdict),
            Ok(None) => refused(&self),
            // Not even forwarded without protection: this much is known of it.
            Err(error) => {
                tracing::debug!(key_ref = %self.subject.key_ref(), route = self.subject.route(), %error, "not looked up");
                let refusal = self
                    .shared
                    .refused(&self.subject, Problem::StoreUnavailable);
                (Decision::StoreUnavailable, refusal)
            }
        };
        self.tally.decide(decision);
        send(self.reply, Reply::Answer(answer));
    }

    /// What the record says to this request.
    async fn look(&mut self) -> Result<Option<Verdict>, StoreError> {
        let asked = Instant::now();
        let fingerprint = self.subject.origin.fingerprint;
        let record = self.shared.ledger.look(self.subject.id, fingerprint).await;
        self.tally.asked_store(StoreOp::Look, asked.elapsed());
        record
    }

    /// The record of so old a key may be forgotten: nobody can say whether it was executed.
    fn too_old(&self) -> (Decision, http::Response<Body>) {
        let refusal = self.shared.refused(&self.subject, Problem::KeyTooOld);
        (Decision::Expired, refusal)
    }

    /// No clock that is right has made such a key.
    fn ahead(&self) -> (Decision, http::Response<Body>) {
        let mut refusal = self.shared.refusal(Problem::KeyInvalid);
        refusal.detail = Some(KeyInvalid::Ahead.to_string());
        (Decision::KeyInvalid, refusal.protected())
    }

    /// A claim without a verdict is never dispatched. Its owner gives up, and says so until the store has heard
    /// it: copies of the claim that are still on their way then meet the mark.
    async fn no_claim(self, error: StoreError) {
        let problem = match &error {
            StoreError::NotDone(NotDone::Overloaded) => Problem::Overloaded,
            _ => Problem::StoreUnavailable,
        };
        // There is a record, whatever it says: to forward without protection is for stores that are down.
        let unreadable = matches!(error, StoreError::NotDone(NotDone::Unreadable(_)));
        if matches!(error, StoreError::NotDone(NotDone::OutOfOrder(_))) {
            // That the store is out of order is said once, when it begins, and counted for each request.
            tracing::debug!(key_ref = %self.subject.key_ref(), route = self.subject.route(), %error, "no claim");
        } else {
            tracing::warn!(key_ref = %self.subject.key_ref(), route = self.subject.route(), %error, "no claim");
        }
        let in_doubt = matches!(error, StoreError::InDoubt(_))
            .then(|| self.shared.metrics.claims_in_doubt.hold());
        drop(self.ticket);
        if unreadable {
            self.tally.decide(Decision::StoreUnavailable);
            let refusal = self.shared.refused(&self.subject, problem);
            return send(self.reply, Reply::Answer(refusal));
        }
        send(
            self.reply,
            Reply::NoClaim(problem, self.outbound, self.tally),
        );
        if in_doubt.is_some() {
            let release = Op::Release { owner: self.owner };
            let _ = self.shared.ledger.insist(self.subject.id, &release).await;
        }
    }

    /// The attempt that has the claim of this number, and what it sends.
    pub fn acquired(
        mut self,
        asked: Instant,
        fence: u64,
        prior: Option<Unknown>,
    ) -> (Box<Attempt>, Box<Outbound>) {
        self.tally.acquired(fence);
        self.number(fence);
        let policy = self.subject.policy();
        // One that did not enter first can still be joined, unless somebody else is there.
        let ticket = self.ticket.take().or_else(|| {
            self.shared
                .waiters
                .first(self.subject.id, self.subject.origin.fingerprint)
        });
        // Counted from the asking: the store's lease began no earlier.
        let gate = Gate::until(asked + policy.lease);
        if let Some(ticket) = &ticket {
            ticket.acquired(&gate);
        }
        let keeper = Keeper {
            subject: Arc::clone(&self.subject),
            owner: self.owner,
            fence,
            gate: Arc::clone(&gate),
            ledger: Arc::clone(&self.shared.ledger),
            metrics: Arc::clone(&self.shared.metrics),
            next: Keeper::next_beat(asked, policy.lease),
            lost: false,
        };
        let attempt = Attempt {
            held: Some(self.shared.metrics.claims_held.hold()),
            shared: self.shared,
            subject: self.subject,
            owner: self.owner,
            fence,
            prior,
            gate,
            course: Course::begin(asked, self.tally.branch()),
            keeper,
            ticket,
            recorded: None,
            client: Some((self.reply, self.tally)),
        };
        (Box::new(attempt), self.outbound)
    }
}

/// What a claim met, for whoever counts.
fn met(verdict: Option<&Verdict>) -> ClaimResult {
    match verdict {
        Some(Verdict::Acquired { .. }) => ClaimResult::Acquired,
        Some(Verdict::InFlight { .. }) => ClaimResult::InFlight,
        Some(Verdict::Completed(_)) => ClaimResult::Completed,
        Some(Verdict::Unknown { .. }) => ClaimResult::Unknown,
        Some(Verdict::Mismatch) => ClaimResult::Mismatch,
        Some(Verdict::Expired) => ClaimResult::Expired,
        _ => ClaimResult::NoVerdict,
    }
}

/// The client may be gone; what it asked for goes on without it.
fn send(client: oneshot::Sender<Reply>, reply: Reply) {
    let _ = client.send(reply);
}
