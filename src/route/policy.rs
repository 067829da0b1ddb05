//! What a route asks of its requests: the settings of section `[[routes]]`, lowered. Nothing in here is
//! optional unless a route may really do without it.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::{FingerprintRules, KeyFormat, KeySource, ScopeSource};
use crate::protocol::{Outcomes, Retention, Timestamp};
use crate::route::{Cors, Matcher, Probe};

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
    /// Which pages of other origins may call it; `None`: the upstream says so, or nobody.
    pub cors: Option<Arc<Cors>>,
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
    /// What is made of the time that keys carry. Where old ones are refused, `key_format` is one that carries it.
    pub key_age: KeyAge,
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

    /// How long a key is remembered at least, from its first use on, whatever becomes of it.
    #[must_use]
    pub fn remembers(&self) -> Duration {
        let answer = |status| {
            let retention = self.keep_answer(status);
            retention.keep.saturating_add(retention.tombstone)
        };
        answer(200).min(answer(400)).min(self.keep_open())
    }

    /// For how long from its making a key may still be used for the first time; `None` where its age does not matter.
    ///
    /// Its first use may have been [`KEY_AHEAD_MAX`] before the time that it carries, since the clock that made it may have
    /// been ahead.
    #[must_use]
    pub fn fresh_for(&self) -> Option<Duration> {
        match self.key_age {
            KeyAge::Ignore => None,
            KeyAge::Reject => Some(
                self.remembers()
                    .saturating_sub(KEY_AHEAD_MAX + KEY_AGE_MARGIN),
            ),
        }
    }

    /// How a key that was made then stands now; `now` is the store's time, which may be wrong by [`KEY_AGE_MARGIN`].
    #[must_use]
    pub fn standing(&self, made_at: Timestamp, now: Timestamp) -> Standing {
        if self.key_age == KeyAge::Ignore {
            return Standing::Fresh;
        }
        // Both sums instead of a difference, which a short retention would bring to an end at zero.
        let forgotten = made_at.plus(self.remembers());
        if made_at > now.plus(KEY_AHEAD_MAX) {
            Standing::Ahead
        } else if now.plus(KEY_AHEAD_MAX + KEY_AGE_MARGIN) >= forgotten {
            Standing::Stale
        } else {
            Standing::Fresh
        }
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

/// How far the clocks of those who make keys may be ahead of the store's: a key that says more was not made by a clock
/// that is right.
pub const KEY_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// By how much earlier than it need be a key counts as old: for what the gateway's idea of the store's time may be wrong,
/// for clocks of the store's servers that differ, and for a claim on its way to the store.
pub const KEY_AGE_MARGIN: Duration = Duration::from_secs(60);

/// What is made of the time that keys carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAge {
    /// Nothing.
    Ignore,
    /// A key that is so old that its record may be forgotten is never executed.
    Reject,
}

/// How a key's time stands to what the store may have forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// If there was a record, it is still there.
    Fresh,
    /// There may have been a record that is forgotten by now.
    Stale,
    /// It lies in the future.
    Ahead,
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
#[derive(Clone, Debug)]
pub enum OnUnknown {
    /// It is told so.
    Hold,
    /// It is sent again, with the next fence: the upstream recognises keys by itself.
    Resend,
    /// The upstream is asked whether it happened.
    Probe(Box<Probe>),
}

impl OnUnknown {
    /// Whether it is sent again.
    #[must_use]
    pub fn is_resend(&self) -> bool {
        matches!(self, Self::Resend)
    }

