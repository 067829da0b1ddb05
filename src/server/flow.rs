//! Whether an HTTP/2 client takes its responses, stream by stream.
//!
//! A window that stays shut stops a stream while the socket goes on, for pings at least, so the bytes of bodies
//! note here when they leave. A stream whose bytes stay is reset by aborting its task: hyper waits in there for
//! the window and does not ask the body again.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::task::AbortHandle;

use super::Limit;
use super::activity::{Activity, Mark};
use super::rate::Allowance;

/// Bytes of one response that may still be held when its stream's task ends. From then on the stream cannot be
/// reset any more, so this bounds what it keeps. A response that fits ends with its last bytes; a larger one
/// costs a wake-up and an empty frame more.
const LEFT_BEHIND: usize = 16 * 1024;

/// Flows that are listed before those that have ended are first looked for.
const FIRST_SWEEP: usize = 64;

tokio::task_local! {
    /// Of the stream whose task this is.
    static FLOW: Arc<Flow>;
}

/// Spawns the tasks of a connection's streams, each with a flow.
#[derive(Clone)]
pub(super) struct Streams(Arc<Activity>);

impl Streams {
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        Self(activity)
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let flow = Arc::new(Flow {
            activity: Arc::clone(&self.0),
            held: AtomicUsize::new(0),
            moved: Mark::default(),
            taking: self.0.least_sent().map(Allowance::new),
            has_left: AtomicWaker::new(),
            task: OnceLock::new(),
        });
        let task = tokio::spawn(FLOW.scope(Arc::clone(&flow), stream));
        flow.task.get_or_init(|| task.abort_handle());
        self.0.flows().add(&flow);
    }
}

/// A response's body on its way to an HTTP/2 client. It ends once the client has taken nearly all of it.
pub(super) struct ResponseBody<B> {
    body: B,
    flow: Option<Arc<Flow>>,
    /// Trailers, where the body has ended with them; `None` inside where it just ended.
    end: Option<Option<Frame<Piece>>>,
}

impl<B: Body<Data = Bytes> + Unpin> ResponseBody<B> {
    /// Must be called in a task that [`Streams`] has spawned; elsewhere the body goes untracked.
    pub(super) fn new(body: B) -> Self {
        Self {
            body,
            flow: FLOW.try_with(Arc::clone).ok(),
            end: None,
        }
    }

