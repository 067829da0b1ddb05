//! An attempt that has the claim: it sends the request once, and settles what comes of it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Shared;
use super::body::{self, Body};
use super::course::Course;
use super::dispatch::{Answered, Dispatched, Says, Streaming, dispatch, pass};
use super::exchange::Reply;
use super::headers::IDEMPOTENCY_STATUS;
use super::lease::Keeper;
use super::outbound::Outbound;
use super::problem::Problem;
use super::subject::{Subject, Tally};
use super::waiters::Ticket;
use crate::protocol::{Answer, Cause, Op, Outcome, Owner, Response, Unknown, Verdict};
use crate::store::NotDone;
use crate::telemetry::{Decision, Hold, Label, LateAnswer, StoreOp, UpstreamError};
use crate::upstream::{Gate, SendErrorKind};

/// How many pieces of a response wait for a slow client before the upstream is not read any more.
const PASSED_PIECES: usize = 8;

/// An attempt that has the claim.
pub struct Attempt {
    /// What all attempts share.
    pub shared: Arc<Shared>,
    /// Which operation.
    pub subject: Arc<Subject>,
    /// This attempt's owner.
    pub owner: Owner,
    /// The number of its claim.
    pub fence: u64,
    /// The unknown attempt before it.
    pub prior: Option<Unknown>,
    /// Whether its first byte may be written, and was.
    pub gate: Arc<Gate>,
    /// What it sees of its dispatch.
    pub course: Arc<Course>,
    /// What keeps its claim alive.
    pub keeper: Keeper,
    /// The right to be waited for, until the outcome is settled.
    pub ticket: Option<Ticket>,
    /// The response that is being recorded, for those that wait.
    pub recorded: Option<Arc<Response>>,
    /// Where the answer goes; nobody once it is given.
    pub client: Option<(oneshot::Sender<Reply>, Box<Tally>)>,
    /// Counts the claim as held.
    pub held: Option<Hold>,
}

/// What to tell the client once an op has its verdict, and what if it has none in time.
struct Told {
    done: Decision,
    otherwise: Decision,
}

impl Told {
    fn always(decision: Decision) -> Self {
        Self {
            done: decision,
            otherwise: decision,
        }
    }
}

impl Attempt {
    /// Sends the request, once, and settles what comes of it.
    pub async fn run(mut self: Box<Self>, outbound: Box<Outbound>) {
        if self.shared.stop.is_cancelled() {
            // It came after the end of the drain, on a connection that was still open.
            return self.give_back(Problem::Overloaded).boxed().await;
        }
        let mut work = dispatch(
            Arc::clone(&self.shared),
            Arc::clone(&self.subject),
            outbound,
            Arc::clone(&self.gate),
            Arc::clone(&self.course),
        )
        .boxed();
        let begun = Instant::now();
        let done = tokio::select! {
            biased;
            done = self.keeper.during(&mut work) => Ok(done),
            () = sleep_until(begun + self.subject.lane.route.response_timeout) => Err(Cause::Timeout),
            () = self.shared.stop.cancelled() => Err(Cause::Drained),
        };
        if let Some((_, tally)) = &mut self.client {
            let endpoint = done.as_ref().ok().and_then(Dispatched::endpoint);
            tally.dispatched(begun.elapsed(), endpoint);
        }
        match done {
            Ok(Dispatched::Answered(answered)) => self.answered(answered).await,
            // What is rare is boxed, so that every attempt need not be as large as the largest.
            Ok(Dispatched::Streaming(streaming)) => self.pass_on(streaming).boxed().await,
            Ok(Dispatched::NotSent(kind)) => {
                if kind == SendErrorKind::GateClosed {
                    // Unless a beat has said so: the lease was over before the first byte.
                    self.keeper.lose();
                }
                self.give_back(unsent(kind)).boxed().await;
            }
            Ok(Dispatched::Unanswered(cause)) => self.unanswered(cause, None).boxed().await,
            // Not one byte was written, and the gate is closed now: none will be.
            Err(cause) if self.gate.close() => {
                drop(work);
                let problem = match cause {
                    Cause::Drained => Problem::Overloaded,
                    _ => Problem::UpstreamUnreachable,
                };
                self.give_back(problem).boxed().await;
            }
            Err(cause) => self.unanswered(cause, Some(work)).boxed().await,
        }
    }

    /// The upstream has answered: its status says what that means.
    async fn answered(mut self: Box<Self>, answered: Box<Answered>) {
        let answer = Answer::Stored(Arc::clone(&answered.recorded));
        let (op, told) = self.judged(answered.says, answer, Decision::Executed);
        if matches!(op, Op::Complete { .. }) {
            self.recorded = Some(Arc::clone(&answered.recorded));
        }
        self.settle(&op, told, |decision| {
            let body = Body::held(answered.body, answered.held);
            let mut response = http::Response::new(body.with_trailers(answered.trailers));
            *response.status_mut() = answered.status;
            *response.headers_mut() = answered.headers;
            marked(response, decision)
        })
        .await;
    }

