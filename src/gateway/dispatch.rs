//! Sending a claimed request and taking its answer in, as far as it is held; nothing here knows of records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TRAILER};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::body::{self, Partial, Passing, Unread};
use super::course::{Course, Followed};
use super::grpc;
use super::headers;
use super::outbound::Outbound;
use super::subject::Subject;
use crate::protocol::{Cause, NotStored, Response};
use crate::server::Held;
use crate::telemetry::spans;
use crate::upstream::{Gate, InBody, SendError, SendErrorKind};

/// What came of a dispatch.
pub enum Dispatched {
    /// Not one byte of the request was given to a socket.
    NotSent(SendErrorKind),
    /// The whole answer.
    Answered(Box<Answered>),
    /// The head of an answer that is not held to its end.
    Streaming(Box<Streaming>),
    /// It was sent, and no whole answer came.
    Unanswered(Cause),
}

impl Dispatched {
    /// The address that has answered.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        match self {
            Self::Answered(answered) => answered.endpoint,
            Self::Streaming(streaming) => streaming.rest.endpoint(),
            Self::NotSent(_) | Self::Unanswered(_) => None,
        }
    }
}

/// An answer that was read to its end.
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// All its header lines but those of the one connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// What came behind it.
    pub trailers: HeaderMap,
    /// What it says about the operation.
    pub says: Says,
    /// What of it is recorded.
    pub recorded: Arc<Response>,
    /// What it takes of the budget.
    pub held: Held,
    /// Where it comes from; a `unix:` path is no address.
    pub endpoint: Option<SocketAddr>,
}

/// What an answer says about the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// This HTTP status, or the one that its gRPC status stands for.
    Status(u16),
    /// Nothing, whatever the route's `outcomes` are.
    Nothing(Cause),
}

impl Says {
    /// What a call of gRPC says that ended with this code. One that was cancelled may have been executed nevertheless, and
    /// one without a code broke off. RESOURCE_EXHAUSTED is said by services that are asked too often, and by gRPC's own
    /// servers of an answer that is larger than they may send: then it was executed.
    pub fn of(code: Option<grpc::Code>) -> Self {
        match code {
            None => Self::Nothing(Cause::Truncated),
            Some(code @ (grpc::Code::Cancelled | grpc::Code::ResourceExhausted)) => {
                Self::Nothing(Cause::Status(code.http_status()))
            }
            Some(code) => Self::Status(code.http_status()),
        }
    }
}

/// An answer that passes through.
pub struct Streaming {
    /// Its status.
    pub status: StatusCode,
    /// All its header lines but those of the one connection.
    pub headers: HeaderMap,
    /// What was read of it before it was found too long.
    pub begun: Bytes,
    /// The rest.
    pub rest: InBody,
    /// Why it is not held.
    pub reason: NotStored,
}

impl Streaming {
    /// What its head says about the operation: the end, where a gRPC call has its status, is not waited for.
    pub fn says(&self) -> Says {
        Says::Status(self.status.as_u16())
    }
}

