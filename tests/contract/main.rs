//! The contract with clients, from outside: the real binary, real sockets, a scripted upstream.
//!
//! Each test is a sentence of the contract. What they share is in `tests/support`.

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod answers;
mod balancing;
mod calls;
mod cors;
mod crashes;
mod disk;
mod drain;
mod duplicates;
mod edge;
mod expiry;
mod forwarding;
mod identity;
mod keys;
mod messages;
mod metrics;
mod observing;
mod operators;
mod outcomes;
mod passing;
mod probing;
mod problems;
mod relistening;
mod reloading;
mod resending;
mod rogue_upstreams;
mod sealed;
mod secure_upstreams;
mod shared_upstreams;
mod sockets;
mod traces;
mod trailers;
mod tunnels;
mod unresolved;
mod upstreams;
