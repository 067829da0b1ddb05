//! What an HTTP/2 client sends beside requests, bodies and answers to us, and how much of it is borne.
//!
//! Frames that carry nothing cost next to nothing each, and no window holds them back. h2 ends connections that reset
//! streams before they are looked at, that make us reset them, and whose heads or empty DATA never end; what it bears
//! without end is counted here: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, frames of kinds unknown, and resets at the pace at
//! which streams are begun (CVE-2019-9512, CVE-2019-9515, CVE-2023-44487).
//!
//! A client has an allowance. It earns with what gives a reason for such frames: requests, bytes that we send, time.

use super::connection::PREFACE;

/// Bytes of a frame before its payload (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// Kinds of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// What a client may have saved, and begins with: a browser that leaves a page, or a client whose every call has come too
/// late, resets all its streams several times over.
const MOST: u32 = 1000;

/// What a request earns: a priority, two windows and a question whether we are there.
const REQUEST_EARNS: u32 = 4;

/// A reset costs little more than its request has earned: whoever takes one answer in five goes on for ever.
const RESET_COSTS: u32 = 5;

/// Bytes that we have to send to earn one frame. A client may widen two windows and measure its way to us for every small
/// piece of a stream; our answers to PING and SETTINGS, of 17 and 9 bytes, must not pay for them.
const BYTES_EARN_ONE: usize = 32;

/// What a second earns.
const SECOND_EARNS: u64 = 50;

/// Reads the heads of a client's frames as they go by.
pub(super) struct Frames {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes until the next head: the preface's at first, then a payload's.
    skip: usize,
    allowance: u32,
    /// Until when time has been credited, in milliseconds since the connection's first bytes.
    credited_ms: u64,
    /// Bytes that were sent and not credited yet.
    sent: usize,
}

/// The client has used up its allowance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Frames {
    /// Of a connection whose preface is still to come by.
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip: PREFACE.len(),
            allowance: MOST,
            credited_ms: 0,
            sent: 0,
        }
    }

    /// Sees what the client has sent by now, in milliseconds since the connection's first bytes.
    ///
    /// # Errors
    /// Where that is more than is borne.
    pub(super) fn came(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.credit_time(now_ms);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            let count = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have == HEAD {
                self.frame()?;
            }
        }
        Ok(())
    }

    /// Sees how many bytes the client has taken.
    pub(super) fn sent(&mut self, count: usize) {
        let sent = self.sent + count;
        self.sent = sent % BYTES_EARN_ONE;
        self.earn(u32::try_from(sent / BYTES_EARN_ONE).unwrap_or(MOST));
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let [high, middle, low, kind, ..] = self.head;
        self.have = 0;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        let cost = match kind {
            HEADERS => {
                self.earn(REQUEST_EARNS);
                0
            }
            // h2 counts those that carry too little.
            DATA | CONTINUATION => 0,
            RST_STREAM => RESET_COSTS,
            _ => 1,
        };
        self.allowance = self.allowance.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }

    fn earn(&mut self, count: u32) {
        self.allowance = self.allowance.saturating_add(count).min(MOST);
    }

    fn credit_time(&mut self, now_ms: u64) {
        let earned = now_ms.saturating_sub(self.credited_ms) * SECOND_EARNS / 1000;
        if earned > 0 {
            self.credited_ms = now_ms;
            self.earn(u32::try_from(earned).unwrap_or(MOST));
        }
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

    /// How many of `times` rounds of these frames are borne, each at its millisecond, after so many bytes were sent.
    fn borne(times: u64, sent: usize, each_ms: u64, round: &[(u8, u8)]) -> u64 {
        let mut frames = Frames::new();
        frames.came(PREFACE, 0).unwrap();
        let bytes: Vec<u8> = round
            .iter()
            .flat_map(|(kind, length)| frame(*kind, *length))
            .collect();
        (0..times)
            .take_while(|n| {
                frames.sent(sent);
                frames.came(&bytes, n * each_ms).is_ok()
            })
            .count() as u64
    }

    #[test]
    fn frames_that_carry_nothing_end_with_the_allowance() {
        assert_eq!(borne(5000, 0, 0, &[(PING, 8)]), 1000);
        assert_eq!(borne(5000, 0, 0, &[(0x77, 0)]), 1000);
        // What we answer to a PING does not pay for it.
        assert!(borne(5000, 17, 0, &[(PING, 8)]) < 2500);
    }

    #[test]
    fn requests_that_are_all_reset_end_with_the_allowance() {
        let rapid = [(HEADERS, 10), (RST_STREAM, 4)];
        assert!(borne(5000, 0, 0, &rapid) <= 1000);
        // An answer in five is enough of a reason.
        let mut hasty = [rapid; 4].concat();
        hasty.push((HEADERS, 10));
        assert_eq!(borne(5000, 0, 0, &hasty), 5000);
    }

    #[test]
    fn clients_with_a_reason_go_on_for_ever() {
        // A download of small pieces, with a wider window for the stream and the connection after each of them.
        let windows = [(WINDOW_UPDATE, 4), (WINDOW_UPDATE, 4)];
        assert_eq!(borne(50_000, 100, 0, &windows), 50_000);
        // A question every 20 ms.
        assert_eq!(borne(50_000, 0, 20, &[(PING, 8)]), 50_000);
        // Bodies.
        assert_eq!(borne(50_000, 0, 0, &[(DATA, 100)]), 50_000);
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
                (frames.allowance, frames.have, frames.skip),
                (MOST - 1, 0, 0)
            );
        }
    }
}
