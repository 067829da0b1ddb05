//! What the system says to the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the kernel says to a process whose file grows beyond its limit (Linux).
const SIGXFSZ: i32 = 25;

/// SIGTERM and SIGINT: the process is to end.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        // With a handler, a write beyond the process's limit of file sizes fails as one to a full disk does; without
        // one it would be the end of the process. Nobody need wait for it.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
