//! The configuration in force: every setting with its value and where that comes from, as a configuration file.
//!
//! It is made from the file's tree and the definitions in `file`, so that nothing is left out that can be set. What a
//! secret is never stands in a file; passwords in URLs and credentials in headers, which may, are left out.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::document::OWN;
use super::file::ConfigFile;
use super::finding::{Lines, may_hold_secret};
use super::listener::{SOCKET_MODE, UNIX};
use super::quantity::{Size, size_in_words};
use super::setting::{Definition, Form, Value, profile_of};
use super::store::{MAX_SIZE, MAX_SIZE_IN_MEMORY};
use super::words::Profile;

/// The configuration in force.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    file: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
enum Line {
    /// `[store]`
    Heading(String),
    Setting {
        /// Such as `routes.pay.lease`.
        path: String,
        /// What it is called under its heading, such as `retention.success`.
        name: String,
        /// In TOML; `None` where it is not set and has no default.
        value: Option<String>,
        why: String,
    },
}

impl Effective {
    /// The settings, by their paths, that are not the same in both.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (these, those) = (self.values(), other.values());
        let all = these.keys().chain(those.keys());
        let mut differ: Vec<String> = all
            .filter(|path| these.get(*path) != those.get(*path))
            .map(|path| (*path).to_owned())
            .collect();
        differ.sort();
        differ.dedup();
        differ
    }

    fn values(&self) -> BTreeMap<&str, Option<&str>> {
        let setting = |line| match line {
            &Line::Heading(_) => None,
            Line::Setting { path, value, .. } => Some((path.as_str(), value.as_deref())),
        };
        self.lines.iter().filter_map(setting).collect()
    }

    pub(super) fn of(root: &DeValue<'_>, text: &str, file: &str) -> Self {
        let mut writer = Writer {
            profile: profile_of(root),
            positions: Lines::new(text),
            file,
            lines: Vec::new(),
        };
        if let DeValue::Table(root) = root {
            writer.file(root);
        }
        Self {
            file: file.to_owned(),
            lines: writer.lines,
        }
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# {}, as it is in force: each setting, and where it comes from.",
            self.file
        )?;
        for line in &self.lines {
            match line {
                Line::Heading(heading) => writeln!(f, "\n{heading}")?,
                Line::Setting {
                    name,
                    value: Some(value),
                    why,
                    ..
                } => writeln!(f, "{name} = {value}  # {why}")?,
                Line::Setting { name, why, .. } => writeln!(f, "# {name}: {why}")?,
            }
        }
        Ok(())
    }
}

struct Writer<'a> {
    profile: Profile,
    positions: Lines<'a>,
    file: &'a str,
    lines: Vec<Line>,
}

impl Writer<'_> {
    fn file(&mut self, root: &DeTable<'_>) {
        let (single, sections): (Vec<_>, Vec<_>) = ConfigFile::settings()
            .into_iter()
            .partition(|setting| setting.form == Form::Single);
        self.settings("", "", &single, root);
        // Of `defaults` nothing is left: what they say stands in every route.
        for section in sections.iter().filter(|section| !section.inner.is_empty()) {
            let parsed = section
                .default
                .and_then(|default| DeValue::parse(default).ok());
            let written = root.get(section.name).map(toml::Spanned::get_ref);
            let value = written.or(parsed.as_ref().map(toml::Spanned::get_ref));
            let Some(value) = value else { continue };
            self.section(section, value);
        }
    }

    fn section(&mut self, section: &Definition, value: &DeValue<'_>) {
        let name = section.name;
        match (section.form, value) {
            (Form::List, DeValue::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    let DeValue::Table(table) = item.get_ref() else {
                        continue;
                    };
                    let called = table.get(OWN[0]).and_then(|name| name.get_ref().as_str());
                    let path = match called {
                        Some(called) => format!("{name}.{called}"),
                        None => format!("{name}[{index}]"),
                    };
                    self.lines.push(Line::Heading(format!("[[{name}]]")));
                    self.settings(&path, "", &section.inner, table);
                }
            }
            (Form::Named, DeValue::Table(tables)) => {
                for (called, item) in tables {
                    let DeValue::Table(table) = item.get_ref() else {
                        continue;
                    };
                    let called = key(called.get_ref());
                    self.lines.push(Line::Heading(format!("[{name}.{called}]")));
                    self.settings(&format!("{name}.{called}"), "", &section.inner, table);
                }
            }
            (_, DeValue::Table(table)) => {
                self.lines.push(Line::Heading(format!("[{name}]")));
                self.settings(name, "", &section.inner, table);
            }
            _ => {}
        }
    }

    /// The settings of one table, each on a line of its own; those of a table in it as `table.setting`.
    fn settings(
        &mut self,
        section: &str,
        prefix: &str,
        settings: &[Definition],
        table: &DeTable<'_>,
    ) {
        for setting in settings {
            let name = format!("{prefix}{}", setting.name);
            let path = match section {
                "" => name.clone(),
                section => format!("{section}.{name}"),
            };
            let written = table.get(setting.name);
            if setting.form == Form::Section {
                let nothing = DeTable::default();
                let inner = match written.map(toml::Spanned::get_ref) {
                    Some(DeValue::Table(inner)) => Some(inner),
                    Some(_) => None,
                    None => setting.default.map(|_| &nothing),
                };
                if let Some(inner) = inner {
                    let begun = self.lines.len();
                    self.settings(section, &format!("{name}."), &setting.inner, inner);
                    if written.is_some() && !self.lines[begun..].iter().any(Line::is_set) {
                        // That it is there says something, too.
                        let why = self.place(written);
                        self.push(path, name, Some("{}".to_owned()), why);
                    }
                    continue;
                }
            }
            let (value, why) = match written {
                Some(value) => match shown(&path, value.get_ref()) {
                    Some(shown) if shown != in_toml(value.get_ref()) => {
                        let place = self.place(written);
                        (Some(shown), format!("{place}, without its password"))
                    }
                    Some(shown) => (Some(shown), self.place(written)),
                    None => (
                        None,
                        format!("set in {}, and a secret", self.place(written)),
                    ),
                },
                None => match setting.default_of(self.profile) {
                    Some(default) if setting.edge.is_some() => {
                        (Some(default.to_owned()), self.by_profile().to_owned())
                    }
                    Some(default) => (Some(default.to_owned()), "default".to_owned()),
                    None => match implied(section, setting.name, table) {
                        Some(implied) => (Some(implied), "default".to_owned()),
                        None => (None, "not set".to_owned()),
                    },
                },
            };
            self.push(path, name, value, why);
        }
    }

    fn push(&mut self, path: String, name: String, value: Option<String>, why: String) {
        self.lines.push(Line::Setting {
            path,
            name,
            value,
            why,
        });
    }

    fn by_profile(&self) -> &'static str {
        match self.profile {
            Profile::Sidecar => "default of profile sidecar",
            Profile::Edge => "default of profile edge",
        }
    }

    fn place(&self, written: Option<&toml::Spanned<DeValue<'_>>>) -> String {
        let offset = written.map_or(0, |value| value.span().start);
        format!("{}:{}", self.file, self.positions.position(offset).line)
    }
}

