//! One header line.

use super::Fault;

/// RFC 9110, section 5.6.2.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// What of ASCII a target may hold.
const TARGET_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0x21;
    while byte < 0x7f {
        table[byte as usize] = !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'`');
        byte += 1;
    }
    table
};

/// Whether a request's target may contain it.
pub(super) fn is_target_byte(byte: u8) -> bool {
    TARGET_BYTES[byte as usize]
}

/// Whether names of methods and headers may contain it.
pub(super) fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES[byte as usize]
}

/// Name and value of a line that has lost its end; the value bears the spaces around it.
pub(super) fn read(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::FoldedLine);
    }
    let end = line.iter().position(|byte| !is_name_byte(*byte));
    let (name, value) = match end {
        Some(end) if end > 0 && line[end] == b':' => (&line[..end], &line[end + 1..]),
        _ => return Err(Fault::FieldName),
    };
    // Without a way out in the middle, so that many bytes are looked at in one go.
    let is_clean = value.iter().fold(true, |is_clean, byte| {
        is_clean & ((*byte >= 0x20) & (*byte != 0x7f) | (*byte == b'\t'))
    });
    match is_clean {
        true => Ok((name, value)),
        false if value.contains(&b'\r') => Err(Fault::LineEnding),
        false => Err(Fault::FieldValue),
    }
}
