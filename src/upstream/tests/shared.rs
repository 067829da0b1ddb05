//! HTTP/2: what requests share, and where the line between sent and not sent is there. The upstream is a few frames by
//! hand, where its manners are what matters, and hyper's server where bodies are.

mod bodies;
mod connections;
mod hostile;
mod liveness;
mod unsent;

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: &[u8] = &[0x88];
/// `:status: 103`, as a literal.
const STATUS_103: &[u8] = &[0x08, 3, b'1', b'0', b'3'];

/// The other end of a connection, frame by frame.
struct Peer {
    socket: TcpStream,
    answers_pings: bool,
    pings: u32,
}

struct Frame2 {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Peer {
    /// Accepts a connection; `settings` are the payload of the first frame.
    async fn accept(origin: &Origin, settings: &[u8]) -> Self {
        let socket = origin.accept().await;
        let peer = Self::over(socket, settings).await;
        peer.expect("a connection that goes on")
    }

    async fn over(socket: TcpStream, settings: &[u8]) -> Option<Self> {
        let mut peer = Self {
            socket,
            answers_pings: true,
            pings: 0,
        };
        let mut preface = [0; 24];
        peer.socket.read_exact(&mut preface).await.ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let settings = frame(SETTINGS, 0, 0, settings);
        peer.socket.write_all(&settings).await.ok()?;
        Some(peer)
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let frame = frame(kind, flags, stream, payload);
        self.socket.write_all(&frame).await.unwrap();
    }

    /// The next frame that is about a stream, or the end.
    async fn next(&mut self) -> Option<Frame2> {
        let reading = timeout(FOREVER, self.read()).await;
        reading.expect("a frame, or the end")
    }

    /// The same, whenever it comes.
    async fn read(&mut self) -> Option<Frame2> {
        loop {
            let mut head = [0; 9];
            self.socket.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.socket.read_exact(&mut payload).await.ok()?;
            let read = Frame2 {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            };
            let reply = match read.kind {
                SETTINGS if read.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                PING if read.flags & ACK == 0 => {
                    self.pings += 1;
                    if !self.answers_pings {
                        continue;
                    }
                    frame(PING, ACK, 0, &read.payload)
                }
                SETTINGS | PING | WINDOW_UPDATE | GOAWAY => continue,
                _ => return Some(read),
            };
            self.socket.write_all(&reply).await.ok()?;
        }
    }

    /// Reads a request, with its body, and says on which stream it is.
    async fn request(&mut self) -> u32 {
        let mut stream = None;
        loop {
            let frame = self.next().await.expect("a request");
            let opened = *stream.get_or_insert(frame.stream);
            assert_eq!(frame.stream, opened, "two requests at once");
            assert_eq!(
                frame.kind,
                if stream.is_none() {
                    HEADERS
                } else {
                    frame.kind
                }
            );
            if frame.flags & END_STREAM != 0 {
                return opened;
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS, stream, STATUS_200).await;
        self.write(DATA, END_STREAM, stream, b"ok").await;
    }

    async fn reset(&mut self, stream: u32, reason: u32) {
        self.write(RST_STREAM, 0, stream, &reason.to_be_bytes())
            .await;
    }

    /// No stream above `last` was or will be processed.
    async fn say_goodbye(&mut self, last: u32) {
        self.write(GOAWAY, 0, 0, &goodbye(last)).await;
    }

    /// The reset of this stream comes next.
    async fn is_reset(&mut self, stream: u32) -> u32 {
        loop {
            let frame = self.next().await.expect("a reset");
            if frame.kind == RST_STREAM && frame.stream == stream {
                return u32::from_be_bytes(frame.payload.try_into().unwrap());
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The payload of a GOAWAY without a reason.
fn goodbye(last: u32) -> Vec<u8> {
    [last.to_be_bytes(), [0; 4]].concat()
}

/// SETTINGS_MAX_CONCURRENT_STREAMS.
fn max_streams(count: u32) -> Vec<u8> {
    [&[0, 3][..], &count.to_be_bytes()].concat()
}

fn shared(origins: &[&Origin]) -> Arc<Upstream> {
    let endpoints = origins.iter().map(|origin| origin.endpoint()).collect();
    with(config(endpoints))
}

fn with(mut config: UpstreamConfig) -> Arc<Upstream> {
    config.protocol = UpstreamProtocol::Http2;
    config.max_in_flight = 64;
    Upstream::new(&config)
}

async fn status(upstream: &Arc<Upstream>) -> Result<u16, SendError> {
    let response = send(upstream).await?;
    let status = response.status().as_u16();
    read_all(response).await.unwrap();
    Ok(status)
}
