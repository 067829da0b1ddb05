//! A reverse proxy that stands in front of any HTTP API and lets each operation through once.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod admin;
pub mod protocol;
pub mod telemetry;
