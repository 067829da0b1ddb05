//! The HTTP policy: messages that two servers could read differently are refused before any route is asked.
//!
//! What a parsed request tells in HTTP/1 and HTTP/2 alike is judged here; what HTTP/1 hides in its parsing was judged
//! on the wire by then ([`crate::server::Fault`]). What passes is forwarded as one freshly framed message, so it must
//! mean the same to everybody.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use super::headers;
use crate::identity::{KeySource, ScopeSource};
use crate::route::Table;
use crate::server::is_plain_host;

/// What the gateway says to upstreams, or lets the message's framing be said by, and no client may hide.
const NOT_TO_BE_HIDDEN: [&str; 7] = [
    "host",
    "content-length",
    "transfer-encoding",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
];

/// Others whose look-alikes a server might take for them.
const NOT_TO_BE_FOLDED: [&str; 2] = ["keep-alive", "proxy-connection"];

/// What the gateway removes by its beginning, and its look-alikes.
const PREFIXES: [&str; 2] = ["oncegate-", "proxy-"];

/// The policy, with what the routes rely on.
pub struct Policy {
    /// Headers that say what a request is, or whose: of keys, scopes and fingerprints.
    relied: Vec<HeaderName>,
    /// Those of scopes.
    scopes: Vec<HeaderName>,
    /// Some of them have names that another name could fold into without looking odd itself.
    has_odd_names: bool,
}

impl Policy {
    /// The policy before these routes.
    #[must_use]
    pub fn new(routes: &Table) -> Self {
        let (mut relied, mut scopes) = (Vec::new(), Vec::new());
        for policy in routes.routes().iter().filter_map(|route| route.policy()) {
            relied.extend(policy.key.iter().map(|KeySource::Header(name)| name));
            relied.extend(&policy.fingerprint.headers);
            scopes.extend(policy.scope.iter().map(ScopeSource::header));
        }
        relied.extend(&scopes);
        let distinct = |names: Vec<&HeaderName>| {
            let mut names: Vec<_> = names.into_iter().cloned().collect();
            names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            names.dedup();
            names
        };
        let relied = distinct(relied);
        Self {
            has_odd_names: relied.iter().any(|name| is_odd(name.as_str())),
            relied,
            scopes: distinct(scopes),
        }
    }

    /// What is wrong with a message, as a sentence for its sender; `None` where nothing is.
    #[must_use]
    pub fn fault<B>(&self, request: &Request<B>) -> Option<&'static str> {
        let headers = request.headers();
        method_fault(request.method())
            .or_else(|| target_fault(request))
            .or_else(|| host_fault(request))
            .or_else(|| framing_fault(headers))
            .or_else(|| self.name_fault(headers))
            .or_else(|| self.connection_fault(headers))
            .or_else(|| self.scope_fault(headers))
            .or_else(|| expectation_fault(headers))
            .or_else(|| edge_fault(headers))
    }

    /// CGI, WSGI and their heirs hand headers on as variables, in which `_`, and to some any other mark, stands for `-`.
    fn name_fault(&self, headers: &HeaderMap) -> Option<&'static str> {
        let is_look_alike = |name: &HeaderName| {
            let name = name.as_str();
            (self.has_odd_names || is_odd(name)) && self.folds(name)
        };
        headers
            .keys()
            .any(is_look_alike)
            .then_some("A header's name is read by some servers as that of another header, which is relied upon.")
    }

    /// Whether the name is not, but may be read as, one that is relied upon.
    fn folds(&self, name: &str) -> bool {
        let relied = || self.relied.iter().map(HeaderName::as_str);
        if relied().any(|relied| relied == name) {
            return false;
        }
        let fixed = NOT_TO_BE_HIDDEN.into_iter().chain(NOT_TO_BE_FOLDED);
        relied()
            .chain(fixed)
            .any(|relied| is_folded(name, relied) && relied != name)
            || is_odd(name) && PREFIXES.iter().any(|prefix| begins_folded(name, prefix))
    }

    fn connection_fault(&self, headers: &HeaderMap) -> Option<&'static str> {
        if !headers.contains_key(CONNECTION) {
            return None;
        }
        let is_list =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, \t".contains(byte);
        let mut lines = headers.get_all(CONNECTION).iter();
        if !lines.all(|line| line.as_bytes().iter().all(is_list)) {
            return Some("Connection is a list of names.");
        }
        let is_relied = |name: &str| {
            let relied = self.relied.iter().map(HeaderName::as_str);
            relied
                .chain(NOT_TO_BE_HIDDEN)
                .any(|relied| is_folded(name, relied))
        };
        headers::named_by_connection(headers)
            .any(is_relied)
            .then_some("Connection names a header that is relied upon.")
    }

    /// Bytes beyond ASCII are one text in one encoding and another in another.
    fn scope_fault(&self, headers: &HeaderMap) -> Option<&'static str> {
        let mut lines = self.scopes.iter().flat_map(|name| headers.get_all(name));
        lines
            .any(|line| !line.as_bytes().is_ascii())
            .then_some("A header that says who sends the request holds more than ASCII.")
    }
}

/// Whether a server may read `name` as `other`.
#[must_use]
pub fn is_folded(name: &str, other: &str) -> bool {
    name.len() == other.len() && begins_folded(name, other)
}

/// Whether a server may read `name` as one that begins so.
#[must_use]
pub fn begins_folded(name: &str, beginning: &str) -> bool {
    let fold = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => byte.to_ascii_lowercase(),
        _ => b'-',
    };
    name.len() >= beginning.len()
        && name
            .bytes()
            .zip(beginning.bytes())
            .all(|(a, b)| fold(a) == fold(b))
}

