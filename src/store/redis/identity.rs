//! Whether it is the store that it was: every store has an identity, made at random when it is begun, and every
//! bucket of it bears that identity. Where a bucket has lost it, records may be lost, too, and a key that is not there
//! any more is no new key: no claim is made there until an operator has accepted the store as it is.
//!
//! Beside the identity stands a check value of the id key: under another one no record would be found.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::{hmac, rand};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Mutex;

use super::call::Call;
use super::keys::{BUCKETS, hex};
use super::reply::texts;
use super::{NotDone, Redis, StoreError, script};
use crate::identity::IdKeyBytes;

/// Buckets that are asked at once: all of them, so that the way to the servers is waited for once.
pub const AT_ONCE: usize = BUCKETS;

/// What the check value is made from, with the id key as key.
const CHECKED: &[u8] = b"oncegate: the id key of this store";

/// What is known of the store.
pub struct Identity {
    check: String,
    /// Where there is no store, one is begun.
    begins: bool,
    known: RwLock<Option<Arc<str>>>,
    /// One gateway begins a store once.
    contact: Mutex<()>,
    was_said: AtomicBool,
}

impl Identity {
    /// Of a store that nobody has talked to yet.
    ///
    /// - `begins`: where there is none, one is begun.
    pub fn unknown(id_key: &IdKeyBytes, begins: bool) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &id_key.0);
        Self {
            check: hex(&hmac::sign(&key, CHECKED).as_ref()[..16]),
            begins,
            known: RwLock::default(),
            contact: Mutex::default(),
            was_said: AtomicBool::new(false),
        }
    }

    fn known(&self) -> Option<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn set_known(&self, identity: &str) -> Arc<str> {
        let identity: Arc<str> = identity.into();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&identity));
        self.was_said.store(false, Ordering::Relaxed);
        identity
    }
}

/// Why a store cannot be used though it answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// Its records are under other ids.
    #[error(
        "the store was begun with another id_key: its records would not be found under this one"
    )]
    OtherIdKey,
    /// Some of its parts have lost their identity, or have that of another store.
    #[error("a part of the store was emptied; {ACCEPT}")]
    PartlyEmptied,
    /// There is none, and the configuration says that none is to be begun.
    #[error(
        "there is no store under this namespace, and `store.begin` is false; claims are refused until \
         `oncegate store accept` begins one"
    )]
    NotBegun,
    /// It does not answer, or not as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What can be done about a store that lost records.
const ACCEPT: &str = "new claims are refused until `oncegate store accept` accepts it as it is";

impl From<ContactError> for StoreError {
    fn from(error: ContactError) -> Self {
        match error {
            ContactError::Store(StoreError::NotDone(why)) => why.into(),
            // The call that asked for the contact was not sent itself.
            error => NotDone::OutOfOrder(error.to_string()).into(),
        }
    }
}

/// What accepting a store changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Buckets that had no identity, or another one.
    pub buckets: usize,
}

/// How a claim found that it is not the store that this gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTheStore {
    /// The bucket has no identity.
    Emptied,
    /// It has another one.
    Another,
}

impl fmt::Display for NotTheStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emptied => write!(f, "the store was emptied; {ACCEPT}"),
            Self::Another => write!(f, "it is not the store that it was; {ACCEPT}"),
        }
    }
}

/// What stands for the whole store.
struct Marker {
    identity: String,
    check: String,
    /// Every bucket has been given the identity.
    is_whole: bool,
    /// By an operator, after records were lost.
    is_accepted: bool,
}

impl Redis {
    /// Gets to know the store, and begins one where there is none.
    ///
    /// # Errors
    /// Where the store cannot be asked, and where it must not be used.
    pub async fn contact(&self) -> Result<(), ContactError> {
        self.contact_once().await.map(drop)
    }

    /// Whether the store is the one that the configuration means, without beginning one.
    /// `false`: there is none yet.
    pub(super) async fn is_the_one(&self) -> Result<bool, ContactError> {
        match self.marker("read", "").await? {
            Some(marker) if marker.check != self.identity.check => Err(ContactError::OtherIdKey),
            Some(_) => Ok(true),
            None if !self.identity.begins => Err(ContactError::NotBegun),
            None => Ok(false),
        }
    }

    /// Gives the whole store one identity, whatever its parts have: an operator's word that what was lost is lost.
    ///
    /// # Errors
    /// As [`Redis::contact`].
    pub async fn accept(&self) -> Result<Accepted, ContactError> {
        let identity = match self.marker("read", "").await? {
            Some(marker) if marker.check != self.identity.check => {
                return Err(ContactError::OtherIdKey);
            }
            Some(marker) => marker.identity,
            None => fresh()?,
        };
        self.marker("accept", &identity).await?;
        let before = self.parts("read", &identity).await?;
        self.parts("accept", &identity).await?;
        self.marker("finish", &identity).await?;
        self.identity.set_known(&identity);
        let buckets = before.iter().filter(|part| **part != identity).count();
        Ok(Accepted { buckets })
    }

