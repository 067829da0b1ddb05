//! Which process a task belongs to.
//!
//! There is one, and nothing to do about it, but in tests: there several gateways share a runtime and its virtual time,
//! and each is a process of its own that can freeze and crash with all of its tasks, and whose chance comes from a seed.
//! So whatever makes a task hands its work to [`task`] first, what is to be spread out asks for [`jitter`], and what is
//! drawn by lot for [`dice`].

#[cfg(test)]
mod simulated;

use std::cell::Cell;
use std::time::Duration;

#[cfg(test)]
pub use simulated::{Here, Process, dice, jitter, task};

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

/// A number at random, quickly had: for what is to be even, not secret.
#[cfg(not(test))]
#[must_use]
pub fn dice() -> u64 {
    thrown()
}

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), one for each thread.
fn thrown() -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    let state = STATE.get().wrapping_add(GAMMA);
    STATE.set(state);
    let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness every thread throws the same, which is still even.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_be_bytes(bytes)
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
