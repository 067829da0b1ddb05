//! What is said about a file that is not TOML.

use crate::{faults, faults_with};

#[test]
fn faults_of_syntax_are_said_together_with_values_that_are_wrong_whatever_the_syntax() {
    let text = "drain_timeout = \"x\"\n[limits]\nmax_late = 1\nmax_late = 2\n[upstreams.a]\n[ upstreams.a ]\nb = 1\n";
    assert_eq!(
        faults(text),
        "f:1:17: drain_timeout: \"x\" does not begin with a whole number; write a duration such as \"30s\" (ms, s, m, \
         h, d)\n\
         f:4:1: \"max_late\" is set twice; see also f:3:1\n  4 | max_late = 2\n    | ^\n\
         f:6:13: \"a\" is set twice; see also f:5:1\n  6 | [ upstreams.a ]\n    |             ^"
    );
    assert_eq!(
        faults("a = [1\n"),
        "f:1:7: not TOML: unclosed array, expected `]`\n  1 | a = [1\n    |       ^"
    );
}

#[test]
fn a_line_that_is_not_toml_is_shown_with_what_to_write() {
    for (top, expected) in [
        (
            "store.url = \"memory:",
            "f:1:21: not TOML: invalid basic string, expected `\"`; the text has no closing quote on its line\n  \
             1 | store.url = \"memory:\n    |                     ^",
        ),
        (
            "store.url = memory:",
            "f:1:13: not TOML: string values must be quoted, expected literal string; a text is written in quotes: \
             \"memory:\"\n  1 | store.url = memory:\n    |             ^",
        ),
        (
            "store.timeout = 250ms",
            "f:1:17: not TOML: string values must be quoted, expected literal string; a text is written in quotes: \
             \"250ms\"\n  1 | store.timeout = 250ms\n    |                 ^",
        ),
        (
            "profile: \"sidecar\"",
            "f:1:8: not TOML: invalid unquoted key, expected letters, numbers, `-`, `_`; a setting is written with \
             `=`: name = value\n  1 | profile: \"sidecar\"\n    |        ^",
        ),
        (
            "profile = \u{201c}sidecar\u{201d}",
            "f:1:11: not TOML: string values must be quoted, expected literal string; write straight quotes: \"…\"\n  \
             1 | profile = \u{201c}sidecar\u{201d}\n    |           ^",
        ),
        (
            "profile = \"sidecar\",",
            "f:1:20: not TOML: unexpected key or value, expected newline, `#`; nothing stands between two settings but \
             the end of the line\n  1 | profile = \"sidecar\",\n    |                    ^",
        ),
        (
            "defaults.key_required = True",
            "f:1:25: not TOML: invalid boolean, expected `true`; write true\n  1 | defaults.key_required = True\n    \
             |                         ^",
        ),
        (
            "profile =",
            "f:1:10: not TOML: string values must be quoted, expected literal string; nothing stands after the `=`\n  \
             1 | profile =\n    |          ^",
        ),
        (
            "defaults.methods = [\"POST\"\nprofile = \"x\"\nlimits = 7",
            "f:2:1: not TOML: missing comma between array elements, expected `,`; the list above it is not closed with \
             `]`\n  2 | profile = \"x\"\n    | ^",
        ),
    ] {
        assert_eq!(faults_with(&format!("{top}\n")), expected, "{top}");
    }
}

#[test]
fn what_is_set_twice_is_said_with_both_places() {
    for (text, places) in [
        (
            "a = 1\na = 2\n",
            "f:2:1: \"a\" is set twice; see also f:1:1",
        ),
        (
            "[b]\na = 1\n[c]\na = 1\n a = 2\n",
            "f:5:2: \"a\" is set twice; see also f:4:1",
        ),
        (
            "[b]\n[c]\n[b]\n",
            "f:3:2: \"b\" is set twice; see also f:1:1",
        ),
        (
            "b.x = 1\n[b]\n",
            "f:2:2: \"b\" is set twice; see also f:1:1",
        ),
        (
            "c = { a = 1, b = { a = 2, a = 3 } }\n",
            "f:1:27: \"a\" is set twice; see also f:1:20",
        ),
        (
            "[[r]]\na = 1\n[[r]]\na = 2\na = 3\n",
            "f:5:1: \"a\" is set twice; see also f:4:1",
        ),
        (
            "[r]\nb.a = 1\nb.a = 2\n",
            "f:3:3: \"a\" is set twice; see also f:2:3",
        ),
        (
            "[r]\n\"a\" = 1\na = 2\n",
            "f:3:1: \"a\" is set twice; see also f:2:1",
        ),
    ] {
        let said = faults(text);
        assert!(said.lines().any(|line| line == places), "{text}: {said}");
    }
}

#[test]
fn names_that_are_none_are_said_beside_a_broken_line_unless_it_is_a_sections() {
    let broken = "drain_timuot = \"1s\"\nprofile = sidecar\n";
    let said = faults_with(broken);
    assert!(
        said.starts_with("f:1:1: drain_timuot: is not a setting"),
        "{said}"
    );
    // What follows may be meant for the section whose line is broken.
    let said = faults_with("drain_timuot = \"1s\"\n[store\nurl = \"memory:\"\n");
    assert_eq!(
        said.lines().next(),
        Some("f:2:7: not TOML: unclosed table, expected `]`")
    );
}

#[test]
fn a_line_that_may_hold_a_secret_is_not_shown_and_a_long_one_not_whole() {
    for line in [
        "store.id_key = \"hunter2",
        "store.url = \"redis://:hunter2@host/0",
        "admin.token = hunter2)",
        "store.id_key = hunter2",
    ] {
        let said = faults_with(&format!("{line}\n"));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let said = faults_with(&format!("profile = \"{}\n", "x-".repeat(2500)));
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[1].chars().count() < 120 && lines[2].ends_with('^'),
        "{said}"
    );
}
