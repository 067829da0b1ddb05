//! The body of a client's request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::{Activity, Half};
use super::wire::{Fault, Findings};

/// The body of a client's request. It fails where the client sends nothing for `body_idle` while somebody waits.
///
/// Polling it for the first time asks the client for it, where that expects `100 Continue`. Dropped before its
/// end, it makes the connection close after the response.
pub struct RequestBody {
    incoming: Incoming,
    idle: Duration,
    /// Made when the body first keeps somebody waiting.
    timer: Option<Pin<Box<Sleep>>>,
    is_waited_for: bool,
    activity: Arc<Activity>,
    /// Gone once the end was read.
    half: Option<Half>,
    /// Over HTTP/1.
    findings: Option<Arc<Findings>>,
}

/// Says what is wrong with a body that has failed.
#[derive(Clone)]
pub struct BodyVerdict(Option<Arc<Findings>>);

impl BodyVerdict {
    /// The rule that the body breaks, where it was not only cut off.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.0.as_ref()?.body_fault()
    }
}

/// A client's request body has failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The client sent nothing for `body_idle`.
    #[error("the client's body has stalled")]
    Stalled,
    /// The client has gone, or sent what is no body.
    #[error("the client's body has failed")]
    Failed(#[source] hyper::Error),
}

impl RequestBody {
    pub(super) fn new(
        incoming: Incoming,
        idle: Duration,
        activity: Arc<Activity>,
        half: Option<Half>,
        findings: Option<Arc<Findings>>,
    ) -> Self {
        Self {
            incoming,
            idle,
            timer: None,
            is_waited_for: false,
            activity,
            half,
            findings,
        }
    }

    /// A body of a connection that nothing watches.
    #[cfg(test)]
    pub(crate) fn unwatched(incoming: Incoming) -> Self {
        let activity = Activity::new(false, Arc::default());
        Self::new(incoming, Duration::from_secs(30), activity, None, None)
    }

    /// What will know, once the body has failed, why; also when the body is gone.
    #[must_use]
    pub fn verdict(&self) -> BodyVerdict {
        BodyVerdict(self.findings.clone())
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + idle)));
        if !self.is_waited_for {
            self.is_waited_for = true;
            timer.as_mut().reset(Instant::now() + idle);
        }
        timer.as_mut().poll(cx)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) else {
            let stalled = this.poll_stalled(cx);
            return stalled.map(|()| {
                this.activity.body_stalled();
                Some(Err(RequestBodyError::Stalled))
            });
        };
        this.is_waited_for = false;
        if frame.is_none() || this.incoming.is_end_stream() {
            this.half = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(RequestBodyError::Failed)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.half.is_some() {
            self.activity.leave_unread();
        }
    }
}
