//! Bodies: those that are held in memory, under one bound for all of them, and those that pass through.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

use super::entry::{About, Sending};
use super::headers;
use super::sight::Watched;
use crate::protocol::TraceRef;
use crate::server::{Budget, Held};
use crate::upstream::InBody;

/// Whatever ended a body before its end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer to a client.
pub struct Body {
    kind: Kind,
    about: About,
    /// What counts it as it is given.
    sending: Option<Sending>,
    /// What comes behind a body that is at hand.
    trailers: Option<Box<HeaderMap>>,
}

enum Kind {
    /// A refusal, a replay, or an answer that was recorded.
    Full(Full<Bytes>),
    /// An upstream's answer on its way through; dropping it closes the upstream's connection.
    Upstream(InBody),
    /// The same, and somebody is told how it ends.
    Watched(Watched),
    /// An upstream's answer that a detached dispatch passes on.
    Passed(Passage),
}

impl Kind {
    fn is_over(&self) -> bool {
        match self {
            Self::Full(body) => body.is_end_stream(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
            Self::Passed(body) => body.ended,
        }
    }
}

impl Body {
    /// A body that is at hand.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self::of(Kind::Full(Full::new(bytes)))
    }

    /// A refusal with this slug.
    #[must_use]
    pub fn refusal(bytes: Bytes, slug: &'static str) -> Self {
        Self {
            about: About {
                problem: Some(slug),
                replay_of: None,
            },
            ..Self::full(bytes)
        }
    }

    /// A body that is at hand and counts as held for as long as any of it waits for the client, in the buffers of its
    /// connection, too.
    #[must_use]
    pub fn held(bytes: Bytes, held: Held) -> Self {
        Self::full(counted(bytes, held))
    }

    /// The same body, of an answer that was recorded for this dispatch.
    #[must_use]
    pub fn replay_of(mut self, dispatch: Option<TraceRef>) -> Self {
        self.about.replay_of = dispatch;
        self
    }

    /// A body that comes from an upstream, as it comes.
    #[must_use]
    pub fn upstream(body: InBody) -> Self {
        Self::of(Kind::Upstream(body))
    }

    /// The same body, watched where it comes from an upstream.
    #[must_use]
    pub fn watched(mut self, watch: impl FnOnce(InBody) -> Watched) -> Self {
        self.kind = match self.kind {
            Kind::Upstream(body) => Kind::Watched(watch(body)),
            other => other,
        };
        self
    }

    /// A body that another task passes on.
    #[must_use]
    pub fn passed(passage: Passage) -> Self {
        Self::of(Kind::Passed(passage))
    }

    /// The same with these trailers behind it, where there are any; only for a body that is at hand.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = (!trailers.is_empty()).then(|| trailers.into());
        self
    }

    /// The trailers behind a body that is at hand.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    /// Drops them.
    pub fn without_trailers(&mut self) {
        self.trailers = None;
    }

    /// Whether it says why there is no answer.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.about.problem.is_some()
    }

    fn is_over(&self) -> bool {
        self.trailers.is_none() && self.kind.is_over()
    }

    /// The same, counted as it is given to the client with this status.
    #[must_use]
    pub fn counted(mut self, mut sending: Sending, status: StatusCode) -> Self {
        sending.begin(status, self.about, self.is_over());
        self.sending = Some(sending);
        self
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            about: About::default(),
            sending: None,
            trailers: None,
        }
    }
}

/// Two ends of a body of which at most `pieces` wait for a slow client.
#[must_use]
pub fn passage(pieces: usize) -> (Passing, Passage) {
    let (sender, receiver) = mpsc::channel(pieces);
    let passage = Passage {
        pieces: receiver,
        ended: false,
    };
    (Passing(sender), passage)
}

/// Where the pieces of a body go in. Only [`Passing::end`] makes it whole: where this is dropped before, the client
/// sees the body break off, and never takes a part for all of it.
#[derive(Debug)]
pub struct Passing(mpsc::Sender<Option<Frame<Bytes>>>);

/// Where they come out.
#[derive(Debug)]
pub struct Passage {
    /// The last one is `None`.
    pieces: mpsc::Receiver<Option<Frame<Bytes>>>,
    ended: bool,
}

