//! Sending again (`on_unknown = "resend"`): a duplicate of an operation of unknown outcome takes the right to dispatch over,
//! for upstreams that recognise keys by themselves.
//!
//! Where the owner has declared that it does not know, nobody dispatches any more. A claim whose owner has gone silent is
//! taken over only once this gateway has seen it unchanged for a whole lease by its own clock: from then on the owner's
//! own gate refuses the first byte, whatever the store's clock says.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::exchange::{Exchange, Reply};
use super::problem::Problem;
use crate::protocol::{Cause, Op, RecordId, Seen, State, Verdict};
use crate::store::StoreError;
use crate::telemetry::{Decision, Resend, StoreOp};

/// The number of a dispatch within one life of its record: what an upstream may tell a later attempt from an earlier
/// one by.
const ONCEGATE_FENCE: HeaderName = HeaderName::from_static("oncegate-fence");

/// Claims of others that are watched at a time. Those that were asked for least make room for new ones, and are watched
/// from the beginning when they are met again.
const MAX_WATCHED: usize = 8192;

/// Attempts that duplicates came upon, and since when this gateway has seen them unchanged.
pub struct Sightings(Cache<RecordId, Sighting>);

#[derive(Clone)]
struct Sighting {
    seen: Seen,
    since: Instant,
}

impl Sightings {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Cache::new(MAX_WATCHED))
    }

    /// This attempt was seen just now. Says for how long nothing else was.
    pub fn saw(&self, id: RecordId, seen: Seen) -> Duration {
        match self.0.get(&id) {
            Some(sighting) if sighting.seen == seen => sighting.since.elapsed(),
            _ => {
                let since = Instant::now();
                self.0.insert(id, Sighting { seen, since });
                Duration::ZERO
            }
        }
    }
}

impl Exchange {
    /// Says which dispatch of the record this is, where it may not be the only one.
    pub fn number(&mut self, fence: u64) {
        if self.subject.policy().on_unknown.is_resend() {
            let headers = &mut self.outbound.headers;
            headers.insert(ONCEGATE_FENCE, HeaderValue::from(fence));
        }
    }

    /// Takes over from an attempt of which no outcome is known, as the claim has met it, and dispatches; or says what the
    /// record says, where it is too early for that.
    pub async fn resend(mut self, met: Verdict, asking: OwnedSemaphorePermit) {
        let Verdict::Unknown { seen, cause, .. } = met else {
            return self.tell(met);
        };
        if cause == Cause::LeaseLapsed && !self.is_silent(seen).await {
            self.subject.metrics().resend(Resend::Early);
            return self.tell(met);
        }
        let policy = self.subject.policy();
        let asked = Instant::now();
        let take_over = Op::TakeOver {
            seen,
            owner: self.owner,
            lease: policy.lease,
            keep: policy.keep_open(),
        };
        let verdict = self.shared.ledger.ask(self.subject.id, take_over).await;
        self.tally.asked_store(StoreOp::TakeOver, asked.elapsed());
        match verdict {
            Ok(Verdict::Acquired { seen, prior }) => {
                drop(asking);
                self.subject.metrics().resend(Resend::Sent);
                tracing::warn!(
                    key_ref = %self.subject.key_ref(), route = self.subject.route(), fence = seen.fence,
                    cause = cause.name(),
                    "an operation of unknown outcome is sent again",
                );
                let (attempt, outbound) = self.acquired(asked, seen.fence, prior);
                attempt.run(outbound).await;
            }
            Ok(Verdict::Changed) => {
                self.subject.metrics().resend(Resend::Changed);
                self.look_again().await;
            }
            Ok(verdict) => {
                self.subject.metrics().resend(Resend::Changed);
                self.tell(verdict);
            }
            Err(error) => {
                self.subject.metrics().resend(Resend::NoVerdict);
                self.stays_unknown(met, error).await;
            }
        }
    }

