//! The types of settings that are this gateway's own: header names, store URLs, endpoints and the like.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::home::nearest;
use super::setting::{choice, quoted, type_in_words};
use super::value::{Scalar, Text};
use super::{RedisConfig, StoreLocation};
use crate::identity::{BodyRule, JsonPointer, KeyFormat};
use crate::protocol::StatusSet;
use crate::route::{OriginPattern, PathPattern};

choice!(Profile { Sidecar = "sidecar", Edge = "edge" } later {});
choice!(ModeWord { Enforce = "enforce", Observe = "observe", Pass = "pass" } later {});
choice!(OnUnknownWord { Hold = "hold", Resend = "resend", Probe = "probe" } later {});
choice!(AfterExpiryWord { Execute = "execute", Reject = "reject" } later {});
choice!(KeyAgeWord { Ignore = "ignore", Reject = "reject" } later {});
choice!(OnStoreDownWord { Reject = "reject", Forward = "forward" } later {});
choice!(Dialect { Ietf = "ietf" } later { "stripe", "graphql" });
choice!(BodyWord { Bytes = "bytes", Json = "json", None = "none" } later {});

impl From<BodyWord> for BodyRule {
    fn from(word: BodyWord) -> Self {
        match word {
            BodyWord::Bytes => Self::Bytes,
            BodyWord::Json => Self::Json,
            BodyWord::None => Self::None,
        }
    }
}

/// When the file is read again: how often it is looked at, besides at a signal.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReloadWord(pub(super) Option<Duration>);

impl Text for ReloadWord {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "signal" => Ok(Self(None)),
            text => match Duration::from_text(text)? {
                every if every < MIN_LOOK => Err(format!("is {}", quoted(text))),
                every => Ok(Self(Some(every))),
            },
        }
    }

    fn meant(text: &str) -> Option<String> {
        match nearest(text, &["signal"]) {
            Some(signal) => Some(signal.to_owned()),
            None => <Duration as Text>::meant(text),
        }
    }

    fn kind() -> String {
        "\"signal\", or a duration of a second or more, such as \"10s\"".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^(signal|[0-9]+(ms|s|m|h|d))$");
    }
}

/// The file is looked at no more often than this.
const MIN_LOOK: Duration = Duration::from_secs(1);

/// A URL that slugs are appended to.
#[derive(Clone, Debug)]
pub(super) struct BaseUrl(pub(super) String);

impl Text for BaseUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        let is_url = text.parse::<http::Uri>().is_ok_and(|url| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none()
        });
        if is_url && text.ends_with('/') && !text.contains(['#', '@']) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("is {}", quoted(text)))
        }
    }

    fn kind() -> String {
        "an http or https URL that ends in `/`".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^https?://.*/$");
    }
}

impl Text for StoreLocation {
    const LATER: &[&str] = &["dynamodb:"];

    // What is wrong is said without the URL: there may be a password in it.
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(redis) = RedisConfig::from_url(text) {
            return redis.map(|redis| Self::Redis(Box::new(redis)));
        }
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("memory", _)) => Err("has something after `memory:`".to_owned()),
            Some(("embedded", "")) => Err("has no path".to_owned()),
            Some(("embedded", path)) if path.contains('\0') => Err("is not a path".to_owned()),
            Some(("embedded", path)) => Ok(Self::Embedded(PathBuf::from(path))),
            _ => Err("is no store".to_owned()),
        }
    }

    fn meant(text: &str) -> Option<String> {
        match text {
            "memory" | "mem" | ":memory:" | "memory://" => Some("memory:".to_owned()),
            path if path.ends_with(".db") && !path.contains(':') => {
                Some(format!("embedded:{path}"))
            }
            _ => None,
        }
    }

    fn kind() -> String {
        "`memory:`, `embedded:PATH`, or servers after `redis://`, `rediss://`, `redis-sentinel://` or \
         `redis-cluster://`"
            .to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] =
            json!("^(memory:|embedded:.+|rediss?://.+|redis-(sentinel|cluster)://.+)$");
    }
}

/// A DNS name or an IP address, IPv6 without brackets.
pub(super) fn is_host(host: &str) -> bool {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = !host.is_empty() && !host.starts_with('.') && host.bytes().all(named);
    is_name || host.parse::<std::net::Ipv6Addr>().is_ok()
}

/// The host that a route asks for, in lower case and without port; IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostName(pub(super) String);

