//! Sockets that a service manager opened and keeps open from one run of this process to the next (`LISTEN_FDS`, see
//! sd_listen_fds(3)): connections that come during a restart wait in them.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use listenfd::ListenFd;

use crate::config::ListenAddress;

/// Sockets that this process was started with.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(ListenAddress, Passed)>);

/// One of them.
#[derive(Debug)]
pub(super) enum Passed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Inherited {
    /// Those that the environment says were meant for this process. To be called once.
    ///
    /// # Errors
    /// Where there is one that is no listener of a kind known here.
    pub fn from_env() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        (0..passed.len())
            .filter_map(|index| one(&mut passed, index).transpose())
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The one that listens on this address. Of all addresses there are two, which mean the same to a service manager.
    pub(super) fn take(&mut self, address: &ListenAddress) -> Option<(ListenAddress, Passed)> {
        let index = self.0.iter().position(|(own, _)| is_same(own, address))?;
        Some(self.0.swap_remove(index))
    }

    /// An address that nobody has taken.
    pub(super) fn left(&self) -> Option<&ListenAddress> {
        self.0.first().map(|(address, _)| address)
    }
}

fn one(passed: &mut ListenFd, index: usize) -> io::Result<Option<(ListenAddress, Passed)>> {
    if let Ok(socket) = passed.take_tcp_listener(index) {
        let Some(socket) = socket else {
            return Ok(None);
        };
        socket.set_nonblocking(true)?;
        let address = ListenAddress::Tcp(socket.local_addr()?);
        return Ok(Some((address, Passed::Tcp(socket))));
    }
    let Some(socket) = passed.take_unix_listener(index)? else {
        return Ok(None);
    };
    socket.set_nonblocking(true)?;
    let path = socket.local_addr()?.as_pathname().map(PathBuf::from);
    let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "a socket has no path");
    let address = ListenAddress::Unix(path.ok_or_else(nameless)?);
    Ok(Some((address, Passed::Unix(socket))))
}

fn is_same(passed: &ListenAddress, wanted: &ListenAddress) -> bool {
    match (passed, wanted) {
        (ListenAddress::Tcp(passed), ListenAddress::Tcp(wanted)) => {
            let all = passed.ip().is_unspecified() && wanted.ip().is_unspecified();
            passed == wanted || all && passed.port() == wanted.port()
        }
        (ListenAddress::Unix(passed), ListenAddress::Unix(wanted)) => {
            std::path::absolute(wanted).is_ok_and(|wanted| *passed == wanted)
        }
        _ => false,
    }
}
