//! Wall clocks that can be set, each for one process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    offset_ms: i64,
}

impl Clock {
    /// A clock that is right.
    pub fn new(path: PathBuf) -> Self {
        let file = File::create(&path).expect("a file");
        let mut clock = Self {
            file,
            path,
            offset_ms: 0,
        };
        clock.put(0, 0);
        clock
    }

    /// What the process is to find in its environment.
    pub fn environment(&self) -> String {
        format!("CLOCK_OFFSET={}", self.path.display())
    }

    /// Puts it forth, or back, by so many milliseconds; at most `most` from the right time either way.
    pub fn put(&mut self, by_ms: i64, most_ms: i64) {
        self.offset_ms = (self.offset_ms + by_ms).clamp(-most_ms, most_ms);
        let bytes = self.offset_ms.to_ne_bytes();
        self.file.write_all_at(&bytes, 0).expect("a file");
    }
}
