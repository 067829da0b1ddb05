//! What an HTTP/2 client sends beside requests, bodies and answers to us, and how much of it is borne.
//!
//! Frames that carry nothing cost next to nothing each, and no window holds them back. h2 ends connections that reset
//! streams before they are looked at, that make us reset them, and whose heads or empty DATA never end; what it bears
//! without end is counted here: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, frames of kinds unknown, and resets at the pace at
//! which streams are begun (CVE-2019-9512, CVE-2019-9515, CVE-2023-44487).
//!
//! A client has an allowance. It earns with what gives a reason for such frames: requests, what we send of bodies, time.

use std::io::IoSlice;

use super::connection::PREFACE;

/// Bytes of a frame before its payload (RFC 9113, section 4.1).
pub(super) const HEAD: usize = 9;

/// Kinds of frames (RFC 9113, section 6).
pub(super) const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// What a client may have saved, and begins with: a browser that leaves a page, or a client whose every call has come too
/// late, resets all its streams several times over.
const MOST: u32 = 1000;

/// What it may have saved of what it was sent: it pays when it has read that, which is later than we are paid, by as many
/// small pieces as sockets hold.
const MOST_FOR_PIECES: u32 = 1_000_000;

/// What a request earns: a priority, two windows and a question whether we are there.
const REQUEST_EARNS: u32 = 4;

/// A reset right behind its request costs little more than that has earned: whoever takes one answer in five goes on for
/// ever.
const RESET_COSTS: u32 = 5;

/// How long a stream has to live for its reset to cost no more than that, in milliseconds; it may have to live for twice as
/// long. Clients that give up what takes too long, as all of them do where an upstream hangs, have kept to the streams that
/// they may have at a time.
const RAPID: u64 = 50;

/// What a piece of a body that we send earns, however small: a client may widen two windows and measure its way to us for
/// each message of a stream, as gRPC's library for Go does.
const PIECE_EARNS: usize = 3;

/// Bytes of a piece that earn one of these. Who opens a window byte by byte makes us send such pieces, and does not live on
/// them; the smallest message of gRPC has five bytes.
const BYTES_EARN_ONE_OF_FEW: usize = 2;

/// Bytes of a large piece that earn one more: a client may take it in parts, and widen its windows for each.
const BYTES_EARN_ONE: usize = 32;

/// What a second earns.
const SECOND_EARNS: u64 = 50;

/// In milliseconds: what earns one.
const TIME_EARNS_ONE: u64 = 1000 / SECOND_EARNS;

/// Sees the frames of a connection go by.
pub(super) struct Frames {
    came: Heads,
    sent: Heads,
    allowance: u32,
    /// Until when time has been credited, in milliseconds since the connection's first bytes.
    credited_ms: u64,
    begun: Begun,
}

/// The client has used up its allowance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    /// Of a connection whose preface is still to come by.
    pub(super) fn new() -> Self {
        Self {
            came: Heads::behind(PREFACE.len()),
            sent: Heads::behind(0),
            allowance: MOST,
            credited_ms: 0,
            begun: Begun::default(),
        }
    }

    /// Sees what the client has sent by now, in milliseconds since the connection's first bytes.
    ///
    /// # Errors
    /// Where that is more than is borne.
    pub(super) fn came(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.credit_time(now_ms);
        self.begun.pass(now_ms);
        while let Some(head) = self.came.next(&mut bytes) {
            let cost = match head.kind {
                HEADERS => {
                    self.begun.add(head.stream);
                    self.earn(REQUEST_EARNS, MOST);
                    0
                }
                // h2 counts those that carry too little.
                DATA | CONTINUATION => 0,
                RST_STREAM if self.begun.is_long_ago(head.stream) => REQUEST_EARNS,
                RST_STREAM => RESET_COSTS,
                _ => 1,
            };
            self.allowance = self.allowance.checked_sub(cost).ok_or(Flood)?;
        }
        Ok(())
    }

    /// Sees what the client has taken: so many bytes of these.
    pub(super) fn sent(&mut self, slices: &[IoSlice<'_>], mut count: usize) {
        for slice in slices {
            let mut bytes = &slice[..count.min(slice.len())];
            count -= bytes.len();
            while let Some(head) = self.sent.next(&mut bytes) {
                if head.kind == DATA {
                    let few = (head.length / BYTES_EARN_ONE_OF_FEW).min(PIECE_EARNS);
                    let earned = few + head.length / BYTES_EARN_ONE;
                    self.earn(u32::try_from(earned).unwrap_or(MOST), MOST_FOR_PIECES);
                }
            }
        }
    }

    fn earn(&mut self, count: u32, most: u32) {
        if self.allowance < most {
            self.allowance = self.allowance.saturating_add(count).min(most);
        }
    }

    fn credit_time(&mut self, now_ms: u64) {
        let earned = now_ms.saturating_sub(self.credited_ms) / TIME_EARNS_ONE;
        self.credited_ms += earned * TIME_EARNS_ONE;
        self.earn(u32::try_from(earned).unwrap_or(MOST), MOST);
    }
}

