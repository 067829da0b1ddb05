//! The access log: one line a request, written when its answer has ended or its client has left.
//!
//! Lines go where all log lines go, and like them never make a request wait. The reference in the README is made
//! from the fields defined here.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::log::{Format, Log, timestamp};
use crate::config::{AccessLogConfig, ListenAddress};
use crate::identity::KeyRef;
use crate::protocol::GrpcCode;

/// Writes what is to be written of requests.
#[derive(Debug)]
pub struct AccessLog {
    /// `None` where there is no access log.
    to: Option<Log>,
    settings: AccessLogConfig,
    /// Ordinary requests so far, which are told apart by their number.
    turn: AtomicU64,
}

impl AccessLog {
    /// An access log with these settings.
    #[must_use]
    pub fn new(settings: AccessLogConfig, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            to: settings.enabled.then(|| log.clone()),
            settings,
            turn: AtomicU64::new(0),
        })
    }

    /// One that writes nothing.
    #[must_use]
    pub fn off() -> Arc<Self> {
        Arc::new(Self {
            to: None,
            settings: AccessLogConfig {
                enabled: false,
                sample: 0.0,
                slow: Duration::MAX,
                path: false,
            },
            turn: AtomicU64::new(0),
        })
    }

    /// Whether the path of a request has to be kept for its line.
    #[must_use]
    pub fn bears_path(&self) -> bool {
        self.to.is_some() && self.settings.path
    }

    /// Whether paths may be shown, in lines and elsewhere.
    #[must_use]
    pub fn shows_path(&self) -> bool {
        self.settings.path
    }

    /// Whether the line of a request is to be written that took so long.
    #[must_use]
    pub fn takes(&self, is_ordinary: bool, took: Duration) -> bool {
        self.to.is_some() && (!is_ordinary || took > self.settings.slow || self.is_sampled())
    }

    /// The share of ordinary requests, spread evenly and without any pattern that requests could follow.
    fn is_sampled(&self) -> bool {
        let sample = self.settings.sample;
        if sample >= 1.0 {
            return true;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        scattered(turn) < sample
    }

    /// Writes a line.
    pub fn write(&self, line: &Line<'_>) {
        thread_local! {
            /// Used again and again, so that a line costs no memory of its own.
            static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let Some(log) = &self.to else {
            return;
        };
        TEXT.with_borrow_mut(|text| {
            text.clear();
            match log.format {
                Format::Json => json(text, line),
                Format::Human => human(text, line),
            }
            log.sink.push(text.as_bytes());
        });
    }
}

/// Numbers from 0 to below 1 that look random, one for each turn (SplitMix64's finalizer).
fn scattered(turn: u64) -> f64 {
    let mut bits = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let upper = u32::try_from((bits ^ (bits >> 31)) >> 32).unwrap_or_default();
    f64::from(upper) / 4_294_967_296.0
}

fn json(text: &mut String, line: &Line<'_>) {
    text.push_str(r#"{"timestamp":""#);
    timestamp(text);
    text.push_str(r#"","level":"INFO","message":"request""#);
    line.json(text);
    text.push_str("}\n");
}

fn human(text: &mut String, line: &Line<'_>) {
    timestamp(text);
    text.push_str("  INFO request:");
    line.show(text);
    text.push('\n');
}

/// A value that may be absent: its field is then left out.
///
/// Lines are written for every request, so values write themselves: what goes through [`fmt`] or serde costs several
/// times as much.
trait Field {
    fn is_absent(&self) -> bool {
        false
    }

    /// As a JSON value.
    fn json(&self, text: &mut String);

    /// For people.
    fn show(&self, text: &mut String) {
        self.json(text);
    }
}

/// Defines the fields of a line, each with what it means.
macro_rules! fields {
    ( $( $(#[doc = $help:literal])+ $name:ident: $type:ty, )+ ) => {
        /// What is written of a request besides `timestamp`, `level` and `message`.
        #[derive(Debug)]
        pub struct Line<'a> {
            $( $(#[doc = $help])+ pub $name: $type, )+
        }

        impl Line<'_> {
            /// Each field behind a comma.
            fn json(&self, text: &mut String) {
                $( if !self.$name.is_absent() {
                    text.push_str(concat!(",\"", stringify!($name), "\":"));
                    self.$name.json(text);
                } )+
            }

            fn show(&self, text: &mut String) {
                $( if !self.$name.is_absent() {
                    text.push_str(concat!(" ", stringify!($name), "="));
                    self.$name.show(text);
                } )+
            }
        }

        /// Name and meaning of each.
        const FIELDS: &[(&str, &str)] = &[$( (stringify!($name), concat!($($help),+)), )+];
    };
}

fields! {
    /// The client's address; without a port where trusted proxies tell it; `unix:` where it has none.
    client: Whom,
    /// The address of the proxy that sent the request, where another one is the client's.
    proxy: Option<SocketAddr>,
    /// The address that was connected to.
    listener: &'a ListenAddress,
    /// The protocol: `HTTP/1.1`, `HTTP/2.0`.
    protocol: &'static str,
    /// The method, at most 32 bytes of it.
    method: &'a str,
    /// The path as it was received, without its query, at most 1024 bytes of it; not with `path = false`.
    path: Option<&'a str>,
    /// The route's name; not where there is none.
    route: Option<&'a str>,
    /// The status of the answer; not where the client left before there was one.
    status: Option<u16>,
    /// Of a call of gRPC, the number of its `grpc-status`, from the upstream or of a refusal; not where the client was given
    /// none that gRPC has.
    grpc_status: Option<GrpcCode>,
    /// What became of the request: a decision, or `no_route`, `bad_request`, `abandoned`.
    decision: &'static str,
    /// What the type of a refusal ends with.
    problem: Option<&'static str>,
    /// Which key, as refusals and other lines name it; not where it was refused before the key was known.
    key_ref: Option<KeyRef>,
    /// The number of the claim, where it was acquired.
    fence: Option<u64>,
    /// The name of the upstream, where the request got that far.
    upstream: Option<&'a str>,
    /// The address that answered.
    endpoint: Option<SocketAddr>,
    /// From the request's head to the end of its answer, or until the client left.
    total_ms: Ms,
    /// What of it oncegate took up to the head of the answer, as in `oncegate_overhead_seconds`.
    overhead_ms: Option<Ms>,
    /// How long the request's body took to come in, where it was held.
    body_ms: Option<Ms>,
    /// How long it waited for another attempt.
    waited_ms: Option<Ms>,
    /// How long claiming and recording took.
    store_ms: Option<Ms>,
    /// From the dispatch to the end of the answer where it is held, else to the end of its head.
    upstream_ms: Option<Ms>,
    /// Bytes of the request's body that were read.
    bytes_in: u64,
    /// Bytes of the answer's body that were given to the client's connection.
    bytes_out: u64,
    /// Where the answer did not come to its end: `client_gone`, or `broken_off` at the upstream.
    end: Option<&'static str>,
    /// The trace that the request belongs to: the one that the client's `traceparent` names, or where spans are exported
    /// and it names none, one that begins here.
    trace_id: Option<Hex<16>>,
    /// The request's span in it: its own where spans are exported, else the one that the client's `traceparent` names.
    span_id: Option<Hex<8>>,
    /// On a replay, the trace of the request whose answer was recorded.
    origin_trace_id: Option<Hex<16>>,
}

/// The fields as a Markdown table.
pub(super) fn fields() -> String {
    let mut text = String::from("| field | meaning |\n| --- | --- |\n");
    let always = [
        ("timestamp", "When the line was written, in UTC."),
        ("level", "`INFO`."),
        ("message", "`request`."),
    ];
    for (name, help) in always.iter().chain(FIELDS) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{name}` | {} |", help.trim());
    }
    text
}

/// Whose a request is, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Its connection's.
    Socket(SocketAddr),
    /// Somebody's behind proxies.
    Ip(IpAddr),
    /// Somebody's behind a Unix socket.
    Unix,
}

/// A duration in milliseconds with three decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ms(pub Duration);

/// Bytes, shown as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<T: Field> Field for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }

    fn json(&self, text: &mut String) {
        if let Some(value) = self {
            value.json(text);
        }
    }

    fn show(&self, text: &mut String) {
        if let Some(value) = self {
            value.show(text);
        }
    }
}

impl Field for &str {
    fn json(&self, text: &mut String) {
        // Without a way out in the middle, so that many bytes are looked at in one go.
        let is_plain = self.bytes().fold(true, |is_plain, byte| {
            is_plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
        });
        if is_plain {
            quoted(text, |text| text.push_str(self));
        } else if let Ok(escaped) = serde_json::to_string(self) {
            // Strings always serialise.
            text.push_str(&escaped);
        }
    }

    /// What comes from clients must not move a terminal's cursor.
    fn show(&self, text: &mut String) {
        let is_plain = self.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain {
            text.push_str(self);
        } else {
            shown(text, format_args!("{self:?}"));
        }
    }
}

impl Field for KeyRef {
    fn json(&self, text: &mut String) {
        quoted(text, |text| self.show(text));
    }

    fn show(&self, text: &mut String) {
        text.extend(self.digits());
    }
}

impl<const N: usize> Field for Hex<N> {
    fn json(&self, text: &mut String) {
        quoted(text, |text| self.show(text));
    }

    fn show(&self, text: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let halves = self.0.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        text.extend(halves.map(|half| char::from(DIGITS[usize::from(half)])));
    }
}

impl Field for SocketAddr {
    fn json(&self, text: &mut String) {
        quoted(text, |text| self.show(text));
    }

    fn show(&self, text: &mut String) {
        let SocketAddr::V4(address) = self else {
            return shown(text, format_args!("{self}"));
        };
        let [first, rest @ ..] = address.ip().octets();
        number(text, first);
        for octet in rest {
            text.push('.');
            number(text, octet);
        }
        text.push(':');
        number(text, address.port());
    }
}

impl Field for Whom {
    fn json(&self, text: &mut String) {
        quoted(text, |text| self.show(text));
    }

    fn show(&self, text: &mut String) {
        match self {
            Self::Socket(address) => address.show(text),
            Self::Ip(address) => shown(text, format_args!("{address}")),
            Self::Unix => text.push_str("unix:"),
        }
    }
}

impl Field for &ListenAddress {
    fn json(&self, text: &mut String) {
        match self {
            ListenAddress::Tcp(address) => address.json(text),
            ListenAddress::Unix(_) => self.to_string().as_str().json(text),
        }
    }

    fn show(&self, text: &mut String) {
        match self {
            ListenAddress::Tcp(address) => address.show(text),
            ListenAddress::Unix(_) => self.to_string().as_str().show(text),
        }
    }
}

impl Field for Ms {
    fn json(&self, text: &mut String) {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        number(text, micros / 1000);
        let behind = micros % 1000;
        text.push_str(match behind {
            0..10 => ".00",
            10..100 => ".0",
            _ => ".",
        });
        number(text, behind);
    }
}

impl Field for GrpcCode {
    fn json(&self, text: &mut String) {
        number(text, *self as u8);
    }
}

impl Field for u16 {
    fn json(&self, text: &mut String) {
        number(text, *self);
    }
}

impl Field for u64 {
    fn json(&self, text: &mut String) {
        number(text, *self);
    }
}

fn quoted(text: &mut String, write: impl FnOnce(&mut String)) {
    text.push('"');
    write(text);
    text.push('"');
}

fn number(text: &mut String, value: impl itoa::Integer) {
    text.push_str(itoa::Buffer::new().format(value));
}

fn shown(text: &mut String, value: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{IdKeyBytes, Identifier};
    use crate::protocol::RecordId;

    /// Any address.
    static ANY: ListenAddress = ListenAddress::Tcp(SocketAddr::new(
        IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        4711,
    ));

    fn line() -> Line<'static> {
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        let ms = Some(Ms(Duration::from_micros(1234)));
        Line {
            client: Whom::Socket(address),
            proxy: Some(address),
            listener: &ANY,
            protocol: "HTTP/1.1",
            method: "POST",
            path: Some("/v1/\"pay\u{1b}ments\""),
            route: Some("create-payment"),
            status: Some(201),
            grpc_status: Some(GrpcCode::Unavailable),
            decision: "executed",
            problem: Some("none"),
            key_ref: Some(key_ref()),
            fence: Some(1),
            upstream: Some("payments"),
            endpoint: Some(address),
            total_ms: Ms(Duration::from_secs(2)),
            overhead_ms: ms,
            body_ms: ms,
            waited_ms: ms,
            store_ms: ms,
            upstream_ms: ms,
            bytes_in: 7,
            bytes_out: 9,
            end: Some("client_gone"),
            trace_id: Some(Hex([0x4b; 16])),
            span_id: Some(Hex([0x0f; 8])),
            origin_trace_id: Some(Hex([0xa3; 16])),
        }
    }

    fn key_ref() -> KeyRef {
        Identifier::new(&IdKeyBytes([7; 32]), "").key_ref(&RecordId([1; 32]))
    }

    fn settings(sample: f64) -> AccessLogConfig {
        AccessLogConfig {
            enabled: true,
            sample,
            slow: Duration::from_secs(5),
            path: true,
        }
    }

    fn log(sample: f64) -> Arc<AccessLog> {
        let sink = super::super::sink::Sink::start(std::io::sink(), |_| Vec::new()).unwrap();
        let log = Log {
            sink,
            format: Format::Json,
        };
        AccessLog::new(settings(sample), &log)
    }

    #[test]
    fn a_json_line_has_the_fields_of_the_reference_and_no_others() {
        let mut text = String::new();
        json(&mut text, &line());
        assert_eq!(text.matches('\n').count(), 1);
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        let reference = fields();
        assert_eq!(reference.lines().count() - 2, read.len());
        for name in read.keys() {
            assert!(reference.contains(&format!("| `{name}` | ")), "{name}");
        }
        assert_eq!(read["total_ms"], 2000.0);
        assert_eq!(read["overhead_ms"], 1.234);
        assert_eq!(read["path"], "/v1/\"pay\u{1b}ments\"");
        assert_eq!(read["key_ref"], key_ref().to_string());
        assert_eq!(read["trace_id"], "4b".repeat(16));
        assert_eq!(read["client"], "127.0.0.1:4711");
        assert_eq!(read["status"], 201);
        assert_eq!(read["bytes_out"], 9);
    }

    #[test]
    fn values_are_written_as_everybody_writes_them() {
        let written = |value: &dyn Field| {
            let mut text = String::new();
            value.json(&mut text);
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        for value in ["", "plain /%20", "a\"b\\c", "\n\r\t\0\u{1b}", "\u{7f}é😀"] {
            assert_eq!(written(&value), value);
        }
        for address in [
            "0.0.0.0:0",
            "255.10.9.100:65535",
            "[::1]:80",
            "[fe80::1%3]:443",
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(written(&address), address.to_string());
        }
        for micros in [
            0,
            1,
            9,
            10,
            99,
            100,
            999,
            1000,
            1001,
            1010,
            4_294_967_296_123,
        ] {
            let ms = Ms(Duration::from_micros(micros));
            assert_eq!(written(&ms), micros as f64 / 1000.0, "{micros}");
        }
        assert_eq!(written(&u64::MAX), u64::MAX);
        assert_eq!(written(&u16::MAX), u16::MAX);
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let line = Line {
            status: None,
            grpc_status: None,
            key_ref: None,
            ..line()
        };
        let (mut machine, mut person) = (String::new(), String::new());
        json(&mut machine, &line);
        human(&mut person, &line);
        for text in [machine, person] {
            assert!(
                !text.contains("status") && !text.contains("key_ref"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_line_for_people_is_one_line_without_control_characters() {
        let mut text = String::new();
        human(&mut text, &line());
        let text = text.strip_suffix('\n').unwrap();
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.contains(" method=POST "), "{text}");
        assert!(text.contains(" total_ms=2000.000 "), "{text}");
    }

    #[test]
    fn a_sample_is_a_share_of_the_ordinary_and_everything_else_is_written() {
        let soon = Duration::from_millis(1);
        for (sample, expected) in [(0.0, 0..=0), (0.1, 900..=1100), (1.0, 10_000..=10_000)] {
            let log = log(sample);
            let taken = (0..10_000).filter(|_| log.takes(true, soon)).count();
            assert!(expected.contains(&taken), "{sample}: {taken}");
            assert!(log.takes(false, soon));
            assert!(log.takes(true, Duration::from_secs(6)));
        }
        assert!(!AccessLog::off().takes(false, soon));
    }
}
