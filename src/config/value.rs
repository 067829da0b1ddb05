//! The types of settings: what may be written for each, and what it becomes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::finding::Findings;
use super::setting::{Definition, Form, Value, Written, name_in_path, quoted, type_in_words};

/// A value that is one word or number.
pub(super) trait Scalar: Sized {
    /// `Err`: what is wrong; what to write instead is added from [`Scalar::kind`].
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;

    /// The text of what was probably meant by a value that cannot be used, as it would stand in the file. It is
    /// offered only where it could be used.
    fn meant(_value: &DeValue<'_>) -> Option<String> {
        None
    }

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
                let usable = |meant: &String| {
                    DeValue::parse(meant).is_ok_and(|value| T::from_toml(value.get_ref()).is_ok())
                };
                let meant = T::meant(written.value).filter(usable);
                let meant =
                    meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
                findings.value(
                    &written.place,
                    format!("{wrong}; write {}{meant}", T::kind()),
                );
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

    /// What was probably meant by a text that is none of these.
    fn meant(_text: &str) -> Option<String> {
        None
    }

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
        let is = |later: &&&str| {
            let slips = strsim::damerau_levenshtein(&text.to_lowercase(), later);
            match later.strip_suffix(':') {
                Some(_) => text.starts_with(**later),
                // As far as no word of this version is as near.
                None => slips == 0 || slips == 1 && T::from_text(text).is_err(),
            }
        };
        match T::LATER.iter().find(is) {
            Some(later) => Err(format!("`{later}` is not in this version")),
            None => T::from_text(text),
        }
    }

    fn meant(value: &DeValue<'_>) -> Option<String> {
        let text = match value {
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Array(items) => match &items[..] {
                // One value where a list was not asked for.
                [item] if T::from_toml(item.get_ref()).is_ok() => {
                    item.get_ref().as_str()?.to_owned()
                }
                _ => return None,
            },
            _ => return None,
        };
        let is_later = |later: &&&str| text.starts_with(**later);
        if T::LATER.iter().any(|later| is_later(&later)) {
            return None;
        }
        let meant = if T::from_text(&text).is_ok() {
            text
        } else {
            T::meant(&text)?
        };
        Some(quoted(&meant))
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

    fn settings() -> Vec<Definition> {
        T::settings()
    }

    fn about() -> String {
        T::about()
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let DeValue::Array(items) = written.value else {
            if T::form() == Form::Section {
                written.wrong_form(Form::List, findings);
            } else {
                let meant = alone::<T>(written);
                written.wrong_type(&format!("{}{meant}", Self::kind()), findings);
            }
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

/// The list that was probably meant by a single value.
fn alone<T: Value>(written: &Written<'_>) -> String {
    let text = match written.value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => quoted(&number.to_string()),
        _ => return String::new(),
    };
    match T::read(written, &mut Findings::default()) {
        Some(_) => format!("; did you mean [{text}]?"),
        None => String::new(),
    }
}

/// A list of which what can be used is kept where something in it cannot be, so that the rest is still compared.
pub(super) struct Partly<T>(pub(super) Vec<T>);

impl<T: Value> Value for Partly<T> {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let DeValue::Array(items) = written.value else {
            return Vec::<T>::read(written, findings).map(Self);
        };
        let values: Vec<T> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| {
                let mut item_written = written.child("", item);
                item_written.place.path = format!("{}[{index}]", written.place.path);
                T::read(&item_written, findings)
            })
            .collect();
        Some(Self(values))
    }

    fn kind() -> String {
        Vec::<T>::kind()
    }

    fn schema() -> Json {
        Vec::<T>::schema()
    }
}

/// The name that an element of a list goes by in messages.
fn name_of<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    let name = value.as_table()?.get("name")?.get_ref().as_str()?;
    Label::from_text(name).is_ok().then_some(name)
}

/// `[name.A]`, `[name.B]`: sections under names that the user gives.
///
/// Without the section: its name is there, and it cannot be used.
pub(super) struct Named<T>(pub(super) BTreeMap<String, Option<T>>);

impl<T: Value> Value for Named<T> {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let DeValue::Table(table) = written.value else {
            written.wrong_form(Form::Named, findings);
            return None;
        };
        let settings = T::settings();
        let mut whole = true;
        let mut named = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let written = written.child(&name_in_path(name), value);
            if !matches!(value.get_ref(), DeValue::Table(_))
                && settings.iter().any(|setting| setting.name == name)
            {
                let section = written.place.path.split('.').next().unwrap_or_default();
                findings.value(
                    &written.place,
                    format!("belongs to one of them; write `[{section}.NAME]` before it, with a name of your choice"),
                );
                whole = false;
                continue;
            }
            if let Err(wrong) = Label::from_text(name) {
                findings.value(
                    &written.place,
                    format!("the name {wrong}; write {}", <Label as Text>::kind()),
                );
            }
            named.insert(name.to_owned(), T::read(&written, findings));
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

    fn meant(value: &DeValue<'_>) -> Option<String> {
        let word = value.as_str()?.to_lowercase();
        let is_one_of = |words: [&str; 4]| words.contains(&word.as_str());
        if is_one_of(["true", "yes", "on", "1"]) {
            Some("true".to_owned())
        } else if is_one_of(["false", "no", "off", "0"]) {
            Some("false".to_owned())
        } else {
            None
        }
    }

    fn kind() -> String {
        "true or false".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
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
        } else if text.contains("://") {
            // There may be a password in it.
            Err("is a URL where a name is needed, as `api` is of `[upstreams.api]`".to_owned())
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

    fn meant(text: &str) -> Option<String> {
        let text = text.trim_start_matches("http://").trim_end_matches('/');
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let host = match host {
            "localhost" => "127.0.0.1",
            // What others take for all addresses.
            "" | "*" => "0.0.0.0",
            host => host,
        };
        Some(format!("{host}:{port}"))
    }

    fn kind() -> String {
        "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned()
    }
}