impl Text for HostName {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Err(format!(
                "is {}: a route takes one host, or all of them where this is left out",
                quoted(text)
            ));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let fits = match bare {
            Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_host(text) && !text.contains(':') && !text.ends_with('.'),
        };
        if fits {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("is {}", quoted(text)))
        }
    }

    fn meant(text: &str) -> Option<String> {
        let (_, host) = text.split_once("://").unwrap_or(("", text));
        let host = host.split('/').next()?;
        let (name, _) = host.rsplit_once(':').unwrap_or((host, ""));
        Some(name.trim_end_matches('.').to_owned())
    }

    fn kind() -> String {
        "a host without port, such as \"api.example.com\"".to_owned()
    }
}

/// Whose pages may call a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OriginWord {
    Any,
    One(OriginPattern),
}

impl Text for OriginWord {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Any),
            text => text
                .parse()
                .map(Self::One)
                .map_err(|wrong| format!("{} is no origin: {wrong}", quoted(text))),
        }
    }

    fn meant(text: &str) -> Option<String> {
        let text = text.trim().to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", &text));
        let host = rest.split(['/', '?', '#']).next()?;
        let own_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let host = host.strip_suffix(own_port).unwrap_or(host);
        // A word that is no name at all was hardly meant for one.
        let is_named = host.contains('.') || host.starts_with("localhost");
        is_named.then(|| format!("{scheme}://{}", host.trim_end_matches('.')))
    }

    fn kind() -> String {
        "an origin such as \"https://shop.example.com\" or \"https://*.example.com\", or \"*\""
            .to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^(\\*|[a-z][a-z0-9+.-]*://[^/?#@]+)$");
    }
}

impl Text for Method {
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("is {}", quoted(text));
        let method = Self::from_bytes(text.as_bytes()).map_err(|_| wrong())?;
        // Methods are case-sensitive (RFC 9110, section 9.1), and CONNECT has no path to route by.
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) || method == Self::CONNECT {
            return Err(wrong());
        }
        Ok(method)
    }

    fn meant(text: &str) -> Option<String> {
        Some(text.trim().to_ascii_uppercase())
    }

    fn kind() -> String {
        "a method in capitals, such as \"POST\", and not CONNECT".to_owned()
    }
}

impl Text for PathPattern {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|wrong| format!("{} is no path pattern: {wrong}", quoted(text)))
    }

    fn meant(text: &str) -> Option<String> {
        let path = text.split(['?', '#']).next()?.trim();
        let mut segments: Vec<&str> = path
            .split('/')
            .skip_while(|segment| segment.is_empty())
            .collect();
        let last = segments.len().saturating_sub(1);
        for (index, segment) in segments.iter_mut().enumerate() {
            match *segment {
                "*" if index < last => *segment = "{any}",
                "**" if index == last => *segment = "*",
                _ => {}
            }
        }
        Some(format!("/{}", segments.join("/")))
    }

    fn kind() -> String {
        "a path such as \"/v1/payments\", \"/v1/*\" or \"/v1/{id}/refund\"".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^/");
    }
}

impl Text for HeaderName {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_bytes(text.as_bytes()).map_err(|_| format!("is {}", quoted(text)))
    }

    fn kind() -> String {
        "the name of a header".to_owned()
    }
}

/// Headers that say how a message is framed or routed, or go no further than one connection: none of them can
/// carry a key or name a client.
const FRAMING: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a header says how a message is framed or routed.
pub(super) fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(name)
}

/// Reads `header:NAME`.
fn header_source(text: &str) -> Result<HeaderName, String> {
    let wrong = || format!("is {}", quoted(text));
    let name = text.strip_prefix("header:").ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    if FRAMING.contains(&name) || name.as_str().starts_with("oncegate-") {
        return Err(format!(
            "is {}, which no upstream is sent as it came",
            quoted(text)
        ));
    }
    Ok(name)
}

/// The source that was probably meant: the header's name alone, a slip in `header:`, or spaces around.
fn meant_header(text: &str) -> Option<String> {
    let name = match text.split_once(':') {
        None => text.trim(),
        Some((word, name)) => {
            nearest(word.trim(), &["header"])?;
            name.trim()
        }
    };
    Some(format!("header:{name}"))
}

/// Where a key is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyWord(pub(super) HeaderName);

impl Text for KeyWord {
    const LATER: &[&str] = &["query:", "json:", "graphql:", "derived:"];

    fn from_text(text: &str) -> Result<Self, String> {
        header_source(text).map(Self)
    }

