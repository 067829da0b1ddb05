//! How an upstream is asked whether an operation happened (`on_unknown = "probe"`).
//!
//! What is filled into a path or a query comes from clients. It is percent-encoded, and where some server might read it as
//! more than a value all the same, there is no question.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use crate::identity::JsonPointer;
use crate::protocol::StatusSet;

/// The name of the placeholder that stands for the key.
pub const KEY: &str = "key";

/// What is percent-encoded: all but the unreserved characters of RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a path's segment cannot have in it though it is encoded: some servers decode it, some twice, before they look for
/// slashes, parameters, or the end of the path.
const STRUCTURAL: &[u8] = b"/\\?#;%";

/// How an upstream is asked whether an operation happened, and what its answers mean.
#[derive(Clone, Debug)]
pub struct Probe {
    /// GET or HEAD: asking changes nothing.
    pub method: Method,
    /// Path and query.
    pub path: ProbePath,
    /// Header lines, besides those of the scope that a duplicate brings.
    pub headers: Vec<(HeaderName, ProbeValue)>,
    /// It happened.
    pub found: StatusSet,
    /// It did not happen.
    pub absent: StatusSet,
    /// For how long after an outcome became unknown *absent* says nothing.
    pub absent_after: Duration,
    /// How long asking may take.
    pub timeout: Duration,
    /// What *absent* says of an attempt whose owner has gone without a word.
    pub silent: Silent,
    /// What is recorded.
    pub response: ProbeResponse,
    /// Whether the upstream is asked without a duplicate that asks for it, too.
    pub background: bool,
}

/// What *absent* says of an attempt whose owner has gone without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silent {
    /// Nothing: it may still send its request.
    Hold,
    /// That it did not happen.
    Release,
}

/// What is recorded of an operation that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResponse {
    /// The probe's own answer.
    Probe,
    /// A part of its JSON body, under this status.
    Json {
        /// Which part.
        pointer: JsonPointer,
        /// The status.
        status: u16,
    },
}

/// The value of a probe's header.
#[derive(Clone, Debug)]
pub enum ProbeValue {
    /// A text in which `{key}` stands for the key.
    Text(Template),
    /// A secret, as it is; it prints nothing of itself.
    Secret(HeaderValue),
}

impl ProbeValue {
    /// The value for a key; `None` where a header cannot have it.
    #[must_use]
    pub fn fill(&self, key: &str) -> Option<HeaderValue> {
        match self {
            Self::Secret(value) => Some(value.clone()),
            Self::Text(template) => {
                let text = template.pieces.iter().map(|piece| match piece {
                    Piece::Literal(text) => text.as_str(),
                    Piece::Name(_) => key,
                });
                HeaderValue::from_str(&text.collect::<String>()).ok()
            }
        }
    }
}

/// A text with names in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Name(String),
}

/// Braces that are no placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("braces hold a name, as in `{{key}}`")]
pub struct BadBraces;

impl Template {
    /// The names in braces.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Name(name) => Some(name.as_str()),
        })
    }
}

impl FromStr for Template {
    type Err = BadBraces;

    fn from_str(text: &str) -> Result<Self, BadBraces> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(BadBraces)?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_name) || before.contains('}') {
                return Err(BadBraces);
            }
            pieces.push(Piece::Literal(before.to_owned()));
            pieces.push(Piece::Name(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(BadBraces);
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Literal(String::new()));
        Ok(Self { pieces })
    }
}

/// The path and query of a probe: `/v1/payments?idempotency_key={key}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePath(Template);

/// Why a text is not a [`ProbePath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProbePath {
    /// It is relative.
    #[error("it does not begin with `/`")]
    NoSlash,
    /// Braces that are no placeholder.
    #[error(transparent)]
    Braces(#[from] BadBraces),
    /// A character that has to be encoded, or `#`.
    #[error("it has the character {0:?}, which has to be percent-encoded")]
    Character(char),
}

impl ProbePath {
    /// The names in braces.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.names()
    }

    /// Path and query for this key and these segments of the request's path, by name and as they were received. `None`
    /// where a name has no value, or a value cannot stand in a path without changing it for some server.
    #[must_use]
    pub fn fill(&self, key: &str, segments: &[(&str, &[u8])]) -> Option<String> {
        let (mut filled, mut is_query) = (String::new(), false);
        for piece in &self.0.pieces {
            match piece {
                Piece::Literal(text) => {
                    is_query |= text.contains('?');
                    filled.push_str(text);
                }
                Piece::Name(name) => {
                    let value = value_of(name, key, segments)?;
                    let is_plain =
                        |byte: u8| !STRUCTURAL.contains(&byte) && !byte.is_ascii_control();
                    if !is_query && !value.bytes().all(is_plain) {
                        return None;
                    }
                    let _ = write!(filled, "{}", utf8_percent_encode(&value, ENCODED));
                }
            }
        }
        let path = filled.split('?').next().unwrap_or_default();
        let is_dots = |segment: &str| matches!(segment, "." | "..");
        (!path.split('/').any(is_dots)).then_some(filled)
    }
}

