//! What can be configured, for editors (JSON Schema) and for readers (Markdown), from the definitions in `file`.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::file::ConfigFile;
use super::setting::{Definition, Form, Value};

/// The JSON Schema (draft 2020-12) of a configuration file.
#[must_use]
pub fn schema() -> Json {
    let mut schema = ConfigFile::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("oncegate");
    // Each has to be there once, as the file is lowered; a name cannot come from `defaults` either.
    let properties = &mut schema["properties"];
    properties["routes"]["items"]["required"] = json!(["name"]);
    properties["routes"]["minItems"] = json!(1);
    properties["listeners"]["minItems"] = json!(1);
    properties["upstreams"]["minProperties"] = json!(1);
    properties["upstreams"]["additionalProperties"]["properties"]["endpoints"]["minItems"] =
        json!(1);
    schema
}

/// Every setting in Markdown: one table for each section of the file.
#[must_use]
pub fn reference() -> String {
    let settings = ConfigFile::settings();
    let (single, sections): (Vec<_>, Vec<_>) = settings
        .into_iter()
        .partition(|setting| setting.form == Form::Single);
    let mut text = "### At the top\n\n".to_owned();
    table(&mut text, &single);
    for section in sections {
        let name = section.name;
        let heading = match section.form {
            Form::List => format!("[[{name}]]"),
            Form::Named => format!("[{name}.NAME]"),
            Form::Section | Form::Single => format!("[{name}]"),
        };
        let _ = write!(text, "\n### `{heading}`\n\n{}\n", section.about);
        if !section.inner.is_empty() {
            text.push('\n');
            table(&mut text, &section.inner);
        }
    }
    text
}

fn table(text: &mut String, settings: &[Definition]) {
    text.push_str(
        "| setting | default | what to write | what it means |\n| --- | --- | --- | --- |\n",
    );
    for setting in settings {
        row(text, "", setting);
        for inner in &setting.inner {
            row(text, &format!("{}.", setting.name), inner);
        }
    }
}

fn row(text: &mut String, prefix: &str, setting: &Definition) {
    let default = match setting.default {
        Some(default) if setting.form == Form::Single => match setting.edge {
            Some(edge) => format!("`{default}`; edge: `{edge}`"),
            None => format!("`{default}`"),
        },
        _ => String::new(),
    };
    let cells = [&default, &setting.kind, &setting.about].map(|cell| cell.replace('|', "\\|"));
    let _ = writeln!(
        text,
        "| `{prefix}{}` | {} |",
        setting.name,
        cells.join(" | ")
    );
}
