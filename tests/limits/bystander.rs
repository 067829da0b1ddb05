//! A client that does nothing wrong.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::{Gateway, payment};

/// The pause between two of its payments.
const PAUSE: Duration = Duration::from_millis(10);

/// How long one of them may take at most, on a busy machine with a debug build.
const PATIENT: Duration = Duration::from_secs(5);

/// Sends payments on one connection, each under a key of its own, and expects every one to be executed.
pub struct Bystander {
    stop: watch::Sender<bool>,
    paying: JoinHandle<usize>,
}

impl Bystander {
    /// Begins, and returns when the first payment was executed.
    pub async fn begin(gateway: &Gateway) -> Self {
        let mut connection = gateway.connect().await;
        connection
            .send(&payment("bystander-0"))
            .await
            .is(201, "executed");
        let (stop, stopped) = watch::channel(false);
        let paying = tokio::spawn(async move {
            let mut paid = 1;
            while !*stopped.borrow() {
                sleep(PAUSE).await;
                let begun = Instant::now();
                let answer = connection
                    .send(&payment(&format!("bystander-{paid}")))
                    .await;
                answer.is(201, "executed");
                assert!(begun.elapsed() < PATIENT, "took {:?}", begun.elapsed());
                paid += 1;
            }
            paid
        });
        Self { stop, paying }
    }

    /// Ends, and says how many payments it made; all of them were executed in time.
    pub async fn was_served(self) -> usize {
        self.stop.send_replace(true);
        let paid = self.paying.await.expect("the bystander was harmed");
        assert!(paid > 1, "the bystander had no time");
        paid
    }
}
