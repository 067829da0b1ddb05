//! TLS to an upstream: the handshake, which sends nothing of a request, and what stands between a request and the
//! kernel afterwards.
//!
//! Under TLS, bytes come that are no answer: tickets for the next handshake, new keys. So a connection is not quiet or
//! loud by whether there are bytes: they are given to TLS first, which tells. And what was encrypted is not yet the
//! kernel's: it is as good as sent, since nobody takes it back but with the whole connection.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{IpAddr, ServerName};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::socket::{Heard, Socket};
use crate::config::UpstreamTls;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// The protocols that an endpoint has the choice of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offer {
    Http1,
    Either,
    Http2,
}

/// The protocol that an endpoint speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Offer {
    /// In the order of our preference (RFC 7301, section 3.1).
    fn protocols(self) -> Vec<Vec<u8>> {
        let protocols: &[&[u8]] = match self {
            Self::Http1 => &[HTTP1],
            Self::Either => &[HTTP2, HTTP1],
            Self::Http2 => &[HTTP2],
        };
        protocols.iter().map(|name| name.to_vec()).collect()
    }

    /// What is spoken where there is no TLS, and so no choice.
    pub(super) fn unnegotiated(self) -> Spoken {
        match self {
            Self::Http1 | Self::Either => Spoken::Http1,
            Self::Http2 => Spoken::Http2,
        }
    }

    /// What is spoken where the endpoint has chosen this: one that chooses nothing speaks HTTP/1.1.
    fn chosen(self, name: Option<&[u8]>) -> io::Result<Spoken> {
        match (self, name) {
            (_, Some(HTTP2)) => Ok(Spoken::Http2),
            (Self::Http2, _) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it does not offer HTTP/2 (ALPN h2)",
            )),
            (Self::Http1 | Self::Either, _) => Ok(Spoken::Http1),
        }
    }
}

/// How long an endpoint that asks for certificates has, at least, to say what it thinks of ours.
const MIN_VERDICT: Duration = Duration::from_millis(50);

/// Pieces that are read in one look at a connection; whoever sends more than tickets talks out of turn.
const MAX_PIECES: usize = 16;

/// How TLS is spoken to one endpoint.
pub(super) struct Security {
    /// For what is usually offered.
    config: Arc<ClientConfig>,
    offer: Offer,
    /// For what only HTTP/1.1 can carry.
    http1: Arc<ClientConfig>,
    name: ServerName<'static>,
    shown: Arc<Shown>,
}

impl Security {
    /// `host`: of the endpoint, which it has to prove to be unless the configuration says another name.
    pub(super) fn new(tls: &UpstreamTls, host: &str, offer: Offer) -> Self {
        let shown = Arc::new(Shown {
            certificate: tls.client.clone(),
            was_asked: AtomicBool::new(false),
        });
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&TLS13, &TLS12])
                .expect("the provider knows both versions")
                .with_root_certificates(Arc::clone(&tls.authorities))
                .with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = Offer::Http1.protocols();
        // What goes with the first flight can be sent again by anybody who has seen it.
        config.enable_early_data = false;
        let http1 = Arc::new(config.clone());
        config.alpn_protocols = offer.protocols();
        let name = tls.server_name.clone();
        Self {
            config: Arc::new(config),
            offer,
            http1,
            name: name.unwrap_or_else(|| {
                let name = ServerName::try_from(host.to_owned());
                // The configuration has no other ones; and nobody bears this one.
                name.unwrap_or(ServerName::IpAddress(IpAddr::V4([0; 4].into())))
            }),
            shown,
        }
    }

    /// Does the handshake over a fresh connection, in which the endpoint chooses of `offer`: what is usual, or HTTP/1.1.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub(super) async fn shake_hands(
        &self,
        socket: Socket,
        offer: Offer,
    ) -> io::Result<(Socket, Spoken)> {
        let begun = Instant::now();
        let below = Below {
            socket,
            taken: 0,
            records: Records::default(),
        };
        let config = match offer == self.offer {
            true => &self.config,
            false => &self.http1,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(self.name.clone(), below).await?;
        let spoken = offer.chosen(stream.get_ref().1.alpn_protocol())?;
        let mut secure = Secure {
            stream,
            is_broken: false,
        };
        if self.has_a_verdict_to_come(&secure) {
            let patience = (begun.elapsed() * 2).max(MIN_VERDICT);
            // Silence is none.
            if let Ok(verdict) = timeout(patience, secure.verdict()).await {
                verdict?;
            }
        }
        Ok((Socket::Tls(Box::new(secure)), spoken))
    }

    /// In TLS 1.3 a client is done before its certificate has been looked at (RFC 8446, section 4.6.1, and appendix
    /// E.1.2). A request that goes at once might be lost to a refusal, and nobody would know that it was not executed.
    fn has_a_verdict_to_come(&self, secure: &Secure) -> bool {
        let (_, session) = secure.stream.get_ref();
        self.shown.was_asked.load(Ordering::Relaxed)
            && session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && session.handshake_kind() != Some(HandshakeKind::Resumed)
    }
}

