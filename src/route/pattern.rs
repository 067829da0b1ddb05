//! Patterns of methods, hosts and paths.

use std::fmt;
use std::str::FromStr;

use http::Method;

/// Which requests a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// Empty: all of them.
    pub methods: Vec<Method>,
    /// In lower case, without port; `None`: any.
    pub host: Option<String>,
    /// Which paths.
    pub path: PathPattern,
}

impl Matcher {
    /// Whether a request is this route's. `host` is in lower case and without port.
    #[must_use]
    pub fn takes(&self, method: &Method, host: Option<&str>, path: &[u8]) -> bool {
        (self.methods.is_empty() || self.methods.contains(method))
            && (self.host.is_none() || self.host.as_deref() == host)
            && self.path.matches(path)
    }

    /// Whether the route protects this method. The safe ones (RFC 9110, section 9.2.1) are protected only where a
    /// route names them.
    #[must_use]
    pub fn protects(&self, method: &Method) -> bool {
        !method.is_safe() || self.methods.contains(method)
    }
}

/// `/v1/payments` (that path), `/v1/*` (everything that begins with `/v1/`), or `/v1/{id}/refund` (one segment,
/// not empty, where the braces are).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// Between the slashes; none for `/*`.
    segments: Vec<Segment>,
    /// Whether it ends in `/*`.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any(String),
}

/// Why a text is not a [`PathPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPathPattern {
    /// It is relative.
    #[error("it does not begin with `/`")]
    NoSlash,
    /// `//` inside.
    #[error("it has an empty segment (`//`)")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("it has a `.` or `..` segment")]
    DotSegment,
    /// A character that no path of this gateway's patterns has.
    #[error("it has the character {0:?}")]
    Character(char),
    /// `*` before the end.
    #[error("`*` stands for the rest of a path, and only as its last segment: `/v1/*`")]
    Star,
    /// Braces that are not a whole segment with a name.
    #[error("braces stand for one whole segment and hold its name: `/v1/{{id}}/refund`")]
    Braces,
}

impl PathPattern {
    /// Whether the pattern takes a path, compared byte by byte.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(mut rest) = path.strip_prefix(b"/") else {
            return false;
        };
        let mut segments = self.segments.iter().peekable();
        while let Some(segment) = segments.next() {
            let (head, tail) = split_segment(rest);
            let fits = match segment {
                Segment::Literal(literal) => head == literal.as_bytes(),
                Segment::Any(_) => !head.is_empty(),
            };
            let last = segments.peek().is_none() && !self.open;
            match tail {
                _ if !fits => return false,
                Some(_) if last => return false,
                Some(tail) => rest = tail,
                None => return last,
            }
        }
        true
    }

    /// A path that the pattern takes, with its literal segments put through `spell`.
    #[must_use]
    pub fn example(&self, spell: impl Fn(&str) -> String) -> String {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Literal(literal) => spell(literal),
            Segment::Any(_) => "1".to_owned(),
        });
        let rest = self.open.then(|| "1".to_owned());
        let segments: Vec<String> = segments.chain(rest).collect();
        format!("/{}", segments.join("/"))
    }
}

fn split_segment(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => (path, None),
    }
}

impl FromStr for PathPattern {
    type Err = BadPathPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix('/').ok_or(BadPathPattern::NoSlash)?;
        let (rest, open) = match rest.strip_suffix('*') {
            Some("") => {
                return Ok(Self {
                    segments: Vec::new(),
                    open: true,
                });
            }
            Some(rest) => (rest.strip_suffix('/').ok_or(BadPathPattern::Star)?, true),
            None => (rest, false),
        };
        let count = rest.split('/').count();
        let segments = rest
            .split('/')
            .enumerate()
            // Only the last one may be empty: `/v1/` is another path than `/v1`.
            .map(|(index, segment)| Segment::parse(segment, index + 1 == count && !open))
            .collect::<Result<_, _>>()?;
        Ok(Self { segments, open })
    }
}