    /// The store's identity, asked for at the first contact.
    pub(super) async fn contacted(&self) -> Result<Arc<str>, StoreError> {
        match self.identity.known() {
            Some(identity) => Ok(identity),
            None => Ok(self.contact_once().await?),
        }
    }

    /// Whether what stands for the whole store is still there: one that was emptied answers, and takes no claim.
    pub(super) async fn is_still(&self, known: &str) -> Result<(), StoreError> {
        let found = match self.marker("read", "").await? {
            Some(marker) if marker.identity == known => return Ok(()),
            Some(_) => NotTheStore::Another,
            None => NotTheStore::Emptied,
        };
        Err(self.not_the_store(known, found).await.into())
    }

    /// A claim found another identity than this gateway knows, or none: what is to be said of that. Where an
    /// operator has accepted the store, the next claim will find it in order.
    pub(super) async fn not_the_store(&self, known: &str, found: NotTheStore) -> NotDone {
        if let Ok(Some(marker)) = self.marker("read", "").await
            && marker.is_accepted
            && marker.is_whole
            && marker.identity != known
            && marker.check == self.identity.check
        {
            tracing::warn!("an operator has accepted the store as it is");
            self.identity.set_known(&marker.identity);
            return NotDone::OutOfOrder("the store was accepted as new this moment".to_owned());
        }
        if !self.identity.was_said.swap(true, Ordering::Relaxed) {
            tracing::error!("{found}");
        }
        NotDone::OutOfOrder(found.to_string())
    }

    async fn contact_once(&self) -> Result<Arc<str>, ContactError> {
        let _alone = self.identity.contact.lock().await;
        if let Some(identity) = self.identity.known() {
            return Ok(identity);
        }
        let marker = match self.marker("read", "").await? {
            Some(marker) => marker,
            None => self.begin().await?,
        };
        if marker.check != self.identity.check {
            return Err(ContactError::OtherIdKey);
        }
        if !marker.is_whole {
            // Whoever began it may have been stopped half-way.
            let parts = self.parts("begin", &marker.identity).await?;
            if parts.iter().any(|part| *part != marker.identity) {
                return Err(ContactError::PartlyEmptied);
            }
            self.marker("finish", &marker.identity).await?;
        }
        Ok(self.identity.set_known(&marker.identity))
    }

    /// Begins a store where there is nothing of one.
    async fn begin(&self) -> Result<Marker, ContactError> {
        let parts = self.parts("read", "").await?;
        if parts.iter().any(|part| !part.is_empty()) {
            return Err(ContactError::PartlyEmptied);
        }
        if !self.identity.begins {
            return Err(ContactError::NotBegun);
        }
        tracing::warn!(
            "there is no store under this namespace: a new one is begun. Had there been one, its records are gone, \
             and what they remember may be sent again"
        );
        let strange = || StoreError::from(super::reply::strange());
        let marker = self.marker("begin", &fresh()?).await?;
        Ok(marker.ok_or_else(strange)?)
    }

    async fn marker(&self, act: &str, identity: &str) -> Result<Option<Marker>, StoreError> {
        let call = Call::new(vec![self.keys.store()])
            .text(act)
            .text(identity)
            .text(&self.identity.check);
        let answer = self.run(&script::STORE, 0, &call).await?;
        let words = texts(answer.value)?;
        match words.as_slice() {
            [] => Ok(None),
            [identity, check, whole, accepted] => Ok(Some(Marker {
                identity: identity.clone(),
                check: check.clone(),
                is_whole: whole == "1",
                is_accepted: accepted == "1",
            })),
            _ => Err(super::reply::strange().into()),
        }
    }

    /// The identities of all buckets, after this was done to them.
    async fn parts(&self, act: &str, identity: &str) -> Result<Vec<String>, StoreError> {
        let part = |bucket: u8| async move {
            let call = Call::new(vec![self.keys.identity(bucket)]);
            let call = call.text(act).text(identity);
            let answer = self.run(&script::PART, bucket, &call).await?;
            texts(answer.value)?
                .pop()
                .ok_or_else(|| StoreError::from(super::reply::strange()))
        };
        stream::iter((0..=u8::MAX).map(part))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

/// An identity that no other store has.
fn fresh() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    let no_randomness =
        |_| NotDone::OutOfOrder("the system has no source of randomness".to_owned());
    rand::fill(&mut bytes).map_err(no_randomness)?;
    Ok(hex(&bytes))
}
