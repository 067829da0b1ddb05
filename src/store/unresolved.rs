//! Which records have no final outcome, found without reading them all: an index beside the records of a store that
//! has them in this process. It is not stored; whoever opens a file makes it anew.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::protocol::{Record, RecordId, State, Timestamp};

/// A record of which no final outcome is known: declared unknown, or claimed by an owner that has gone silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Where it is stored.
    pub id: RecordId,
    /// The `id` of its route; empty where it was made before records bore it.
    pub route: Arc<str>,
    /// Since when it is unknown; of a claim, when its lease ran out.
    pub since: Timestamp,
}

impl Unresolved {
    /// Where it stands in the list: what the next page is asked for with.
    #[must_use]
    pub fn place(&self) -> (Timestamp, RecordId) {
        (self.since, self.id)
    }
}

/// Claims and unknown outcomes by age: what is unresolved, and the claims of which each may be one day.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Open {
    entries: BTreeMap<(Timestamp, RecordId), Entry>,
    claims: u64,
}

/// What is known of a record in the index besides its place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    route: Arc<str>,
    expires_at: Timestamp,
    /// The owner is silent only from its place in time on; an unknown outcome is unknown whatever the clock says.
    claimed: bool,
}

/// That a record came into the index, left it, or has another place in it.
#[derive(Debug)]
pub struct Move {
    id: RecordId,
    from: Option<Timestamp>,
    to: Option<(Timestamp, Entry)>,
}

impl Move {
    /// What a change of a record means for the index; `None` where it means nothing.
    pub fn of(id: RecordId, before: Option<&Record>, after: Option<&Record>) -> Option<Self> {
        let (before, after) = (before.and_then(place), after.and_then(place));
        (before != after).then(|| Self {
            id,
            from: before.map(|(since, _)| since),
            to: after,
        })
    }
}

impl Open {
    /// Makes a move. Whether it is that of a record which nobody settled before its retention was over.
    pub fn make(&mut self, Move { id, from, to }: Move, now: Timestamp) -> bool {
        let left = from.and_then(|since| self.entries.remove(&(since, id)));
        let aged_out = left.as_ref().is_some_and(|entry| entry.expires_at <= now);
        self.claims -= u64::from(left.is_some_and(|entry| entry.claimed));
        if let Some((since, entry)) = to {
            self.claims += u64::from(entry.claimed);
            self.entries.insert((since, id), entry);
        }
        aged_out
    }

    /// Unresolved records after this place, the oldest first. The claims of owners that are alive are passed over; they
    /// stand at the end, and are no more than there are requests under way.
    pub fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        now: Timestamp,
    ) -> impl Iterator<Item = Unresolved> {
        let from = after.map_or(Unbounded, Excluded);
        let listed = self
            .entries
            .range((from, Unbounded))
            .filter(move |(at, entry)| {
                let silent = !entry.claimed || at.0 <= now;
                silent && now < entry.expires_at
            });
        let unresolved = |((since, id), entry): (&(Timestamp, RecordId), &Entry)| Unresolved {
            id: *id,
            route: Arc::clone(&entry.route),
            since: *since,
        };
        listed.map(unresolved)
    }

    /// Claims, whether or not their owners are alive.
    pub fn claims(&self) -> u64 {
        self.claims
    }

    /// Outcomes that were declared unknown.
    pub fn unknown(&self) -> u64 {
        self.entries.len() as u64 - self.claims
    }
}

