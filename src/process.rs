//! Which process a task belongs to.
//!
//! There is one, and nothing to do about it, but in tests: there several gateways share a runtime and its virtual time,
//! and each is a process of its own that can freeze and crash with all of its tasks. So whatever makes a task hands its
//! work to [`task`] first.

#[cfg(test)]
mod simulated;

#[cfg(test)]
pub use simulated::{Here, Process, task};

/// A task of the process that makes it, for whatever spawns it.
#[cfg(not(test))]
pub fn task<F: Future<Output = ()> + Send + 'static>(work: F) -> F {
    work
}
