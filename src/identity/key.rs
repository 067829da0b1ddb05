//! The key: what the client sent to say that two requests are one operation.

use std::fmt;

use http::{HeaderMap, HeaderName};
use regex::Regex;

use super::issued;
use crate::protocol::Timestamp;

/// The longest key, in characters after decoding. Stripe's limit, which clients already observe.
pub const KEY_MAX: usize = 255;

/// The longest header value that can hold a key: every character escaped, and two quotes.
const QUOTED_MAX: usize = 2 * KEY_MAX + 2;

/// Looks for the key in the sources, in their order. The first source that the request has decides: a value that
/// cannot be read there is refused and never passed over for another source.
///
/// `abc` and the structured-field String `"abc"` (RFC 9651 section 3.3.3) are one key. A bare value is taken
/// literally, so a backslash or a semicolon in it stands for itself. Surrounding spaces and tabs do not count, as
/// they are no part of a field value (RFC 9110 section 5.5).
///
/// # Errors
/// [`KeyInvalid`] where there is a key and it cannot be used.
pub fn find(
    sources: &[KeySource],
    format: &KeyFormat,
    headers: &HeaderMap,
) -> Result<Option<Key>, KeyInvalid> {
    for KeySource::Header(name) in sources {
        let mut lines = headers.get_all(name).iter();
        let Some(line) = lines.next() else { continue };
        if lines.next().is_some() {
            return Err(KeyInvalid::Several);
        }
        let key = decode(line.as_bytes())?;
        format.check(&key)?;
        return Ok(Some(Key(key.into_boxed_str())));
    }
    Ok(None)
}

/// Where a key is looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// The value of a header.
    Header(HeaderName),
}

/// What a key must look like, beyond what every key must.
#[derive(Clone, Debug)]
pub enum KeyFormat {
    /// Anything.
    Any,
    /// A UUID of any version, 8-4-4-4-12 hexadecimal digits in either case (RFC 9562 section 4).
    Uuid,
    /// A UUID of version 7, which carries the time at which it was made (RFC 9562 section 5.7).
    UuidV7,
    /// A ULID: 26 characters of Crockford's base 32 in either case, at most `7ZZZZZZZZZZZZZZZZZZZZZZZZZ`.
    Ulid,
    /// A match of this pattern, which is anchored at both ends.
    Regex(Box<Regex>),
    /// The form of a key that a gateway issues. Whether it was one is for [`super::Identifier::has_issued`] to say.
    Issued,
}

/// A key, decoded. It prints nothing of itself: whoever reads a key in a log can ask for its answer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// The decoded key: 1 to [`KEY_MAX`] visible ASCII characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why a key cannot be used, in a sentence for the client that never repeats the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyInvalid {
    /// More than one header line of that name.
    #[error("The request carries several idempotency keys; send exactly one.")]
    Several,
    /// No character at all, or an empty quoted string.
    #[error("The idempotency key is empty.")]
    Empty,
    /// More than [`KEY_MAX`] characters.
    #[error("The idempotency key is longer than 255 characters.")]
    TooLong,
    /// A space, comma, quote, control character or anything outside ASCII.
    #[error(
        "The idempotency key contains a character that is not allowed; use visible ASCII characters without \
         space, comma or double quote."
    )]
    Character,
    /// A quoted string that is not closed, is followed by something, or has an escape other than `\"` and `\\`.
    #[error("The idempotency key is not a well-formed quoted string.")]
    Quoting,
    /// A quoted string followed by structured-field parameters.
    #[error("The idempotency key is followed by parameters; send the quoted string alone.")]
    Parameters,
    /// `key_format = "uuid"`, and it is none.
    #[error("The idempotency key is not a UUID.")]
    NotUuid,
    /// `key_format = "uuid"` where old keys are refused, and it carries no time.
    #[error("The idempotency key is not a UUID of version 7, whose time this operation asks for.")]
    NotUuidV7,
    /// `key_format = "ulid"`, and it is none.
    #[error("The idempotency key is not a ULID.")]
    NotUlid,
    /// `key_format = "regex:…"`, and it does not match.
    #[error("The idempotency key does not have the form that this operation requires.")]
    NotInForm,
    /// `key_format = "issued"`, and it is none, or a forged one, or another gateway's.
    #[error(
        "The idempotency key was not issued here; ask for one by POST /.well-known/oncegate/keys."
    )]
    NotIssued,
    /// It says that it was made in the future.
    #[error("The idempotency key bears a time that lies in the future.")]
    Ahead,
}

