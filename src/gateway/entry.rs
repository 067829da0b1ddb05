//! What is remembered of one request for metrics and the access log, from its head to the end of its answer.
//!
//! It is shared by what decides upon the request ([`super::subject::Tally`]) and by what gives the answer
//! ([`Sending`]); they may end in either order, for an attempt outlives its client. When nobody holds it any more,
//! everything is known, and it is counted and written. Keys, credentials, bodies and queries never come here.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::subject::Lane;
use super::{forwarded, grpc, headers};
use crate::identity::KeyRef;
use crate::protocol::{Cause, RecordId, TraceRef};
use crate::server::Peer;
use crate::telemetry::spans::{self, Branch, RequestSpan};
use crate::telemetry::{AccessLog, Decision, Hex, Hold, Label, Line, Ms, Unrouted, Whom};

/// The longest method that is written, in bytes.
const METHOD_MAX: usize = 32;

/// The longest path that is written, in bytes: what a line may cost is not for clients to say.
const PATH_MAX: usize = 1024;

/// What is remembered of one request.
pub struct Entry {
    log: Arc<AccessLog>,
    started: Instant,
    peer: Peer,
    /// The client's address, where proxies before this one tell it.
    client: Option<IpAddr>,
    version: Version,
    method: Method,
    path: Option<Box<str>>,
    span: RequestSpan,
    /// Bytes of the request's body that were read.
    bytes_in: AtomicU64,
    outcome: OnceLock<Outcome>,
    /// What an observed request counts as.
    observed: OnceLock<Decision>,
    sent: OnceLock<Sent>,
}

/// What became of a request.
pub enum Became {
    /// It was decided upon.
    Decided(Decision),
    /// It was not.
    Unrouted(Unrouted),
}

/// What is known of a request once it is decided upon.
pub struct Outcome {
    /// What became of it.
    pub became: Became,
    /// Its route.
    pub lane: Option<Arc<Lane>>,
    /// Its operation, where it is known.
    pub id: Option<RecordId>,
    /// The number of its claim.
    pub fence: Option<u64>,
    /// Whether it was handed to the upstream.
    pub dispatched: bool,
    /// The address that answered.
    pub endpoint: Option<SocketAddr>,
    /// Why nobody knows what came of it, where it has met the reason itself.
    pub unknown: Option<Cause>,
    /// Where the time went.
    pub times: Times,
    /// Counts the request as under way.
    pub in_flight: Option<Hold>,
}

impl Outcome {
    fn key_ref(&self) -> Option<KeyRef> {
        let lane = self.lane.as_deref().zip(self.id);
        lane.map(|(lane, id)| lane.identifier.key_ref(&id))
    }
}

/// Where the time of a request went; `None`: nothing of the kind took place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// What is left up to the head of the answer.
    pub overhead: Option<Duration>,
    /// Until the request's body was in, where it is held.
    pub body: Option<Duration>,
    /// For another attempt.
    pub waited: Option<Duration>,
    /// For the store.
    pub store: Option<Duration>,
    /// For the upstream.
    pub upstream: Option<Duration>,
}

/// What of the answer the client was given.
struct Sent {
    status: Option<StatusCode>,
    /// Of a call of gRPC.
    grpc_status: Option<grpc::Code>,
    problem: Option<&'static str>,
    replay_of: Option<TraceRef>,
    bytes: u64,
    end: End,
    /// From the request's head until then.
    total: Duration,
}

/// How the giving of an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    ClientGone,
    BrokenOff,
}

impl Entry {
    /// A request whose head has just been read.
    #[must_use]
    pub fn begin<B>(
        log: &Arc<AccessLog>,
        spans: &spans::Spans,
        request: &Request<B>,
        peer: &Peer,
    ) -> Arc<Self> {
        let mut entry = Self::of(log, request, peer);
        let client = entry.client.or(peer.addr.map(|addr| addr.ip()));
        let begun = spans::Begun {
            client,
            is_encrypted: peer.is_encrypted(),
            shows_path: log.shows_path(),
        };
        entry.span = spans.request(request, begun);
        Arc::new(entry)
    }

    fn of<B>(log: &Arc<AccessLog>, request: &Request<B>, peer: &Peer) -> Self {
        Self {
            log: Arc::clone(log),
            started: Instant::now(),
            peer: peer.clone(),
            client: forwarded::client(request.headers(), peer),
            version: request.version(),
            method: request.method().clone(),
            // Copied, for it would keep the buffer that the whole head was read into.
            path: log
                .bears_path()
                .then(|| clip(request.uri().path(), PATH_MAX).into()),
            span: RequestSpan::default(),
            bytes_in: AtomicU64::new(0),
            outcome: OnceLock::new(),
            observed: OnceLock::new(),
            sent: OnceLock::new(),
        }
    }

