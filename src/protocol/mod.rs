//! The protocol: what a record can be, what can be asked of it, and the one definition of every transition.
//!
//! Pure. It knows no IO, no clock and no randomness: the time, owners and fingerprints are arguments. The
//! in-memory and embedded stores call [`apply`()] under their lock or transaction; every other store is a
//! translation of it and is compared with it, verdict by verdict.
//!
//! Reading order: [`Record`] and [`State`], then [`Op`] and [`Verdict`], then [`apply`()] and [`forget`()], then [`Outcomes`].

mod apply;
mod forget;
mod grpc;
#[cfg(test)]
mod matrix;
mod op;
mod outcome;
mod record;
mod time;

pub use apply::{apply, look};
pub use forget::{BadVersion, Version, forget};
pub use grpc::GrpcCode;
pub use op::{Found, Op, Origin, Resolution, Retention, Verdict};
pub use outcome::{BadStatusSet, Outcome, Outcomes, StatusSet};
pub use record::{
    Answer, Begun, BuildIdHasher, Cause, Claimed, Completed, Fingerprint, MARK_KEEP, Mark,
    NotStored, Owner, RULES, Record, RecordId, Response, Sealed, Seen, Sent, State, Trace,
    TraceRef, Unknown,
};
pub use time::Timestamp;
