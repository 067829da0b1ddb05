//! A record as bytes.
//!
//! `version (1 byte) · record (postcard) · checksum (8 bytes, little endian)`. The checksum is XXH3 over version
//! and record, seeded with the record id, so that a record found under another's id is as damaged as one with a
//! flipped bit. Whatever is not understood is [`Unreadable`]; nothing in here ever says "absent".

mod before;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

pub use self::before::Response3;

use self::before::{Answer3, Record1, Record2, Record3};
use crate::protocol::{Answer, Fingerprint, RULES, Record, RecordId, Timestamp};

/// The first byte of every record. It changes with the layout of anything in `protocol::record`; the formats before
/// it are still read, so that a gateway can be replaced by the next version while its records live on.
const FORMAT: u8 = 4;
/// The same of parts, whose layout changes more seldom.
const PART_FORMAT: u8 = 2;
/// The same of an answer that says more than the versions with format 3 knew of.
const ANSWER_FORMAT: u8 = 3;
const CHECKSUM_LEN: usize = 8;

/// The numbers of states with a final outcome: their places in [`crate::protocol::State`].
const COMPLETED: u32 = 2;
const EXPIRED: u32 = 3;

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The checksum, or what it covers, is not what was written.
    #[error("it is damaged")]
    Damaged,
    /// Another layout than this program knows.
    #[error("it has format {0}, this program reads format {FORMAT}")]
    Format(u8),
    /// Made by rules that this program does not know.
    #[error("it was made by rules {0}, this program knows rules {RULES}")]
    Rules(u16),
    /// The record cannot be written as bytes.
    #[error("it cannot be encoded: {0}")]
    Encoding(String),
}

/// The bytes of a record that will be stored under `id`.
///
/// # Errors
/// [`Unreadable::Encoding`] only.
pub fn encode(id: &RecordId, record: &Record) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = postcard::to_extend(record, vec![FORMAT])
        .map_err(|error| Unreadable::Encoding(error.to_string()))?;
    let sum = checksum(id, &bytes);
    bytes.extend_from_slice(&sum);
    Ok(bytes)
}

/// The record that is stored under `id`.
///
/// # Errors
/// Whatever [`encode`] did not write for this very id, or a newer program wrote.
pub fn decode(id: &RecordId, bytes: &[u8]) -> Result<Record, Unreadable> {
    let (body, sum) = bytes
        .split_last_chunk::<CHECKSUM_LEN>()
        .ok_or(Unreadable::Damaged)?;
    // The checksum first: a flipped bit in the version must not read as "written by a newer program".
    if *sum != checksum(id, body) {
        return Err(Unreadable::Damaged);
    }
    let (format, record) = body.split_first().ok_or(Unreadable::Damaged)?;
    let record = match *format {
        FORMAT => whole::<Record>(record)?,
        3 => whole::<Record3>(record)?.into(),
        2 => whole::<Record2>(record)?.into(),
        1 => whole::<Record1>(record)?.into(),
        other => return Err(Unreadable::Format(other)),
    };
    if record.rules > RULES {
        return Err(Unreadable::Rules(record.rules));
    }
    Ok(record)
}

/// The same for a record without a final outcome; `None` where it has one. That it has costs little to find out: nothing
/// is copied out of a recorded answer, so that all records of a store can be asked.
///
/// # Errors
/// As of [`decode`].
pub fn decode_open(id: &RecordId, bytes: &[u8]) -> Result<Option<Record>, Unreadable> {
    let state = match bytes.split_first() {
        Some((2..=FORMAT, record)) => front::<Front<'_>>(record).map(|front| front.state),
        Some((1, record)) => front::<Front1<'_>>(record).map(|front| front.state),
        _ => None,
    };
    match state {
        Some(COMPLETED | EXPIRED) => Ok(None),
        _ => decode(id, bytes).map(Some),
    }
}

/// What a record begins with, up to the number of its state.
#[derive(Deserialize)]
#[expect(dead_code, reason = "the members before the state are passed over")]
struct Front<'a> {
    fingerprint: Fingerprint,
    rules: u16,
    route: &'a str,
    reference: &'a [u8],
    expires_at: Timestamp,
    forget_at: Timestamp,
    state: u32,
}

