//! What a connection's bytes come through: a TCP or Unix socket, perhaps with TLS above.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;

/// What is read ahead at first, in bytes: a PROXY header, or a TLS client's first words.
const FIRST_READ: usize = 4096;

/// A socket as it was accepted.
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket, with bytes in front that were read ahead.
pub(super) struct Raw {
    ahead: Bytes,
    socket: Transport,
    /// Hears whether the client takes what it is sent; from when HTTP begins.
    activity: Option<Arc<Activity>>,
}

/// What HTTP is spoken over.
pub(super) enum Stream {
    Plain(Raw),
    Tls(Box<TlsStream<Raw>>),
}

impl Raw {
    pub(super) fn new(socket: Transport) -> Self {
        if let Transport::Tcp(socket) = &socket {
            // Without it a small response may wait for the acknowledgement of the one before.
            socket.set_nodelay(true).ok();
        }
        Self {
            ahead: Bytes::new(),
            socket,
            activity: None,
        }
    }

    /// Reads ahead until there is something, and returns whether there is: the client may have left.
    pub(super) async fn look_ahead(&mut self) -> io::Result<bool> {
        if self.ahead.is_empty() {
            let mut first = BytesMut::with_capacity(FIRST_READ);
            self.read_buf(&mut first).await?;
            self.ahead = first.freeze();
        }
        Ok(!self.ahead.is_empty())
    }

    /// Puts bytes back that were read too far.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Some(activity) = &self.activity {
            match &written {
                Poll::Pending => activity.stuck(),
                Poll::Ready(taken) => activity.unstuck(*taken.as_ref().unwrap_or(&0)),
            }
        }
        written
    }
}

impl Stream {
    /// From now on this hears whether the client takes what it is sent. Under TLS it hears it of the socket: what is
    /// encrypted and waits in memory has not been taken.
    pub(super) fn watch(&mut self, activity: Arc<Activity>) {
        self.raw_mut().activity = Some(activity);
    }

    /// Closing is to reset the connection. Unix sockets cannot be reset; their client reads an end.
    pub(super) fn break_off(&self) {
        let raw = match self {
            Self::Plain(raw) => raw,
            Self::Tls(tls) => tls.get_ref().0,
        };
        if let Transport::Tcp(socket) = &raw.socket {
            // The client has gone where this fails.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    fn raw_mut(&mut self) -> &mut Raw {
        match self {
            Self::Plain(raw) => raw,
            Self::Tls(tls) => tls.get_mut().0,
        }
    }
}

/// Calls a method of whichever variant there is, pinned.
macro_rules! either {
    ($enum:expr, $one:path | $other:path, $inner:ident => $call:expr) => {
        match $enum {
            $one($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            $other($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
        }
    };
}

impl AsyncRead for Raw {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            if self.ahead.is_empty() {
                // What is left of it would keep its buffer for as long as the connection lives.
                self.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        either!(&mut self.socket, Transport::Tcp | Transport::Unix, socket => socket.poll_read(cx, buf))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = either!(
            &mut self.socket, Transport::Tcp | Transport::Unix, socket => socket.poll_write(cx, bytes)
        );
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(
            &mut self.socket, Transport::Tcp | Transport::Unix, socket => socket.poll_write_vectored(cx, slices)
        );
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.socket, Transport::Tcp | Transport::Unix, socket => socket.poll_shutdown(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::Plain | Self::Tls, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), Self::Plain | Self::Tls, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(
            self.get_mut(), Self::Plain | Self::Tls, stream => stream.poll_write_vectored(cx, slices)
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::Plain | Self::Tls, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::Plain | Self::Tls, stream => stream.poll_shutdown(cx))
    }
}
