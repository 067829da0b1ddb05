//! Holds what the README says to the definitions it speaks of.
//!
//! `UPDATE_README=1 cargo nextest run --test readme` writes its references anew.

use std::{env, fs, path::Path};

#[test]
fn the_readme_lists_every_setting_and_metric_as_it_is_defined() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md can be read");
    let updated = [
        ("configuration", oncegate::config::reference()),
        ("metrics", oncegate::telemetry::reference()),
        ("access log", oncegate::telemetry::access_log_reference()),
    ]
    .into_iter()
    .fold(readme.clone(), |readme, (name, reference)| {
        with_section(&readme, name, &reference)
    });
    if env::var_os("UPDATE_README").is_some() {
        fs::write(&path, updated).expect("README.md can be written");
        return;
    }
    assert_eq!(
        readme, updated,
        "README.md is stale; write it anew with UPDATE_README=1"
    );
}

#[test]
fn the_readme_shows_the_sidecar_example_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md can be read");
    let example =
        fs::read_to_string(root.join("config/sidecar.toml")).expect("the example can be read");
    assert!(
        readme.contains(&format!("```toml\n{example}```\n")),
        "README.md shows another sidecar.toml"
    );
}

#[test]
fn every_test_that_the_readme_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md can be read");
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        read_sources(&root.join(folder), &mut sources);
    }
    let rows = readme.lines().filter(|line| line.starts_with('|'));
    let named: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches([' ', '|']).rsplit_once("| `"))
        .map(|(_, last)| last.trim_end_matches('`'))
        // No setting, metric or problem has as many words.
        .filter(|name| name.matches('_').count() >= 4 && !name.starts_with("oncegate_"))
        .filter(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("fn {name}()")), "no test {name}");
    }
}

/// All Rust below this folder.
fn read_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).expect("source text"));
        }
    }
}

/// The text with what stands between the two markers of this name replaced.
fn with_section(text: &str, name: &str, section: &str) -> String {
    let begin = format!("<!-- reference:{name} -->\n");
    let end = format!("<!-- /reference:{name} -->");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("README.md lacks the line {begin}"));
    let (_, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("README.md lacks {end}"));
    format!("{before}{begin}\n{section}\n{end}{after}")
}
