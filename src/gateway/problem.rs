//! What clients are told instead of an upstream's answer: `application/problem+json` (RFC 9457).
//!
//! The only file that knows the statuses, slugs and members of refusals. What a refusal means is decided
//! elsewhere.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::headers::IDEMPOTENCY_STATUS;
use crate::identity::KeyRef;

/// Where `type` points unless the configuration sets a URL.
const URN: &str = "urn:oncegate:problem:";

/// What `Retry-After` says, in seconds: the next try meets a record that has moved on, in most cases.
pub const RETRY_AFTER_S: u32 = 1;

/// Why a request gets no answer of the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No key where the route requires one.
    KeyMissing,
    /// A key of the wrong length, characters or format, or several.
    KeyInvalid,
    /// The scope names something that the request lacks.
    ScopeMissing,
    /// The key was used for another payload.
    KeyReused,
    /// The first attempt is running.
    RequestInProgress,
    /// An earlier attempt was sent, and its outcome is not known.
    OutcomeUnknown,
    /// The retention is over, and the key is remembered.
    ResultExpired,
    /// The key is so old that its record may be forgotten, and there is none.
    KeyTooOld,
    /// Completed, and the response could not be kept.
    ResponseNotStored,
    /// Nothing was sent.
    UpstreamUnreachable,
    /// Nothing was sent this time, but an attempt before it was.
    UpstreamUnreachableAfterPrior,
    /// Sent, and no answer in time.
    UpstreamTimeout,
    /// Sent, and no whole answer.
    UpstreamFailed,
    /// Beyond the route's limit.
    BodyTooLarge,
    /// The claim could not be made.
    StoreUnavailable,
    /// A bound was reached.
    Overloaded,
    /// No route.
    NoRoute,
    /// The message breaks the HTTP policy.
    BadRequest,
    /// The same, by its size.
    HeadTooLarge,
}

