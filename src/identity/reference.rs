//! The reference: what an operator needs to recognise a record, sealed so that the store cannot read it.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::key::KEY_MAX;
use crate::protocol::RecordId;

/// The longest method that is kept, in bytes.
pub const METHOD_MAX: usize = 32;
/// The longest path that is kept, in bytes: what a record may cost does not depend on its request line.
pub const PATH_MAX: usize = 1024;
/// The longest name of a scope that is kept, in bytes.
pub const SCOPE_NAME_MAX: usize = 256;

/// The first byte of what is sealed.
const VERSION: u8 = 1;
/// Version and nonce.
const HEAD_LEN: usize = 1 + NONCE_LEN;

/// What an operator needs to recognise a record. Its debug form shows neither the key nor the scope.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The key, decoded.
    pub key: String,
    /// The method; at most [`METHOD_MAX`] bytes are sealed.
    pub method: String,
    /// The path without its query; at most [`PATH_MAX`] bytes are sealed.
    pub path: String,
    /// The scope's display name, see [`super::Identifier::scope_name`]; at most [`SCOPE_NAME_MAX`] bytes are sealed.
    pub scope: String,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Why a sealed reference cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealBroken {
    /// Too short, or of a version that is not known here.
    #[error("the sealed reference has an unknown form")]
    Form,
    /// Damaged, or sealed with another id key or for another record.
    #[error("the sealed reference is damaged, or belongs to another id key or record")]
    Forged,
}

/// Seals a reference with AES-256-GCM: version, nonce, ciphertext, tag. The record id is the associated data.
pub(super) fn seal(
    key: &[u8; 32],
    id: &RecordId,
    reference: &Reference,
    nonce: [u8; NONCE_LEN],
) -> Bytes {
    let mut sealed = Vec::with_capacity(256);
    sealed.push(VERSION);
    sealed.extend_from_slice(&nonce);
    let mut sealed = postcard::to_extend(&Clipped::of(reference), sealed)
        .expect("four strings can always be written");
    let tag = cipher(key)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(id.0),
            &mut sealed[HEAD_LEN..],
        )
        .expect("AES-256-GCM seals 64 GiB, and this is bounded by a few KiB");
    sealed.extend_from_slice(tag.as_ref());
    // As long as it is: a store in memory keeps it.
    Bytes::copy_from_slice(&sealed)
}

/// Opens what [`seal`] made.
pub(super) fn open(key: &[u8; 32], id: &RecordId, sealed: &[u8]) -> Result<Reference, SealBroken> {
    let (head, text) = sealed.split_at_checked(HEAD_LEN).ok_or(SealBroken::Form)?;
    if head[0] != VERSION {
        return Err(SealBroken::Form);
    }
    let nonce = Nonce::try_assume_unique_for_key(&head[1..]).map_err(|_| SealBroken::Form)?;
    let mut text = text.to_vec();
    let text = cipher(key)
        .open_in_place(nonce, Aad::from(id.0), &mut text)
        .map_err(|_| SealBroken::Forged)?;
    postcard::from_bytes(text).map_err(|_| SealBroken::Form)
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key of AES-256");
    LessSafeKey::new(key)
}

/// A reference within its bounds; on the wire it is a [`Reference`].
#[derive(Serialize)]
struct Clipped<'a> {
    key: Cow<'a, str>,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    scope: Cow<'a, str>,
}

impl<'a> Clipped<'a> {
    fn of(reference: &'a Reference) -> Self {
        Self {
            key: clip(&reference.key, KEY_MAX),
            method: clip(&reference.method, METHOD_MAX),
            path: clip(&reference.path, PATH_MAX),
            scope: clip(&reference.scope, SCOPE_NAME_MAX),
        }
    }
}

/// At most `max` bytes of the text; an ellipsis shows where it was cut.
pub(super) fn clip(text: &str, max: usize) -> Cow<'_, str> {
    const CUT: char = '…';
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = text.floor_char_boundary(max - CUT.len_utf8());
    Cow::Owned(format!("{}{CUT}", &text[..kept]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const ID: RecordId = RecordId([9; 32]);

    fn reference() -> Reference {
        Reference {
            key: "order-17".into(),
            method: "POST".into(),
            path: "/v1/payments".into(),
            scope: "x-tenant=acme".into(),
        }
    }

    #[test]
    fn what_is_sealed_can_be_opened_and_not_read() {
        let sealed = seal(&KEY, &ID, &reference(), [1; 12]);
        assert!(!sealed.windows(8).any(|window| window == b"order-17"));
        assert_eq!(open(&KEY, &ID, &sealed), Ok(reference()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_breaks_the_seal() {
        let sealed = seal(&KEY, &ID, &reference(), [1; 12]);
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.to_vec();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&KEY, &ID, &broken).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(open(&KEY, &ID, &sealed[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_reference_belongs_to_one_record_and_one_key() {
        let sealed = seal(&KEY, &ID, &reference(), [1; 12]);
        assert_eq!(
            open(&KEY, &RecordId([8; 32]), &sealed),
            Err(SealBroken::Forged)
        );
        assert_eq!(open(&[8; 32], &ID, &sealed), Err(SealBroken::Forged));
        assert_eq!(open(&KEY, &ID, &[2; 64]), Err(SealBroken::Form));
    }

    #[test]
    fn long_parts_are_cut_between_characters() {
        let long = Reference {
            key: "k".repeat(5000),
            method: "M".repeat(5000),
            path: "ü".repeat(5000),
            scope: "s".repeat(5000),
        };
        let sealed = seal(&KEY, &ID, &long, [1; 12]);
        let opened = open(&KEY, &ID, &sealed).unwrap();
        assert_eq!(opened.path, format!("{}…", "ü".repeat((PATH_MAX - 3) / 2)));
        assert_eq!(opened.key.len(), KEY_MAX);
        assert_eq!(opened.method.len(), METHOD_MAX);
        assert_eq!(opened.scope.len(), SCOPE_NAME_MAX);
        assert!(sealed.len() < 2048);
    }

    #[test]
    fn the_key_is_not_printed() {
        let printed = format!("{:?}", reference());
        assert!(
            !printed.contains("order-17") && !printed.contains("acme"),
            "{printed}"
        );
    }
}