    /// A long or endless answer: the record says that it came before its first byte goes to the client.
    async fn pass_on(mut self: Box<Self>, streaming: Box<Streaming>) {
        let lane = Arc::clone(&self.subject.lane);
        lane.metrics().not_stored(streaming.reason);
        let answer = Answer::NotStored(streaming.reason);
        let (op, told) = self.judged(streaming.says(), answer, Decision::Unrecorded);
        let stop = self.shared.stop.clone();
        let (passing, passage) = body::passage(PASSED_PIECES);
        let (status, headers) = (streaming.status, streaming.headers);
        let settling = self.settle(&op, told, |decision| {
            let mut response = http::Response::new(Body::passed(passage));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            marked(response, decision)
        });
        let patience = lane.route.response_timeout;
        let passing = pass(passing, streaming.begun, streaming.rest, patience);
        // The record says what there is to say: at the end of a drain the rest is cut off.
        let passing = async {
            tokio::select! {
                () = passing => {}
                () = stop.cancelled() => {}
            }
        };
        tokio::join!(settling, passing);
    }

    /// What the answer says about the operation: the op that records it, and what the client hears of that.
    fn judged(&mut self, says: Says, answer: Answer, recorded: Decision) -> (Op, Told) {
        let status = match says {
            Says::Status(status) => status,
            Says::Nothing(cause) => return self.judged_unknown(cause),
        };
        let policy = self.subject.policy();
        match policy.outcomes.classify(status, self.prior.is_some()) {
            Outcome::Record => (
                self.completion(status, answer),
                Told {
                    done: recorded,
                    otherwise: Decision::Unrecorded,
                },
            ),
            Outcome::Release => (
                Op::Release { owner: self.owner },
                Told {
                    done: Decision::Released,
                    otherwise: Decision::Unrecorded,
                },
            ),
            Outcome::Unknown => self.judged_unknown(Cause::Status(status)),
        }
    }

    fn judged_unknown(&mut self, cause: Cause) -> (Op, Told) {
        self.count_unknown(cause);
        (self.unknown(cause), Told::always(Decision::Unknown))
    }

    /// Nothing was sent and nothing will be: the key is free again, or the attempt before this one is what counts.
    async fn give_back(mut self: Box<Self>, problem: Problem) {
        let (decision, problem) = match problem {
            // Whatever the store says or does not say to it: nobody knows what the attempt before this one did.
            Problem::UpstreamUnreachable if self.prior.is_some() => {
                (Decision::Unknown, Problem::UpstreamUnreachableAfterPrior)
            }
            Problem::UpstreamUnreachable => (Decision::UpstreamUnreachable, problem),
            Problem::Overloaded => (Decision::Overloaded, problem),
            _ => (Decision::StoreUnavailable, problem),
        };
        // Without the store's word a copy of the claim may be anywhere by now, and a twin of this request may have
        // been sent: that nothing happened can only be said once the claim is known to be given back.
        let told = Told {
            done: decision,
            otherwise: match decision {
                Decision::Unknown => decision,
                _ => Decision::StoreUnavailable,
            },
        };
        let (shared, subject) = (Arc::clone(&self.shared), Arc::clone(&self.subject));
        let release = Op::Release { owner: self.owner };
        self.settle(&release, told, |decision| {
            let problem = match decision {
                Decision::StoreUnavailable => Problem::StoreUnavailable,
                _ => problem,
            };
            shared.refused(&subject, problem)
        })
        .await;
    }

    /// It was sent and no answer came. The record says so; where only the time was up, the dispatch stays open for
    /// a late answer.
    async fn unanswered(mut self, cause: Cause, work: Option<BoxFuture<'_, Dispatched>>) {
        self.count_unknown(cause);
        let is_timeout = cause == Cause::Timeout;
        let problem = if is_timeout {
            let lane = &self.subject.lane;
            lane.upstream_metrics().error(UpstreamError::Timeout);
            Problem::UpstreamTimeout
        } else {
            Problem::UpstreamFailed
        };
        // Dropping the work closes the upstream's connection.
        let late = work
            .filter(|_| is_timeout)
            .and_then(|work| Some((work, self.shared.late_place()?)));
        if late.is_some()
            && let Some(span) = self.course.span()
        {
            span.late();
        }
        let (shared, subject) = (Arc::clone(&self.shared), Arc::clone(&self.subject));
        let op = self.unknown(cause);
        let refusal = shared.refused(&subject, problem);
        let marking = self.settle(&op, Told::always(Decision::Unknown), |_| refusal);
        let listening = async {
            let (work, place) = late?;
            tokio::select! {
                biased;
                done = work => Some((done, place)),
                () = sleep(subject.policy().late_response) => None,
                () = shared.stop.cancelled() => None,
            }
        };
        let ((), late) = tokio::join!(marking, listening);
        if is_timeout {
            // The place is kept until the answer is recorded: those that wait for the store are bounded, too.
            let (answer, _place) = late.unzip();
            self.late(answer).await;
        }
    }

