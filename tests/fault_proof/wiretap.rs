//! What passes a wire between a gateway and the upstream: which operation's request leaves, and that an answer comes
//! back. A request counts from its head on, whether or not all of it arrives.

use std::sync::{Arc, Mutex};

use crate::history::{Journal, What};

/// The ear on one connection.
pub struct Wiretap {
    journal: Arc<Journal>,
    gateway: usize,
    line: Mutex<Line>,
}

/// How far the connection has come.
#[derive(Default)]
struct Line {
    /// A head that is not whole yet.
    head: Vec<u8>,
    /// Bytes of the body that are still to come.
    body: usize,
    /// Whose answer is to come.
    asked: Option<String>,
}

impl Wiretap {
    pub fn new(journal: Arc<Journal>, gateway: usize) -> Self {
        let line = Mutex::default();
        Self {
            journal,
            gateway,
            line,
        }
    }

    /// These bytes come from the gateway.
    pub fn up(&self, mut bytes: &[u8]) {
        let mut line = self.line.lock().expect("no panic");
        while !bytes.is_empty() {
            let of_body = line.body.min(bytes.len());
            line.body -= of_body;
            bytes = &bytes[of_body..];
            let [byte, rest @ ..] = bytes else {
                return;
            };
            line.head.push(*byte);
            bytes = rest;
            if line.head.ends_with(b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&std::mem::take(&mut line.head)).into_owned();
                let length = value(&head, "content-length").unwrap_or_default();
                line.body = length.parse().unwrap_or(0);
                // What asks is no dispatch.
                if !head.starts_with("POST ") {
                    continue;
                }
                let operation = operation(&head);
                let gateway = self.gateway;
                let fence = value(&head, "oncegate-fence").and_then(|fence| fence.parse().ok());
                self.journal
                    .note(&operation, What::Leaves { gateway, fence });
                line.asked = Some(operation);
            }
        }
    }

    /// These come from the upstream.
    pub fn down(&self, bytes: &[u8]) {
        let Some(operation) = self.line.lock().expect("no panic").asked.take() else {
            return;
        };
        let status = std::str::from_utf8(bytes.get(9..12).unwrap_or_default());
        let status = status.ok().and_then(|status| status.parse().ok());
        let (gateway, status) = (self.gateway, status.unwrap_or(0));
        self.journal
            .note(&operation, What::Returns { gateway, status });
    }
}

/// `SCOPE/KEY` of a request.
fn operation(head: &str) -> String {
    let scope = value(head, "authorization").unwrap_or_default();
    let scope = scope.trim_start_matches("Bearer ");
    let key = value(head, "idempotency-key").unwrap_or_default();
    format!("{scope}/{key}")
}

/// A header's value.
fn value<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(wanted).then(|| value.trim())
    })
}
