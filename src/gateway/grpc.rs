//! gRPC over HTTP/2 (the protocol's `PROTOCOL-HTTP2.md`): where a call's status stands, and refusals as gRPC clients read
//! them.
//!
//! What a status says about an operation is [`Code`]'s business. Messages are opaque in here: what is claimed, recorded and replayed is HTTP.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;

use super::body::Body;
use super::problem::{Problem, Said};
pub use crate::protocol::GrpcCode as Code;

/// Where a call's status stands: in its trailers, or in the head of an answer that is nothing but a head.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The compressions of messages that a client reads.
pub const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// When to try again, in milliseconds: gRPC's proposal A6.
const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const MEDIA_TYPE: &str = "application/grpc";
/// Who gives the reasons of [`ErrorInfo`].
const DOMAIN: &str = "oncegate";

/// What stands in a `grpc-message` as it is: `%x20-%x24 / %x26-%x7E`.
const ENCODED_IN_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Whether a message is gRPC's: `application/grpc`, or with a format behind a plus.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let Some((name, rest)) = media.and_then(|media| media.split_at_checked(MEDIA_TYPE.len()))
    else {
        return false;
    };
    name.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// The code that an answer of status 200 bears; `None` where it has none that is one, and so is not whole: nobody knows
/// then what became of the call.
///
/// It stands in the trailers, or in the head where there is nothing else. Said twice it is said by nobody: readers differ on
/// which of the two counts, and where one of them releases the key, the client may have been told of the other.
#[must_use]
pub fn code(head: &HeaderMap, trailers: Option<&HeaderMap>, is_empty: bool) -> Option<Code> {
    let lines = match trailers {
        Some(trailers) => trailers,
        None if is_empty => head,
        None => return None,
    };
    let mut said = lines.get_all(GRPC_STATUS).iter();
    match (said.next(), said.next()) {
        (Some(number), None) => Code::from_bytes(number.as_bytes()),
        _ => None,
    }
}

/// A refusal as a gRPC client reads it: an answer of status 200 that is nothing but a head, as Envoy's own are.
///
/// The code and a message, and the members of the problem as an `ErrorInfo`, where gRPC's libraries look for details.
pub fn refusal(mut response: Response<Body>) -> Response<Body> {
    let Some(said) = response.extensions_mut().remove::<Said>() else {
        return response;
    };
    let status = response.status();
    let code = code_of(said.problem, Some(status));
    let slug = said.problem.slug();
    let message = format!("{slug}: {}", said.detail);
    let may_retry =
        response.headers().contains_key(RETRY_AFTER) && said.retry_same_key == Some(true);
    let details = details(code, &message, &said, may_retry);

    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(GRPC_STATUS, HeaderValue::from(code as u16));
    let message = utf8_percent_encode(&message, ENCODED_IN_MESSAGE).to_string();
    for (name, value) in [
        (GRPC_MESSAGE, message),
        (DETAILS, STANDARD_NO_PAD.encode(details)),
    ] {
        // Visible ASCII and spaces, all of it.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    if may_retry {
        let pause = HeaderValue::from(super::problem::RETRY_AFTER_S * 1000);
        headers.insert(RETRY_PUSHBACK, pause);
    }
    response.map(|_| Body::refusal(bytes::Bytes::new(), slug))
}

