//! A part of a JSON body, by its pointer.

use super::pointer::{JsonPointer, index};
use super::{NotIJson, canonical};

/// The canonical text of what the pointer selects; `None` where it selects nothing.
///
/// # Errors
/// [`NotIJson`] where the body is none of which all readers see the same value.
pub fn select(body: &[u8], pointer: &JsonPointer) -> Result<Option<Vec<u8>>, NotIJson> {
    // Without spaces, and well-formed: what follows need only count brackets and quotes.
    let text = canonical(body, &[])?;
    let mut rest = text.as_slice();
    for token in pointer.tokens() {
        let found = match rest.first() {
            Some(b'{') => member(&rest[1..], token),
            Some(b'[') => index(token).and_then(|index| element(&rest[1..], index)),
            _ => None,
        };
        match found {
            Some(found) => rest = found,
            None => return Ok(None),
        }
    }
    Ok(Some(rest[..length(rest)].to_vec()))
}

/// The value of this name, and what follows it, in an object whose bracket is open.
fn member<'t>(mut rest: &'t [u8], name: &str) -> Option<&'t [u8]> {
    while rest.first() == Some(&b'"') {
        let (written, after) = rest.split_at(length(rest));
        let value = after.strip_prefix(b":")?;
        let written: String = serde_json::from_slice(written).ok()?;
        if written == name {
            return Some(value);
        }
        rest = value[length(value)..].strip_prefix(b",")?;
    }
    None
}

/// The element of this index, and what follows it, in an array whose bracket is open.
fn element(mut rest: &[u8], index: usize) -> Option<&[u8]> {
    for _ in 0..index {
        rest = rest[length(rest)..].strip_prefix(b",")?;
    }
    (rest.first() != Some(&b']')).then_some(rest)
}

/// How long the value is that this text begins with.
fn length(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(byte) = text.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            b',' | b':' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    text.len().min(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(body: &str, pointer: &str) -> Option<String> {
        let pointer = JsonPointer::parse(pointer).expect("a pointer");
        let part = select(body.as_bytes(), &pointer).expect("JSON");
        part.map(|part| String::from_utf8(part).expect("UTF-8"))
    }

    #[test]
    fn what_a_pointer_selects_keeps_its_digits() {
        let body = r#"{"data": [ {"id": "a,\"]b", "amount": 12345678901234567890.12, "x": null}, 7 ], "a/b": {"": [[]]}}"#;
        let first = r#"{"amount":12345678901234567890.12,"id":"a,\"]b","x":null}"#;
        assert_eq!(selected(body, "/data/0").as_deref(), Some(first));
        assert_eq!(
            selected(body, "/data/0/amount").as_deref(),
            Some("12345678901234567890.12")
        );
        assert_eq!(selected(body, "/data/0/id").as_deref(), Some(r#""a,\"]b""#));
        assert_eq!(selected(body, "/data/0/x").as_deref(), Some("null"));
        assert_eq!(selected(body, "/data/1").as_deref(), Some("7"));
        assert_eq!(selected(body, "/a~1b/").as_deref(), Some("[[]]"));
        for missing in [
            "/data/2",
            "/data/x",
            "/data/1/0",
            "/none",
            "/a~1b//0/0",
            "/data/0/id/0",
        ] {
            assert_eq!(selected(body, missing), None, "{missing}");
        }
        assert_eq!(selected("{}", "/a"), None);
        assert_eq!(selected("[]", "/0"), None);
    }

    #[test]
    fn what_readers_disagree_on_is_not_selected_from() {
        let pointer = JsonPointer::parse("/a").expect("a pointer");
        assert!(select(b"{\"a\":1,\"a\":2}", &pointer).is_err());
        assert!(select(b"<html>", &pointer).is_err());
    }
}
