//! Holds what the README says of the configuration to the definitions of the settings and to the examples.
//!
//! `UPDATE_README=1 cargo nextest run --test readme_configuration` writes it anew.

use std::{env, fs, path::Path};

const BEGIN: &str = "<!-- reference:configuration -->\n";
const END: &str = "<!-- /reference:configuration -->";

#[test]
fn the_readme_lists_every_setting_as_it_is_defined() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md can be read");
    let expected = format!("\n{}\n", oncegate::config::reference());
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("README.md has the marker that begins the configuration reference");
    let (section, after) = rest
        .split_once(END)
        .expect("README.md has the marker that ends the configuration reference");
    if section == expected {
        return;
    }
    if env::var_os("UPDATE_README").is_some() {
        let updated = [before, BEGIN, &expected, END, after].concat();
        fs::write(&path, updated).expect("README.md can be written");
        return;
    }
    assert_eq!(
        section, expected,
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
