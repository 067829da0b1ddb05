//! One request on a stream of its own, up to the head of its response.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::sync::oneshot;

use super::body::{self, Pump, Received};
use super::{Place, Shared, head};
use crate::upstream::SendErrorKind;
use crate::upstream::body::OutBody;
use crate::upstream::connection::{Failed, copy};
use crate::upstream::gate::Gate;
use crate::upstream::head::MOST_INTERIM;

/// A request on its way to the connection's task.
pub(super) struct Job {
    request: Box<Request<OutBody>>,
    gate: Arc<Gate>,
    place: Arc<Place>,
    begun: oneshot::Sender<Result<Begun, Failed>>,
}

/// A request that h2 has.
struct Begun {
    // In the order in which they are to be dropped: the place is free once the stream is gone.
    response: ResponseFuture,
    pump: Option<Pump>,
    place: Arc<Place>,
    /// The bytes that the line had taken before.
    mark: u64,
    copy: Option<Box<Request<OutBody>>>,
}

/// What keeps a stream after its head has come: the rest of its request, and its place.
pub(in crate::upstream) struct Held {
    _pump: Option<Pump>,
    place: Arc<Place>,
}

impl Held {
    pub(in crate::upstream) fn address(&self) -> Option<std::net::SocketAddr> {
        self.place.connection.address
    }
}

impl Place {
    /// Sends a request and waits for the head of its response. Dropped, it resets the stream.
    pub(in crate::upstream) async fn exchange(
        self,
        request: Box<Request<OutBody>>,
        gate: &Arc<Gate>,
    ) -> Result<(Response<Received>, Held), Failed> {
        let jobs = self.connection.jobs.clone();
        let (begun, beginning) = oneshot::channel();
        let job = Job {
            request,
            gate: Arc::clone(gate),
            place: Arc::new(self),
            begun,
        };
        // There is room for every request that has a place, so that what is given back here came too late.
        if let Err(unsent) = jobs.try_send(Box::new(job)) {
            unsent.into_inner().give_back(SendErrorKind::ConnectionLost);
        }
        drop(jobs);
        match beginning.await {
            Ok(begun) => begun?.answered(gate).await,
            // Whoever has not begun never will.
            Err(_) => Err(Failed {
                kind: SendErrorKind::ConnectionLost,
                sent: false,
                request: None,
            }),
        }
    }
}

impl Job {
    /// Gives the request to h2 unless its gate is closed. The caller sees to it that h2 writes it at once.
    pub(super) fn begin(self, sender: &mut SendRequest<Bytes>, shared: &Shared) {
        if self.begun.is_closed() {
            return;
        }
        let is_secure = self.place.connection.is_secure;
        let head = head::of(&self.request, is_secure);
        let announced = head::length(head.headers());
        let has_ended = self.request.body().is_end_stream();
        let mark = shared.line.taken();
        let mut streams = None;
        let passed = self.gate.pass(|| {
            Poll::Ready(sender.send_request(head, has_ended).map(|both| {
                streams = Some(both);
                1
            }))
        });
        let Some((response, mut stream)) = streams else {
            return self.give_back(match passed {
                None => SendErrorKind::GateClosed,
                Some(_) => SendErrorKind::ConnectionLost,
            });
        };
        self.place.begin();
        let copy = copy(&self.request);
        let Self {
            request,
            place,
            begun,
            ..
        } = self;
        let pump = match request.into_body() {
            OutBody::Empty => None,
            // h2 sends it as the windows open, and nobody needs to look after it.
            OutBody::Full(bytes) => {
                if !has_ended {
                    // An error is the stream's, which the response says.
                    let _ = stream.send_data(bytes, true);
                }
                None
            }
            OutBody::Streaming(body) => {
                (!has_ended).then(|| body::pump(body, stream, announced, Arc::clone(&place)))
            }
        };
        // Where nobody waits for it any more it is dropped, which resets the stream.
        let _ = begun.send(Ok(Begun {
            response,
            pump,
            place,
            mark,
            copy,
        }));
    }

    /// Nothing of it was sent.
    pub(super) fn give_back(self, kind: SendErrorKind) {
        let Self { request, begun, .. } = self;
        let is_refused = kind == SendErrorKind::GateClosed;
        let _ = begun.send(Err(Failed {
            kind,
            sent: false,
            request: (!is_refused).then_some(request),
        }));
    }
}

impl Begun {
    async fn answered(mut self, gate: &Gate) -> Result<(Response<Received>, Held), Failed> {
        let mut interim = Interim::default();
        let answer = poll_fn(|cx| interim.poll(&mut self.response, cx)).await;
        let shared = Arc::clone(&self.place.connection.shared);
        let fault = match answer {
            Ok(response) => {
                shared.answered();
                let length = head::length(response.headers());
                let response = response.map(|stream| Received::new(stream, length, shared));
                let held = Held {
                    _pump: self.pump,
                    place: self.place,
                };
                return Ok((response, held));
            }
            Err(fault) => fault,
        };
        let kind = match &fault {
            _ if self.pump.as_ref().is_some_and(Pump::has_failed) => SendErrorKind::RequestBody,
            Fault::OutOfTurn => SendErrorKind::BadResponse,
            Fault::Ended(error) if is_refused(error) && !interim.has_come() => {
                SendErrorKind::Refused
            }
            Fault::Ended(error) if error.is_library() => SendErrorKind::BadResponse,
            Fault::Ended(_) => SendErrorKind::ConnectionLost,
        };
        let is_unsent = match &fault {
            Fault::OutOfTurn => false,
            // Who has begun to answer has begun to process.
            Fault::Ended(error) if is_refused(error) || is_left_out(error) => !interim.has_come(),
            // The connection is over; what h2 has not written by now is never written.
            Fault::Ended(error) if error.is_io() || error.is_go_away() => {
                shared.line.shut_unless_taken_since(self.mark)
            }
            Fault::Ended(_) => false,
        };
        if !is_unsent {
            return Err(Failed {
                kind,
                sent: true,
                request: None,
            });
        }
        gate.take_back();
        Err(Failed {
            kind,
            sent: false,
            request: self.copy,
        })
    }
}

/// Why there is no response.
enum Fault {
    /// The stream has ended.
    Ended(h2::Error),
    /// Interim responses without end, or a switch of protocols, which there is none of (RFC 9113, section 8.6).
    OutOfTurn,
}

/// The interim responses so far.
#[derive(Default)]
struct Interim(u8);

impl Interim {
    fn has_come(&self) -> bool {
        self.0 > 0
    }

    /// The response, once the interim ones before it are gone. It is asked for only where no more of them can come: h2 skips
    /// those that it finds before it, and none may go unnoticed.
    fn poll(
        &mut self,
        response: &mut ResponseFuture,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<h2::RecvStream>, Fault>> {
        while let Some(interim) = ready!(response.poll_informational(cx)) {
            let interim = interim.map_err(Fault::Ended)?;
            self.0 += 1;
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS || self.0 > MOST_INTERIM {
                return Poll::Ready(Err(Fault::OutOfTurn));
            }
        }
        let response = ready!(Pin::new(response).poll(cx));
        Poll::Ready(response.map_err(Fault::Ended))
    }
}

/// Whether the upstream says of this stream that it has done nothing with it.
fn is_refused(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM)
}

/// Whether the upstream has said goodbye and will not process this stream. h2 ends a stream with the upstream's GOAWAY only
/// where its number is above the last one that the GOAWAY names.
fn is_left_out(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote()
}
