//! The fingerprint: what the client asked for, as far as two requests must agree on it to be the same.

use http::{HeaderMap, HeaderName, Method};

use super::json::{self, JsonPointer};
use super::keyed::Keyed;
use crate::protocol::Fingerprint;

/// What makes two requests the same. Method and path always count.
#[derive(Clone, Debug)]
pub struct FingerprintRules {
    /// How the body counts.
    pub body: BodyRule,
    /// Whether the query counts, byte for byte.
    pub query: bool,
    /// Whether the host counts, without regard to case, and without its port: the same service is often reached
    /// through several.
    pub host: bool,
    /// Headers that count, with every line; an absent one differs from an empty one.
    pub headers: Vec<HeaderName>,
    /// What of a JSON body does not count. Only for [`BodyRule::Json`]; the other rules do not look at it.
    pub ignore: Vec<JsonPointer>,
}

/// How the body counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// Byte for byte.
    Bytes,
    /// By its JSON value, as [`json::canonical`] writes it; a body that has none counts byte for byte.
    Json,
    /// Not at all.
    None,
}

/// The head of a request, as it was received.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host and, where it was sent, the port.
    pub host: Option<&'a str>,
    /// The path, not decoded.
    pub path: &'a str,
    /// What follows the question mark, if there is one.
    pub query: Option<&'a str>,
    /// All header lines.
    pub headers: &'a HeaderMap,
}

/// A part that the rules leave out.
const NOT_COUNTED: u8 = 0;
/// A part that counts and that the request does not have.
const ABSENT: u8 = 1;
/// A part that counts, and follows.
const PRESENT: u8 = 2;

/// A body that the rules leave out.
const BODY_NONE: u8 = 0;
/// The bytes of a body follow.
const BODY_BYTES: u8 = 1;
/// The canonical form of a body follows.
const BODY_JSON: u8 = 2;
/// The bytes follow of a body that has no canonical form.
const BODY_NOT_JSON: u8 = 3;

/// A fingerprint of which the head is written and the body comes in pieces: for those that let it pass and hold nothing.
///
/// It is another one than a body that is held makes of the same request: the length stands behind the body, because nobody
/// knows it before.
pub struct FingerprintUnderWay {
    hash: Keyed,
    length: usize,
}

impl FingerprintUnderWay {
    pub(super) fn new(mut hash: Keyed, rules: &FingerprintRules, parts: &RequestParts<'_>) -> Self {
        write_head(&mut hash, rules, parts);
        Self { hash, length: 0 }
    }

    /// The next bytes of a body that counts byte for byte.
    pub fn piece(&mut self, bytes: &[u8]) {
        self.hash.piece(bytes);
        self.length += bytes.len();
    }

    /// The fingerprint of a body that counts by its pieces, or not at all.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        self.end(BODY_BYTES)
    }

    /// The fingerprint of a body that counts by its JSON value, all of it at once.
    #[must_use]
    pub fn finish_json(mut self, rules: &FingerprintRules, body: &[u8]) -> Fingerprint {
        if let Ok(canonical) = json::canonical(body, &rules.ignore) {
            self.piece(&canonical);
            self.end(BODY_JSON)
        } else {
            self.piece(body);
            self.end(BODY_NOT_JSON)
        }
    }

    fn end(mut self, form: u8) -> Fingerprint {
        self.hash.count(self.length);
        self.hash.form(form);
        Fingerprint(self.hash.finish())
    }
}

/// Writes the request into the hash.
pub(super) fn write(
    hash: &mut Keyed,
    rules: &FingerprintRules,
    parts: &RequestParts<'_>,
    body: &[u8],
) {
    write_head(hash, rules, parts);
    match rules.body {
        BodyRule::None => hash.form(BODY_NONE),
        BodyRule::Bytes => write_body(hash, BODY_BYTES, body),
        BodyRule::Json => match json::canonical(body, &rules.ignore) {
            Ok(canonical) => write_body(hash, BODY_JSON, &canonical),
            Err(_) => write_body(hash, BODY_NOT_JSON, body),
        },
    }
}

fn write_head(hash: &mut Keyed, rules: &FingerprintRules, parts: &RequestParts<'_>) {
    hash.field(parts.method.as_str().as_bytes());
    hash.field(parts.path.as_bytes());
    write_host(hash, rules.host, parts.host);
    write_part(hash, rules.query, parts.query);
    write_headers(hash, &rules.headers, parts.headers);
}

fn write_host(hash: &mut Keyed, counted: bool, host: Option<&str>) {
    let host = host.map(without_port);
    // Nearly every host comes in lower case, and then nothing is copied.
    match host.filter(|host| host.bytes().any(|byte| byte.is_ascii_uppercase())) {
        Some(mixed) => write_part(hash, counted, Some(&mixed.to_ascii_lowercase())),
        None => write_part(hash, counted, host),
    }
}

/// The name alone: as routes match it, and without the dot of a name that is written out to the root.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // A colon within brackets is part of an IPv6 address.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn write_part(hash: &mut Keyed, counted: bool, part: Option<&str>) {
    match part {
        _ if !counted => hash.form(NOT_COUNTED),
        None => hash.form(ABSENT),
        Some(text) => {
            hash.form(PRESENT);
            hash.field(text.as_bytes());
        }
    }
}

fn write_headers(hash: &mut Keyed, names: &[HeaderName], headers: &HeaderMap) {
    hash.count(names.len());
    for name in names {
        hash.field(name.as_str().as_bytes());
        hash.count(headers.get_all(name).iter().count());
        for line in headers.get_all(name) {
            hash.field(line.as_bytes());
        }
    }
}

fn write_body(hash: &mut Keyed, form: u8, bytes: &[u8]) {
    hash.form(form);
    hash.field(bytes);
}
