//! What a route asks of its requests: the settings of section `[[routes]]`, lowered. Nothing in here is
//! optional unless a route may really do without it.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::{FingerprintRules, KeyFormat, KeySource, ScopeSource};
use crate::protocol::{Outcomes, Retention};
use crate::route::Matcher;

/// One route, ready for use.
#[derive(Clone, Debug)]
pub struct Route {
    /// The metrics label.
    pub name: String,
    /// The identity in record ids.
    pub id: Arc<str>,
    /// Which requests it takes.
    pub matcher: Matcher,
    /// The name of its upstream.
    pub upstream: String,
    /// From dispatch to the response's last byte on a protected route, to the end of its head elsewhere.
    pub response_timeout: Duration,
    /// What is done with its requests.
    pub mode: Mode,
}

impl Route {
    /// The settings of a route that knows operations: one that protects them, or watches them.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        match &self.mode {
            Mode::Pass => None,
            Mode::Enforce(policy) | Mode::Observe(policy) => Some(policy),
        }
    }
}

/// What is done with a route's requests.
#[derive(Clone, Debug)]
pub enum Mode {
    /// They go through untouched.
    Pass,
    /// They go through untouched, and what [`Mode::Enforce`] would have made of them is counted.
    Observe(Box<Policy>),
    /// They go through once.
    Enforce(Box<Policy>),
}

/// The settings of a route that protects its requests or watches them.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Where the key is looked for, in order.
    pub key: Vec<KeySource>,
    /// Without a key: refused (true) or forwarded as unkeyed (false).
    pub key_required: bool,
    /// What a key looks like.
    pub key_format: KeyFormat,
    /// Who is asking: all of these together. Empty for `["none"]`.
    pub scope: Vec<ScopeSource>,
    /// Without a scope: refused (true) or forwarded as unkeyed (false).
    pub scope_required: bool,
    /// The `WWW-Authenticate` of `scope-missing`.
    pub challenge: String,
    /// What makes two requests the same.
    pub fingerprint: FingerprintRules,
    /// How long a duplicate waits for the first; zero: not at all.
    pub wait: Duration,
    /// How long a claim is good for without a beat.
    pub lease: Duration,
    /// How much longer a dispatch is kept open for a late answer.
    pub late_response: Duration,
    /// How long a client waits for its answer to be recorded.
    pub record_timeout: Duration,
    /// What a duplicate of an operation of unknown outcome meets.
    pub on_unknown: OnUnknown,
    /// The status of `outcome-unknown`: 409 or 503.
    pub unknown_status: u16,
    /// Which statuses release, and which leave the outcome unknown.
    pub outcomes: Outcomes,
    /// How long outcomes are kept.
    pub retention: RetentionPolicy,
    /// What a key meets when its retention is over.
    pub after_expiry: AfterExpiry,
    /// What a protected request meets when the store cannot be asked.
    pub on_store_down: OnStoreDown,
    /// Whether the upstream sees the key.
    pub forward_key: bool,
    /// The largest request body, in bytes.
    pub max_request_body: u64,
    /// The largest response body that is recorded, in bytes.
    pub max_response_body: u64,
}

impl Policy {
    /// How long an answer of this status is kept, and its key remembered after that: for as long again.
    #[must_use]
    pub fn keep_answer(&self, status: u16) -> Retention {
        let keep = if status < 400 {
            self.retention.success
        } else {
            self.retention.failure
        };
        let tombstone = match self.after_expiry {
            AfterExpiry::Execute => Duration::ZERO,
            AfterExpiry::Reject => keep,
        };
        Retention { keep, tombstone }
    }

    /// How long a claim or an unknown outcome is kept if nobody says anything more.
    ///
    /// Where keys are remembered it is kept for twice as long, and not as a tombstone for the second half: that would
    /// say that the operation was completed, which nobody knows.
    #[must_use]
    pub fn keep_open(&self) -> Duration {
        match self.after_expiry {
            AfterExpiry::Execute => self.retention.unknown,
            AfterExpiry::Reject => self.retention.unknown.saturating_mul(2),
        }
    }
}

/// How long outcomes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Recorded answers below 400.
    pub success: Duration,
    /// Recorded answers from 400 on.
    pub failure: Duration,
    /// Claims and unknown outcomes.
    pub unknown: Duration,
}

/// What a duplicate of an operation of unknown outcome meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// It is told so.
    Hold,
    /// It is sent again, with the next fence: the upstream recognises keys by itself.
    Resend,
}

impl OnUnknown {
    /// Whether it is sent again.
    #[must_use]
    pub fn is_resend(&self) -> bool {
        matches!(self, Self::Resend)
    }
}

/// What a key meets when its retention is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExpiry {
    /// It is new again.
    Execute,
    /// It is refused for as long again.
    Reject,
}

/// What a protected request meets when the store cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreDown {
    /// 503; nothing is forwarded.
    Reject,
    /// It is forwarded without protection.
    Forward,
}
