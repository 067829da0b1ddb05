//! How a setting is defined: once. A [`section!`] names its settings, their types, their defaults and what they
//! mean; reading a file, the JSON Schema and the reference all come from that.

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Findings, Place};
use super::home;
use super::value::Text;
use super::words::Profile;

/// Anything that may stand in a configuration file.
pub(super) trait Value: Sized {
    /// Reads what is written. Where that cannot be used, says so and gives `None`.
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self>;

    /// What a setting of this type is that is neither written nor has a default; `None` where it is required.
    fn absent() -> Option<Self> {
        None
    }

    /// What to write, for the reference.
    fn kind() -> String;

    /// The JSON Schema of what to write.
    fn schema() -> Json;

    /// The settings inside, where there are any.
    fn settings() -> Vec<Definition> {
        Vec::new()
    }

    /// What a section is for.
    fn about() -> String {
        String::new()
    }

    /// How it stands in a file.
    fn form() -> Form {
        Form::Single
    }
}

/// How a setting stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `name = value`
    Single,
    /// `[name]`
    Section,
    /// `[[name]]`
    List,
    /// `[name.NAME]`
    Named,
}

/// What is written for a setting.
pub(super) struct Written<'a> {
    pub(super) value: &'a DeValue<'a>,
    pub(super) place: Place,
    /// It is a default: whatever is in it has the place of the section that does not write it.
    is_default: bool,
    /// Whose defaults hold.
    profile: Profile,
}

impl<'a> Written<'a> {
    /// It is not of the type that it has to be.
    pub(super) fn wrong_type(&self, kind: &str, findings: &mut Findings) {
        let found = type_in_words(self.value);
        findings.value(&self.place, format!("is {found}; write {kind}"));
    }

    /// It is no table with tables of this form in it.
    pub(super) fn wrong_form(&self, form: Form, findings: &mut Findings) {
        self.wrong_type(&how(&self.place, form), findings);
    }

    pub(super) fn root(value: &'a DeValue<'a>) -> Self {
        Self {
            value,
            place: Place::default(),
            is_default: false,
            profile: profile_of(value),
        }
    }

    /// Something inside.
    pub(super) fn child(&self, name: &str, value: &'a Spanned<DeValue<'a>>) -> Self {
        let offset = if self.is_default {
            self.place.offset
        } else {
            value.span().start
        };
        Self {
            value: value.get_ref(),
            place: self.place.child(offset, name),
            is_default: self.is_default,
            profile: self.profile,
        }
    }
}

/// The profile of a file, before anything else of it is read; what is wrong with it is said in its turn.
pub(super) fn profile_of(root: &DeValue<'_>) -> Profile {
    root.get("profile")
        .and_then(|profile| Profile::from_text(profile.get_ref().as_str()?).ok())
        .unwrap_or(Profile::Sidecar)
}

/// One setting as it was read.
pub(super) struct Setting<T> {
    /// `None`: what is written cannot be used, and that has been said.
    value: Option<T>,
    /// Where it is written, or the section that does not write it.
    pub(super) place: Place,
    is_written: bool,
}

impl<T> Setting<T> {
    /// Where it is written; none where its default holds.
    pub(super) fn written(&self) -> Option<&Place> {
        self.is_written.then_some(&self.place)
    }

    /// The value, unless it could not be used.
    pub(super) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T: Clone> Setting<T> {
    /// A copy of the value, unless it could not be used.
    pub(super) fn value(&self) -> Option<T> {
        self.value.clone()
    }
}

/// One setting as it is documented.
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) about: String,
    /// In TOML.
    pub(super) default: Option<&'static str>,
    /// The same with `profile = "edge"`, where it is another one.
    pub(super) edge: Option<&'static str>,
    pub(super) required: bool,
    pub(super) kind: String,
    pub(super) schema: Json,
    pub(super) form: Form,
    pub(super) inner: Vec<Definition>,
}

/// What holds where nothing is written, in TOML; and with `profile = "edge"`, where that is something else.
pub(super) type Defaults = (Option<&'static str>, Option<&'static str>);

