//! One connection of a client, from its first byte to its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use http::header::{CONNECTION, COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::activity::{Activity, Judgement};
use super::addresses::{AddressPlace, Crowded};
use super::body::{Patience, RequestBody};
use super::entrance::{self, NotOpened, Opening};
use super::flow::{ResponseBody, Streams};
use super::frames::Frames;
use super::pieces::Pieces;
use super::rate::LeastRate;
use super::refusal;
use super::socket::{Input, Socket};
use super::stream::{Raw, Stream};
use super::tls;
use super::upgrade::Upgrade;
use super::wire::{Findings, MAX_LINES, Wire};
use super::{
    Closed, Drain, Fault, Handler, Limit, Peer, Refused, Shared, begins, reaches, refuses,
};
use crate::config::{Http2Limits, Limits};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest head of a request, in bytes, in both protocols; a larger one is answered with 431.
pub(super) const MAX_HEAD: u32 = 64 * 1024;

/// Bytes of one HTTP/2 response that are held until the client takes them.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// What is read at first to tell the protocol by; most requests fit, so that it is no extra read.
const FIRST_READ: usize = 4096;

/// How long a client whose connection was still taken has for the beginning of its request when no more are: it may be on
/// its way, and it was not told of a drain.
const LAST_FIRST_BYTE: Duration = Duration::from_secs(1);

/// Serves a connection until it ends, one of the limits is over, or a drain has let it finish.
pub(super) async fn serve<H: Handler>(
    raw: Raw,
    mut peer: Peer,
    mut place: Option<AddressPlace>,
    shared: Arc<Shared>,
    handler: H,
    mut drain: Drain,
) {
    let (limits, closed) = (&shared.limits.load_full(), &shared.closed);
    let opening = Opening {
        limits,
        handshakes: &shared.handshakes,
    };
    let begun = Box::pin(async {
        let mut stream = entrance::open(raw, &mut peer, opening).await?;
        // Only now is it known whose it is.
        if peer.proxy.is_some() {
            match shared.addresses.place(&peer) {
                Ok(taken) => place = taken,
                Err(Crowded) => {
                    shared.refused[Refused::Address as usize].fetch_add(1, Ordering::Relaxed);
                    if let Ok(_place) = shared.refusal_places.try_acquire() {
                        refusal::tell(stream, &shared.refusal.load()).await;
                    }
                    return Err(NotOpened::Unfit);
                }
            }
        }
        let first = timeout(limits.first_byte, detect(&mut stream)).await;
        let first = first.map_err(|_| NotOpened::Silent(Limit::FirstByte))??;
        Ok((stream, first.ok_or(NotOpened::Unfit)?))
    });
    let begun = tokio::select! {
        biased;
        begun = begun => begun,
        () = async { refuses(&mut drain).await; sleep(LAST_FIRST_BYTE).await } => return,
    };
    let (stream, (is_http2, first)) = match begun {
        Ok(begun) => begun,
        Err(NotOpened::Silent(limit)) => return closed.count(limit),
        Err(NotOpened::Unfit) => return,
    };
    let least_sent = LeastRate::sending(limits);
    let activity = Activity::new(is_http2, least_sent, Arc::clone(closed));
    let findings = (!is_http2).then(Arc::<Findings>::default);
    let input = match &findings {
        Some(findings) => Input::Http1(Wire::new(first, Arc::clone(findings))),
        None => Input::Http2(first, Frames::new(), Pieces::behind(PREFACE.len())),
    };
    let io = TokioIo::new(Socket::new(input, stream, Arc::clone(&activity)));
    let client = peer.addr;
    let answer = {
        let (activity, shared) = (Arc::clone(&activity), Arc::clone(&shared));
        move |request| {
            let limits = shared.limits.load();
            let context = Context {
                peer: peer.clone(),
                patience: Patience {
                    idle: limits.body_idle,
                    least: LeastRate::receiving(&limits),
                },
                activity: Arc::clone(&activity),
                findings: findings.clone(),
            };
            answer(handler.clone(), request, context)
        }
    };
    let rules = Rules {
        activity: &activity,
        limits: &shared.limits,
        closed,
        drain: &drain,
    };
    if is_http2 {
        let service = service_fn(move |request: Request<Incoming>| {
            let is_head = request.method() == Method::HEAD;
            answer(request).map_ok(move |response| match is_head {
                true => ResponseBody::head_alone(response),
                false => response.map(ResponseBody::new),
            })
        });
        let streams = Streams::new(Arc::clone(&activity));
        let connection = http2_builder(streams, &limits.http2).serve_connection(io, service);
        rules
            .enforce(Box::pin(connection), http2::Connection::graceful_shutdown)
            .await;
        if activity.is_flooded() {
            closed.count_flood();
            let client = client.map(tracing::field::display);
            tracing::debug!(client, "an HTTP/2 client flooded");
        }
    } else {
        let connection = http1_builder()
            .serve_connection(io, service_fn(answer))
            .with_upgrades();
        rules
            .enforce(
                Box::pin(connection),
                http1::UpgradeableConnection::graceful_shutdown,
            )
            .await;
        if let Some(tunnel) = activity.tunnel() {
            // It may go on until the drain's deadline: nobody can be told to end what is not HTTP.
            rules.enforce(Box::pin(tunnel), |_| {}).await;
        }
    }
}