/// Which streams were begun long ago. Their numbers grow, so that two of them tell.
#[derive(Default)]
struct Begun {
    last: u32,
    /// The last one when a while began, and when the one before began: those up to there are at least as old as that.
    lately: u32,
    long_ago: u32,
    /// When this while began, in milliseconds.
    since_ms: u64,
}

impl Begun {
    fn add(&mut self, stream: u32) {
        self.last = self.last.max(stream);
    }

    fn pass(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) >= RAPID {
            self.since_ms = now_ms;
            self.long_ago = self.lately;
            self.lately = self.last;
        }
    }

    fn is_long_ago(&self, stream: u32) -> bool {
        stream <= self.long_ago
    }
}

/// What the head of a frame says.
struct Head {
    kind: u8,
    /// Of the payload, in bytes.
    length: usize,
    stream: u32,
}

/// Reads the heads of frames in one direction.
struct Heads {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes until the next head: what comes before all frames at first, then a payload's.
    skip: usize,
}

impl Heads {
    fn behind(skip: usize) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip,
        }
    }

    /// The next head that these bytes complete; they become those behind it.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                *bytes = &bytes[count..];
                continue;
            }
            let count = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            *bytes = &bytes[count..];
            if self.have == HEAD {
                let [high, middle, low, kind, _, stream @ ..] = self.head;
                self.have = 0;
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                return Some(Head {
                    kind,
                    length: self.skip,
                    // The first bit says nothing (RFC 9113, section 4.1).
                    stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        bytes.resize(HEAD + usize::from(length), kind);
        bytes
    }

    fn all(round: &[(u8, u8)]) -> Vec<u8> {
        let frames = round.iter();
        frames
            .flat_map(|(kind, length)| frame(*kind, *length))
            .collect()
    }

    /// How many of `times` rounds of these frames are borne, each at its millisecond, after those were sent.
    fn borne(times: u64, sent: &[(u8, u8)], each_ms: u64, round: &[(u8, u8)]) -> u64 {
        let mut frames = Frames::new();
        frames.came(PREFACE, 0).unwrap();
        let (sent, round) = (all(sent), all(round));
        (0..times)
            .take_while(|n| {
                frames.sent(&[IoSlice::new(&sent)], sent.len());
                frames.came(&round, n * each_ms).is_ok()
            })
            .count() as u64
    }

    #[test]
    fn frames_that_carry_nothing_end_with_the_allowance() {
        assert_eq!(borne(5000, &[], 0, &[(PING, 8)]), 1000);
        assert_eq!(borne(5000, &[], 0, &[(0x77, 0)]), 1000);
        // What we answer to a PING does not pay for it.
        assert_eq!(borne(5000, &[(PING, 8)], 0, &[(PING, 8)]), 1000);
        // Nor does a byte for the window that lets it out.
        assert_eq!(borne(5000, &[(DATA, 1)], 0, &[(WINDOW_UPDATE, 4)]), 1000);
    }

    #[test]
    fn requests_that_are_all_reset_end_with_the_allowance() {
        let rapid = [(HEADERS, 10), (RST_STREAM, 4)];
        assert!(borne(5000, &[], 0, &rapid) <= 1000);
        // An answer in five is enough of a reason.
        let mut hasty = [rapid; 4].concat();
        hasty.push((HEADERS, 10));
        assert_eq!(borne(5000, &[], 0, &hasty), 5000);
    }

    #[test]
    fn requests_that_have_had_their_time_may_all_be_reset() {
        // As many a second, begun and reset at this pace, each reset after so long.
        let given_up = |lives_ms: u64| {
            let mut frames = Frames::new();
            frames.came(PREFACE, 0).unwrap();
            (0..50_000_u64).all(|now| {
                let on = |kind, stream: u64| {
                    let mut frame = frame(kind, 4);
                    let number = u32::try_from(2 * stream + 1).unwrap();
                    frame[5..HEAD].copy_from_slice(&number.to_be_bytes());
                    frame
                };
                let mut bytes = on(HEADERS, now);
                if let Some(over) = now.checked_sub(lives_ms) {
                    bytes.extend(on(RST_STREAM, over));
                }
                frames.came(&bytes, now).is_ok()
            })
        };
        assert!(given_up(2 * RAPID));
        assert!(!given_up(RAPID - 1));
    }

    #[test]
    fn clients_with_a_reason_go_on_for_ever() {
        // A wider window for the stream and the connection after each event of a few bytes.
        let windows = [(WINDOW_UPDATE, 4), (WINDOW_UPDATE, 4)];
        assert_eq!(borne(50_000, &[(DATA, 8)], 0, &windows), 50_000);
        // The same for each hundred bytes of a download.
        let parts = windows.repeat(2);
        assert_eq!(borne(50_000, &[(DATA, 200)], 0, &parts), 50_000);
        // A wider window and a question after each message, even an empty one.
        let measuring = [(WINDOW_UPDATE, 4), (PING, 8)];
        assert_eq!(borne(50_000, &[(DATA, 5)], 0, &measuring), 50_000);
        // A question every 20 ms, and two every 50.
        assert_eq!(borne(50_000, &[], 20, &[(PING, 8)]), 50_000);
        assert_eq!(borne(50_000, &[], 50, &[(PING, 8), (PING, 8)]), 50_000);
        // All of it long after many pieces were sent.
        let mut frames = Frames::new();
        frames.came(PREFACE, 0).unwrap();
        let pieces = [(DATA, 8)].repeat(10_000);
        frames.sent(&[IoSlice::new(&all(&pieces))], usize::MAX);
        assert_eq!(frames.came(&all(&windows.repeat(10_000)), 0), Ok(()));
        // Bodies.
        assert_eq!(borne(50_000, &[], 0, &[(DATA, 100)]), 50_000);
    }

    #[test]
    fn what_was_sent_counts_however_it_is_written() {
        let bytes = all(&[(DATA, 8), (HEADERS, 40), (DATA, 100), (PING, 8)]);
        for piece in [1, 8, 9, 10, 50, 4096] {
            let mut frames = Frames::new();
            frames.allowance = 0;
            for bytes in bytes.chunks(piece) {
                let (one, other) = bytes.split_at(bytes.len() / 2);
                let slices = [IoSlice::new(one), IoSlice::new(other)];
                // Only some of it is taken at first.
                frames.sent(&slices, one.len());
                frames.sent(&slices[1..], other.len());
            }
            assert_eq!(frames.allowance, 9, "{piece}");
        }
    }

    #[test]
    fn frames_are_told_apart_wherever_reads_cut_them() {
        let mut bytes = PREFACE.to_vec();
        // A payload that looks like heads.
        for _ in 0..300 {
            bytes.extend(frame(DATA, 200));
        }
        bytes.extend(frame(PING, 8));
        for piece in [1, 7, 9, 10, 4096] {
            let mut frames = Frames::new();
            for bytes in bytes.chunks(piece) {
                frames.came(bytes, 0).unwrap();
            }
            assert_eq!(
                (frames.allowance, frames.came.have, frames.came.skip),
                (MOST - 1, 0, 0)
            );
        }
    }
}
