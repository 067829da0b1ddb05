//! Settings that say how much: durations, sizes and counts, with their units.

use std::time::Duration;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::setting::{quoted, type_in_words};
use super::value::{Scalar, Text};

/// A value of which there may be none.
pub(super) trait Quantity: Scalar {
    fn is_zero(&self) -> bool;

    /// The JSON Schema of one that is not zero.
    fn positive_schema() -> Json;
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

    fn meant(value: &DeValue<'_>) -> Option<String> {
        T::meant(value)
    }

    fn kind() -> String {
        format!("{}, above zero", T::kind())
    }

    fn schema() -> Json {
        T::positive_schema()
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

    fn meant(text: &str) -> Option<String> {
        let parts = parts(text)?;
        let sum = parts.iter().try_fold(0_u64, |sum, (number, unit)| {
            let ms = match unit.as_str() {
                "" | "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
                "ms" | "msec" | "millis" | "milliseconds" => 1,
                "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
                "d" | "day" | "days" => 86_400_000,
                "w" | "week" | "weeks" => 7 * 86_400_000,
                _ => return None,
            };
            sum.checked_add(number.checked_mul(ms)?)
        })?;
        Some(duration_in_words(Self::from_millis(sum)))
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

    fn positive_schema() -> Json {
        json!({ "type": "string", "pattern": "^0*[1-9][0-9]*(ms|s|m|h|d)$" })
    }
}

/// A duration as it would be written, in the longest unit that gives a whole number.
#[must_use]
pub fn duration_in_words(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) = DURATION_UNITS
        .into_iter()
        .rev()
        .find(|(_, factor)| ms.is_multiple_of(*factor) && ms >= *factor)
        .unwrap_or(("ms", 1));
    format!("{}{unit}", ms / factor)
}

/// A duration that is as long as this one or somewhat longer, as it would be written: in a unit of which there are
/// not thousands.
pub(super) fn at_least_in_words(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = DURATION_UNITS
        .into_iter()
        .find(|(_, factor)| ms.div_ceil(*factor) < 1_000);
    let (unit, factor) = unit.unwrap_or(("d", 86_400_000));
    format!("{}{unit}", ms.div_ceil(factor))
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

/// A size as it would be written, in the largest unit that gives a whole number.
pub(super) fn size_in_words(size: Size) -> String {
    let (unit, factor) = SIZE_UNITS
        .into_iter()
        .rev()
        .find(|(_, factor)| size.0.is_multiple_of(*factor) && size.0 >= *factor)
        .unwrap_or(("B", 1));
    format!("{}{unit}", size.0 / factor)
}

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

    fn meant(value: &DeValue<'_>) -> Option<String> {
        let text = match value {
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Integer(number) => number.to_string(),
            _ => return None,
        };
        let parts = parts(&text)?;
        let [(number, unit)] = parts.as_slice() else {
            return None;
        };
        let unit = match unit.as_str() {
            "" | "b" | "byte" | "bytes" => "B",
            "k" | "kb" | "ki" | "kib" => "KiB",
            "m" | "mb" | "mi" | "mib" => "MiB",
            "g" | "gb" | "gi" | "gib" => "GiB",
            "t" | "tb" | "ti" | "tib" => "TiB",
            _ => return None,
        };
        Some(quoted(&format!("{number}{unit}")))
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

    fn positive_schema() -> Json {
        json!({ "type": "string", "pattern": "^0*[1-9][0-9]*(B|KiB|MiB|GiB|TiB)$" })
    }
}

/// Numbers and the words after them, in lower case: what people write for quantities.
fn parts(text: &str) -> Option<Vec<(u64, String)>> {
    let mut parts = Vec::new();
    let text = text.to_lowercase();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after
            .find(|char: char| !char.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        parts.push((number.parse().ok()?, unit.to_owned()));
        rest = after.trim_start();
    }
    Some(parts).filter(|parts| !parts.is_empty())
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

    fn meant(value: &DeValue<'_>) -> Option<String> {
        let number: u32 = value.as_str()?.trim().parse().ok()?;
        (1..=MAX_COUNT)
            .contains(&number)
            .then(|| number.to_string())
    }

    fn kind() -> String {
        format!("a whole number from 1 to {MAX_COUNT}")
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": MAX_COUNT })
    }
}

/// How many of something at most; 0: as many as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CountOrNone(pub(super) usize);

impl Scalar for CountOrNone {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Integer(number) if number.as_str() == "0" => Ok(Self(0)),
            value => Count::from_toml(value).map(|count| Self(count.0)),
        }
    }

    fn meant(value: &DeValue<'_>) -> Option<String> {
        Count::meant(value)
    }

    fn kind() -> String {
        format!("a whole number from 0 to {MAX_COUNT}")
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0, "maximum": MAX_COUNT })
    }
}

/// How much an HTTP/2 client may send ahead, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window(pub(super) u32);

/// The smallest window, one frame of the usual size, and the largest, far below what the protocol allows.
const WINDOWS: std::ops::RangeInclusive<u32> = 16 << 10..=64 << 20;

impl Scalar for Window {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let size = Size::from_toml(value)?;
        match u32::try_from(size.0) {
            Ok(window) if WINDOWS.contains(&window) => Ok(Self(window)),
            _ => Err(format!("is {}", size_in_words(size))),
        }
    }

    fn meant(value: &DeValue<'_>) -> Option<String> {
        Size::meant(value)
    }

    fn kind() -> String {
        "a size from \"16KiB\" to \"64MiB\"".to_owned()
    }

    fn schema() -> Json {
        Size::positive_schema()
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
