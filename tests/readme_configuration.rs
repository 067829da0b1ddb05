//! Holds the configuration reference in the README to the definitions of the settings.
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
