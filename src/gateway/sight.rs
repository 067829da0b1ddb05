//! What is seen of an observed request on its way. Both bodies pass through here as they come, and what they were is
//! told to the observation. Nothing in here waits, refuses or changes a byte.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{oneshot, watch};

use super::body::Body;
use super::dispatch::{Says, is_event_stream};
use super::grpc::{self, Code};
use super::problem::{Problem, Said};
use super::protect::names_key;
use super::subject::Lane;
use crate::identity::{BodyRule, FingerprintRules, FingerprintUnderWay};
use crate::protocol::{Cause, Fingerprint, NotStored};
use crate::server::{Budget, Held, RequestBody, RequestBodyError};
use crate::upstream::{AnswerBroken, InBody};

/// What was seen of a request's body. One that was not seen to its end is told of by nobody.
pub enum Payload {
    /// All of it.
    Whole(Box<Print>),
    /// It is longer than the route would take.
    TooLarge,
    /// There is a key in its trailers.
    KeyInTrailer,
    /// There was no room for the copy that its rules need.
    NoRoom,
}

/// A fingerprint that lacks at most a JSON body, which stands beside it.
pub struct Print {
    under_way: FingerprintUnderWay,
    body: Counted,
}

/// What of the body counts.
enum Counted {
    /// Nothing.
    Not,
    /// Its bytes, which are hashed as they pass.
    Bytes,
    /// Its value: it can only be read as a whole.
    Json(BytesMut, Held),
}

impl Print {
    /// The head of the request is in `under_way`; copies for JSON come out of the budget's spare half.
    #[must_use]
    pub fn new(rule: BodyRule, under_way: FingerprintUnderWay, budget: &Arc<Budget>) -> Box<Self> {
        let body = match rule {
            BodyRule::None => Counted::Not,
            BodyRule::Bytes => Counted::Bytes,
            BodyRule::Json => Counted::Json(BytesMut::new(), budget.hold()),
        };
        // Boxed: a hash under way is a kilobyte, and it is handed on.
        Box::new(Self { under_way, body })
    }

    /// The fingerprint of the whole request.
    #[must_use]
    pub fn fingerprint(self, rules: &FingerprintRules) -> Fingerprint {
        match self.body {
            Counted::Not | Counted::Bytes => self.under_way.finish(),
            Counted::Json(body, _held) => self.under_way.finish_json(rules, &body),
        }
    }

    /// False where there is no room for the piece.
    fn take(&mut self, piece: &Bytes) -> bool {
        match &mut self.body {
            Counted::Not => {}
            Counted::Bytes => self.under_way.piece(piece),
            Counted::Json(body, held) => {
                if !held.grow_spare(piece.len() as u64) {
                    return false;
                }
                body.extend_from_slice(piece);
            }
        }
        true
    }
}

/// Sees what passes of a request's body.
pub struct PayloadWatch {
    lane: Arc<Lane>,
    length: u64,
    /// Gone once there is something to tell.
    waiting: Option<(Box<Print>, oneshot::Sender<Payload>)>,
}

impl PayloadWatch {
    /// Tells `seen` what the body was, as soon as that is known; drops it where the body does not come to its end.
    #[must_use]
    pub fn new(lane: Arc<Lane>, print: Box<Print>, seen: oneshot::Sender<Payload>) -> Self {
        Self {
            lane,
            length: 0,
            waiting: Some((print, seen)),
        }
    }

    /// The body to forward.
    #[must_use]
    pub fn over(mut self, body: RequestBody) -> WatchedPayload {
        if body.size_hint().lower() > self.lane.policy().max_request_body {
            self.tell(Payload::TooLarge);
        }
        WatchedPayload { body, watch: self }
    }

    fn data(&mut self, piece: &Bytes) {
        self.length += piece.len() as u64;
        if self.length > self.lane.policy().max_request_body {
            self.tell(Payload::TooLarge);
        } else if let Some((print, _)) = &mut self.waiting
            && !print.take(piece)
        {
            self.tell(Payload::NoRoom);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if names_key(self.lane.policy(), Some(trailers)) {
            self.tell(Payload::KeyInTrailer);
        }
        // Nothing comes after them, and nobody need ask.
        self.whole();
    }

    fn whole(&mut self) {
        if let Some((print, seen)) = self.waiting.take() {
            let _ = seen.send(Payload::Whole(print));
        }
    }

    /// The observation may have been cut short by now.
    fn tell(&mut self, payload: Payload) {
        if let Some((_, seen)) = self.waiting.take() {
            let _ = seen.send(payload);
        }
    }
}

/// A request's body on its way to the upstream.
pub struct WatchedPayload {
    body: RequestBody,
    watch: PayloadWatch,
}

impl HttpBody for WatchedPayload {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    this.watch.data(piece);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.watch.trailers(trailers);
                }
                // Whoever knows the length does not ask for more.
                if this.body.is_end_stream() {
                    this.watch.whole();
                }
            }
            Some(Err(_)) => this.watch.waiting = None,
            None => this.watch.whole(),
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