    /// Late truth: an answer after `response_timeout` completes the record, unless somebody settled it otherwise.
    async fn late(&self, answer: Option<Dispatched>) {
        let (says, status, answer, _held) = match answer {
            Some(Dispatched::Answered(answered)) => {
                let (status, answer) = (answered.status, Answer::Stored(answered.recorded));
                (answered.says, status.as_u16(), answer, Some(answered.held))
            }
            Some(Dispatched::Streaming(streaming)) => {
                let answer = Answer::NotStored(streaming.reason);
                (streaming.says(), streaming.status.as_u16(), answer, None)
            }
            Some(Dispatched::NotSent(_) | Dispatched::Unanswered(_)) | None => {
                return self.subject.metrics().late_answer(LateAnswer::None);
            }
        };
        // A status that would release comes from an upstream that has done nothing, but the record already says
        // that nobody knows, and a client may have heard it. Only an operator takes that back.
        let outcomes = &self.subject.policy().outcomes;
        let recorded_as = match says {
            Says::Status(status) => {
                let outcome = outcomes.classify(status, self.prior.is_some());
                (outcome == Outcome::Record).then_some(status)
            }
            Says::Nothing(_) => None,
        };
        let result = match recorded_as {
            None => LateAnswer::Unsettled,
            Some(status) => {
                let completion = self.completion(status, answer);
                let _pending = self.shared.metrics.recordings_pending.hold();
                match self
                    .shared
                    .ledger
                    .insist(self.subject.id, &completion)
                    .await
                {
                    Ok(Verdict::Done) => LateAnswer::Completed,
                    Ok(_) => LateAnswer::Lost,
                    Err(_) => LateAnswer::Unrecorded,
                }
            }
        };
        if result == LateAnswer::Lost {
            // It was executed, and somebody has settled it otherwise or had it executed once more.
            tracing::warn!(
                key_ref = %self.subject.key_ref(), route = self.subject.route(), status,
                result = result.name(),
                "an answer came late, and the record says something else by now",
            );
        } else {
            tracing::info!(
                key_ref = %self.subject.key_ref(), route = self.subject.route(), status,
                result = result.name(),
                "an answer came late",
            );
        }
        self.subject.metrics().late_answer(result);
    }

    /// Asks for an op until it has a verdict, with the claim kept alive, and answers the client: with the verdict
    /// where it comes within `record_timeout`, without it after that.
    async fn settle(
        &mut self,
        op: &Op,
        told: Told,
        answer: impl FnOnce(Decision) -> http::Response<Body>,
    ) {
        let (shared, subject) = (Arc::clone(&self.shared), Arc::clone(&self.subject));
        let (asked, label) = (Instant::now(), StoreOp::from(op));
        let insist = shared.ledger.insist(subject.id, op);
        let mut insist = Box::pin(self.keeper.settling(insist));
        let in_time = asked + subject.policy().record_timeout;
        let verdict = timeout_at(in_time, &mut insist).await;
        if let Some((_, tally)) = &mut self.client {
            tally.asked_store(label, asked.elapsed());
        }
        let Ok(verdict) = verdict else {
            let _pending = shared.metrics.recordings_pending.hold();
            tracing::warn!(key_ref = %subject.key_ref(), route = subject.route(), "not recorded in time");
            reply(&mut self.client, told.otherwise, answer(told.otherwise));
            let verdict = insist.await;
            self.count_lost(&verdict);
            return self.settled(verdict == Ok(Verdict::Done));
        };
        drop(insist);
        self.count_lost(&verdict);
        // Before the client is answered: the request that it sends next meets the record, not this attempt.
        self.settled(verdict == Ok(Verdict::Done));
        let (decision, response) = match verdict {
            Ok(Verdict::Done) => (told.done, answer(told.done)),
            Ok(Verdict::Restored) => (
                Decision::Unknown,
                shared.refused(&subject, Problem::UpstreamUnreachableAfterPrior),
            ),
            Ok(_) => {
                // This attempt's own answer is dropped unsent: every client hears what the record says.
                let own = answer(told.done).status().as_u16();
                tracing::warn!(
                    key_ref = %subject.key_ref(), route = subject.route(), own,
                    "the record is not this attempt's any more",
                );
                self.lost().boxed().await
            }
            Err(reason) => {
                tracing::error!(key_ref = %subject.key_ref(), route = subject.route(), %reason, "not recorded");
                (told.otherwise, answer(told.otherwise))
            }
        };
        reply(&mut self.client, decision, response);
    }