/// Sends the request unless its gate is closed, and reads the answer; `course` is told what comes of it.
pub async fn dispatch(
    shared: Arc<Shared>,
    subject: Arc<Subject>,
    outbound: Box<Outbound>,
    gate: Arc<Gate>,
    course: Arc<Course>,
) -> Dispatched {
    let lane = &subject.lane;
    let method = outbound.method.clone();
    let is_grpc = grpc::is_grpc(&outbound.headers);
    let (mut request, _held) = outbound.into_request();
    let sent = spans::Sent {
        method: &method,
        upstream: lane.upstream_name(),
    };
    let trace = course.dispatched(request.headers_mut(), sent);
    let started = Instant::now();
    let response = match lane.upstream.send(request, &gate).await {
        Ok(response) => response,
        Err(SendError { kind, sent }) => {
            lane.failed(kind);
            tracing::warn!(
                key_ref = %subject.key_ref(), route = subject.route(), upstream = lane.upstream_name(),
                kind = kind.label(), sent,
                "no answer of the upstream",
            );
            course.ended(Some(kind.label()));
            return match kind {
                _ if !sent => Dispatched::NotSent(kind),
                SendErrorKind::BadResponse => Dispatched::Unanswered(Cause::Truncated),
                _ => Dispatched::Unanswered(Cause::ConnectionLost),
            };
        }
    };
    lane.upstream_metrics().observe(started.elapsed());
    let (mut head, mut rest) = response.into_parts();
    course.head(head.status, rest.endpoint());
    let has_body = headers::has_body(&method, head.status);
    headers::from_upstream(&mut head.headers, has_body, rest.size_hint().exact());
    headers::remove_own_responses(&mut head.headers);
    let limit = lane.policy().max_response_body;
    let streaming = |begun, rest, reason| {
        Dispatched::Streaming(Box::new(Streaming {
            status: head.status,
            headers: head.headers.clone(),
            begun,
            rest,
            reason,
        }))
    };
    if is_event_stream(&head.headers) {
        return streaming(Bytes::new(), rest, NotStored::Streaming);
    }
    let mut followed = Followed {
        body: &mut rest,
        course: &course,
    };
    let whole = match body::read(&mut followed, limit, &shared.budget).await {
        Ok(whole) => whole,
        Err(Partial { bytes, reason }) => {
            return match reason {
                Unread::TooLarge => streaming(bytes, rest, NotStored::TooLarge),
                Unread::NoRoom => streaming(bytes, rest, NotStored::NoRoom),
                Unread::Broken => {
                    lane.failed(SendErrorKind::BadResponse);
                    course.ended(Some(SendErrorKind::BadResponse.label()));
                    Dispatched::Unanswered(Cause::Truncated)
                }
            };
        }
    };
    course.ended(None);
    // A copy: the bytes as they were read keep the whole buffer of the connection that they came from, and a store
    // in memory would keep ten times what it counts.
    let body = Bytes::copy_from_slice(&whole.bytes);
    // It is said anew to whom trailers are sent.
    head.headers.remove(TRAILER);
    let mut trailers = whole.trailers;
    if let Some(trailers) = &mut trailers {
        headers::from_upstream_trailers(trailers);
    }
    let says = match is_grpc && head.status == StatusCode::OK {
        true => Says::of(grpc::code(
            &head.headers,
            trailers.as_ref(),
            body.is_empty(),
        )),
        false => Says::Status(head.status.as_u16()),
    };
    let trailers = trailers.unwrap_or_default();
    let recorded = Response {
        trailers: headers::recorded(&trailers, false),
        trace,
        ..Response::new(
            head.status.as_u16(),
            headers::recorded(&head.headers, method == Method::HEAD),
            body.clone(),
        )
    };
    Dispatched::Answered(Box::new(Answered {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
        says,
        recorded: Arc::new(recorded),
        held: whole.held,
        endpoint: rest.endpoint(),
    }))
}

/// Passes an answer on to the client, with at most `patience` from piece to piece, on either side; a client that keeps
/// it waiting for longer sees the answer break off. Where the client is gone, the upstream is read on for that long: to
/// hang up on it might cancel what it is doing.
pub async fn pass(client: Passing, begun: Bytes, mut rest: InBody, patience: Duration) {
    let mut is_listening = begun.is_empty() || client.send(Frame::data(begun)).await;
    while is_listening {
        match timeout(patience, rest.frame()).await {
            Ok(Some(Ok(frame))) => {
                is_listening = timeout(patience, client.send(body::clean(frame))).await == Ok(true);
            }
            Ok(None) => return drop(timeout(patience, client.end()).await),
            Ok(Some(Err(_))) | Err(_) => return,
        }
    }
    drop(client);
    let drain = async { while let Some(Ok(_)) = rest.frame().await {} };
    let _ = timeout(patience, drain).await;
}

/// Whether it is a stream without an end of its own.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
}
