//! A keyed hash over fields, each framed by its length, so that no two lists of fields are one list of bytes.

use aws_lc_rs::hmac;

/// HMAC-SHA256 (RFC 2104) under way.
pub(super) struct Keyed(hmac::Context);

impl Keyed {
    /// Begins with a key whose inner and outer blocks are already computed.
    pub(super) fn new(key: &hmac::Key) -> Self {
        Self(hmac::Context::with_key(key))
    }

    /// One field: its length as 64 bits, little-endian, and its bytes.
    pub(super) fn field(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    /// Bytes of a field that comes in pieces, the last one of the hash; its length is written behind it.
    pub(super) fn piece(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// How many items follow: 64 bits, little-endian.
    pub(super) fn count(&mut self, items: usize) {
        self.0.update(&(items as u64).to_le_bytes());
    }

    /// Which of several forms follows: one byte.
    pub(super) fn form(&mut self, form: u8) {
        self.0.update(&[form]);
    }

    /// The hash: 32 bytes.
    pub(super) fn finish(self) -> [u8; 32] {
        let tag = self.0.sign();
        tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }
}
