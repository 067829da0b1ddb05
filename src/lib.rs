//! oncegate: a reverse proxy that stands in front of any HTTP API and lets each operation through once.
//!
//! The crate in reading order, which is bottom up; a module imports only from those above it in this list:
//!
//! - [`protocol`]: what a record can be, and the one definition of every transition. Pure.
//! - [`identity`]: who is asking for what: key, scope, fingerprint. Pure.
//! - [`route`]: which route takes a request, and what it asks of it. Pure.
//! - `process`: which process a task belongs to, and what is left to chance: tests decide on both.
//! - [`config`]: the configuration file, lowered into what the program needs.
//! - [`store`], [`upstream`], [`server`], [`telemetry`]: where the world begins: records, sockets, logs.
//! - [`gateway`]: the way of a request. [`admin`]: health, readiness, metrics, and records
//!   for operators.
//! - [`app`]: where the parts are put together. [`cli`]: one file a command.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod identity;
mod process;
pub mod protocol;
pub mod route;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
