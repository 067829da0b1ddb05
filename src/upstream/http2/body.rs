//! Bodies on streams.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::AbortHandle;

use super::{Place, Shared, head};
use crate::process;

type BoxError = Box<dyn Error + Send + Sync>;
type Streaming = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// The body of a response, given to its reader as fast as that one takes it.
pub(in crate::upstream) struct Received {
    stream: RecvStream,
    /// Bytes to come, where their number was announced.
    left: Option<u64>,
    shared: Arc<Shared>,
}

impl Received {
    pub(super) fn new(stream: RecvStream, left: Option<u64>, shared: Arc<Shared>) -> Self {
        Self {
            stream,
            left,
            shared,
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    /// h2 sees to it that there is as much as was announced, and that a stream which is reset before its end is no whole
    /// one.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(piece) = ready!(self.stream.poll_data(cx)) {
            return Poll::Ready(Some(piece.map(|piece| {
                self.shared.answered();
                self.left = self
                    .left
                    .map(|left| left.saturating_sub(piece.len() as u64));
                // An error is that of a stream that has ended, and needs no more room.
                let _ = self.stream.flow_control().release_capacity(piece.len());
                Frame::data(piece)
            })));
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(
            trailers
                .map(|trailers| trailers.map(Frame::trailers))
                .transpose(),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

/// The sending of a body that passes through. Dropped, it ends, and the stream with it.
pub(super) struct Pump {
    task: AbortHandle,
    has_failed: Arc<AtomicBool>,
}

impl Pump {
    /// Whether the body broke off, or was not as long as announced.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends a body, of as many bytes as were announced, as the windows open. `place`: of its stream, which lasts as long.
pub(super) fn pump(
    body: Streaming,
    mut stream: SendStream<Bytes>,
    announced: Option<u64>,
    place: Arc<Place>,
) -> Pump {
    let has_failed = Arc::new(AtomicBool::new(false));
    let failed = Arc::clone(&has_failed);
    let work = async move {
        if feed(body, &mut stream, announced).await.is_err() {
            failed.store(true, Ordering::Release);
            stream.send_reset(Reason::CANCEL);
        }
        drop(stream);
        drop(place);
    };
    Pump {
        task: tokio::spawn(process::task(work)).abort_handle(),
        has_failed,
    }
}

/// The body broke off, or has another length than the one that was announced.
struct Broken;

async fn feed(
    mut body: Streaming,
    stream: &mut SendStream<Bytes>,
    announced: Option<u64>,
) -> Result<(), Broken> {
    let mut left = announced;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // The stream is over: the response says why.
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
        };
        let frame = frame.transpose().map_err(|_| Broken)?;
        let Some(frame) = frame else {
            if left.is_some_and(|left| left > 0) {
                return Err(Broken);
            }
            let _ = stream.send_data(Bytes::new(), true);
            return Ok(());
        };
        match frame.into_data() {
            Ok(piece) => {
                if let Some(left) = &mut left {
                    *left = left.checked_sub(piece.len() as u64).ok_or(Broken)?;
                }
                let is_last = body.is_end_stream() && left.is_none_or(|left| left == 0);
                if !send(piece, stream, is_last).await || is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if left.is_some_and(|left| left > 0) {
                    return Err(Broken);
                }
                let Ok(mut trailers) = frame.into_trailers() else {
                    continue;
                };
                head::remove_connection_specific(&mut trailers);
                let _ = stream.send_trailers(trailers);
                return Ok(());
            }
        }
    }
}

/// Sends a piece as the windows open; false where the stream is over.
async fn send(mut piece: Bytes, stream: &mut SendStream<Bytes>, is_last: bool) -> bool {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return false;
        };
        let part = piece.split_to(room.min(piece.len()));
        let is_end = is_last && piece.is_empty();
        if stream.send_data(part, is_end).is_err() {
            return false;
        }
        if is_end {
            return true;
        }
    }
    !is_last || stream.send_data(Bytes::new(), true).is_ok()
}
