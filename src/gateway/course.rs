//! What an attempt sees of its dispatch, for the one who may have to settle it. Nothing is decided by it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::protocol::Sent;
use crate::upstream::{AnswerBroken, Gate, InBody};

/// What was seen so far.
pub struct Course {
    claimed: Instant,
    /// 0 before the head of an answer.
    status: AtomicU16,
    bytes: AtomicU64,
}

impl Course {
    /// Of an attempt that has asked for its claim at this moment.
    #[must_use]
    pub fn begin(claimed: Instant) -> Arc<Self> {
        Arc::new(Self {
            claimed,
            status: AtomicU16::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// The head of an answer has come.
    pub fn head(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
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
