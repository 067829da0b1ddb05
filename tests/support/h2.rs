//! An HTTP/2 client with prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::client::{Answer, Request};
use super::wire::Headers;
use super::{until, within};

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: String,
}

impl Http2 {
    pub async fn open(address: SocketAddr) -> Self {
        Self::with(http2::Builder::new(TokioExecutor::new()), address).await
    }

    /// One that takes no byte of any body, and answers pings all the same.
    pub async fn with_shut_windows(address: SocketAddr) -> Self {
        Self::with_windows(0, address).await
    }

    /// One that takes so many bytes of a body at a time, and more when those were read.
    pub async fn with_windows(bytes: u32, address: SocketAddr) -> Self {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(bytes);
        Self::with(builder, address).await
    }

    /// One where the gateway may refuse it: `None` where it did.
    pub async fn try_open(address: SocketAddr) -> Option<Self> {
        Self::try_with(http2::Builder::new(TokioExecutor::new()), address).await
    }

    /// The same with shut windows.
    pub async fn try_open_shut(address: SocketAddr) -> Option<Self> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(0);
        Self::try_with(builder, address).await
    }

    async fn with(builder: http2::Builder<TokioExecutor>, address: SocketAddr) -> Self {
        let opened = Self::try_with(builder, address).await;
        opened.expect("a connection that speaks HTTP/2")
    }

    async fn try_with(builder: http2::Builder<TokioExecutor>, address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        Self::begun(builder, stream, address.to_string()).await
    }

    /// One over what is connected already.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let builder = http2::Builder::new(TokioExecutor::new());
        let opened = Self::begun(builder, stream, "gate".to_owned()).await;
        opened.expect("a connection that speaks HTTP/2")
    }

    async fn begun(
        builder: http2::Builder<TokioExecutor>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        authority: String,
    ) -> Option<Self> {
        let handshake = builder.handshake(TokioIo::new(stream));
        let (sender, connection) = within("HTTP/2", handshake).await.ok()?;
        // It ends when the last clone of the sender is dropped.
        tokio::spawn(connection);
        Some(Self { sender, authority })
    }

    /// Sends a request on a stream of its own and reads its answer.
    pub async fn send(&self, request: &Request) -> Answer {
        let answer = self.answer(request).await;
        answer.expect("an answer before the stream ends")
    }

    /// The same where the stream may be reset, or the connection end: `None` where no whole answer came.
    pub async fn try_send(&self, request: &Request) -> Option<Answer> {
        self.answer(request).await.filter(|answer| answer.complete)
    }

    async fn answer(&self, request: &Request) -> Option<Answer> {
        let answer = self.sender.clone().send_request(self.message(request));
        Some(read(within("an answer", answer).await.ok()?).await)
    }

    /// The same, which tells what was not sent from what was lost.
    pub async fn send_or_miss(&self, request: &Request) -> Result<Answer, Missed> {
        let answer = self.sender.clone().try_send_request(self.message(request));
        match within("an answer", answer).await {
            Ok(answer) => {
                let answer = read(answer).await;
                answer.complete.then_some(answer).ok_or(Missed::Lost)
            }
            Err(error) if error.message().is_some() || is_unprocessed(error.error()) => {
                Err(Missed::Unsent)
            }
            Err(_) => Err(Missed::Lost),
        }
    }

    /// Returns once the gateway has said goodbye, so that no more streams are begun; until then it is asked for what no
    /// route takes.
    pub async fn goodbye(&self) {
        let nothing = Request::get("/nothing");
        until("the goodbye", || async {
            let answer = self.sender.clone().send_request(self.message(&nothing));
            within("an answer, or its refusal", answer).await.err()
        })
        .await;
    }

    /// Sends a request on a stream of its own and returns at the answer's head, with its status and the body,
    /// which is to be kept for as long as the stream is to be open.
    pub async fn begin(&self, request: &Request) -> (u16, Incoming) {
        let begun = self.try_begin(request).await;
        begun.expect("an answer before the stream ends")
    }

    /// The same where the stream may be reset, or the connection end.
    pub async fn try_begin(&self, request: &Request) -> Option<(u16, Incoming)> {
        let answer = self.sender.clone().send_request(self.message(request));
        let answer = within("an answer", answer).await.ok()?;
        Some((answer.status().as_u16(), answer.into_body()))
    }

    fn message(&self, request: &Request) -> http::Request<Full<Bytes>> {
        // An absolute target says its own authority.
        let uri = if request.target.starts_with('/') {
            format!("http://{}{}", self.authority, request.target)
        } else {
            request.target.clone()
        };
        let mut message = http::Request::builder()
            .method(request.method.as_str())
            .uri(uri);
        for (name, value) in &request.headers.0 {
            message = message.header(name, value);
        }
        message
            .body(Full::from(request.body.clone()))
            .expect("a request that HTTP can say")
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The gateway had said goodbye, or says that it has not processed it (RFC 9113, section 8.7).
    Unsent,
    /// It may have been executed.
    Lost,
}

fn is_unprocessed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.is_some_and(|error: &::h2::Error| {
        let is_refused = error.reason() == Some(::h2::Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || error.is_reset() && is_refused)
    })
}

async fn read(answer: http::Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let body = within("a body", body.collect()).await;
    let (trailers, body, complete) = match body {
        Ok(body) => {
            let trailers = body.trailers().map(lines).unwrap_or_default();
            (trailers, body.to_bytes().to_vec(), true)
        }
        Err(_) => (Headers::default(), Vec::new(), false),
    };
    Answer {
        status: head.status.as_u16(),
        headers: lines(&head.headers),
        body,
        trailers,
        complete,
    }
}

fn lines(headers: &http::HeaderMap) -> Headers {
    let lines = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.to_string(), value.into_owned())
    });
    Headers(lines.collect())
}
