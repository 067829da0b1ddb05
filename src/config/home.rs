//! Where a name that is written in one section belongs: what is said about a setting that is none.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::file::ConfigFile;
use super::setting::{Definition, Form, Value};

/// Where the settings of each name belong, the likeliest first. Made once: a file may have many names that are none.
static HOMES: LazyLock<BTreeMap<&str, Vec<Home>>> = LazyLock::new(homes);

/// How the sections at the top are written.
static SECTIONS: LazyLock<BTreeMap<&str, Form>> = LazyLock::new(|| {
    ConfigFile::settings()
        .into_iter()
        .map(|setting| (setting.name, setting.form))
        .collect()
});

/// A section that has a setting.
struct Home {
    /// Where it is, such as "to `tls` in `[store]`".
    place: String,
    /// Of the sections around it, the outermost first, what may be written in each.
    around: Vec<Vec<&'static str>>,
}

/// What other programs call a setting, and what it is called here. Said only where that setting is one.
const ELSEWHERE: [(&str, &str); 31] = [
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
    ("body_limit", "max_request_body"),
    ("max_body_size", "max_request_body"),
    ("client_max_body_size", "max_request_body"),
    ("certificate", "certificates"),
    ("type", "url"),
    ("host", "url"),
    ("hosts", "url"),
    ("port", "url"),
    ("redis", "store"),
    ("database", "store"),
    ("idempotency_key", "key"),
    ("key_header", "key"),
    ("path", "url"),
];

/// What to do about a name that is no setting of a section with these `names`, and the setting of that section that
/// was meant, where one is near.
pub(super) fn advice(name: &str, names: &[&'static str]) -> (String, Option<&'static str>) {
    let here = |known: &'static str| {
        (
            format!("did you mean {}?", heading(known, names)),
            Some(known),
        )
    };
    let near = nearest(name, names);
    // One letter away: that, whatever is called so elsewhere.
    if let Some(known) = near.filter(|known| strsim::damerau_levenshtein(name, known) == 1) {
        return here(known);
    }
    let meant = |(word, known): &(&str, &'static str)| {
        (*word == name && names.contains(known)).then_some(*known)
    };
    if let Some(known) = ELSEWHERE.iter().find_map(meant) {
        return here(known);
    }
    if let Some(homes) = HOMES.get(name) {
        return (format!("`{name}` belongs {}", places(homes, names)), None);
    }
    if let Some(known) = near {
        return here(known);
    }
    let all: Vec<&str> = HOMES.keys().copied().collect();
    // Among so many names a short one is always near to some.
    let is_meant = |known: &&str| strsim::damerau_levenshtein(name, known) <= known.len() / 4;
    if let Some(known) = nearest(name, &all).filter(is_meant) {
        let places = places(&HOMES[known], names);
        return (format!("did you mean `{known}`? It belongs {places}"), None);
    }
    let these: Vec<String> = names.iter().map(|name| heading(name, names)).collect();
    let are = if these.len() == 1 {
        "there is only"
    } else {
        "there are"
    };
    (format!("{are} {}", these.join(", ")), None)
}

/// Where it belongs, in words: in the section with these `names`, where it is in there at all.
fn places(homes: &[Home], names: &[&'static str]) -> String {
    let is_in_here = |home: &&Home| home.around.iter().any(|around| around == names);
    let in_here: Vec<&Home> = homes.iter().filter(is_in_here).collect();
    let homes = match in_here.is_empty() {
        true => homes.iter().collect(),
        false => in_here,
    };
    let places: Vec<&str> = homes.iter().map(|home| home.place.as_str()).collect();
    places.join(" or ")
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
    match SECTIONS.get(name) {
        Some(form) if is_top => written(name, *form),
        _ => format!("`{name}`"),
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

fn homes() -> BTreeMap<&'static str, Vec<Home>> {
    let mut homes: BTreeMap<&str, Vec<Home>> = BTreeMap::new();
    for section in ConfigFile::settings() {
        let home = Home {
            place: "at the top of the file, before the first section".to_owned(),
            around: Vec::new(),
        };
        homes.entry(section.name).or_default().push(home);
        let place = match section.name {
            "routes" => "`[[routes]]` or `[defaults]`".to_owned(),
            name => written(name, section.form),
        };
        add(&section.inner, &place, &[], &mut homes);
    }
    for homes in homes.values_mut() {
        homes.sort_by_key(|home| home.around.len());
    }
    homes
}

/// Adds the settings of the section at this place.
fn add(
    settings: &[Definition],
    place: &str,
    around: &[Vec<&'static str>],
    homes: &mut BTreeMap<&'static str, Vec<Home>>,
) {
    let names = settings.iter().map(|setting| setting.name).collect();
    let inside = [around, &[names]].concat();
    for setting in settings {
        let home = Home {
            place: format!("to {place}"),
            around: around.to_vec(),
        };
        homes.entry(setting.name).or_default().push(home);
        let place = format!("`{}` in {place}", setting.name);
        add(&setting.inner, &place, &inside, homes);
    }
}
