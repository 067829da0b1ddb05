//! Random parts of ops, from a seed that a failing test prints.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncegate::protocol::{
    Answer, Cause, Fingerprint, NotStored, Owner, Response, Retention, Seen, Sent, TraceRef,
};

/// SplitMix64: the same numbers for the same seed on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        bytes
    }

    pub fn owner(&mut self) -> Owner {
        Owner([1, 2, u128::MAX][self.below(3)])
    }

    /// Mostly the same one, or few ops would agree.
    pub fn fingerprint(&mut self) -> Fingerprint {
        Fingerprint(if self.one_in(5) { [2; 32] } else { [1; 32] })
    }

    pub fn reference(&mut self) -> Bytes {
        Bytes::from(vec![b'r'; self.below(3) * 40])
    }

    pub fn seen(&mut self) -> Seen {
        Seen {
            owner: self.owner(),
            fence: 1 + self.next() % 3,
            beat: self.next() % 2,
        }
    }

    /// Spans differ by seconds, so that stores with a clock of their own meet no edge by accident.
    pub fn lease(&mut self) -> Duration {
        Duration::from_secs([15, 40][self.below(2)])
    }

    pub fn keep(&mut self) -> Duration {
        Duration::from_secs([25, 600, 86_400 * 30][self.below(3)])
    }

    pub fn retention(&mut self) -> Retention {
        Retention {
            keep: Duration::from_secs([35, 86_400][self.below(2)]),
            tombstone: Duration::from_secs([0, 55][self.below(2)]),
        }
    }

    pub fn pause(&mut self) -> Duration {
        Duration::from_secs([1, 10, 15, 20, 60, 3600, 86_400 * 2][self.below(7)])
    }

    pub fn cause(&mut self) -> Cause {
        [
            Cause::Timeout,
            Cause::Truncated,
            Cause::Status(503),
            Cause::Drained,
        ][self.below(4)]
    }

    pub fn sent(&mut self) -> Sent {
        Sent {
            written_after: self
                .one_in(2)
                .then(|| Duration::from_millis(self.below(40_000) as u64)),
            status: self.one_in(3).then_some(502),
            bytes_seen: [0, 1, 1 << 40][self.below(3)],
        }
    }

    pub fn answer(&mut self) -> Answer {
        if self.one_in(4) {
            return Answer::NotStored(NotStored::TooLarge);
        }
        let headers =
            (0..self.below(3)).map(|n| (format!("header-{n}"), Bytes::from(vec![0xff; n * 10])));
        let trailers = [("grpc-status", "0"), ("x-checksum", "")];
        let trailers = trailers[..self.below(3)].iter();
        let trace = self.one_in(2).then(|| TraceRef {
            trace_id: [self.next().to_le_bytes()[0]; 16],
            span_id: [self.next().to_le_bytes()[0]; 8],
        });
        Answer::Stored(Arc::new(Response {
            status: [200, 201, 404][self.below(3)],
            headers: headers.collect(),
            body: Bytes::from(vec![b'b'; self.below(2000)]),
            trailers: trailers
                .map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value.as_bytes())))
                .collect(),
            trace,
        }))
    }
}
