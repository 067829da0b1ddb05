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
