//! The socket under a connection of many streams: it counts what the kernel, or TLS, has taken, and can be shut while a
//! count holds.

use std::io;
use std::pin::Pin;
use std::sync::MutexGuard;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::task::coop::has_budget_remaining;

use crate::upstream::socket::{Heard, Socket};
use crate::upstream::watched::{Owned, Watch, Watched};

/// One socket, seen from both sides: h2's connection owns it ([`LineIo`]), the streams look at it and shut it.
pub(super) struct Line(Watched<State>);

/// The side of the line that h2's connection owns.
pub(super) type LineIo = Owned<State>;

pub(super) struct State {
    socket: Option<Socket>,
    /// Bytes that were taken.
    taken: u64,
    /// Bytes that came.
    heard: u64,
    /// Whether the socket takes no more for now. That it is another task's turn is no word of the socket's.
    is_clogged: bool,
}

impl Line {
    pub(super) fn new(socket: Socket) -> (Self, LineIo) {
        let (watched, io) = Watched::new(State {
            socket: Some(socket),
            taken: 0,
            heard: 0,
            is_clogged: false,
        });
        (Self(watched), io)
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
        self.0.state()
    }
}

impl Watch for State {
    fn socket(&mut self) -> &mut Option<Socket> {
        &mut self.socket
    }

    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.heard += bytes.len() as u64;
        Ok(())
    }

    fn poll_write(
        &mut self,
        write: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let result = write(self.open()?);
        self.is_clogged = result.is_pending() && has_budget_remaining();
        let count = ready!(result)?;
        self.taken += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.open()?.poll_flush(cx);
        self.is_clogged = result.is_pending() && has_budget_remaining();
        result
    }
}