/// The same of format 1.
#[derive(Deserialize)]
#[expect(dead_code, reason = "the members before the state are passed over")]
struct Front1<'a> {
    fingerprint: Fingerprint,
    rules: u16,
    reference: &'a [u8],
    expires_at: Timestamp,
    forget_at: Timestamp,
    state: u32,
}

fn front<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::take_from_bytes(bytes)
        .ok()
        .map(|(front, _)| front)
}

/// A value that takes all of the bytes.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Unreadable::Damaged),
    }
}

/// What kind of a part of a record is stored by itself, beside others that the store has to look into.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// What never changes.
    Origin = b'o' as isize,
    /// What the upstream answered.
    Answer = b'a' as isize,
}

/// The bytes of what never changes of the record `id`: `version · kind · part (postcard) · checksum`, as in [`encode`].
///
/// # Errors
/// [`Unreadable::Encoding`] only.
pub fn encode_origin<T: Serialize>(id: &RecordId, origin: &T) -> Result<Vec<u8>, Unreadable> {
    encode_part(id, PART_FORMAT, Part::Origin, origin)
}

/// What never changes of the record `id`.
///
/// # Errors
/// As [`decode`].
pub fn decode_origin<T: DeserializeOwned>(id: &RecordId, bytes: &[u8]) -> Result<T, Unreadable> {
    match decode_part(id, Part::Origin, bytes)? {
        (PART_FORMAT, origin) => whole(origin),
        (other, _) => Err(Unreadable::Format(other)),
    }
}

/// The same as [`encode_origin`] of its answer.
///
/// # Errors
/// [`Unreadable::Encoding`] only.
pub fn encode_answer(id: &RecordId, answer: &Answer) -> Result<Vec<u8>, Unreadable> {
    match Answer3::of(answer) {
        Some(answer) => encode_part(id, PART_FORMAT, Part::Answer, &answer),
        None => encode_part(id, ANSWER_FORMAT, Part::Answer, answer),
    }
}

/// The answer of the record `id`.
///
/// # Errors
/// As [`decode`].
pub fn decode_answer(id: &RecordId, bytes: &[u8]) -> Result<Answer, Unreadable> {
    match decode_part(id, Part::Answer, bytes)? {
        (ANSWER_FORMAT, answer) => whole(answer),
        (PART_FORMAT, answer) => Ok(whole::<Answer3<'_>>(answer)?.into()),
        (other, _) => Err(Unreadable::Format(other)),
    }
}

fn encode_part<T: Serialize>(
    id: &RecordId,
    format: u8,
    part: Part,
    value: &T,
) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = postcard::to_extend(value, vec![format, part as u8])
        .map_err(|error| Unreadable::Encoding(error.to_string()))?;
    let sum = checksum(id, &bytes);
    bytes.extend_from_slice(&sum);
    Ok(bytes)
}

/// The format of that part of the record `id`, and what it holds.
fn decode_part<'a>(
    id: &RecordId,
    part: Part,
    bytes: &'a [u8],
) -> Result<(u8, &'a [u8]), Unreadable> {
    let (body, sum) = bytes
        .split_last_chunk::<CHECKSUM_LEN>()
        .ok_or(Unreadable::Damaged)?;
    if *sum != checksum(id, body) {
        return Err(Unreadable::Damaged);
    }
    match body.split_first_chunk::<2>() {
        Some(([format, kind], value)) if *kind == part as u8 => Ok((*format, value)),
        // What a kind is may be another matter in another format.
        Some(([format, _], _)) if *format > ANSWER_FORMAT => Err(Unreadable::Format(*format)),
        _ => Err(Unreadable::Damaged),
    }
}

