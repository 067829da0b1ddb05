//! What happened in a run, as lines of JSON in three files: what clients sent and heard, what the wire and the upstream
//! saw, and what the nemesis did. The checker reads nothing else.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Sights that a nemesis may be behind with before it misses some, which it may.
const SIGHTS: usize = 64;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since the run began.
    pub at: u64,
    /// Which operation: `SCOPE/KEY`; empty for a fault.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operation: String,
    #[serde(flatten)]
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A client sends a request.
    Sends {
        request: u64,
        client: String,
        gateway: usize,
        payload: String,
    },
    /// A client hears the whole answer to it.
    Hears { request: u64, heard: Heard },
    /// A client hears nothing, or not all of an answer.
    HearsNothing { request: u64, why: String },
    /// The head of a request passes the wire between a gateway and the upstream.
    Leaves {
        gateway: usize,
        /// `Oncegate-Fence`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<u64>,
    },
    /// The beginning of an answer passes it.
    Returns { gateway: usize, status: u16 },
    /// The upstream has received a whole request, and does this with it.
    Received {
        gateway: usize,
        /// The charge that it makes, or has made before.
        number: u64,
        payload: String,
        act: String,
        /// What it answers in the end, 0 for nothing whole.
        status: u16,
    },
    /// An operator, or the upstream when it is probed, settles it: by this answer, or (status 0) as never done.
    Says { status: u16, body: String },
    /// The gateway says that it is settled so.
    Settled { status: u16, body: String },
    /// The nemesis begins a fault.
    Begins { fault: u64, name: String, on: On },
    /// That fault is over.
    Ends { fault: u64 },
    /// From now on there are no faults, and every operation is asked for once more.
    Audit,
}

/// An answer, as far as promises speak of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    pub status: u16,
    /// `Idempotency-Status`.
    pub said: String,
    /// The last part of a refusal's type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// A refusal's `operation_state`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub safe_new_key: bool,
    /// The body, unless it is a refusal's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// What a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// A gateway's process.
    Gateway(usize),
    /// The wire between a gateway and the upstream.
    Link(usize),
    /// The wire between gateways and a part of the store.
    StoreLink,
    /// A server of the store: what it acknowledged last and no replica has may go with it.
    StoreServer,
    /// All of the store.
    StoreAway,
    /// Somebody's wall clock, or what servers can recompute.
    Harmless,
}

/// What a nemesis may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The upstream has a request of this gateway.
    Received(usize),
    /// A client has heard that its request was executed, and recorded.
    Executed(usize),
}

/// Keys of operations that may be sent again, to an upstream that recognises them, begin with this.
pub const RESENT: &str = "transfer-";

/// Those of operations that the upstream is asked about, with this.
pub const PROBED: &str = "refund-";

/// Whether an operation (`SCOPE/KEY`) may be sent again.
pub fn is_resent(operation: &str) -> bool {
    let key = operation.split('/').nth(1);
    key.is_some_and(|key| key.starts_with(RESENT))
}

/// Where everything is written down.
pub struct Journal {
    begun: Instant,
    folder: PathBuf,
    clients: Mutex<File>,
    upstream: Mutex<File>,
    faults: Mutex<File>,
    numbers: AtomicU64,
    sights: broadcast::Sender<Sight>,
}

const FILES: [&str; 3] = ["clients.jsonl", "upstream.jsonl", "faults.jsonl"];

impl Journal {
    pub fn begin(folder: &Path) -> Self {
        let file = |name: &str| Mutex::new(File::create(folder.join(name)).expect("a file"));
        let [clients, upstream, faults] = FILES.map(file);
        Self {
            begun: Instant::now(),
            folder: folder.to_owned(),
            clients,
            upstream,
            faults,
            numbers: AtomicU64::new(0),
            sights: broadcast::Sender::new(SIGHTS),
        }
    }

