//! How many files, which connections are, too, the system lets the process have open.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Files besides connections: listeners, the store's, the admin's connections, the runtime's own.
const OTHERS: u64 = 64;

/// Raises the limit as far as the system lets the process itself do that, and says so where it is still too low. Many
/// systems begin with 1024 for the sake of programs that use `select`, which nothing in here does.
pub fn raise(config: &Config) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit {
            current: limit.maximum,
            ..limit
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "the limit on open files cannot be raised"),
        }
    }
    let (allowed, needed) = (limit.current.unwrap_or(u64::MAX), needed(config));
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "the system lets this process open fewer files than its limits may need"
        );
    }
}

fn needed(config: &Config) -> u64 {
    let upstreams = config.upstreams.iter().map(|one| one.max_in_flight as u64);
    let clients = config.limits.max_connections as u64;
    upstreams.fold(clients + OTHERS, u64::saturating_add)
}