impl KeyFormat {
    fn check(&self, key: &str) -> Result<(), KeyInvalid> {
        let (holds, otherwise) = match self {
            Self::Any => return Ok(()),
            Self::Uuid => (is_uuid(key.as_bytes()), KeyInvalid::NotUuid),
            Self::UuidV7 => (is_uuid_v7(key.as_bytes()), KeyInvalid::NotUuidV7),
            Self::Issued => (issued::made_at(key).is_some(), KeyInvalid::NotIssued),
            Self::Ulid => (is_ulid(key.as_bytes()), KeyInvalid::NotUlid),
            Self::Regex(pattern) => (pattern.is_match(key), KeyInvalid::NotInForm),
        };
        if holds { Ok(()) } else { Err(otherwise) }
    }

    /// Whether every key of this format carries the time at which it was made.
    #[must_use]
    pub fn carries_time(&self) -> bool {
        matches!(self, Self::UuidV7 | Self::Ulid | Self::Issued)
    }

    /// When a key of this format was made, by the clock of whoever made it; `None` where the format does not say.
    #[must_use]
    pub fn made_at(&self, key: &Key) -> Option<Timestamp> {
        let digits = |count, radix| {
            let digits = key.as_str().chars().filter(|digit| *digit != '-');
            let mut digits = digits.map(|digit| digit_of(digit, radix)).take(count);
            digits.try_fold(0, |time, digit| Some(time * radix + digit?))
        };
        match self {
            Self::Any | Self::Uuid | Self::Regex(_) => None,
            // Both begin with 48 bits of milliseconds.
            Self::UuidV7 => digits(12, 16).map(Timestamp),
            Self::Ulid => digits(10, 32).map(Timestamp),
            Self::Issued => issued::made_at(key.as_str()),
        }
    }
}

/// What a digit stands for, in hexadecimal or in Crockford's base 32.
fn digit_of(digit: char, radix: u64) -> Option<u64> {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let value = DIGITS.find(digit.to_ascii_uppercase())? as u64;
    (value < radix).then_some(value)
}

fn is_uuid_v7(key: &[u8]) -> bool {
    is_uuid(key) && key[14] == b'7' && b"89abAB".contains(&key[19])
}

fn is_uuid(key: &[u8]) -> bool {
    key.len() == 36
        && key.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_ulid(key: &[u8]) -> bool {
    // 26 characters hold 130 bits and a ULID has 128, so the first one is at most 7.
    key.len() == 26
        && key[0] <= b'7'
        && key.iter().all(|byte| {
            byte.is_ascii_alphanumeric() && !b"ILOU".contains(&byte.to_ascii_uppercase())
        })
}

fn decode(value: &[u8]) -> Result<String, KeyInvalid> {
    let value = trim(value);
    if value.len() > QUOTED_MAX {
        return Err(KeyInvalid::TooLong);
    }
    match value.strip_prefix(b"\"") {
        Some(quoted) => checked(&unquote(quoted)?),
        None => checked(value),
    }
}

/// Without the spaces and tabs around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What stands between the opening quote, which is already taken off, and the closing one, escapes resolved.
fn unquote(quoted: &[u8]) -> Result<Vec<u8>, KeyInvalid> {
    let mut decoded = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter().copied();
    loop {
        match bytes.next().ok_or(KeyInvalid::Quoting)? {
            b'"' => break,
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => decoded.push(escaped),
                _ => return Err(KeyInvalid::Quoting),
            },
            byte => decoded.push(byte),
        }
    }
    match bytes.next() {
        None => Ok(decoded),
        Some(b';') => Err(KeyInvalid::Parameters),
        Some(_) => Err(KeyInvalid::Quoting),
    }
}

