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

    /// Whether it takes every request that the other one takes.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|m| self.methods.contains(m));
        methods && (self.host.is_none() || self.host == other.host) && self.path.covers(&other.path)
    }

    /// The method of requests that this one would protect and that an earlier one has, since both take them. `None`:
    /// there are none.
    #[must_use]
    pub fn loses(&self, earlier: &Self) -> Option<Method> {
        let hosts = self.host.is_none() || earlier.host.is_none() || self.host == earlier.host;
        if !hosts || !self.path.meets(&earlier.path) {
            return None;
        }
        let named = [&self.methods, &earlier.methods].into_iter();
        let candidates = named.flatten().chain([&Method::POST]);
        let lost = |method: &&Method| {
            let takes =
                |matcher: &Self| matcher.methods.is_empty() || matcher.methods.contains(method);
            takes(self) && takes(earlier) && self.protects(method)
        };
        candidates.into_iter().find(lost).cloned()
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

    /// The names of the segments that are left open.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Any(name) => Some(name.as_str()),
        })
    }

    /// What stands in the segments that are left open, as it was received; `None` where the pattern does not take the path.
    #[must_use]
    pub fn captures<'p>(&'p self, path: &'p [u8]) -> Option<Vec<(&'p str, &'p [u8])>> {
        let parts = path.strip_prefix(b"/").filter(|_| self.matches(path))?;
        let parts = parts.split(|byte| *byte == b'/');
        let pairs = self.segments.iter().zip(parts);
        let captured = pairs.filter_map(|(segment, part)| match segment {
            Segment::Literal(_) => None,
            Segment::Any(name) => Some((name.as_str(), part)),
        });
        Some(captured.collect())
    }

    /// Whether it takes every path that the other one takes.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (own, others) = (self.segments.len(), other.segments.len());
        let deep_enough = if self.open {
            others > own || others == own && other.open
        } else {
            others == own && !other.open
        };
        let mut pairs = self.segments.iter().zip(&other.segments);
        deep_enough && pairs.all(|(own, other)| own.covers(other))
    }

    /// Whether there is a path that both take.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let (own, others) = (self.segments.len(), other.segments.len());
        let of_one_depth = match (self.open, other.open) {
            (true, true) => true,
            (true, false) => others > own,
            (false, true) => own > others,
            (false, false) => own == others,
        };
        let mut pairs = self.segments.iter().zip(&other.segments);
        of_one_depth && pairs.all(|(own, other)| own.covers(other) || other.covers(own))
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

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(own), Self::Literal(other)) => own == other,
            (Self::Any(_), Self::Literal(other)) => !other.is_empty(),
            (Self::Any(_), Self::Any(_)) => true,
            (Self::Literal(_), Self::Any(_)) => false,
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
    fn a_pattern_covers_another_where_it_takes_all_of_its_paths() {
        for (wide, narrow) in [
            ("/*", "/*"),
            ("/*", "/"),
            ("/*", "/v1/payments"),
            ("/v1/*", "/v1/"),
            ("/v1/*", "/v1/{id}/*"),
            ("/v1/{a}", "/v1/{b}"),
            ("/v1/{a}", "/v1/payments"),
            ("/{a}/*", "/v1/*"),
            ("/v1", "/v1"),
        ] {
            assert!(
                pattern(wide).covers(&pattern(narrow)),
                "{wide} covers {narrow}"
            );
        }
        for (one, other) in [
            ("/v1/*", "/v1"),
            ("/v1/*", "/*"),
            ("/v1/{a}", "/v1/"),
            ("/v1/{a}", "/v1/*"),
            ("/v1/payments", "/v1/{a}"),
            ("/v1/payments", "/v1/refunds"),
            ("/{a}", "/{a}/*"),
            ("/{a}/*", "/{a}"),
            ("/v1/{a}/refund", "/{v}/7/refund"),
        ] {
            assert!(
                !pattern(one).covers(&pattern(other)),
                "{one} covers {other}"
            );
        }
    }

    /// Every pattern of up to three segments over a small alphabet, and every path of up to four.
    fn all(segments: &[&str], most: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..most {
            last = last
                .iter()
                .flat_map(|path| segments.iter().map(move |next| format!("{path}/{next}")))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    #[test]
    fn covering_and_meeting_are_what_the_paths_say() {
        let patterns: Vec<PathPattern> = all(&["a", "{x}", "", "*"], 3)
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        let paths = all(&["a", "b", ""], 4);
        let takes: Vec<Vec<bool>> = patterns
            .iter()
            .map(|pattern| {
                paths
                    .iter()
                    .map(|p| pattern.matches(p.as_bytes()))
                    .collect()
            })
            .collect();
        assert!(patterns.len() > 20);
        for (one, of_one) in patterns.iter().zip(&takes) {
            for (other, of_other) in patterns.iter().zip(&takes) {
                let both = || of_one.iter().zip(of_other);
                let covers = both().all(|(one, other)| *one || !other);
                assert_eq!(one.covers(other), covers, "{one} covers {other}");
                let meets = both().any(|(one, other)| *one && *other);
                assert_eq!(one.meets(other), meets, "{one} meets {other}");
            }
        }
    }

    fn matcher(methods: &[Method], host: Option<&str>, path: &str) -> Matcher {
        Matcher {
            methods: methods.to_vec(),
            host: host.map(str::to_owned),
            path: pattern(path),
        }
    }

    #[test]
    fn a_matcher_covers_another_in_methods_host_and_path() {
        let all = matcher(&[], None, "/*");
        let post = matcher(&[Method::POST], None, "/a");
        let hosted = matcher(&[Method::POST], Some("a"), "/a");
        assert!(all.covers(&all) && all.covers(&post) && all.covers(&hosted));
        assert!(post.covers(&hosted) && !hosted.covers(&post) && !post.covers(&all));
        assert!(!post.covers(&matcher(&[], None, "/a")));
        assert!(!post.covers(&matcher(&[Method::POST, Method::PUT], None, "/a")));
        assert!(!hosted.covers(&matcher(&[Method::POST], Some("b"), "/a")));
    }

    #[test]
    fn what_an_earlier_matcher_takes_of_the_protected_requests_is_lost() {
        let every = matcher(&[], None, "/*");
        let post = matcher(&[Method::PUT, Method::POST], None, "/{x}");
        assert_eq!(post.loses(&every), Some(Method::PUT));
        assert_eq!(every.loses(&every), Some(Method::POST));
        let reads = matcher(&[Method::GET, Method::HEAD], None, "/*");
        assert_eq!((post.loses(&reads), every.loses(&reads)), (None, None));
        let deletes = matcher(&[Method::GET, Method::DELETE], Some("a"), "/b");
        assert_eq!(every.loses(&deletes), Some(Method::DELETE));
        let elsewhere = matcher(&[], Some("b"), "/*");
        assert_eq!(elsewhere.loses(&deletes), None);
        assert_eq!(post.loses(&matcher(&[], None, "/a/b")), None);
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
