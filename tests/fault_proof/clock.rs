//! Wall clocks that can be set, each for one process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::tool;

/// Compiles a library that is loaded before the C library.
pub fn preload(source: &str, folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(source);
    let name = source.file_stem().expect("a file");
    let library = folder.join(name).with_extension("so");
    let compiled = Command::new(tool("cc"))
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(compiled.expect("a compiler").success());
    library
}

/// The clock of one process.
pub struct Clock {
    file: File,
    path: PathBuf,
}

impl Clock {
    /// A clock that is right.
    pub fn new(path: PathBuf) -> Self {
        let file = File::create(&path).expect("a file");
        let clock = Self { file, path };
        clock.set(0);
        clock
    }

    /// What the process is to find in its environment.
    pub fn environment(&self) -> String {
        format!("CLOCK_OFFSET={}", self.path.display())
    }

    /// Sets it to so many milliseconds from the right time.
    pub fn set(&self, offset_ms: i64) {
        let bytes = offset_ms.to_ne_bytes();
        self.file.write_all_at(&bytes, 0).expect("a file");
    }
}

/// A jump of between some seconds and two hours, back or forth, in milliseconds: within what records are kept for.
pub fn jump(rng: &mut fastrand::Rng) -> i64 {
    let longest = Duration::from_secs(2 * 3600).as_millis();
    let longest = i64::try_from(longest).expect("two hours");
    let far = if rng.bool() { longest } else { 10_000 };
    rng.i64(-far..far)
}
