//! One HTTP/1.1 connection to an upstream.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::SendErrorKind;
use super::body::{OutBody, RequestBodyFailed};
use super::gate::Gate;
use super::socket::{Address, Socket};
use super::stats::{Counters, OpenConnection};
use super::wire::{Fate, Wire};
use crate::process;

/// The largest head of a response, in bytes, and the most that is read from or gathered for a socket at once.
pub(super) const MAX_RESPONSE_HEAD: usize = 128 * 1024;

/// A connection; dropping it closes it at once, whatever is under way on it.
pub(super) struct Connection {
    sender: SendRequest<Sending>,
    wire: Wire,
    task: AbortHandle,
    address: Address,
    _open: OpenConnection,
}

/// Whether an idle connection may take a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// It may.
    Ready,
    /// The exchange before this one has not quite ended.
    Busy,
    /// The upstream closed it, or spoke out of turn.
    Dead,
}

/// There is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {error}")]
pub(super) struct NotConnected {
    pub(super) kind: SendErrorKind,
    pub(super) error: io::Error,
}

impl NotConnected {
    pub(super) fn because(kind: SendErrorKind) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { kind, error }
    }
}

/// A request that got no response on a connection, which is gone.
pub(super) struct Failed {
    pub(super) kind: SendErrorKind,
    /// Whether a byte of the request was given to the socket.
    pub(super) sent: bool,
    /// The request, where nothing of it was given to the socket and it can be tried elsewhere.
    pub(super) request: Option<Box<Request<OutBody>>>,
}

impl Connection {
    /// Begins to speak HTTP/1.1 over a fresh socket to `address`.
    pub(super) async fn over(
        socket: Socket,
        address: Address,
        counters: &Arc<Counters>,
    ) -> Result<Self, NotConnected> {
        let (wire, io) = Wire::new(socket);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_RESPONSE_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)
            .map_err(NotConnected::because(SendErrorKind::Connect))?;
        // What the connection ends with reaches the request under way, if there is one.
        let task = tokio::spawn(process::task(async move {
            drop(connection.with_upgrades().await);
        }));
        Ok(Self {
            sender,
            wire,
            task: task.abort_handle(),
            address,
            _open: counters.opened(),
        })
    }

    /// The other end, where it has an address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address.tcp()
    }

    /// Looks, without blocking, whether the connection may take a request.
    pub(super) fn condition(&self, closely: bool) -> Condition {
        if self.sender.is_closed() {
            Condition::Dead
        } else if !self.sender.is_ready() {
            Condition::Busy
        } else if self.wire.is_quiet(closely) {
            Condition::Ready
        } else {
            Condition::Dead
        }
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// The request is with hyper when this returns, so that the future does not bear it.
    pub(super) fn exchange(
        mut self,
        request: Request<OutBody>,
        gate: &Arc<Gate>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Self), Failed>> + use<> {
        let copy = copy(&request);
        self.wire.begin(gate, !request.body().is_end_stream());
        let request = request.map(|body| Sending {
            body,
            wire: self.wire.clone(),
        });
        let answer = self.sender.try_send_request(request);
        answer.map(|answer| self.answered(answer, copy))
    }

    fn answered(
        self,
        answer: Result<Response<Incoming>, TrySendError<Request<Sending>>>,
        copy: Option<Box<Request<OutBody>>>,
    ) -> Result<(Response<Incoming>, Self), Failed> {
        let (kind, request) = match answer {
            Ok(response) if self.wire.has_begun() => return Ok((response, self)),
            // It answers something else.
            Ok(_) => (SendErrorKind::BadResponse, None),
            Err(mut error) => (kind(error.error()), error.take_message()),
        };
        Err(match self.wire.give_up() {
            Fate::Unsent => Failed {
                kind,
                sent: false,
                request: request
                    .map(|request| Box::new(request.map(|sending| sending.body)))
                    .or(copy),
            },
            Fate::Refused => Failed {
                kind: SendErrorKind::GateClosed,
                sent: false,
                request: None,
            },
            Fate::Sent => Failed {
                kind,
                sent: true,
                request: None,
            },
        })
    }
}

impl Connection {
    /// Whether all of the request was given to the socket.
    pub(super) fn has_sent_request(&self) -> bool {
        self.wire.has_sent_request()
    }

    /// Closes the connection so that the upstream sees it break.
    pub(super) fn reset(&self) {
        self.wire.reset();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wire.give_up();
        self.task.abort();
    }
}

/// The body of a request under way; the wire is told when hyper has all of it.
struct Sending {
    body: OutBody,
    wire: Wire,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = RequestBodyFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyFailed>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.wire.body_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A second copy of a request whose body is in memory: hyper keeps a request that it has begun with, also where the
/// socket then takes nothing of it. Some balancers accept only to reset, and an idle connection may end, or say
/// something, at any moment up to the first byte.
pub(super) fn copy(request: &Request<OutBody>) -> Option<Box<Request<OutBody>>> {
    let mut copy = Request::new(request.body().copy()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(Box::new(copy))
}

fn kind(error: &hyper::Error) -> SendErrorKind {
    let body_failed = error
        .source()
        .is_some_and(<dyn Error>::is::<RequestBodyFailed>);
    if body_failed || error.is_body_write_aborted() {
        SendErrorKind::RequestBody
    } else if error.is_parse() || error.is_parse_too_large() || is_ambiguous(error) {
        SendErrorKind::BadResponse
    } else {
        SendErrorKind::ConnectionLost
    }
}

/// Whether the wire has found fault with the response's head.
fn is_ambiguous(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref());
    source.is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::InvalidData)
}
