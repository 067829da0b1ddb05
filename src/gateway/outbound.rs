//! A request on its way to the upstream, its body in memory.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};

use crate::server::Held;
use crate::upstream::OutBody;

/// A request on its way to the upstream, its body in memory.
#[derive(Debug)]
pub struct Outbound {
    /// As it was received.
    pub method: Method,
    /// Path and query as they were received, byte for byte.
    pub target: Uri,
    /// What the upstream is to see.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What the body takes of the budget.
    pub held: Held,
}

impl Outbound {
    /// The request, and its share of the budget, which the caller keeps while the request is sent.
    #[must_use]
    pub fn into_request(self) -> (Box<Request<OutBody>>, Held) {
        let mut request = Box::new(Request::new(OutBody::Full(self.body)));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.target;
        *request.headers_mut() = self.headers;
        (request, self.held)
    }
}
