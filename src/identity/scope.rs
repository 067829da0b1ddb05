//! The scope: who sent a request. A record is reachable only from the scope that created it.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::key::trim;

/// Reads the scope from all of the sources together. No sources: one scope for everybody.
///
/// A header counts with every one of its lines, in their order. One that has no line, or whose lines are all empty,
/// is missing: it says of nobody who they are. Where it counts only if sent, it then adds nothing, and all who do not
/// send it share a scope.
///
/// # Errors
/// [`ScopeMissing`] names the first source that the request lacks.
pub fn find(sources: &[ScopeSource], headers: &HeaderMap) -> Result<Scope, ScopeMissing> {
    let mut lines = Vec::with_capacity(sources.len());
    for source in sources {
        let name = source.header();
        let before = lines.len();
        for value in headers.get_all(name) {
            lines.push((name.clone(), value.clone()));
        }
        if lines[before..]
            .iter()
            .all(|(_, value)| trim(value.as_bytes()).is_empty())
        {
            match source {
                ScopeSource::Header(_) => return Err(ScopeMissing(source.clone())),
                ScopeSource::HeaderIfSent(_) => lines.truncate(before),
            }
        }
    }
    Ok(Scope { lines })
}

/// What names the client.
#[derive(Clone, Debug, PartialEq)]
pub enum ScopeSource {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a header where it is sent.
    HeaderIfSent(HeaderName),
}

impl ScopeSource {
    /// The header that is read.
    #[must_use]
    pub fn header(&self) -> &HeaderName {
        match self {
            Self::Header(name) | Self::HeaderIfSent(name) => name,
        }
    }
}

/// Who sent a request. It prints the names of its headers and none of their values.
#[derive(Clone, PartialEq, Eq)]
pub struct Scope {
    /// Header lines in the order of the sources, each with its header's name: a value that named a tenant must not
    /// stand for a user of the same number once the configuration reads another header.
    lines: Vec<(HeaderName, HeaderValue)>,
}

impl Scope {
    /// The header lines that make up the scope, without the spaces around their values.
    pub(super) fn lines(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &[u8])> {
        self.lines
            .iter()
            .map(|(name, value)| (name, trim(value.as_bytes())))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")?;
        f.debug_list()
            .entries(self.lines.iter().map(|(name, _)| name.as_str()))
            .finish()
    }
}

/// The scope names something that the request lacks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("The request does not say who sends it: the header {name} is missing or empty.", name = .0.header())]
pub struct ScopeMissing(pub ScopeSource);

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    const TENANT: HeaderName = HeaderName::from_static("x-tenant");

    fn both() -> [ScopeSource; 2] {
        [
            ScopeSource::Header(AUTHORIZATION),
            ScopeSource::Header(TENANT),
        ]
    }

    fn request(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let lines = lines.iter().cloned();
        lines
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn without_sources_there_is_one_scope() {
        let empty = find(&[], &HeaderMap::new());
        assert_eq!(empty, find(&[], &request(&[(AUTHORIZATION, "Bearer a")])));
    }

    #[test]
    fn every_source_must_be_there_and_say_something() {
        let missing = |lines: &[_]| find(&both(), &request(lines)).unwrap_err().0;
        assert_eq!(
            missing(&[(TENANT, "acme")]),
            ScopeSource::Header(AUTHORIZATION)
        );
        assert_eq!(
            missing(&[(AUTHORIZATION, "Bearer a")]),
            ScopeSource::Header(TENANT)
        );
        assert_eq!(
            missing(&[(AUTHORIZATION, "Bearer a"), (TENANT, " "), (TENANT, "")]),
            ScopeSource::Header(TENANT)
        );
        assert!(
            find(
                &both(),
                &request(&[(AUTHORIZATION, "Bearer a"), (TENANT, "acme")])
            )
            .is_ok()
        );
    }

    #[test]
    fn a_header_that_counts_if_sent_may_be_missing() {
        let sources = [
            ScopeSource::HeaderIfSent(AUTHORIZATION),
            ScopeSource::Header(TENANT),
        ];
        let of = |lines: &[_]| find(&sources, &request(lines));
        let without = of(&[(TENANT, "acme")]).unwrap();
        assert_eq!(
            of(&[(AUTHORIZATION, " "), (TENANT, "acme")]),
            Ok(without.clone())
        );
        let alice = of(&[(AUTHORIZATION, "Bearer a"), (TENANT, "acme")]).unwrap();
        let bob = of(&[(AUTHORIZATION, "Bearer b"), (TENANT, "acme")]).unwrap();
        assert!(alice != without && alice != bob);
        assert_eq!(
            of(&[(AUTHORIZATION, "Bearer a")]),
            Err(ScopeMissing(sources[1].clone()))
        );
    }

    #[test]
    fn every_line_of_a_header_counts() {
        let of = |lines: &[_]| find(&[ScopeSource::Header(TENANT)], &request(lines)).unwrap();
        assert_ne!(of(&[(TENANT, "a")]), of(&[(TENANT, "a"), (TENANT, "b")]));
        assert_ne!(
            of(&[(TENANT, "b"), (TENANT, "a")]),
            of(&[(TENANT, "a"), (TENANT, "b")])
        );
        assert_ne!(of(&[(TENANT, "a"), (TENANT, "")]), of(&[(TENANT, "a")]));
    }

    #[test]
    fn values_are_not_printed() {
        let scope = find(
            &both(),
            &request(&[(AUTHORIZATION, "Bearer s3cret"), (TENANT, "acme")]),
        );
        assert_eq!(
            format!("{:?}", scope.unwrap()),
            r#"Scope["authorization", "x-tenant"]"#
        );
        let missing = find(&both(), &HeaderMap::new()).unwrap_err().to_string();
        assert!(
            missing.contains("header authorization is missing"),
            "{missing}"
        );
    }
}
