//! The HTTP policy: messages that two servers could read differently are refused before any route is asked.
//!
//! hyper has parsed them by now, and is lenient in places where a gateway must not be: what passes here is forwarded
//! as one freshly framed message, so it must mean the same to everybody.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Version};

/// What is wrong with a message, as a sentence for its sender; `None` where nothing is.
#[must_use]
pub fn fault<B>(request: &Request<B>) -> Option<&'static str> {
    // Methods are case-sensitive (RFC 9110, section 9.1), but some servers take `post` for POST.
    if request
        .method()
        .as_str()
        .bytes()
        .any(|byte| byte.is_ascii_lowercase())
    {
        return Some("Methods are written in upper case.");
    }
    if request.method() == Method::CONNECT {
        return Some("This is no tunnel.");
    }
    host_fault(request).or_else(|| framing_fault(request.headers()))
}

/// RFC 9112, section 3.2, and RFC 9113, section 8.3.1: one host, however often it is said.
fn host_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let mut lines = request.headers().get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Some("There is more than one Host.");
    }
    let authority = request.uri().authority();
    // Deprecated in `http` (RFC 9110, section 4.2.4), and some servers look for the host behind it.
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Some("The target is not a plain host.");
    }
    match (line, authority) {
        (None, None) if request.version() != Version::HTTP_10 => Some("There is no Host."),
        (None, _) => None,
        (Some(line), authority) => {
            let Ok(host) = line.to_str() else {
                return Some("Host is not a plain host.");
            };
            let plain = host.is_empty() || host.parse::<http::uri::Authority>().is_ok();
            if !plain || host.contains('@') {
                Some("Host is not a plain host.")
            } else if authority
                .is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(host))
            {
                Some("Host and the target name different hosts.")
            } else {
                None
            }
        }
    }
}

/// RFC 9112, section 6.3: a body has one length, or chunks.
fn framing_fault(headers: &HeaderMap) -> Option<&'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let has_length = lengths.next().is_some();
    if lengths.next().is_some() {
        return Some("There is more than one Content-Length.");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if has_length {
        return Some("There is a Content-Length beside a Transfer-Encoding.");
    }
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    (!chunked || codings.next().is_some()).then_some("The only Transfer-Encoding is chunked, once.")
}
