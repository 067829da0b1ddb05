//! The audit log: one JSON line for each word of an operator about a record.
//!
//! A line is written, and to a file flushed, before the operator is answered. A line that cannot be written is kept and
//! said in the ordinary log; until it is written, no further word is taken, so that at most one is ever missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Mutex;

use super::log::Log;
use super::sink::Sink;

/// Who may read the file: nobody but its owner and group. It names keys by nothing but `key_ref`, and operators.
const MODE: u32 = 0o640;

/// Where lines go.
pub struct AuditLog {
    target: Target,
    pending: Pending,
}

/// What could not be written. It is the process's: the audit log of another configuration writes it first.
#[derive(Clone, Debug, Default)]
pub struct Pending(Arc<Mutex<Vec<u8>>>);

enum Target {
    /// Among the lines of the ordinary log, whatever its filter.
    Log(Sink),
    /// A file, which may be moved away: it is opened for each line.
    File(PathBuf),
}

/// The audit log does not take lines.
#[derive(Debug, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct Unwritten(String);

impl AuditLog {
    /// Lines go to the ordinary log, which drops lines while its reader is too slow.
    #[must_use]
    pub fn among(log: &Log, pending: &Pending) -> Self {
        Self::to(Target::Log(log.sink.clone()), pending)
    }

    /// Lines go to a file, which is made where there is none.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn in_file(path: &Path, pending: &Pending) -> Result<Self, io::Error> {
        open(path)?;
        Ok(Self::to(Target::File(path.to_owned()), pending))
    }

    fn to(target: Target, pending: &Pending) -> Self {
        Self {
            target,
            pending: pending.clone(),
        }
    }

    /// Whether a line could be written now: what is pending is written first. To be asked before anything is done that
    /// needs a line.
    ///
    /// # Errors
    /// Where it cannot.
    pub async fn ready(&self) -> Result<(), Unwritten> {
        let mut pending = self.pending.0.lock().await;
        self.flush(&mut pending).await
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Where it cannot be written now: it is kept, and said in the ordinary log.
    pub async fn write(&self, entry: &impl Serialize) -> Result<(), Unwritten> {
        let mut line = serde_json::to_vec(entry).map_err(|error| Unwritten(error.to_string()))?;
        line.push(b'\n');
        let mut pending = self.pending.0.lock().await;
        pending.extend_from_slice(&line);
        let written = self.flush(&mut pending).await;
        if let Err(error) = &written {
            let entry = String::from_utf8_lossy(&line);
            tracing::error!(%error, entry = entry.trim_end(), "a line of the audit log is kept until it can be written");
        }
        written
    }

    async fn flush(&self, pending: &mut Vec<u8>) -> Result<(), Unwritten> {
        let lines = pending.clone();
        match &self.target {
            Target::Log(sink) => {
                let before = sink.dropped();
                if !lines.is_empty() {
                    sink.push(&lines);
                }
                if sink.dropped() != before {
                    return Err(Unwritten("the ordinary log drops lines".to_owned()));
                }
            }
            Target::File(path) => {
                let path = path.clone();
                let writing = tokio::task::spawn_blocking(move || append(&path, &lines)).await;
                let written = writing.map_err(|error| Unwritten(error.to_string()))?;
                written.map_err(|error| Unwritten(error.to_string()))?;
            }
        }
        pending.clear();
        Ok(())
    }
}

/// All of the lines or, as far as the disk lets it, none of them.
fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    let written = file.write_all(lines).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(length);
    }
    written
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_that_cannot_be_written_is_kept_and_comes_first_later() {
        let folder = tempfile::tempdir().unwrap();
        let away = folder.path().join("away");
        std::fs::create_dir(&away).unwrap();
        let path = away.join("audit.log");
        let audit = AuditLog::in_file(&path, &Pending::default()).unwrap();
        audit.write(&"one").await.unwrap();
        std::fs::rename(&away, folder.path().join("moved")).unwrap();
        audit.write(&"two").await.unwrap_err();
        audit.ready().await.unwrap_err();
        std::fs::create_dir(&away).unwrap();
        audit.ready().await.unwrap();
        audit.write(&"three").await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "\"two\"\n\"three\"\n");
    }

    #[tokio::test]
    async fn a_line_that_is_kept_is_written_where_the_next_configuration_has_lines_go() {
        let folder = tempfile::tempdir().unwrap();
        let (away, there) = (folder.path().join("away"), folder.path().join("audit.log"));
        std::fs::create_dir(&away).unwrap();
        let pending = Pending::default();
        let before = AuditLog::in_file(&away.join("audit.log"), &pending).unwrap();
        std::fs::remove_dir_all(&away).unwrap();
        before.write(&"one").await.unwrap_err();
        let after = AuditLog::in_file(&there, &pending).unwrap();
        after.ready().await.unwrap();
        after.write(&"two").await.unwrap();
        let text = std::fs::read_to_string(&there).unwrap();
        assert_eq!(text, "\"one\"\n\"two\"\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_noticed_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        assert!(AuditLog::in_file(folder.path(), &Pending::default()).is_err());
    }
}
