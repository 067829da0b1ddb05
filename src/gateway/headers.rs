//! Which header lines cross the gateway, in which direction, and which are kept in a record.

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, VIA, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::body::Body;
use super::forwarded::{self, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::grpc::{GRPC_ACCEPT_ENCODING, is_grpc};
use super::message::{begins_folded, is_folded};
use crate::identity::KeySource;
use crate::protocol;
use crate::server::Peer;
use crate::upstream::say_length;

/// What became of a request, on every answer of a protected route.
pub const IDEMPOTENCY_STATUS: HeaderName = HeaderName::from_static("idempotency-status");
/// `true` on replays, as Stripe writes it.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const OWN_PREFIX: &str = "oncegate-";

/// Where a request came from, as the upstream is told.
pub struct Origin<'a> {
    /// Who sent it here.
    pub peer: &'a Peer,
    /// The host it asked for, with its port.
    pub host: Option<&'a HeaderValue>,
    /// The protocol it spoke.
    pub version: Version,
}

/// Prepares a request's headers for the upstream: hop-by-hop lines and `Oncegate-*` out, `X-Forwarded-*`, `Via`
/// and one `Host` in (RFC 9110, sections 7.6.1 and 7.6.3).
///
/// What a client sent as `X-Forwarded-*` or `Forwarded` is not believed, unless it is a proxy that is trusted.
pub fn to_upstream(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let trailers_wanted = wants_trailers(headers);
    remove_named_by_connection(headers);
    remove_all(headers, |name| {
        is_hop_by_hop(name)
            // The body is at hand, or streams without waiting for a permission.
            || *name == EXPECT
            || name.as_str().starts_with(OWN_PREFIX)
    });
    if trailers_wanted {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        // RFC 9110, section 10.1.4.
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    forwarded::tell(headers, origin.peer, origin.host);
    join_cookies(headers);
    if let Some(host) = origin.host {
        headers.insert(HOST, host.clone());
    }
    let via = match origin.version {
        Version::HTTP_2 => "2 oncegate",
        Version::HTTP_10 => "1.0 oncegate",
        _ => "1.1 oncegate",
    };
    headers.append(VIA, HeaderValue::from_static(via));
}

/// Whether who sends these lines takes trailers behind an answer (RFC 9110, section 10.1.4).
fn wants_trailers(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TE).iter();
    lines.any(|te| {
        te.to_str().is_ok_and(|te| {
            te.split(',')
                .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        })
    })
}

/// What the sender of a request takes of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Taker {
    version: Version,
    wants_trailers: bool,
}

impl Taker {
    /// Who has sent this.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        Self {
            version: request.version(),
            wants_trailers: wants_trailers(request.headers()),
        }
    }

    /// Drops trailers that it does not take, and says in an HTTP/1.1 head which ones come behind the body (RFC 9110,
    /// sections 6.5.1 and 6.6.2). HTTP/2 has a place of its own for them.
    pub fn fit(self, response: &mut Response<Body>) {
        if response.body().trailers().is_none() {
            return;
        }
        let is_http1 = self.version < Version::HTTP_2;
        if is_http1 && (self.version < Version::HTTP_11 || !self.wants_trailers) {
            return response.body_mut().without_trailers();
        }
        let names = response
            .body()
            .trailers()
            .into_iter()
            .flat_map(HeaderMap::keys);
        let names: Vec<&str> = names.map(HeaderName::as_str).collect();
        let names = HeaderValue::try_from(names.join(", "));
        let headers = response.headers_mut();
        // Nor is the length said of a body with something behind it: it is chunked in HTTP/1.1.
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRAILER);
        if let (true, Ok(names)) = (is_http1, names) {
            headers.insert(TRAILER, names);
        }
    }
}

