//! What an operator is told instead: `application/problem+json` (RFC 9457).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Value as Json, json};

/// Why there is no page.
#[derive(Debug)]
pub enum Problem {
    /// No token, or a wrong one.
    Unauthorized,
    /// No such page.
    NoPage,
    /// Another method.
    Method,
    /// What was asked for makes no sense; it is said why.
    Bad(String),
    /// The body is too large.
    TooLarge,
    /// There is no such record; it is said where it was looked for.
    Absent(Json),
    /// The record is not what the operator saw, or is not to be settled; as it is now.
    Changed(&'static str, Json),
    /// There is a record, and it cannot be read.
    Unreadable(String),
    /// The store does not say.
    Store(String),
    /// It is not known whether the store did it.
    InDoubt(String),
    /// Nothing was done: it could not be written down.
    Audit(String),
    /// It was done, and could not be written down yet.
    Unwritten(String),
    /// The gateway ends at this moment.
    Ending,
}

impl Problem {
    /// Status, slug, title, and what else there is to say.
    fn said(self) -> (StatusCode, &'static str, &'static str, Json) {
        let detail = |detail: String| json!({ "detail": detail });
        match self {
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "The admin token is missing or wrong",
                detail("Send it as `Authorization: Bearer TOKEN`.".to_owned()),
            ),
            Self::NoPage => (StatusCode::NOT_FOUND, "no-page", "No such page", json!({})),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This page does not take this method",
                json!({}),
            ),
            Self::Bad(why) => (
                StatusCode::BAD_REQUEST,
                "bad-request",
                "Not understood",
                detail(why),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body is too large",
                json!({}),
            ),
            Self::Absent(about) => (
                StatusCode::NOT_FOUND,
                "record-absent",
                "There is no such record",
                about,
            ),
            Self::Changed(why, record) => (
                StatusCode::CONFLICT,
                "record-changed",
                "Nothing was done: the record does not allow it as it is now",
                json!({ "detail": why, "record": record }),
            ),
            Self::Unreadable(why) => (
                StatusCode::CONFLICT,
                "record-unreadable",
                "There is a record, and it cannot be read",
                detail(why),
            ),
            Self::Store(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "store-unavailable",
                "The store does not answer; nothing was done",
                detail(why),
            ),
            Self::InDoubt(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "in-doubt",
                "It is not known whether it was done; look at the record again",
                detail(why),
            ),
            Self::Audit(why) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "audit-unavailable",
                "Nothing was done: the audit log cannot be written",
                detail(why),
            ),
            Self::Unwritten(why) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "audit-pending",
                "It was done, and the audit log could not be written yet",
                detail(why),
            ),
            Self::Ending => (
                StatusCode::SERVICE_UNAVAILABLE,
                "ending",
                "Nothing was done: the gateway ends",
                json!({}),
            ),
        }
    }

    /// The answer.
    pub fn page(self) -> Response<Full<Bytes>> {
        let (status, slug, title, more) = self.said();
        let mut body = json!({
            "type": format!("urn:oncegate:problem:{slug}"),
            "title": title,
            "status": status.as_u16(),
        });
        if let (Json::Object(body), Json::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        let mut page = json_page(status, &body);
        let headers = page.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"oncegate admin\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        page
    }
}

/// JSON that nobody on the way keeps.
pub fn json_page(status: StatusCode, json: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(json).expect("what is shown has texts for keys");
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}
