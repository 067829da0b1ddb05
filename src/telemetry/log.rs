//! Log lines, on standard error: for people on a terminal, one JSON object a line everywhere else.
//!
//! Whoever writes a line names what happened by record id, route and status. Keys, credentials, bodies and
//! queries are never among its fields. Whoever reads the lines may be slow: see [`Sink`].

use std::cell::RefCell;
use std::env::{self, VarError};
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::panic;
use std::time::{Duration, UNIX_EPOCH};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError, filter_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::sink::Sink;

/// The environment variable that says how much is logged: `warn`, or `info,oncegate::gateway=debug`.
pub const FILTER_VARIABLE: &str = "ONCEGATE_LOG";

const DEFAULT_FILTER: &str = "info";

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("{FILTER_VARIABLE} is not a filter such as `info,oncegate::gateway=debug`: {0}")]
    BadFilter(#[source] ParseError),
    /// A word of it is neither a level nor a part of this program; it would silence everything else.
    #[error(
        "{FILTER_VARIABLE}: {0:?} is no level; there are off, error, warn, info, debug and trace, and parts of the \
         program with a level of their own, such as `info,oncegate::gateway=debug`"
    )]
    NoLevel(String),
    /// The filter is not text.
    #[error("{FILTER_VARIABLE} is not UTF-8")]
    NotText,
    /// Logging was started before.
    #[error("logging was started twice: {0}")]
    Twice(#[from] TryInitError),
    /// There is no thread for it.
    #[error("logging cannot be started: {0}")]
    NoThread(#[from] io::Error),
}

/// Where the lines of this process go. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Log {
    /// Takes whole lines.
    pub(super) sink: Sink,
    /// For whom they are.
    pub(super) format: Format,
}

impl Log {
    /// Lines dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Writes what is still queued; a reader that has stalled is waited for no longer than a second.
    pub fn finish(&self) {
        self.sink.finish();
    }
}

/// Starts logging for the whole process, as far as [`FILTER_VARIABLE`] says; without it, from `info` on.
///
/// # Errors
/// Where the variable cannot be read, there is no thread, or logging was started before.
pub fn start() -> Result<Log, LogError> {
    let filter = match env::var(FILTER_VARIABLE) {
        Ok(filter) if !filter.trim().is_empty() => filter,
        Ok(_) | Err(VarError::NotPresent) => DEFAULT_FILTER.to_owned(),
        Err(VarError::NotUnicode(_)) => return Err(LogError::NotText),
    };
    let format = if io::stderr().is_terminal() {
        Format::Human
    } else {
        Format::Json
    };
    let sink = Sink::start(io::stderr(), move |count| dropped_line(format, count))?;
    subscriber(format, &filter, sink.clone())?.try_init()?;
    // The usual hook writes to standard error itself, and would wait for a reader that has stalled.
    panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a defect")));
    Ok(Log { sink, format })
}

/// For whom lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// For machines: one object a line.
    Json,
}

/// Now, as every line says it: RFC 3339 in UTC, with microseconds.
pub(super) fn timestamp(line: &mut String) {
    thread_local! {
        /// The last second that was written here, and how.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = since_epoch();
    SECOND.with_borrow_mut(|(second, written)| {
        if *second != now.as_secs() || written.is_empty() {
            let mut full = String::new();
            // A clock that cannot be written leaves nothing to say.
            let _ = SystemTime.format_time(&mut fmt::format::Writer::new(&mut full));
            let is_same = since_epoch().as_secs() == now.as_secs();
            let Some((head, _)) = full.split_once('.').filter(|_| is_same) else {
                // Between two seconds it is not told which one was written.
                return line.push_str(&full);
            };
            (*second, *written) = (now.as_secs(), head.to_owned());
        }
        line.push_str(written);
        // Of seven digits the first one stands where the point is.
        let mut digits = itoa::Buffer::new();
        line.push('.');
        line.push_str(&digits.format(1_000_000 + now.subsec_micros())[1..]);
        line.push('Z');
    });
}

fn since_epoch() -> Duration {
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// What stands where lines are missing.
fn dropped_line(format: Format, count: u64) -> Vec<u8> {
    const MESSAGE: &str = "log lines were dropped: their reader is too slow";
    let mut line = String::new();
    // Writing to a string does not fail.
    let _ = match format {
        Format::Human => {
            timestamp(&mut line);
            writeln!(line, "  WARN oncegate::telemetry: {MESSAGE} count={count}")
        }
        Format::Json => {
            line.push_str(r#"{"timestamp":""#);
            timestamp(&mut line);
            writeln!(
                line,
                r#"","level":"WARN","message":"{MESSAGE}","count":{count},"target":"oncegate::telemetry"}}"#
            )
        }
    };
    line.into_bytes()
}

/// What takes events and writes them as lines.
fn subscriber<W>(
    format: Format,
    filter: &str,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    if let Some(word) = filter.split(',').find(|word| !is_directive(word)) {
        return Err(LogError::NoLevel(word.trim().to_owned()));
    }
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(LogError::BadFilter)?;
    let filtered = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_logged));
    // A closed standard error must not end the process: a line that cannot be written is lost in silence.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    Ok(match format {
        Format::Human => Box::new(filtered.with(lines)),
        Format::Json => {
            Box::new(filtered.with(lines.json().flatten_event(true).with_span_list(false)))
        }
    })
}

