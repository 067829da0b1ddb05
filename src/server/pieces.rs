//! Joins small pieces of a request's body that come at once, over HTTP/2.
//!
//! Some clients send each message of a stream in a DATA frame of its own (gRPC's library for Go does). h2 takes many small
//! frames that wait for their reader for an attack and ends the connection, at 128 KiB for 255 bytes less each frame's
//! own where a connection's window is 256 KiB: a client that is merely faster than the upstream would be cut off. What is
//! read from the socket at once is therefore made one frame. Flow control counts the same bytes (RFC 9113, section 6.9).

use super::frames::{DATA, HEAD};

/// The flag by which a frame ends its stream; the other one of DATA says that it is padded (RFC 9113, section 6.1).
const END_STREAM: u8 = 1;

/// The largest payload that we let clients send, in bytes: the protocol's own (RFC 9113, section 6.5.2).
const MAX_PAYLOAD: usize = 16 * 1024;

/// Where in a client's frames the bytes are that have come.
pub(super) struct Pieces {
    /// The beginning of a head that a read has cut.
    head: [u8; HEAD],
    have: usize,
    /// Bytes until the next head.
    skip: usize,
}

impl Pieces {
    /// Of a connection that begins with so many bytes which are no frame.
    pub(super) fn behind(skip: usize) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip,
        }
    }

    /// Joins frames in these bytes, which were read at once, and returns how many are left of them. Frames whose head was
    /// cut stay as they are.
    pub(super) fn join(&mut self, bytes: &mut [u8]) -> usize {
        let (mut read, mut written) = (0, 0);
        // Where the head of a frame is that others may join.
        let mut open = None;
        loop {
            let count = self.skip.min(bytes.len() - read);
            keep(bytes, &mut read, &mut written, count);
            self.skip -= count;
            if read == bytes.len() {
                return written;
            }
            let there = &bytes[read..];
            if self.have > 0 || there.len() < HEAD {
                let count = there.len().min(HEAD - self.have);
                self.head[self.have..self.have + count].copy_from_slice(&there[..count]);
                self.have += count;
                if self.have == HEAD {
                    self.have = 0;
                    self.skip = length(&self.head);
                }
                keep(bytes, &mut read, &mut written, count);
                open = None;
                continue;
            }
            let mut next = [0; HEAD];
            next.copy_from_slice(&there[..HEAD]);
            self.skip = length(&next);
            match open.filter(|first| joins(&bytes[*first..], &next)) {
                Some(first) => {
                    read += HEAD;
                    let joined = length(&bytes[first..]) + self.skip;
                    let [_, high, middle, low] = u32::try_from(joined).unwrap_or(0).to_be_bytes();
                    bytes[first..first + 3].copy_from_slice(&[high, middle, low]);
                    bytes[first + 4] = next[4];
                }
                None => {
                    open = Some(written);
                    keep(bytes, &mut read, &mut written, HEAD);
                }
            }
        }
    }
}

/// Moves bytes to where they belong now.
fn keep(bytes: &mut [u8], read: &mut usize, written: &mut usize, count: usize) {
    if *read != *written {
        bytes.copy_within(*read..*read + count, *written);
    }
    *read += count;
    *written += count;
}

/// The length of a payload by its frame's head.
fn length(head: &[u8]) -> usize {
    u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize
}

/// Whether the second frame may become the end of the first. Empty ones stay, to be counted.
fn joins(first: &[u8], second: &[u8; HEAD]) -> bool {
    let (one, other) = (length(first), length(second));
    first[3] == DATA
        && second[3] == DATA
        && first[4] == 0
        && second[4] & !END_STREAM == 0
        && first[5..HEAD] == second[5..HEAD]
        && one > 0
        && other > 0
        && one + other <= MAX_PAYLOAD
}

#[cfg(test)]
mod tests {
    use super::*;

    const PADDED: u8 = 8;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [&head, payload].concat()
    }

    /// What becomes of these bytes when they are read in pieces of so many.
    fn joined(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut pieces = Pieces::behind(3);
        let bytes = [b"PRI", bytes].concat();
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            let left = pieces.join(&mut piece);
            all.extend(&piece[..left]);
        }
        all.split_off(3)
    }

    #[test]
    fn small_pieces_of_one_body_that_come_at_once_become_one() {
        let bytes = [
            frame(DATA, 0, 1, b"a"),
            frame(DATA, 0, 1, b"bc"),
            frame(DATA, END_STREAM, 1, b"d"),
            frame(PING, 0, 0, b"12345678"),
        ]
        .concat();
        let expected = [
            frame(DATA, END_STREAM, 1, b"abcd"),
            frame(PING, 0, 0, b"12345678"),
        ];
        assert_eq!(joined(&bytes, 4096), expected.concat());
    }

    #[test]
    fn all_else_stays_as_it_is() {
        let bytes = [
            frame(DATA, 0, 1, b"a"),
            frame(DATA, 0, 3, b"b"),
            frame(DATA, PADDED, 3, b"\x01b\0"),
            frame(DATA, 0, 3, b"b"),
            frame(DATA, 0, 3, b""),
            frame(DATA, 0, 3, b""),
            frame(PING, 0, 0, b"12345678"),
            frame(DATA, END_STREAM, 3, b"b"),
            frame(DATA, 0, 3, b"behind the end"),
        ]
        .concat();
        assert_eq!(joined(&bytes, 4096), bytes);
        let mut large = vec![0, 0x3f, 0xff, DATA, 0, 0, 0, 0, 1];
        large.resize(HEAD + 0x3fff, b'a');
        large.extend(frame(DATA, 0, 1, b"bc"));
        assert_eq!(joined(&large, 32_768), large);
    }

    #[test]
    fn the_same_bytes_come_on_the_same_streams_wherever_reads_cut_them() {
        let mut bytes = Vec::new();
        for number in 0..200_u8 {
            let payload = vec![number; usize::from(number % 7)];
            bytes.extend(frame(DATA, 0, 1 + number / 50, &payload));
            if number % 11 == 0 {
                bytes.extend(frame(PING, 0, 0, b"12345678"));
            }
        }
        for piece in 1..400 {
            let joined = joined(&bytes, piece);
            assert_eq!(bodies(&joined), bodies(&bytes), "{piece}");
            assert!(piece < 100 || joined.len() < bytes.len());
        }
    }

    /// What comes on each stream.
    fn bodies(mut bytes: &[u8]) -> [Vec<u8>; 5] {
        let mut bodies: [Vec<u8>; 5] = Default::default();
        while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
            let (payload, rest) = rest.split_at(length(head));
            bodies[usize::from(head[8])].extend(payload);
            bytes = rest;
        }
        bodies
    }
}
