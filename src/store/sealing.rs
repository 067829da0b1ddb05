//! Recorded responses sealed at rest: whoever reads the store, its files or its backups reads no answers.
//!
//! A wrapper round any store. It seals the answers of ops on their way in and opens those of verdicts and records on
//! their way out; what decides (owners, fences, fingerprints, times) stays as the inner store needs it. The sealed
//! text is bound to the record's id and fingerprint, so that one that was moved to another record, or damaged, is
//! refused: [`NotDone::Unreadable`], never absent.
//!
//! AES-256-GCM under a key of the record's own, which is made of the configured key and the record's id (HMAC-SHA256).
//! Random nonces of 96 bits are safe for some 2^32 texts under one key (NIST SP 800-38D, section 8.3): a busy gateway
//! would reach that with a single key, and no record is ever sealed so often.

use std::borrow::Cow;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use futures_util::future::{BoxFuture, FutureExt};
use serde::de::DeserializeOwned;

use super::codec::Response3;
use super::{Hints, NotDone, Store, StoreError, Unresolved, Usage};
use crate::protocol::{
    Answer, Completed, Fingerprint, Found, Op, Record, RecordId, Resolution, Response, Sealed,
    State, Timestamp, Verdict, Version,
};

/// The first byte of a sealed text: the layout of what it holds. The first one is still written where there is nothing
/// more to say, as by `codec::encode_answer`.
const FORM: u8 = 2;
const BARE_FORM: u8 = 1;
/// Layout and nonce.
const HEAD_LEN: usize = 1 + NONCE_LEN;

/// Responses are compressed from so many bytes on: below, there is little to gain for the work.
const COMPRESS_FROM: usize = 1024;

/// What a response begins with inside the seal: as it is, or compressed (LZ4, with its length before it).
const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

/// A key that responses are sealed with, as it is configured.
#[derive(Clone)]
pub struct SealingKey {
    /// Its name; sealed responses bear it. Never given to another key.
    pub id: String,
    /// 32 bytes.
    pub bytes: [u8; 32],
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SealingKey").field(&self.id).finish()
    }
}

/// A store whose responses are sealed.
pub struct Sealing {
    inner: Arc<dyn Store>,
    ring: Ring,
}

impl Sealing {
    /// Wraps a store. The first key seals, all of them open; responses that were stored unsealed are read as they are.
    ///
    /// # Panics
    /// Where there is no key.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, keys: &[SealingKey]) -> Self {
        assert!(!keys.is_empty(), "sealing needs a key");
        Self {
            inner,
            ring: Ring(keys.iter().map(RingKey::new).collect()),
        }
    }

    async fn sealed(&self, id: RecordId, op: Op) -> Result<Op, StoreError> {
        Ok(match op {
            Op::Complete {
                owner,
                origin,
                answer,
                retention,
            } => Op::Complete {
                answer: self.ring.seal(&id, &origin.fingerprint, answer)?,
                owner,
                origin,
                retention,
            },
            Op::Resolve {
                seen,
                verdict:
                    Resolution::Completed {
                        answer: answer @ Answer::Stored(_),
                        retention,
                    },
            } => {
                // The word bears no fingerprint. The record that it is about does: another record that comes in
                // between has another `seen`, and the word is not taken.
                let record = self.inner.read(id).await?;
                let fingerprint = record.map_or(Fingerprint([0; 32]), |record| record.fingerprint);
                let answer = self.ring.seal(&id, &fingerprint, answer)?;
                let verdict = Resolution::Completed { answer, retention };
                Op::Resolve { seen, verdict }
            }
            other => other,
        })
    }
}