    fn meant(text: &str) -> Option<String> {
        meant_header(text)
    }

    fn kind() -> String {
        "`header:NAME`".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^header:.+$");
    }
}

/// What names the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ScopeWord {
    Header(HeaderName),
    None,
}

impl Text for ScopeWord {
    const LATER: &[&str] = &["jwt:", "client-cert", "client-ip"];

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            text => header_source(text).map(Self::Header),
        }
    }

    fn meant(text: &str) -> Option<String> {
        match nearest(text, &["none"]) {
            Some(none) => Some(none.to_owned()),
            None => meant_header(text),
        }
    }

    fn kind() -> String {
        "`header:NAME`, or `none` alone".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^(none|header:.+)$");
    }
}

/// How large a compiled `regex:` may become, in bytes.
const MAX_REGEX: usize = 1 << 20;

impl Text for KeyFormat {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "issued" => Ok(Self::Issued),
            "uuid" => Ok(Self::Uuid),
            "ulid" => Ok(Self::Ulid),
            text => match text.strip_prefix("regex:") {
                None => Err(format!("is {}", quoted(text))),
                Some("") => Err("has no pattern".to_owned()),
                Some(pattern) => whole_key(pattern),
            },
        }
    }

    fn meant(text: &str) -> Option<String> {
        nearest(text, &["any", "uuid", "ulid", "issued"]).map(str::to_owned)
    }

    fn kind() -> String {
        "`any`, `uuid`, `ulid`, `issued` or `regex:PATTERN`".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^(any|uuid|ulid|issued|regex:.+)$");
    }
}

/// Compiles a pattern that has to match a key from its first to its last character.
fn whole_key(pattern: &str) -> Result<KeyFormat, String> {
    let compile = |pattern: &str| {
        regex::RegexBuilder::new(pattern)
            .size_limit(MAX_REGEX)
            .build()
            .map_err(|error| {
                let said = error.to_string();
                let last = said.lines().last().unwrap_or_default();
                format!(
                    "has a pattern that is wrong: {}",
                    last.trim_start_matches("error: ")
                )
            })
    };
    // By itself first: `a)|(b` must not become right by what is put around it.
    compile(pattern)?;
    let whole = compile(&format!(r"\A(?:{pattern})\z"))?;
    Ok(KeyFormat::Regex(Box::new(whole)))
}

/// A `WWW-Authenticate`.
#[derive(Clone, Debug)]
pub(super) struct Challenge(pub(super) String);

impl Text for Challenge {
    fn from_text(text: &str) -> Result<Self, String> {
        let visible = HeaderValue::from_str(text).is_ok_and(|value| value.to_str().is_ok());
        if visible && text.trim() == text && !text.is_empty() {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("is {}", quoted(text)))
        }
    }

    fn kind() -> String {
        "a challenge, such as \"Bearer\" or 'Basic realm=\"payments\"'".to_owned()
    }
}

impl Text for JsonPointer {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|_| format!("is {}", quoted(text)))
    }

    fn meant(text: &str) -> Option<String> {
        let path = text.trim_start_matches("$.").replace('.', "/");
        Some(format!("/{path}"))
    }

    fn kind() -> String {
        "a JSON pointer, such as \"/sent_at\"".to_owned()
    }
}

/// A status, or a class of them.
#[derive(Clone, Debug)]
pub(super) struct StatusWord(pub(super) String);

impl Text for StatusWord {
    fn from_text(text: &str) -> Result<Self, String> {
        match StatusSet::parse(&[text]) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(format!("is {}", quoted(text))),
        }
    }

    fn kind() -> String {
        "a status from \"200\" to \"599\", or a class such as \"5xx\"".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^[2-5]([0-9][0-9]|xx)$");
    }
}

/// The status of `outcome-unknown`.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnknownStatus(pub(super) u16);

impl Scalar for UnknownStatus {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Integer(number) if number.to_string() == "409" => Ok(Self(409)),
            DeValue::Integer(number) if number.to_string() == "503" => Ok(Self(503)),
            DeValue::Integer(number) => Err(format!("is {number}")),
            other => Err(format!("is {}", type_in_words(other))),
        }
    }

    fn meant(value: &DeValue<'_>) -> Option<String> {
        let text = value.as_str()?;
        ["409", "503"].contains(&text).then(|| text.to_owned())
    }

    fn kind() -> String {
        "409 or 503".to_owned()
    }

    fn schema() -> Json {
        json!({ "enum": [409, 503] })
    }
}
