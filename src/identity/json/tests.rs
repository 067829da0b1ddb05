use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn text(body: impl AsRef<[u8]>) -> String {
    String::from_utf8(canonical(body.as_ref(), &[]).unwrap()).unwrap()
}

fn without(body: &str, pointers: &[&str]) -> String {
    let pointers: Vec<_> = pointers
        .iter()
        .map(|text| JsonPointer::parse(text).unwrap())
        .collect();
    String::from_utf8(canonical(body.as_bytes(), &pointers).unwrap()).unwrap()
}

fn refused(body: impl AsRef<[u8]>) -> NotIJson {
    canonical(body.as_ref(), &[]).unwrap_err()
}

/// The sample of RFC 8785 section 3.2.2, with the one number that a double does not hold as written.
#[test]
fn values_are_written_as_rfc_8785_says() {
    let body = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let expected = concat!(
        r#"{"literals":[null,true,false],"numbers":[333333333.33333329,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#,
    );
    assert_eq!(text(body), expected);
}

/// The sample of RFC 8785 section 3.2.3.
#[test]
fn members_are_in_the_order_of_utf_16() {
    let body = r#"{
        "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis"
    }"#;
    let expected = concat!(
        "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",",
        "\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",",
        "\"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}",
    );
    assert_eq!(text(body), expected);
}

/// From the test data that RFC 8785 points to in its appendix C.
#[test]
fn nested_values_are_written_as_the_reference_data_says() {
    assert_eq!(
        text(r#"[56, {"d": true, "10": null, "1": [ ]}]"#),
        r#"[56,{"1":[],"10":null,"d":true}]"#
    );
    assert_eq!(
        text(
            r#"{"1": {"f": {"f": "hi","F": 5} ,"\n": 56.0}, "10": { }, "": "empty", "a": { },
                 "111": [ {"e": "yes","E": "no" } ], "A": { } }"#
        ),
        concat!(
            r#"{"":"empty","1":{"\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"#,
            r#""A":{},"a":{}}"#,
        )
    );
    // No Unicode normalisation: Å as one character and as two are different strings.
    assert_eq!(text("{\"x\": \"A\u{30a}\"}"), "{\"x\":\"A\u{30a}\"}");
    assert_ne!(text("\"A\u{30a}\""), text("\"\u{c5}\""));
}

#[test]
fn scalars_are_whole_bodies_too() {
    assert_eq!(text(" 1.0 "), "1");
    assert_eq!(text("\"\\u00e9\\b\\f\\t\\u007f\""), "\"é\\b\\f\\t\u{7f}\"");
    assert_eq!(text("null\n"), "null");
    assert_eq!(text("[[],{}]"), "[[],{}]");
}

#[test]
fn bodies_that_readers_may_see_differently_are_refused() {
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"[1,]",
        b"[1 2]",
        b"{\"a\":1,}",
        b"{\"a\"}",
        b"{a:1}",
        b"'a'",
        b"NaN",
        b"-",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"1e",
        b"0x10",
        b"[1]]",
        b"{} {}",
        b"1 2",
        b"{}\0",
        b"// c\n1",
        b"tru",
        b"\"\\x41\"",
        b"\"a",
        b"\"\n\"",
        b"\"\\ud800\"",
        b"\"\\udc00\"",
        b"\"\\ud800\\ud800\"",
        b"\"\\ud800a12345\"",
        b"\"\\u12\"",
        b"\"\\u+123\"",
        b"{\"\\udfff\":1}",
        b"\"\xff\"",
        b"\"\xc0\x80\"",
        b"\"\xed\xa0\x80\"",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"[\"a\",\x0b1]",
        b"[truefalse]",
    ] {
        assert_eq!(refused(body), NotIJson::Syntax, "{}", body.escape_ascii());
    }
    assert_eq!(refused("[1e99999999999999999999]"), NotIJson::Exponent);
}

