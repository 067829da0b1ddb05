//! An answer is recorded, and told, before replicas have it: a replica that takes over may lack it, and would say of
//! its operation that nobody knows the outcome. So each one is looked after until enough replicas have it, and
//! recorded again where it was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::call::{Call, Purpose};
use super::reply;
use super::script;
use super::servers::Servers;
use crate::protocol::MARK_KEEP;

/// What the answers that are looked after take in all, in KiB: an outage must not fill the memory.
const ROOM_KIB: u32 = 64 * 1024;

/// How long one is looked after at most: longer than a replica takes to take over, and, with the last questions, less
/// long than the mark stands that an operator's delete leaves.
const LOOKED_AFTER: Duration = MARK_KEEP.saturating_sub(PATIENCE.saturating_mul(3));

/// Of one question, however long others wait before it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pauses between two questions.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the end of a gateway waits for those that are left.
const AT_THE_END: Duration = Duration::from_secs(1);

/// Answers that replicas may lack.
pub struct Answers {
    servers: Arc<Servers>,
    room: Arc<Semaphore>,
    /// Said once, until an answer gets there again.
    has_warned: Arc<AtomicBool>,
}

/// One of them.
pub struct Recorded {
    /// Its bucket.
    pub bucket: u8,
    /// What records it again, unless it was deleted by hand.
    pub again: Call,
    /// What asks whether it stands.
    pub confirm: Call,
    /// Past that it is nobody's any more: recorded again, it might meet another operation.
    pub keep: Duration,
}

/// What became of one.
enum Fate {
    /// Enough replicas have it, or it counts no more.
    Settled,
    /// The servers cannot say.
    Open,
    /// It is gone.
    Lost,
}

impl Answers {
    /// None so far.
    pub fn new(servers: Arc<Servers>) -> Self {
        Self {
            servers,
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            has_warned: Arc::default(),
        }
    }

    /// Looks after this one from now on.
    pub fn look_after(&self, recorded: Recorded) {
        let kib = u32::try_from(recorded.again.len() / 1024).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib.saturating_add(1));
        let Ok(room) = room else {
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "replicas lack so many answers that not all of them are looked after"
                );
            }
            return;
        };
        let (servers, has_warned) = (Arc::clone(&self.servers), Arc::clone(&self.has_warned));
        tokio::spawn(async move {
            let is_settled = recorded.until_replicas_have_it(&servers).await;
            if !has_warned.swap(!is_settled, Ordering::Relaxed) && !is_settled {
                tracing::warn!(
                    "replicas may lack recorded answers: they did not have them in time"
                );
            }
            drop(room);
        });
    }

    /// Waits for those that are left, for a moment.
    pub async fn finished(&self) {
        // The semaphore is never closed.
        let _ = timeout(AT_THE_END, self.room.acquire_many(ROOM_KIB)).await;
    }
}

impl Recorded {
    /// Whether they have it, or need not.
    async fn until_replicas_have_it(&self, servers: &Servers) -> bool {
        let deadline = Instant::now() + LOOKED_AFTER.min(self.keep);
        let mut pause = FIRST_PAUSE;
        loop {
            match self.asked(servers).await {
                Fate::Settled => return true,
                Fate::Lost => {
                    tracing::info!(
                        "a recorded answer was lost with its server; it is recorded again"
                    );
                    if let Fate::Settled = self.repeated(servers).await {
                        return true;
                    }
                }
                Fate::Open => {}
            }
            if Instant::now() + pause > deadline {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn asked(&self, servers: &Servers) -> Fate {
        let asking = servers.run(
            &script::CONFIRM,
            self.bucket,
            &self.confirm,
            Purpose::Answer,
        );
        match timeout(PATIENCE, asking).await {
            Ok(Ok(outcome)) => match (word(outcome.value).as_deref(), outcome.lacks) {
                (Some("done"), None) => Fate::Settled,
                (Some("changed"), _) => Fate::Lost,
                _ => Fate::Open,
            },
            _ => Fate::Open,
        }
    }

    /// Records it again. Where that is refused the record says something else, which counts.
    async fn repeated(&self, servers: &Servers) -> Fate {
        let repeating = servers.run(&script::COMPLETE, self.bucket, &self.again, Purpose::Plain);
        match timeout(PATIENCE, repeating).await {
            Ok(Ok(outcome)) => match word(outcome.value).as_deref() {
                Some("lost" | "unreadable") => Fate::Settled,
                _ => Fate::Open,
            },
            _ => Fate::Open,
        }
    }
}

/// The first word of what a script said.
fn word(value: Value) -> Option<String> {
    reply::texts(value).ok()?.into_iter().next()
}