/// An answer was not passed on to its end.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off on its way")]
pub struct BrokenOff;

impl Passing {
    /// Waits for room; false where nobody takes the body any more.
    pub async fn send(&self, frame: Frame<Bytes>) -> bool {
        self.0.send(Some(frame)).await.is_ok()
    }

    /// The body is whole.
    pub async fn end(self) {
        // Nobody may take it any more.
        let _ = self.0.send(None).await;
    }
}

impl Passage {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        self.ended = !matches!(piece, Some(Some(_)));
        Poll::Ready(match piece {
            Some(piece) => piece.map(Ok),
            None => Some(Err(BrokenOff)),
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = ready!(match &mut this.kind {
            Kind::Full(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                let trailers = || {
                    this.trailers
                        .take()
                        .map(|lines| Ok(Frame::trailers(*lines)))
                };
                Poll::Ready(
                    frame
                        .map(|frame| frame.map_err(|never| match never {}))
                        .or_else(trailers),
                )
            }
            Kind::Upstream(body) => cleaned(ready!(Pin::new(body).poll_frame(cx))),
            Kind::Watched(body) => cleaned(ready!(Pin::new(body).poll_frame(cx))),
            Kind::Passed(body) => body.poll_piece(cx).map_err(BoxError::from),
        });
        let is_over = this.is_over();
        if let Some(sending) = &mut this.sending {
            sending.given(frame.as_ref(), is_over);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            // A body of a length that is said has no trailers in HTTP/1.1.
            Kind::Full(_) if self.trailers.is_some() => SizeHint::default(),
            Kind::Full(body) => body.size_hint(),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Watched(body) => body.size_hint(),
            Kind::Passed(_) => SizeHint::default(),
        }
    }
}

/// A piece of an upstream's answer whose trailers say nothing but what trailers may.
fn cleaned<E: Into<BoxError>>(
    frame: Option<Result<Frame<Bytes>, E>>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    Poll::Ready(frame.map(|frame| frame.map(clean).map_err(Into::into)))
}

/// The same of one that has come.
pub fn clean(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::from_upstream_trailers(trailers);
    }
    frame
}

/// The same bytes, which take their part of the budget until the last of them is dropped.
fn counted(bytes: Bytes, held: Held) -> Bytes {
    match bytes.is_empty() {
        true => bytes,
        false => Bytes::from_owner(HeldBytes { bytes, _held: held }),
    }
}

/// Bytes with what they take of the budget.
struct HeldBytes {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that was read to its end.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its trailers, where it had some.
    pub trailers: Option<HeaderMap>,
    /// What it takes of the budget.
    pub held: Held,
}

/// What is known of a body that was not read to its end.
#[derive(Debug)]
pub struct Partial {
    /// The bytes so far. They count as held until they are dropped, but for the last piece, which found no room or was not
    /// to have any.
    pub bytes: Bytes,
    /// Why the reading ended.
    pub reason: Unread,
}

/// Why a body was not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is longer than the route allows.
    TooLarge,
    /// The budget is used up.
    NoRoom,
    /// It broke off, or stalled.
    Broken,
}

/// Reads a body to its end: at most `limit` bytes, and no more than the budget has.
///
/// # Errors
/// With what was read before the limit, the budget or the sender ended it. The body can be read on after
/// [`Unread::TooLarge`] and [`Unread::NoRoom`].
pub async fn read<B>(body: &mut B, limit: u64, budget: &Arc<Budget>) -> Result<Whole, Partial>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut held = budget.hold();
    let mut pieces = Pieces::default();
    let mut trailers = None;
    // A length that is announced is refused without reading, so that a client that asks first sends nothing.
    if body.size_hint().lower() > limit {
        return Err(pieces.partial(held, Unread::TooLarge));
    }
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(pieces.partial(held, Unread::Broken));
        };
        match frame.into_data() {
            Ok(data) => {
                let length = data.len() as u64;
                pieces.push(data);
                if pieces.length > limit {
                    return Err(pieces.partial(held, Unread::TooLarge));
                }
                if !held.grow(length) {
                    return Err(pieces.partial(held, Unread::NoRoom));
                }
            }
            // As many as the connection takes: they are bounded like a head.
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Whole {
        bytes: pieces.joined(),
        trailers,
        held,
    })
}