#[test]
fn members_of_one_name_are_refused_wherever_they_stand() {
    for body in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":2,"a":3}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"[{"x":{"a":1,"b":0,"a":{}}}]"#,
    ] {
        assert_eq!(refused(body), NotIJson::Duplicate, "{body}");
    }
    let pointer = [JsonPointer::parse("/a").unwrap()];
    assert_eq!(
        canonical(br#"{"a":1,"a":2}"#, &pointer),
        Err(NotIJson::Duplicate)
    );
    assert_eq!(
        canonical(br#"{"a":{"b":1,"b":2}}"#, &pointer),
        Err(NotIJson::Duplicate)
    );
    assert_eq!(text(r#"{"a":1,"A":1}"#), r#"{"A":1,"a":1}"#);
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(text(nested(DEPTH_MAX)), nested(DEPTH_MAX));
    assert_eq!(refused(nested(DEPTH_MAX + 1)), NotIJson::TooDeep);
    assert_eq!(refused("[".repeat(1_000_000)), NotIJson::TooDeep);
    assert_eq!(refused("{\"a\":".repeat(1_000_000)), NotIJson::TooDeep);
}

#[test]
fn ignored_members_and_elements_are_left_out() {
    let body = r#"{"z":1,"at":"now","items":[{"id":1,"at":0},{"at":[1,{"at":2}],"id":2}],"a/b":3,"m~n":4}"#;
    assert_eq!(
        without(body, &["/at", "/items/1/at", "/a~1b", "/m~0n"]),
        r#"{"items":[{"at":0,"id":1},{"id":2}],"z":1}"#
    );
    assert_eq!(
        without(body, &["/items/0", "/at", "/z"]),
        without(body, &["/z", "/at", "/items/0"])
    );
    assert_eq!(without("[0,1,2,3]", &["/1", "/3"]), "[0,2]");
    assert_eq!(without("[0]", &["/0"]), "[]");
    assert_eq!(without("[[0,1],[0,1]]", &["/1/0", "/0/1"]), "[[0],[1]]");
    assert_eq!(without(r#"{"a":{"b":1}}"#, &["/a/b"]), r#"{"a":{}}"#);
    assert_eq!(without(r#"{"":1,"b":2}"#, &["/"]), r#"{"b":2}"#);
    assert_eq!(without(r#"{"0":1,"b":2}"#, &["/0"]), r#"{"b":2}"#);
}

#[test]
fn pointers_that_select_nothing_change_nothing() {
    let body = r#"{"a":[1,2],"b":"x"}"#;
    for pointer in [
        "/c", "/a/2", "/a/-", "/a/00", "/a/0/x", "/b/0", "/a/a", "/b/x/y",
    ] {
        assert_eq!(without(body, &[pointer]), body, "{pointer}");
    }
    assert_eq!(without("1", &["/0"]), "1");
}

/// A JSON value as a client might hold it.
#[derive(Clone, Debug)]
enum Doc {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Array(Vec<Doc>),
    Object(Vec<(String, Doc)>),
}

fn docs() -> impl Strategy<Value = Doc> {
    // Integers within 2^53 and finite doubles: what the reference implementation can hold as well.
    let leaf = prop_oneof![
        Just(Doc::Null),
        any::<bool>().prop_map(Doc::Bool),
        (-(1_i64 << 53)..=1 << 53).prop_map(Doc::Int),
        prop::num::f64::NORMAL.prop_map(Doc::Float),
        any::<String>().prop_map(Doc::Text),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        let named = prop::collection::btree_map(
            "[a-c\u{e9}\u{fb33}\u{1f600}\n\"]{0,3}",
            inner.clone(),
            0..6,
        );
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Doc::Array),
            named.prop_map(|members| Doc::Object(members.into_iter().collect())),
        ]
    })
}

impl Doc {
    /// For the reference implementation.
    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::from(*bool),
            Self::Int(int) => Value::from(*int),
            Self::Float(float) => Value::from(*float),
            Self::Text(text) => Value::from(text.as_str()),
            Self::Array(items) => items.iter().map(Self::value).collect(),
            Self::Object(members) => members
                .iter()
                .map(|(name, doc)| (name.clone(), doc.value()))
                .collect(),
        }
    }

    /// One of many ways to write it, chosen by the dice.
    fn written(&self, dice: &mut Dice) -> String {
        let space = |dice: &mut Dice| ["", " ", "\n\t", "\r\n  "][dice.below(4)];
        let text = match self {
            Self::Null => "null".into(),
            Self::Bool(bool) => bool.to_string(),
            Self::Int(int) => match dice.below(4) {
                0 => format!("{int}"),
                1 => format!("{int}.00"),
                2 => format!("{int}0E-1"),
                _ => format!("{int}e+0"),
            },
            Self::Float(float) => {
                // Not by `format!`, which takes the other one of two texts that are equally near and equally short.
                let text = ryu_js::Buffer::new().format_finite(*float).to_owned();
                match (dice.below(2), text.contains('e'), text.contains('.')) {
                    (0, ..) => text,
                    (_, true, _) => text.to_uppercase(),
                    (_, _, true) => text + "00e-0",
                    _ => text + ".0e0",
                }
            }
            Self::Text(text) => quoted(text, dice),
            Self::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| item.written(dice)).collect();
                format!("[{}{}]", space(dice), items.join(","))
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                dice.shuffle(&mut members);
                let members: Vec<_> = members
                    .into_iter()
                    .map(|(name, doc)| {
                        format!(
                            "{}{}:{}",
                            quoted(name, dice),
                            space(dice),
                            doc.written(dice)
                        )
                    })
                    .collect();
                format!("{{{}{}}}", space(dice), members.join(","))
            }
        };
        format!("{}{text}{}", space(dice), space(dice))
    }

    fn leaves(&mut self) -> Vec<&mut Self> {
        match self {
            Self::Array(items) if items.is_empty() => vec![self],
            Self::Object(members) if members.is_empty() => vec![self],
            Self::Array(items) => items.iter_mut().flat_map(Self::leaves).collect(),
            Self::Object(members) => members
                .iter_mut()
                .flat_map(|(_, doc)| doc.leaves())
                .collect(),
            leaf => vec![leaf],
        }
    }

    /// Another value, as near to this one as may be.
    fn change(&mut self) {
        *self = match self {
            Self::Null => Self::Bool(false),
            Self::Bool(bool) => Self::Bool(!*bool),
            Self::Int(int) => Self::Int(*int + 1),
            Self::Float(float) => Self::Float(float.next_up()),
            Self::Text(text) => Self::Text(format!("{text} ")),
            Self::Array(_) => Self::Object(vec![]),
            Self::Object(_) => Self::Array(vec![]),
        }
    }
}

/// Writes characters as they are, or as escapes.
fn quoted(text: &str, dice: &mut Dice) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        let must = character < ' ' || matches!(character, '"' | '\\');
        if must || dice.below(4) == 0 {
            for unit in character.encode_utf16(&mut [0; 2]) {
                quoted += &format!("\\u{unit:04X}");
            }
        } else {
            quoted.push(character);
        }
    }
    quoted + "\""
}

