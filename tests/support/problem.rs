//! The table of refusals, as assertions.

use serde_json::{Value, json};

use super::client::Answer;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub slug: &'static str,
    pub status: u16,
    pub operation_state: &'static str,
    /// `None`: the member is absent.
    pub retry_same_key: Option<bool>,
    pub safe_new_key: bool,
}

impl Problem {
    pub const KEY_MISSING: Self = Self::line("key-missing", 400, "none", None, true);
    pub const KEY_INVALID: Self = Self::line("key-invalid", 400, "none", Some(false), true);
    pub const SCOPE_MISSING: Self =
        Self::line("scope-missing", 401, "undetermined", Some(true), false);
    pub const KEY_REUSED: Self = Self::line("key-reused", 422, "undetermined", Some(false), true);
    pub const IN_PROGRESS: Self =
        Self::line("request-in-progress", 409, "in_progress", Some(true), false);
    pub const OUTCOME_UNKNOWN: Self =
        Self::line("outcome-unknown", 409, "unknown", Some(true), false);
    pub const EXPIRED: Self = Self::line("result-expired", 409, "completed", Some(false), false);
    pub const NOT_STORED: Self =
        Self::line("response-not-stored", 409, "completed", Some(false), false);
    pub const UNREACHABLE: Self =
        Self::line("upstream-unreachable", 502, "none", Some(true), false);
    pub const TIMEOUT: Self = Self::line("upstream-timeout", 504, "unknown", Some(true), false);
    pub const FAILED: Self = Self::line("upstream-failed", 502, "unknown", Some(true), false);
    pub const BODY_TOO_LARGE: Self =
        Self::line("body-too-large", 413, "undetermined", Some(false), false);
    pub const STORE_UNAVAILABLE: Self =
        Self::line("store-unavailable", 503, "undetermined", Some(true), false);
    pub const OVERLOADED: Self = Self::line("overloaded", 503, "undetermined", Some(true), false);
    pub const NO_ROUTE: Self = Self::line("no-route", 404, "undetermined", Some(false), false);
    pub const BAD_REQUEST: Self =
        Self::line("bad-request", 400, "undetermined", Some(false), false);

    const fn line(
        slug: &'static str,
        status: u16,
        operation_state: &'static str,
        retry_same_key: Option<bool>,
        safe_new_key: bool,
    ) -> Self {
        Self {
            slug,
            status,
            operation_state,
            retry_same_key,
            safe_new_key,
        }
    }

    /// The value of `Idempotency-Status` beside it: what became of *this* request, unless nobody knows what
    /// became of the operation.
    pub fn idempotency_status(self) -> &'static str {
        if self.operation_state == "unknown" {
            "unknown"
        } else {
            "refused"
        }
    }
}

impl Answer {
    /// Asserts that this is that refusal on a protected route, and returns its body.
    #[track_caller]
    pub fn refuses(&self, problem: Problem) -> Value {
        let body = self.is_problem(problem);
        assert_eq!(
            self.idempotency_status(),
            problem.idempotency_status(),
            "{self:?}"
        );
        body
    }

    /// Asserts that this is that refusal, wherever it comes from, and returns its body.
    #[track_caller]
    pub fn is_problem(&self, problem: Problem) -> Value {
        assert_eq!(self.status, problem.status, "{problem:?}\n{self:?}");
        assert_eq!(
            self.header("Content-Type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        assert_eq!(self.header("Cache-Control"), Some("no-store"), "{self:?}");
        assert_eq!(self.header("Idempotent-Replayed"), None, "{self:?}");
        let body = self.json();
        let slug = body["type"]
            .as_str()
            .and_then(|kind| kind.rsplit([':', '/']).next());
        assert_eq!(slug, Some(problem.slug), "{body}");
        assert_eq!(body["status"], problem.status, "{body}");
        assert_eq!(body["operation_state"], problem.operation_state, "{body}");
        let retry = problem
            .retry_same_key
            .map_or(Value::Null, |retry| json!(retry));
        assert_eq!(body["retry_same_key"], retry, "{body}");
        assert_eq!(body["safe_new_key"], problem.safe_new_key, "{body}");
        assert!(
            body["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty()),
            "{body}"
        );
        assert!(
            matches!(body.get("detail"), None | Some(Value::String(_))),
            "{body}"
        );
        let known = [
            "type",
            "title",
            "status",
            "detail",
            "instance",
            "key_ref",
            "operation_state",
            "retry_same_key",
            "safe_new_key",
        ];
        let members = body.as_object().expect("an object").keys();
        let others: Vec<_> = members
            .filter(|name| !known.contains(&name.as_str()))
            .collect();
        assert!(others.is_empty(), "members beyond the contract: {others:?}");
        body
    }

    /// Asserts a `Retry-After` of whole seconds, at least one.
    #[track_caller]
    pub fn says_when_to_retry(&self) {
        let seconds = self
            .header("Retry-After")
            .and_then(|value| value.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| seconds >= 1), "{self:?}");
    }
}