/// Whether the name has other marks than `-`.
fn is_odd(name: &str) -> bool {
    !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Methods are case-sensitive (RFC 9110, section 9.1), but some servers take `post` for POST.
fn method_fault(method: &Method) -> Option<&'static str> {
    let is_plain = |byte: u8| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    if method == Method::CONNECT {
        Some("This is no tunnel.")
    } else if method.as_str().bytes().all(is_plain) {
        None
    } else {
        Some("Methods are written in upper case, with digits, - and _ at most.")
    }
}

/// RFC 9113, section 8.3.1; over HTTP/1 the wire has been stricter.
fn target_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let uri = request.uri();
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Some("The scheme is neither http nor https.");
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if !target.is_ascii() || target.bytes().any(|byte| b"\"`".contains(&byte)) {
        return Some("The target holds a character that has to be percent-encoded.");
    }
    let is_path = target.is_empty() || target.starts_with('/');
    (!is_path && (target != "*" || request.method() != Method::OPTIONS))
        .then_some("The target is a path or an http URL, or * for OPTIONS.")
}

/// RFC 9112, section 3.2, and RFC 9113, section 8.3.1: one host, however often it is said.
fn host_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let mut lines = request.headers().get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Some("There is more than one Host.");
    }
    let authority = request.uri().authority();
    // A user in it is deprecated (RFC 9110, section 4.2.4), and some servers look for the host behind it.
    if authority.is_some_and(|authority| !is_plain_host(authority.as_str().as_bytes())) {
        return Some("The target does not name a plain host.");
    }
    let Some(line) = line else {
        let is_said = authority.is_some() && request.version() == Version::HTTP_2;
        return (!is_said).then_some("There is no Host.");
    };
    if !is_plain_host(line.as_bytes()) {
        return Some("Host is not a plain host.");
    }
    let agrees = |authority: &str| authority.as_bytes().eq_ignore_ascii_case(line.as_bytes());
    authority
        .is_some_and(|authority| !agrees(authority.as_str()))
        .then_some("Host and the target name different hosts.")
}

/// RFC 9112, section 6.3, and RFC 9113, section 8.1.1: a body has one length, or chunks.
fn framing_fault(headers: &HeaderMap) -> Option<&'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Some("There is more than one Content-Length.");
    }
    let has_length = length.is_some();
    if length.is_some_and(|length| !length.as_bytes().iter().all(is_digit)) {
        return Some("Content-Length is a number of digits alone.");
    }
    (has_length && headers.contains_key(TRANSFER_ENCODING))
        .then_some("There is a Content-Length beside a Transfer-Encoding.")
}

fn is_digit(byte: &u8) -> bool {
    byte.is_ascii_digit()
}

/// RFC 9110, section 10.1.1.
fn expectation_fault(headers: &HeaderMap) -> Option<&'static str> {
    let mut lines = headers.get_all(EXPECT).iter();
    let line = lines.next()?;
    let is_known = line.as_bytes().eq_ignore_ascii_case(b"100-continue");
    (!is_known || lines.next().is_some()).then_some("The only expectation is 100-continue, once.")
}

/// RFC 9113, section 8.2.1. Over HTTP/1 such spaces are no part of a value, so that an upstream would read another one than
/// the key or the scope was taken from.
fn edge_fault(headers: &HeaderMap) -> Option<&'static str> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers
        .values()
        .map(HeaderValue::as_bytes)
        .any(|value| is_space(value.first()) || is_space(value.last()))
        .then_some("A header's value begins or ends with a space or a tab.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relying_on(names: &[&'static str]) -> Policy {
        let relied: Vec<_> = names
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect();
        Policy {
            has_odd_names: relied.iter().any(|name| is_odd(name.as_str())),
            scopes: Vec::new(),
            relied,
        }
    }

    fn faulty(policy: &Policy, name: &str, value: &str) -> bool {
        let request = Request::post("/").header(HOST, "a").header(name, value);
        policy.fault(&request.body(()).unwrap()).is_some()
    }

    #[test]
    fn look_alikes_of_what_is_relied_upon_are_refused() {
        let policy = relying_on(&["idempotency-key", "x-tenant"]);
        for name in [
            "Idempotency_Key",
            "idempotency.key",
            "x~tenant",
            "Content_Length",
            "Transfer_Encoding",
            "X_Forwarded_For",
            "x-forwarded_for",
            "Oncegate_Fence",
            "oncegate.x",
            "Keep_Alive",
            "proxy_authorization",
        ] {
            assert!(faulty(&policy, name, "1"), "{name}");
        }
        for name in [
            "Idempotency-Key",
            "X-Tenant",
            "x_other",
            "x-tenants",
            "tenant_x",
            "idempotencykey",
        ] {
            assert!(!faulty(&policy, name, "1"), "{name}");
        }
    }

    #[test]
    fn a_relied_name_may_be_the_odd_one() {
        let policy = relying_on(&["x_tenant"]);
        assert!(faulty(&policy, "x-tenant", "1"));
        assert!(faulty(&policy, "x.tenant", "1"));
        assert!(!faulty(&policy, "x_tenant", "1"));
    }

    #[test]
    fn connection_hides_nothing_that_is_relied_upon() {
        let policy = relying_on(&["idempotency-key"]);
        for list in [
            "Idempotency-Key",
            "close, idempotency-key",
            "idempotency_key",
            "Host",
            "content-length",
            "x-forwarded-for",
            "close;a",
            "\"close\"",
            "a\u{e9}",
        ] {
            assert!(faulty(&policy, "Connection", list), "{list}");
        }
        for list in ["close", "keep-alive, Upgrade", "TE", "X-Other", ", ,close"] {
            assert!(!faulty(&policy, "Connection", list), "{list}");
        }
    }
}
