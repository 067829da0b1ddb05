//! The upstream: it writes every request down before it does anything with it, and does with it what the operation's
//! name and the seed say. What it has done it knows, by the key: it says so to operators, and does not do again what may be
//! sent again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;

use crate::history::{Journal, Sight, What, is_resent};
use crate::support::{Act, Received, ToyUpstream};

/// What the upstream has received, and what it has done for it, where it knows.
#[derive(Default)]
pub struct Books(Mutex<HashMap<String, Option<Charge>>>);

/// What it did for one operation.
#[derive(Clone, Debug)]
pub struct Charge {
    pub number: u64,
    pub payload: String,
    /// What it answers, or would have.
    pub status: u16,
}

impl Books {
    /// What it did under this name; `None` where it has received nothing of the kind, `Some(None)` where it does not know.
    pub fn of(&self, operation: &str) -> Option<Option<Charge>> {
        self.0.lock().expect("no panic").get(operation).cloned()
    }

    fn enter(&self, operation: &str, charge: Option<Charge>) {
        let mut charges = self.0.lock().expect("no panic");
        let entry = charges.entry(operation.to_owned()).or_default();
        *entry = entry.take().or(charge);
    }
}

/// One of the doors of the upstream, for this gateway.
pub fn door(journal: Arc<Journal>, books: Arc<Books>, gateway: usize, seed: u64) -> ToyUpstream {
    let upstream = ToyUpstream::start();
    upstream
        .forgets()
        .always(move |request| act(request, &journal, &books, gateway, seed));
    upstream
}

/// What is done with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Executes it and answers.
    Answers,
    /// Answers, but not at once.
    Slow,
    /// Answers after the gateway's `response_timeout`, before its `late_response` is over.
    Late,
    /// Executes it and never answers.
    Hangs,
    /// Executes it and breaks the connection.
    Resets,
    /// Executes it and answers a part.
    Truncates,
    /// Answers that somebody behind it did not answer.
    Fails,
    /// Answers a failure that is final.
    Declines,
    /// Has no time now, perhaps more than once, and executes it then.
    Busy,
    /// Has received it before, and answers what it would have answered then.
    Repeats,
}

impl Manner {
    /// What the upstream does with this operation.
    pub fn of(operation: &str, seed: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        (operation, seed).hash(&mut hasher);
        match Rng::with_seed(hasher.finish()).u8(0..100) {
            0..=61 => Self::Answers,
            62..=73 => Self::Slow,
            74..=78 => Self::Late,
            79..=82 => Self::Hangs,
            83..=86 => Self::Resets,
            87..=89 => Self::Truncates,
            90..=92 => Self::Fails,
            93..=95 => Self::Declines,
            // What is released begins anew, and its fences with it, which would then say nothing.
            _ if is_resent(operation) => Self::Answers,
            _ => Self::Busy,
        }
    }

    /// The status of its whole answer, 0 where there is none.
    fn status(self, rng: &mut Rng) -> u16 {
        match self {
            Self::Answers | Self::Slow | Self::Late | Self::Repeats => 201,
            Self::Hangs | Self::Resets | Self::Truncates => 0,
            Self::Fails => [502, 503, 504][rng.usize(0..3)],
            Self::Declines => 402,
            Self::Busy => [201, 429, 425][rng.usize(0..3)],
        }
    }
}

fn act(request: &Received, journal: &Journal, books: &Books, gateway: usize, seed: u64) -> Act {
    let scope = request.header("Authorization").unwrap_or_default();
    let scope = scope.trim_start_matches("Bearer ");
    if let Some((_, key)) = request.target.split_once("?key=") {
        return told(&format!("{scope}/{key}"), journal, books);
    }
    let operation = format!("{scope}/{}", request.key());
    let payload = String::from_utf8_lossy(&request.body).into_owned();
    let mut number = journal.number();
    let mut rng = Rng::with_seed(seed ^ number);
    let mut manner = Manner::of(&operation, seed);
    let mut status = manner.status(&mut rng);
    if let Some(before) = books.of(&operation).filter(|_| is_resent(&operation)) {
        // What it did not do then it does now.
        manner = Manner::Repeats;
        (number, status) = before.map_or((number, 201), |done| (done.number, done.status));
    }
    let charge = Charge {
        number,
        payload: payload.clone(),
        status: if status == 0 { 201 } else { status },
    };
    let is_done = !matches!(status, 425..=599);
    books.enter(&operation, is_done.then_some(charge));
    let body = body(&operation, &payload, number);
    let act = format!("{manner:?}");
    journal.note(
        &operation,
        What::Received {
            gateway,
            number,
            payload,
            act,
            status,
        },
    );
    journal.shows(Sight::Received(gateway));
    let answer = || Act::respond(status, &[("Content-Type", "application/json")], &body);
    let mut pause = |from, to| Duration::from_millis(rng.u64(from..to));
    match manner {
        Manner::Answers | Manner::Fails | Manner::Declines | Manner::Busy | Manner::Repeats => {
            answer().after_pause(pause(0, 30))
        }
        Manner::Slow => answer().after_pause(pause(50, 600)),
        Manner::Late => answer().after_pause(pause(1100, 2500)),
        Manner::Hangs => Act::hang(),
        Manner::Resets => Act::reset_after_reading(),
        Manner::Truncates => Act::truncate(201, body.len() + 9, body.as_bytes()),
    }
}

/// What somebody is told who asks what was done.
fn told(operation: &str, journal: &Journal, books: &Books) -> Act {
    let (status, body) = match books.of(operation) {
        Some(Some(charge)) => (200, body(operation, &charge.payload, charge.number)),
        Some(None) => return Act::respond(503, &[], "nobody knows"),
        None => (0, String::new()),
    };
    let says = What::Says {
        status,
        body: body.clone(),
    };
    journal.note(operation, says);
    let status = if status == 0 { 404 } else { status };
    Act::respond(status, &[("Content-Type", "application/json")], body)
}

/// An answer, as the checker reads it: whose it is, for what, and which of the charges.
pub fn body(operation: &str, payload: &str, charge: u64) -> String {
    let payload = serde_json::Value::from(payload);
    format!("{{\"operation\":\"{operation}\",\"payload\":{payload},\"charge\":{charge}}}")
}
