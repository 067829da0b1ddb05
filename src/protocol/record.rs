//! What a store holds under a record id.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::op::Origin;
use super::time::Timestamp;

/// The version of the rules that made a record. A record of a newer version is unreadable, never absent.
pub const RULES: u16 = 1;

/// How long a mark stands: longer than a store call may still be under way after its caller gave up.
pub const MARK_KEEP: Duration = Duration::from_secs(60);

/// Under what a record is stored: a keyed hash of namespace, route, scope and key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId(pub [u8; 32]);

impl Hash for RecordId {
    /// Its end: it is a hash already, and maps ask for this several times a request. Whoever spreads ids over several maps
    /// goes by their beginning, which those of one map then have in common.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let part = self.0.last_chunk().expect("an id is longer than this");
        state.write_u64(u64::from_ne_bytes(*part));
    }
}

/// For maps by [`RecordId`]: what is hashed with a secret already is not hashed again.
pub type BuildIdHasher = BuildHasherDefault<IdHasher>;

/// Takes the part of a [`RecordId`] for its hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, part: u64) {
        self.0 = self.0.rotate_left(8) ^ part;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Debug for RecordId {
    /// The first six bytes: enough to tell two apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..6] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A keyed hash of what the client asked for; two requests with one fingerprint are the same request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RecordId(self.0).fmt(f)
    }
}

/// Who may dispatch: 128 random bits, new for each attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(pub u128);

/// Which claim of which owner, and how often it was renewed. Ops that compare it change nothing unless
/// all three match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// Whose claim it was.
    pub owner: Owner,
    /// The number of the claim within one life of the record, from 1.
    pub fence: u64,
    /// How often it was renewed, from 0.
    pub beat: u64,
}

/// One record, whatever its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// What the first request asked for.
    pub fingerprint: Fingerprint,
    /// The version of the rules that made it, see [`RULES`].
    pub rules: u16,
    /// The `id` of the route that it belongs to, so that unresolved records can be told apart by route without
    /// opening them. Empty where the record was made before records bore it, or the request only observed, which nobody
    /// is asked to settle: then there is no `reference` either.
    pub route: Arc<str>,
    /// Key, method, path and the scope's display name, sealed; only the admin API opens it.
    pub reference: Bytes,
    /// The end of its retention: from then on it reads as expired or, where no tombstone was asked for, as absent.
    pub expires_at: Timestamp,
    /// The end of its tombstone, never before `expires_at`: from then on it is absent.
    pub forget_at: Timestamp,
    /// Where the operation stands.
    pub state: State,
}

/// Where an operation stands. *Absent* is the lack of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// An owner is executing.
    Claimed(Claimed),
    /// Sent, or perhaps sent, and no answer is known.
    Unknown(Unknown),
    /// Final until it expires or an operator deletes it.
    Completed(Completed),
    /// A tombstone: the key was used and its answer is gone.
    Expired,
}

/// A claim and its lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claimed {
    /// Owner, fence and beat.
    pub seen: Seen,
    /// How long the claim is good for after each beat.
    pub lease: Duration,
    /// When the owner counts as silent, by the store's clock. A hint for answers, never a permission.
    pub lease_until: Timestamp,
    /// When the owner got it; `None` where the store had lost it meanwhile, or it was made before claims bore this.
    pub claimed_at: Option<Timestamp>,
    /// The unknown attempt before this one, if any.
    pub prior: Option<Unknown>,
}

/// An attempt of which no answer is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unknown {
    /// Owner, fence and beat of the claim that it was.
    pub seen: Seen,
    /// Why the outcome is not known.
    pub cause: Cause,
    /// Since when.
    pub since: Timestamp,
    /// What is known of its course. Nothing is decided by it.
    pub trace: Trace,
}

/// The course of an attempt, for whoever has to settle it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trace {
    /// When it was claimed, where that is known.
    pub claimed_at: Option<Timestamp>,
    /// What its owner saw of the dispatch; nothing where it went silent.
    pub sent: Sent,
}

impl Trace {
    /// When the first byte of the request was given to a socket, where that is known.
    #[must_use]
    pub fn written_at(&self) -> Option<Timestamp> {
        Some(self.claimed_at?.plus(self.sent.written_after?))
    }
}

/// What an owner saw of its dispatch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sent {
    /// From the claim to the first byte of the request that a socket took.
    pub written_after: Option<Duration>,
    /// The status of the answer, where its head came.
    pub status: Option<u16>,
    /// Bytes of the answer's body that came.
    pub bytes_seen: u64,
}

/// Why an outcome is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The owner went silent: it crashed, froze or lost its store.
    LeaseLapsed,
    /// No complete answer within `response_timeout`.
    Timeout,
    /// The connection broke before the head of an answer.
    ConnectionLost,
    /// The answer broke off, or was not HTTP.
    Truncated,
    /// The upstream answered a status that `outcomes.unknown` lists, or that a prior attempt makes unknown.
    Status(u16),
    /// The gateway was stopped before the answer came.
    Drained,
}

