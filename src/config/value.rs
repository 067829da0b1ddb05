//! The types of settings: what may be written for each, and what it becomes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::finding::Findings;
use super::setting::{Definition, Form, Value, Written, name_in_path, quoted, type_in_words};

/// A value that is one word or number.
pub(super) trait Scalar: Sized {
    /// `Err`: what is wrong; what to write instead is added from [`Scalar::kind`].
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;

    /// What to write.
    fn kind() -> String;

    /// The JSON Schema of what to write.
    fn schema() -> Json;
}

impl<T: Scalar> Value for T {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        match T::from_toml(written.value) {
            Ok(value) => Some(value),
            Err(wrong) => {
                findings.value(&written.place, format!("{wrong}; write {}", T::kind()));
                None
            }
        }
    }

    fn kind() -> String {
        T::kind()
    }

    fn schema() -> Json {
        T::schema()
    }
}

/// A value that is written as a string.
pub(super) trait Text: Sized {
    /// Words, and with a colon at their end beginnings, that a later version will know.
    const LATER: &[&str] = &[];

    /// `Err`: what is wrong; what to write instead is added from [`Text::kind`].
    fn from_text(text: &str) -> Result<Self, String>;

    /// What to write.
    fn kind() -> String;

    /// Adds to the JSON Schema of a string.
    fn restrict(_schema: &mut Json) {}
}

impl<T: Text> Scalar for T {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::String(text) = value else {
            return Err(format!("is {}", type_in_words(value)));
        };
        let is =
            |later: &&&str| *text == ***later || later.ends_with(':') && text.starts_with(**later);
        match T::LATER.iter().find(is) {
            Some(later) => Err(format!("`{later}` is not in this version")),
            None => T::from_text(text),
        }
    }

    fn kind() -> String {
        T::kind()
    }

    fn schema() -> Json {
        let mut schema = json!({ "type": "string" });
        T::restrict(&mut schema);
        schema
    }
}

impl<T: Value> Value for Option<T> {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        T::read(written, findings).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn kind() -> String {
        T::kind()
    }

    fn schema() -> Json {
        T::schema()
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let DeValue::Array(items) = written.value else {
            written.wrong_type(&Self::kind(), findings);
            return None;
        };
        let mut whole = true;
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let mut item_written = written.child("", item);
            item_written.place.path = match name_of(item.get_ref()) {
                Some(name) if T::form() == Form::Section => {
                    format!("{}.{name}", written.place.path)
                }
                _ => format!("{}[{index}]", written.place.path),
            };
            match T::read(&item_written, findings) {
                Some(value) => values.push(value),
                None => whole = false,
            }
        }
        whole.then_some(values)
    }

    fn kind() -> String {
        let kind = T::kind();
        match kind.strip_prefix("a table") {
            Some(more) => format!("a list of tables{more}"),
            None => format!("a list of: {kind}"),
        }
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }

    fn settings() -> Vec<Definition> {
        T::settings()
    }

    fn about() -> String {
        T::about()
    }

    fn form() -> Form {
        if T::form() == Form::Section {
            Form::List
        } else {
            Form::Single
        }
    }
}

/// The name that an element of a list goes by in messages.
fn name_of<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    let name = value.as_table()?.get("name")?.get_ref().as_str()?;
    Label::from_text(name).is_ok().then_some(name)
}

/// `[name.A]`, `[name.B]`: sections under names that the user gives.
pub(super) struct Named<T>(pub(super) BTreeMap<String, T>);

impl<T: Value> Value for Named<T> {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let DeValue::Table(table) = written.value else {
            written.wrong_type(&Self::kind(), findings);
            return None;
        };
        let mut whole = true;
        let mut named = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let written = written.child(&name_in_path(name), value);
            if let Err(wrong) = Label::from_text(name) {
                findings.value(
                    &written.place,
                    format!("the name {wrong}; write {}", <Label as Text>::kind()),
                );
                whole = false;
            }
            match T::read(&written, findings) {
                Some(value) => drop(named.insert(name.to_owned(), value)),
                None => whole = false,
            }
        }
        whole.then_some(Self(named))
    }

    fn kind() -> String {
        "tables under names of your choice".to_owned()
    }

    fn schema() -> Json {
        let mut names = json!({ "type": "string" });
        Label::restrict(&mut names);
        json!({ "type": "object", "additionalProperties": T::schema(), "propertyNames": names })
    }

    fn settings() -> Vec<Definition> {
        T::settings()
    }

    fn about() -> String {
        T::about()
    }

    fn form() -> Form {
        Form::Named
    }
}