/// What a name stands for, decoded.
fn value_of(name: &str, key: &str, segments: &[(&str, &[u8])]) -> Option<String> {
    if name == KEY {
        return Some(key.to_owned());
    }
    let (_, raw) = segments.iter().find(|(other, _)| *other == name)?;
    let text = percent_decode(raw).decode_utf8().ok()?;
    Some(text.into_owned())
}

impl FromStr for ProbePath {
    type Err = BadProbePath;

    fn from_str(text: &str) -> Result<Self, BadProbePath> {
        if !text.starts_with('/') {
            return Err(BadProbePath::NoSlash);
        }
        let is_fit =
            |char: char| char.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%{}".contains(char);
        if let Some(char) = text.chars().find(|char| !is_fit(*char)) {
            return Err(BadProbePath::Character(char));
        }
        Ok(Self(text.parse()?))
    }
}

impl fmt::Display for ProbePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.pieces.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => f.write_str(text),
            Piece::Name(name) => write!(f, "{{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(path: &str, key: &str) -> Option<String> {
        let path: ProbePath = path.parse().expect("a path");
        path.fill(key, &[("id", b"a%20b"), ("other", b"%2e%2E")])
    }

    #[test]
    fn a_key_and_the_segments_of_the_path_are_filled_in() {
        let query = filled("/v1/{id}/refunds?key={key}&of={id}", "k-1_~.");
        assert_eq!(
            query.as_deref(),
            Some("/v1/a%20b/refunds?key=k-1_~.&of=a%20b")
        );
        assert_eq!(filled("/v1/{key}", "a:b").as_deref(), Some("/v1/a%3Ab"));
        assert_eq!(filled("/v1/{missing}", "k"), None);
    }

    #[test]
    fn a_key_adds_nothing_to_a_query() {
        let query = filled("/v1?key={key}&kind=payment", "a&kind=other#x?%26+/..");
        let expected = "/v1?key=a%26kind%3Dother%23x%3F%2526%2B%2F..&kind=payment";
        assert_eq!(query.as_deref(), Some(expected));
    }

    #[test]
    fn what_some_server_may_take_for_more_than_a_segment_is_not_asked_about() {
        for key in [
            ".", "..", "a/b", "a\\b", "../x", "a?b", "a#b", "a;b", "a%2fb",
        ] {
            assert_eq!(filled("/v1/{key}/status", key), None, "{key}");
        }
        assert_eq!(filled("/v1/.{key}", "."), None);
        assert_eq!(filled("/v1/{other}", "k"), None);
        assert_eq!(filled("/v1/{key}{key}", "."), None);
        assert_eq!(filled("/v1/{key}", "...").as_deref(), Some("/v1/..."));
    }

    proptest! {
        #[test]
        fn whatever_the_key_is_the_path_and_the_number_of_parameters_are_those_that_are_configured(
            key in "[\\x21-\\x7e]{1,40}"
        ) {
            let query = filled("/v1/payments?key={key}&kind=x", &key).expect("a query takes every key");
            let (path, query) = query.split_once('?').expect("a query");
            prop_assert_eq!(path, "/v1/payments");
            let parameters: Vec<&str> = query.split('&').collect();
            prop_assert_eq!(parameters.len(), 2);
            let value = parameters[0].strip_prefix("key=").expect("the key");
            let decoded = percent_decode(value.as_bytes()).decode_utf8().expect("a key");
            prop_assert_eq!(decoded.as_ref(), key.as_str());
            if let Some(path) = filled("/v1/{key}/status", &key) {
                prop_assert!(path.parse::<http::uri::PathAndQuery>().is_ok());
                prop_assert_eq!(path.split('/').count(), 4);
                prop_assert!(!path.contains(['?', '#', ';', '\\']));
            }
        }
    }

    #[test]
    fn a_text_with_other_braces_or_characters_is_no_path() {
        assert_eq!("v1".parse::<ProbePath>(), Err(BadProbePath::NoSlash));
        for text in ["/{", "/}", "/{}", "/{a-b}", "/{a", "/a}{b}", "/{{key}}"] {
            assert_eq!(
                text.parse::<ProbePath>(),
                Err(BadProbePath::Braces(BadBraces)),
                "{text}"
            );
        }
        for text in ["/a b", "/a#b", "/ä", "/a\"b"] {
            assert!(
                matches!(text.parse::<ProbePath>(), Err(BadProbePath::Character(_))),
                "{text}"
            );
        }
        let shown = "/v1/{id}?key={key}";
        assert_eq!(
            shown.parse::<ProbePath>().expect("a path").to_string(),
            shown
        );
    }

    #[test]
    fn a_header_takes_the_key_as_it_is() {
        let value = ProbeValue::Text("id {key};".parse().expect("a template"));
        assert_eq!(value.fill("a&b").expect("a value"), "id a&b;");
    }
}
