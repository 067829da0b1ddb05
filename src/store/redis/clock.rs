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
    /// A server has just answered this. One that is behind another does not count as long as that one's word is good.
    pub fn heard(&self, answer: &[Value]) {
        let Some(said) = answer.last().and_then(timestamp) else {
            return;
        };
        let now = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if at(*last, now).is_none_or(|ahead| said >= ahead) {
            *last = Some((said, now));
        }
    }

    /// What the servers would say now; `None` where they have not said anything for long.
    fn read(&self) -> Option<Timestamp> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at(*last, Instant::now())
    }
}

fn at(last: Option<(Timestamp, Instant)>, now: Instant) -> Option<Timestamp> {
    let (said, heard) = last?;
    let passed = now - heard;
    (passed <= GOOD_FOR).then(|| said.plus(passed))
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
        // Those that answer say the time, whether or not all of them do.
        let measured = self.measure().await;
        match self.clock.read() {
            Some(now) => Ok(now),
            None => Err(measured.err().unwrap_or_else(|| reply::strange().into())),
        }
    }
}

/// What `TIME` answers: seconds and microseconds.
fn timestamp(said: &Value) -> Option<Timestamp> {
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn said(seconds: u64) -> Vec<Value> {
        let text = |number: &str| Value::BulkString(number.as_bytes().to_vec());
        vec![Value::Array(vec![text(&seconds.to_string()), text("5000")])]
    }

    #[tokio::test(start_paused = true)]
    async fn of_servers_the_one_that_is_ahead_counts_for_as_long_as_its_word_is_good() {
        let clock = Clock::default();
        assert_eq!(clock.read(), None);
        clock.heard(&said(100));
        clock.heard(&said(70));
        assert_eq!(clock.read(), Some(Timestamp(100_005)));
        advance(Duration::from_secs(20)).await;
        assert_eq!(clock.read(), Some(Timestamp(120_005)));
        clock.heard(&said(90));
        assert_eq!(clock.read(), Some(Timestamp(120_005)));
        advance(Duration::from_secs(11)).await;
        assert_eq!(clock.read(), None);
        clock.heard(&said(101));
        assert_eq!(clock.read(), Some(Timestamp(101_005)));
        clock.heard(&[Value::Nil]);
        clock.heard(&[]);
        assert_eq!(clock.read(), Some(Timestamp(101_005)));
    }
}
