//! Beats: an owner at work says so, and learns when its claim is lost.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::ledger::Ledger;
use super::subject::Subject;
use crate::protocol::{Op, Owner, Verdict};
use crate::telemetry::{Beat, Label, LeaseLost, Metrics};
use crate::upstream::Gate;

/// Beats come at this part of the lease: two may fail before the claim reads as silent.
const BEATS_PER_LEASE: u32 = 3;

/// Keeps one claim alive while something else goes on.
pub struct Keeper {
    /// The operation that is claimed.
    pub subject: Arc<Subject>,
    /// Whose claim.
    pub owner: Owner,
    /// The claim's fence.
    pub fence: u64,
    /// Closed when the claim is lost, extended by each beat.
    pub gate: Arc<Gate>,
    /// Where the beats go.
    pub ledger: Arc<Ledger>,
    /// What counts them.
    pub metrics: Arc<Metrics>,
    /// When the next beat is due; `None` once the claim is known to be gone.
    pub next: Option<Instant>,
    /// Whether the claim was counted as lost.
    pub lost: bool,
}

impl Keeper {
    /// When the next beat is due after the claim, or a beat, that was asked for at `asked`.
    #[must_use]
    pub fn next_beat(asked: Instant, lease: Duration) -> Option<Instant> {
        Some(asked + lease / BEATS_PER_LEASE)
    }

    /// Does the work, and beats meanwhile. A beat that is under way when the work ends is dropped: should it
    /// arrive later, it finds a record that is not this claim any more.
    pub async fn during<W: Future>(&mut self, work: W) -> W::Output {
        tokio::select! {
            biased;
            done = work => done,
            never = self.beat(Self::lose) => match never {},
        }
    }

    /// The same while the outcome is being stored. A beat that finds the claim gone then says nothing: an op of this
    /// very owner may have been applied without a word. What that op is told when it is repeated decides.
    pub async fn settling<W: Future>(&mut self, work: W) -> W::Output {
        tokio::select! {
            biased;
            done = work => done,
            never = self.beat(|_| {}) => match never {},
        }
    }

    /// Counts the claim as lost, once. The dispatch is not stopped where it has begun: it may have been executed by
    /// now, and its answer is the truth about it.
    pub fn lose(&mut self) {
        self.next = None;
        if std::mem::replace(&mut self.lost, true) {
            return;
        }
        let phase = if self.gate.close() {
            LeaseLost::BeforeWrite
        } else {
            LeaseLost::AfterWrite
        };
        self.metrics.leases_lost.inc(phase);
        tracing::warn!(key_ref = %self.subject.key_ref(), fence = self.fence, phase = phase.name(), "claim lost");
    }

    async fn beat(&mut self, gone: impl Fn(&mut Self)) -> Infallible {
        while let Some(due) = self.next {
            sleep_until(due).await;
            let asked = Instant::now();
            let policy = self.subject.policy();
            let lease = policy.lease;
            self.next = Self::next_beat(asked, lease);
            let renewal = Op::Renew {
                owner: self.owner,
                origin: self.subject.origin.clone(),
                fence: self.fence,
                lease,
                keep: policy.keep_open(),
            };
            match self.ledger.ask(self.subject.id, renewal).await {
                Ok(Verdict::Held { .. }) => {
                    // Counted from the asking: the store's lease began no earlier.
                    self.gate.extend(asked + lease);
                    self.metrics.beats.inc(Beat::Held);
                }
                Ok(_) => {
                    self.next = None;
                    self.metrics.beats.inc(Beat::Lost);
                    gone(self);
                }
                Err(_) => self.metrics.beats.inc(Beat::NoVerdict),
            }
        }
        pending().await
    }
}
