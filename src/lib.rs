//! oncegate: a reverse proxy that lets each API operation through once.

pub mod identity;
pub mod protocol;
pub mod route;
