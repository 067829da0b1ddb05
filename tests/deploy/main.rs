//! What is in `deploy/`, and the Dockerfile: each file is looked at by the tool that its users would use, and what can
//! run here, runs. The image itself is built and used by `tests/image`.

#[path = "../support/mod.rs"]
mod support;

mod chart;
mod compose;
mod linters;
mod prometheus;
mod server;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::tool;

/// A file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Its text.
fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs a tool where the repository begins; what it said, and whether it was content.
fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> (bool, String) {
    let output = Command::new(tool(program))
        .args(args)
        .current_dir(path(""))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

/// Runs a tool that has to be content; what it said.
#[track_caller]
fn succeeds<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let (is_content, said) = run(program, args);
    assert!(is_content, "{program}: {said}");
    said
}
