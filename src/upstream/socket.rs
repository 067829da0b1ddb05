//! What is under a wire: a socket of the kernel's, or, in tests, one whose other end is scripted.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
#[cfg(test)]
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(test)]
use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// What makes sockets.
#[derive(Default)]
pub(super) struct Dialer {
    #[cfg(test)]
    network: Option<Arc<dyn Network>>,
}

/// A network for tests.
#[cfg(test)]
pub trait Network: Send + Sync {
    /// Connects to the address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Scripted>>>;
}

/// A socket of such a network.
#[cfg(test)]
pub trait Scripted: AsyncRead + AsyncWrite + Send + Unpin {
    /// Says without waiting, and without taking anything, whether there is something to read.
    fn peek(&self) -> io::Result<usize>;

    /// Makes the connection's end a reset.
    fn end_with_reset(&self);
}

impl Dialer {
    /// Makes sockets of this network.
    #[cfg(test)]
    pub(super) fn of(network: Arc<dyn Network>) -> Self {
        Self {
            network: Some(network),
        }
    }

    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        #[cfg(test)]
        if let Some(network) = &self.network {
            return network.connect(address).await.map(Socket::Scripted);
        }
        let socket = TcpStream::connect(address).await?;
        // Without it a small request may wait for the acknowledgement of the one before.
        socket.set_nodelay(true).ok();
        Ok(Socket::Tcp(socket))
    }
}

pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(test)]
    Scripted(Box<dyn Scripted>),
}

impl Socket {
    /// Looks whether there is something to read, as the kernel knows it now: one system call that does not block.
    pub(super) fn peek(&self) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]),
            #[cfg(test)]
            Self::Scripted(socket) => socket.peek(),
        }
    }

    /// The same, as far as the runtime has been told: no system call where it has heard of nothing.
    pub(super) fn peek_as_told(&self) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_io(Interest::READABLE, || self.peek()),
            #[cfg(test)]
            Self::Scripted(socket) => socket.peek(),
        }
    }

    /// Makes the connection's end a reset.
    pub(super) fn end_with_reset(&self) {
        match self {
            Self::Tcp(socket) => {
                // The upstream has gone where this fails.
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
            #[cfg(test)]
            Self::Scripted(socket) => socket.end_with_reset(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
