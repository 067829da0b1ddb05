//! A corpus of messages that servers read in different ways, each with what becomes of it: refused, with the rule that
//! it breaks, or forwarded as one message that every server understands alike.
//!
//! `messages/` is HTTP/1 byte for byte, `http2/` the header lists of HTTP/2; `read.rs` says how they are written.

#[path = "../support/mod.rs"]
mod support;

mod hold;
mod http2;
mod read;
mod servers;
