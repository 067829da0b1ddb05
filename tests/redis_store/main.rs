//! The store on real servers: what it says is what the protocol says, in one round trip, and what a server that is
//! full, frozen, gone, emptied or another one makes of it.

mod cluster;
#[path = "../conformance/mod.rs"]
mod conformance;
mod cost;
mod cut;
mod failover;
mod gateways;
mod hints;
mod identity;
mod keys;
mod losses;
mod mid_exchange;
mod network;
mod operators;
mod probing;
mod replicas;
mod rig;
mod rights;
mod secrets;
mod sentinel;
mod single;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod trouble;
