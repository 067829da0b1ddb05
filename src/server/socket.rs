//! A client's socket as hyper sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// How long, and for how many bytes, a connection that was answered early is still read before it is closed.
/// Closing with unread bytes resets it, and the client may lose the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// The socket, with the bytes in front that were read to tell the protocol by.
pub(super) struct Socket {
    first: Bytes,
    stream: TcpStream,
    activity: Arc<Activity>,
    end: End,
}

/// How far closing has come.
enum End {
    Open,
    Lingering { until: Pin<Box<Sleep>>, left: usize },
    Done,
}

impl Socket {
    pub(super) fn new(first: Bytes, stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self {
            first,
            stream,
            activity,
            end: End::Open,
        }
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.activity.stuck(),
            Poll::Ready(_) => self.activity.unstuck(),
        }
        written
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.activity.is_broken_off() {
            // The client has gone where this fails.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.end {
                End::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    this.end = if this.activity.has_unread() {
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
fn poll_discard(stream: &mut TcpStream, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
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
