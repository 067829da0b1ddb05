//! The number that changes whenever a completed record was taken away or replaced by hand: gateways that remember
//! completed records forget them then.
//!
//! It is drawn at random instead of counted: were a change lost with its primary, the next one would bring a count back
//! to what some gateway knows already.

use aws_lc_rs::rand;

use super::call::{Call, asked};
use super::reply::{strange, texts};
use super::{NotDone, Redis, StoreError, script};

/// The bucket that has the epoch of the whole store.
const BUCKET: u8 = 0;

impl Redis {
    /// The epoch now.
    pub(super) async fn known_epoch(&self) -> Result<u64, StoreError> {
        self.open()?;
        self.contacted().await?;
        self.ask_epoch("read", "").await.map_err(asked)
    }

    /// Changes the epoch. To be done after the record was changed, and again where it failed: before, a gateway might
    /// remember the old record anew.
    ///
    /// # Errors
    /// As [`super::Store::apply`].
    pub async fn new_epoch(&self) -> Result<u64, StoreError> {
        self.open()?;
        self.contacted().await?;
        let mut bytes = [0; 8];
        rand::fill(&mut bytes).map_err(|_| {
            NotDone::OutOfOrder("the system has no source of randomness".to_owned())
        })?;
        self.ask_epoch("change", &u64::from_ne_bytes(bytes).to_string())
            .await
    }

    async fn ask_epoch(&self, act: &str, number: &str) -> Result<u64, StoreError> {
        let call = Call::new(vec![self.keys.epoch(BUCKET)])
            .text(act)
            .text(number);
        let answer = self.run(&script::EPOCH, BUCKET, &call).await?;
        let number = texts(answer.value)?.pop();
        let number = number.and_then(|digits| digits.parse().ok());
        Ok(number.ok_or_else(strange)?)
    }
}