impl Line {
    fn is_set(&self) -> bool {
        matches!(self, Self::Setting { value: Some(_), .. })
    }
}

/// What holds of a setting that is neither written nor has a default of its own, because another one says so.
fn implied(section: &str, name: &str, table: &DeTable<'_>) -> Option<String> {
    let text = |name: &str| table.get(name).and_then(|value| value.get_ref().as_str());
    match (section.split(['.', '[']).next()?, name) {
        ("routes", "id") => Some(string(text("name")?)),
        ("listeners", "mode") => text("address")?
            .starts_with(UNIX)
            .then(|| string(&format!("{SOCKET_MODE:04o}"))),
        ("store", "max_size") => match text("url").unwrap_or("embedded:") {
            "memory:" => Some(string(&size_in_words(Size(MAX_SIZE_IN_MEMORY)))),
            url if url.starts_with("embedded:") => Some(string(&size_in_words(Size(MAX_SIZE)))),
            _ => None,
        },
        _ => None,
    }
}

/// A value as it may be shown; `None` where all of it may be a secret.
fn shown(path: &str, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(url) if path == "store.url" => Some(string(&without_password(url))),
        DeValue::Table(headers) if path.ends_with(".probe.headers") => {
            let is_safe = |(name, value): (&str, &DeValue<'_>)| {
                let name = name.to_ascii_lowercase();
                let names_one = ["auth", "token", "key", "cookie", "secret"];
                let is_plain = |text: &str| {
                    !may_hold_secret(text) && !names_one.iter().any(|word| name.contains(word))
                };
                value
                    .as_str()
                    .is_none_or(|text| text.contains('{') || is_plain(text))
            };
            let mut all = headers
                .iter()
                .map(|(name, value)| (name.get_ref().as_ref(), value.get_ref()));
            all.all(is_safe).then(|| in_toml(value))
        }
        value => Some(in_toml(value)),
    }
}

/// A store's URL without its password; who it is for stays.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let Some((credentials, rest)) = rest.rsplit_once('@') else {
        return url.to_owned();
    };
    match credentials
        .split_once(':')
        .map_or(credentials, |(user, _)| user)
    {
        "" => format!("{scheme}://{rest}"),
        user => format!("{scheme}://{user}@{rest}"),
    }
}

fn in_toml(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => string(text),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => number.to_string(),
        },
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(is) => is.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| in_toml(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) if table.is_empty() => "{}".to_owned(),
        DeValue::Table(table) => {
            let entry = |(name, value): (
                &toml::Spanned<std::borrow::Cow<'_, str>>,
                &toml::Spanned<DeValue<'_>>,
            )| {
                format!("{} = {}", key(name.get_ref()), in_toml(value.get_ref()))
            };
            let entries: Vec<String> = table.iter().map(entry).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// On one line, whatever is in it.
fn string(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => string(name),
    }
}
