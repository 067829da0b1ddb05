//! Record ids, fingerprints and references of one gateway, all keyed by its id key.

use std::fmt::{self, Write};

use aws_lc_rs::{hkdf, hmac};
use bytes::Bytes;
use http::HeaderName;

use super::fingerprint::{self, FingerprintRules, FingerprintUnderWay, RequestParts};
use super::issued;
use super::key::Key;
use super::keyed::Keyed;
use super::reference::{self, Reference, SCOPE_NAME_MAX, SealBroken, clip};
use super::scope::Scope;
use crate::protocol::{Fingerprint, RecordId, Timestamp};

/// The secret that keys record ids and fingerprints. It is never used itself, only keys derived from it.
#[derive(Clone)]
pub struct IdKeyBytes(pub [u8; 32]);

impl fmt::Debug for IdKeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKeyBytes(..)")
    }
}

/// Turns what a client sent into what a store may hold. What it computes for the same arguments never changes: a
/// record that cannot be found again is an operation that runs twice.
pub struct Identifier {
    namespace: Box<str>,
    record_id: hmac::Key,
    fingerprint: hmac::Key,
    observed_id: hmac::Key,
    observed_fingerprint: hmac::Key,
    key_ref: hmac::Key,
    scope_name: hmac::Key,
    reference: hmac::Key,
    issued_key: hmac::Key,
}

impl Identifier {
    /// Derives a key for each use from the id key by HKDF-SHA256 (RFC 5869).
    #[must_use]
    pub fn new(id_key: &IdKeyBytes, namespace: &str) -> Self {
        let root = root(id_key);
        Self {
            namespace: namespace.into(),
            record_id: derive(&root, b"record id"),
            fingerprint: derive(&root, b"fingerprint"),
            observed_id: derive(&root, b"observed record id"),
            observed_fingerprint: derive(&root, b"observed fingerprint"),
            key_ref: derive(&root, b"key ref"),
            scope_name: derive(&root, b"scope name"),
            reference: derive(&root, b"reference"),
            issued_key: derive(&root, b"issued key"),
        }
    }

    /// By what a store recognises its id key: two id keys have different ones, and it tells nothing of the key.
    #[must_use]
    pub fn check_value(id_key: &IdKeyBytes) -> [u8; 16] {
        let root = root(id_key);
        let whole = Keyed::new(&derive(&root, b"check value")).finish();
        std::array::from_fn(|at| whole[at])
    }

    /// Under what the record of this operation is stored: a hash over namespace, route id, the scope's header lines
    /// with their names, and key.
    #[must_use]
    pub fn record_id(&self, route_id: &str, scope: &Scope, key: &Key) -> RecordId {
        self.id(&self.record_id, route_id, scope, key)
    }

    /// Under what is kept that this operation was observed: the same under another key, so that no record that
    /// protects an operation is ever found there.
    #[must_use]
    pub fn observed_id(&self, route_id: &str, scope: &Scope, key: &Key) -> RecordId {
        self.id(&self.observed_id, route_id, scope, key)
    }

    fn id(&self, keyed: &hmac::Key, route_id: &str, scope: &Scope, key: &Key) -> RecordId {
        let mut hash = Keyed::new(keyed);
        hash.field(self.namespace.as_bytes());
        hash.field(route_id.as_bytes());
        hash.count(scope.lines().len());
        for (name, value) in scope.lines() {
            hash.field(name.as_str().as_bytes());
            hash.field(value);
        }
        hash.field(key.as_str().as_bytes());
        RecordId(hash.finish())
    }

    /// What the client asked for. Where the body counts by its JSON value this reads the whole of it.
    #[must_use]
    pub fn fingerprint(
        &self,
        rules: &FingerprintRules,
        parts: &RequestParts<'_>,
        body: &[u8],
    ) -> Fingerprint {
        let mut hash = Keyed::new(&self.fingerprint);
        fingerprint::write(&mut hash, rules, parts, body);
        Fingerprint(hash.finish())
    }

    /// Begins the fingerprint of a request whose body passes by, to be compared with those of other such requests.
    #[must_use]
    pub fn observed_fingerprint(
        &self,
        rules: &FingerprintRules,
        parts: &RequestParts<'_>,
    ) -> FingerprintUnderWay {
        let hash = Keyed::new(&self.observed_fingerprint);
        FingerprintUnderWay::new(hash, rules, parts)
    }

    /// What support and logs call the key by.
    #[must_use]
    pub fn key_ref(&self, id: &RecordId) -> KeyRef {
        let mut hash = Keyed::new(&self.key_ref);
        hash.field(&id.0);
        KeyRef(Short::of(&hash.finish()))
    }