impl Segment {
    fn parse(text: &str, may_be_empty: bool) -> Result<Self, BadPathPattern> {
        if text.is_empty() && !may_be_empty {
            return Err(BadPathPattern::EmptySegment);
        }
        if text == "." || text == ".." {
            return Err(BadPathPattern::DotSegment);
        }
        if let Some(name) = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
        {
            let named = !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            return if named {
                Ok(Self::Any(name.to_owned()))
            } else {
                Err(BadPathPattern::Braces)
            };
        }
        // A literal is what stays the same however a path is normalised: no `%`, no `;`, no backslash.
        match text.chars().find(|char| !is_literal(*char)) {
            None => Ok(Self::Literal(text.to_owned())),
            Some('*') => Err(BadPathPattern::Star),
            Some('{' | '}') => Err(BadPathPattern::Braces),
            Some(char) => Err(BadPathPattern::Character(char)),
        }
    }
}

/// `pchar` of RFC 3986 without `%`, `;` and `*`.
fn is_literal(char: char) -> bool {
    char.is_ascii_alphanumeric() || "-._~!$&'()+,=:@".contains(char)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Any(name) => write!(f, "/{{{name}}}")?,
            }
        }
        f.write_str(if self.open { "/*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    fn takes(text: &str, path: &str) -> bool {
        pattern(text).matches(path.as_bytes())
    }

    #[test]
    fn an_exact_pattern_takes_that_path_and_no_other() {
        assert!(takes("/v1/payments", "/v1/payments"));
        for path in [
            "/v1/payments/",
            "/v1/payment",
            "/v1/payments2",
            "/v1",
            "/",
            "",
            "*",
            "/V1/payments",
        ] {
            assert!(!takes("/v1/payments", path), "{path}");
        }
        assert!(takes("/", "/"));
        assert!(!takes("/", "/a"));
        assert!(takes("/v1/", "/v1/"));
        assert!(!takes("/v1/", "/v1"));
        assert!(!takes("/v1/", "/v1/a"));
    }

    #[test]
    fn a_star_takes_everything_below_its_slash() {
        for path in ["/v1/", "/v1/a", "/v1/a/b", "/v1//"] {
            assert!(takes("/v1/*", path), "{path}");
        }
        for path in ["/v1", "/v", "/v2/a", "/"] {
            assert!(!takes("/v1/*", path), "{path}");
        }
        assert!(takes("/*", "/"));
        assert!(takes("/*", "/a/b"));
        assert!(!takes("/*", "*"));
    }

    #[test]
    fn braces_take_one_segment_that_is_not_empty() {
        assert!(takes("/v1/{id}/refund", "/v1/7/refund"));
        assert!(takes("/v1/{id}", "/v1/7"));
        assert!(takes("/{a}/{b}/*", "/1/2/"));
        for path in [
            "/v1//refund",
            "/v1/7/8/refund",
            "/v1/7",
            "/v1/7/refund/",
            "/v1/refund",
        ] {
            assert!(!takes("/v1/{id}/refund", path), "{path}");
        }
        assert!(!takes("/v1/{id}", "/v1/"));
    }

    #[test]
    fn a_pattern_that_no_normalised_path_could_equal_is_refused() {
        use BadPathPattern as Bad;
        for (text, bad) in [
            ("", Bad::NoSlash),
            ("v1", Bad::NoSlash),
            ("/v1//a", Bad::EmptySegment),
            ("//", Bad::EmptySegment),
            ("//*", Bad::EmptySegment),
            ("/./a", Bad::DotSegment),
            ("/a/..", Bad::DotSegment),
            ("/caf%C3%A9", Bad::Character('%')),
            ("/a?b", Bad::Character('?')),
            ("/a;b", Bad::Character(';')),
            ("/a b", Bad::Character(' ')),
            ("/é", Bad::Character('é')),
            ("/*/a", Bad::Star),
            ("/a*", Bad::Star),
            ("/**", Bad::Star),
            ("/{}", Bad::Braces),
            ("/{id", Bad::Braces),
            ("/a{id}", Bad::Braces),
            ("/{a-b}", Bad::Braces),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(bad), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_written_as_it_was_read_and_takes_its_own_example() {
        for text in [
            "/",
            "/*",
            "/v1",
            "/v1/",
            "/v1/*",
            "/v1/{id}/refund",
            "/{a}/*",
        ] {
            assert_eq!(pattern(text).to_string(), text);
            let example = pattern(text).example(str::to_owned);
            assert!(takes(text, &example), "{example}");
        }
    }
}