/// The members that speak of the operation: `operation_state`, `retry_same_key`, `safe_new_key`.
type Members = (&'static str, Option<bool>, bool);

impl Problem {
    /// The last part of `type`.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::KeyMissing => "key-missing",
            Self::KeyInvalid => "key-invalid",
            Self::ScopeMissing => "scope-missing",
            Self::KeyReused => "key-reused",
            Self::RequestInProgress => "request-in-progress",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::ResultExpired | Self::KeyTooOld => "result-expired",
            Self::ResponseNotStored => "response-not-stored",
            Self::UpstreamUnreachable | Self::UpstreamUnreachableAfterPrior => {
                "upstream-unreachable"
            }
            Self::UpstreamTimeout => "upstream-timeout",
            Self::UpstreamFailed => "upstream-failed",
            Self::BodyTooLarge => "body-too-large",
            Self::StoreUnavailable => "store-unavailable",
            Self::Overloaded => "overloaded",
            Self::NoRoute => "no-route",
            Self::BadRequest | Self::HeadTooLarge => "bad-request",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::KeyMissing | Self::KeyInvalid | Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::ScopeMissing => StatusCode::UNAUTHORIZED,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RequestInProgress
            | Self::OutcomeUnknown
            | Self::ResultExpired
            | Self::KeyTooOld
            | Self::ResponseNotStored => StatusCode::CONFLICT,
            Self::UpstreamUnreachable
            | Self::UpstreamUnreachableAfterPrior
            | Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::StoreUnavailable | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::KeyMissing => "An idempotency key is required",
            Self::KeyInvalid => "The idempotency key is not valid",
            Self::ScopeMissing => "The request does not say who sends it",
            Self::KeyReused => "The idempotency key was used for another request",
            Self::RequestInProgress => "A request with this idempotency key is in progress",
            Self::OutcomeUnknown => "The outcome of an earlier attempt is not known",
            Self::ResultExpired => "The result for this idempotency key has expired",
            Self::KeyTooOld => "The idempotency key is older than results are kept",
            Self::ResponseNotStored => "The operation is completed and its response was not stored",
            Self::UpstreamUnreachable => "The upstream could not be reached; nothing was sent",
            Self::UpstreamUnreachableAfterPrior => {
                "The upstream could not be reached; an earlier attempt was sent"
            }
            Self::UpstreamTimeout => "The request was sent and no answer came in time",
            Self::UpstreamFailed => "The request was sent and no whole answer came",
            Self::BodyTooLarge => "The request body is too large",
            Self::StoreUnavailable => "The request could not be protected and was not sent",
            Self::Overloaded => "Too much is going on; the request was not sent",
            Self::NoRoute => "No route takes this request",
            Self::BadRequest => "The request is malformed or ambiguous",
            Self::HeadTooLarge => "The head of the request is too large",
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::KeyMissing => "Send a key of your own making, a new one for each operation.",
            Self::KeyInvalid => {
                "A key is 1 to 255 visible ASCII characters without comma or quote, in one header line."
            }
            Self::ScopeMissing => "Keys belong to a client; send what identifies yours.",
            Self::KeyReused => {
                "Repeat the first request exactly, or use a new key for another operation."
            }
            Self::RequestInProgress => "Repeat this request with the same key a little later.",
            Self::OutcomeUnknown => {
                "It was sent, or may have been, and its outcome is not known. Repeat with the same key to learn it \
                 once it is settled, and do not use a new key for it."
            }
            // Answered, by a failure perhaps: nobody is told that it was executed.
            Self::ResultExpired => {
                "The first request with this key was answered, and the answer is not kept any more; look in the API what \
                 became of the operation."
            }
            Self::KeyTooOld => {
                "An operation under this key may have been executed and forgotten. It is not sent; look in the API \
                 whether it was executed."
            }
            Self::ResponseNotStored => {
                "The first request with this key was answered; look in the API what became of the operation."
            }
            Self::UpstreamUnreachable | Self::UpstreamUnreachableAfterPrior => {
                "Repeat this request with the same key."
            }
            Self::UpstreamTimeout | Self::UpstreamFailed => {
                "It may have been executed. Repeat with the same key to learn the outcome; do not use a new key \
                 for it."
            }
            Self::BodyTooLarge => "The route's limit is lower than this body.",
            Self::StoreUnavailable | Self::Overloaded => "Repeat this request with the same key.",
            Self::NoRoute => "No route matches this method, host and path.",
            Self::BadRequest | Self::HeadTooLarge => "It was refused before anything was sent.",
        }
    }

    fn members(self) -> Members {
        match self {
            Self::KeyMissing => ("none", None, true),
            Self::KeyInvalid => ("none", Some(false), true),
            Self::KeyReused => ("undetermined", Some(false), true),
            Self::RequestInProgress => ("in_progress", Some(true), false),
            Self::OutcomeUnknown
            | Self::UpstreamUnreachableAfterPrior
            | Self::UpstreamTimeout
            | Self::UpstreamFailed => ("unknown", Some(true), false),
            Self::ResultExpired | Self::ResponseNotStored => ("completed", Some(false), false),
            Self::UpstreamUnreachable => ("none", Some(true), false),
            Self::ScopeMissing | Self::StoreUnavailable | Self::Overloaded => {
                ("undetermined", Some(true), false)
            }
            Self::KeyTooOld
            | Self::BodyTooLarge
            | Self::NoRoute
            | Self::BadRequest
            | Self::HeadTooLarge => ("undetermined", Some(false), false),
        }
    }

    /// The value of `Idempotency-Status`.
    fn idempotency_status(self) -> &'static str {
        match self {
            Self::OutcomeUnknown
            | Self::UpstreamUnreachableAfterPrior
            | Self::UpstreamTimeout
            | Self::UpstreamFailed => "unknown",
            _ => "refused",
        }
    }

    fn retry_after(self) -> bool {
        matches!(
            self,
            Self::RequestInProgress | Self::StoreUnavailable | Self::Overloaded
        )
    }
}

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// What it says.
    pub problem: Problem,
    /// What `type` begins with; `None`: the URN.
    pub base: Option<&'a str>,
    /// Which record it is about, where there is a key.
    pub key_ref: Option<KeyRef>,
    /// More about it, for people; instead of the problem's own sentence.
    pub detail: Option<String>,
    /// The status instead of the problem's own (`unknown_status`).
    pub status: Option<StatusCode>,
    /// The `WWW-Authenticate` of `scope-missing`.
    pub challenge: Option<&'a str>,
}

