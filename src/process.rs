//! Which process a task belongs to.
//!
//! There is one, and nothing to do about it, but in tests: there several gateways share a runtime and its virtual time,
//! and each is a process of its own that can freeze and crash with all of its tasks, and whose jitter comes from a seed.
//! So whatever makes a task hands its work to [`task`] first, and what is to be spread out asks for [`jitter`].

#[cfg(test)]
mod simulated;

use std::time::Duration;

#[cfg(test)]
pub use simulated::{Here, Process, jitter, task};

/// A task of the process that makes it, for whatever spawns it.
#[cfg(not(test))]
pub fn task<F: Future<Output = ()> + Send + 'static>(work: F) -> F {
    work
}

/// A part of this time, at random.
#[cfg(not(test))]
#[must_use]
pub fn jitter(span: Duration) -> Duration {
    part(span, chance())
}

/// So much of this time.
fn part(span: Duration, share: u16) -> Duration {
    span * u32::from(share) / (u32::from(u16::MAX) + 1)
}

fn chance() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness there is no jitter, which is no safety.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u16::from_be_bytes(bytes)
}
