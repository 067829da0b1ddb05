//! How a request's body is delimited on the wire.

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Version};
use http_body::Body;

use super::body::OutBody;

/// Makes the head say what the body is, whatever it said before (RFC 9112, section 6). hyper would believe the
/// head: a wrong length would let one request reach into the next, and a body of unknown length would be left
/// out of a GET.
pub(super) fn frame(request: &mut Request<OutBody>) {
    let body = request.body();
    let length = if body.is_end_stream() {
        Some(0)
    } else {
        body.size_hint().exact()
    };
    let expects_content = !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS | Method::TRACE
    );
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    match length {
        // RFC 9110, section 8.6.
        Some(0) if !expects_content => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}