    /// What an operator calls the scope by, at most [`SCOPE_NAME_MAX`] bytes: `x-tenant=acme`,
    /// `authorization#3fa9c1d2e4b5`, several with `, ` between them, or `none`.
    ///
    /// A value stands in the clear only where its header does not look like a credential and the value is short and
    /// printable. Otherwise a short hash of it does, the same for the same value.
    #[must_use]
    pub fn scope_name(&self, scope: &Scope) -> String {
        if scope.lines().len() == 0 {
            return "none".into();
        }
        let names: Vec<_> = scope
            .lines()
            .map(|(name, value)| match readable(name, value) {
                Some(value) => format!("{name}={value}"),
                None => format!("{name}#{}", self.scope_hash(name, value)),
            })
            .collect();
        clip(&names.join(", "), SCOPE_NAME_MAX).into_owned()
    }

    fn scope_hash(&self, name: &HeaderName, value: &[u8]) -> Short {
        let mut hash = Keyed::new(&self.scope_name);
        hash.field(name.as_str().as_bytes());
        hash.field(value);
        Short::of(&hash.finish())
    }

    /// A key for a client: `random` must never have been given before at this time.
    #[must_use]
    pub fn issue_key(&self, now: Timestamp, random: [u8; issued::RANDOM_LEN]) -> String {
        issued::issue(&self.issued_key, &self.namespace, now, random)
    }

    /// Whether this key was issued by a gateway with the same id key and namespace.
    #[must_use]
    pub fn has_issued(&self, key: &Key) -> bool {
        issued::is_genuine(&self.issued_key, &self.namespace, key.as_str())
    }

    /// Seals a reference for this record, AES-256-GCM with the record id as associated data.
    ///
    /// Each record has a key of its own, so that random nonces need to be unique only among the few attempts at
    /// one record and not among all that a gateway ever seals (NIST SP 800-38D section 8.3 allows 2^32).
    #[must_use]
    pub fn seal_reference(&self, id: &RecordId, reference: &Reference, nonce: [u8; 12]) -> Bytes {
        reference::seal(&self.reference_key(id), id, reference, nonce)
    }

    /// Opens what [`Identifier::seal_reference`] made for the same record.
    ///
    /// # Errors
    /// [`SealBroken`] where it was made for another record, with another id key, or is damaged.
    pub fn open_reference(&self, id: &RecordId, sealed: &[u8]) -> Result<Reference, SealBroken> {
        reference::open(&self.reference_key(id), id, sealed)
    }

    fn reference_key(&self, id: &RecordId) -> [u8; 32] {
        let mut hash = Keyed::new(&self.reference);
        hash.field(&id.0);
        hash.finish()
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identifier")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// A key as support and logs see it: 12 hexadecimal digits of a keyed hash of its record id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef(Short);

impl KeyRef {
    /// Its digits.
    pub fn digits(&self) -> impl Iterator<Item = char> {
        self.0.digits()
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The first 48 bits of a hash, enough to tell thousands of them apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Short([u8; 6]);

impl Short {
    fn of(hash: &[u8; 32]) -> Self {
        Self(std::array::from_fn(|at| hash[at]))
    }

    fn digits(self) -> impl Iterator<Item = char> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let halves = self.0.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        halves.map(|half| char::from(DIGITS[usize::from(half)]))
    }
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digits().try_for_each(|digit| f.write_char(digit))
    }
}

fn root(id_key: &IdKeyBytes) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"oncegate identity 1").extract(&id_key.0)
}

fn derive(root: &hkdf::Prk, usage: &'static [u8]) -> hmac::Key {
    let info = [usage];
    let key = root
        .expand(&info, hmac::HMAC_SHA256)
        .expect("HKDF gives 32 bytes");
    hmac::Key::from(key)
}

/// The value, if it may be shown to an operator.
fn readable<'a>(name: &HeaderName, value: &'a [u8]) -> Option<&'a str> {
    /// Names of tenants, accounts and users are short; tokens are not.
    const READABLE_MAX: usize = 64;
    const CREDENTIALS: [&str; 11] = [
        "auth",
        "bearer",
        "cookie",
        "credential",
        "jwt",
        "key",
        "password",
        "secret",
        "session",
        "signature",
        "token",
    ];
    let credential = CREDENTIALS.iter().any(|word| name.as_str().contains(word));
    let plain = value.len() <= READABLE_MAX && value.iter().all(|byte| (0x20..0x7f).contains(byte));
    if credential || !plain {
        None
    } else {
        std::str::from_utf8(value).ok()
    }
}

#[cfg(test)]
mod tests;
