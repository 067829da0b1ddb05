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
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
        Self {
            files: files.count(),
            resident_kib: resident.expect("its resident memory"),
        }
    }
}
