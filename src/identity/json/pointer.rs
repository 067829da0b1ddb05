//! JSON pointers (RFC 6901).

/// Selects a member or an element of a JSON body; never the whole of it, unless it is made by [`JsonPointer::whole`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(Vec<String>);

/// Why a text is no pointer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJsonPointer {
    /// The empty pointer, which is the whole document.
    #[error("an empty JSON pointer selects the whole body; say body = \"none\" instead")]
    Whole,
    /// It does not begin with a slash.
    #[error("a JSON pointer begins with \"/\"")]
    NoSlash,
    /// A tilde that is not part of `~0` or `~1`.
    #[error("in a JSON pointer \"~\" is written \"~0\", and a \"/\" within a name \"~1\"")]
    BadEscape,
    /// More than [`super::DEPTH_MAX`] names: it could never select anything.
    #[error("the JSON pointer is longer than any body is deep")]
    TooDeep,
}

impl JsonPointer {
    /// Reads a pointer in its string form (RFC 6901 section 3), such as `/items/0/sent_at`.
    ///
    /// # Errors
    /// [`BadJsonPointer`] where it is malformed, and for the empty one.
    pub fn parse(text: &str) -> Result<Self, BadJsonPointer> {
        if text.is_empty() {
            return Err(BadJsonPointer::Whole);
        }
        let tokens = text
            .strip_prefix('/')
            .ok_or(BadJsonPointer::NoSlash)?
            .split('/');
        let tokens: Vec<String> = tokens.map(unescape).collect::<Result<_, _>>()?;
        if tokens.len() > super::DEPTH_MAX {
            return Err(BadJsonPointer::TooDeep);
        }
        Ok(Self(tokens))
    }

    /// The empty pointer, which selects the whole body.
    #[must_use]
    pub const fn whole() -> Self {
        Self(Vec::new())
    }

    /// The names and indices on the way, unescaped.
    pub(super) fn tokens(&self) -> &[String] {
        &self.0
    }
}

/// The element that a token selects in an array: digits without a leading zero.
pub(super) fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with(['0', '+']);
    canonical.then(|| token.parse().ok()).flatten()
}

fn unescape(token: &str) -> Result<String, BadJsonPointer> {
    let mut pieces = token.split('~');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) = match piece.as_bytes().first() {
            Some(b'0') => ('~', &piece[1..]),
            Some(b'1') => ('/', &piece[1..]),
            _ => return Err(BadJsonPointer::BadEscape),
        };
        name.push(character);
        name.push_str(rest);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        JsonPointer::parse(text).unwrap().0
    }

    /// The examples of RFC 6901 section 5.
    #[test]
    fn pointers_are_read_as_rfc_6901_says() {
        assert_eq!(tokens("/foo"), ["foo"]);
        assert_eq!(tokens("/foo/0"), ["foo", "0"]);
        assert_eq!(tokens("/"), [""]);
        assert_eq!(tokens("/a~1b"), ["a/b"]);
        assert_eq!(tokens("/m~0n"), ["m~n"]);
        assert_eq!(tokens("/ "), [" "]);
        assert_eq!(tokens("/k\"l"), ["k\"l"]);
        assert_eq!(tokens("/~01"), ["~1"]);
        assert_eq!(tokens("/a//b"), ["a", "", "b"]);
    }

    #[test]
    fn malformed_pointers_are_refused() {
        assert_eq!(JsonPointer::parse(""), Err(BadJsonPointer::Whole));
        assert_eq!(JsonPointer::parse("foo"), Err(BadJsonPointer::NoSlash));
        assert_eq!(JsonPointer::parse("#/foo"), Err(BadJsonPointer::NoSlash));
        assert_eq!(JsonPointer::parse("/a~"), Err(BadJsonPointer::BadEscape));
        assert_eq!(JsonPointer::parse("/a~2"), Err(BadJsonPointer::BadEscape));
        assert_eq!(JsonPointer::parse("/a~/0"), Err(BadJsonPointer::BadEscape));
        assert_eq!(
            JsonPointer::parse(&"/a".repeat(129)),
            Err(BadJsonPointer::TooDeep)
        );
    }

    #[test]
    fn indices_have_one_spelling() {
        assert_eq!(index("0"), Some(0));
        assert_eq!(index("10"), Some(10));
        for token in ["", "00", "01", "+1", "-1", "-", "1.0", "1e0", " 1"] {
            assert_eq!(index(token), None, "{token:?}");
        }
    }
}
