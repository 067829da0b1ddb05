//! The demo, as a newcomer runs it.

use std::process::Command;

#[test]
fn the_demo_shows_that_every_promise_holds_and_ends() {
    let demo = Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["demo", "--once"])
        .output()
        .expect("the binary");
    let shown = String::from_utf8_lossy(&demo.stdout);
    let errors = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{shown}\n{errors}");
    assert!(shown.contains(" requests, 4 charges\n"), "{shown}");
    assert!(
        !shown.contains('\x1b'),
        "colour where there is no terminal: {shown}"
    );
    let widest = shown.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(120), "a line of {widest:?} columns: {shown}");
}
