//! What a client may say behind a body, in either protocol.

use http::HeaderMap;

use super::wire::{Fault, MAX_LINES};

/// The largest trailers, in bytes.
pub(super) const MAX: usize = 8 * 1024;

/// What is said in the head and nowhere else: whoever took it from the trailers would see another message.
const NEVER: [&[u8]; 10] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"upgrade",
    b"te",
    b"trailer",
    b"expect",
    b"authorization",
    b"cookie",
];

/// Whether a trailer's name is, or may be read as, one of a header that trailers never bear.
pub(super) fn is_for_heads(name: &[u8]) -> bool {
    let folded = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    NEVER
        .iter()
        .any(|never| name.iter().map(folded).eq(never.iter().copied()))
}

/// What is wrong with trailers that came over HTTP/2; over HTTP/1 the wire judges them line by line.
pub(super) fn fault(trailers: &HeaderMap) -> Option<Fault> {
    // As many as HTTP/1 would need.
    const MARKS: usize = ": \r\n".len();
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + MARKS
    };
    if trailers.len() > MAX_LINES || trailers.iter().map(line).sum::<usize>() > MAX {
        Some(Fault::TrailersSize)
    } else if trailers
        .keys()
        .any(|name| is_for_heads(name.as_str().as_bytes()))
    {
        Some(Fault::TrailerName)
    } else {
        None
    }
}
