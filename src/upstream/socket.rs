//! What is under a wire: a socket of the kernel's, TLS over one, or, in tests, one whose other end is scripted.

use std::fmt;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(test)]
use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::Secure;

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
    ///
    /// # Errors
    /// Of the connection; `WouldBlock` where there is nothing.
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

    pub(super) async fn connect(&self, address: &Address) -> io::Result<Socket> {
        let address = match address {
            Address::Tcp(address) => *address,
            Address::Unix(path) => return Ok(Socket::Unix(UnixStream::connect(path).await?)),
        };
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

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The address of a network, where it has one.
    pub(super) fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Secure>),
    #[cfg(test)]
    Scripted(Box<dyn Scripted>),
}

impl Socket {
    /// Looks, without blocking, what there is to read.
    ///
    /// `closely`: as the kernel knows it now, which takes one system call. Otherwise: as far as the runtime has been
    /// told, which takes none where it has heard of nothing.
    pub(super) fn listen(&mut self, closely: bool) -> Heard {
        let peeked = match self {
            Self::Tcp(socket) if closely => peek(&SockRef::from(&*socket)),
            Self::Tcp(socket) => {
                socket.try_io(Interest::READABLE, || peek(&SockRef::from(&*socket)))
            }
            Self::Unix(socket) if closely => peek(&SockRef::from(&*socket)),
            Self::Unix(socket) => {
                socket.try_io(Interest::READABLE, || peek(&SockRef::from(&*socket)))
            }
            Self::Tls(secure) => return secure.listen(closely),
            #[cfg(test)]
            Self::Scripted(socket) => socket.peek(),
        };
        match peeked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
            _ => Heard::Something,
        }
    }

    /// Takes what there is to read, without blocking; `closely` as above.
    pub(super) fn take(&mut self, bytes: &mut [u8], closely: bool) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) if closely => (&*SockRef::from(&*socket)).read(bytes),
            Self::Tcp(socket) => socket.try_read(bytes),
            Self::Unix(socket) if closely => (&*SockRef::from(&*socket)).read(bytes),
            Self::Unix(socket) => socket.try_read(bytes),
            // TLS over TLS is not spoken, and scripted sockets speak none.
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            #[cfg(test)]
            Self::Scripted(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Makes the connection's end a reset.
    pub(super) fn end_with_reset(&self) {
        match self {
            Self::Tcp(socket) => {
                // The upstream has gone where this fails.
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
            // Here an end with bytes unread is a reset, and there is no other one.
            Self::Unix(_) => {}
            Self::Tls(secure) => secure.end_with_reset(),
            #[cfg(test)]
            Self::Scripted(socket) => socket.end_with_reset(),
        }
    }
}

/// What there is to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// Neither bytes nor an end.
    Nothing,
    /// Part of what only TLS is concerned with, or else of an answer: the rest will tell.
    Part,
    /// Bytes, an end, or a fault.
    Something,
}

fn peek(socket: &SockRef<'_>) -> io::Result<usize> {
    socket.peek(&mut [MaybeUninit::uninit()])
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(secure) => secure.poll_read(cx, buf),
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
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(secure) => secure.poll_write(cx, bytes),
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
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(secure) => secure.poll_write_vectored(cx, slices),
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
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(secure) => secure.poll_flush(cx),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(secure) => secure.poll_shutdown(cx),
            #[cfg(test)]
            Self::Scripted(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
