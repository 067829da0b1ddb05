//! What browsers are told of routes that pages of other origins may call (Fetch standard,
//! <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Where a route says who may call it, that is all that is said: an upstream's own words, also those in a record, are
//! about one origin at one moment, and may be wrong for whoever gets the answer. It changes nothing of what is done
//! with a request: to keep an answer from a page is the browser's part.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::body::Body;
use super::headers;
use crate::route::{Cors, Origins};

/// What all headers of the protocol that servers send begin with.
const PREFIX: &str = "access-control-";

/// The method that a browser asks whether a page may use; `None`: the request is no such question.
#[must_use]
pub fn preflighted<B>(request: &Request<B>) -> Option<Method> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    origin(request.headers())?;
    let method = only(request.headers(), &ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok()
}

/// Answers such a question. A page that may not call the route gets the same status without the permission.
#[must_use]
pub fn preflight(cors: &Cors, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let said = response.headers_mut();
    // Nobody caches it; but what is in between might.
    said.insert(
        VARY,
        HeaderValue::from_static(
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        ),
    );
    let Some(allowed) = cors.origins.allow(origin(headers)) else {
        return response;
    };
    allow(cors, allowed, said);
    if let Ok(method) = method.as_str().parse() {
        said.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
    }
    said.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
    said.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
    response
}

/// A request on a route that pages may call.
pub struct Called<'r> {
    cors: &'r Cors,
    origin: Option<HeaderValue>,
}

impl<'r> Called<'r> {
    /// `headers` are the request's.
    #[must_use]
    pub fn new(cors: &'r Cors, headers: &HeaderMap) -> Self {
        Self {
            cors,
            origin: origin(headers).cloned(),
        }
    }

    /// Lets the page read the answer, if it may.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers::remove_prefixed(headers, PREFIX);
        if let Origins::These(_) = self.cors.origins {
            vary_by_origin(headers);
        }
        if let Some(allowed) = self.cors.origins.allow(self.origin.as_ref()) {
            allow(self.cors, allowed, headers);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.cors.expose.clone());
        }
    }
}

fn allow(cors: &Cors, allowed: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        let credentials = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
    }
}

/// The answer is another one for another origin, so that a cache must not give it to both.
fn vary_by_origin(headers: &mut HeaderMap) {
    let mut named = headers
        .get_all(VARY)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim);
    if !named.any(|name| name == "*" || name.eq_ignore_ascii_case(ORIGIN.as_str())) {
        // A message can have more lines than any has.
        let _ = headers.try_append(VARY, HeaderValue::from_static("Origin"));
    }
}

/// Whose page sends a request.
#[must_use]
pub fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    only(headers, &ORIGIN)
}

/// The value of a header of which there is one line: browsers send no more.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_varies_by_origin_and_says_so_once() {
        for (before, after) in [
            (&[][..], &["Origin"][..]),
            (&["Accept"], &["Accept", "Origin"]),
            (&["Accept, origin"], &["Accept, origin"]),
            (&["*"], &["*"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in before {
                headers.append(VARY, HeaderValue::from_static(line));
            }
            vary_by_origin(&mut headers);
            let lines: Vec<_> = headers.get_all(VARY).iter().collect();
            assert_eq!(lines, after);
        }
    }
}
