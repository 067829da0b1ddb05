//! The body of a client's request.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limit;
use super::activity::{Activity, Half};
use super::rate::{Allowance, LeastRate};
use super::trailers;
use super::wire::{Fault, Findings};

/// The body of a client's request. It fails where the client sends nothing for `body_idle` while somebody waits, or less
/// than `min_receive_rate`.
///
/// Polling it for the first time asks the client for it, where that expects `100 Continue`. Dropped before its
/// end, it makes the connection close after the response.
pub struct RequestBody {
    incoming: Incoming,
    idle: Duration,
    /// Made when the body first keeps somebody waiting.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when somebody waits.
    waiting_since: Option<Instant>,
    /// What the client has left of the time that it may take.
    sending: Option<Allowance>,
    activity: Arc<Activity>,
    /// Gone once the end was read.
    half: Option<Half>,
    verdict: BodyVerdict,
}

/// How long a body may keep somebody waiting.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// `body_idle`
    pub(super) idle: Duration,
    /// `min_receive_rate`
    pub(super) least: Option<LeastRate>,
}

/// Says what is wrong with a body that has failed.
#[derive(Clone)]
pub struct BodyVerdict(Judge);

#[derive(Clone)]
enum Judge {
    /// Over HTTP/1 it was found on the wire.
    Wire(Arc<Findings>),
    /// Over HTTP/2 the body itself finds what is wrong with its trailers.
    Body(Arc<OnceLock<Fault>>),
    /// There is no body.
    Nobody,
}

impl BodyVerdict {
    /// The rule that the body breaks, where it was not only cut off.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match &self.0 {
            Judge::Wire(findings) => findings.body_fault(),
            Judge::Body(fault) => fault.get().copied(),
            Judge::Nobody => None,
        }
    }
}

/// A client's request body has failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The client sent nothing for `body_idle`, or less than `min_receive_rate`.
    #[error("the client's body has stalled")]
    Stalled,
    /// The client has gone, or sent what is no body.
    #[error("the client's body has failed")]
    Failed(#[source] hyper::Error),
    /// Behind it the client says what is not to be said there.
    #[error("the client's trailers are refused")]
    Trailers(#[source] Fault),
}

impl RequestBody {
    pub(super) fn new(
        incoming: Incoming,
        patience: Patience,
        activity: Arc<Activity>,
        half: Option<Half>,
        findings: Option<Arc<Findings>>,
    ) -> Self {
        let judge = match findings {
            Some(findings) => Judge::Wire(findings),
            None if half.is_some() => Judge::Body(Arc::default()),
            None => Judge::Nobody,
        };
        Self {
            incoming,
            idle: patience.idle,
            timer: None,
            waiting_since: None,
            sending: patience.least.map(Allowance::new),
            activity,
            half,
            verdict: BodyVerdict(judge),
        }
    }

    /// A body of a connection that nothing watches.
    #[cfg(test)]
    pub(crate) fn unwatched(incoming: Incoming) -> Self {
        let activity = Activity::new(false, None, Arc::default());
        let patience = Patience {
            idle: Duration::from_secs(30),
            least: None,
        };
        Self::new(incoming, patience, activity, None, None)
    }

    /// What will know, once the body has failed, why; also when the body is gone.
    #[must_use]
    pub fn verdict(&self) -> BodyVerdict {
        self.verdict.clone()
    }

    /// Waits until the client has kept somebody waiting for too long, and says by which limit.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Limit> {
        let (patience, limit) = match self.sending.as_ref().map(Allowance::left) {
            Some(left) if left < self.idle => (left, Limit::MinReceiveRate),
            _ => (self.idle, Limit::BodyIdle),
        };
        let is_new = self.waiting_since.is_none();
        let end = *self.waiting_since.get_or_insert_with(Instant::now) + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if is_new {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(cx).map(|()| limit)
    }

    /// So many bytes have come.
    fn came(&mut self, bytes: usize) {
        let since = self.waiting_since.take();
        if let Some(sending) = &self.sending {
            let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
            sending.moved(bytes, waited);
        }
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
            let limit = ready!(this.poll_over(cx));
            this.activity.body_over(limit);
            return Poll::Ready(Some(Err(RequestBodyError::Stalled)));
        };
        let data = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref());
        this.came(data.map_or(0, Bytes::len));
        if frame.is_none() || this.incoming.is_end_stream() {
            this.half = None;
        }
        if let (Judge::Body(verdict), Some(Ok(frame))) = (&this.verdict.0, &frame)
            && let Some(fault) = frame.trailers_ref().and_then(trailers::fault)
        {
            let _ = verdict.set(fault);
            return Poll::Ready(Some(Err(RequestBodyError::Trailers(fault))));
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
