//! A client's connection as hyper sees it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use super::frames::Frames;
use super::pieces::Pieces;
use super::stream::Stream;
use super::wire::Wire;

/// How long, and for how many bytes, a connection that was answered early is still read before it is closed.
/// Closing with unread bytes resets it, and the client may lose the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// The socket, with the bytes in front that were read to tell the protocol by.
pub(super) struct Socket {
    input: Input,
    stream: Stream,
    activity: Arc<Activity>,
    end: End,
}

/// What hyper reads.
pub(super) enum Input {
    /// HTTP/1, as far as it is found good.
    Http1(Wire),
    /// What the socket gives, behind the first bytes: h2 is strict enough. How much of it carries nothing is counted,
    /// and small pieces of bodies are joined.
    Http2(Bytes, Frames, Pieces),
}

impl Input {
    /// The client was given these, and may have taken some.
    fn sent(&mut self, slices: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        if let (Self::Http2(_, frames, _), Poll::Ready(Ok(count))) = (self, written) {
            frames.sent(slices, *count);
        }
    }
}

/// How far closing has come.
enum End {
    Open,
    Lingering { until: Pin<Box<Sleep>>, left: usize },
    Done,
}

impl Socket {
    pub(super) fn new(input: Input, mut stream: Stream, activity: Arc<Activity>) -> Self {
        stream.watch(Arc::clone(&activity));
        Self {
            input,
            stream,
            activity,
            end: End::Open,
        }
    }

    /// Whether the client may still be sending something that nobody will read.
    fn has_unread(&self) -> bool {
        let is_refused = matches!(&self.input, Input::Http1(wire) if wire.is_over());
        is_refused || self.activity.has_unread()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.activity.is_broken_off() {
            self.stream.break_off();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (stream, activity) = (&mut this.stream, &this.activity);
        match &mut this.input {
            Input::Http1(wire) => {
                wire.poll_read(cx, buf, |cx, buf| poll_stream(stream, activity, cx, buf))
            }
            Input::Http2(first, frames, pieces) => {
                let before = buf.filled().len();
                if first.is_empty() {
                    ready!(poll_stream(stream, activity, cx, buf))?;
                } else {
                    let count = first.len().min(buf.remaining());
                    buf.put_slice(&first[..count]);
                    first.advance(count);
                    if first.is_empty() {
                        // What is left of it would keep its buffer for as long as the connection lives.
                        *first = Bytes::new();
                    }
                }
                let came = frames.came(&buf.filled()[before..], activity.now());
                let left = pieces.join(&mut buf.filled_mut()[before..]);
                buf.set_filled(before + left);
                Poll::Ready(came.map_err(|flood| activity.flooded(flood)))
            }
        }
    }
}

fn poll_stream(
    stream: &mut Stream,
    activity: &Activity,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buf.filled().len();
    ready!(Pin::new(stream).poll_read(cx, buf))?;
    if buf.filled().len() > before {
        activity.bytes_came();
    }
    Poll::Ready(Ok(()))
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.input.sent(&[IoSlice::new(bytes)], &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.input.sent(slices, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.end {
                End::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.end = if this.has_unread() {
                        End::Lingering {
                            until: Box::pin(sleep(LINGER)),
                            left: LINGER_BYTES,
                        }
                    } else {
                        End::Done
                    };
                }
                End::Lingering { until, left } => {
                    if until.as_mut().poll(cx).is_pending() {
                        ready!(poll_discard(&mut this.stream, cx, left));
                    }
                    this.end = End::Done;
                }
                End::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads and forgets until the client has closed its side, something fails or enough was read.
fn poll_discard(stream: &mut Stream, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
    let mut bytes = [0; 4096];
    while *left > 0 {
        let mut buf = ReadBuf::new(&mut bytes);
        let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
        if read.is_err() || buf.filled().is_empty() {
            break;
        }
        *left = left.saturating_sub(buf.filled().len());
    }
    Poll::Ready(())
}
