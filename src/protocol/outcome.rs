//! What an upstream's status says about the operation.

use std::fmt;
use std::str::FromStr;

/// What becomes of the record when the upstream has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The answer is final and recorded.
    Record,
    /// The upstream says that it did nothing: the key is free again.
    Release,
    /// The answer does not say what happened.
    Unknown,
}

/// Which statuses release the key and which leave the outcome unknown; the rest is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// The upstream did nothing.
    pub release: StatusSet,
    /// The answer does not say what happened.
    pub unknown: StatusSet,
}

/// What an upstream answers while another attempt at the same operation is under way, or was throttled.
const STILL_RUNNING: [u16; 4] = [409, 423, 425, 429];

impl Outcomes {
    /// Classifies an answer. On an attempt with a `prior` a status that would release, or that speaks of an
    /// attempt under way, leaves the outcome unknown: the first attempt may still be running.
    #[must_use]
    pub fn classify(&self, status: u16, has_prior: bool) -> Outcome {
        if self.unknown.contains(status) {
            return Outcome::Unknown;
        }
        let released = self.release.contains(status);
        if has_prior && (released || STILL_RUNNING.contains(&status)) {
            return Outcome::Unknown;
        }
        if released {
            Outcome::Release
        } else {
            Outcome::Record
        }
    }
}

/// A set of status codes, 200 to 599.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusSet(Vec<StatusRange>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StatusRange {
    first: u16,
    last: u16,
}

/// A word that is neither a status nor a class of statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a status: write one from \"200\" to \"599\", or a class such as \"5xx\"")]
pub struct BadStatusSet(pub String);

impl StatusSet {
    /// Reads `"409"` and classes such as `"5xx"`.
    ///
    /// # Errors
    /// On the first word that is neither.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self, BadStatusSet> {
        words
            .iter()
            .map(|word| word.as_ref().parse())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the status is in the set.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|range| (range.first..=range.last).contains(&status))
    }

    /// The lowest status that both sets contain.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<u16> {
        (200..=599).find(|status| self.contains(*status) && other.contains(*status))
    }
}

impl FromStr for StatusRange {
    type Err = BadStatusSet;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let bad = || BadStatusSet(word.to_owned());
        if word.len() != 3 || !word.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(bad());
        }
        if let Some(class) = word.strip_suffix("xx") {
            let class: u16 = class.parse().map_err(|_| bad())?;
            return match class {
                2..=5 => Ok(Self {
                    first: class * 100,
                    last: class * 100 + 99,
                }),
                _ => Err(bad()),
            };
        }
        match word.parse() {
            Ok(status @ 200..=599) => Ok(Self {
                first: status,
                last: status,
            }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if range.first == range.last {
                write!(f, "{comma}{}", range.first)?;
            } else {
                write!(f, "{comma}{}xx", range.first / 100)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Outcomes {
        Outcomes {
            release: StatusSet::parse(&["401", "429"]).unwrap(),
            unknown: StatusSet::parse(&["5xx"]).unwrap(),
        }
    }

    #[test]
    fn a_status_in_no_list_is_recorded() {
        assert_eq!(outcomes().classify(201, false), Outcome::Record);
        assert_eq!(outcomes().classify(409, false), Outcome::Record);
    }

    #[test]
    fn after_a_prior_attempt_a_refusal_says_nothing_about_that_attempt() {
        for status in [401, 409, 423, 425, 429, 503] {
            assert_eq!(outcomes().classify(status, true), Outcome::Unknown);
        }
        assert_eq!(outcomes().classify(400, true), Outcome::Record);
    }

    #[test]
    fn statuses_outside_of_http_are_no_statuses() {
        for word in [
            "", "xx", "1xx", "6xx", "99", "0409", "600", "+200", "+2xx", "abc",
        ] {
            assert!(StatusSet::parse(&[word]).is_err(), "{word}");
        }
    }
}
