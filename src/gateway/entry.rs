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
use super::{forwarded, headers};
use crate::protocol::RecordId;
use crate::server::Peer;
use crate::telemetry::{AccessLog, Decision, Hold, Label, Line, Ms, Unrouted, Whom};

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
    trace_id: Option<[u8; 32]>,
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
    /// Where the time went.
    pub spans: Spans,
    /// Counts the request as under way.
    pub in_flight: Option<Hold>,
}

/// Where the time of a request went; `None`: nothing of the kind took place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans {
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
    problem: Option<&'static str>,
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
    pub fn begin<B>(log: &Arc<AccessLog>, request: &Request<B>, peer: &Peer) -> Arc<Self> {
        Arc::new(Self::of(log, request, peer))
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
            trace_id: trace_id(request.headers()),
            bytes_in: AtomicU64::new(0),
            outcome: OnceLock::new(),
            observed: OnceLock::new(),
            sent: OnceLock::new(),
        }
    }

    /// What is no request: its line bears no method and no path.
    #[must_use]
    pub fn unread(log: &Arc<AccessLog>, peer: &Peer) -> Arc<Self> {
        let mut unread = Request::new(());
        *unread.method_mut() = Method::from_bytes(b"-").expect("a hyphen is a token");
        let mut entry = Self::of(log, &unread, peer);
        entry.path = None;
        Arc::new(entry)
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
            spans: Spans::default(),
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

    fn write(&self, outcome: &Outcome, sent: &Sent) {
        if !self.log.takes(is_ordinary(outcome, sent), sent.total) {
            return;
        }
        let lane = outcome.lane.as_deref();
        let key_ref = lane
            .zip(outcome.id)
            .map(|(lane, id)| lane.identifier.key_ref(&id));
        let spans = &outcome.spans;
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
            decision: match (self.observed.get(), &outcome.became) {
                (Some(decision), _) | (None, Became::Decided(decision)) => decision.name(),
                (None, Became::Unrouted(reason)) => reason.name(),
            },
            problem: sent.problem,
            key_ref,
            fence: outcome.fence,
            upstream: lane.filter(|_| outcome.dispatched).map(Lane::upstream_name),
            endpoint: outcome.endpoint,
            total_ms: Ms(sent.total),
            overhead_ms: spans.overhead.map(Ms),
            body_ms: spans.body.map(Ms),
            waited_ms: spans.waited.map(Ms),
            store_ms: spans.store.map(Ms),
            upstream_ms: spans.upstream.map(Ms),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: sent.bytes,
            end: match sent.end {
                End::Whole => None,
                End::ClientGone => Some("client_gone"),
                End::BrokenOff => Some("broken_off"),
            },
            trace_id: self
                .trace_id
                .as_ref()
                .and_then(|id| std::str::from_utf8(id).ok()),
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let (Some(outcome), Some(sent)) = (self.outcome.get(), self.sent.get()) {
            self.observe(outcome, sent);
            self.write(outcome, sent);
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
    let is_error = sent.status.is_none_or(|status| status.is_server_error());
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

/// The trace id of W3C Trace Context, version 00; anything else is none, so that nothing but 32 hex digits of a
/// client's making gets into a line.
fn trace_id(headers: &HeaderMap) -> Option<[u8; 32]> {
    let value = headers.get("traceparent")?.as_bytes();
    let (version, rest) = value.split_at_checked(3)?;
    let (id, rest) = rest.split_first_chunk::<32>()?;
    let is_whole = version == b"00-" && rest.len() == 20 && rest[0] == b'-';
    let is_hex = id
        .iter()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_whole && is_hex).then_some(*id)
}

/// An answer on its way to the client. Dropped before its end, it says that the client has left.
pub struct Sending {
    entry: Arc<Entry>,
    status: Option<StatusCode>,
    problem: Option<&'static str>,
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
            problem: None,
            bytes: 0,
            end: End::ClientGone,
        }
    }

    /// The answer has begun.
    pub fn begin(&mut self, status: StatusCode, problem: Option<&'static str>, is_empty: bool) {
        self.status = Some(status);
        self.problem = problem;
        if is_empty || !headers::has_body(&self.entry.method, status) {
            self.end = End::Whole;
        }
    }

    /// A piece of its body was given, after which it is over or not; or the body came to an end, or failed.
    pub fn given<E>(&mut self, piece: Option<&Result<Frame<Bytes>, E>>, is_over: bool) {
        match piece {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if is_over {
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
            problem: self.problem,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trace_id_is_taken_from_a_traceparent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (value, expected) in [
            (format!("00-{id}-00f067aa0ba902b7-01"), Some(id)),
            (format!("01-{id}-00f067aa0ba902b7-01"), None),
            (format!("00-{id}-00f067aa0ba902b7-01-more"), None),
            (format!("00-{}-00f067aa0ba902b7-01", "Z".repeat(32)), None),
            (format!("00-{id}"), None),
            ("secret".to_owned(), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", value.parse().unwrap());
            let found = trace_id(&headers);
            assert_eq!(
                found,
                expected.map(|id| id.as_bytes().try_into().unwrap()),
                "{value}"
            );
        }
    }
}
