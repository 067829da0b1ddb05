//! Where a name that is written in one section belongs: what is said about a setting that is none.

use super::file::ConfigFile;
use super::setting::{Definition, Form, Value};

/// What other programs call a setting, and what it is called here. Said only where that setting is one.
const ELSEWHERE: [(&str, &str); 19] = [
    ("url", "endpoints"),
    ("urls", "endpoints"),
    ("target", "endpoints"),
    ("servers", "endpoints"),
    ("address", "endpoints"),
    ("timeout", "response_timeout"),
    ("timeout", "connect_timeout"),
    ("listen", "address"),
    ("bind", "address"),
    ("port", "address"),
    ("listen", "listeners"),
    ("server", "listeners"),
    ("backends", "upstreams"),
    ("services", "upstreams"),
    ("backend", "upstream"),
    ("service", "upstream"),
    ("header", "key"),
    ("ttl", "retention"),
    ("path", "url"),
];

/// What to do about a name that is no setting of a section with these `names`, and the setting of that section that
/// was meant, where one is near.
pub(super) fn advice(name: &str, names: &[&'static str]) -> (String, Option<&'static str>) {
    if let Some(known) = nearest(name, names) {
        return (format!("did you mean {}?", heading(known, names)), Some(known));
    }
    let homes = homes(name);
    let meant = |(word, known): &(&str, &'static str)| {
        (*word == name && names.contains(known)).then_some(*known)
    };
    if let Some(known) = ELSEWHERE.iter().find_map(meant) {
        return (format!("did you mean {}?", heading(known, names)), Some(known));
    }
    if !homes.is_empty() {
        return (format!("`{name}` belongs {}", homes.join(" or ")), None);
    }
    let all = all_names();
    if let Some(known) = nearest(name, &all) {
        let homes = self::homes(known).join(" or ");
        return (format!("did you mean `{known}`? It belongs {homes}"), None);
    }
    let these: Vec<String> = names.iter().map(|name| heading(name, names)).collect();
    let are = if these.len() == 1 { "there is only" } else { "there are" };
    (format!("{are} {}", these.join(", ")), None)
}

/// The nearest of some words, where it is as near as a slip: at most a third of its letters away.
pub(super) fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_lowercase();
    let far = |word: &str| strsim::damerau_levenshtein(&text, &word.to_lowercase());
    let near = words.iter().copied().min_by_key(|word| far(word))?;
    (far(near) <= near.len().div_ceil(3).min(text.chars().count())).then_some(near)
}

/// A name as it is written: a section at the top with its brackets.
fn heading(name: &str, names: &[&str]) -> String {
    let is_top = names.contains(&"routes") && names.contains(&"upstreams");
    let section = is_top
        .then(ConfigFile::settings)
        .into_iter()
        .flatten()
        .find(|setting| setting.name == name);
    match section {
        Some(setting) => written(name, setting.form),
        None => format!("`{name}`"),
    }
}

/// How a setting of this form is written.
pub(super) fn written(name: &str, form: Form) -> String {
    match form {
        Form::Single => format!("`{name}`"),
        Form::Section => format!("`[{name}]`"),
        Form::List => format!("`[[{name}]]`"),
        Form::Named => format!("`[{name}.NAME]`"),
    }
}

/// The sections that a setting of this name belongs to.
fn homes(name: &str) -> Vec<String> {
    let mut homes = Vec::new();
    let top = ConfigFile::settings();
    if top.iter().any(|setting| setting.name == name) {
        homes.push("at the top of the file, before the first section".to_owned());
    }
    for section in &top {
        homes.extend(homes_in(section, name));
    }
    homes
}

fn homes_in(section: &Definition, name: &str) -> Vec<String> {
    let of_routes = section.name == "routes";
    let place = match section.form {
        Form::List if of_routes => "`[[routes]]` or `[defaults]`".to_owned(),
        form => written(section.name, form),
    };
    let own = section.inner.iter().filter(|setting| setting.name == name);
    let own = own.map(|_| format!("to {place}"));
    let deeper = section.inner.iter().filter(|table| table.inner.iter().any(|inner| inner.name == name));
    let deeper = deeper.map(|table| format!("to `{}` in {place}", table.name));
    own.chain(deeper).collect()
}

fn all_names() -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut left = ConfigFile::settings();
    while let Some(setting) = left.pop() {
        names.push(setting.name);
        left.extend(setting.inner);
    }
    names
}
