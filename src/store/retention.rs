//! When a store looks whether a record may be forgotten. Pure: the stores hold the schedule, this says what goes in.
//!
//! Settled records (every state but claimed) stand in a schedule of buckets, [`BUCKET`] wide. An entry says "look
//! at this record then"; what a client sees goes by the record itself ([`Record::at`]), so a late look costs some
//! room and nothing else. Claimed records stand in no schedule: they are few, and soon settled or released, which
//! would leave an entry behind for weeks. The stores go round them instead.

use std::time::Duration;

use crate::protocol::{Record, State, Timestamp};

/// How coarse the schedule is: a record goes so long after its end at most, if nothing else holds it up.
pub const BUCKET: Duration = Duration::from_secs(60);

/// When a record is looked at again that cannot be read, and so cannot be judged.
const LOOK_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The number of a bucket; it is due once the clock has passed its end.
pub type Bucket = u64;

/// What a look at a record of the schedule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It may be forgotten.
    Forget,
    /// Its answer has expired and its key is remembered: what it is now takes less room. Looked at again then.
    Shrink(Bucket),
    /// It is to be looked at again.
    Again(Bucket),
    /// It is not settled any more: it will get a new entry when it is.
    Drop,
}

/// The first bucket that is not due.
pub fn current(now: Timestamp) -> Bucket {
    bucket(now)
}

/// Whether the record stands in the schedule.
pub fn is_settled(record: &Record) -> bool {
    !matches!(record.state, State::Claimed(_))
}

/// Where an entry goes when an op turned `before` into `after`; `None` where none is needed.
pub fn schedule(before: Option<&Record>, after: &Record) -> Option<Bucket> {
    let scheduled = before.is_some_and(|before| is_settled(before) && next(before) <= next(after));
    (is_settled(after) && !scheduled).then(|| bucket(next(after)))
}

/// When a settled record changes by itself: it becomes a tombstone, or it ends.
fn next(record: &Record) -> Timestamp {
    match record.state {
        State::Expired => record.forget_at,
        _ => record.expires_at.min(record.forget_at),
    }
}

/// What becomes of a record whose entry is due.
pub fn look(record: &Record, now: Timestamp) -> Look {
    if !is_settled(record) {
        Look::Drop
    } else if now >= record.forget_at {
        Look::Forget
    } else if now >= next(record) {
        Look::Shrink(bucket(record.forget_at))
    } else {
        Look::Again(bucket(next(record)))
    }
}

/// Where the entry of a record goes that cannot be read.
pub fn look_again_unread(now: Timestamp) -> Bucket {
    bucket(now.plus(LOOK_AGAIN))
}

fn bucket(moment: Timestamp) -> Bucket {
    moment.0 / u64::try_from(BUCKET.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::{Cause, Claimed, Fingerprint, Owner, RULES, Seen, Unknown};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_claim_and_its_answer_make_one_entry() {
        let claim = claimed(NOW.plus(DAY * 30));
        assert_eq!(schedule(None, &claim), None);
        let answer = settled(NOW.plus(DAY));
        assert_eq!(
            schedule(Some(&claim), &answer),
            Some(bucket(answer.forget_at))
        );
    }

    #[test]
    fn an_end_that_moves_nearer_makes_an_entry_and_one_that_moves_away_none() {
        let (far, near) = (settled(NOW.plus(DAY * 30)), settled(NOW.plus(DAY)));
        assert_eq!(schedule(Some(&far), &near), Some(bucket(near.forget_at)));
        assert_eq!(schedule(Some(&near), &far), None);
    }

    #[test]
    fn a_record_is_forgotten_at_its_end_and_not_before() {
        let record = settled(NOW.plus(DAY));
        assert_eq!(look(&record, NOW), Look::Again(bucket(record.forget_at)));
        assert_eq!(look(&record, record.forget_at), Look::Forget);
        assert_eq!(look(&claimed(NOW), NOW.plus(DAY)), Look::Drop);
    }

    #[test]
    fn a_record_whose_key_is_remembered_shrinks_when_its_answer_expires() {
        let mut record = settled(NOW.plus(DAY));
        record.forget_at = record.expires_at.plus(DAY);
        let (expires, forget) = (bucket(record.expires_at), bucket(record.forget_at));
        assert_eq!(schedule(None, &record), Some(expires));
        assert_eq!(look(&record, NOW), Look::Again(expires));
        assert_eq!(look(&record, record.expires_at), Look::Shrink(forget));
        let tombstone = record.clone().at(record.expires_at).unwrap();
        assert_eq!(look(&tombstone, record.expires_at), Look::Again(forget));
        assert_eq!(look(&tombstone, record.forget_at), Look::Forget);
        // The sweep that shrinks it schedules it, too; so does whoever meets it as a tombstone before.
        assert_eq!(schedule(Some(&record), &tombstone), None);
    }

    #[test]
    fn a_record_that_lives_on_is_not_due_at_once_again() {
        let record = settled(NOW.plus(Duration::from_millis(1)));
        let Look::Again(bucket) = look(&record, NOW) else {
            panic!("it has not ended");
        };
        assert!(bucket >= current(NOW));
    }

    fn settled(forget_at: Timestamp) -> Record {
        let unknown = Unknown {
            seen: seen(),
            cause: Cause::Timeout,
            trace: crate::protocol::Trace::default(),
            since: NOW,
        };
        record(forget_at, State::Unknown(unknown))
    }

    fn claimed(forget_at: Timestamp) -> Record {
        let claim = Claimed {
            seen: seen(),
            lease: DAY,
            lease_until: NOW,
            claimed_at: None,
            prior: None,
        };
        record(forget_at, State::Claimed(claim))
    }

    fn seen() -> Seen {
        Seen {
            owner: Owner(1),
            fence: 1,
            beat: 0,
        }
    }

    fn record(forget_at: Timestamp, state: State) -> Record {
        Record {
            fingerprint: Fingerprint([0; 32]),
            rules: RULES,
            route: "create-payment".into(),
            reference: Bytes::new(),
            expires_at: forget_at,
            forget_at,
            state,
        }
    }
}