/// The code of a refusal. Clients' retry policies commonly name UNAVAILABLE: it says that to repeat the call with the
/// same key is safe, and may help.
fn code_of(problem: Problem, status: Option<StatusCode>) -> Code {
    match problem {
        Problem::KeyMissing | Problem::KeyInvalid | Problem::BadRequest | Problem::HeadTooLarge => {
            Code::InvalidArgument
        }
        Problem::ScopeMissing => Code::Unauthenticated,
        // The arguments are right by themselves; what does not fit is what the key was used for before.
        Problem::KeyReused => Code::FailedPrecondition,
        // `unknown_status = 503`: for clients that are to ask again by themselves.
        Problem::OutcomeUnknown if status == Some(StatusCode::SERVICE_UNAVAILABLE) => {
            Code::Unavailable
        }
        Problem::OutcomeUnknown | Problem::UpstreamFailed => Code::Unknown,
        Problem::UpstreamTimeout => Code::DeadlineExceeded,
        Problem::RequestInProgress
        | Problem::UpstreamUnreachable
        | Problem::UpstreamUnreachableAfterPrior
        | Problem::StoreUnavailable
        | Problem::Overloaded => Code::Unavailable,
        Problem::BodyTooLarge => Code::ResourceExhausted,
        Problem::ResultExpired | Problem::KeyTooOld | Problem::ResponseNotStored => {
            Code::AlreadyExists
        }
        Problem::NoRoute => Code::Unimplemented,
    }
}

/// `google.rpc.Status`, of which only what is used stands here (`google/rpc/status.proto`).
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo` (`google/rpc/error_details.proto`).
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Duration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Duration {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

fn details(code: Code, message: &str, said: &Said, may_retry: bool) -> Vec<u8> {
    let slug = said.problem.slug();
    let word = |word: bool| word.to_string();
    let members = [
        ("type", Some(said.r#type.clone())),
        ("operation_state", Some(said.operation_state.to_owned())),
        ("retry_same_key", said.retry_same_key.map(word)),
        ("safe_new_key", said.safe_new_key.map(word)),
        ("key_ref", said.key_ref.clone()),
    ];
    let info = ErrorInfo {
        reason: slug.to_ascii_uppercase().replace('-', "_"),
        domain: DOMAIN.to_owned(),
        metadata: members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
    };
    let mut details = vec![any("google.rpc.ErrorInfo", &info)];
    if may_retry {
        let retry_delay = Some(Duration {
            seconds: super::problem::RETRY_AFTER_S.into(),
        });
        details.push(any("google.rpc.RetryInfo", &RetryInfo { retry_delay }));
    }
    let status = Status {
        code: code as i32,
        message: message.to_owned(),
        details,
    };
    status.encode_to_vec()
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_media_type() {
        for (media, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=x", true),
            ("application/grpc-web+proto", false),
            ("application/grpcs", false),
            ("application/json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, media.parse().unwrap());
            assert_eq!(is_grpc(&headers), expected, "{media}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn the_code_stands_in_the_trailers_or_in_a_head_alone() {
        let lines = |value: &str| {
            let mut lines = HeaderMap::new();
            lines.insert(GRPC_STATUS, value.parse().unwrap());
            lines
        };
        let none = HeaderMap::new();
        let unavailable = Some(Code::Unavailable);
        assert_eq!(code(&none, Some(&lines("14")), false), unavailable);
        assert_eq!(code(&lines("0"), Some(&lines("14")), false), unavailable);
        assert_eq!(code(&lines("14"), None, true), unavailable);
        // A message and no trailers behind it: it broke off.
        assert_eq!(code(&lines("0"), None, false), None);
        assert_eq!(code(&lines("0"), Some(&none), true), None);
        assert_eq!(code(&none, None, true), None);
        for odd in ["17", "-1", "+1", "01", "", "0, 0", "OK"] {
            assert_eq!(code(&none, Some(&lines(odd)), false), None, "{odd}");
        }
        for second in ["0", "14"] {
            let mut twice = lines("14");
            twice.append(GRPC_STATUS, second.parse().unwrap());
            assert_eq!(code(&none, Some(&twice), false), None, "14, {second}");
            assert_eq!(code(&twice, None, true), None, "14, {second}");
        }
    }

    #[test]
    fn a_message_is_one_line_of_ascii() {
        let encoded = |text| utf8_percent_encode(text, ENCODED_IN_MESSAGE).to_string();
        assert_eq!(encoded("a b: 100%\n\u{e4}~"), "a b: 100%25%0A%C3%A4~");
    }
}
