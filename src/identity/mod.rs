//! Stand-ins until the identity module is merged.

use std::fmt;

use http::HeaderName;

/// Keys record ids.
#[derive(Clone)]
pub struct IdKeyBytes(pub [u8; 32]);

impl fmt::Debug for IdKeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKeyBytes(…)")
    }
}

/// Where a key is looked for.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A request header.
    Header(HeaderName),
}

/// What names the client.
#[derive(Clone, Debug)]
pub enum ScopeSource {
    /// A request header.
    Header(HeaderName),
}

/// What a key looks like.
#[derive(Clone, Debug)]
pub enum KeyFormat {
    /// Anything.
    Any,
    /// A UUID.
    Uuid,
    /// A ULID.
    Ulid,
    /// Whole key.
    Regex(Box<regex::Regex>),
}

/// What makes two requests the same.
#[derive(Clone, Debug)]
pub struct FingerprintRules {
    /// The body.
    pub body: BodyRule,
    /// The query.
    pub query: bool,
    /// The host.
    pub host: bool,
    /// Headers.
    pub headers: Vec<HeaderName>,
    /// Pointers.
    pub ignore: Vec<JsonPointer>,
}

/// How the body counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// Byte for byte.
    Bytes,
    /// As JSON.
    Json,
    /// Not at all.
    None,
}

/// RFC 6901.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(Vec<String>);

/// Not a pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON pointer")]
pub struct BadJsonPointer;

impl JsonPointer {
    /// Parses.
    ///
    /// # Errors
    /// Not a pointer.
    pub fn parse(text: &str) -> Result<Self, BadJsonPointer> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let rest = text.strip_prefix('/').ok_or(BadJsonPointer)?;
        Ok(Self(rest.split('/').map(str::to_owned).collect()))
    }
}
