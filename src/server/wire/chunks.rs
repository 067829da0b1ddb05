//! Chunks, strictly (RFC 9112, section 7.1).

use super::{Fault, Stop, field};

/// Sizes of more digits would not fit into what everybody counts with.
const MAX_DIGITS: u8 = 15;

/// Bytes of extensions in one body. Nobody is known to use them; they cost more than they bring.
const MAX_EXTENSIONS: usize = 4 * 1024;

/// How far the chunks of one body have come, up to the line of the last one.
#[derive(Default)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk.
    size: u64,
    digits: u8,
    /// Bytes of extensions so far.
    extensions: usize,
}

/// What comes next.
#[derive(Clone, Copy, Default)]
enum At {
    #[default]
    Size,
    /// The first byte behind a semicolon, and the others.
    ExtensionName,
    Extension,
    /// The end of the size's line.
    LineFeed,
    Data(u64),
    /// The end of the data.
    DataReturn,
    DataLineFeed,
}

impl Chunks {
    /// Reads on. Returns how many bytes belong to chunks, and whether the last chunk's line was among them: trailers
    /// come next.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), Stop> {
        let mut passed = 0;
        while let Some(byte) = bytes.get(passed) {
            if let At::Data(left) = self.at {
                let rest = bytes.len() - passed;
                let count = usize::try_from(left).map_or(rest, |left| left.min(rest));
                passed += count;
                self.at = match left - count as u64 {
                    0 => At::DataReturn,
                    left => At::Data(left),
                };
                continue;
            }
            let is_over = self.next(*byte).map_err(|fault| Stop { passed, fault })?;
            passed += 1;
            if is_over {
                return Ok((passed, true));
            }
        }
        Ok((passed, false))
    }

    fn next(&mut self, byte: u8) -> Result<bool, Fault> {
        self.at = match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() && self.digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size * 16 + u64::from(digit);
                self.digits += 1;
                At::Size
            }
            (At::Size | At::Extension, b'\r') if self.digits > 0 => At::LineFeed,
            (At::Size | At::Extension, b';') if self.digits > 0 => At::ExtensionName,
            (At::Size, _) => return Err(Fault::ChunkSize),
            (At::ExtensionName, _) if field::is_name_byte(byte) => self.extended()?,
            (At::Extension, 0x21..=0x7e) => self.extended()?,
            (At::ExtensionName | At::Extension, _) => return Err(Fault::ChunkExtension),
            (At::LineFeed, b'\n') => {
                self.digits = 0;
                match std::mem::take(&mut self.size) {
                    0 => return Ok(true),
                    size => At::Data(size),
                }
            }
            (At::DataReturn, b'\r') => At::DataLineFeed,
            (At::DataLineFeed, b'\n') => At::Size,
            (At::LineFeed, _) => return Err(Fault::LineEnding),
            (At::Data(_) | At::DataReturn | At::DataLineFeed, _) => return Err(Fault::ChunkEnd),
        };
        Ok(false)
    }

    fn extended(&mut self) -> Result<At, Fault> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            return Err(Fault::ChunkExtension);
        }
        Ok(At::Extension)
    }
}
