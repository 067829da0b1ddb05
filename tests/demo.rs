//! The demo, as a newcomer runs it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn the_demo_shows_that_every_promise_holds_and_ends() {
    let demo = Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["demo", "--once"])
        .output()
        .expect("the binary");
    let shown = String::from_utf8_lossy(&demo.stdout);
    let errors = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{shown}\n{errors}");
    assert!(shown.contains(" requests, 4 charges"), "{shown}");
    assert!(
        !shown.contains('\x1b'),
        "colour where there is no terminal: {shown}"
    );
    let widest = shown.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(120), "a line of {widest:?} columns: {shown}");
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["demo", "--once"])
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut shown = BufReader::new(demo.stdout.take().expect("a pipe")).lines();
    // The script is under way: its first line is out.
    assert!(shown.next().is_some_and(|line| line.is_ok()));
    let made = || std::fs::read_dir(directory.path()).map(Iterator::count);
    assert_eq!(made().ok(), Some(1));
    // The standard library can only kill.
    let interrupt = format!("kill -INT {}", demo.id());
    let status = Command::new("sh").args(["-c", &interrupt]).status();
    assert!(status.is_ok_and(|status| status.success()));
    shown.for_each(drop);
    assert_eq!(demo.wait().ok().and_then(|status| status.code()), Some(1));
    assert_eq!(made().ok(), Some(0));
}
