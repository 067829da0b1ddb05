//! Requests that nothing protects: on pass routes, without a key where none is required, or while the store is
//! down where the route says so. Both bodies stream, and a client that leaves takes its request along.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::body::Body;
use super::headers::{self, IDEMPOTENCY_STATUS};
use super::outbound::Outbound;
use super::problem::Problem;
use super::subject::{Lane, Tally};
use super::tunnel::Wish;
use crate::identity::KeySource;
use crate::protocol::Cause;
use crate::route::Policy;
use crate::server::{BodyVerdict, Peer, RequestBody, RequestBodyError};
use crate::telemetry::{Decision, UpstreamError, spans};
use crate::upstream::{Gate, OutBody, SendErrorKind, Tunnel};

/// Forwards a request that its route does not protect.
pub async fn untouched(
    shared: &Shared,
    lane: &Arc<Lane>,
    mut tally: Box<Tally>,
    request: Box<Request<RequestBody>>,
    peer: &Peer,
) -> Response<Body> {
    let counter = tally.counter();
    let body = |body| OutBody::streaming(counter.over(body));
    let response = through(shared, lane, &mut tally, request, peer, body).await;
    tally.decide(Decision::Passthrough);
    response
}

/// Forwards a request around this body; where it wishes for a tunnel and the upstream grants one, that comes about.
pub async fn through(
    shared: &Shared,
    lane: &Lane,
    tally: &mut Tally,
    mut request: Box<Request<RequestBody>>,
    peer: &Peer,
    body: impl FnOnce(RequestBody) -> OutBody,
) -> Response<Body> {
    let wish = Wish::of(&mut request);
    let verdict = request.body().verdict();
    let mut request = prepared(request, peer, body);
    if let Some(wish) = &wish {
        headers::switch(request.headers_mut(), wish.protocols.clone());
    }
    let mut response = forwarded(shared, lane, tally, request, Some(verdict)).await;
    // Only what was wished for is answered so.
    if let Some(far) = response.extensions_mut().remove::<Tunnel>()
        && let Some(wish) = wish
    {
        wish.grant(far, shared.stop.clone());
    }
    response
}

/// Forwards a request that bears no key or no scope, where the route requires none.
pub async fn unkeyed(
    shared: &Shared,
    lane: &Arc<Lane>,
    policy: &Policy,
    mut tally: Box<Tally>,
    request: Box<Request<RequestBody>>,
    peer: &Peer,
) -> Response<Body> {
    let keys = policy.key.clone();
    let verdict = request.body().verdict();
    let counter = tally.counter();
    let request = prepared(request, peer, |body| {
        OutBody::streaming(counter.over(WithoutKey { body, keys }))
    });
    let mut response = forwarded(shared, lane, &mut tally, request, Some(verdict)).await;
    marked(&mut response);
    tally.decide(Decision::Unkeyed);
    response
}

/// Forwards a request that could not be claimed, where the route says that it is to go on without protection.
pub async fn unprotected(
    shared: &Shared,
    lane: &Arc<Lane>,
    mut tally: Box<Tally>,
    outbound: Outbound,
) -> Response<Body> {
    let (request, _held) = outbound.into_request();
    let mut response = forwarded(shared, lane, &mut tally, request, None).await;
    marked(&mut response);
    tally.decide(Decision::Unprotected);
    response
}

fn marked(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers::remove_own_responses(headers);
    headers.insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("unkeyed"));
}

/// The request as its upstream gets it, around this body.
fn prepared(
    request: Box<Request<RequestBody>>,
    peer: &Peer,
    body: impl FnOnce(RequestBody) -> OutBody,
) -> Box<Request<OutBody>> {
    let host = super::host(&request);
    let (mut head, incoming) = request.into_parts();
    headers::to_upstream(
        &mut head.headers,
        &headers::Origin {
            peer,
            host: host.as_ref(),
            version: head.version,
        },
    );
    let mut outgoing = Request::new(body(incoming));
    *outgoing.method_mut() = head.method;
    *outgoing.uri_mut() = target(&head.uri);
    *outgoing.headers_mut() = head.headers;
    Box::new(outgoing)
}

/// The request's target as an upstream gets it: path and query, byte for byte.
pub fn target(uri: &Uri) -> Uri {
    uri.path_and_query()
        .cloned()
        .map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// The upstream's answer, or a refusal.
async fn forwarded(
    shared: &Shared,
    lane: &Lane,
    tally: &mut Tally,
    mut request: Box<Request<OutBody>>,
    verdict: Option<BodyVerdict>,
) -> Response<Body> {
    let head_timeout = lane.route.response_timeout;
    let method = request.method().clone();
    let sent = spans::Sent {
        method: &method,
        upstream: lane.upstream_name(),
    };
    let span = tally.branch().dispatch(request.headers_mut(), sent);
    let started = Instant::now();
    let gate = Gate::open();
    // Pinned, so that the timeout does not move it about.
    let sending = pin!(lane.upstream.send(request, &gate));
    let sent = timeout_at(started + head_timeout, sending).await;
    let took = started.elapsed();
    let answer = sent.as_ref().ok().and_then(|sent| sent.as_ref().ok());
    tally.dispatched(took, answer.and_then(|answer| answer.body().endpoint()));
    let problem = match sent {
        Ok(Ok(response)) => {
            lane.upstream_metrics().observe(took);
            let (mut head, body) = response.into_parts();
            span.answered(spans::Answered {
                status: head.status,
                endpoint: body.endpoint(),
            });
            // The upstream's own would make an answer in HTTP/1.0 end, for the client, wherever it breaks off.
            head.version = Version::HTTP_11;
            let has_body = headers::has_body(&method, head.status);
            let switched = headers::switched(head.status, &head.headers);
            headers::from_upstream(&mut head.headers, has_body, body.size_hint().exact());
            if let Some(protocol) = switched {
                headers::switch(&mut head.headers, protocol);
            }
            return Response::from_parts(head, Body::upstream(body));
        }
        Ok(Err(error)) => {
            lane.failed(error.kind);
            span.failed(error.kind.label());
            match error.kind {
                SendErrorKind::Overloaded => Problem::Overloaded,
                SendErrorKind::RequestBody => Problem::BadRequest,
                _ if error.sent => Problem::UpstreamFailed,
                _ => Problem::UpstreamUnreachable,
            }
        }
        Err(_) => {
            lane.upstream_metrics().error(UpstreamError::Timeout);
            span.failed(Cause::Timeout.name());
            Problem::UpstreamTimeout
        }
    };
    let sent = matches!(problem, Problem::UpstreamFailed | Problem::UpstreamTimeout);
    tracing::warn!(
        route = %lane.route.name, upstream = lane.upstream_name(), problem = problem.slug(), sent,
        "no answer of the upstream",
    );
    let mut refusal = shared.refusal(problem);
    if problem == Problem::BadRequest {
        // A part of it may have been sent.
        let fault = verdict.and_then(|verdict| verdict.fault());
        refusal.detail = Some(fault.map_or_else(
            || "The request's body broke off, or stalled.".to_owned(),
            |fault| fault.to_string(),
        ));
    }
    refusal.unprotected()
}

/// A body whose trailers bear no key: it would be one that the upstream sees and nobody has looked at.
struct WithoutKey {
    body: RequestBody,
    keys: Vec<KeySource>,
}

impl HttpBody for WithoutKey {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            for KeySource::Header(name) in &self.keys {
                headers::remove_read_as(trailers, name);
            }
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
