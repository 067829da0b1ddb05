//! Holds the metrics reference in the README to what the program registers.
//!
//! `UPDATE_README=1 cargo nextest run --test readme_metrics` writes it anew.

use std::{env, fs, path::Path};

const BEGIN: &str = "<!-- reference:metrics -->\n";
const END: &str = "<!-- /reference:metrics -->";

#[test]
fn the_readme_lists_every_metric_as_it_is_registered() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md can be read");
    let expected = format!("\n{}\n", oncegate::telemetry::reference());
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("README.md has the marker that begins the metrics reference");
    let (section, after) = rest
        .split_once(END)
        .expect("README.md has the marker that ends the metrics reference");
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