    /// Whether this gateway has seen this silent attempt, and nothing else, for the whole lease that it was claimed for.
    /// The take-over asks once more, so that it counts from the first sight to that.
    async fn is_silent(&mut self, seen: Seen) -> bool {
        let watched = self.shared.sightings.saw(self.subject.id, seen);
        if watched.is_zero() {
            return false;
        }
        let asked = Instant::now();
        let record = self.shared.ledger.read(self.subject.id).await;
        self.tally.asked_store(StoreOp::Read, asked.elapsed());
        let Ok(Some(record)) = record else {
            return false;
        };
        match record.state {
            State::Claimed(claim) => claim.seen == seen && watched >= claim.lease,
            // Given back by one that took over and sent nothing: whose silence it is has no lease any more.
            State::Unknown(unknown) => {
                unknown.seen == seen && watched >= self.subject.policy().lease
            }
            State::Completed(_) | State::Expired => false,
        }
    }

    /// Somebody else was faster. Those that met the same attempt do not all dispatch one after the other.
    async fn look_again(mut self) {
        let asked = Instant::now();
        let fingerprint = self.subject.origin.fingerprint;
        let record = self.shared.ledger.look(self.subject.id, fingerprint).await;
        self.tally.asked_store(StoreOp::Look, asked.elapsed());
        drop(self.ticket.take());
        match record {
            Ok(Some(Verdict::InFlight { .. })) => {
                let _ = self.reply.send(Reply::InFlight(self.tally));
            }
            Ok(Some(verdict)) => self.tell(verdict),
            // It was settled as not executed: the next try claims it anew.
            Ok(None) => self.refuse(Decision::InProgress, Problem::RequestInProgress),
            Err(_) => self.refuse(Decision::StoreUnavailable, Problem::StoreUnavailable),
        }
    }

    /// A take-over, or a claim after a probe, without a verdict is never dispatched. The client hears what the record said
    /// before; where the call may yet be applied its owner gives up, and what it took over is restored.
    pub async fn stays_unknown(self, met: Verdict, error: StoreError) {
        tracing::warn!(key_ref = %self.subject.key_ref(), route = self.subject.route(), %error, "no claim on an operation of unknown outcome");
        let (shared, subject, owner) = (
            Arc::clone(&self.shared),
            Arc::clone(&self.subject),
            self.owner,
        );
        let in_doubt =
            matches!(error, StoreError::InDoubt(_)).then(|| shared.metrics.claims_in_doubt.hold());
        self.tell(met);
        if in_doubt.is_some() {
            let _ = shared
                .ledger
                .insist(subject.id, &Op::Release { owner })
                .await;
        }
    }

    /// Answers what the record says.
    pub fn tell(self, verdict: Verdict) {
        let (decision, answer) = self.shared.told(&self.subject, verdict);
        drop(self.ticket);
        self.tally.decide(decision);
        let _ = self.reply.send(Reply::Answer(answer));
    }

    fn refuse(self, decision: Decision, problem: Problem) {
        let answer = self.shared.refused(&self.subject, problem);
        self.tally.decide(decision);
        let _ = self.reply.send(Reply::Answer(answer));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::protocol::Owner;

    const ID: RecordId = RecordId([1; 32]);

    fn seen(beat: u64) -> Seen {
        Seen {
            owner: Owner(1),
            fence: 1,
            beat,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_begins_the_watch_anew() {
        let sightings = Sightings::new();
        assert_eq!(sightings.saw(ID, seen(0)), Duration::ZERO);
        advance(Duration::from_secs(9)).await;
        assert_eq!(sightings.saw(ID, seen(0)), Duration::from_secs(9));
        assert_eq!(sightings.saw(ID, seen(1)), Duration::ZERO);
        advance(Duration::from_secs(2)).await;
        assert_eq!(sightings.saw(ID, seen(1)), Duration::from_secs(2));
        assert_eq!(sightings.saw(ID, seen(0)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_claims_are_watched_than_may_be() {
        let sightings = Sightings::new();
        for number in 0..3 * MAX_WATCHED as u64 {
            let mut id = ID;
            id.0[..8].copy_from_slice(&number.to_be_bytes());
            let _ = sightings.saw(id, seen(0));
        }
        assert!(sightings.0.len() <= MAX_WATCHED, "{}", sightings.0.len());
    }
}
