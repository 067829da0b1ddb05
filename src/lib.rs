//! oncegate: a reverse proxy that lets each API operation through once.

pub mod config;
pub mod identity;
pub mod protocol;
pub mod route;
