//! Keys that a gateway issues: the time of issue, something random, and a tag that only who has the id key can make.
//!
//! `og1_` and 64 hexadecimal digits in small letters: 6 bytes of milliseconds since the Unix epoch, 10 random bytes, and
//! 16 bytes of a keyed hash over the namespace and these. There is one way to write each key, so that no two texts are
//! one issued key.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::keyed::Keyed;
use crate::protocol::Timestamp;

/// What every issued key begins with; the digit is the layout's number.
const PREFIX: &str = "og1_";

/// Random bytes of a key: 80 bits, as many as a ULID has.
pub const RANDOM_LEN: usize = 10;

const TIME_LEN: usize = 6;
const BODY_LEN: usize = TIME_LEN + RANDOM_LEN;
const TAG_LEN: usize = 16;
const KEY_LEN: usize = BODY_LEN + TAG_LEN;

/// A new key.
pub(super) fn issue(
    keyed: &hmac::Key,
    namespace: &str,
    now: Timestamp,
    random: [u8; RANDOM_LEN],
) -> String {
    let mut key = [0; KEY_LEN];
    // 48 bits last for nine thousand years.
    key[..TIME_LEN].copy_from_slice(&now.0.to_be_bytes()[8 - TIME_LEN..]);
    key[TIME_LEN..BODY_LEN].copy_from_slice(&random);
    let tag = tag(keyed, namespace, &key[..BODY_LEN]);
    key[BODY_LEN..].copy_from_slice(&tag);
    let digits = key.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.map(|half| char::from(b"0123456789abcdef"[usize::from(half)]));
    PREFIX.chars().chain(digits).collect()
}

/// Whether this key was issued with this id key in this namespace. Takes as long for every key of the right form.
pub(super) fn is_genuine(keyed: &hmac::Key, namespace: &str, key: &str) -> bool {
    bytes(key).is_some_and(|key| {
        let tag = tag(keyed, namespace, &key[..BODY_LEN]);
        verify_slices_are_equal(&tag, &key[BODY_LEN..]).is_ok()
    })
}

/// When this key says that it was issued; `None` where it has not the form of one.
pub(super) fn made_at(key: &str) -> Option<Timestamp> {
    let time = bytes(key)?;
    let time = time[..TIME_LEN].iter();
    Some(Timestamp(
        time.fold(0, |time, byte| time << 8 | u64::from(*byte)),
    ))
}

fn tag(keyed: &hmac::Key, namespace: &str, body: &[u8]) -> [u8; TAG_LEN] {
    let mut hash = Keyed::new(keyed);
    hash.field(namespace.as_bytes());
    hash.field(body);
    let hash = hash.finish();
    std::array::from_fn(|at| hash[at])
}

fn bytes(key: &str) -> Option<[u8; KEY_LEN]> {
    let digits = key.strip_prefix(PREFIX)?.as_bytes();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    let mut bytes = [0; KEY_LEN];
    for (byte, digits) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = half(digits[0])? << 4 | half(digits[1])?;
    }
    Some(bytes)
}

fn half(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::identity::key::tests::{found, key_of};
    use crate::identity::{IdKeyBytes, Identifier, KeyFormat, KeyInvalid};
    use crate::protocol::Timestamp;

    const NOW: Timestamp = Timestamp(1_790_000_000_123);

    fn identifier(id_key: u8, namespace: &str) -> Identifier {
        Identifier::new(&IdKeyBytes([id_key; 32]), namespace)
    }

    #[test]
    fn an_issued_key_is_known_again_by_every_gateway_of_the_same_id_key_and_namespace() {
        let text = identifier(1, "ns").issue_key(NOW, [7; 10]);
        let key = found(text.as_bytes(), &KeyFormat::Issued).unwrap().unwrap();
        assert_eq!(key.as_str(), text);
        assert!(identifier(1, "ns").has_issued(&key));
        assert_eq!(KeyFormat::Issued.made_at(&key), Some(NOW));
        assert!(!identifier(2, "ns").has_issued(&key));
        assert!(!identifier(1, "sn").has_issued(&key));
        // What it is made of never changes: keys are out there. Computed by Python's hmac, too.
        assert_eq!(
            text,
            "og1_01a0c4506c7b070707070707070707076f4dcf7f627db55be1704fb165fec4f8"
        );
    }

    #[test]
    fn a_key_that_was_changed_anywhere_is_not_one_that_was_issued() {
        let identifier = identifier(1, "ns");
        let text = identifier.issue_key(NOW, [7; 10]);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'3' { b'4' } else { b'3' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(!identifier.has_issued(&key_of(&forged)), "{at}");
        }
        for forged in [
            text.to_uppercase(),
            text[..text.len() - 2].to_owned(),
            format!("{text}00"),
            text.replace("og1_", ""),
            "og1_".to_owned(),
        ] {
            assert!(!identifier.has_issued(&key_of(&forged)), "{forged}");
            let refused = found(forged.as_bytes(), &KeyFormat::Issued);
            assert_eq!(refused, Err(KeyInvalid::NotIssued), "{forged}");
        }
    }
}