    /// The response to a HEAD: of a body, only its length is said (RFC 9110, section 9.3.2). Over HTTP/1 hyper sees to
    /// that; here it would send the body, and clients break the stream off.
    pub(super) fn head_alone(mut response: Response<B>) -> Response<Self> {
        let length = response.body().size_hint().exact();
        if let (false, Some(length)) = (response.body().is_end_stream(), length) {
            let headers = response.headers_mut();
            headers.entry(CONTENT_LENGTH).or_insert(length.into());
        }
        response.map(|body| Self {
            end: Some(None),
            ..Self::new(body)
        })
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        // hyper would not have asked a body any more that says so.
        if self.body.is_end_stream() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let piece = |bytes| Piece::new(bytes, self.flow.clone());
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn has_left(&self) -> bool {
        self.flow.as_ref().is_none_or(|flow| flow.has_left())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ResponseBody<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = &mut *self;
        if this.end.is_none() {
            match ready!(this.poll_inner(cx)) {
                Some(Ok(frame)) if frame.is_trailers() => this.end = Some(Some(frame)),
                None => this.end = Some(None),
                more => return Poll::Ready(more),
            }
        }
        if let Some(flow) = &this.flow {
            ready!(flow.poll_left(cx));
        }
        Poll::Ready(this.end.as_mut().and_then(Option::take).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        // Trailers that wait are not over.
        let is_over = match &self.end {
            Some(trailers) => trailers.is_none(),
            None => self.body.is_end_stream(),
        };
        is_over && self.has_left()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of a body that tell when they leave.
pub(super) struct Piece {
    bytes: Bytes,
    flow: Option<Arc<Flow>>,
}

impl Piece {
    fn new(bytes: Bytes, flow: Option<Arc<Flow>>) -> Self {
        if let Some(flow) = &flow {
            flow.hold(bytes.len());
        }
        Self { bytes, flow }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(flow) = &self.flow {
            flow.take(count);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(flow) = &self.flow {
            flow.leave(self.bytes.len());
        }
    }
}

/// What of one response is held for the client, by hyper and h2.
struct Flow {
    activity: Arc<Activity>,
    /// In bytes.
    held: AtomicUsize,
    /// When some was last taken, or the first of it was given, by [`Activity::open_for`].
    moved: Mark,
    /// What the client has left of the time that it may take for it.
    taking: Option<Allowance>,
    /// Who waits for [`Flow::has_left`].
    has_left: AtomicWaker,
    task: OnceLock<AbortHandle>,
}

impl Flow {
    fn hold(&self, count: usize) {
        // Only this adds, and one body calls it, so that a judge who sees bytes also sees since when.
        if self.held.load(Ordering::Relaxed) == 0 {
            self.moved.set(self.activity.open_for());
        }
        self.held.fetch_add(count, Ordering::Release);
    }

    /// The client, or its socket at least, has taken some.
    fn take(&self, count: usize) {
        if let (Some(taking), Some(since)) = (&self.taking, self.moved.get()) {
            let waited = self.activity.open_for().saturating_sub(since);
            taking.moved(count, Duration::from_millis(waited));
        }
        self.moved.set(self.activity.open_for());
        self.leave(count);
    }

    fn leave(&self, count: usize) {
        let before = self.held.fetch_sub(count, Ordering::AcqRel);
        if before > LEFT_BEHIND && before - count <= LEFT_BEHIND {
            self.has_left.wake();
        }
    }

    fn has_left(&self) -> bool {
        self.held.load(Ordering::Acquire) <= LEFT_BEHIND
    }

    fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_left() {
            return Poll::Ready(());
        }
        self.has_left.register(cx.waker());
        if self.has_left() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Since when the client takes none of what there is.
    fn stuck_since(&self) -> Option<u64> {
        let is_held = self.held.load(Ordering::Acquire) > 0;
        is_held.then(|| self.moved.get()).flatten()
    }

    /// Whether the stream could still be reset.
    fn reset(&self, limit: Limit) -> bool {
        let Some(task) = self.task.get().filter(|task| !task.is_finished()) else {
            return false;
        };
        task.abort();
        self.activity.body_over(limit);
        // Its bytes go when the connection is next polled.
        self.moved.set(self.activity.open_for());
        true
    }
}

/// The flows of one connection.
#[derive(Default)]
pub(super) struct Flows(Mutex<Listed>);

#[derive(Default)]
struct Listed {
    flows: Vec<Weak<Flow>>,
    /// How many there may be before those that have ended are looked for.
    sweep_at: usize,
}

impl Flows {
    /// The list stays within twice the flows that live, which the protocol's limit on streams bounds.
    fn add(&self, flow: &Arc<Flow>) {
        let mut listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.flows.len() >= listed.sweep_at {
            listed.flows.retain(|flow| flow.strong_count() > 0);
            listed.sweep_at = FIRST_SWEEP.max(2 * listed.flows.len());
        }
        listed.flows.push(Arc::downgrade(flow));
    }

    /// Resets the streams that keep us waiting for too long, as `over` says of since when they do and of what their client
    /// has left. Returns the limit that is over for some that cannot be reset any more: all of their response was handed
    /// over, and bytes were left behind.
    pub(super) fn reset_stuck(
        &self,
        mut over: impl FnMut(Option<u64>, Option<&Allowance>) -> Option<Limit>,
    ) -> Option<Limit> {
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_behind = None;
        for flow in listed.flows.iter().filter_map(Weak::upgrade) {
            if let Some(limit) = over(flow.stuck_since(), flow.taking.as_ref())
                && !flow.reset(limit)
            {
                left_behind = Some(limit);
            }
        }
        left_behind
    }
}