/// Where a record stands in the index; `None` where its outcome is final, or nobody's to settle: what was only observed
/// bears neither route nor reference.
fn place(record: &Record) -> Option<(Timestamp, Entry)> {
    if record.route.is_empty() && record.reference.is_empty() {
        return None;
    }
    let (since, claimed) = match &record.state {
        State::Claimed(claim) => (claim.lease_until, true),
        State::Unknown(unknown) => (unknown.since, false),
        State::Completed(_) | State::Expired => return None,
    };
    let entry = Entry {
        route: Arc::clone(&record.route),
        expires_at: record.expires_at,
        claimed,
    };
    Some((since, entry))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::protocol::{Cause, Claimed, Fingerprint, Owner, RULES, Seen, Unknown};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const LATER: Timestamp = Timestamp(NOW.0 + 60_000);

    #[test]
    fn a_claim_is_listed_from_the_end_of_its_lease_on() {
        let mut open = Open::default();
        come(&mut open, 1, &claimed(LATER));
        assert_eq!(ids(&open, NOW), [0; 0]);
        assert_eq!(ids(&open, LATER), [1]);
        assert_eq!((open.claims(), open.unknown()), (1, 0));
    }

    #[test]
    fn an_unknown_outcome_is_listed_even_where_the_clock_was_set_back() {
        let mut open = Open::default();
        come(&mut open, 1, &claimed(LATER));
        come(&mut open, 2, &unknown(LATER));
        assert_eq!(ids(&open, NOW), [2]);
        assert_eq!((open.claims(), open.unknown()), (1, 1));
    }

    #[test]
    fn what_leaves_or_moves_is_where_it_is_now_and_nowhere_else() {
        let mut open = Open::default();
        come(&mut open, 1, &claimed(NOW));
        let renewed = claimed(LATER);
        let beat = Move::of(RecordId([1; 32]), Some(&claimed(NOW)), Some(&renewed));
        open.make(beat.unwrap(), NOW);
        assert_eq!(ids(&open, NOW), [0; 0]);
        assert_eq!(ids(&open, LATER), [1]);
        open.make(
            Move::of(RecordId([1; 32]), Some(&renewed), None).unwrap(),
            NOW,
        );
        assert_eq!(ids(&open, LATER), [0; 0]);
        assert_eq!((open.claims(), open.unknown()), (0, 0));
    }

    #[test]
    fn what_is_past_its_retention_is_not_listed() {
        let mut open = Open::default();
        let record = unknown(NOW);
        come(&mut open, 1, &record);
        assert_eq!(ids(&open, Timestamp(record.expires_at.0 - 1)), [1]);
        assert_eq!(ids(&open, record.expires_at), [0; 0]);
    }

    #[test]
    fn what_leaves_past_its_retention_has_aged_out() {
        for (now, aged_out) in [(NOW, false), (unknown(NOW).expires_at, true)] {
            let mut open = Open::default();
            come(&mut open, 1, &unknown(NOW));
            let gone = Move::of(RecordId([1; 32]), Some(&unknown(NOW)), None);
            assert_eq!(open.make(gone.unwrap(), now), aged_out);
        }
    }

    #[test]
    fn what_was_only_observed_is_not_listed_and_what_was_made_before_routes_is() {
        let observed = Record {
            route: Arc::default(),
            ..unknown(NOW)
        };
        assert!(Move::of(RecordId([1; 32]), None, Some(&observed)).is_none());
        let mut open = Open::default();
        let old = Record {
            reference: Bytes::from_static(b"sealed"),
            ..observed
        };
        come(&mut open, 1, &old);
        assert_eq!((ids(&open, NOW), open.unknown()), (vec![1], 1));
    }

    fn ids(open: &Open, now: Timestamp) -> Vec<u8> {
        let listed = open.unresolved(None, now);
        listed.map(|unresolved| unresolved.id.0[0]).collect()
    }

    fn come(open: &mut Open, id: u8, record: &Record) {
        open.make(
            Move::of(RecordId([id; 32]), None, Some(record)).unwrap(),
            NOW,
        );
    }

    fn claimed(lease_until: Timestamp) -> Record {
        record(State::Claimed(Claimed {
            seen: seen(),
            lease: Duration::from_secs(15),
            lease_until,
            claimed_at: None,
            prior: None,
        }))
    }

    fn unknown(since: Timestamp) -> Record {
        record(State::Unknown(Unknown {
            seen: seen(),
            cause: Cause::Timeout,
            since,
            trace: crate::protocol::Trace::default(),
        }))
    }

    fn record(state: State) -> Record {
        let expires_at = NOW.plus(Duration::from_secs(86_400));
        Record {
            fingerprint: Fingerprint([0; 32]),
            rules: RULES,
            route: "create-payment".into(),
            reference: Bytes::new(),
            expires_at,
            forget_at: expires_at,
            state,
        }
    }

    fn seen() -> Seen {
        Seen {
            owner: Owner(1),
            fence: 1,
            beat: 0,
        }
    }
}