/// What a protected dispatch changes besides: the answer must be storable as it is, nothing comes behind the body,
/// and the key is kept from upstreams that shall not see it.
pub fn to_protected_upstream(headers: &mut HeaderMap, key: &[KeySource], forward_key: bool) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove(TRAILER);
    if is_grpc(headers) {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // Servers refuse a call without it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    } else {
        headers.remove(TE);
        // All that it can name by now.
        headers.remove(CONNECTION);
    }
    if !forward_key {
        for KeySource::Header(name) in key {
            headers.remove(name);
        }
    }
}

/// Removes the lines that concern one connection only: `Connection` and all it names, and those that are
/// hop-by-hop by themselves.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    remove_all(headers, is_hop_by_hop);
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = named_by_connection(headers)
            .filter_map(|name| name.parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, TE | TRANSFER_ENCODING | UPGRADE)
        || *name == KEEP_ALIVE
        || name.as_str().starts_with("proxy-")
}

/// Whether there is a header of this name, or of one that some servers read as it.
#[must_use]
pub fn has_read_as(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .keys()
        .any(|other| is_folded(other.as_str(), name.as_str()))
}

/// Removes a header, and those that some servers read as it.
pub fn remove_read_as(headers: &mut HeaderMap, name: &HeaderName) {
    while let Some(found) = headers
        .keys()
        .find(|other| is_folded(other.as_str(), name.as_str()))
        .cloned()
    {
        headers.remove(found);
    }
}

/// What `Connection` names, as it is written.
pub fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// Prepares the headers of an upstream's answer for a client: hop-by-hop lines out, and a `Content-Length` only where
/// it is true (RFC 9112, section 6.3).
///
/// `length` is that of the body, where it is known before its end. A length beside a `Transfer-Encoding` was not
/// counted by whoever read the body, and the client must not count by it either: where it is wrong, the next answer on
/// the connection would be read as a part of this one. Answers without a body (to HEAD, 204, 304) keep theirs, which
/// describes a body that is not there.
pub fn from_upstream(headers: &mut HeaderMap, has_body: bool, length: Option<u64>) {
    let is_chunked = headers.contains_key(TRANSFER_ENCODING);
    remove_hop_by_hop(headers);
    match length {
        Some(length) if has_body => say_length(headers, length),
        None if has_body => drop(headers.remove(CONTENT_LENGTH)),
        _ => {
            let is_plain = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
            if is_chunked || !headers.get(CONTENT_LENGTH).is_some_and(is_plain) {
                headers.remove(CONTENT_LENGTH);
            }
        }
    }
}

/// Removes from a client's trailers what trailers cannot say, and what only this gateway tells an upstream: some servers
/// take trailers for header lines.
pub fn to_upstream_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    for name in [
        FORWARDED,
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_FORWARDED_HOST,
    ] {
        remove_read_as(trailers, &name);
    }
    while let Some(own) = trailers
        .keys()
        .find(|name| begins_folded(name.as_str(), OWN_PREFIX))
        .cloned()
    {
        trailers.remove(own);
    }
}

/// Removes from an upstream's trailers what trailers cannot say (RFC 9110, section 6.5.1), and what only this gateway may.
pub fn from_upstream_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_all(trailers, is_for_heads);
    remove_own_responses(trailers);
}

/// The protocol that an answer switches to (101) or asks for (426); it concerns the next hop, and is passed on with the
/// switch itself.
#[must_use]
pub fn switched(status: StatusCode, headers: &HeaderMap) -> Option<HeaderValue> {
    let names_protocol = matches!(
        status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED
    );
    names_protocol.then(|| headers.get(UPGRADE).cloned())?
}

/// Says that this connection may switch, or switches, to another protocol (RFC 9110, section 7.8).
pub fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Whether an answer of this status to this method has a body (RFC 9110, section 6.4.1).
#[must_use]
pub fn has_body(method: &Method, status: StatusCode) -> bool {
    let has_none = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    *method != Method::HEAD && !has_none
}

/// Removes what only this gateway may say to a client.
pub fn remove_own_responses(headers: &mut HeaderMap) {
    headers.remove(IDEMPOTENCY_STATUS);
    headers.remove(IDEMPOTENT_REPLAYED);
    remove_prefixed(headers, OWN_PREFIX);
}

