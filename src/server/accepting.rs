//! What is made of failures to accept a connection.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// How often the log says again that connections cannot be accepted: while files are out, every attempt fails.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The failures of one listening socket, of which few are told.
#[derive(Debug, Default)]
pub(crate) struct AcceptFailures {
    told: Option<Instant>,
    /// Since then.
    untold: u64,
}

impl AcceptFailures {
    /// There was another one. Returns how many there were since this last returned some, where it is time to tell.
    pub(crate) fn count(&mut self) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

/// Errors of a connection that failed between its arrival and our accepting it; the next one may be well.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_told_at_once_and_the_rest_by_their_number() {
        let mut failures = AcceptFailures::default();
        assert_eq!(failures.count(), Some(1));
        for _ in 0..99 {
            tokio::time::advance(Duration::from_millis(100)).await;
            assert_eq!(failures.count(), None);
        }
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(failures.count(), Some(100));
        assert_eq!(failures.count(), None);
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(failures.count(), Some(2));
    }
}