impl Store for Sealing {
    fn apply(&self, id: RecordId, op: Op) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        async move {
            let op = self.sealed(id, op).await?;
            // A verdict that bears an answer comes of an op that changed nothing.
            Ok(self
                .ring
                .open_verdict(&id, self.inner.apply(id, op).await?)?)
        }
        .boxed()
    }

    fn look(
        &self,
        id: RecordId,
        fingerprint: Fingerprint,
    ) -> BoxFuture<'_, Result<Option<Verdict>, StoreError>> {
        async move {
            let verdict = self.inner.look(id, fingerprint).await?;
            let opened = verdict.map(|verdict| self.ring.open_verdict(&id, verdict));
            Ok(opened.transpose()?)
        }
        .boxed()
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move {
            let Some(mut record) = self.inner.read(id).await? else {
                return Ok(None);
            };
            if let State::Completed(completed) = record.state {
                let completed = self.ring.open(&id, &record.fingerprint, completed)?;
                record.state = State::Completed(completed);
            }
            Ok(Some(record))
        }
        .boxed()
    }

    fn forget(&self, id: RecordId, version: Version) -> BoxFuture<'_, Result<Verdict, StoreError>> {
        self.inner.forget(id, version)
    }

    fn unresolved(
        &self,
        after: Option<(Timestamp, RecordId)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Unresolved>, StoreError>> {
        self.inner.unresolved(after, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.ping()
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        self.inner.now()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn hints(&self, id: RecordId) -> Option<Hints> {
        self.inner.hints(id)
    }

    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.inner.epoch()
    }

    fn change_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.change_epoch()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// The keys, in the order of the configuration.
struct Ring(Vec<RingKey>);

struct RingKey {
    id: Arc<str>,
    master: hmac::Key,
}

impl RingKey {
    fn new(key: &SealingKey) -> Self {
        Self {
            id: key.id.as_str().into(),
            master: hmac::Key::new(hmac::HMAC_SHA256, &key.bytes),
        }
    }

    /// The key of one record.
    fn cipher(&self, id: &RecordId) -> LessSafeKey {
        let mut context = hmac::Context::with_key(&self.master);
        context.update(b"oncegate sealed response");
        context.update(&id.0);
        let key = UnboundKey::new(&AES_256_GCM, context.sign().as_ref());
        LessSafeKey::new(key.expect("HMAC-SHA256 has the 32 bytes of a key of AES-256"))
    }
}

impl Ring {
    fn seal(
        &self,
        id: &RecordId,
        fingerprint: &Fingerprint,
        answer: Answer,
    ) -> Result<Answer, NotDone> {
        let Answer::Stored(response) = answer else {
            return Ok(answer);
        };
        let broken = |what: &str| NotDone::OutOfOrder(format!("cannot seal: {what}"));
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| broken("the system gives no random bytes"))?;
        let (form, packed) = match Response3::of(&response) {
            Some(bare) => (BARE_FORM, postcard::to_stdvec(&bare)),
            None => (FORM, postcard::to_stdvec(&*response)),
        };
        let packed = packed.map_err(|error| broken(&error.to_string()))?;
        let mut text = vec![form];
        text.extend_from_slice(&nonce);
        pack(&packed, &mut text);
        let key = &self.0[0];
        let tag = key
            .cipher(id)
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                bound_to(id, fingerprint),
                &mut text[HEAD_LEN..],
            )
            .map_err(|_| broken("it is too long"))?;
        text.extend_from_slice(tag.as_ref());
        Ok(Answer::Sealed(Sealed {
            key: Arc::clone(&key.id),
            text: text.into(),
        }))
    }

    fn open_verdict(&self, id: &RecordId, verdict: Verdict) -> Result<Verdict, NotDone> {
        let Verdict::Completed(found) = verdict else {
            return Ok(verdict);
        };
        Ok(Verdict::Completed(Found {
            completed: self.open(id, &found.fingerprint, found.completed)?,
            ..found
        }))
    }

    fn open(
        &self,
        id: &RecordId,
        fingerprint: &Fingerprint,
        completed: Completed,
    ) -> Result<Completed, NotDone> {
        let Answer::Sealed(sealed) = &completed.answer else {
            return Ok(completed);
        };
        let response = self.opened(id, fingerprint, sealed);
        let response = response.map_err(|error| NotDone::Unreadable(error.to_string()))?;
        Ok(Completed {
            answer: Answer::Stored(Arc::new(response)),
            ..completed
        })
    }

    fn opened(
        &self,
        id: &RecordId,
        fingerprint: &Fingerprint,
        sealed: &Sealed,
    ) -> Result<Response, Unopened> {
        let mut keys = self.0.iter();
        let key = keys
            .find(|key| key.id == sealed.key)
            .ok_or_else(|| Unopened::NoKey(Arc::clone(&sealed.key)))?;
        let (head, text) = sealed
            .text
            .split_at_checked(HEAD_LEN)
            .ok_or(Unopened::Forged)?;
        let form = head[0];
        if !matches!(form, FORM | BARE_FORM) {
            return Err(Unopened::Form(form));
        }
        let nonce = Nonce::try_assume_unique_for_key(&head[1..]).map_err(|_| Unopened::Forged)?;
        let mut text = text.to_vec();
        let text = key
            .cipher(id)
            .open_in_place(nonce, bound_to(id, fingerprint), &mut text)
            .map_err(|_| Unopened::Forged)?;
        let response = match form {
            BARE_FORM => unpack::<Response3<'_>>(text).map(Response::from),
            _ => unpack(text),
        };
        response.ok_or(Unopened::Forged)
    }
}

/// Why a sealed response cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    #[error("its response is sealed with the key {0:?}, which is not configured")]
    NoKey(Arc<str>),
    #[error("its response is sealed in form {0}, this program reads form {FORM}")]
    Form(u8),
    #[error(
        "its sealed response is damaged, belongs to another record, or was sealed with another key of this id"
    )]
    Forged,
}

fn bound_to(id: &RecordId, fingerprint: &Fingerprint) -> Aad<[u8; 64]> {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&id.0);
    both[32..].copy_from_slice(&fingerprint.0);
    Aad::from(both)
}

/// Appends a response's bytes, compressed where that makes them fewer.
fn pack(plain: &[u8], text: &mut Vec<u8>) {
    if plain.len() >= COMPRESS_FROM {
        let compressed = lz4_flex::block::compress_prepend_size(plain);
        if compressed.len() < plain.len() {
            text.push(COMPRESSED);
            text.extend_from_slice(&compressed);
            return;
        }
    }
    text.push(PLAIN);
    text.extend_from_slice(plain);
}

fn unpack<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    let (form, packed) = text.split_first()?;
    let plain = match *form {
        PLAIN => Cow::Borrowed(packed),
        // The length before it is as genuine as the rest: nobody without the key wrote it.
        COMPRESSED => lz4_flex::block::decompress_size_prepended(packed)
            .ok()?
            .into(),
        _ => return None,
    };
    // The layout stands outside the seal: one that was changed leaves bytes over, or lacks some.
    match postcard::take_from_bytes(&plain) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}
