//! Chance by name.
//!
//! What a decision comes out as depends on the seed, on its name, on whose request it is about and on how many of that
//! name there were before for that request: never on what happened elsewhere. So the same seed makes the same history
//! in whichever order the runtime wakes tasks, and leaving one caller or one kind of fault out of a plan leaves the
//! rest of it as it was.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

/// Decides everything that a seed leaves to chance.
#[derive(Clone, Copy)]
pub struct Chance(pub u64);

impl Chance {
    /// The source for the `nth` decision of this name about this request; 0 for what concerns no request.
    pub fn of(self, name: &str, request: u64, nth: u64) -> Draw {
        let mut mixed = self.0;
        for word in name.bytes().map(u64::from).chain([request, nth]) {
            mixed = mix(mixed ^ word);
        }
        Draw(Rng::with_seed(mixed))
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// One decision, drawn piece by piece.
pub struct Draw(Rng);

impl Draw {
    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.0.u64(..100) < chance
    }

    /// A number of this range.
    pub fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.u64(range)
    }

    /// A span of so many milliseconds, and some microseconds, so that little happens at the same moment.
    pub fn ms(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.0.u64(range)) + Duration::from_micros(self.0.u64(1..1000))
    }

    /// The same, up to one of these: short spans and long ones are to be as frequent.
    pub fn ms_to_one(&mut self, from: u64, to: &[u64]) -> Duration {
        let to = self.one(to);
        self.ms(from..=to)
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())]
    }
}
