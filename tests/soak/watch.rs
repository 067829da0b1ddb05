//! What the gateway takes of the machine while the load runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{Gateway, Usage};

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The part of the time in which caches and pools fill: a quarter, at most a minute.
const WARM_UP: (u32, Duration) = (4, Duration::from_secs(60));

/// What the last third after that may take more than the first: pages that come and go, connections under way.
const MORE_KIB: u64 = 12 * 1024;
const MORE_FILES: usize = 64;

/// Looks taken at the gateway.
pub struct Watch {
    warm: Vec<Usage>,
    seconds: u64,
}

impl Watch {
    /// Looks until the end of the load.
    pub async fn until(gateway: Arc<Gateway>, ends: Instant) -> Self {
        let begun = Instant::now();
        let all = ends - begun;
        let warm_from = begun + (all / WARM_UP.0).min(WARM_UP.1);
        let mut warm = Vec::new();
        while Instant::now() < ends {
            sleep(LOOK_EVERY).await;
            if Instant::now() > warm_from {
                warm.push(gateway.usage());
            }
        }
        Self {
            warm,
            seconds: all.as_secs(),
        }
    }

    /// What was seen, as lines.
    pub fn summary(&self) -> String {
        let (first, last) = self.thirds();
        format!(
            "{} s; at most, in the first and the last third after warming up: {} and {} KiB resident, {} and {} files",
            self.seconds, first.resident_kib, last.resident_kib, first.files, last.files
        )
    }

    /// Fails the test where the last third took more than the first.
    pub fn saw_nothing_grow(&self) {
        let (first, last) = self.thirds();
        assert!(
            last.resident_kib <= first.resident_kib + MORE_KIB,
            "{}",
            self.summary()
        );
        assert!(last.files <= first.files + MORE_FILES, "{}", self.summary());
    }

    /// The most that was taken in the first and in the last third.
    fn thirds(&self) -> (Usage, Usage) {
        let third = self.warm.len() / 3;
        assert!(third > 0, "the load was too short to be watched");
        (most(&self.warm[..third]), most(&self.warm[2 * third..]))
    }
}

fn most(looks: &[Usage]) -> Usage {
    let files = looks.iter().map(|look| look.files).max();
    let resident = looks.iter().map(|look| look.resident_kib).max();
    Usage {
        files: files.unwrap_or(0),
        resident_kib: resident.unwrap_or(0),
    }
}
