//! How bodies are delimited on the wire, and which responses are no answers because of it.

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Version};
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
    headers.remove(TRANSFER_ENCODING);
    match length {
        // RFC 9110, section 8.6.
        Some(0) if !expects_content => drop(headers.remove(CONTENT_LENGTH)),
        Some(length) => say_length(headers, length),
        None => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// Makes the head say this length, once. Most heads do so already, and are left alone.
pub fn say_length(headers: &mut HeaderMap, length: u64) {
    let mut digits = itoa::Buffer::new();
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let is_said = lines
        .next()
        .is_some_and(|line| line == digits.format(length));
    if !is_said || lines.next().is_some() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Whether two readers could find another end of this response (RFC 9112, section 6.3). hyper would decide for one of
/// them, and what the other takes for the next response may be anybody's.
pub(super) fn is_ambiguous(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let is_plain =
        |value: &HeaderValue| !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || length.is_some_and(|length| !is_plain(length)) {
        return true;
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return false;
    };
    // No other coding was asked for, and what is chunked twice or not at all has no end that all agree on.
    length.is_some()
        || codings.next().is_some()
        || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// Whether a 101 switches to protocols that the request has offered, as it must (RFC 9110, section 7.8).
pub(super) fn switches_as_asked(offered: Option<&HeaderValue>, headers: &HeaderMap) -> bool {
    let protocols = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let names = text.split(',').map(|name| name.trim().to_owned());
        names.collect::<Vec<_>>()
    };
    let offered = offered.map(protocols).unwrap_or_default();
    let mut switched = headers
        .get_all(UPGRADE)
        .iter()
        .flat_map(protocols)
        .peekable();
    switched.peek().is_some() && switched.all(|protocol| offered.contains(&protocol))
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_response_has_one_plain_length_or_chunks() {
        for lines in [
            &[][..],
            &[(CONTENT_LENGTH, "12")],
            &[(TRANSFER_ENCODING, "Chunked")],
        ] {
            assert!(!is_ambiguous(&headers(lines)), "{lines:?}");
        }
        for lines in [
            &[(CONTENT_LENGTH, "1"), (CONTENT_LENGTH, "1")][..],
            &[(CONTENT_LENGTH, "1, 1")],
            &[(CONTENT_LENGTH, "+1")],
            &[(CONTENT_LENGTH, "-1")],
            &[(CONTENT_LENGTH, "")],
            &[(CONTENT_LENGTH, "1"), (TRANSFER_ENCODING, "chunked")],
            &[(TRANSFER_ENCODING, "gzip, chunked")],
            &[(TRANSFER_ENCODING, "identity")],
            &[
                (TRANSFER_ENCODING, "chunked"),
                (TRANSFER_ENCODING, "chunked"),
            ],
        ] {
            assert!(is_ambiguous(&headers(lines)), "{lines:?}");
        }
    }

    #[test]
    fn a_head_says_the_length_once_whatever_it_said_before() {
        for lines in [
            &[][..],
            &[(CONTENT_LENGTH, "12")],
            &[(CONTENT_LENGTH, "012")],
            &[(CONTENT_LENGTH, "1")],
            &[(CONTENT_LENGTH, "12"), (CONTENT_LENGTH, "12")],
            &[(CONTENT_LENGTH, "12"), (CONTENT_LENGTH, "13")],
        ] {
            let mut said = headers(lines);
            say_length(&mut said, 12);
            assert_eq!(said, headers(&[(CONTENT_LENGTH, "12")]), "{lines:?}");
        }
    }

    #[test]
    fn a_101_switches_to_what_was_offered() {
        let offered = HeaderValue::from_static("foo/2, WebSocket");
        let switched = |to| switches_as_asked(Some(&offered), &headers(&[(UPGRADE, to)]));
        assert!(switched("websocket") && switched("foo/2"));
        assert!(!switched("h2c") && !switched("websocket, h2c") && !switched(""));
        assert!(!switches_as_asked(Some(&offered), &headers(&[])));
        assert!(!switches_as_asked(
            None,
            &headers(&[(UPGRADE, "websocket")])
        ));
    }
}
