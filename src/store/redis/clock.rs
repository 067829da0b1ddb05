//! What time it is by the servers' clocks, without asking for each key: they say it with every measurement, and what
//! has passed since then is counted here.
//!
//! The answer lags behind the servers by what theirs took to arrive, at most one `store.timeout`, and by what this
//! process' clock loses in [`GOOD_FOR`]. Of several servers the one counts that is ahead: it forgets first.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::{Redis, StoreError, Time, reply};
use crate::protocol::Timestamp;

/// How long what the servers said is good for. They are asked every few seconds anyway, see [`super::super::Store::ping`].
const GOOD_FOR: Duration = Duration::from_secs(30);

/// What the servers said last, and when it was heard.
#[derive(Default)]
pub struct Clock(Mutex<Option<(Timestamp, Instant)>>);

impl Clock {
    /// The servers have just said this.
    pub fn set(&self, said: Timestamp) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((said, Instant::now()));
    }

    /// What they would say now; `None` where they have not said anything for long.
    fn read(&self) -> Option<Timestamp> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, heard) = (*last)?;
        let passed = heard.elapsed();
        (passed <= GOOD_FOR).then(|| said.plus(passed))
    }
}

impl Redis {
    /// The time by the servers' clocks.
    pub(super) async fn time_there(&self) -> Result<Timestamp, StoreError> {
        self.open()?;
        if let Time::Given(clock) = &self.time {
            return Ok(clock());
        }
        if let Some(now) = self.clock.read() {
            return Ok(now);
        }
        self.measure().await?;
        Ok(self.clock.read().ok_or_else(reply::strange)?)
    }
}

/// What `TIME` answers: seconds and microseconds.
pub fn timestamp(said: &Value) -> Option<Timestamp> {
    let Value::Array(parts) = said else {
        return None;
    };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    let number = |value: &Value| redis::from_redis_value_ref::<u64>(value).ok();
    let ms = number(seconds)?.checked_mul(1000)?;
    Some(Timestamp(ms.checked_add(number(micros)? / 1000)?))
}
