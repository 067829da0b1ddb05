//! What spans say, in the words of the semantic conventions for HTTP; what is ours begins with `oncegate.`.

use std::net::SocketAddr;

use http::header::HOST;
use http::uri::Authority;
use http::{Method, Request, StatusCode, Version};
use opentelemetry::trace::{Span as _, Status, TraceFlags, TraceState};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::Span;

use super::exported::remote;
use super::{Begun, Ended};

/// The longest path and host in a span, in bytes: what a span may cost is not for clients to say.
const TEXT_MAX: usize = 1024;

/// What the head of a request says.
pub(super) fn describe<B>(span: &mut Span, request: &Request<B>, begun: Begun) {
    span.set_attribute(KeyValue::new(
        "http.request.method",
        method(request.method()),
    ));
    let scheme = if begun.is_encrypted { "https" } else { "http" };
    span.set_attribute(KeyValue::new("url.scheme", scheme));
    if begun.shows_path {
        span.set_attribute(KeyValue::new("url.path", clipped(request.uri().path())));
    }
    let version = match request.version() {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    span.set_attribute(KeyValue::new("network.protocol.version", version));
    if let Some(client) = begun.client {
        span.set_attribute(KeyValue::new("client.address", client.to_string()));
    }
    let authority = request.uri().authority().cloned();
    let host = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    let authority: Option<Authority> = authority.or_else(host);
    if let Some(authority) = authority {
        span.set_attribute(KeyValue::new("server.address", clipped(authority.host())));
        if let Some(port) = authority.port_u16() {
            span.set_attribute(KeyValue::new("server.port", i64::from(port)));
        }
    }
}

/// What became of it.
pub(super) fn conclude(span: &mut Span, ended: &Ended<'_>) {
    let method = method(ended.method);
    match ended.route {
        Some((name, pattern)) => {
            let pattern = pattern.to_string();
            span.update_name(format!("{method} {pattern}"));
            span.set_attribute(KeyValue::new("http.route", pattern));
            span.set_attribute(KeyValue::new("oncegate.route", name.to_owned()));
        }
        None => span.update_name(method),
    }
    if let Some(code) = ended.grpc_status {
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", code as i64));
    }
    span.set_attribute(KeyValue::new("oncegate.decision", ended.decision));
    if let Some(key_ref) = ended.key_ref {
        span.set_attribute(KeyValue::new("oncegate.key_ref", key_ref.to_string()));
    }
    if let Some(fence) = ended.fence.and_then(|fence| i64::try_from(fence).ok()) {
        span.set_attribute(KeyValue::new("oncegate.fence", fence));
    }
    if let Some(state) = ended.operation_state {
        span.set_attribute(KeyValue::new("oncegate.operation_state", state));
    }
    if let Some(problem) = ended.problem {
        span.set_attribute(KeyValue::new("oncegate.problem", problem));
    }
    if let Some(dispatch) = ended.replay_of {
        let link = remote(dispatch, TraceFlags::SAMPLED, TraceState::default());
        span.add_link(link, vec![KeyValue::new("oncegate.link", "executed_by")]);
    }
    let Some(status) = ended.status else {
        return fail(span, Failure::Reason("client_gone"));
    };
    span.set_attribute(code(status));
    match (ended.unknown, ended.problem) {
        (Some(cause), _) if ended.is_unknown => fail(span, Failure::Reason(cause.name())),
        (None, _) if ended.is_unknown => fail(span, Failure::Reason("outcome_unknown")),
        (_, Some(problem)) if status.is_server_error() => fail(span, Failure::Reason(problem)),
        _ if status.is_server_error() => fail(span, Failure::Status(status)),
        _ => {}
    }
}

/// The address that answered.
pub(super) fn peer(span: &mut Span, endpoint: SocketAddr) {
    let address = endpoint.ip().to_string();
    span.set_attribute(KeyValue::new("network.peer.address", address));
    let port = i64::from(endpoint.port());
    span.set_attribute(KeyValue::new("network.peer.port", port));
}

/// Why a span is an error.
#[derive(Clone, Copy)]
pub(super) enum Failure {
    /// In a word.
    Reason(&'static str),
    /// What the status says already needs no words.
    Status(StatusCode),
}

/// Makes the span an error.
pub(super) fn fail(span: &mut Span, error: Failure) {
    let (words, kind) = match error {
        Failure::Reason(reason) => (reason, Value::from(reason)),
        Failure::Status(status) => ("", status.as_str().to_owned().into()),
    };
    span.set_status(Status::error(words));
    span.set_attribute(KeyValue::new("error.type", kind));
}

/// The status of an answer.
pub(super) fn code(status: StatusCode) -> KeyValue {
    KeyValue::new("http.response.status_code", i64::from(status.as_u16()))
}

/// The methods that the conventions know; others are a client's words.
pub(super) fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE",
    ];
    let mut known = KNOWN.into_iter();
    known
        .find(|known| *known == method.as_str())
        .unwrap_or("_OTHER")
}

fn clipped(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}