impl Scalar for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("is {}", type_in_words(value)))
    }

    fn kind() -> String {
        "true or false".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

/// A value of which there may be none.
pub(super) trait Quantity: Scalar {
    fn is_zero(&self) -> bool;
}

/// More than none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Positive<T>(pub(super) T);

impl<T: Quantity> Scalar for Positive<T> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match T::from_toml(value)? {
            quantity if quantity.is_zero() => Err("is zero".to_owned()),
            quantity => Ok(Self(quantity)),
        }
    }

    fn kind() -> String {
        format!("{}, above zero", T::kind())
    }

    fn schema() -> Json {
        T::schema()
    }
}

/// The longest duration that a setting may have: 100 years, so that sums of them stay in range.
const MAX_DURATION: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// Milliseconds in each unit of a duration, the shortest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl Text for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        let ms = measure(text, &DURATION_UNITS)?;
        let duration = Self::from_millis(ms);
        if duration > MAX_DURATION {
            return Err(format!(
                "{} is longer than {}",
                quoted(text),
                duration_in_words(MAX_DURATION)
            ));
        }
        Ok(duration)
    }

    fn kind() -> String {
        "a duration such as \"30s\" (ms, s, m, h, d)".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^[0-9]+(ms|s|m|h|d)$");
    }
}

impl Quantity for Duration {
    fn is_zero(&self) -> bool {
        Duration::is_zero(self)
    }
}

/// A duration as it would be written, in the longest unit that gives a whole number.
pub(super) fn duration_in_words(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) = DURATION_UNITS
        .into_iter()
        .rev()
        .find(|(_, factor)| ms.is_multiple_of(*factor) && ms >= *factor)
        .unwrap_or(("ms", 1));
    format!("{}{unit}", ms / factor)
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

const SIZE_UNITS: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl Scalar for Size {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) if text == "0" => Ok(Self(0)),
            DeValue::String(text) => measure(text, &SIZE_UNITS).map(Self),
            DeValue::Integer(number) if number.as_str() == "0" => Ok(Self(0)),
            DeValue::Integer(number) => Err(format!("{number} has no unit")),
            other => Err(format!("is {}", type_in_words(other))),
        }
    }

    fn kind() -> String {
        "a size such as \"64KiB\" (B, KiB, MiB, GiB, TiB)".to_owned()
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "string", "pattern": "^(0|[0-9]+(B|KiB|MiB|GiB|TiB))$" }, { "const": 0 }] })
    }
}

impl Quantity for Size {
    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

/// Reads a whole number and one of these units.
fn measure(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let digits = text.len()
        - text
            .trim_start_matches(|char: char| char.is_ascii_digit())
            .len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!(
            "{} does not begin with a whole number",
            quoted(text)
        ));
    }
    if unit.is_empty() {
        return Err(format!("{} has no unit", quoted(text)));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("{} has the unit {}", quoted(text), quoted(unit)));
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| format!("{} is too large", quoted(text)))
}

/// How many of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize);

/// The largest count: more than any gateway holds, and in range of every counter.
const MAX_COUNT: u32 = 1_000_000_000;

impl Scalar for Count {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Integer(number) = value else {
            return Err(format!("is {}", type_in_words(value)));
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(count @ 1..=MAX_COUNT) => Ok(Self(count as usize)),
            _ => Err(format!("is {number}")),
        }
    }

    fn kind() -> String {
        format!("a whole number from 1 to {MAX_COUNT}")
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": MAX_COUNT })
    }
}

/// A part of a whole, from none of it to all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share(pub(super) f64);

impl Scalar for Share {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let number = match value {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => return Err(format!("is {}", type_in_words(value))),
        };
        match number.parse() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(format!("is {number}")),
        }
    }

    fn kind() -> String {
        "a number from 0.0 to 1.0".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

/// A name that may stand in metrics, logs and record ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label(pub(super) String);

/// The longest label: it is repeated in every series of the metrics.
const MAX_LABEL: usize = 100;

impl Text for Label {
    fn from_text(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() {
            Err("is empty".to_owned())
        } else if text.len() > MAX_LABEL || !text.bytes().all(plain) {
            Err(format!("is {}", quoted(text)))
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    fn kind() -> String {
        format!("1 to {MAX_LABEL} letters, digits, `.`, `_` or `-`")
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(format!("^[A-Za-z0-9._-]{{1,{MAX_LABEL}}}$"));
    }
}

impl Text for SocketAddr {
    const LATER: &[&str] = &["unix:"];

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("is {}", quoted(text)))
    }

    fn kind() -> String {
        "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned()
    }
}
