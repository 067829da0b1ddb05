//! A socket that two have a hold of: a protocol's connection owns it, reads and writes, and those whose requests go by it
//! look at it and close it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket::Socket;

/// A socket, with what is noted of it as bytes come and go.
pub(super) trait Watch: Send + 'static {
    /// Gone once either side has closed the connection; the file descriptor goes with it.
    fn socket(&mut self) -> &mut Option<Socket>;

    /// These bytes have come.
    ///
    /// # Errors
    /// What is wrong with them.
    fn came(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Lets `write` give bytes to the socket, or does not.
    fn poll_write(
        &mut self,
        write: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>>;

    /// The connection has no bytes left to write; under TLS the kernel may not have them all by then.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The socket, where it is still there.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotConnected`] where it is gone.
    fn open(&mut self) -> io::Result<Pin<&mut Socket>> {
        let socket = self.socket().as_mut().map(Pin::new);
        socket.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The hold of those who look; clones have a hold of the same socket.
pub(super) struct Watched<W>(Arc<Mutex<W>>);

/// The connection's own hold. Dropping it closes the socket.
pub(super) struct Owned<W: Watch>(Watched<W>);

impl<W: Watch> Watched<W> {
    pub(super) fn new(watch: W) -> (Self, Owned<W>) {
        let watched = Self(Arc::new(Mutex::new(watch)));
        (watched.clone(), Owned(watched))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, W> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Clone for Watched<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Watch> AsyncRead for Owned<W> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.state();
        let before = buf.filled().len();
        ready!(state.open()?.poll_read(cx, buf))?;
        Poll::Ready(state.came(&buf.filled()[before..]))
    }
}

impl<W: Watch> AsyncWrite for Owned<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.state();
        state.poll_write(|socket| socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.state();
        state.poll_write(|socket| socket.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.state().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.state().open()?.poll_shutdown(cx)
    }
}

impl<W: Watch> Drop for Owned<W> {
    fn drop(&mut self) {
        *self.0.state().socket() = None;
    }
}
