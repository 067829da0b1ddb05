//! The heads of requests as HTTP/2 has them.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};

/// What a connection of HTTP/1.1 says about itself (RFC 9113, section 8.2.2).
const CONNECTION_SPECIFIC: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// The head of a request that has one `Host` and an origin-form target: `Host` becomes `:authority` (RFC 9113, section
/// 8.3.1), and what is the connection's own goes, `Upgrade` with it. Of `TE` only `trailers` is left, where it was.
pub(super) fn of<B>(request: &Request<B>, is_secure: bool) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = request.headers().clone();
    remove_connection_specific(head.headers_mut());
    *head.uri_mut() = match uri(request, is_secure) {
        Some(uri) => {
            head.headers_mut().remove(HOST);
            uri
        }
        None => {
            // It goes as the `Host` that it came as, without `:authority`: h2 allows that to requests of HTTP/1.1.
            *head.version_mut() = Version::HTTP_11;
            request.uri().clone()
        }
    };
    head
}

fn uri<B>(request: &Request<B>, is_secure: bool) -> Option<Uri> {
    let host = request.headers().get(HOST)?.as_bytes();
    // A user's name does not belong there (RFC 9113, section 8.3.1).
    let authority = Authority::try_from(host)
        .ok()
        .filter(|_| !host.contains(&b'@'))?;
    let mut parts = Parts::default();
    parts.scheme = Some(match is_secure {
        true => Scheme::HTTPS,
        false => Scheme::HTTP,
    });
    parts.authority = Some(authority);
    let target = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).ok()
}

/// Takes out what no message of HTTP/2 may bear, trailers included.
pub(super) fn remove_connection_specific(headers: &mut HeaderMap) {
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .any(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    headers.remove(TE);
    for name in CONNECTION_SPECIFIC {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The length that a message announces.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post("/v1/a%2Fb?c=%20");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        of(&request.body(()).unwrap(), true)
    }

    #[test]
    fn the_host_becomes_the_authority_and_the_path_stays_byte_for_byte() {
        let head = head(&[("host", "payments.test:8443"), ("x-a", "1")]);
        assert_eq!(head.uri(), "https://payments.test:8443/v1/a%2Fb?c=%20");
        assert_eq!(head.headers().len(), 1);
        assert_eq!(head.version(), Version::HTTP_2);
    }

    #[test]
    fn a_host_that_is_no_authority_stays_a_host() {
        for host in ["a b", "user@payments.test", ""] {
            let head = head(&[("host", host)]);
            assert_eq!(head.uri(), "/v1/a%2Fb?c=%20", "{host:?}");
            assert_eq!(head.headers()[HOST], host);
        }
    }

    #[test]
    fn what_concerns_a_connection_of_http_1_does_not_go() {
        let head = head(&[
            ("host", "a.test"),
            ("connection", "te, upgrade"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("http2-settings", "AAAA"),
            ("te", "gzip"),
        ]);
        assert!(head.headers().is_empty(), "{:?}", head.headers());
    }

    #[test]
    fn te_trailers_is_kept() {
        let head = head(&[("host", "a.test"), ("connection", "te"), ("te", "trailers")]);
        assert_eq!(head.headers()[TE], "trailers");
        assert_eq!(head.headers().len(), 1);
    }
}
