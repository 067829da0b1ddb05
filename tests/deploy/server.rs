//! Programs that run for as long as a test does.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts a program, and ends it when nobody holds the other end of the pipe any more: however the test ends, and were
/// it killed.
const GUARD: &str = r#""$@" </dev/null & cat >/dev/null; kill -9 $! 2>/dev/null"#;

/// A process. Dropping it ends it, and prints what it said where the test failed.
pub struct Server {
    guard: Child,
    log: tempfile::NamedTempFile,
}

impl Server {
    /// This program, to be given arguments and whatever else it needs.
    pub fn command(program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(program);
        command
    }

    /// Starts what [`Server::command`] began.
    pub fn start(command: &mut Command) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let (out, err) = (log.reopen(), log.reopen());
        let guard = command
            .stdin(Stdio::piped())
            .stdout(out.expect("a file"))
            .stderr(err.expect("a file"))
            .spawn()
            .expect("a program");
        Self { guard, log }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // It may have ended already.
        let _ = self.guard.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log.path()).unwrap_or_default();
            eprintln!("--- a server's log\n{log}\n---");
        }
    }
}
