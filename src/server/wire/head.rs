//! Heads and trailers, line by line as they come (RFC 9112, sections 2 to 6).

use memchr::memchr;

use super::{Fault, field, is_plain_host};
use crate::server::connection::MAX_HEAD;
use crate::server::trailers;

/// Header lines of one request, and trailers. hyper takes no more.
pub(in crate::server) const MAX_LINES: usize = 100;

/// Whether a message that begins like this, good or not, has the method HEAD, whose answers bear no body. False where too little
/// of it is there to tell.
pub(in crate::server) fn begins_head_request(bytes: &[u8]) -> bool {
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    line.starts_with(b"HEAD ")
}

/// Lines up to an empty one, which come in any pieces.
#[derive(Default)]
pub(super) struct Section {
    /// How far it was looked at.
    looked: usize,
    line_start: usize,
    lines: usize,
}

/// A request's head.
#[derive(Default)]
pub(super) struct Head {
    section: Section,
    /// An empty line came before it (RFC 9112, section 2.2).
    has_leading_line: bool,
    facts: Facts,
}

/// What a head says of its message.
#[derive(Default)]
struct Facts {
    is_old: bool,
    length: Option<u64>,
    is_chunked: bool,
    upgrades: bool,
}

impl Section {
    /// The next whole line, without its end.
    fn next_line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
        let Some(at) = memchr(b'\n', &bytes[self.looked..]) else {
            self.looked = bytes.len();
            return Ok(None);
        };
        let end = self.looked + at;
        let line = &bytes[self.line_start..end];
        let line = line.strip_suffix(b"\r").ok_or(Fault::LineEnding)?;
        self.looked = end + 1;
        self.line_start = end + 1;
        self.lines += 1;
        Ok(Some(line))
    }

    /// The length of the trailers, the empty line behind them included, once they are whole.
    pub(super) fn read_trailers(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(line) = self.next_line(bytes)? {
            if self.looked > trailers::MAX || self.lines > MAX_LINES + 1 {
                return Err(Fault::TrailersSize);
            }
            if line.is_empty() {
                return Ok(Some(self.looked));
            }
            let (name, _) = field::read(line)?;
            if trailers::is_for_heads(name) {
                return Err(Fault::TrailerName);
            }
        }
        if bytes.len() > trailers::MAX {
            return Err(Fault::TrailersSize);
        }
        Ok(None)
    }
}

impl Head {
    /// The length of the head, the empty line behind it included, once it is whole. Called again with more bytes
    /// behind the same ones, it goes on where it was.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(line) = self.section.next_line(bytes)? {
            if self.section.looked > MAX_HEAD as usize {
                return Err(Fault::HeadSize);
            }
            match (self.section.lines, line) {
                (1, []) if !self.has_leading_line => {
                    self.has_leading_line = true;
                    self.section.lines = 0;
                }
                (1, line) => self.facts.request_line(line)?,
                (_, []) => {
                    self.facts.check()?;
                    return Ok(Some(self.section.looked));
                }
                (lines, line) => {
                    if lines > MAX_LINES + 1 {
                        return Err(Fault::HeadLines);
                    }
                    self.facts.field(line)?;
                }
            }
        }
        if bytes.len() > MAX_HEAD as usize {
            return Err(Fault::HeadSize);
        }
        // TLS, or another protocol, is told at once and not when its client has lost patience.
        let first = bytes.get(self.section.line_start);
        if self.section.lines == 0
            && first.is_some_and(|byte| !field::is_name_byte(*byte) && *byte != b'\r')
        {
            return Err(Fault::Method);
        }
        Ok(None)
    }

    /// Whether it asks for another protocol.
    pub(super) fn asks(&self) -> bool {
        self.facts.upgrades && !self.facts.is_old
    }

    /// Of the body; `None` where it comes in chunks.
    pub(super) fn length(&self) -> Option<u64> {
        match self.facts.is_chunked {
            true => None,
            false => Some(self.facts.length.unwrap_or(0)),
        }
    }
}

impl Facts {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let mut words = line.split(|byte| *byte == b' ');
        let method = words.next().unwrap_or_default();
        // Another case is another method, perhaps the same one to somebody else; that is told from the parsed request.
        if method.is_empty() || !method.iter().all(|byte| field::is_name_byte(*byte)) {
            return Err(Fault::Method);
        }
        let (Some(target), Some(version), None) = (words.next(), words.next(), words.next()) else {
            return Err(Fault::RequestLine);
        };
        if target.is_empty() {
            return Err(Fault::RequestLine);
        }
        self.is_old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Fault::Version),
        };
        if method == b"CONNECT" {
            return Err(Fault::Connect);
        }
        check_target(method, target)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field::read(line)?;
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrades = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = number(trim_spaces(value)).ok_or(Fault::LengthNumber)?;
                if self.length.replace(length).is_some() {
                    return Err(Fault::Lengths);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let is_plain = trim_spaces(value).eq_ignore_ascii_case(b"chunked");
                if !is_plain || self.is_chunked {
                    return Err(Fault::Coding);
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Fault> {
        if self.is_chunked && self.length.is_some() {
            return Err(Fault::LengthBesideCoding);
        }
        if self.is_chunked && self.is_old {
            return Err(Fault::CodingInOldVersion);
        }
        Ok(())
    }
}

/// RFC 9112, section 3.2.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Fault> {
    if let Some(byte) = target.iter().find(|byte| !field::is_target_byte(**byte)) {
        return Err(match byte {
            b'#' => Fault::TargetFragment,
            b'\r' => Fault::LineEnding,
            _ => Fault::TargetCharacter,
        });
    }
    if target.starts_with(b"/") || target == b"*" && method == b"OPTIONS" {
        return Ok(());
    }
    let is_scheme = |scheme: &&[u8]| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let scheme = schemes.iter().find(|scheme| is_scheme(scheme));
    let rest = &target[scheme.ok_or(Fault::TargetForm)?.len()..];
    let end = rest.iter().position(|byte| *byte == b'/');
    if is_plain_host(&rest[..end.unwrap_or(rest.len())]) {
        Ok(())
    } else {
        Err(Fault::TargetHost)
    }
}

/// Spaces around a value are no part of it, and neither are tabs (RFC 9110, section 5.5); but some let a tab hide what a
/// message's framing is.
fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

fn number(digits: &[u8]) -> Option<u64> {
    // So many digits never overflow.
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
