//! The socket under a connection of many streams: it counts what the kernel, or TLS, has taken, and can be shut while a
//! count holds.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;

use crate::upstream::socket::{Heard, Socket};

/// One socket, seen from both sides: h2 reads and writes it ([`LineIo`]), the streams look at it and shut it.
pub(super) struct Line(Mutex<State>);

struct State {
    /// Gone once either side has shut the line; the file descriptor goes with it.
    socket: Option<Socket>,
    /// Bytes that were taken.
    taken: u64,
    /// Bytes that came.
    heard: u64,
    /// Whether the socket takes no more for now. That it is another task's turn is no word of the socket's.
    is_clogged: bool,
}

impl Line {
    pub(super) fn new(socket: Socket) -> (Arc<Self>, LineIo) {
        let line = Arc::new(Self(Mutex::new(State {
            socket: Some(socket),
            taken: 0,
            heard: 0,
            is_clogged: false,
        })));
        (Arc::clone(&line), LineIo(line))
    }

    /// Bytes that were given to the socket so far.
    pub(super) fn taken(&self) -> u64 {
        self.state().taken
    }

    /// Bytes that came so far.
    pub(super) fn heard(&self) -> u64 {
        self.state().heard
    }

    /// Whether bytes wait for room in the socket.
    pub(super) fn is_clogged(&self) -> bool {
        self.state().is_clogged
    }

    /// Whether there is something to read, or the end, as the kernel knows it now: one system call that does not block.
    pub(super) fn has_news(&self) -> bool {
        let mut state = self.state();
        let socket = state.socket.as_mut();
        socket.is_none_or(|socket| socket.listen(true) != Heard::Nothing)
    }

    /// Shuts the line for good if no byte was given to the socket since it had taken `mark`, and says whether that is so.
    pub(super) fn shut_unless_taken_since(&self, mark: u64) -> bool {
        let mut state = self.state();
        let is_untouched = state.taken == mark;
        if is_untouched {
            state.socket = None;
        }
        is_untouched
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        let socket = self.socket.as_mut().map(Pin::new);
        socket.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn write(
        &mut self,
        write: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let result = write(self.socket()?);
        self.is_clogged = result.is_pending() && has_budget_remaining();
        let count = ready!(result)?;
        self.taken += count as u64;
        Poll::Ready(Ok(count))
    }
}

/// The side of the line that h2's connection owns. Dropping it closes the socket.
pub(super) struct LineIo(Arc<Line>);

impl AsyncRead for LineIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.state();
        let before = buf.filled().len();
        ready!(state.socket()?.poll_read(cx, buf))?;
        state.heard += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LineIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.state().write(|socket| socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0
            .state()
            .write(|socket| socket.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// h2 flushes when it has no bytes left to write; under TLS the kernel may not have them all by then.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state();
        let result = state.socket()?.poll_flush(cx);
        state.is_clogged = result.is_pending() && has_budget_remaining();
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.state().socket()?.poll_shutdown(cx)
    }
}

impl Drop for LineIo {
    fn drop(&mut self) {
        self.0.state().socket = None;
    }
}
