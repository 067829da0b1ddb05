//! What was sent, dispatched and heard, by key, and whether that keeps the promises.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};

use crate::support::{Answer, Received};

/// Everything that the load and its upstream have seen.
#[derive(Default)]
pub struct Books(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    by_key: HashMap<String, Operation>,
    /// How often each kind of request heard what.
    heard: BTreeMap<(&'static str, String), usize>,
    dispatches: usize,
    /// Broken promises.
    faults: Vec<String>,
}

/// One operation.
#[derive(Default)]
struct Operation {
    /// How often the upstream has received it.
    dispatches: usize,
    /// The answer that one client heard, and all others have to hear.
    answer: Option<Digest>,
    /// Whether somebody was told that nobody knows.
    is_unknown: bool,
}

/// An answer, as far as two of them have to be the same: status, length and hash of the body.
type Digest = (u16, usize, u64);

/// Faults that are kept; more of them tell nothing new.
const MAX_FAULTS: usize = 20;

impl Books {
    /// The upstream has received a request.
    pub fn dispatched(&self, request: &Received) {
        let mut pages = self.pages();
        pages.dispatches += 1;
        let key = request.key();
        if key.is_empty() {
            return;
        }
        let operation = pages.by_key.entry(key.clone()).or_default();
        operation.dispatches += 1;
        let dispatches = operation.dispatches;
        if dispatches > 1 {
            pages.fault(format!("{key} was dispatched {dispatches} times"));
        }
        if !String::from_utf8_lossy(&request.body).contains(&key) {
            pages.fault(format!("{key} was dispatched with another's body"));
        }
    }

    /// A client has heard an answer to a request under this key.
    pub fn heard(&self, kind: &'static str, key: &str, answer: &Answer) {
        let mut pages = self.pages();
        let said = answer.idempotency_status();
        pages.count(kind, format!("{} {said}", answer.status));
        let operation = pages.by_key.entry(key.to_owned()).or_default();
        let fault = match (answer.status, said) {
            (201, "executed" | "replayed" | "unrecorded") => operation.answered(answer, said),
            (502 | 504 | 409 | 503, "unknown") => {
                operation.is_unknown = true;
                None
            }
            // Bad requests are those that the load has made bad.
            (400 | 409 | 422 | 502 | 503, "refused") => None,
            // As many connections as may be.
            (503, "") => None,
            _ => Some("an answer that no promise allows"),
        };
        if let Some(fault) = fault {
            pages.fault(format!("{kind} {key}: {fault}: {answer:?}"));
        }
    }

    /// Something was seen that concerns no key.
    pub fn saw(&self, kind: &'static str, what: impl Into<String>) {
        self.pages().count(kind, what.into());
    }

    /// A promise was broken.
    pub fn fault(&self, fault: String) {
        self.pages().fault(fault);
    }

    /// What was seen, as lines.
    pub fn summary(&self) -> String {
        let pages = self.pages();
        let keys = pages.by_key.len();
        let mut lines = format!(
            "{keys} keys, {} requests at the upstream\n",
            pages.dispatches
        );
        for ((kind, heard), count) in &pages.heard {
            writeln!(lines, "  {kind:<12} {heard:<24} {count:>8}").expect("a string takes it");
        }
        lines
    }

    /// Fails the test where a promise was broken, or the load did not meet what it is to meet. `executed`: as the gateway
    /// has counted.
    pub fn are_in_order(&self, executed: u64) {
        let pages = self.pages();
        assert!(pages.faults.is_empty(), "{:#?}", pages.faults);
        let dispatched = pages
            .by_key
            .values()
            .filter(|one| one.dispatches > 0)
            .count();
        let dispatched = dispatched as u64;
        assert!(
            executed <= dispatched,
            "{executed} executed, {dispatched} dispatched"
        );
        for answer in pages.by_key.iter().filter(|(_, one)| one.answer.is_some()) {
            assert_eq!(
                answer.1.dispatches, 1,
                "{} was answered and not dispatched",
                answer.0
            );
        }
        for (kind, heard) in [
            ("new", "201 executed"),
            ("duplicate", "201 replayed"),
            ("join", "201 replayed"),
            ("mismatch", "422 refused"),
            ("http2", "201 executed"),
            ("hang-up", "201 replayed"),
            ("reset", "502 unknown"),
            ("truncated", "502 unknown"),
            ("late", "504 unknown"),
            ("late", "201 replayed"),
            ("stall", "504 unknown"),
            ("stream", "whole"),
            ("unkeyed", "201 unkeyed"),
        ] {
            assert!(
                pages.heard.contains_key(&(kind, heard.to_owned())),
                "no {kind} heard {heard}"
            );
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().expect("no panic")
    }
}

impl Pages {
    fn count(&mut self, kind: &'static str, heard: String) {
        *self.heard.entry((kind, heard)).or_default() += 1;
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < MAX_FAULTS {
            println!("FAULT {fault}");
            self.faults.push(fault);
        }
    }
}

impl Operation {
    /// What is wrong with an answer of the upstream, if something is.
    fn answered(&mut self, answer: &Answer, said: &str) -> Option<&'static str> {
        if self.is_unknown && said == "executed" {
            return Some("executed after somebody was told that nobody knows");
        }
        let mut hasher = DefaultHasher::new();
        answer.body.hash(&mut hasher);
        let answer = (answer.status, answer.body.len(), hasher.finish());
        match &self.answer {
            Some(first) if *first != answer => Some("not what was answered before"),
            Some(_) => None,
            None => {
                self.answer = Some(answer);
                None
            }
        }
    }
}
