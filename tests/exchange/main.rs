//! The exchange under a faulty store: the gateway in this process, over real sockets, between a scripted upstream
//! and a scripted store.
//!
//! Each test is a sentence. It makes the store fail in one way and looks at what the client hears, at what the
//! upstream was sent, at what the record says and at what was counted. `store` and `rig` are the harness; the rest
//! of it is in `tests/support`.

#[path = "../support/mod.rs"]
mod support;

mod rig;
mod store;

mod chaos;
mod claims;
mod endings;
mod expiry;
mod hangups;
mod losses;
mod observing;
mod priors;
mod probing;
mod recording;
mod resending;
mod waiting;
