//! The first page of a store's file: what it is, the id key, and the last change that was acknowledged.
//!
//! | bytes | hold |
//! | --- | --- |
//! | 0..16 | [`MAGIC`] |
//! | 16..18 | [`VERSION`], little endian |
//! | 18 | where the id key comes from: 0 made for this file, 1 configured |
//! | 19..51 | the id key that was made, or a hash of the configured one |
//! | 51..59 | checksum of bytes 0..51 |
//! | 512..520 | the number of the last acknowledged change, little endian |
//! | 520..528 | checksum of bytes 512..520 |
//!
//! The number lies in a disk sector of its own: it is written after every change, the rest once.

use aws_lc_rs::digest;
use twox_hash::XxHash3_64;

/// Bytes before the database.
pub const HEAD_LEN: usize = 4096;
/// Where the number of the last acknowledged change lies.
pub const NOTE_AT: usize = 512;
/// How long it is, checksum included.
pub const NOTE_LEN: usize = 16;

const MAGIC: [u8; 16] = *b"oncegate records";
const VERSION: u16 = 1;
const SUMMED: usize = 51;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the key of its record ids comes from.
    pub id_key: KeyOrigin,
}

/// Where the key of record ids comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// It was made for this file, and is kept in it.
    Made([u8; 32]),
    /// It is configured; the file holds a hash of it, to know it again.
    Configured([u8; 32]),
}

/// Why bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// Another kind of file.
    Foreign,
    /// A newer layout.
    Newer(u16),
    /// Not what was written.
    Damaged,
}

impl KeyOrigin {
    /// What the file keeps of a configured key.
    pub fn configured(key: &[u8; 32]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"oncegate id key");
        context.update(key);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self::Configured(hash)
    }
}

impl Head {
    /// The head as bytes, [`HEAD_LEN`] of them, with no change acknowledged.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        let (origin, key) = match self.id_key {
            KeyOrigin::Made(key) => (0, key),
            KeyOrigin::Configured(hash) => (1, hash),
        };
        bytes.push(origin);
        bytes.extend(key);
        bytes.extend(sum(&bytes));
        bytes.resize(NOTE_AT, 0);
        bytes.extend(encode_note(0));
        bytes.resize(HEAD_LEN, 0);
        bytes
    }

    /// Reads the head.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadHead> {
        let Some((summed, rest)) = bytes.split_at_checked(SUMMED) else {
            return Err(BadHead::Damaged);
        };
        let intact = rest.starts_with(&sum(summed));
        if summed[..MAGIC.len()] != MAGIC {
            return Err(if intact {
                BadHead::Damaged
            } else {
                BadHead::Foreign
            });
        }
        if !intact {
            return Err(BadHead::Damaged);
        }
        let version = u16::from_le_bytes([summed[16], summed[17]]);
        if version != VERSION {
            return Err(BadHead::Newer(version));
        }
        let mut key = [0; 32];
        key.copy_from_slice(&summed[19..SUMMED]);
        match summed[18] {
            0 => Ok(Self {
                id_key: KeyOrigin::Made(key),
            }),
            1 => Ok(Self {
                id_key: KeyOrigin::Configured(key),
            }),
            _ => Err(BadHead::Damaged),
        }
    }
}

/// The number of the last acknowledged change as bytes.
pub fn encode_note(sequence: u64) -> [u8; NOTE_LEN] {
    let mut bytes = [0; NOTE_LEN];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    let sum = sum(&bytes[..8]);
    bytes[8..].copy_from_slice(&sum);
    bytes
}

/// Reads the number of the last acknowledged change; `None` where it is damaged.
pub fn decode_note(bytes: &[u8; NOTE_LEN]) -> Option<u64> {
    let sequence = u64::from_le_bytes(*bytes.first_chunk()?);
    (encode_note(sequence) == *bytes).then_some(sequence)
}

fn sum(bytes: &[u8]) -> [u8; 8] {
    XxHash3_64::oneshot(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = SUMMED + 8;

    #[test]
    fn a_head_comes_back_as_it_went() {
        for id_key in [KeyOrigin::Made([3; 32]), KeyOrigin::configured(&[3; 32])] {
            let head = Head { id_key };
            assert_eq!(Head::decode(&head.encode()), Ok(head));
        }
    }

    #[test]
    fn a_configured_key_is_not_in_the_file() {
        let KeyOrigin::Configured(hash) = KeyOrigin::configured(&[3; 32]) else {
            panic!("it is configured");
        };
        assert_ne!(hash, [3; 32]);
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is() {
        let bytes = Head {
            id_key: KeyOrigin::Made([3; 32]),
        }
        .encode();
        for bit in 0..LEN * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&bytes).is_err(), "bit {bit}");
        }
        let note = encode_note(77);
        for bit in 0..NOTE_LEN * 8 {
            let mut note = note;
            note[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_note(&note), None, "bit {bit}");
        }
        assert_eq!(decode_note(&note), Some(77));
    }

    #[test]
    fn a_newer_layout_says_so() {
        let mut bytes = Head {
            id_key: KeyOrigin::Made([3; 32]),
        }
        .encode();
        bytes[16] = 2;
        let sum = sum(&bytes[..SUMMED]);
        bytes[SUMMED..LEN].copy_from_slice(&sum);
        assert_eq!(Head::decode(&bytes), Err(BadHead::Newer(2)));
    }

    #[test]
    fn another_kind_of_file_is_not_called_damaged() {
        assert_eq!(Head::decode(&[b'x'; 4096]), Err(BadHead::Foreign));
    }
}
