//! An HTTP/2 client that keeps to no rule: frames by hand.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::leaves_nothing;
use crate::support::frames::{
    ACK, GOAWAY, PING, PREFACE, SETTINGS, payload_length, push_field, push_frame,
};
use crate::support::{Gateway, until};

/// Connections that flood at a time.
pub const ATTACKERS: usize = 4;

/// What floods may take of memory, in bytes: for each connection 128 streams with a head, or a piece of an answer, of 64 KiB,
/// a window of 1 MiB, and as much again for connections to the upstream and the allocator. Measured were 44 MiB where nobody
/// takes 400 answers, and 21 MiB elsewhere.
pub const MOST_BYTES: u64 = 72 << 20;

/// Counts those that are closed for it.
pub const FLOODS: &str = "oncegate_http2_floods_total";

/// The code `CANCEL` (RFC 9113, section 7).
pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Waits until all is over, and the processor at rest.
pub async fn comes_to_rest(gateway: &Gateway) {
    leaves_nothing(gateway).await;
    until("the processor to rest", || async {
        let before = gateway.processor_ticks();
        tokio::time::sleep(Duration::from_millis(200)).await;
        (gateway.processor_ticks() - before <= 4).then_some(())
    })
    .await;
}

/// A client that keeps to no rule, and reads what it is told.
pub struct Attacker {
    writes: OwnedWriteHalf,
    heard: mpsc::Receiver<Heard>,
}

/// What an attacker may have been told and not listened to: more answers than it gets before its end.
const MOST_HEARD: usize = 8192;

/// What tells an attacker something.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The answer to a PING.
    Pong,
    /// The error of a GOAWAY.
    Goodbye(u32),
}

impl Attacker {
    pub async fn begin(address: SocketAddr) -> Self {
        Self::begin_with(address, b"").await
    }

    /// With these settings.
    pub async fn begin_with(address: SocketAddr, settings: &[u8]) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (reads, mut writes) = socket.into_split();
        let mut bytes = PREFACE.to_vec();
        push_frame(&mut bytes, SETTINGS, 0, 0, settings);
        writes.write_all(&bytes).await.expect("the gateway reads");
        let (tell, heard) = mpsc::channel(MOST_HEARD);
        tokio::spawn(listen(reads, tell));
        Self { writes, heard }
    }

    /// Whether the connection is still there, as far as is known.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        !self.heard.is_closed() && self.writes.write_all(bytes).await.is_ok()
    }

    /// Waits until all that was sent has been looked at; false where the connection has ended.
    pub async fn is_seen(&mut self) -> bool {
        let mut ping = Vec::new();
        push_frame(&mut ping, PING, 0, 0, b"all read");
        self.send(&ping).await && self.heard.recv().await == Some(Heard::Pong)
    }

    /// Waits for the end, and returns what was said before it: a client that still sends may be reset and not hear it.
    pub async fn ended(mut self) -> Option<u32> {
        let mut said = None;
        while let Some(heard) = self.heard.recv().await {
            if let Heard::Goodbye(code) = heard {
                said = Some(code);
            }
        }
        said
    }
}

/// Reads frames until the connection ends.
async fn listen(mut socket: OwnedReadHalf, tell: mpsc::Sender<Heard>) {
    let mut head = [0; 9];
    while socket.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; payload_length(&head)];
        if socket.read_exact(&mut payload).await.is_err() {
            return;
        }
        let heard = match (head[3], head[4]) {
            (PING, ACK) => Heard::Pong,
            (GOAWAY, _) => {
                let code = payload[4..8].try_into().expect("four bytes");
                Heard::Goodbye(u32::from_be_bytes(code))
            }
            _ => continue,
        };
        // The attacker may have gone.
        let _ = tell.try_send(heard);
    }
}

/// The client's stream of this number, from 0.
pub fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// The fields of a request that passes.
pub fn passing(method: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", "/x"),
        (":authority", "a.example"),
    ] {
        push_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// The fields of a payment under this key.
pub fn paying(key: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/payments"),
        (":authority", "a.example"),
        ("authorization", "Bearer alice"),
        ("idempotency-key", key),
    ] {
        push_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

/// Many of one frame.
pub fn frames(count: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        push_frame(&mut bytes, kind, flags, stream, payload);
    }
    bytes
}
