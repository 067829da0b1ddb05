//! From an accepted socket to a stream that speaks HTTP: what a listener asks of every connection before that, and who
//! it is from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::timeout;

use super::Limit;
use super::budget::Budget;
use super::proxy_header::{self, Told};
use super::stream::{Raw, Stream};
use super::tls::{self, HandshakeFailure, Tls, TlsFilesError};
use crate::config::{Limits, ListenAddress, ListenerConfig, TrustedProxies};

/// What one listener is like.
#[derive(Debug)]
pub struct Entrance {
    address: ListenAddress,
    tls: Option<Arc<Tls>>,
    proxy_protocol: bool,
    trusted_proxies: TrustedProxies,
    proxy_failures: [AtomicU64; ProxyFailure::ALL.len()],
}

/// Why a connection was closed whose listener requires a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFailure {
    /// It is from somebody who is not among the trusted proxies.
    Untrusted,
    /// What it began with is no such header.
    Invalid,
}

impl ProxyFailure {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 2] = [Self::Untrusted, Self::Invalid];
}

/// Who is at the other end of a connection, and what it came through.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address, as the PROXY header says where there is one; none over a Unix socket.
    pub addr: Option<SocketAddr>,
    /// The address of the proxy whose header said so.
    pub proxy: Option<SocketAddr>,
    /// Where it connected to: one of the addresses, where the listener is on all.
    pub local: ListenAddress,
    entrance: Arc<Entrance>,
}

impl Peer {
    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.entrance.tls.is_some()
    }

    /// The proxies before its listener that are trusted.
    #[must_use]
    pub fn trusted_proxies(&self) -> &TrustedProxies {
        &self.entrance.trusted_proxies
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        let proxies = self.trusted_proxies();
        !proxies.is_empty() && proxies.contains(self.addr.map(|addr| addr.ip()))
    }
}

/// What opening a connection needs to know, besides its listener.
pub(super) struct Opening<'a> {
    pub(super) limits: &'a Limits,
    /// Of all listeners together.
    pub(super) handshakes: &'a Arc<Budget>,
}

/// Why a connection was not opened.
pub(super) enum NotOpened {
    /// It kept us waiting.
    Silent(Limit),
    /// Something else; it has been counted.
    Unfit,
}

impl From<io::Error> for NotOpened {
    /// The client has gone.
    fn from(_: io::Error) -> Self {
        Self::Unfit
    }
}

impl Entrance {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// Where its certificates cannot be used.
    pub fn new(config: &ListenerConfig) -> Result<Self, TlsFilesError> {
        Ok(Self {
            address: config.address.clone(),
            tls: match &config.tls {
                Some(files) => Some(Arc::new(Tls::new(files)?)),
                None => None,
            },
            proxy_protocol: config.proxy_protocol,
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_failures: Default::default(),
        })
    }

    /// The address as it is configured.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Its TLS, where it has any.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Whether every connection has to begin with a PROXY header.
    #[must_use]
    pub fn requires_proxy_header(&self) -> bool {
        self.proxy_protocol
    }

    /// The connections that were closed for want of a header since the start, in the order of [`ProxyFailure::ALL`].
    #[must_use]
    pub fn proxy_failures(&self) -> [u64; ProxyFailure::ALL.len()] {
        self.proxy_failures
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Who a connection is from, as far as its socket tells.
    #[must_use]
    pub fn peer(self: &Arc<Self>, addr: Option<SocketAddr>, local: ListenAddress) -> Peer {
        Peer {
            addr,
            proxy: None,
            local,
            entrance: Arc::clone(self),
        }
    }

    fn unfit(&self, failure: ProxyFailure) -> NotOpened {
        self.proxy_failures[failure as usize].fetch_add(1, Ordering::Relaxed);
        NotOpened::Unfit
    }
}

/// Reads the PROXY header and does the handshake, where the listener asks for them. Afterwards `peer` is the client.
pub(super) async fn open(
    mut raw: Raw,
    peer: &mut Peer,
    opening: Opening<'_>,
) -> Result<Stream, NotOpened> {
    let entrance = Arc::clone(&peer.entrance);
    if entrance.proxy_protocol {
        introduce(&mut raw, peer, &entrance, opening.limits).await?;
    }
    match &entrance.tls {
        None => Ok(Stream::Plain(raw)),
        // Boxed, so that plain connections need no room for a handshake.
        Some(tls) => Box::pin(encrypted(raw, tls, peer.addr, opening)).await,
    }
}

async fn introduce(
    raw: &mut Raw,
    peer: &mut Peer,
    entrance: &Entrance,
    limits: &Limits,
) -> Result<(), NotOpened> {
    if !peer.is_trusted() {
        return Err(entrance.unfit(ProxyFailure::Untrusted));
    }
    let told = timeout(limits.first_byte, proxy_header::read(raw)).await;
    match told.map_err(|_| NotOpened::Silent(Limit::FirstByte))?? {
        None => Err(entrance.unfit(ProxyFailure::Invalid)),
        Some(Told::Nothing) => Ok(()),
        Some(Told::Client(client)) => {
            peer.proxy = peer.addr;
            peer.addr = client;
            Ok(())
        }
    }
}

/// One that is silent, or slow, is closed like one that is slow with a request's head.
async fn encrypted(
    mut raw: Raw,
    tls: &Tls,
    client: Option<SocketAddr>,
    opening: Opening<'_>,
) -> Result<Stream, NotOpened> {
    let Opening { limits, handshakes } = opening;
    let silent = |limit| {
        tls.failed(client, HandshakeFailure::TimedOut, "it took too long");
        NotOpened::Silent(limit)
    };
    let first = timeout(limits.first_byte, raw.look_ahead()).await;
    if !first.map_err(|_| silent(Limit::FirstByte))?? {
        return Err(NotOpened::Unfit);
    }
    let Some(_place) = handshakes.take(1) else {
        let why = "as many handshakes as may be are under way";
        tls.failed(client, HandshakeFailure::Overloaded, why);
        return Err(NotOpened::Unfit);
    };
    let shaken = timeout(limits.headers, tls.shake_hands(raw)).await;
    match shaken.map_err(|_| silent(Limit::Headers))? {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => {
            let (failure, why) = tls::failure(&error);
            tls.failed(client, failure, &why);
            Err(NotOpened::Unfit)
        }
    }
}
