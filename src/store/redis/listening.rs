//! Hints: a server tells whoever waits for a record when it was settled or freed.
//!
//! The scripts that do so publish to the shard channel that has the name of the record's key, and a gateway subscribes to
//! the channels of those records alone that somebody waits for. So a message goes to nobody who has no use for it, and in
//! a cluster it stays in its shard, where one of the common sort would go over the bus to every server. All subscriptions
//! to a server go over one connection, which carries nothing else: a server may close one whose reader is slow, and
//! no call's fate may hang on that.
//!
//! Messages can be lost, and nothing depends on them: who waits asks from time to time, too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value, cmd};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::node::{CallError, Node};
use super::servers::{Next, Servers};
use crate::config::Endpoint;
use crate::store::Hints;

/// The first pause before a subscription is tried again, and the longest: meanwhile who waits asks once a second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often one subscription is sent, where a server names another one, or the connection has just broken.
const TRIES: usize = 3;

/// A connection that nothing was subscribed on for so long is let go of once another server is subscribed to: servers
/// come and go.
const IDLE: Duration = Duration::from_secs(600);

/// What is listened to.
pub struct Listening {
    servers: Arc<Servers>,
    /// How long one subscription may take.
    patience: Duration,
    /// By channel. As many as there are records that somebody waits for, so that `max_waiters` bounds them.
    waited: Mutex<HashMap<String, watch::Sender<()>>>,
    lines: Mutex<HashMap<Endpoint, Arc<Line>>>,
    is_closed: AtomicBool,
    was_refused: AtomicBool,
}

/// The connection to one server.
struct Line {
    node: Node,
    /// Told when subscriptions were lost.
    breaks: watch::Sender<()>,
    used: Mutex<Instant>,
}

impl Listening {
    /// Listens to nothing yet, and has no connection.
    pub fn new(servers: Arc<Servers>, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            servers,
            patience,
            waited: Mutex::default(),
            lines: Mutex::default(),
            is_closed: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
        })
    }

    /// What is said on this channel, which belongs to this bucket.
    pub fn hints(self: &Arc<Self>, bucket: u8, channel: String) -> Hints {
        let mut waited = self.waited();
        if let Some(told) = waited.get(&channel) {
            let mut hints = told.subscribe();
            hints.mark_changed();
            return hints;
        }
        let (told, hints) = watch::channel(());
        waited.insert(channel.clone(), told.clone());
        tokio::spawn(Arc::clone(self).attend(bucket, channel, told));
        hints
    }

    /// Lets go of all connections.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.waited().clear();
        let lines = std::mem::take(&mut *self.lines());
        lines.values().for_each(|line| line.node.disconnect());
    }

    /// Keeps up the subscription for as long as somebody waits.
    async fn attend(self: Arc<Self>, bucket: u8, channel: String, told: watch::Sender<()>) {
        let mut pause = FIRST_PAUSE;
        while !self.is_closed.load(Ordering::Acquire) {
            let subscribed = self.subscribe(bucket, &channel).await;
            match &subscribed {
                Ok((_, breaks)) => {
                    pause = FIRST_PAUSE;
                    // What was settled before is not missed.
                    told.send_replace(());
                    let mut breaks = breaks.clone();
                    tokio::select! {
                        () = told.closed() => {}
                        _ = breaks.changed() => {}
                    }
                }
                // For want of a right, or of the command itself: that does not pass.
                Err(CallError::Refused { code, text }) if matches!(&**code, "NOPERM" | "ERR") => {
                    self.warn_of_refusal(code, text);
                    told.closed().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "no hints from the store");
                    tokio::select! {
                        () = told.closed() => {}
                        () = sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            if self.left(&channel, &told) {
                if let Ok((line, _)) = subscribed {
                    let mut command = cmd("SUNSUBSCRIBE");
                    command.arg(&channel);
                    let _ = timeout(self.patience, line.node.call(&command)).await;
                }
                return;
            }
        }
    }

    async fn subscribe(
        self: &Arc<Self>,
        bucket: u8,
        channel: &str,
    ) -> Result<(Arc<Line>, watch::Receiver<()>), CallError> {
        let mut command = cmd("SSUBSCRIBE");
        command.arg(channel);
        let mut last = CallError::NotSent("no server was asked".to_owned());
        for _ in 0..TRIES {
            let way = self.servers.way(bucket).await?;
            let line = self.line(way.node());
            // Before it is sent: whatever breaks from now on is noticed.
            let breaks = line.breaks.subscribe();
            let late = || CallError::Unanswered("no answer in time".to_owned());
            let answer = timeout(self.patience, line.node.call(&command)).await;
            let Err(error) = answer.unwrap_or_else(|_| Err(late())) else {
                return Ok((line, breaks));
            };
            let next = match &error {
                // The connection broke while nobody looked; the next call makes another one.
                CallError::Unanswered(_) => Next::Again,
                error => self.servers.follow(bucket, &way, error).await,
            };
            last = error;
            if matches!(next, Next::Stop) {
                break;
            }
        }
        Err(last)
    }

    /// The line to the server that calls go to.
    fn line(self: &Arc<Self>, server: &Node) -> Arc<Line> {
        let mut lines = self.lines();
        let now = Instant::now();
        if let Some(line) = lines.get(&server.address) {
            *line.used() = now;
            return Arc::clone(line);
        }
        lines.retain(|_, line| Arc::strong_count(line) > 1 || now - *line.used() < IDLE);
        let breaks = watch::Sender::new(());
        let (listening, broken) = (Arc::downgrade(self), breaks.clone());
        let line = Arc::new(Line {
            node: server.listening(Arc::new(move |push| said(&listening, &broken, &push))),
            breaks,
            used: Mutex::new(now),
        });
        lines.insert(server.address.clone(), Arc::clone(&line));
        line
    }

    /// Whether nobody waits any more; then the channel is forgotten.
    fn left(&self, channel: &str, told: &watch::Sender<()>) -> bool {
        let mut waited = self.waited();
        let left = told.receiver_count() == 0;
        if left {
            waited.remove(channel);
        }
        left
    }

    fn warn_of_refusal(&self, code: &str, text: &str) {
        if !self.was_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = format!("{code} {text}"),
                "the store refuses subscriptions: duplicates that wait for another gateway's answer learn of it by \
                 asking once a second",
            );
        }
    }

    fn waited(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        // Nothing panics while it is held; the same for the others.
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Endpoint, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server said something unasked.
fn said(listening: &Weak<Listening>, broken: &watch::Sender<()>, push: &PushInfo) {
    let Some(listening) = listening.upgrade() else {
        return;
    };
    let waited = listening.waited();
    let told = match push.data.first() {
        Some(Value::BulkString(channel)) => std::str::from_utf8(channel)
            .ok()
            .and_then(|channel| waited.get(channel)),
        _ => None,
    };
    match (&push.kind, told) {
        (PushKind::SMessage, Some(told)) => {
            told.send_replace(());
        }
        // The channel has moved to another server.
        (PushKind::SUnsubscribe, Some(_)) | (PushKind::Disconnection, _) => {
            broken.send_replace(());
        }
        _ => {}
    }
}