impl Cause {
    /// The name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaseLapsed => "lease_lapsed",
            Self::Timeout => "timeout",
            Self::ConnectionLost => "connection_lost",
            Self::Truncated => "truncated",
            Self::Status(_) => "status",
            Self::Drained => "drained",
        }
    }
}

/// A final outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Completed {
    /// Who completed it; nobody where an operator or a probe resolved it, so that a late completion of the
    /// former owner does not read as its repetition.
    pub owner: Option<Owner>,
    /// What the upstream answered.
    pub answer: Answer,
    /// When.
    pub completed_at: Timestamp,
    /// How it came to that. Nothing is decided by it.
    pub begun: Begun,
}

/// Of a completed operation, what its last claim was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Begun {
    /// Its fence: how many attempts there were. `None` where the store had lost the claim.
    pub fence: Option<u64>,
    /// When it was claimed, where that is known.
    pub claimed_at: Option<Timestamp>,
}

/// What is kept of an upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// All of it, to be replayed byte for byte.
    Stored(Arc<Response>),
    /// Only that it came.
    NotStored(NotStored),
    /// All of it, as it is at rest: only a store that holds the key makes or reads it.
    Sealed(Sealed),
}

/// A response that is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sealed {
    /// The id of the key.
    pub key: Arc<str>,
    /// What it is made to.
    pub text: Bytes,
}

/// A recorded response: what is replayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Response {
    /// The status code, 200 to 599.
    pub status: u16,
    /// Header lines in their order, names in lower case; without those that are never recorded ([`Response::keeps`]).
    pub headers: Vec<(String, Bytes)>,
    /// The body's bytes, without transfer coding.
    pub body: Bytes,
    /// The lines of its trailers, as `headers`.
    pub trailers: Vec<(String, Bytes)>,
    /// The span of the attempt that it is the answer to, where that was traced. Nothing is decided by it.
    pub trace: Option<TraceRef>,
}

/// A span of a trace, as W3C Trace Context names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceRef {
    /// The trace's id.
    pub trace_id: [u8; 16],
    /// The span's id within it.
    pub span_id: [u8; 8],
}

impl Response {
    /// A response without trailers, of an attempt that was not traced.
    #[must_use]
    pub fn new(status: u16, headers: Vec<(String, Bytes)>, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body,
            trailers: Vec::new(),
            trace: None,
        }
    }

    /// Whether a line of this name, in lower case, says something about the operation, rather than about the one exchange,
    /// the one client or the moment: no other one is recorded. Lines that concern a connection alone (RFC 9110, section
    /// 7.6.1), and those of our own, are gone before this is asked.
    #[must_use]
    pub fn keeps(name: &str) -> bool {
        const OTHERS: [&str; 10] = [
            "age",
            "alt-svc",
            "date",
            "request-id",
            "server-timing",
            "set-cookie",
            "traceparent",
            "tracestate",
            "trailer",
            "x-request-id",
        ];
        !OTHERS.contains(&name)
            && !name.starts_with("ratelimit")
            && !name.starts_with("x-ratelimit-")
    }

    /// All lines that it holds, those of its trailers too: what they take is counted.
    pub fn lines(&self) -> impl Iterator<Item = &(String, Bytes)> {
        self.headers.iter().chain(&self.trailers)
    }
}

/// Why a response could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NotStored {
    /// Longer than `max_response_body`.
    TooLarge,
    /// A stream without an end of its own (`text/event-stream`).
    Streaming,
    /// No room under `max_buffered` to hold it.
    NoRoom,
}

impl NotStored {
    /// The name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Streaming => "streaming",
            Self::NoRoom => "no_room",
        }
    }
}

/// An owner that has given up and will not dispatch; it stands beside the record, one for each owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Who gave up.
    pub owner: Owner,
    /// Until when the mark stands.
    pub until: Timestamp,
}

impl Record {
    /// What the record is at `now`: itself, a tombstone, or nothing any more.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Option<Self> {
        if now >= self.forget_at {
            return None;
        }
        if now >= self.expires_at {
            self.state = State::Expired;
        }
        Some(self)
    }

    /// What the record is made of besides its state.
    #[must_use]
    pub fn into_origin(self) -> Origin {
        Origin {
            fingerprint: self.fingerprint,
            route: self.route,
            reference: self.reference,
        }
    }

    /// The claim's or the unknown attempt's owner, fence and beat; what an op compares as `seen`.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        match &self.state {
            State::Claimed(claim) => Some(claim.seen),
            State::Unknown(unknown) => Some(unknown.seen),
            State::Completed(_) | State::Expired => None,
        }
    }
}

impl Claimed {
    /// Whether the owner has been silent for its whole lease.
    #[must_use]
    pub fn lapsed(&self, now: Timestamp) -> bool {
        now >= self.lease_until
    }

    /// This claim as the unknown attempt that it is once its owner is given up on.
    #[must_use]
    pub fn as_lapsed(&self) -> Unknown {
        Unknown {
            seen: self.seen,
            cause: Cause::LeaseLapsed,
            since: self.lease_until,
            trace: Trace {
                claimed_at: self.claimed_at,
                sent: Sent::default(),
            },
        }
    }
}