/// HTTP/2 clients may send one line for each cookie; HTTP/1.1 servers expect one line (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// What frames a message, routes it, says how its content is to be read, or who may have it: whoever merged it into the
/// head would see another message (RFC 9110, section 6.5.1).
fn is_for_heads(name: &HeaderName) -> bool {
    matches!(
        *name,
        CONTENT_LENGTH
            | CONTENT_TYPE
            | CONTENT_ENCODING
            | CONTENT_RANGE
            | HOST
            | SET_COOKIE
            | TRAILER
            | CACHE_CONTROL
            | WWW_AUTHENTICATE
    )
}

/// Removes the lines whose names begin so; in lower case.
pub fn remove_prefixed(headers: &mut HeaderMap, prefix: &str) {
    remove_all(headers, |name| name.as_str().starts_with(prefix));
}

/// Most headers have none of what is unwanted, and one look over the names then costs less than to look for each.
fn remove_all(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| is_unwanted(name)).cloned() {
        headers.remove(name);
    }
}

/// The lines of an upstream's answer that a record keeps. Hop-by-hop lines and our own are gone by now.
///
/// `keep_length` is for answers to HEAD, whose `Content-Length` describes a body that is not there; any other
/// answer is sent with the length of its recorded body.
#[must_use]
pub fn recorded(headers: &HeaderMap, keep_length: bool) -> Vec<(String, Bytes)> {
    headers
        .iter()
        .filter(|(name, _)| {
            protocol::Response::keeps(name.as_str()) && (keep_length || *name != CONTENT_LENGTH)
        })
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                Bytes::copy_from_slice(value.as_bytes()),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_connection_names_does_not_cross() {
        let mut lines = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut lines);
        assert_eq!(lines, headers(&[("x-kept", "1")]));
    }

    #[test]
    fn a_length_that_nobody_counted_by_does_not_cross() {
        let both = [("transfer-encoding", "chunked"), ("content-length", "3")];
        let settled = |lines: &[_], has_body, length| {
            let mut lines = headers(lines);
            from_upstream(&mut lines, has_body, length);
            lines
        };
        assert_eq!(settled(&both, true, None), headers(&[]));
        assert_eq!(settled(&both, false, Some(0)), headers(&[]));
        let length = [("content-length", "3")];
        assert_eq!(settled(&length, true, Some(3)), headers(&length));
        assert_eq!(settled(&length, false, Some(0)), headers(&length));
        let twice = [("content-length", "3, 3")];
        assert_eq!(settled(&twice, true, Some(3)), headers(&length));
        assert_eq!(settled(&twice, false, Some(0)), headers(&[]));
    }

    #[test]
    fn a_client_cannot_say_who_it_is_on_behalf_of_a_proxy() {
        let mut lines = headers(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("oncegate-fence", "9"),
        ]);
        lines.append(COOKIE, HeaderValue::from_static("a=1"));
        lines.append(COOKIE, HeaderValue::from_static("b=2"));
        to_upstream(
            &mut lines,
            &Origin {
                peer: &forwarded::tests::peer("127.0.0.1", &[]),
                host: Some(&HeaderValue::from_static("api.example.com")),
                version: Version::HTTP_2,
            },
        );
        assert_eq!(
            lines,
            headers(&[
                ("cookie", "a=1; b=2"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "api.example.com"),
                ("host", "api.example.com"),
                ("via", "2 oncegate"),
            ])
        );
    }

    #[test]
    fn a_record_keeps_nothing_of_one_client_or_one_moment() {
        let lines = headers(&[
            ("content-type", "application/json"),
            ("content-length", "2"),
            ("set-cookie", "session=1"),
            ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("x-ratelimit-remaining", "3"),
            ("ratelimit-policy", "x"),
            ("location", "/payments/1"),
        ]);
        let kept = |keep_length| {
            recorded(&lines, keep_length)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(false), ["content-type", "location"]);
        assert_eq!(kept(true), ["content-type", "content-length", "location"]);
    }
}
