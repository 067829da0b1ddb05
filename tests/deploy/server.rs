//! Programs that run for as long as a test does.

use std::process::{Child, Command, Stdio};

/// A process. Dropping it ends it, and prints what it said where the test failed.
pub struct Server {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Server {
    pub fn start(command: &mut Command) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let (out, err) = (log.reopen(), log.reopen());
        let child = command
            .stdin(Stdio::null())
            .stdout(out.expect("a file"))
            .stderr(err.expect("a file"))
            .spawn()
            .expect("a program");
        Self { child, log }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log.path()).unwrap_or_default();
            eprintln!("--- a server's log\n{log}\n---");
        }
    }
}