    /// Where its files are, and others that tell of the run may be put.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A number that nothing else in this run has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes an event down. What the upstream received is on disk when this returns.
    pub fn note(&self, operation: &str, what: What) {
        let at = u64::try_from(self.begun.elapsed().as_micros()).expect("a short run");
        let (file, is_synced) = match &what {
            What::Sends { .. } | What::Hears { .. } | What::HearsNothing { .. } => {
                (&self.clients, false)
            }
            What::Received { .. } => (&self.upstream, true),
            What::Leaves { .. }
            | What::Returns { .. }
            | What::Says { .. }
            | What::Settled { .. } => (&self.upstream, false),
            What::Begins { .. } | What::Ends { .. } | What::Audit => (&self.faults, false),
        };
        let event = Event {
            at,
            operation: operation.to_owned(),
            what,
        };
        let mut line = serde_json::to_vec(&event).expect("it can be written");
        line.push(b'\n');
        let mut file = file.lock().expect("no panic");
        file.write_all(&line).expect("room on the disk");
        if is_synced {
            file.sync_data().expect("a disk");
        }
    }

    /// Begins a fault; [`Self::ends`] takes the number.
    pub fn begins(&self, name: &str, on: On) -> u64 {
        let (fault, name) = (self.number(), name.to_owned());
        self.note("", What::Begins { fault, name, on });
        fault
    }

    pub fn ends(&self, fault: u64) {
        self.note("", What::Ends { fault });
    }

    /// Tells whoever waits for it.
    pub fn shows(&self, sight: Sight) {
        // Mostly nobody does.
        let _ = self.sights.send(sight);
    }

    pub fn sights(&self) -> broadcast::Receiver<Sight> {
        self.sights.subscribe()
    }
}

/// Reads the files of a run, in the order of what happened.
pub fn read(folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    for name in FILES {
        let file = File::open(folder.join(name)).expect("a file of a run");
        for line in BufReader::new(file).lines() {
            let line = line.expect("a line");
            events.push(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}")));
        }
    }
    events.sort_by_key(|event: &Event| event.at);
    events
}

impl fmt::Display for Event {
    /// For people, one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.at / 1_000_000, self.at % 1_000_000);
        write!(f, "{seconds:>5}.{micros:06}  ")?;
        match &self.what {
            What::Sends {
                request,
                client,
                gateway,
                payload,
            } => {
                write!(
                    f,
                    "{client} sends request {request} ({payload}) to gateway {gateway}"
                )
            }
            What::Hears { request, heard } => write!(f, "request {request} hears {heard}"),
            What::HearsNothing { request, why } => {
                write!(f, "request {request} hears nothing: {why}")
            }
            What::Leaves { gateway, fence } => {
                write!(f, "DISPATCH leaves gateway {gateway}")?;
                fence.map_or(Ok(()), |fence| write!(f, " with fence {fence}"))
            }
            What::Returns { gateway, status } => {
                write!(f, "an answer goes back to gateway {gateway}: {status}")
            }
            What::Received {
                gateway,
                number,
                act,
                status,
                ..
            } => {
                write!(
                    f,
                    "upstream has it from gateway {gateway} as charge {number}: {act} ({status})"
                )
            }
            What::Says { status: 0, .. } => {
                write!(f, "somebody who knows says that it was never done")
            }
            What::Says { status, body } => write!(f, "somebody who knows says {status} {body}"),
            What::Settled { .. } => write!(f, "that is recorded"),
            What::Begins { fault, name, .. } => write!(f, "fault {fault} begins: {name}"),
            What::Ends { fault } => write!(f, "fault {fault} ends"),
            What::Audit => write!(f, "the audit begins"),
        }
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.said)?;
        if !self.slug.is_empty() {
            write!(f, ", {}, operation {}", self.slug, self.state)?;
        }
        if self.safe_new_key {
            write!(f, ", safe_new_key")?;
        }
        write!(f, " {}", self.body)
    }
}
