//! HTTP/1 as it comes over the wire, followed byte by byte before hyper parses it.
//!
//! hyper reads leniently and does not tell what it has passed over: a length beside chunks, two equal lengths, bare
//! line feeds. So the bytes are judged here, message by message, and hyper is only given what was found good: a head
//! when it is whole, a body as it comes, nothing of which is copied unless a head comes in pieces. In the place of a bad
//! head hyper gets [`STAND_IN`] and then nothing more, and whoever answers learns from [`Findings`] what that request
//! was. A body that goes wrong breaks there.
//!
//! What can be told from a parsed request is none of this module's business; nor is HTTP/2.

mod chunks;
mod fault;
mod field;
mod findings;
mod head;
mod host;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::ReadBuf;

pub use fault::Fault;
pub(super) use findings::Findings;
pub(super) use head::{MAX_LINES, begins_head_request};
pub use host::is_plain_host;

use chunks::Chunks;
use findings::Told;
use head::{Head, Section};

/// What hyper is given in the place of a head that is refused; its answer is the refusal, and the connection's last.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// The same for a HEAD: its client takes no body (RFC 9110, section 9.3.2), and hyper sees to that.
const STAND_IN_FOR_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// Bytes that are kept behind a request to change the protocol, until it is answered.
const MAX_BEHIND: usize = super::connection::MAX_HEAD as usize;

/// The bytes of one HTTP/1 connection on their way to hyper.
pub(super) struct Wire {
    place: Place,
    /// Heads that were found good.
    heads: u64,
    /// What came and cannot be given yet.
    held: BytesMut,
    /// What was found good and has not been given yet.
    ready: Bytes,
    findings: Arc<Findings>,
}

/// Where in a connection's bytes the next one is.
enum Place {
    Head(Head),
    /// In a body with so many bytes left.
    Length(u64),
    Chunks(Chunks),
    Trailers(Section),
    /// Behind a request that asked for another protocol and has no answer yet.
    Asked,
    /// In another protocol.
    Tunnel,
    /// Behind a bad head.
    Refused,
    /// Behind what is wrong with a body.
    Broken(Fault),
}

impl Wire {
    /// Of a connection that began with these bytes.
    pub(super) fn new(first: Bytes, findings: Arc<Findings>) -> Self {
        let mut wire = Self {
            place: Place::Head(Head::default()),
            heads: 0,
            held: first.into(),
            ready: Bytes::new(),
            findings,
        };
        wire.look_again();
        wire
    }

    /// Reads as [`tokio::io::AsyncRead`] does, what `poll_socket` reads from the socket.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut poll_socket: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        loop {
            // What is ready is the end of that request, which may be answered before it was read.
            if matches!(self.place, Place::Asked) && self.ready.is_empty() {
                self.ask(cx);
            }
            if !self.ready.is_empty() {
                let count = self.ready.len().min(buf.remaining());
                buf.put_slice(&self.ready[..count]);
                self.ready.advance(count);
                if self.ready.is_empty() {
                    // Also gives its buffer back.
                    self.ready = Bytes::new();
                }
                return Poll::Ready(Ok(()));
            }
            match self.place {
                Place::Broken(fault) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
                // The stand-in's answer ends the connection; nothing else will be read.
                Place::Refused => return Poll::Pending,
                // [`Self::ask`] has left word where to wake this up.
                Place::Asked if self.held.len() >= MAX_BEHIND => return Poll::Pending,
                _ => {}
            }
            let before = buf.filled().len();
            ready!(poll_socket(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.take(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether a fault has ended the connection's requests while the client may go on sending.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.place, Place::Refused | Place::Broken(_))
    }

    /// Takes what was read into `buf` after `before`, and leaves there what hyper may have at once.
    fn take(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if self.held.is_empty() {
            let passed = self.follow(&buf.filled()[before..]);
            if !self.is_over() {
                self.held
                    .extend_from_slice(&buf.filled()[before + passed..]);
            }
            buf.set_filled(before + passed);
        } else {
            self.held.extend_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
            self.look_again();
        }
    }

    /// Looks at what is held. Nothing must be ready.
    fn look_again(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let passed = self.follow(&held);
        let good = held.split_to(passed).freeze();
        if self.is_over() {
            // Behind them comes the stand-in, which is ready by now, or nothing.
            self.ready = [&good[..], &self.ready[..]].concat().into();
        } else {
            self.ready = good;
            if !held.is_empty() {
                self.held = held;
            }
        }
    }

    /// Asks what became of the request to change the protocol.
    fn ask(&mut self, cx: &Context<'_>) {
        self.place = match self.findings.poll_told(cx) {
            Told::Nothing => return,
            Told::Tunnel => Place::Tunnel,
            Told::Http => Place::Head(Head::default()),
        };
        self.look_again();
    }

    /// Follows the messages through `bytes` and returns how many of them are found good; the rest is to be shown again
    /// together with what comes behind it, unless there was a fault.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            match self.step(rest) {
                Ok(0) => return passed,
                Ok(count) => passed += count,
                Err(stop) => {
                    self.stop(stop.fault, rest);
                    return passed + stop.passed;
                }
            }
        }
    }

    /// The next part of a message; how many bytes it has, and 0 where more have to come.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match &mut self.place {
            Place::Head(head) => {
                let Some(length) = head.read(bytes).map_err(Stop::at_once)? else {
                    return Ok(0);
                };
                self.heads += 1;
                if head.asks() {
                    self.findings.asked(self.heads);
                }
                self.place = match head.length() {
                    Some(0) => self.message_over(),
                    Some(length) => Place::Length(length),
                    None => Place::Chunks(Chunks::default()),
                };
                Ok(length)
            }
            Place::Length(left) => {
                let count =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= count as u64;
                if *left == 0 {
                    self.place = self.message_over();
                }
                Ok(count)
            }
            Place::Chunks(chunks) => {
                let (count, is_over) = chunks.read(bytes)?;
                if is_over {
                    self.place = Place::Trailers(Section::default());
                }
                Ok(count)
            }
            Place::Trailers(section) => {
                let length = section.read_trailers(bytes).map_err(Stop::at_once)?;
                if length.is_some() {
                    self.place = self.message_over();
                }
                Ok(length.unwrap_or(0))
            }
            Place::Tunnel => Ok(bytes.len()),
            Place::Asked | Place::Refused | Place::Broken(_) => Ok(0),
        }
    }

    fn message_over(&self) -> Place {
        if self.findings.has_asked(self.heads) {
            Place::Asked
        } else {
            Place::Head(Head::default())
        }
    }

    /// Nothing of what comes now is a request, nor are these `bytes`, where they should begin one.
    fn stop(&mut self, fault: Fault, bytes: &[u8]) {
        if matches!(self.place, Place::Head(_)) {
            self.findings.refuse(self.heads + 1, fault);
            self.ready = Bytes::from_static(match begins_head_request(bytes) {
                true => STAND_IN_FOR_HEAD,
                false => STAND_IN,
            });
            self.place = Place::Refused;
        } else {
            self.findings.break_body(self.heads, fault);
            self.place = Place::Broken(fault);
        }
        self.held = BytesMut::new();
    }
}

/// A fault, and how many bytes before it are good.
struct Stop {
    passed: usize,
    fault: Fault,
}

impl Stop {
    fn at_once(fault: Fault) -> Self {
        Self { passed: 0, fault }
    }
}

#[cfg(test)]
mod tests;