/// Decisions drawn from a seed that proptest prints: a linear congruential generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

proptest! {
    /// The crate `serde_json_canonicalizer`, which RFC 8785's authors list, is the judge.
    #[test]
    fn every_way_to_write_a_value_has_the_text_of_rfc_8785(doc in docs(), seed: u64) {
        let expected = serde_json_canonicalizer::to_string(&doc.value()).unwrap();
        prop_assert_eq!(text(doc.written(&mut Dice(seed))), expected);
    }

    #[test]
    fn a_changed_leaf_has_another_text(doc in docs(), seed: u64) {
        let mut dice = Dice(seed);
        let mut other = doc.clone();
        let mut leaves = other.leaves();
        let at = dice.below(leaves.len());
        leaves[at].change();
        prop_assert_ne!(text(doc.written(&mut dice)), text(other.written(&mut dice)));
    }

    #[test]
    fn the_canonical_text_is_its_own(doc in docs(), seed: u64) {
        let once = text(doc.written(&mut Dice(seed)));
        prop_assert_eq!(text(&once), once);
    }

    /// Whatever is accepted says the same to another reader.
    #[test]
    fn accepted_bodies_say_the_same_to_serde_json(body in r#"[\[\]{},:"a0\\u1de \-.]{0,24}"#) {
        if let Ok(canonical) = canonical(body.as_bytes(), &[]) {
            let (ours, theirs): (Value, Value) =
                (serde_json::from_slice(&canonical).unwrap(), serde_json::from_str(&body).unwrap());
            let both = [ours, theirs].map(|v| serde_json_canonicalizer::to_string(&v).unwrap());
            prop_assert_eq!(&both[0], &both[1]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        pointer in "(/[a-c0-2]?){1,3}",
    ) {
        let _ = canonical(&bytes, &[JsonPointer::parse(&pointer).unwrap()]);
    }

    /// Requests that differ only in what is ignored are the same, and no others are.
    #[test]
    fn an_ignored_member_does_not_count_and_every_other_does(
        kept in docs(), ignored in docs(), other in docs(), seed: u64,
    ) {
        let mut dice = Dice(seed);
        let pointer = [JsonPointer::parse("/in/1/at").unwrap()];
        let mut with = |at: Option<&Doc>, kept: &Doc| {
            let mut inner = vec![("kept".to_owned(), kept.clone())];
            inner.extend(at.map(|doc| ("at".to_owned(), doc.clone())));
            let items = Doc::Array(vec![Doc::Null, Doc::Object(inner)]);
            let body = Doc::Object(vec![("in".to_owned(), items)]).written(&mut dice);
            canonical(body.as_bytes(), &pointer).unwrap()
        };
        let text = with(None, &kept);
        prop_assert_eq!(&with(Some(&ignored), &kept), &text);
        prop_assert_eq!(&with(Some(&other), &kept), &text);
        let mut changed = kept.clone();
        changed.leaves()[0].change();
        prop_assert_ne!(&with(Some(&ignored), &changed), &text);
    }
}
