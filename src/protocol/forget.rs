//! An operator's delete: the one thing that takes a completed record away before its time.
//!
//! It is no op of the matrix, since no gateway asks for it. What it must not do is leave behind somebody whose word is
//! on its way and would bring the record back.

use std::fmt;
use std::str::FromStr;

use super::op::Verdict;
use super::record::{MARK_KEEP, Mark, Owner, Record, Seen, State};
use super::time::Timestamp;

/// What an operator saw of a record: a word about it changes nothing unless it is so still. As text it is what
/// operators are shown and give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// This claim, or the unknown attempt that it was.
    Open(Seen),
    /// This final outcome.
    Completed {
        /// Whose it is.
        owner: Option<Owner>,
        /// Since when.
        completed_at: Timestamp,
    },
    /// The tombstone of an answer that expired then.
    Expired(Timestamp),
}

impl Record {
    /// What an operator sees of it now.
    #[must_use]
    pub fn version(&self) -> Version {
        match &self.state {
            State::Claimed(claim) => Version::Open(claim.seen),
            State::Unknown(unknown) => Version::Open(unknown.seen),
            State::Completed(completed) => Version::Completed {
                owner: completed.owner,
                completed_at: completed.completed_at,
            },
            State::Expired => Version::Expired(self.expires_at),
        }
    }

    /// The owners whose delayed words would bring the record back once it is gone: each gets a mark.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        let (owner, prior) = match &self.state {
            State::Claimed(claim) => (
                Some(claim.seen.owner),
                claim.prior.as_ref().map(|prior| prior.seen.owner),
            ),
            State::Unknown(unknown) => (Some(unknown.seen.owner), None),
            State::Completed(completed) => (completed.owner, None),
            State::Expired => (None, None),
        };
        owner.into_iter().chain(prior)
    }
}

/// Forgets a record that is still what was seen of it.
///
/// - `record`: what the store holds, `None` where it holds nothing;
/// - `now`: the store's clock.
///
/// Returns what the store holds afterwards, the marks that it must set, and the answer: [`Verdict::Done`] where there
/// is no record (any more), [`Verdict::Changed`] where it is another one than was seen, or the claim of an owner that
/// is alive.
#[must_use]
pub fn forget(
    record: Option<Record>,
    version: Version,
    now: Timestamp,
) -> (Option<Record>, Vec<Mark>, Verdict) {
    let Some(record) = record.and_then(|record| record.at(now)) else {
        return (None, Vec::new(), Verdict::Done);
    };
    let is_alive = matches!(&record.state, State::Claimed(claim) if !claim.lapsed(now));
    if is_alive || record.version() != version {
        return (Some(record), Vec::new(), Verdict::Changed);
    }
    let until = now.plus(MARK_KEEP);
    let marks = record.owners().map(|owner| Mark { owner, until });
    (None, marks.collect(), Verdict::Done)
}

/// What stands between the parts of a version.
const DOT: char = '.';
/// What the text of a final outcome, and of a tombstone, begins with.
const COMPLETED: &str = "done";
const EXPIRED: &str = "expired";

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(Seen { owner, fence, beat }) => {
                write!(f, "{:032x}{DOT}{fence}{DOT}{beat}", owner.0)
            }
            Self::Completed {
                owner,
                completed_at,
            } => {
                let owner = owner.map_or(0, |owner| owner.0);
                write!(f, "{COMPLETED}{DOT}{owner:032x}{DOT}{}", completed_at.0)
            }
            Self::Expired(since) => write!(f, "{EXPIRED}{DOT}{}", since.0),
        }
    }
}

/// A text that is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the version of a record, as it is shown with the record")]
pub struct BadVersion;

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let number = |digits: &str| digits.parse().map_err(|_| BadVersion);
        let owner = |digits: &str| {
            let owner = u128::from_str_radix(digits, 16);
            owner.map(Owner).map_err(|_| BadVersion)
        };
        match *text.split(DOT).collect::<Vec<_>>() {
            [EXPIRED, since] => Ok(Self::Expired(Timestamp(number(since)?))),
            [COMPLETED, by, at] => Ok(Self::Completed {
                // No owner is 0: that would be drawn once in 2^128 attempts.
                owner: Some(owner(by)?).filter(|owner| owner.0 != 0),
                completed_at: Timestamp(number(at)?),
            }),
            [by, fence, beat] => Ok(Self::Open(Seen {
                owner: owner(by)?,
                fence: number(fence)?,
                beat: number(beat)?,
            })),
            _ => Err(BadVersion),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::matrix::samples::{
        LEFT, ME, MINE, NOW, OTHER, claim_of, done_by, lapsed, ours, prior, record, seen,
        unknown_of,
    };
    use super::*;

    #[test]
    fn what_is_gone_leaves_the_marks_of_all_who_might_bring_it_back() {
        let with_prior = claim_of(ME, Duration::ZERO, Some(prior()));
        for (state, marked) in [
            (lapsed(ME), vec![ME]),
            (with_prior, vec![ME, OTHER]),
            (unknown_of(ME), vec![ME]),
            (done_by(Some(ME)), vec![ME]),
            (done_by(None), vec![]),
        ] {
            let record = record(MINE, state);
            let (after, marks, verdict) = forget(Some(record.clone()), record.version(), NOW);
            let owners: Vec<Owner> = marks.iter().map(|mark| mark.owner).collect();
            assert_eq!((after, owners, verdict), (None, marked, Verdict::Done));
        }
    }

    #[test]
    fn the_claim_of_an_owner_that_is_alive_stays() {
        let record = ours(claim_of(ME, LEFT, None));
        let (after, marks, verdict) = forget(record.clone(), Version::Open(seen(ME)), NOW);
        assert_eq!((after, marks.len(), verdict), (record, 0, Verdict::Changed));
    }

    #[test]
    fn what_has_changed_since_it_was_seen_stays() {
        for (state, version) in [
            (unknown_of(ME), Version::Open(seen(OTHER))),
            (done_by(Some(ME)), Version::Open(seen(ME))),
            (done_by(Some(ME)), record(MINE, done_by(None)).version()),
        ] {
            let record = ours(state);
            let (after, _, verdict) = forget(record.clone(), version, NOW);
            assert_eq!((after, verdict), (record, Verdict::Changed));
        }
        assert_eq!(
            forget(None, Version::Open(seen(ME)), NOW).2,
            Verdict::Done,
            "a delete that is repeated"
        );
    }

    #[test]
    fn a_version_is_read_as_it_was_written() {
        for state in [
            unknown_of(ME),
            done_by(Some(ME)),
            done_by(None),
            State::Expired,
        ] {
            let version = record(MINE, state).version();
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        for text in ["", "1.2", "done.1", "x.1.2", "1.2.3.4", "expired.x"] {
            assert_eq!(text.parse::<Version>(), Err(BadVersion), "{text}");
        }
    }
}