/// The key, if it has the length and the characters that every key must have.
fn checked(key: &[u8]) -> Result<String, KeyInvalid> {
    match key.len() {
        0 => return Err(KeyInvalid::Empty),
        1..=KEY_MAX => {}
        _ => return Err(KeyInvalid::TooLong),
    }
    let is_allowed = |byte: &u8| byte.is_ascii_graphic() && !b"\",".contains(byte);
    if !key.iter().all(is_allowed) {
        return Err(KeyInvalid::Character);
    }
    // ASCII is always UTF-8.
    String::from_utf8(key.to_vec()).map_err(|_| KeyInvalid::Character)
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("idempotency-key");

    fn of(value: &[u8]) -> Result<Option<Key>, KeyInvalid> {
        found(value, &KeyFormat::Any)
    }

    /// This text as a key.
    pub fn key_of(text: &str) -> Key {
        Key(text.into())
    }

    /// What is found of this value in this format.
    pub fn found(value: &[u8], format: &KeyFormat) -> Result<Option<Key>, KeyInvalid> {
        let headers = HeaderMap::from_iter([(NAME, HeaderValue::from_bytes(value).unwrap())]);
        find(&[KeySource::Header(NAME)], format, &headers)
    }

    fn text(value: &[u8]) -> String {
        of(value).unwrap().unwrap().as_str().to_owned()
    }

    #[test]
    fn bare_and_quoted_are_one_key() {
        assert_eq!(of(b"abc"), of(b"\"abc\""));
        assert_eq!(text(b"\"abc\""), "abc");
        assert_eq!(of(b"a\\b"), of(b"\"a\\\\b\""));
        assert_eq!(text(b" \tabc "), "abc");
        assert_eq!(text(b"  \"abc\"\t"), "abc");
        assert_eq!(text(b"abc;v=1"), "abc;v=1");
    }

    #[test]
    fn keys_that_cannot_be_read_are_refused() {
        for (value, why) in [
            (&b""[..], KeyInvalid::Empty),
            (b"\"\"", KeyInvalid::Empty),
            (b" ", KeyInvalid::Empty),
            (b"a b", KeyInvalid::Character),
            (b"a,b", KeyInvalid::Character),
            (b"a\"b", KeyInvalid::Character),
            (b"a\"", KeyInvalid::Character),
            (b"\"a\\\"b\"", KeyInvalid::Character),
            (b"\"a b\"", KeyInvalid::Character),
            (b"\"a\tb\"", KeyInvalid::Character),
            (b"caf\xc3\xa9", KeyInvalid::Character),
            (b"\"caf\xc3\xa9\"", KeyInvalid::Character),
            (b"\"", KeyInvalid::Quoting),
            (b"\"abc", KeyInvalid::Quoting),
            (b"\"abc\\", KeyInvalid::Quoting),
            (b"\"abc\\\"", KeyInvalid::Quoting),
            (b"\"a\\bc\"", KeyInvalid::Quoting),
            (b"\"abc\"def", KeyInvalid::Quoting),
            (b"\"abc\" ;v=1", KeyInvalid::Quoting),
            (b"\"abc\", \"def\"", KeyInvalid::Quoting),
            (b"\"abc\";v=1", KeyInvalid::Parameters),
        ] {
            assert_eq!(of(value), Err(why), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn the_length_is_counted_after_decoding() {
        let longest = "\\".repeat(KEY_MAX);
        let quoted = format!("\"{}\"", "\\\\".repeat(KEY_MAX));
        assert_eq!(of(longest.as_bytes()), of(quoted.as_bytes()));
        assert_eq!(text(quoted.as_bytes()).len(), KEY_MAX);
        assert_eq!(
            of("a".repeat(KEY_MAX + 1).as_bytes()),
            Err(KeyInvalid::TooLong)
        );
        let quoted = format!("\"{}\"", "a".repeat(KEY_MAX + 1));
        assert_eq!(of(quoted.as_bytes()), Err(KeyInvalid::TooLong));
        assert_eq!(of("a".repeat(60_000).as_bytes()), Err(KeyInvalid::TooLong));
    }

    #[test]
    fn several_lines_are_refused_even_when_they_agree() {
        let line = HeaderValue::from_static("abc");
        let headers = HeaderMap::from_iter([(NAME, line.clone()), (NAME, line)]);
        let answer = find(&[KeySource::Header(NAME)], &KeyFormat::Any, &headers);
        assert_eq!(answer, Err(KeyInvalid::Several));
    }

    #[test]
    fn the_first_source_that_the_request_has_decides() {
        let other = HeaderName::from_static("x-request-key");
        let sources = [KeySource::Header(NAME), KeySource::Header(other.clone())];
        let mut headers = HeaderMap::new();
        let in_order = |headers: &HeaderMap| find(&sources, &KeyFormat::Any, headers);
        assert_eq!(in_order(&headers), Ok(None));
        headers.insert(other, HeaderValue::from_static("second"));
        assert_eq!(in_order(&headers).unwrap().unwrap().as_str(), "second");
        headers.insert(NAME, HeaderValue::from_static("first"));
        assert_eq!(in_order(&headers).unwrap().unwrap().as_str(), "first");
        headers.insert(NAME, HeaderValue::from_static(""));
        assert_eq!(in_order(&headers), Err(KeyInvalid::Empty));
    }

    #[test]
    fn formats_hold_for_the_decoded_key() {
        let uuid = |value: &str| found(value.as_bytes(), &KeyFormat::Uuid).map(|_| ());
        assert_eq!(uuid("\"f81d4fae-7dec-11d0-a765-00a0c91e6bf6\""), Ok(()));
        assert_eq!(uuid("F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6"), Ok(()));
        assert_eq!(
            uuid("f81d4fae7dec11d0a76500a0c91e6bf6"),
            Err(KeyInvalid::NotUuid)
        );
        assert_eq!(
            uuid("f81d4fae-7dec-11d0-a765-00a0c91e6bg6"),
            Err(KeyInvalid::NotUuid)
        );

        let ulid = |value: &str| found(value.as_bytes(), &KeyFormat::Ulid).map(|_| ());
        assert_eq!(ulid("01ARZ3NDEKTSV4RRFFQ69G5FAV"), Ok(()));
        assert_eq!(ulid("7ZZZZZZZZZZZZZZZZZZZZZZZZZ"), Ok(()));
        assert_eq!(ulid("8ZZZZZZZZZZZZZZZZZZZZZZZZZ"), Err(KeyInvalid::NotUlid));
        assert_eq!(ulid("01ARZ3NDEKTSV4RRFFQ69G5FAU"), Err(KeyInvalid::NotUlid));
        assert_eq!(ulid("01ARZ3NDEKTSV4RRFFQ69G5FA"), Err(KeyInvalid::NotUlid));

        let order = KeyFormat::Regex(Box::new(Regex::new("^(?:order-[0-9]+)$").unwrap()));
        assert!(found(b"\"order-17\"", &order).is_ok());
        assert_eq!(found(b"order-", &order), Err(KeyInvalid::NotInForm));
    }

    #[test]
    fn keys_say_when_they_were_made_where_their_format_does() {
        let made_at = |format: KeyFormat, text: &str| {
            let key = found(text.as_bytes(), &format).unwrap().unwrap();
            format.made_at(&key).map(|at| at.0)
        };
        // The examples of RFC 9562 (appendix A.6) and of the ULID specification.
        let uuid = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        assert_eq!(made_at(KeyFormat::UuidV7, uuid), Some(1_645_557_742_000));
        let lower = uuid.to_lowercase();
        assert_eq!(made_at(KeyFormat::UuidV7, &lower), Some(1_645_557_742_000));
        let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert_eq!(made_at(KeyFormat::Ulid, ulid), Some(1_469_922_850_259));
        let lower = ulid.to_lowercase();
        assert_eq!(made_at(KeyFormat::Ulid, &lower), Some(1_469_922_850_259));
        let last = "7ZZZZZZZZZZZZZZZZZZZZZZZZZ";
        assert_eq!(made_at(KeyFormat::Ulid, last), Some((1 << 48) - 1));
        assert_eq!(made_at(KeyFormat::Uuid, uuid), None);
        assert_eq!(made_at(KeyFormat::Any, ulid), None);
    }

    #[test]
    fn a_uuid_without_a_time_is_refused_where_the_time_is_asked_for() {
        for uuid in [
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "919108f7-52d1-4320-9bac-f847db4148a8",
            "017F22E2-79B0-7CC3-18C4-DC0C0C07398F",
            "017F22E279B07CC398C4DC0C0C07398F",
        ] {
            let refused = found(uuid.as_bytes(), &KeyFormat::UuidV7);
            assert_eq!(refused, Err(KeyInvalid::NotUuidV7), "{uuid}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = of(b"secret-key").unwrap().unwrap();
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    proptest! {
        /// The crate `sfv` is the judge of what a quoted value says.
        #[test]
        fn quoted_keys_are_read_as_structured_fields(
            inside in r#"([!-~]|[ ,;]|\\["\\a]|"){0,12}"#,
        ) {
            let value = format!("\"{inside}\"");
            let judged = sfv::Parser::new(&value).parse::<sfv::Item>().ok().and_then(|item| {
                let plain = item.params.is_empty();
                let text = item.bare_item.as_string()?.as_str().to_owned();
                (plain && !text.is_empty() && !text.contains([' ', ',', '"'])).then_some(text)
            });
            let ours = of(value.as_bytes()).ok().flatten().map(|key| key.as_str().to_owned());
            prop_assert_eq!(ours, judged);
        }

        #[test]
        fn every_key_is_found_again_in_either_form(key in "[!#-+--~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\"));
            prop_assert_eq!(&text(key.as_bytes()), &key);
            prop_assert_eq!(&text(quoted.as_bytes()), &key);
        }
    }
}