impl Drop for WatchedPayload {
    fn drop(&mut self) {
        // An empty body is asked for nothing.
        if self.body.is_end_stream() {
            self.watch.whole();
        }
    }
}

/// How an observed request ended. Of one that was not seen to its end, because its client left, nobody tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer.
    Answered {
        /// The HTTP status.
        status: u16,
        /// What it says about the operation.
        says: Says,
        /// Why a record could not hold the answer.
        not_stored: Option<NotStored>,
    },
    /// Nothing was sent.
    NotSent,
    /// It was sent, perhaps in part, and no whole answer came.
    Unanswered(Cause),
    /// Its body broke off, or stalled.
    BodyBroken,
}

/// Where it is told how a request ended.
pub type Ended = watch::Sender<Option<Ending>>;

/// Tells `ended` how the request ended, at the moment at which a record would be made of it: at the end of the
/// answer, or where it turns out that it is not held that long.
///
/// `is_grpc`: it answers a call of gRPC.
pub fn answer(response: Response<Body>, is_grpc: bool, limit: u64, ended: Ended) -> Response<Body> {
    if let Some(said) = response.extensions().get::<Said>() {
        ended.send_replace(Some(refused(said.problem)));
        return response;
    }
    let mut watch = AnswerWatch {
        status: response.status().as_u16(),
        call: (is_grpc && response.status() == StatusCode::OK)
            .then(|| grpc::code(response.headers(), None, true)),
        limit,
        left: limit,
        ended: Some(ended),
    };
    if is_event_stream(response.headers()) {
        watch.tell(NotStored::Streaming);
    }
    response.map(|body| body.watched(|body| Watched::new(body, watch)))
}

fn refused(problem: Problem) -> Ending {
    match problem {
        Problem::UpstreamFailed => Ending::Unanswered(Cause::ConnectionLost),
        Problem::UpstreamTimeout => Ending::Unanswered(Cause::Timeout),
        Problem::BadRequest => Ending::BodyBroken,
        _ => Ending::NotSent,
    }
}

/// An upstream's answer on its way to the client.
pub struct Watched {
    body: InBody,
    watch: AnswerWatch,
}

struct AnswerWatch {
    status: u16,
    /// Of a call of gRPC: the code that its head bears, which counts where nothing comes behind it.
    call: Option<Option<Code>>,
    /// Bytes that a record would hold.
    limit: u64,
    /// Those that it would still hold.
    left: u64,
    /// Gone once there is something to tell.
    ended: Option<Ended>,
}

impl AnswerWatch {
    /// The answer is not held to its end.
    fn tell(&mut self, reason: NotStored) {
        let says = Says::Status(self.status);
        self.answered(says, Some(reason));
    }

    /// The answer is whole.
    fn whole(&mut self, trailers: Option<&HeaderMap>) {
        let is_empty = self.left == self.limit;
        let says = match (self.call, trailers) {
            (None, _) => Says::Status(self.status),
            (Some(code), None) => Says::of(code.filter(|_| is_empty)),
            (Some(_), Some(_)) => Says::of(grpc::code(&HeaderMap::new(), trailers, is_empty)),
        };
        self.answered(says, None);
    }

    fn answered(&mut self, says: Says, not_stored: Option<NotStored>) {
        let status = self.status;
        self.end(Ending::Answered {
            status,
            says,
            not_stored,
        });
    }

    fn end(&mut self, ending: Ending) {
        if let Some(ended) = self.ended.take() {
            ended.send_replace(Some(ending));
        }
    }
}

impl Watched {
    fn new(body: InBody, mut watch: AnswerWatch) -> Self {
        if body.size_hint().lower() > watch.left {
            watch.tell(NotStored::TooLarge);
        } else if body.is_end_stream() {
            watch.whole(None);
        }
        Self { body, watch }
    }

    fn data(&mut self, length: u64) {
        match self.watch.left.checked_sub(length) {
            Some(left) => self.watch.left = left,
            None => self.watch.tell(NotStored::TooLarge),
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = AnswerBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerBroken>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.data(frame.data_ref().map_or(0, |piece| piece.len() as u64));
                // Nothing comes after trailers, and whoever knows the length does not ask for more.
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.watch.whole(frame.trailers_ref());
                }
            }
            Some(Err(_)) => self.watch.end(Ending::Unanswered(Cause::Truncated)),
            None => self.watch.whole(None),
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
