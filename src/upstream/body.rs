//! Bodies on their way to an upstream and back.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http2::Received;
use super::lease::Lease;

type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a request to an upstream.
pub enum OutBody {
    /// No body.
    Empty,
    /// A body held in memory; it can be sent again as long as nothing of it was sent.
    Full(Bytes),
    /// A body that passes through.
    Streaming(Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>),
}

/// The client's body failed while it was streamed to the upstream.
#[derive(Debug, thiserror::Error)]
#[error("the request's body failed")]
pub struct RequestBodyFailed(#[source] BoxError);

impl OutBody {
    /// A body that passes through; no more than [`OutBody::Empty`] where `body` has ended already.
    pub fn streaming<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Streaming(Box::pin(http_body_util::BodyExt::map_err(body, Into::into)))
    }

    /// Another body with the same bytes, where they are in memory.
    pub(super) fn copy(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Streaming(_) => None,
        }
    }
}

impl From<Bytes> for OutBody {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = RequestBodyFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyFailed>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Streaming(body) => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(RequestBodyFailed)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Streaming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streaming(body) => body.size_hint(),
        }
    }
}

/// The body of an upstream's response.
///
/// Read to its end, it gives the connection back to the pool. Dropped earlier, it closes the connection, or resets its
/// stream where others share the connection. It counts as in flight until then.
pub struct InBody {
    // Dropped first: then its stream is gone by the time the lease says so.
    incoming: Source,
    endpoint: Option<SocketAddr>,
    /// Gone once the end was read or the body has failed; the tunnel has it where protocols were switched.
    lease: Option<Lease>,
}

/// Where the bytes of a response come from.
pub(super) enum Source {
    /// A connection of HTTP/1.1.
    Connection(Incoming),
    /// A stream of HTTP/2.
    Stream(Received),
}

/// The upstream's response broke off.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's response broke off")]
pub enum AnswerBroken {
    /// On a connection of its own.
    Http1(#[from] hyper::Error),
    /// On a stream.
    Http2(#[from] h2::Error),
}

impl InBody {
    pub(super) fn new(
        incoming: Source,
        endpoint: Option<SocketAddr>,
        lease: Option<Lease>,
    ) -> Self {
        let mut body = Self {
            incoming,
            endpoint,
            lease,
        };
        body.give_back_at_end();
        body
    }

    /// The address that the response comes from; a `unix:` path is none.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    fn give_back_at_end(&mut self) {
        if self.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for InBody {
    type Data = Bytes;
    type Error = AnswerBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerBroken>>> {
        let frame = ready!(match &mut self.incoming {
            Source::Connection(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Source::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        });
        match &frame {
            Some(Ok(_)) => self.give_back_at_end(),
            Some(Err(_)) => drop(self.lease.take().map(Lease::cut_off)),
            None => self.give_back(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.incoming {
            Source::Connection(body) => body.is_end_stream(),
            Source::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Source::Connection(body) => body.size_hint(),
            Source::Stream(body) => body.size_hint(),
        }
    }
}
