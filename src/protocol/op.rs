//! What can be asked of a record, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::record::{Answer, Cause, Completed, Fingerprint, Owner, Seen, Sent, Unknown};
use super::time::Timestamp;

/// One step of the protocol. A store applies it atomically, as [`super::apply()`] says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Asks for the right to dispatch.
    Claim {
        /// Who asks.
        owner: Owner,
        /// What the record is made of where there is none.
        origin: Origin,
        /// How long the claim is good for without a beat.
        lease: Duration,
        /// How long the record is kept if nobody says anything more.
        keep: Duration,
    },
    /// A beat: the owner is alive.
    Renew {
        /// Whose claim.
        owner: Owner,
        /// What the record is made of where the store has lost it.
        origin: Origin,
        /// The claim's fence.
        fence: u64,
        /// How long the claim is good for from now.
        lease: Duration,
        /// How long the record is kept from now.
        keep: Duration,
    },
    /// The upstream has answered: the outcome is final.
    Complete {
        /// Who learned it.
        owner: Owner,
        /// What the record is made of where the store has lost it.
        origin: Origin,
        /// What the upstream answered.
        answer: Answer,
        /// How long the answer is kept.
        retention: Retention,
    },
    /// The request was sent, or perhaps sent, and no answer came.
    MarkUnknown {
        /// Whose dispatch.
        owner: Owner,
        /// What the record is made of where the store has lost it.
        origin: Origin,
        /// The claim's fence.
        fence: u64,
        /// Why there is no answer.
        cause: Cause,
        /// What the owner saw of its dispatch.
        sent: Sent,
        /// How long the record is kept from now.
        keep: Duration,
    },
    /// Nothing was sent and nothing will be: the claim is given back. Always leaves a mark, so that a late
    /// copy of the same owner's claim is turned away.
    Release {
        /// Who gives up.
        owner: Owner,
    },
    /// Takes the right to dispatch from an attempt of which no outcome is known (`on_unknown = "resend"` only).
    TakeOver {
        /// The attempt as it was seen.
        seen: Seen,
        /// Who takes over.
        owner: Owner,
        /// How long the claim is good for without a beat.
        lease: Duration,
        /// How long the record is kept from now.
        keep: Duration,
    },
    /// An operator's or a probe's word about an attempt of which no outcome is known.
    Resolve {
        /// The attempt as it was seen.
        seen: Seen,
        /// What became of it.
        verdict: Resolution,
    },
}

impl Op {
    /// The name in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim { .. } => "claim",
            Self::Renew { .. } => "renew",
            Self::Complete { .. } => "complete",
            Self::MarkUnknown { .. } => "mark_unknown",
            Self::Release { .. } => "release",
            Self::TakeOver { .. } => "take_over",
            Self::Resolve { .. } => "resolve",
        }
    }

    /// The owner that the op speaks for; nobody for an operator's or a probe's word. A store asks for this
    /// owner's mark.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        match self {
            Self::Claim { owner, .. }
            | Self::Renew { owner, .. }
            | Self::Complete { owner, .. }
            | Self::MarkUnknown { owner, .. }
            | Self::Release { owner }
            | Self::TakeOver { owner, .. } => Some(*owner),
            Self::Resolve { .. } => None,
        }
    }
}

/// What a record is made of besides its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// What the request asks for.
    pub fingerprint: Fingerprint,
    /// The `id` of its route, see [`super::Record::route`].
    pub route: Arc<str>,
    /// The sealed reference, see [`super::Record::reference`].
    pub reference: Bytes,
}

/// How long a final answer is kept, and for how long after that the key is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retention {
    /// The answer is replayed for so long.
    pub keep: Duration,
    /// After that the key is refused for so long; zero where it may be used anew at once.
    pub tombstone: Duration,
}

/// What an operator or a probe says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// It was executed, and this is its answer.
    Completed {
        /// The answer to replay from now on.
        answer: Answer,
        /// How long it is kept.
        retention: Retention,
    },
    /// It was not executed: the key is free again.
    Gone,
}

/// What a store answers to an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The owner may dispatch.
    Acquired {
        /// The claim: this owner, its fence and its beat.
        seen: Seen,
        /// The unknown attempt before this one, if any.
        prior: Option<Unknown>,
    },
    /// The claim is still the owner's.
    Held {
        /// The claim after the beat.
        seen: Seen,
    },
    /// It is so now, or was so already.
    Done,
    /// The claim is given back, and the unknown attempt before it is what the record says again.
    Restored,
    /// The owner has nothing to say about this record (any more).
    Lost,
    /// The record is not what the caller saw.
    Changed,
    /// The key was used for another request.
    Mismatch,
    /// Another attempt is under way.
    InFlight {
        /// That attempt.
        seen: Seen,
        /// What is left of its lease.
        lease_left: Duration,
    },
    /// Another attempt was sent, or perhaps sent, and its outcome is not known.
    Unknown {
        /// That attempt.
        seen: Seen,
        /// Why.
        cause: Cause,
        /// Since when.
        since: Timestamp,
    },
    /// The operation is completed.
    Completed(Found),
    /// The operation was completed and its answer has expired.
    Expired,
}

/// A completed record as it was found. Whoever answers from it compares the fingerprint first: ops that bear
/// none learn of completion, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// What the recorded request asked for.
    pub fingerprint: Fingerprint,
    /// Its outcome.
    pub completed: Completed,
    /// How long it may still be replayed.
    pub expires_in: Duration,
}