    /// How the upstream is asked, where it is.
    #[must_use]
    pub fn probe(&self) -> Option<&Probe> {
        match self {
            Self::Hold | Self::Resend => None,
            Self::Probe(probe) => Some(probe),
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::table::tests::policy as any_policy;

    fn policy(success: u64, failure: u64, unknown: u64, after_expiry: AfterExpiry) -> Policy {
        Policy {
            key_age: KeyAge::Reject,
            retention: RetentionPolicy {
                success: Duration::from_secs(success),
                failure: Duration::from_secs(failure),
                unknown: Duration::from_secs(unknown),
            },
            after_expiry,
            ..any_policy()
        }
    }

    const HOUR: u64 = 3600;

    #[test]
    fn a_key_is_remembered_for_as_long_as_whatever_is_forgotten_first() {
        let remembers = |success, failure, unknown, after_expiry| {
            policy(success, failure, unknown, after_expiry)
                .remembers()
                .as_secs()
        };
        assert_eq!(remembers(24, 48, 72, AfterExpiry::Execute), 24);
        assert_eq!(remembers(24, 2, 72, AfterExpiry::Execute), 2);
        assert_eq!(remembers(24, 24, 5, AfterExpiry::Execute), 5);
        assert_eq!(remembers(24, 2, 72, AfterExpiry::Reject), 4);
        assert_eq!(remembers(24, 24, 5, AfterExpiry::Reject), 10);
    }

    #[test]
    fn a_key_stands_as_its_time_says() {
        let policy = policy(24 * HOUR, 24 * HOUR, 48 * HOUR, AfterExpiry::Execute);
        let made_at = Timestamp(1_790_000_000_000);
        let after = |secs| policy.standing(made_at, made_at.plus(Duration::from_secs(secs)));
        assert_eq!(after(0), Standing::Fresh);
        assert_eq!(after(24 * HOUR - 361), Standing::Fresh);
        assert_eq!(after(24 * HOUR - 360), Standing::Stale);
        assert_eq!(after(24 * 365 * HOUR), Standing::Stale);
        let before = |ms| policy.standing(made_at, Timestamp(made_at.0 - ms));
        assert_eq!(before(300_000), Standing::Fresh);
        assert_eq!(before(300_001), Standing::Ahead);
        let last = Timestamp((1 << 48) - 1);
        assert_eq!(policy.standing(last, made_at), Standing::Ahead);
        assert_eq!(policy.standing(Timestamp(0), made_at), Standing::Stale);
    }

    /// As the random test below found it.
    #[test]
    fn a_key_that_is_remembered_for_moments_alone_is_never_fresh() {
        let policy = policy(1, 1, 1, AfterExpiry::Execute);
        let first_use = Timestamp(1_790_000_000_000);
        let believed = Timestamp(first_use.plus(policy.keep_open()).0 - 4372);
        assert_ne!(policy.standing(first_use, believed), Standing::Fresh);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever became of the first use, and whatever the clocks say within their bounds: from the moment at which its
        /// record may be forgotten a key is not claimed any more.
        #[test]
        fn no_key_is_fresh_whose_record_may_be_forgotten(
            success in 1..HOUR,
            failure in 1..HOUR,
            unknown in 1..HOUR,
            rejects in any::<bool>(),
            first_use_ms in 0..1_000_000_000u64,
            ahead_ms in 0..=300_000u64,
            behind_ms in 0..=60_000u64,
            over_ms in 0..20_000u64,
        ) {
            let after_expiry = if rejects { AfterExpiry::Reject } else { AfterExpiry::Execute };
            let policy = policy(success, failure, unknown, after_expiry);
            let first_use = Timestamp(1_790_000_000_000 + first_use_ms);
            // The clock that made the key was ahead; the gateway's idea of the store's time, or its claim, comes late.
            let made_at = Timestamp(first_use.0 + ahead_ms);
            let kept = |status| {
                let retention = policy.keep_answer(status);
                first_use.plus(retention.keep + retention.tombstone)
            };
            let forgotten = kept(201).min(kept(422)).min(first_use.plus(policy.keep_open()));
            let believed = Timestamp((forgotten.0 + over_ms).saturating_sub(behind_ms));
            prop_assert_ne!(policy.standing(made_at, believed), Standing::Fresh);
        }
    }
}