/// What a refusal says, whatever it is written as. It goes with the response, as an extension.
#[derive(Clone, Debug)]
pub struct Said {
    /// What is the matter.
    pub problem: Problem,
    /// Its type, with its base.
    pub r#type: String,
    /// More about it, for people.
    pub detail: String,
    /// Which record it is about, where there is a key.
    pub key_ref: Option<String>,
    /// Where the operation stands.
    pub operation_state: &'static str,
    /// Whether to repeat with the same key is safe and may help; `None`: nothing is said about keys.
    pub retry_same_key: Option<bool>,
    /// Whether an operation under a new key cannot be a second execution of this one.
    pub safe_new_key: Option<bool>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ref: Option<&'a str>,
    operation_state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_same_key: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safe_new_key: Option<bool>,
}

impl<'a> Refusal<'a> {
    /// A refusal with the problem's own words.
    #[must_use]
    pub fn new(problem: Problem, base: Option<&'a str>) -> Self {
        Self {
            problem,
            base,
            key_ref: None,
            detail: None,
            status: None,
            challenge: None,
        }
    }

    /// The response on a protected route.
    #[must_use]
    pub fn protected(self) -> Response<Body> {
        let (operation_state, retry_same_key, safe_new_key) = self.problem.members();
        let status = self.problem.idempotency_status();
        let mut response = self.document(operation_state, retry_same_key, Some(safe_new_key));
        response
            .headers_mut()
            .insert(IDEMPOTENCY_STATUS, HeaderValue::from_static(status));
        response
    }

    /// The response to a request that no route has taken.
    #[must_use]
    pub fn unrouted(self) -> Response<Body> {
        let (operation_state, retry_same_key, safe_new_key) = self.problem.members();
        self.document(operation_state, retry_same_key, Some(safe_new_key))
    }

    /// The response where no key protects the request: nothing is said about keys, for no repetition of it
    /// would be recognised.
    #[must_use]
    pub fn unprotected(mut self) -> Response<Body> {
        let (operation_state, _, _) = self.problem.members();
        let detail = match operation_state {
            "none" => "It was not sent.",
            "unknown" => "It was sent and may have been executed.",
            _ => "It was refused before anything was sent.",
        };
        self.detail.get_or_insert_with(|| detail.to_owned());
        self.document(operation_state, None, None)
    }

    fn document(
        self,
        operation_state: &'static str,
        retry_same_key: Option<bool>,
        safe_new_key: Option<bool>,
    ) -> Response<Body> {
        let status = self.status.unwrap_or(self.problem.status());
        let said = self.said(operation_state, retry_same_key, safe_new_key);
        let body = said.json(status);
        let mut response = Response::new(Body::refusal(Bytes::from(body), self.problem.slug()));
        response.extensions_mut().insert(said);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.problem.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if let Some(challenge) = self.challenge.and_then(|text| text.parse().ok()) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// The document alone, of a request that was not even read.
    #[must_use]
    pub fn unread(self) -> Vec<u8> {
        let (operation_state, retry_same_key, safe_new_key) = self.problem.members();
        let status = self.problem.status();
        self.said(operation_state, retry_same_key, Some(safe_new_key))
            .json(status)
    }

    fn said(
        &self,
        operation_state: &'static str,
        retry_same_key: Option<bool>,
        safe_new_key: Option<bool>,
    ) -> Said {
        let detail = self.detail.as_deref().unwrap_or(self.problem.detail());
        Said {
            problem: self.problem,
            r#type: format!("{}{}", self.base.unwrap_or(URN), self.problem.slug()),
            detail: detail.to_owned(),
            key_ref: self.key_ref.map(|key_ref| key_ref.to_string()),
            operation_state,
            retry_same_key,
            safe_new_key,
        }
    }
}

impl Said {
    fn json(&self, status: StatusCode) -> Vec<u8> {
        let document = Document {
            r#type: &self.r#type,
            title: self.problem.title(),
            status: status.as_u16(),
            detail: &self.detail,
            key_ref: self.key_ref.as_deref(),
            operation_state: self.operation_state,
            retry_same_key: self.retry_same_key,
            safe_new_key: self.safe_new_key,
        };
        // Strings, numbers and booleans always serialise.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}
