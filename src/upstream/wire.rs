//! The socket under a connection: before a request's first byte it looks whether the connection is quiet and asks the
//! gate, and it knows, exactly, whether the kernel has taken one. It judges the heads that come back.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::gate::Gate;
use super::head::Heads;
use super::socket::{Heard, Socket};
use super::watched::{Owned, Watch, Watched};

/// One socket, seen from both sides: hyper's connection owns it ([`WireIo`]), the pool looks at it and closes it.
#[derive(Clone)]
pub(super) struct Wire(Watched<State>);

/// The side of the wire that hyper's connection owns.
pub(super) type WireIo = Owned<State>;

pub(super) struct State {
    socket: Option<Socket>,
    request: Progress,
    /// Whether hyper has all of the request's body.
    body_ended: bool,
    /// Where the response's head is.
    heads: Heads,
    /// Whether bytes were written since hyper last said that it has none left.
    unflushed: bool,
}

/// How far the current request has come.
#[derive(Debug)]
enum Progress {
    /// There is none: nothing may be written.
    None,
    /// Its first byte waits for this gate.
    Waiting(Arc<Gate>),
    /// The gate refused it.
    Refused,
    /// The kernel has taken at least one byte.
    Sent,
}

/// What became of the request on a connection that was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// No byte was given to the socket, and none will be.
    Unsent,
    /// The same, because the gate said so.
    Refused,
    /// At least one byte was given to the socket.
    Sent,
}

impl Wire {
    pub(super) fn new(socket: Socket) -> (Self, WireIo) {
        let (watched, io) = Watched::new(State {
            socket: Some(socket),
            request: Progress::None,
            body_ended: false,
            heads: Heads::default(),
            unflushed: false,
        });
        (Self(watched), io)
    }

    /// Makes ready for a request: its first byte will ask `gate`.
    pub(super) fn begin(&self, gate: &Arc<Gate>, has_body: bool) {
        let mut state = self.state();
        state.request = Progress::Waiting(Arc::clone(gate));
        state.body_ended = !has_body;
        state.heads = Heads::begin();
    }

    /// hyper has all of the request's body.
    pub(super) fn body_ended(&self) {
        self.state().body_ended = true;
    }

    /// Whether the socket has taken some of the request.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.state().request, Progress::Sent)
    }

    /// Whether the socket has taken the whole request.
    pub(super) fn has_sent_request(&self) -> bool {
        let state = self.state();
        state.body_ended && !state.unflushed
    }

    /// Makes the connection's end a reset, and ends it.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        if let Some(socket) = &state.socket {
            socket.end_with_reset();
        }
        state.socket = None;
    }

    /// Closes the socket for good and says what became of the request.
    pub(super) fn give_up(&self) -> Fate {
        let mut state = self.state();
        state.socket = None;
        match state.request {
            Progress::None | Progress::Waiting(_) => Fate::Unsent,
            Progress::Refused => Fate::Refused,
            Progress::Sent => Fate::Sent,
        }
    }

    /// Whether the upstream has neither closed the idle connection nor sent anything that nobody asked for.
    ///
    /// `closely`: as the kernel knows it now, which takes one system call that does not block. Otherwise: as far as
    /// the runtime has been told, which takes none.
    pub(super) fn is_quiet(&self, closely: bool) -> bool {
        let mut state = self.state();
        let State {
            socket: Some(socket),
            unflushed: false,
            ..
        } = &mut *state
        else {
            return false;
        };
        socket.listen(closely) == Heard::Nothing
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
        let judged = self.heads.read(bytes);
        judged.map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
    }

    fn poll_write(
        &mut self,
        write: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let result = match &self.request {
            Progress::Sent => write(Pin::new(socket)),
            // Whatever there is to read now is no answer to this request. hyper would take it for one where it cannot
            // write, so it is closed at once.
            Progress::Waiting(gate) => {
                match socket.listen(true) {
                    Heard::Nothing => {}
                    // hyper reads as well as it writes: the rest wakes it.
                    Heard::Part => return Poll::Pending,
                    Heard::Something => {
                        self.socket = None;
                        return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                    }
                }
                let Some(result) = gate.pass(|| write(Pin::new(socket))) else {
                    self.request = Progress::Refused;
                    self.socket = None;
                    return Poll::Ready(Err(refusal()));
                };
                match result {
                    Poll::Ready(Ok(1..)) => self.request = Progress::Sent,
                    // What TLS has made of it and not been rid of must not go later.
                    Poll::Ready(Err(_)) => self.socket = None,
                    Poll::Ready(Ok(0)) | Poll::Pending => {}
                }
                result
            }
            Progress::None | Progress::Refused => return Poll::Ready(Err(refusal())),
        };
        self.unflushed = true;
        result
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(socket) = &mut self.socket {
            ready!(Pin::new(socket).poll_flush(cx))?;
        }
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

fn refusal() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the gate is closed")
}
