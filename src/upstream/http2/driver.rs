//! The task of a connection: it gives requests to h2, moves bytes, and notices where the upstream is gone.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::mpsc;
use tokio::task::coop::has_budget_remaining;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::exchange::Job;
use super::line::LineIo;
use super::{Liveness, MAX_STREAMS, Shared};
use crate::upstream::SendErrorKind;
use crate::upstream::stats::OpenConnection;

/// PINGs that an upstream answers without answering a request, before it is asked less often: servers of gRPC hang up on
/// whoever sends more than three without being sent anything.
const PINGS_IN_A_ROW: u32 = 3;

/// How often it is asked then; the least that servers of gRPC put up with.
const PING_SPARINGLY: Duration = Duration::from_secs(5 * 60 + 1);

/// How long a connection that is no longer needed may take to end: its upstream need not read.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Times that news are read before a request is given to h2 all the same: on a busy connection there are always some.
const MAX_LOOKS: u32 = 3;

type Queue = mpsc::Receiver<Box<Job>>;

/// Works for a connection until it has ended.
pub(super) async fn run(
    sender: SendRequest<Bytes>,
    mut connection: Connection<LineIo, Bytes>,
    queue: Queue,
    shared: Arc<Shared>,
    liveness: Liveness,
    _open: OpenConnection,
) {
    let pings = connection.ping_pong();
    let mut driver = Driver {
        connection,
        sender: Some(sender),
        queue,
        shared: Arc::clone(&shared),
        looks: 0,
    };
    tokio::select! {
        () = poll_fn(|cx| driver.poll(cx)) => {}
        () = watch(pings, &shared, liveness) => {}
    }
    driver.close();
}

struct Driver {
    connection: Connection<LineIo, Bytes>,
    /// Gone once there are no more requests.
    sender: Option<SendRequest<Bytes>>,
    queue: Queue,
    shared: Arc<Shared>,
    /// Times that there were news before the next request.
    looks: u32,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.task.register(cx.waker());
        loop {
            // First of all, and again after each request: what can be written is, and what came is known.
            if Pin::new(&mut self.connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(sender) = &mut self.sender else {
                return Poll::Pending;
            };
            let allowed = sender.current_max_send_streams();
            self.shared.allow(allowed.min(MAX_STREAMS));
            match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                // The upstream says goodbye, or there are no more numbers for streams.
                Poll::Ready(Err(_)) => {
                    self.close();
                    continue;
                }
                Poll::Pending => return Poll::Pending,
            }
            // What is given to h2 now would wait there, with its gate open behind it.
            if self.shared.line.is_clogged() || self.shared.usage().begun >= allowed {
                return Poll::Pending;
            }
            if !has_budget_remaining() {
                return wait_for_the_reactor(cx);
            }
            if !self.queue.is_empty() && self.looks < MAX_LOOKS && self.shared.line.has_news() {
                // It may be the end, or a goodbye, of which this runtime has not been told yet.
                self.looks += 1;
                return wait_for_the_reactor(cx);
            }
            match self.queue.poll_recv(cx) {
                Poll::Ready(Some(job)) => {
                    self.looks = 0;
                    job.begin(sender, &self.shared);
                }
                Poll::Ready(None) => self.close(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes no more requests, and gives back those that wait.
    fn close(&mut self) {
        self.sender = None;
        self.shared.leave();
        self.queue.close();
        while let Ok(job) = self.queue.try_recv() {
            job.give_back(SendErrorKind::ConnectionLost);
        }
    }
}

/// Wakes the task after the others' turns, once the runtime has asked the kernel what there is to read.
fn wait_for_the_reactor(cx: &mut Context<'_>) -> Poll<()> {
    let _ = pin!(yield_now()).poll(cx);
    Poll::Pending
}

impl Shared {
    /// The upstream allows so many streams.
    fn allow(&self, limit: usize) {
        let mut usage = self.usage();
        if usage.limit == limit {
            return;
        }
        usage.limit = limit;
        drop(usage);
        self.freed.notify_waiters();
    }

    fn is_in_use(&self) -> bool {
        self.usage().taken > 0
    }
}

/// Returns when the upstream is taken for dead, or takes too long to say goodbye.
async fn watch(mut pings: Option<PingPong>, shared: &Shared, liveness: Liveness) {
    let mut heard = None;
    let (mut answers, mut in_a_row) = (0, 0);
    let mut last_ping = Instant::now();
    loop {
        sleep(liveness.quiet).await;
        if !shared.is_in_use() {
            heard = None;
            if shared.is_leaving.load(Ordering::Acquire) {
                return sleep(END_WITHIN).await;
            }
            continue;
        }
        let by_now = Some(shared.line.heard());
        if heard != by_now {
            heard = by_now;
            continue;
        }
        let answers_by_now = shared.answers.load(Ordering::Relaxed);
        if answers != answers_by_now {
            (answers, in_a_row) = (answers_by_now, 0);
        }
        if in_a_row >= PINGS_IN_A_ROW && last_ping.elapsed() < PING_SPARINGLY {
            continue;
        }
        (in_a_row, last_ping) = (in_a_row + 1, Instant::now());
        let Some(pings) = &mut pings else {
            return;
        };
        let mut pong = pin!(pings.ping(Ping::opaque()));
        let mut answer = timeout(liveness.doubt, &mut pong).await;
        if answer.is_err() {
            shared.is_doubtful.store(true, Ordering::Relaxed);
            shared.freed.notify_waiters();
            answer = timeout(liveness.give_up, &mut pong).await;
        }
        if !matches!(answer, Ok(Ok(_))) {
            return;
        }
        shared.is_doubtful.store(false, Ordering::Relaxed);
        shared.freed.notify_waiters();
        heard = Some(shared.line.heard());
    }
}
