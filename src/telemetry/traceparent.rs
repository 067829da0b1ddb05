//! A request's place in a trace, as its `traceparent` tells it (W3C Trace Context, level 2, section 3.2).

use std::fmt;

use http::{HeaderMap, HeaderName};

use crate::protocol::TraceRef;

/// The header that names trace and span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header of tracing systems that bears more of the same.
#[cfg(feature = "otlp")]
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-`, 32 digits, `-`, 16 digits, `-`, two digits.
const LENGTH: usize = 55;

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace, and the span of the sender in it.
    pub at: TraceRef,
    /// `trace-flags`: the lowest bit says that the trace is sampled.
    pub flags: u8,
}

impl Traceparent {
    /// What a request's headers say. Several of them, or one that is malformed, say nothing; a later version says what this
    /// one would, before whatever it adds.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (value, None) = (lines.next()?.as_bytes(), lines.next()) else {
            return None;
        };
        let (known, rest) = value.split_first_chunk::<LENGTH>()?;
        let [version] = digits(&known[..2])?;
        let goes_on = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let is_parted = [2, 35, 52].iter().all(|&at| known[at] == b'-');
        let at = TraceRef {
            trace_id: digits(&known[3..35])?,
            span_id: digits(&known[36..52])?,
        };
        let [flags] = digits(&known[53..])?;
        let is_zero = at.trace_id == [0; 16] || at.span_id == [0; 8];
        (goes_on && is_parted && !is_zero).then_some(Self { at, flags })
    }
}

/// The value of a header that says so.
impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.at
            .trace_id
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.at
            .span_id
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

/// That many bytes in lower-case hexadecimal digits.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(char: u8) -> Option<u8> {
    match char {
        b'0'..=b'9' => Some(char - b'0'),
        b'a'..=b'f' => Some(char - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(values: &[&str]) -> Option<Traceparent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        Traceparent::of(&headers)
    }

    #[test]
    fn what_is_read_is_what_is_written() {
        for flags in ["00", "01", "03", "ff"] {
            let value = format!("00-{TRACE}-{SPAN}-{flags}");
            assert_eq!(of(&[&value]).unwrap().to_string(), value);
        }
    }

    #[test]
    fn a_later_version_says_what_this_one_would() {
        let known = of(&[&format!("00-{TRACE}-{SPAN}-01")]);
        for value in [
            format!("01-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-more"),
        ] {
            assert_eq!(of(&[&value]), known, "{value}");
        }
    }

    #[test]
    fn what_is_malformed_says_nothing() {
        for value in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}{SPAN}--01"),
            format!("00-{TRACE}"),
            "secret".to_owned(),
            String::new(),
        ] {
            assert_eq!(of(&[&value]), None, "{value}");
        }
    }

    #[test]
    fn several_say_nothing() {
        let value = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(of(&[&value, &value]), None);
    }
}
