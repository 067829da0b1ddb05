//! A connection between two of the simulation, as two kernels would keep it: what is written is taken at once, stays
//! readable after the writer has closed, and is gone after a reset.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::Scripted;

/// Sees what is written into an end, as it is taken.
pub type Tap = Box<dyn Fn(&[u8]) + Send>;

/// One end.
pub struct End {
    link: Arc<Mutex<Link>>,
    side: usize,
    tap: Option<Tap>,
    ends_with_reset: Mutex<bool>,
}

#[derive(Default)]
struct Link {
    /// What waits for the end of this number.
    waiting: [VecDeque<u8>; 2],
    /// Whether the end of this number writes nothing any more.
    closed: [bool; 2],
    readers: [Option<Waker>; 2],
    is_reset: bool,
}

/// Two ends of one connection.
pub fn link() -> (End, End) {
    let link = Arc::<Mutex<Link>>::default();
    let end = |side| End {
        link: Arc::clone(&link),
        side,
        tap: None,
        ends_with_reset: Mutex::new(false),
    };
    (end(0), end(1))
}

impl End {
    /// The same, with what is written into it seen by `tap`.
    pub fn tapped(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Breaks the connection: neither end hears anything more.
    pub fn reset(self) {
        self.link().reset();
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().expect("nothing panics with the lock")
    }
}

impl Link {
    fn reset(&mut self) {
        self.is_reset = true;
        self.waiting = Default::default();
        self.wake(0);
        self.wake(1);
    }

    fn close(&mut self, side: usize) {
        self.closed[side] = true;
        self.wake(1 - side);
    }

    fn wake(&mut self, side: usize) {
        if let Some(reader) = self.readers[side].take() {
            reader.wake();
        }
    }
}

impl Scripted for End {
    fn peek(&self) -> io::Result<usize> {
        let link = self.link();
        match link.waiting[self.side].len() {
            _ if link.is_reset => Err(io::ErrorKind::ConnectionReset.into()),
            0 if !link.closed[1 - self.side] => Err(io::ErrorKind::WouldBlock.into()),
            waiting => Ok(waiting),
        }
    }

    fn end_with_reset(&self) {
        *self.ends_with_reset.lock().expect("nobody panics with it") = true;
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut link = self.link();
        if link.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let waiting = &mut link.waiting[self.side];
        if !waiting.is_empty() {
            let count = waiting.len().min(buf.remaining());
            let bytes: Vec<u8> = waiting.drain(..count).collect();
            buf.put_slice(&bytes);
            return Poll::Ready(Ok(()));
        }
        if link.closed[1 - self.side] {
            return Poll::Ready(Ok(()));
        }
        link.readers[self.side] = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut link = self.link();
        if link.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if link.closed[self.side] {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let other = 1 - self.side;
        // Where the other end has gone the kernel takes it all the same.
        link.waiting[other].extend(bytes);
        link.wake(other);
        drop(link);
        if let Some(tap) = &self.tap {
            tap(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.poll_write(cx, &bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link().close(self.side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let ends_with_reset = *self.ends_with_reset.lock().expect("nobody panics with it");
        let mut link = self.link();
        if ends_with_reset {
            link.reset();
        } else {
            link.close(self.side);
        }
    }
}