/// Whether a word of a filter says what it may have been meant to say. The filter itself takes any word for the name of a
/// program's part.
fn is_directive(word: &str) -> bool {
    let word = word.trim();
    word.is_empty()
        || word.contains('=')
        || word.starts_with(env!("CARGO_PKG_NAME"))
        || word.parse::<LevelFilter>().is_ok()
}

/// The HTTP crates write header values into their debug lines, credentials among them; from other crates only
/// lines for operators are taken, whatever the filter says. h2 warns of what clients do, once for every frame: those who
/// can make lines at will could fill a disk, or hide others.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let ours = metadata
        .target()
        .strip_prefix(env!("CARGO_PKG_NAME"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let most = match metadata.target().starts_with("h2::") {
        true => Level::ERROR,
        false => Level::INFO,
    };
    ours || *metadata.level() <= most
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn of(format: Format, filter: &str, log: impl FnOnce()) -> String {
            let lines = Self::default();
            let sink = lines.clone();
            let subscriber = subscriber(format, filter, move || sink.clone()).unwrap();
            with_default(subscriber, log);
            let bytes = lines.0.lock().unwrap().clone();
            String::from_utf8(bytes).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_bears_time_level_message_and_fields_at_its_top() {
        let text = Lines::of(Format::Json, "info", || {
            tracing::info!(route = "create-payment", status = 201, "executed\nnow");
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "executed\nnow");
        assert_eq!(line["route"], "create-payment");
        assert_eq!(line["status"], 201);
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn every_line_bears_the_time_of_its_writing() {
        let mut last = String::new();
        for _ in 0..10_000 {
            let mut text = String::new();
            timestamp(&mut text);
            let mut full = String::new();
            SystemTime
                .format_time(&mut fmt::format::Writer::new(&mut full))
                .unwrap();
            assert_eq!(text.len(), full.len(), "{text} {full}");
            assert!(last <= text && text <= full, "{last} {text} {full}");
            last = text;
        }
    }

    #[test]
    fn no_filter_brings_out_the_debug_lines_of_other_crates() {
        let text = Lines::of(Format::Human, "trace,h2=trace,oncegatex=trace", || {
            tracing::debug!(target: "h2::codec", authorization = "Bearer secret", "received frame");
            tracing::debug!(target: "oncegatex", authorization = "Bearer secret", "not ours");
            tracing::trace!(target: "oncegate::gateway", "our own");
            tracing::warn!(target: "hyper", "for operators");
        });
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.contains("our own") && text.contains("for operators"),
            "{text}"
        );
    }

    #[test]
    fn a_word_that_is_no_level_is_reported_and_silences_nothing() {
        for filter in ["warning", "info, inf0", "loud"] {
            let reported = subscriber(Format::Json, filter, io::sink);
            assert!(matches!(reported, Err(LogError::NoLevel(_))), "{filter}");
        }
        for filter in [
            "warn",
            "INFO",
            "off",
            "info,oncegate::gateway=debug",
            "oncegate",
            "info,",
        ] {
            assert!(
                subscriber(Format::Json, filter, io::sink).is_ok(),
                "{filter}"
            );
        }
    }

    #[test]
    fn a_filter_that_is_none_is_reported() {
        assert!(matches!(
            subscriber(Format::Json, "oncegate=loud", io::sink),
            Err(LogError::BadFilter(_))
        ));
    }
}