/// Our certificate, and whether the endpoint ever asked for one.
#[derive(Debug)]
struct Shown {
    certificate: Option<Arc<CertifiedKey>>,
    was_asked: AtomicBool,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        let certificate = self.certificate.as_ref()?;
        certificate.key.choose_scheme(schemes)?;
        Some(Arc::clone(certificate))
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

/// A connection through TLS.
pub(super) struct Secure {
    stream: TlsStream<Below>,
    /// Whether a write failed of which the kernel had taken a part.
    is_broken: bool,
}

impl Secure {
    /// See [`Socket::listen`]: what concerns TLS alone is taken care of on the way.
    pub(super) fn listen(&mut self, closely: bool) -> Heard {
        for _ in 0..MAX_PIECES {
            let (below, session) = self.stream.get_mut();
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() => {
                    return Heard::Something;
                }
                Ok(_) => {}
                Err(_) => return Heard::Something,
            }
            match session.read_tls(&mut Looking { below, closely }) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match below.records.is_between() {
                        true => Heard::Nothing,
                        false => Heard::Part,
                    };
                }
                Ok(0) | Err(_) => return Heard::Something,
            }
        }
        Heard::Something
    }

    /// Waits for the first sign of the endpoint after the handshake.
    async fn verdict(&mut self) -> io::Result<()> {
        let before = self.stream.get_ref().0.records.whole;
        std::future::poll_fn(|cx| {
            loop {
                let (below, session) = self.stream.get_mut();
                if let Err(error) = session.process_new_packets() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                if below.records.whole > before {
                    return Poll::Ready(Ok(()));
                }
                match session.read_tls(&mut Polled { below, cx }) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await
    }

    pub(super) fn end_with_reset(&self) {
        self.stream.get_ref().0.socket.end_with_reset();
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(cx, bytes))
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(cx, slices))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// A write that fails has sent something all the same where the kernel had taken a part of it: then one byte is
    /// said to be taken, and the failure comes with the next call.
    fn write(
        &mut self,
        write: impl FnOnce(Pin<&mut TlsStream<Below>>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let before = self.stream.get_ref().0.taken;
        let result = write(Pin::new(&mut self.stream));
        let taken = self.stream.get_ref().0.taken - before;
        if taken > 0 && matches!(result, Poll::Ready(Err(_))) {
            self.is_broken = true;
            return Poll::Ready(Ok(1));
        }
        result
    }
}

/// The socket below TLS.
struct Below {
    socket: Socket,
    /// Bytes that the kernel has taken.
    taken: u64,
    records: Records,
}

/// Follows the records that come (RFC 8446, section 5.1): five bytes of head, of which the last two are the length.
#[derive(Debug, Default)]
struct Records {
    /// Bytes of the current head so far.
    head: usize,
    /// The length in it.
    length: [u8; 2],
    /// Bytes of the current record that are to come.
    left: usize,
    whole: u64,
}

const RECORD_HEAD: usize = 5;

impl Records {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let count = self.left.min(bytes.len());
                self.left -= count;
                bytes = &bytes[count..];
            } else {
                if self.head >= RECORD_HEAD - 2 {
                    self.length[self.head + 2 - RECORD_HEAD] = *first;
                }
                self.head += 1;
                bytes = rest;
                if self.head < RECORD_HEAD {
                    continue;
                }
                self.head = 0;
                self.left = u16::from_be_bytes(self.length).into();
            }
            self.whole += u64::from(self.left == 0);
        }
    }

    /// Whether the last one has come to its end.
    fn is_between(&self) -> bool {
        self.head == 0 && self.left == 0
    }
}

/// Reads what is there.
struct Looking<'a> {
    below: &'a mut Below,
    closely: bool,
}

impl Read for Looking<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.below.socket.take(bytes, self.closely)?;
        self.below.records.read(&bytes[..count]);
        Ok(count)
    }
}

/// Reads what is there, and wakes the task when there is more.
struct Polled<'a, 'b> {
    below: &'a mut Below,
    cx: &'a mut Context<'b>,
}

impl Read for Polled<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(bytes);
        match Pin::new(&mut *self.below).poll_read(self.cx, &mut buf) {
            Poll::Ready(Ok(())) => Ok(buf.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for Below {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        this.records.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Below {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.socket).poll_write(cx, bytes))?;
        this.taken += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.socket).poll_write_vectored(cx, slices))?;
        this.taken += count as u64;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_followed_whatever_the_pieces() {
        let mut bytes = Vec::new();
        for length in [0_u16, 1, 300] {
            bytes.extend([23, 3, 3]);
            bytes.extend(length.to_be_bytes());
            bytes.resize(bytes.len() + usize::from(length), b'a');
        }
        for piece in [1, 2, 3, 5, 7, 300, bytes.len()] {
            let mut records = Records::default();
            for piece in bytes.chunks(piece) {
                records.read(piece);
            }
            assert_eq!((records.whole, records.is_between()), (3, true), "{piece}");
            records.read(&[23]);
            assert!(!records.is_between());
        }
        let mut records = Records::default();
        records.read(&bytes[..5]);
        assert_eq!((records.whole, records.is_between()), (1, true));
        records.read(&bytes[5..10]);
        assert_eq!((records.whole, records.is_between()), (1, false));
    }
}
