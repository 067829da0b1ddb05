//! What a process takes of the machine, as Linux tells it.

use std::fs;

/// What one process takes now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Open file descriptors.
    pub files: usize,
    /// Resident memory in KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Of this process, which must be alive.
    pub fn of(pid: u32) -> Self {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that is alive");
        Self {
            files: files.count(),
            resident_kib: kib(pid, "VmRSS"),
        }
    }
}

/// An amount of memory of a process that is alive, in KiB.
pub fn kib(pid: u32, name: &str) -> u64 {
    let amount = status(pid, name);
    let amount = amount.strip_suffix(" kB").and_then(|kib| kib.parse().ok());
    amount.expect("a number of kilobytes")
}

/// What this line of its status says.
pub fn status(pid: u32, name: &str) -> String {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that is alive");
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.expect("a line of this name").trim().to_owned()
}