/// Most bodies come in one piece, which is then not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    rest: BytesMut,
    length: u64,
}

impl Pieces {
    fn push(&mut self, data: Bytes) {
        self.length += data.len() as u64;
        if self.first.is_empty() {
            self.first = data;
        } else {
            if self.rest.is_empty() {
                self.rest.extend_from_slice(&self.first);
            }
            self.rest.extend_from_slice(&data);
        }
    }

    fn joined(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }

    fn partial(self, held: Held, reason: Unread) -> Partial {
        Partial {
            bytes: counted(self.joined(), held),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    fn body(
        pieces: Vec<Result<&'static str, BoxError>>,
    ) -> impl HttpBody<Data = Bytes, Error = BoxError> + Unpin {
        StreamBody::new(stream::iter(pieces.into_iter().map(|piece| {
            piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes())))
        })))
    }

    #[tokio::test]
    async fn the_budget_is_given_back_with_the_body() {
        let budget = Budget::new(8);
        let whole = read(&mut body(vec![Ok("abc"), Ok(""), Ok("de")]), 8, &budget)
            .await
            .unwrap();
        assert_eq!(whole.bytes, "abcde");
        assert_eq!(budget.held(), 5);
        drop(whole);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_body_at_hand_counts_until_the_last_of_its_bytes_is_dropped() {
        let budget = Budget::new(8);
        let held = budget.take(5).unwrap();
        let Kind::Full(body) = Body::held(Bytes::from_static(b"abcde"), held).kind else {
            panic!("the body is at hand");
        };
        let bytes = body.into_inner();
        assert!(budget.take(4).is_none());
        let rest = bytes.unwrap().slice(4..);
        assert_eq!(budget.held(), 5);
        drop(rest);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_body_past_a_bound_is_returned_as_far_as_it_was_read() {
        let budget = Budget::new(4);
        let mut long = body(vec![Ok("abc"), Ok("def"), Ok("ghi")]);
        let partial = read(&mut long, 5, &Budget::new(100)).await.unwrap_err();
        assert_eq!(
            (&partial.bytes[..], partial.reason),
            (&b"abcdef"[..], Unread::TooLarge)
        );
        assert_eq!(long.collect().await.unwrap().to_bytes(), "ghi");

        let partial = read(&mut body(vec![Ok("abc"), Ok("def")]), 100, &budget)
            .await
            .unwrap_err();
        assert_eq!(
            (&partial.bytes[..], partial.reason),
            (&b"abcdef"[..], Unread::NoRoom)
        );
    }

    #[tokio::test]
    async fn what_was_read_of_a_body_past_a_bound_counts_as_held_until_it_is_dropped() {
        for (limit, room) in [(4, 100), (100, 4)] {
            let budget = Budget::new(room);
            let mut long = body(vec![Ok("abc"), Ok("def")]);
            let Partial { bytes, .. } = read(&mut long, limit, &budget).await.unwrap_err();
            assert_eq!(budget.held(), 3, "{limit}");
            drop(bytes);
            assert_eq!(budget.held(), 0, "{limit}");
        }
    }

    #[tokio::test]
    async fn a_passage_is_whole_only_where_its_end_was_said() {
        for is_ended in [true, false] {
            let (passing, passage) = passage(2);
            let piece = Frame::data(Bytes::from_static(b"abc"));
            assert!(passing.send(piece).await);
            if is_ended {
                passing.end().await;
            } else {
                drop(passing);
            }
            let mut body = Body::passed(passage);
            let piece = body.frame().await.unwrap().unwrap();
            assert_eq!(piece.into_data().unwrap(), "abc");
            match body.frame().await {
                None => assert!(is_ended),
                Some(piece) => assert!(piece.is_err() && !is_ended),
            }
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_whole() {
        let partial = read(
            &mut body(vec![Ok("abc"), Err("reset".into())]),
            100,
            &Budget::new(100),
        )
        .await
        .unwrap_err();
        assert_eq!(partial.reason, Unread::Broken);
    }
}
