//! What a gateway writes to its standard error: one JSON object a line.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;
use tokio::sync::watch;

use super::within;

/// The lines so far. Clones see the same lines.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    lines: Mutex<Vec<String>>,
    /// Grows with every line.
    progress: watch::Sender<Progress>,
    /// Nothing is read for now.
    is_stalled: Mutex<bool>,
    goes_on: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    lines: usize,
    ended: bool,
}

impl Log {
    /// Reads `source` to its end, on a thread of its own.
    pub fn capture(source: impl Read + Send + 'static) -> Self {
        let log = Self(Arc::new(Shared {
            lines: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
            is_stalled: Mutex::new(false),
            goes_on: Condvar::new(),
        }));
        let shared = Arc::clone(&log.0);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let is_stalled = shared.is_stalled.lock().expect("no panic");
                let went_on = shared
                    .goes_on
                    .wait_while(is_stalled, |is_stalled| *is_stalled);
                drop(went_on.expect("no panic"));
                shared.lines.lock().expect("no panic").push(line);
                shared.progress.send_modify(|progress| progress.lines += 1);
            }
            shared
                .progress
                .send_modify(|progress| progress.ended = true);
        });
        log
    }

    /// Stops reading: the gateway soon writes to a full pipe.
    pub fn stall(&self) {
        *self.0.is_stalled.lock().expect("no panic") = true;
    }

    /// Reads again.
    pub fn go_on(&self) {
        *self.0.is_stalled.lock().expect("no panic") = false;
        self.0.goes_on.notify_all();
    }

    /// The access log's first line with this decision, waited for.
    pub async fn request(&self, decision: &str) -> Value {
        let found = |line: &Value| line["message"] == "request" && line["decision"] == decision;
        let what = format!("a request's line {decision:?}");
        self.nth(&what, 0, &|| self.all(decision, found)).await
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.0.lines.lock().expect("no panic").join("\n")
    }

    /// The first line with this message, waited for. Fails the test where the process ends without it.
    pub async fn message(&self, message: &str) -> Value {
        self.nth_message(message, 0).await
    }

    /// The line with this message that has `n` such before it.
    pub async fn nth_message(&self, message: &str, n: usize) -> Value {
        let what = format!("a log line {message:?}");
        self.nth(&what, n, &|| self.messages(message)).await
    }

    /// All lines with this message so far, each with its fields at the top.
    pub fn messages(&self, message: &str) -> Vec<Value> {
        self.all(message, |line| line["message"] == message)
    }

    async fn nth(&self, what: &str, n: usize, all: &impl Fn() -> Vec<Value>) -> Value {
        let mut progress = self.0.progress.subscribe();
        loop {
            let Progress { ended, .. } = *progress.borrow_and_update();
            if let Some(line) = all().into_iter().nth(n) {
                return line;
            }
            assert!(
                !ended,
                "the process ended without saying {what}:\n{}",
                self.text()
            );
            within(what, progress.changed())
                .await
                .expect("the log lives on");
        }
    }

    /// The lines that are such; all of them have `part` somewhere, which spares reading the others as JSON.
    fn all(&self, part: &str, such: impl Fn(&Value) -> bool) -> Vec<Value> {
        let lines = self.0.lines.lock().expect("no panic");
        lines
            .iter()
            .filter(|line| line.contains(part))
            .filter_map(|line| fields(line))
            .filter(such)
            .collect()
    }

    /// Returns when the process has closed its standard error, as it does at its end.
    pub async fn ended(&self) {
        let mut progress = self.0.progress.subscribe();
        let ended = progress.wait_for(|progress| progress.ended);
        within("the process to end", ended)
            .await
            .expect("the log lives on");
    }
}

/// The fields of one line, whether they stand at its top or under `fields`.
fn fields(line: &str) -> Option<Value> {
    let mut line: Value = serde_json::from_str(line).ok()?;
    match line.get_mut("fields").map(Value::take) {
        Some(fields) => Some(fields),
        None => Some(line),
    }
}