fn checksum(id: &RecordId, body: &[u8]) -> [u8; CHECKSUM_LEN] {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&id.0), body).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{
        Begun, Cause, Claimed, Completed, NotStored, Owner, Response, Sealed, Seen, Sent, State,
        Trace, TraceRef, Unknown,
    };

    const ID: RecordId = RecordId([7; 32]);

    #[test]
    fn a_record_comes_back_as_it_went() {
        for record in samples() {
            let bytes = encode(&ID, &record).unwrap();
            assert_eq!(decode(&ID, &bytes), Ok(record));
        }
    }

    /// These bytes are in users' files. A change here needs a new [`FORMAT`] and a reader of the old one.
    #[test]
    fn the_bytes_of_format_4_stay_as_they_are() {
        let golden = [
            "040909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3100909eb8e8c0e1828589909cb0d080c181820202ac020f80e59a7798c596ffbc3101f08195ffbc3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc3101cbe693ffbc3101008092f40101f703d209be955940977f55fb",
            "040909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc3101cbe693ffbc3101008092f40101f703d209caec7970174e9478",
            "040909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd310201909eb8e8c0e1828589909cb0d080c181820200c901010c636f6e74656e742d747970650a746578742f706c61696e0470616964010b677270632d737461747573013001aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbc8d395ffbc31010201cbe693ffbc3138594ee86b78741c",
            "040909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3102000101c8d395ffbc31010201cbe693ffbc31181e32f8279874e9",
            "040909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3103f7ce2f397116f21e",
            "040909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3102000207323032362d313106756e72656164c8d395ffbc31010201cbe693ffbc31ac73d6f2baeebc6a",
        ];
        for (record, golden) in samples().iter().zip(golden) {
            assert_eq!(hex(&encode(&ID, record).unwrap()), golden);
        }
    }

    /// What the version before this one wrote.
    #[test]
    fn records_of_format_3_are_still_read() {
        let golden = [
            "030909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3100909eb8e8c0e1828589909cb0d080c181820202ac020f80e59a7798c596ffbc3101f08195ffbc3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc3101cbe693ffbc3101008092f40101f703d209f380d7aeaefb6fbc",
            "030909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc3101cbe693ffbc3101008092f40101f703d209f1094a13b72591f4",
            "030909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd310201909eb8e8c0e1828589909cb0d080c181820200c901010c636f6e74656e742d747970650a746578742f706c61696e0470616964c8d395ffbc31010201cbe693ffbc31a659eef9db7a0257",
            "030909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3102000101c8d395ffbc31010201cbe693ffbc3111b530e5a2f457a2",
            "030909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd310378c4d2e280d6a447",
            "030909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3102000207323032362d313106756e72656164c8d395ffbc31010201cbe693ffbc31baaecf370133d468",
        ];
        for (record, golden) in samples().into_iter().zip(golden) {
            let bare = bare(record);
            let is_final = matches!(bare.state, State::Completed(_) | State::Expired);
            let open = (!is_final).then(|| bare.clone());
            assert_eq!(decode_open(&ID, &unhex(golden)), Ok(open));
            assert_eq!(decode(&ID, &unhex(golden)), Ok(bare));
        }
    }

    /// What the version before that one wrote.
    #[test]
    fn records_of_format_2_are_still_read() {
        let golden = [
            "020909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3100909eb8e8c0e1828589909cb0d080c181820202ac020f80e59a7798c596ffbc3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc31b9da62e6d79c7205",
            "020909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc312d9379dcccd1b52c",
            "020909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd310201909eb8e8c0e1828589909cb0d080c181820200c901010c636f6e74656e742d747970650a746578742f706c61696e0470616964c8d395ffbc31953c9d6b036af364",
            "020909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3102000101c8d395ffbc31d4abafa91e4a7159",
            "020909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3103373b5319e319d877",
            "020909090909090909090909090909090909090909090909090909090909090909010e6372656174652d7061796d656e74067365616c65648088afa8bd318188afa8bd3102000207323032362d313106756e72656164c8d395ffbc3133f6f32cf935c1c3",
        ];
        for (record, golden) in samples().into_iter().zip(golden) {
            let bare = untold(record);
            let is_final = matches!(bare.state, State::Completed(_) | State::Expired);
            let open = (!is_final).then(|| bare.clone());
            assert_eq!(decode_open(&ID, &unhex(golden)), Ok(open));
            assert_eq!(decode(&ID, &unhex(golden)), Ok(bare));
        }
    }

    /// What the version before that one wrote.
    #[test]
    fn records_of_format_1_are_still_read() {
        let golden = [
            "01090909090909090909090909090909090909090909090909090909090909090901067365616c65648088afa8bd318188afa8bd3100909eb8e8c0e1828589909cb0d080c181820202ac020f80e59a7798c596ffbc3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc312f9e51b828d26be6",
            "01090909090909090909090909090909090909090909090909090909090909090901067365616c65648088afa8bd318188afa8bd3101909eb8e8c0e1828589909cb0d080c181820202ac0204f703fbd095ffbc31fb93dcd62b6c6c60",
            "01090909090909090909090909090909090909090909090909090909090909090901067365616c65648088afa8bd318188afa8bd310201909eb8e8c0e1828589909cb0d080c181820200c901010c636f6e74656e742d747970650a746578742f706c61696e0470616964c8d395ffbc3189a42cf0ef404e99",
            "01090909090909090909090909090909090909090909090909090909090909090901067365616c65648088afa8bd318188afa8bd3102000101c8d395ffbc3166f4899add3d9e7d",
            "01090909090909090909090909090909090909090909090909090909090909090901067365616c65648088afa8bd318188afa8bd31039860fb662cdb268d",
        ];
        for (record, golden) in samples().into_iter().zip(golden) {
            let without_route = Record {
                route: Arc::default(),
                ..untold(record)
            };
            let is_final = matches!(without_route.state, State::Completed(_) | State::Expired);
            let open = (!is_final).then(|| without_route.clone());
            assert_eq!(decode_open(&ID, &unhex(golden)), Ok(open));
            assert_eq!(decode(&ID, &unhex(golden)), Ok(without_route));
        }
    }

    #[test]
    fn a_record_with_a_final_outcome_is_told_by_its_front() {
        for record in samples() {
            let bytes = encode(&ID, &record).unwrap();
            let is_final = matches!(record.state, State::Completed(_) | State::Expired);
            let open = (!is_final).then_some(record);
            assert_eq!(decode_open(&ID, &bytes), Ok(open));
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_wherever_it_is() {
        for record in samples() {
            let bytes = encode(&ID, &record).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&ID, &bytes), Err(Unreadable::Damaged), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_record_under_another_id_is_damage() {
        let bytes = encode(&ID, &samples()[0]).unwrap();
        assert_eq!(decode(&RecordId([8; 32]), &bytes), Err(Unreadable::Damaged));
    }

    #[test]
    fn a_newer_format_is_unreadable_and_says_so() {
        let mut body = encode(&ID, &samples()[0]).unwrap();
        body.truncate(body.len() - CHECKSUM_LEN);
        body[0] = FORMAT + 1;
        body.extend(checksum(&ID, &body.clone()));
        assert_eq!(decode(&ID, &body), Err(Unreadable::Format(FORMAT + 1)));
    }

    #[test]
    fn newer_rules_are_unreadable_and_say_so() {
        let mut record = samples().remove(0);
        record.rules = RULES + 1;
        let bytes = encode(&ID, &record).unwrap();
        assert_eq!(decode(&ID, &bytes), Err(Unreadable::Rules(RULES + 1)));
    }

    #[test]
    fn a_part_comes_back_as_it_went_and_only_as_itself() {
        let answer = Answer::NotStored(NotStored::TooLarge);
        let bytes = encode_answer(&ID, &answer).unwrap();
        assert_eq!(decode_answer(&ID, &bytes), Ok(answer));
        let origin = decode_origin::<Answer>(&ID, &bytes);
        assert_eq!(origin, Err(Unreadable::Damaged));
        let other = decode_answer(&RecordId([8; 32]), &bytes);
        assert_eq!(other, Err(Unreadable::Damaged));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_answer(&ID, &bytes), Err(Unreadable::Damaged));
        }
    }

    /// Gateways of the version before share the store while they are replaced.
    #[test]
    fn an_answer_that_the_version_before_could_tell_is_told_as_it_did() {
        let golden = "026100c901010c636f6e74656e742d747970650a746578742f706c61696e0470616964";
        let bytes = encode_answer(&ID, &Answer::Stored(Arc::new(plain()))).unwrap();
        assert!(hex(&bytes).starts_with(golden), "{}", hex(&bytes));
        let told = Answer::Stored(Arc::new(response()));
        let golden = "036100c901010c636f6e74656e742d747970650a746578742f706c61696e0470616964010b677270632d737461747573013001aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb";
        let bytes = encode_answer(&ID, &told).unwrap();
        assert!(hex(&bytes).starts_with(golden), "{}", hex(&bytes));
        assert_eq!(decode_answer(&ID, &bytes), Ok(told));
    }

    #[test]
    fn bytes_left_over_are_damage() {
        let mut body = encode(&ID, &samples()[0]).unwrap();
        body.truncate(body.len() - CHECKSUM_LEN);
        body.push(0);
        body.extend(checksum(&ID, &body.clone()));
        assert_eq!(decode(&ID, &body), Err(Unreadable::Damaged));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), summed: bool) {
            let mut bytes = bytes;
            if summed {
                bytes.extend(checksum(&ID, &bytes.clone()));
            }
            let _ = decode(&ID, &bytes);
        }
    }

    fn samples() -> Vec<Record> {
        let seen = Seen {
            owner: Owner(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            fence: 2,
            beat: 300,
        };
        let unknown = Unknown {
            seen,
            cause: Cause::Status(503),
            since: Timestamp(1_700_000_000_123),
            trace: Trace {
                claimed_at: Some(Timestamp(1_699_999_970_123)),
                sent: Sent {
                    written_after: Some(Duration::from_millis(4)),
                    status: Some(503),
                    bytes_seen: 1_234,
                },
            },
        };
        let sealed = Sealed {
            key: "2026-11".into(),
            text: Bytes::from_static(b"unread"),
        };
        let completed = |owner, answer| {
            State::Completed(Completed {
                owner,
                answer,
                completed_at: Timestamp(1_700_000_000_456),
                begun: Begun {
                    fence: Some(2),
                    claimed_at: Some(Timestamp(1_699_999_970_123)),
                },
            })
        };
        let claimed = Claimed {
            seen,
            lease: Duration::from_millis(15_250),
            lease_until: Timestamp(1_700_000_015_000),
            claimed_at: Some(Timestamp(1_699_999_990_000)),
            prior: Some(unknown.clone()),
        };
        [
            State::Claimed(claimed),
            State::Unknown(unknown),
            completed(Some(seen.owner), Answer::Stored(Arc::new(response()))),
            completed(None, Answer::NotStored(NotStored::Streaming)),
            State::Expired,
            completed(None, Answer::Sealed(sealed)),
        ]
        .into_iter()
        .map(|state| Record {
            fingerprint: Fingerprint([9; 32]),
            rules: 1,
            route: "create-payment".into(),
            reference: Bytes::from_static(b"sealed"),
            expires_at: Timestamp(1_700_086_400_000),
            forget_at: Timestamp(1_700_086_400_001),
            state,
        })
        .collect()
    }

    /// A response that says no more than those of format 3.
    fn plain() -> Response {
        let line = ("content-type".to_owned(), Bytes::from_static(b"text/plain"));
        Response::new(201, vec![line], Bytes::from_static(b"paid"))
    }

    fn response() -> Response {
        let trace = TraceRef {
            trace_id: [0xaa; 16],
            span_id: [0xbb; 8],
        };
        Response {
            trailers: vec![("grpc-status".to_owned(), Bytes::from_static(b"0"))],
            trace: Some(trace),
            ..plain()
        }
    }

    /// The record without what formats before the fourth did not tell.
    fn bare(mut record: Record) -> Record {
        if let State::Completed(completed) = &mut record.state
            && let Answer::Stored(stored) = &mut completed.answer
        {
            *stored = Arc::new(plain());
        }
        record
    }

    /// The record without what formats before the third did not tell.
    fn untold(record: Record) -> Record {
        let mut record = bare(record);
        match &mut record.state {
            State::Claimed(claim) => {
                claim.claimed_at = None;
                if let Some(prior) = &mut claim.prior {
                    prior.trace = Trace::default();
                }
            }
            State::Unknown(unknown) => unknown.trace = Trace::default(),
            State::Completed(completed) => completed.begun = Begun::default(),
            State::Expired => {}
        }
        record
    }

    fn unhex(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
