//! Sockets that listen: TCP, and Unix sockets, whose files are cared for.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket as Socket2, Type};
use tokio::net::{TcpListener, UnixListener};

use super::inherited::Passed;
use super::stream::Transport;
use crate::config::ListenAddress;

/// Connections that the kernel holds until they are accepted; it cuts this down to its own limit.
pub(super) const BACKLOG: i32 = 1024;

/// A socket that listens.
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[allow(dead_code, reason = "it removes the file when it is dropped")] Option<SocketFile>,
    ),
}

impl Listening {
    /// Listens, and returns where: the port that the kernel chose where it was asked to. The file of a Unix socket gets
    /// these permissions before anybody can connect.
    pub(super) fn begin(address: &ListenAddress, mode: u32) -> io::Result<(Self, ListenAddress)> {
        match address {
            ListenAddress::Tcp(address) => {
                let listener = tcp(*address)?;
                let address = listener.local_addr()?;
                Ok((Self::Tcp(listener), ListenAddress::Tcp(address)))
            }
            ListenAddress::Unix(path) => {
                let (listener, file) = unix(path, mode)?;
                Ok((Self::Unix(listener, Some(file)), address.clone()))
            }
        }
    }

    /// Listens on a socket that was passed to this process. Its file belongs to who made it.
    pub(super) fn take(passed: Passed) -> io::Result<Self> {
        match passed {
            Passed::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            Passed::Unix(listener) => {
                UnixListener::from_std(listener).map(|listener| Self::Unix(listener, None))
            }
        }
    }

    /// A connection, and whose it is; nobody's where there is no address to a socket.
    pub(super) async fn accept(&self) -> io::Result<(Transport, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                Ok((Transport::Tcp(socket), Some(address)))
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                Ok((Transport::Unix(socket), None))
            }
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket2::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for connections of the last run that the kernel still remembers.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket2::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    // Before it listens, nobody gets in.
    permit(path, mode)?;
    socket.listen(BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Makes room where a process that is gone has left its socket. Whatever else is there stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        let message = "there is something that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    // Without waiting: where nobody accepts for the moment there is somebody who will.
    let probe = Socket2::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    let asked = probe.connect(&SockAddr::unix(path)?);
    match asked.map_err(|error| error.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => fs::remove_file(path),
        Ok(()) | Err(io::ErrorKind::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "somebody answers on that socket",
        )),
        Err(kind) => Err(kind.into()),
    }
}

/// Gives the file of a socket these permissions.
pub(super) fn permit(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// The file of a socket. It is removed with this, unless it is somebody else's by then.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        // The process may change its working directory.
        let path = std::path::absolute(path)?;
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