    /// What is no request: its line bears no path, and no method but HEAD, whose answer is whole without a body.
    #[must_use]
    pub fn unread(log: &Arc<AccessLog>, is_head: bool, peer: &Peer) -> Arc<Self> {
        let mut unread = Request::new(());
        *unread.method_mut() = match is_head {
            true => Method::HEAD,
            false => Method::from_bytes(b"-").expect("a hyphen is a token"),
        };
        let mut entry = Self::of(log, &unread, peer);
        entry.path = None;
        Arc::new(entry)
    }

    /// Where in a trace that is done which is done for it.
    #[must_use]
    pub fn branch(&self) -> Branch {
        self.span.branch()
    }

    /// When its head had been read.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// So much more of its body was read.
    pub fn read(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// This became of it; the first word counts.
    pub fn decided(&self, outcome: Outcome) {
        // One request has one tally.
        let _ = self.outcome.set(outcome);
    }

    /// This is what an observed request counts as.
    pub fn observed(&self, decision: Decision) {
        let _ = self.observed.set(decision);
    }

    /// No route has it.
    pub fn unrouted(&self, reason: Unrouted) {
        self.decided(Outcome {
            became: Became::Unrouted(reason),
            lane: None,
            id: None,
            fence: None,
            dispatched: false,
            endpoint: None,
            unknown: None,
            times: Times::default(),
            in_flight: None,
        });
    }

    fn observe(&self, outcome: &Outcome, sent: &Sent) {
        if let Some(lane) = &outcome.lane {
            let metrics = lane.metrics();
            metrics.request_body(self.bytes_in.load(Ordering::Relaxed));
            if sent.status.is_some() {
                metrics.response_body(sent.bytes);
            }
        }
    }

    fn client(&self) -> Whom {
        match (self.client, self.peer.addr) {
            (Some(client), _) => Whom::Ip(client),
            (None, Some(addr)) => Whom::Socket(addr),
            (None, None) => Whom::Unix,
        }
    }

    /// What it counts as, or why it was not decided upon.
    fn decision(&self, outcome: &Outcome) -> Result<Decision, Unrouted> {
        match (self.observed.get(), &outcome.became) {
            (Some(decision), _) | (None, Became::Decided(decision)) => Ok(*decision),
            (None, Became::Unrouted(reason)) => Err(*reason),
        }
    }

    /// What its span says at its end.
    fn ended<'a>(&'a self, outcome: &'a Outcome, sent: &Sent) -> spans::Ended<'a> {
        let decision = self.decision(outcome);
        let route = outcome.lane.as_ref().map(|lane| &lane.route);
        spans::Ended {
            method: &self.method,
            route: route.map(|route| (&*route.name, &route.matcher.path)),
            status: sent.status,
            grpc_status: sent.grpc_status,
            decision: decision.map_or_else(Label::name, Label::name),
            is_unknown: decision == Ok(Decision::Unknown),
            unknown: outcome.unknown,
            operation_state: decision.ok().and_then(operation_state),
            problem: sent.problem,
            key_ref: outcome.key_ref(),
            fence: outcome.fence,
            replay_of: sent.replay_of,
        }
    }

    fn write(&self, outcome: &Outcome, sent: &Sent, at: Option<TraceRef>) {
        if !self.log.takes(is_ordinary(outcome, sent), sent.total) {
            return;
        }
        let lane = outcome.lane.as_deref();
        let times = &outcome.times;
        self.log.write(&Line {
            client: self.client(),
            proxy: match self.client {
                Some(_) => self.peer.addr,
                None => self.peer.proxy,
            },
            listener: &self.peer.local,
            protocol: protocol(self.version),
            method: clip(self.method.as_str(), METHOD_MAX),
            path: self.path.as_deref(),
            route: lane.map(|lane| &*lane.route.name),
            status: sent.status.map(|status| status.as_u16()),
            grpc_status: sent.grpc_status,
            decision: self.decision(outcome).map_or_else(Label::name, Label::name),
            problem: sent.problem,
            key_ref: outcome.key_ref(),
            fence: outcome.fence,
            upstream: lane.filter(|_| outcome.dispatched).map(Lane::upstream_name),
            endpoint: outcome.endpoint,
            total_ms: Ms(sent.total),
            overhead_ms: times.overhead.map(Ms),
            body_ms: times.body.map(Ms),
            waited_ms: times.waited.map(Ms),
            store_ms: times.store.map(Ms),
            upstream_ms: times.upstream.map(Ms),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: sent.bytes,
            end: match sent.end {
                End::Whole => None,
                End::ClientGone => Some("client_gone"),
                End::BrokenOff => Some("broken_off"),
            },
            trace_id: at.map(|at| Hex(at.trace_id)),
            span_id: at.map(|at| Hex(at.span_id)),
            origin_trace_id: sent.replay_of.map(|origin| Hex(origin.trace_id)),
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut span = std::mem::take(&mut self.span);
        if let (Some(outcome), Some(sent)) = (self.outcome.get(), self.sent.get()) {
            self.observe(outcome, sent);
            self.write(outcome, sent, span.at());
            span.end(|| self.ended(outcome, sent));
        }
    }
}

/// Whether a line says nothing but that all is well.
fn is_ordinary(outcome: &Outcome, sent: &Sent) -> bool {
    let is_usual = matches!(
        outcome.became,
        Became::Decided(
            Decision::Passthrough
                | Decision::Executed
                | Decision::Replayed
                | Decision::Joined
                | Decision::Unkeyed
                | Decision::Observed
        ) | Became::Unrouted(Unrouted::KeyIssued | Unrouted::Preflight)
    );
    let is_error = sent.status.is_none_or(|status| status.is_server_error())
        || sent
            .grpc_status
            .is_some_and(|code| code.http_status() >= 500);
    is_usual && !is_error && sent.problem.is_none() && sent.end == End::Whole
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// The beginning of a text, in whole characters.
fn clip(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// How the operation stands after that, as refusals say it; `None` where there is none.
fn operation_state(decision: Decision) -> Option<&'static str> {
    match decision {
        Decision::Executed
        | Decision::Replayed
        | Decision::Joined
        | Decision::Unrecorded
        | Decision::NotStored
        | Decision::Expired => Some("completed"),
        Decision::InProgress => Some("in_progress"),
        Decision::Unknown => Some("unknown"),
        Decision::Released
        | Decision::UpstreamUnreachable
        | Decision::KeyMissing
        | Decision::KeyInvalid => Some("none"),
        Decision::Mismatch
        | Decision::ScopeMissing
        | Decision::BodyTooLarge
        | Decision::StoreUnavailable
        | Decision::Overloaded => Some("undetermined"),
        Decision::Passthrough
        | Decision::Unkeyed
        | Decision::Unprotected
        | Decision::Observed
        | Decision::ObservedDuplicate => None,
    }
}

/// What an answer says of itself, besides what its client sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    /// The slug, where it is a refusal.
    pub problem: Option<&'static str>,
    /// Whose answer it is, where it was recorded.
    pub replay_of: Option<TraceRef>,
}

/// An answer on its way to the client. Dropped before its end, it says that the client has left.
pub struct Sending {
    entry: Arc<Entry>,
    status: Option<StatusCode>,
    /// Whether it answers a call of gRPC.
    is_call: bool,
    grpc_status: Option<grpc::Code>,
    problem: Option<&'static str>,
    replay_of: Option<TraceRef>,
    bytes: u64,
    end: End,
}

impl Sending {
    /// There is no answer yet.
    #[must_use]
    pub fn new(entry: Arc<Entry>) -> Self {
        Self {
            entry,
            status: None,
            is_call: false,
            grpc_status: None,
            problem: None,
            replay_of: None,
            bytes: 0,
            end: End::ClientGone,
        }
    }

    /// The answer is a call's, and has this head, whose code counts where nothing comes behind it.
    pub fn answers_call(&mut self, head: &HeaderMap) {
        self.is_call = true;
        self.grpc_status = grpc::code(head, None, true);
    }

    /// The answer has begun.
    pub fn begin(&mut self, status: StatusCode, about: About, is_empty: bool) {
        self.status = Some(status);
        self.problem = about.problem;
        self.replay_of = about.replay_of;
        if is_empty || !headers::has_body(&self.entry.method, status) {
            self.end = End::Whole;
        }
    }

    /// A piece of its body was given, after which it is over or not; or the body came to an end, or failed.
    pub fn given<E>(&mut self, piece: Option<&Result<Frame<Bytes>, E>>, is_over: bool) {
        match piece {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.is_call {
                    self.grpc_status = grpc::code(&HeaderMap::new(), frame.trailers_ref(), false);
                }
                // Nothing comes behind trailers, and nobody asks whether it does.
                if is_over || frame.is_trailers() {
                    self.end = End::Whole;
                }
            }
            Some(Err(_)) => self.end = End::BrokenOff,
            None if self.end == End::ClientGone => self.end = End::Whole,
            None => {}
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // One request has one answer.
        let _ = self.entry.sent.set(Sent {
            status: self.status,
            grpc_status: self.grpc_status,
            problem: self.problem,
            replay_of: self.replay_of,
            bytes: self.bytes,
            end: self.end,
            total: self.entry.started.elapsed(),
        });
    }
}

/// Counts the bytes of a request's body.
pub struct Counter(pub Arc<Entry>);

impl Counter {
    /// This body's.
    pub fn over<B>(self, body: B) -> Counted<B> {
        Counted {
            body,
            entry: self.0,
        }
    }
}

/// A request's body on its way through, counted as it is read; its trailers say nothing but what a client's may.
pub struct Counted<B> {
    body: B,
    entry: Arc<Entry>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame {
            if let Some(data) = frame.data_ref() {
                self.entry.read(data.len() as u64);
            } else if let Some(trailers) = frame.trailers_mut() {
                headers::to_upstream_trailers(trailers);
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