/// Reads until it is clear whether the client speaks HTTP/2; `None` where it left before that. Under TLS it has chosen
/// (RFC 9113, section 3.2), and is held to that.
async fn detect(stream: &mut Stream) -> io::Result<Option<(bool, Bytes)>> {
    match stream {
        Stream::Plain(raw) => told_by_preface(raw).await,
        Stream::Tls(stream) => {
            let is_http2 = tls::speaks_http2(stream);
            let mut first = BytesMut::with_capacity(FIRST_READ);
            let count = stream.read_buf(&mut first).await?;
            Ok((count > 0).then(|| (is_http2, first.freeze())))
        }
    }
}

async fn told_by_preface(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(bool, Bytes)>> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Ok(None);
        }
        if first.starts_with(PREFACE) {
            return Ok(Some((true, first.freeze())));
        }
        if !PREFACE.starts_with(&first) {
            return Ok(Some((false, first.freeze())));
        }
    }
}

/// Where a request came from.
struct Context {
    peer: Peer,
    patience: Patience,
    activity: Arc<Activity>,
    /// Over HTTP/1.
    findings: Option<Arc<Findings>>,
}

/// What hyper calls for each request.
fn answer<H: Handler>(
    handler: H,
    mut request: Request<Incoming>,
    context: Context,
) -> impl Future<
    Output = Result<
        Response<impl Body<Data = Bytes, Error = <H::Body as Body>::Error> + use<H>>,
        Infallible,
    >,
> + Send
+ use<H> {
    let Context {
        peer,
        patience,
        activity,
        findings,
    } = context;
    Upgrade::offer(&mut request, &activity);
    let (request_half, response_half) = activity.begin(!request.body().is_end_stream());
    let connection = Arc::clone(&activity);
    let call = findings.as_ref().map(|findings| findings.call());
    // Over HTTP/1 the wire has counted them; h2 counts bytes alone.
    let fault = match call {
        Some((_, fault)) => fault,
        None => (lines_of(request.headers()) > MAX_LINES).then_some(Fault::HeadLines),
    };
    let told = findings.clone();
    // Before the future begins, which is then not to bear it.
    let request =
        Box::new(request.map(|incoming| {
            RequestBody::new(incoming, patience, activity, request_half, findings)
        }));
    async move {
        let mut response = match fault {
            Some(fault) => {
                let is_head = request.method() == Method::HEAD;
                drop(request);
                handler.malformed(fault, is_head, peer)
            }
            None => handler.handle(request, peer).await,
        };
        let is_tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        // The handler has had enough of this connection, whatever the client is still sending.
        if !is_tunnel && response.headers().contains_key(CONNECTION) {
            connection.leave_unread();
        }
        if connection.is_ending() && !is_tunnel {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if let (Some(findings), Some((number, _))) = (&told, call) {
            findings.answered(number, is_tunnel);
        }
        Ok(response.map(|body| {
            body.map_err(move |error| {
                // The half lives as long as the body.
                let _ = &response_half;
                error
            })
        }))
    }
}

/// Header lines as HTTP/1 would have them: one for all cookies, which HTTP/2 may split (RFC 9113, section 8.2.3), and
/// `Host`, which is `:authority` there.
fn lines_of(headers: &HeaderMap) -> usize {
    let cookies = headers.get_all(COOKIE).iter().count();
    let host = usize::from(!headers.contains_key(HOST));
    headers.len() - cookies.saturating_sub(1) + host
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(MAX_HEAD as usize)
        // hyper's own timeout would also end connections that are idle between requests.
        .header_read_timeout(None);
    builder
}

fn http2_builder(streams: Streams, limits: &Http2Limits) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(limits.streams)
        // Where we are late, streams whose deadline is over have not been looked at; who resets them for nothing is
        // known by `Frames`.
        .max_pending_accept_reset_streams(limits.streams as usize)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.ping_timeout);
    builder
}

