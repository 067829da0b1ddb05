//! The raw head of a response, judged while it is read.
//!
//! hyper takes a line that ends without CR for a line. Who else reads the same bytes may not, and an upstream that lets
//! a line feed of its users into a header says to one of the two what it never meant to say: such an answer is none.

use memchr::memchr;

/// The shortest status line with the first digit of the status: `HTTP/1.1 2`.
const STATUS_AT: usize = 9;

/// Interim heads before the one that counts, whatever the protocol. One that comes every few seconds says for minutes that work goes on; more keep
/// us reading, and mean nothing.
pub(super) const MOST_INTERIM: u8 = 100;

/// Follows the heads that answer one request: interim ones, and the one that counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heads {
    is_in_head: bool,
    is_first_line: bool,
    is_interim: bool,
    /// Bytes of the line so far, its CR included.
    length: usize,
    last: u8,
    /// The second and third digits of the status.
    digits: [u8; 2],
    /// Interim heads so far.
    interim: u8,
}

/// What makes heads no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadHead {
    /// A line ends without CR, or a head begins with an empty line.
    #[error("a line of the response's head is ambiguous")]
    Ambiguous,
    /// More than [`MOST_INTERIM`].
    #[error("there are more than {MOST_INTERIM} interim responses")]
    TooManyInterim,
}

impl Heads {
    /// A request is about to be sent: what comes next is a head.
    pub(super) fn begin() -> Self {
        Self {
            is_in_head: true,
            is_first_line: true,
            ..Self::default()
        }
    }

    /// Takes the next bytes of the connection; those after the head that counts are none of its business.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), BadHead> {
        let mut rest = bytes;
        while self.is_in_head && !rest.is_empty() {
            let end = memchr(b'\n', rest);
            let line = &rest[..end.unwrap_or(rest.len())];
            if self.is_first_line {
                self.note_status(line);
            }
            self.length += line.len();
            self.last = line.last().copied().unwrap_or(self.last);
            let Some(end) = end else {
                return Ok(());
            };
            self.end_line()?;
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    /// Takes of these bytes, the next of the first line, what they hold of the status.
    fn note_status(&mut self, bytes: &[u8]) {
        let digit = |at: usize| Some(*bytes.get(at.checked_sub(self.length)?)?);
        let (first, second, third) = (digit(STATUS_AT), digit(STATUS_AT + 1), digit(STATUS_AT + 2));
        self.is_interim = first.map_or(self.is_interim, |digit| digit == b'1');
        self.digits[0] = second.unwrap_or(self.digits[0]);
        self.digits[1] = third.unwrap_or(self.digits[1]);
    }

    fn end_line(&mut self) -> Result<(), BadHead> {
        let is_empty = self.length == 1;
        if self.last != b'\r' || is_empty && self.is_first_line {
            return Err(BadHead::Ambiguous);
        }
        self.length = 0;
        self.last = b'\n';
        self.is_first_line = false;
        if is_empty {
            // What follows 101 is another protocol.
            let is_followed = self.is_interim && self.digits != *b"01";
            if !is_followed {
                *self = Self::default();
            } else if self.interim == MOST_INTERIM {
                return Err(BadHead::TooManyInterim);
            } else {
                *self = Self {
                    interim: self.interim + 1,
                    ..Self::begin()
                };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same whether the bytes come at once or one by one.
    fn judged(bytes: &str) -> bool {
        let at_once = Heads::begin().read(bytes.as_bytes()).is_ok();
        let mut heads = Heads::begin();
        let one_by_one = bytes
            .as_bytes()
            .chunks(1)
            .all(|byte| heads.read(byte).is_ok());
        assert_eq!(at_once, one_by_one, "{bytes:?}");
        at_once
    }

    #[test]
    fn a_line_of_a_head_ends_with_cr_lf() {
        assert!(judged("HTTP/1.1 200 OK\r\na: b\r\n\r\n"));
        assert!(!judged("HTTP/1.1 200 OK\na: b\r\n\r\n"));
        assert!(!judged("HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n"));
        assert!(!judged("HTTP/1.1 200 OK\r\na: b\r\n\n"));
        assert!(!judged("HTTP/1.1 200 OK\r\na: b\n\nbody"));
        assert!(!judged("\r\nHTTP/1.1 200 OK\r\n\r\n"));
        assert!(!judged("\nHTTP/1.1 200 OK\r\n\r\n"));
    }

    #[test]
    fn interim_heads_come_to_an_end() {
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        assert!(judged(&format!(
            "{}HTTP/1.1 200 OK\r\n\r\n",
            hint.repeat(100)
        )));
        assert!(!judged(&hint.repeat(101)));
    }

    #[test]
    fn only_heads_are_judged() {
        assert!(judged("HTTP/1.1 200 OK\r\n\r\nany\n\nbody"));
        assert!(judged(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nany\nthing"
        ));
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        assert!(judged(&format!("{hints}HTTP/1.1 200 OK\r\n\r\n\n")));
        assert!(!judged(&format!("{hints}HTTP/1.1 200 OK\n\r\n\n")));
    }
}
