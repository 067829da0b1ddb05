//! The other paths that an upstream may take a path for.
//!
//! Servers agree neither on what they normalise nor on its order: some decode `%2F`, some twice; some drop
//! `;parameters`, some take a backslash for a slash, some end a decoded path at `?`, `#` or a zero, some merge `//`
//! before they remove dot segments and some after. A path that one of them would read as another route's is found by
//! trying all of these readings.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// How often a path may have been percent-encoded. Clients encode once and broken ones twice; whatever is deeper is
/// an attempt to get past somebody.
const MAX_DECODES: usize = 4;

/// Whether a path can have other readings than itself. Most have none, and that is all that is asked about them.
pub(super) fn has_other_readings(path: &[u8]) -> bool {
    let mut previous = 0;
    for byte in path {
        match (byte, previous) {
            (b'%' | b';' | b'\\', _) | (b'/' | b'.', b'/') => return true,
            _ => previous = *byte,
        }
    }
    path.len() > 1 && previous == b'/'
}

/// Calls `visit` with every other reading of the path until it returns false. Returns false where it did, and where
/// the path is encoded more deeply than anybody has a use for.
///
/// Trailing slashes are kept: whether they count is asked of each reading.
pub(super) fn all_readings(path: &[u8], mut visit: impl FnMut(&[u8]) -> bool) -> bool {
    let mut decoded = Cow::Borrowed(path);
    for _ in 0..=MAX_DECODES {
        if !readings_of(&decoded, &mut visit) {
            return false;
        }
        match Cow::from(percent_decode(&decoded)) {
            Cow::Borrowed(_) => return true,
            Cow::Owned(next) => decoded = Cow::Owned(next),
        }
    }
    false
}

/// The readings of a path in which nothing is decoded any more.
fn readings_of(path: &[u8], visit: &mut impl FnMut(&[u8]) -> bool) -> bool {
    let mut spelled = vec![path.to_vec()];
    if let Some(end) = path.iter().position(|byte| b"?#\0".contains(byte))
        && end > 0
    {
        spelled.push(path[..end].to_vec());
    }
    if path.contains(&b'\\') {
        let slashed: Vec<_> = spelled.iter().map(|path| with_slashes(path)).collect();
        spelled.extend(slashed);
    }
    if path.contains(&b';') {
        let bare: Vec<_> = spelled
            .iter()
            .map(|path| without_parameters(path))
            .collect();
        spelled.extend(bare);
    }
    spelled.iter().all(|path| {
        let merged = merge_slashes(path);
        visit(path)
            && visit(&merged)
            && visit(&remove_dots(&merged))
            && visit(&merge_slashes(&remove_dots(path)))
    })
}

fn with_slashes(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|byte| if *byte == b'\\' { b'/' } else { *byte })
        .collect()
}

/// Drops `;name=value` from each segment (RFC 3986, section 3.3), as servlet containers do.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .map(|segment| {
            segment
                .split(|byte| *byte == b';')
                .next()
                .unwrap_or_default()
        })
        .collect();
    segments.join(&b'/')
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|byte, previous| *byte == b'/' && *previous == b'/');
    merged
}

/// RFC 3986, section 5.2.4, for a path that begins with a slash.
fn remove_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_open = false;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        ends_open = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut removed = b"/".to_vec();
    removed.extend(kept.join(&b'/'));
    if ends_open && !kept.is_empty() {
        removed.push(b'/');
    }
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn readings(path: &str) -> Vec<String> {
        let mut all = Vec::new();
        all_readings(path.as_bytes(), |reading| {
            all.push(String::from_utf8_lossy(reading).into_owned());
            true
        });
        all
    }

    #[test]
    fn a_plain_path_is_read_in_one_way() {
        for path in ["/", "/v1/payments", "/v1/a.b/c..d/e.", "/v1/~x:y@z"] {
            assert!(!has_other_readings(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn every_reading_that_a_server_may_choose_is_tried() {
        for (path, reading) in [
            ("/v1/", "/v1/"),
            ("/v1%2Fpayments", "/v1/payments"),
            ("/v1%252Fpayments", "/v1/payments"),
            ("/%76%31/payments", "/v1/payments"),
            ("/v1//payments", "/v1/payments"),
            ("/v1/./payments", "/v1/payments"),
            ("/v1/x/../payments", "/v1/payments"),
            ("/v1/%2e%2e/v1/payments", "/v1/payments"),
            ("/x/%2e%2e%2fv1/payments", "/v1/payments"),
            ("/v1\\payments", "/v1/payments"),
            ("/v1/payments;a=b", "/v1/payments"),
            ("/v1;x/payments%3Ba", "/v1/payments"),
            ("/x/..;/v1/payments", "/v1/payments"),
            // Ended early, by who decodes before it looks for the query, or by strings that end with a zero.
            ("/v1/payments%3Fa", "/v1/payments"),
            ("/v1/payments%2523a", "/v1/payments"),
            ("/v1\\payments%00.png", "/v1/payments"),
            // Merged before the dots are removed, and after.
            ("/a//../b", "/b"),
            ("/a//../b", "/a/b"),
            ("/../../v1", "/v1"),
            ("/v1/x/..", "/v1/"),
            ("/v1/..", "/"),
        ] {
            assert!(has_other_readings(path.as_bytes()), "{path}");
            assert!(
                readings(path).contains(&reading.to_owned()),
                "{path}: {:?}",
                readings(path)
            );
        }
    }

    #[test]
    fn what_is_encoded_too_deeply_is_not_read_to_its_end() {
        let path = |depth: usize| format!("/{}2F", "%25".to_owned() + &"25".repeat(depth));
        assert!(all_readings(path(1).as_bytes(), |_| true));
        assert!(!all_readings(path(9).as_bytes(), |_| true));
    }

    proptest! {
        #[test]
        fn a_path_without_other_readings_is_its_only_one(path in "/[a-c./%;\\\\]{0,12}") {
            if !has_other_readings(path.as_bytes()) {
                for reading in readings(&path) {
                    prop_assert_eq!(&reading, &path);
                }
            }
        }

        #[test]
        fn readings_begin_with_a_slash_and_never_grow(path in "/[a-c./%2F5;\\\\]{0,24}") {
            for reading in readings(&path) {
                prop_assert!(reading.starts_with('/'));
                prop_assert!(reading.len() <= path.len());
            }
        }
    }
}