/// What a connection must keep to.
struct Rules<'a> {
    activity: &'a Activity,
    limits: &'a ArcSwap<Limits>,
    closed: &'a Closed,
    drain: &'a Drain,
}

/// What a connection was told of a drain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    /// By the answer to its next request, which is the last one.
    WithItsNextAnswer,
    Goodbye,
}

/// What a connection is stopped for.
enum Due {
    /// A drain has something to say.
    Word,
    /// It is time to look what it is doing.
    Look,
}

impl Rules<'_> {
    /// Polls `connection` until it ends or has to be dropped; `say_goodbye` makes it end when it next can.
    ///
    /// Boxed, as what came before HTTP is: a future that bears one as an argument has room for it twice, and there are as many
    /// as connections.
    async fn enforce<C: Future>(
        &self,
        mut connection: Pin<Box<C>>,
        say_goodbye: impl Fn(Pin<&mut C>),
    ) {
        // It polls what was woken: what waits for hours beside a busy connection costs that next to nothing.
        let mut beside =
            FuturesUnordered::from_iter([self.word(Told::Nothing), self.look(Instant::now())]);
        let mut ends_by = None;
        let mut told = Told::Nothing;
        loop {
            let due = tokio::select! {
                biased;
                // What it ended with concerns nobody: the client has gone, or was answered by hyper.
                _ = connection.as_mut() => return,
                Some(due) = beside.next() => due,
            };
            match due {
                Due::Word => {
                    // HTTP/2 says which requests were heard; over HTTP/1 a goodbye may cross with one.
                    told = match told {
                        Told::Nothing if !self.activity.is_http2() => Told::WithItsNextAnswer,
                        _ => Told::Goodbye,
                    };
                    if told == Told::Goodbye {
                        say_goodbye(connection.as_mut());
                    } else {
                        self.activity.end();
                        beside.push(self.word(told));
                    }
                }
                Due::Look => match self.activity.judge(&self.limits.load()) {
                    Judgement::Fine(next) => beside.push(self.look(Instant::now() + next)),
                    Judgement::Stalled(limit) => return self.closed.count(limit),
                    Judgement::Close(limit) => {
                        let now = Instant::now();
                        let ends_by = *ends_by.get_or_insert_with(|| {
                            self.closed.count(limit);
                            say_goodbye(connection.as_mut());
                            now + self.limits.load().headers
                        });
                        if ends_by <= now {
                            return;
                        }
                        beside.push(self.look(ends_by));
                    }
                },
            }
        }
    }

    fn look(&self, at: Instant) -> BoxFuture<'static, Due> {
        sleep_until(at).map(|()| Due::Look).boxed()
    }

    /// There is something to tell a connection about a drain, which was told this.
    fn word(&self, told: Told) -> BoxFuture<'static, Due> {
        let mut drain = self.drain.clone();
        async move {
            match told {
                Told::Nothing => begins(&mut drain).await,
                _ => reaches(&mut drain, |ending| ending.idle_until).await,
            }
            Due::Word
        }
        .boxed()
    }
}