impl Definition {
    /// What holds where nothing is written.
    pub(super) fn default_of(&self, profile: Profile) -> Option<&'static str> {
        default_of((self.default, self.edge), profile)
    }

    pub(super) fn of<T: Value>(
        name: &'static str,
        docs: &[&str],
        (default, edge): Defaults,
    ) -> Self {
        let mut schema = T::schema();
        let about = if docs.is_empty() {
            T::about()
        } else {
            joined(docs)
        };
        schema["description"] = match edge {
            Some(edge) => json!(format!("{about} With `profile = \"edge\"`: {edge}.")),
            None => json!(about),
        };
        if let Some(default) = default.filter(|_| T::form() == Form::Single) {
            schema["default"] = json_of(default);
        }
        Self {
            name,
            about,
            default,
            edge,
            required: default.is_none() && T::absent().is_none(),
            kind: T::kind(),
            schema,
            form: T::form(),
            inner: T::settings(),
        }
    }
}

fn default_of((default, edge): Defaults, profile: Profile) -> Option<&'static str> {
    match profile {
        Profile::Sidecar => default,
        Profile::Edge => edge.or(default),
    }
}

/// The lines of a doc comment as one paragraph.
pub(super) fn joined(docs: &[&str]) -> String {
    docs.iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}

fn json_of(toml: &str) -> Json {
    let table: Option<Json> = toml::from_str(&format!("value = {toml}")).ok();
    table.map_or(Json::Null, |table| table["value"].clone())
}

/// The JSON Schema of a table with these settings and no others.
pub(super) fn table_schema(about: &str, settings: &[Definition]) -> Json {
    let properties: serde_json::Map<String, Json> = settings
        .iter()
        .map(|setting| (setting.name.to_owned(), setting.schema.clone()))
        .collect();
    let required: Vec<&str> = settings
        .iter()
        .filter(|setting| setting.required)
        .map(|setting| setting.name)
        .collect();
    json!({
        "type": "object",
        "description": about,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// A table whose settings are being read.
pub(super) struct Table<'a> {
    table: &'a DeTable<'a>,
    written: &'a Written<'a>,
    /// What was written under another name than that of the setting that was meant, so that nobody is told that it is
    /// missing. A section is read as the one that was meant, so that all that is wrong in it is said at once.
    misspelt: Vec<Misspelt<'a>>,
}

/// A setting under another name.
struct Misspelt<'a> {
    meant: &'static str,
    typed: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Table<'a> {
    /// Begins to read a table; says which of its keys are no settings.
    pub(super) fn open(
        written: &'a Written<'a>,
        names: &[&'static str],
        later: &[&str],
        findings: &mut Findings,
    ) -> Option<Self> {
        let DeValue::Table(table) = written.value else {
            written.wrong_type(&format!("a table with {}", names.join(", ")), findings);
            return None;
        };
        let mut misspelt = Vec::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let typed = name_in_path(name);
            let place = written.place.child(key.span().start, &typed);
            if later.contains(&name) {
                findings.value(&place, "is not in this version".to_owned());
            } else if !names.contains(&name) {
                let (advice, meant) = home::advice(name, names);
                findings.name(&place, format!("is not a setting; {advice}"));
                misspelt.extend(meant.map(|meant| Misspelt {
                    meant,
                    typed,
                    value,
                }));
            }
        }
        Some(Self {
            table,
            written,
            misspelt,
        })
    }

    /// Reads one setting.
    pub(super) fn setting<T: Value>(
        &self,
        name: &'static str,
        defaults: Defaults,
        findings: &mut Findings,
    ) -> Setting<T> {
        let default = default_of(defaults, self.written.profile);
        let misspelt = || self.misspelt.iter().find(|other| other.meant == name);
        let found = match self.table.get(name) {
            Some(value) => Some((name, value)),
            None => misspelt()
                .filter(|other| is_section(other.value.get_ref()))
                .map(|other| (other.typed.as_str(), other.value)),
        };
        if let Some((typed, value)) = found {
            let written = self.written.child(typed, value);
            return Setting {
                value: T::read(&written, findings),
                place: written.place,
                is_written: true,
            };
        }
        let place = self.written.place.child(self.written.place.offset, name);
        let value = match default {
            Some(default) => read_default(default, &place, self.written.profile, findings),
            None if misspelt().is_some() => None,
            None => T::absent(),
        };
        if value.is_none() && default.is_none() && misspelt().is_none() {
            let kind = match T::form() {
                Form::Single => T::kind(),
                form => how(&place, form),
            };
            findings.whole(&place, format!("is required; write {kind}"));
        }
        Setting {
            value,
            place,
            is_written: false,
        }
    }
}

/// Whether there are settings in it.
fn is_section(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
        _ => false,
    }
}

