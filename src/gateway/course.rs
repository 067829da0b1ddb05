//! What an attempt sees of its dispatch, for the one who may have to settle it. Nothing is decided by it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::protocol::{Sent, TraceRef};
use crate::telemetry::spans::{self, Branch, DispatchSpan};
use crate::upstream::{AnswerBroken, Gate, InBody};

/// What was seen so far.
pub struct Course {
    claimed: Instant,
    /// 0 before the head of an answer.
    status: AtomicU16,
    bytes: AtomicU64,
    branch: Branch,
    span: OnceLock<DispatchSpan>,
}

impl Course {
    /// Of an attempt that has asked for its claim at this moment; its dispatch's span is to be on this branch.
    #[must_use]
    pub fn begin(claimed: Instant, branch: Branch) -> Arc<Self> {
        Arc::new(Self {
            claimed,
            status: AtomicU16::new(0),
            bytes: AtomicU64::new(0),
            branch,
            span: OnceLock::new(),
        })
    }

    /// The request is dispatched with these headers; says as which span.
    pub fn dispatched(&self, headers: &mut HeaderMap, sent: spans::Sent<'_>) -> Option<TraceRef> {
        let span = || self.branch.dispatch(headers, sent);
        self.span.get_or_init(span).at()
    }

    /// The dispatch's span, where there is one by now.
    #[must_use]
    pub fn span(&self) -> Option<&DispatchSpan> {
        self.span.get()
    }

    /// The head of an answer has come, from this address.
    pub fn head(&self, status: StatusCode, endpoint: Option<SocketAddr>) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
        if let Some(span) = self.span.get() {
            span.answered(spans::Answered { status, endpoint });
        }
    }

    /// Nothing more comes; what was wrong, if anything was. An answer that is not held to its end is over with the
    /// attempt.
    pub fn ended(&self, wrong: Option<&'static str>) {
        if let Some(span) = self.span.get() {
            if let Some(wrong) = wrong {
                span.failed(wrong);
            }
            span.end();
        }
    }

    /// What was seen by now; `gate` is the one that the request went through.
    #[must_use]
    pub fn sent(&self, gate: &Gate) -> Sent {
        let status = self.status.load(Ordering::Relaxed);
        let written = gate.written_at();
        Sent {
            written_after: written.map(|at| at.saturating_duration_since(self.claimed)),
            status: (status > 0).then_some(status),
            bytes_seen: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// An answer's body whose bytes are counted as they come.
pub struct Followed<'a> {
    /// The body.
    pub body: &'a mut InBody,
    /// What counts them.
    pub course: &'a Course,
}

impl HttpBody for Followed<'_> {
    type Data = Bytes;
    type Error = AnswerBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerBroken>>> {
        let frame = ready!(Pin::new(&mut *self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, |piece| piece.len() as u64);
            self.course.bytes.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