    /// Somebody else has settled the record or has it now, whatever the beats have noticed.
    fn count_lost(&mut self, verdict: &Result<Verdict, NotDone>) {
        if !matches!(verdict, Ok(Verdict::Done | Verdict::Restored) | Err(_)) {
            self.keeper.lose();
        }
    }

    /// The claim is this attempt's no more: those that wait for it are told.
    fn settled(&mut self, done: bool) {
        self.held = None;
        match (self.ticket.take(), self.recorded.take()) {
            (Some(ticket), Some(recorded)) if done => ticket.recorded(recorded),
            // Dropped: the record says what there is to say.
            _ => {}
        }
    }

    /// What the record says to an attempt that has lost it. One that wrote, or that follows one that did, never
    /// says that nothing happened.
    async fn lost(&self) -> (Decision, http::Response<Body>) {
        let perhaps_executed = self.gate.written() || self.prior.is_some();
        let fingerprint = self.subject.origin.fingerprint;
        let record = self.shared.ledger.look(self.subject.id, fingerprint).await;
        match record {
            // Another request has the key by now; that a new key is safe cannot be said of this one.
            Ok(Some(Verdict::Mismatch) | None) | Err(_) if perhaps_executed => {
                self.unknown_to_all()
            }
            Ok(Some(verdict)) => match self.shared.told(&self.subject, verdict) {
                // "Not sent" is for those that came upon the record.
                (Decision::Overloaded, _) if perhaps_executed => self.unknown_to_all(),
                (decision, response) if perhaps_executed => (decision, sent(response)),
                told => told,
            },
            Ok(None) | Err(_) => (
                Decision::StoreUnavailable,
                self.shared
                    .refused(&self.subject, Problem::StoreUnavailable),
            ),
        }
    }

    fn unknown_to_all(&self) -> (Decision, http::Response<Body>) {
        let refusal = self.shared.refused(&self.subject, Problem::OutcomeUnknown);
        (Decision::Unknown, refusal)
    }

    fn completion(&self, status: u16, answer: Answer) -> Op {
        Op::Complete {
            owner: self.owner,
            origin: self.subject.origin.clone(),
            answer,
            retention: self.subject.policy().keep_answer(status),
        }
    }

    fn unknown(&self, cause: Cause) -> Op {
        Op::MarkUnknown {
            owner: self.owner,
            origin: self.subject.origin.clone(),
            fence: self.fence,
            cause,
            sent: self.course.sent(&self.gate),
            keep: self.subject.policy().keep_open(),
        }
    }

    fn count_unknown(&mut self, cause: Cause) {
        if let Some((_, tally)) = &mut self.client {
            tally.unknown(cause);
        }
        if let Some(span) = self.course.span() {
            span.failed(cause.name());
        }
        tracing::warn!(
            key_ref = %self.subject.key_ref(), route = self.subject.route(), cause = cause.name(),
            "the outcome is unknown",
        );
        self.subject.metrics().unknown_outcome(cause);
    }
}

/// What the record says, to one that was sent itself.
fn sent(mut response: http::Response<Body>) -> http::Response<Body> {
    if let Some(status) = response.headers_mut().get_mut(IDEMPOTENCY_STATUS)
        && status == "refused"
    {
        *status = http::HeaderValue::from_static("unknown");
    }
    response
}

/// Why nothing was sent, as the client hears it.
fn unsent(kind: SendErrorKind) -> Problem {
    match kind {
        SendErrorKind::Overloaded => Problem::Overloaded,
        // The claim was lost, or its lease lapsed without a word from the store.
        SendErrorKind::GateClosed => Problem::StoreUnavailable,
        _ => Problem::UpstreamUnreachable,
    }
}

/// The upstream's answer with what became of the request.
fn marked(mut response: http::Response<Body>, decision: Decision) -> http::Response<Body> {
    let status = match decision {
        Decision::Executed => "executed",
        Decision::Released => "released",
        Decision::Unrecorded => "unrecorded",
        _ => "unknown",
    };
    response
        .headers_mut()
        .insert(IDEMPOTENCY_STATUS, http::HeaderValue::from_static(status));
    response
}

/// Answers once; the client may be gone by now.
fn reply(
    client: &mut Option<(oneshot::Sender<Reply>, Box<Tally>)>,
    decision: Decision,
    response: http::Response<Body>,
) {
    if let Some((sender, tally)) = client.take() {
        tally.decide(decision);
        let _ = sender.send(Reply::Answer(response));
    }
}