/// What to write for a section at this place.
fn how(place: &Place, form: Form) -> String {
    let heading = home::written(&name_in_heading(&place.path), form);
    match form {
        Form::Single | Form::Section => heading,
        Form::List => format!("{heading}, with two brackets, before each"),
        Form::Named => format!("{heading}, with a name of your choice"),
    }
}

/// The path of a setting as a heading says it: without the number, or the name, of a thing in a list.
fn name_in_heading(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    match parts.as_slice() {
        ["routes", .., last] => format!("routes.{last}"),
        parts => {
            let bare = |part: &&str| part.split('[').next().unwrap_or_default().to_owned();
            parts.iter().map(bare).collect::<Vec<_>>().join(".")
        }
    }
}

fn read_default<T: Value>(
    default: &str,
    place: &Place,
    profile: Profile,
    findings: &mut Findings,
) -> Option<T> {
    let value = DeValue::parse(default).ok()?;
    let written = Written {
        value: value.get_ref(),
        place: place.clone(),
        is_default: true,
        profile,
    };
    T::read(&written, findings)
}

/// What a name from the file looks like in the path of a setting.
pub(super) fn name_in_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(plain) {
        shortened(name)
    } else {
        quoted(name)
    }
}

/// What a text from the file looks like in a message: quoted, on one line, and not endless.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn type_in_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Defines a section: the struct that a file is read into, its schema and its documentation.
///
/// A setting that is a section itself is described there. `name: Type = default` has a default, written as in the file, and
/// behind it `edge default` where the edge has another one; `name: Option<Type>` may be left out; `name: Type` is
/// required. What stands under `later` is refused by name.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:ident {
            $( $(#[doc = $doc:literal])* $name:ident: $type:ty $(= $default:tt $(edge $edge:tt)?)? ),+ $(,)?
        }
        later { $($later:literal),* }
    ) => {
        $(#[doc = $about])+
        #[allow(dead_code, reason = "a setting of which this version knows one choice is read for its faults alone")]
        pub(super) struct $section {
            $( $(#[doc = $doc])* pub(super) $name: $crate::config::setting::Setting<$type>, )+
        }

        impl $crate::config::setting::Value for $section {
            fn read(
                written: &$crate::config::setting::Written<'_>,
                findings: &mut $crate::config::finding::Findings,
            ) -> Option<Self> {
                let names = [$(stringify!($name)),+];
                let table = $crate::config::setting::Table::open(written, &names, &[$($later),*], findings)?;
                Some(Self {
                    $( $name: table.setting(stringify!($name), section!(@default $($default $($edge)?)?), findings), )+
                })
            }

            fn kind() -> String {
                "a table".to_owned()
            }

            fn schema() -> serde_json::Value {
                $crate::config::setting::table_schema(&Self::about(), &Self::settings())
            }

            fn settings() -> Vec<$crate::config::setting::Definition> {
                vec![$(
                    $crate::config::setting::Definition::of::<$type>(
                        stringify!($name),
                        &[$($doc),*],
                        section!(@default $($default $($edge)?)?),
                    )
                ),+]
            }

            fn about() -> String {
                $crate::config::setting::joined(&[$($about),+])
            }

            fn form() -> $crate::config::setting::Form {
                $crate::config::setting::Form::Section
            }
        }
    };
    (@default) => { (None, None) };
    (@default $default:tt) => { (Some(stringify!($default)), None) };
    (@default $default:tt $edge:tt) => { (Some(stringify!($default)), Some(stringify!($edge))) };
}

/// Defines a setting that is one of a few words. What stands under `later` is refused by name.
macro_rules! choice {
    ($name:ident { $($variant:ident = $word:literal),+ } later { $($later:literal),* }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant),+ }

        impl $crate::config::value::Text for $name {
            const LATER: &[&str] = &[$($later),*];

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("is {}", $crate::config::setting::quoted(text))),
                }
            }

            fn meant(text: &str) -> Option<String> {
                $crate::config::home::nearest(text, &[$($word),+]).map(str::to_owned)
            }

            fn kind() -> String {
                [$(concat!("\"", $word, "\"")),+].join(" or ")
            }

            fn restrict(schema: &mut serde_json::Value) {
                schema["enum"] = serde_json::json!([$($word),+]);
            }
        }
    };
}

pub(super) use {choice, section};
