//! What a client is told when the server is full.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connection::PREFACE;
use super::entrance::{self, NotOpened, Opening, Peer};
use super::stream::{Raw, Stream};
use super::wire::begins_head_request;

/// How long a refusal may take, from accepting the connection to closing it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// The largest part of a request that is read and forgotten so that the client does not lose the answer.
const MAX_FORGOTTEN: u64 = 64 * 1024;

/// An empty SETTINGS frame, then GOAWAY with no stream processed and `ENHANCE_YOUR_CALM` (RFC 9113, sections 6.5
/// and 6.8): the client knows that it may send its requests again.
const GOAWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";

/// A whole 503 with this body.
pub(super) fn message(problem: &[u8]) -> Bytes {
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\n\
         Content-Type: application/problem+json\r\n\
         Content-Length: {}\r\n\
         Cache-Control: no-store\r\n\
         Retry-After: 1\r\n\
         Connection: close\r\n\r\n",
        problem.len()
    );
    [head.as_bytes(), problem].concat().into()
}

/// Waits for the first bytes (an answer to nothing confuses clients), answers and closes.
pub(super) async fn refuse(raw: Raw, mut peer: Peer, opening: Opening<'_>, message: &[u8]) {
    let refusal = async {
        let socket = entrance::open(raw, &mut peer, opening).await?;
        answer(socket, message).await?;
        Ok::<_, NotOpened>(())
    };
    // A client that has gone, or is slow, is closed all the same.
    drop(timeout(REFUSAL_TIME, refusal).await);
}

/// The same to one that has come further.
pub(super) async fn tell(socket: Stream, message: &[u8]) {
    drop(timeout(REFUSAL_TIME, answer(socket, message)).await);
}

async fn answer(mut socket: Stream, message: &[u8]) -> io::Result<()> {
    let mut first = [0; PREFACE.len()];
    let count = socket.read(&mut first).await?;
    let first = &first[..count];
    let speaks_http2 = count > 3 && PREFACE.starts_with(first);
    let answer = match speaks_http2 {
        true => GOAWAY,
        false if begins_head_request(first) => without_body(message),
        false => message,
    };
    socket.write_all(answer).await?;
    socket.shutdown().await?;
    let mut rest = socket.take(MAX_FORGOTTEN);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

/// As it answers a HEAD (RFC 9110, section 9.3.2).
fn without_body(message: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(message, b"\r\n\r\n");
    &message[..end.map_or(message.len(), |end| end + 4)]
}
