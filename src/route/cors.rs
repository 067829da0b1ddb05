//! Which pages of other origins may call a route, and what their browsers are told of it: the CORS protocol (Fetch
//! standard, <https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;

/// What browsers are told of a route.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Whose pages may call it.
    pub origins: Origins,
    /// Whether they may do so with cookies and client certificates.
    pub credentials: bool,
    /// The names of request headers that they may set.
    pub headers: HeaderValue,
    /// The names of response headers that they may read.
    pub expose: HeaderValue,
    /// For how long a browser need not ask again, in seconds.
    pub max_age: HeaderValue,
}

/// Whose pages may call a route.
#[derive(Clone, Debug)]
pub enum Origins {
    /// Everybody's.
    Any,
    /// Those of these origins.
    These(Vec<OriginPattern>),
}

impl Origins {
    /// The `Access-Control-Allow-Origin` of an answer to a request with this `Origin`; `None` where a browser is to keep the
    /// answer from the page.
    #[must_use]
    pub fn allow(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::These(patterns) => {
                let origin = origin?;
                let text = origin.to_str().ok()?;
                patterns
                    .iter()
                    .any(|pattern| pattern.matches(text))
                    .then(|| origin.clone())
            }
        }
    }
}

/// An origin as browsers write it, `https://shop.example.com`, or all those with one label more, `https://*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    /// All of it, or what stands before the open label.
    start: String,
    /// What stands behind the open label.
    end: Option<String>,
}

/// Why a text is not an [`OriginPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOrigin {
    /// Sandboxed pages and local files have this for an origin, whoever made them.
    #[error("`null` is the origin of whoever wants it to be")]
    Null,
    /// No `://`.
    #[error("it has no scheme")]
    NoScheme,
    /// The scheme is none.
    #[error("its scheme is none in lower case")]
    Scheme,
    /// More than scheme, host and port.
    #[error("it has something behind host and port")]
    More,
    /// The host is none as browsers write it.
    #[error("its host is none in lower case")]
    Host,
    /// A star that is not the first label, or before a top-level domain.
    #[error("a `*` stands for the first label of a host, before two others")]
    Star,
    /// The port is none, or the scheme's own.
    #[error("its port is none that browsers write")]
    Port,
}

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        let Some(end) = &self.end else {
            return origin == self.start;
        };
        let label = origin
            .strip_prefix(self.start.as_str())
            .and_then(|rest| rest.strip_suffix(end.as_str()));
        label.is_some_and(is_label)
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.start)?;
        self.end.iter().try_for_each(|end| write!(f, "*{end}"))
    }
}

impl FromStr for OriginPattern {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        if text == "null" {
            return Err(BadOrigin::Null);
        }
        let (scheme, rest) = text.split_once("://").ok_or(BadOrigin::NoScheme)?;
        let in_scheme =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_lowercase())
            || !scheme.bytes().all(in_scheme)
        {
            return Err(BadOrigin::Scheme);
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(BadOrigin::More);
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        if port.is_some_and(|port| !is_port(port, scheme)) {
            return Err(BadOrigin::Port);
        }
        let Some(named) = host.strip_prefix("*.") else {
            return match host {
                host if host.contains('*') => Err(BadOrigin::Star),
                host if is_host(host) => Ok(Self {
                    start: text.to_owned(),
                    end: None,
                }),
                _ => Err(BadOrigin::Host),
            };
        };
        // Everybody can have a name below a top-level domain.
        if named.contains('*') || !named.contains('.') && named != "localhost" {
            return Err(BadOrigin::Star);
        }
        if !named.split('.').all(is_label) {
            return Err(BadOrigin::Host);
        }
        Ok(Self {
            start: format!("{scheme}://"),
            end: Some(rest[1..].to_owned()),
        })
    }
}

/// Browsers leave out the scheme's own port.
fn is_port(port: &str, scheme: &str) -> bool {
    let own = match scheme {
        "http" => "80",
        "https" => "443",
        _ => "",
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    is_number && port.parse::<u16>().is_ok() && port != own
}

fn is_host(host: &str) -> bool {
    let six = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match six {
        // What is no address in there, no browser sends.
        Some(six) => {
            six.contains(':') && six.bytes().all(|byte| b"0123456789abcdef:".contains(&byte))
        }
        None => host.split('.').all(is_label),
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    };
    !label.is_empty() && label.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_matches_as_browsers_write_it_and_a_star_is_one_label() {
        for (pattern, origin, is_match) in [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "https://a.example.evil", false),
            ("https://a.example", "https://A.example", false),
            ("http://[::1]:3000", "http://[::1]:3000", true),
            ("capacitor://localhost", "capacitor://localhost", true),
            ("https://*.a.example", "https://x.a.example", true),
            ("https://*.a.example", "https://x-1.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://.a.example", false),
            ("https://*.a.example", "https://x.y.a.example", false),
            ("https://*.a.example", "https://evil/.a.example", false),
            ("https://*.a.example", "https://evila.example", false),
            ("https://*.a.example", "http://x.a.example", false),
            ("https://*.a.example", "https://x.a.example:8443", false),
            ("https://*.a.example:8443", "https://x.a.example:8443", true),
            ("http://*.localhost:3000", "http://x.localhost:3000", true),
        ] {
            let pattern: OriginPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(origin), is_match, "{pattern} {origin}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for (text, expected) in [
            ("null", BadOrigin::Null),
            ("", BadOrigin::NoScheme),
            ("a.example", BadOrigin::NoScheme),
            ("HTTPS://a.example", BadOrigin::Scheme),
            ("://a.example", BadOrigin::Scheme),
            ("https://a.example/", BadOrigin::More),
            ("https://a@a.example", BadOrigin::More),
            ("https://A.example", BadOrigin::Host),
            ("https://", BadOrigin::Host),
            ("https://a.example.", BadOrigin::Host),
            ("https://[a]", BadOrigin::Host),
            ("https://[::A]", BadOrigin::Host),
            ("https://caf\u{e9}.example", BadOrigin::Host),
            ("https://*", BadOrigin::Star),
            ("https://*.com", BadOrigin::Star),
            ("https://a*.example.com", BadOrigin::Star),
            ("https://a.*.example.com", BadOrigin::Star),
            ("https://*.*.example.com", BadOrigin::Star),
            ("https://*.exa mple.com", BadOrigin::Host),
            ("https://a.example:443", BadOrigin::Port),
            ("https://a.example:", BadOrigin::Port),
            ("https://a.example:080", BadOrigin::Port),
            ("https://a.example:65536", BadOrigin::Port),
        ] {
            assert_eq!(text.parse::<OriginPattern>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_list_answers_with_the_origin_that_asked_and_a_star_with_itself() {
        let these = Origins::These(vec![
            "https://a.example".parse().unwrap(),
            "https://b.example".parse().unwrap(),
        ]);
        let said = |origins: &Origins, origin: Option<&'static str>| {
            let origin = origin.map(HeaderValue::from_static);
            let allowed = origins.allow(origin.as_ref());
            allowed.map(|value| value.to_str().unwrap().to_owned())
        };
        let b = Some("https://b.example");
        assert_eq!(said(&these, b).as_deref(), b);
        assert_eq!(said(&these, Some("https://c.example")), None);
        assert_eq!(said(&these, Some("null")), None);
        assert_eq!(said(&these, None), None);
        for origin in [b, Some("null"), None] {
            assert_eq!(said(&Origins::Any, origin).as_deref(), Some("*"));
        }
    }
}
