//! Upstreams of HTTP/2 without manners, by hand: what they have begun to answer is never sent again, whatever they say
//! about it afterwards, and what they turned away is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEAD, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    payload_length, push_field, push_frame,
};
use crate::support::{Gateway, Http2, Problem, Request, Setup, payment};

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const PUSH_PROMISE: u8 = 5;

/// One answer, frame by frame.
#[derive(Clone, Default)]
struct Reply {
    frames: Vec<Frame>,
    hangs_up: bool,
}

#[derive(Clone)]
enum Frame {
    /// On the request's stream.
    Own(u8, u8, Vec<u8>),
    /// A GOAWAY that says of so many streams before this one that they were the last.
    Goodbye(u32),
}

impl Reply {
    fn head(self, flags: u8, lines: &[(&str, &str)]) -> Self {
        let mut block = Vec::new();
        for (name, value) in lines {
            push_field(&mut block, name.as_bytes(), value.as_bytes());
        }
        self.frame(HEADERS, flags | END_HEADERS, &block)
    }

    fn status(self, status: &str) -> Self {
        self.head(0, &[(":status", status)])
    }

    fn data(self, flags: u8, bytes: &[u8]) -> Self {
        self.frame(DATA, flags, bytes)
    }

    fn reset(self, reason: u32) -> Self {
        self.frame(RST_STREAM, 0, &reason.to_be_bytes())
    }

    fn goodbye(mut self, before: u32) -> Self {
        self.frames.push(Frame::Goodbye(before));
        self
    }

    fn hang_up(mut self) -> Self {
        self.hangs_up = true;
        self
    }

    fn frame(mut self, kind: u8, flags: u8, payload: &[u8]) -> Self {
        self.frames.push(Frame::Own(kind, flags, payload.to_vec()));
        self
    }

    fn on(&self, stream: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in &self.frames {
            match frame {
                Frame::Own(kind, flags, payload) => {
                    push_frame(&mut bytes, *kind, *flags, stream, payload);
                }
                Frame::Goodbye(before) => {
                    let last = stream.saturating_sub(2 * before).to_be_bytes();
                    push_frame(&mut bytes, GOAWAY, 0, 0, &[last, [0; 4]].concat());
                }
            }
        }
        bytes
    }
}

fn reply() -> Reply {
    Reply::default()
}

fn paid() -> Reply {
    reply().status("201").data(END_STREAM, b"paid")
}

/// Answers each request, once it is whole, with the next reply, and with a payment where there is none.
struct Rogue {
    address: SocketAddr,
    script: Arc<Script>,
    task: AbortHandle,
}

#[derive(Default)]
struct Script {
    replies: Mutex<VecDeque<Reply>>,
    requests: Mutex<usize>,
}

impl Rogue {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let script = Arc::new(Script::default());
        let served = Arc::clone(&script);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&served)));
            }
        });
        Self {
            address,
            script,
            task: task.abort_handle(),
        }
    }

    fn next(&self, reply: Reply) {
        self.script.replies.lock().unwrap().push_back(reply);
    }

    /// Requests that were read to their end.
    fn requests(&self) -> usize {
        *self.script.requests.lock().unwrap()
    }

    async fn gateway(&self) -> Gateway {
        self.setup().start().await
    }

    fn setup(&self) -> Setup {
        Setup::payments_at(&format!("http://{}", self.address)).upstream("protocol = \"http2\"")
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Script>) -> Option<()> {
    let mut preface = [0; PREFACE.len()];
    socket.read_exact(&mut preface).await.ok()?;
    let mut settings = Vec::new();
    push_frame(&mut settings, SETTINGS, 0, 0, &[]);
    socket.write_all(&settings).await.ok()?;
    loop {
        let mut head = [0; HEAD];
        socket.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; payload_length(&head)];
        socket.read_exact(&mut payload).await.ok()?;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut bytes = Vec::new();
        let mut hangs_up = false;
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let echo = if kind == PING { &payload[..] } else { &[] };
                push_frame(&mut bytes, kind, ACK, 0, echo);
            }
            HEADERS | DATA if flags & END_STREAM != 0 => {
                *script.requests.lock().unwrap() += 1;
                let reply = script.replies.lock().unwrap().pop_front();
                let reply = reply.unwrap_or_else(paid);
                bytes = reply.on(stream);
                hangs_up = reply.hangs_up;
            }
            _ => {}
        }
        socket.write_all(&bytes).await.ok()?;
        if hangs_up {
            return None;
        }
    }
}

#[tokio::test]
async fn what_an_upstream_has_begun_to_answer_is_never_sent_again() {
    let rogue = Rogue::start().await;
    let gateway = rogue.gateway().await;
    let large = "x".repeat(15_000);
    let mut huge = reply().status("201");
    for _ in 0..10 {
        huge = huge.frame(HEADERS, 0, b"");
    }
    let faults = [
        ("hint, refused", reply().status("103").reset(REFUSED_STREAM)),
        ("hint, goodbye", reply().status("103").goodbye(1)),
        ("head, refused", reply().status("201").reset(REFUSED_STREAM)),
        ("head, goodbye", reply().status("201").goodbye(1).hang_up()),
        (
            "half, refused",
            reply().status("201").data(0, b"pa").reset(REFUSED_STREAM),
        ),
        (
            "half, goodbye",
            reply().status("201").data(0, b"pa").goodbye(1).hang_up(),
        ),
        (
            "half, no error",
            reply().status("201").data(0, b"pa").reset(NO_ERROR),
        ),
        ("goodbye, hang-up", reply().goodbye(0).hang_up()),
        (
            "a goodbye at it, then one before it, after a hint",
            reply().status("103").goodbye(0).goodbye(1),
        ),
        ("hang-up", reply().hang_up()),
        ("data alone", reply().data(END_STREAM, b"paid")),
        (
            "push",
            reply().frame(PUSH_PROMISE, END_HEADERS, &[0, 0, 0, 2, 0x82]),
        ),
        ("head twice", reply().status("201").status("201")),
        (
            "two lengths",
            reply()
                .head(
                    0,
                    &[
                        (":status", "201"),
                        ("content-length", "4"),
                        ("content-length", "5"),
                    ],
                )
                .data(END_STREAM, b"paid"),
        ),
        (
            "too short",
            reply()
                .head(0, &[(":status", "201"), ("content-length", "5")])
                .data(END_STREAM, b"paid"),
        ),
        (
            "too long",
            reply()
                .head(0, &[(":status", "201"), ("content-length", "3")])
                .data(END_STREAM, b"paid"),
        ),
        (
            "chunked",
            reply()
                .head(0, &[(":status", "201"), ("transfer-encoding", "chunked")])
                .data(END_STREAM, b"paid"),
        ),
        ("no status", reply().head(END_STREAM, &[("x-a", "b")])),
        (
            "switch",
            reply()
                .status("101")
                .status("201")
                .data(END_STREAM, b"paid"),
        ),
        ("garbage", reply().frame(HEADERS, END_HEADERS, &[0xff; 20])),
        ("open head", huge),
        (
            "large trailers",
            (0..10).fold(reply().status("201").data(0, b"paid"), |reply, _| {
                reply.head(0, &[("x-a", &large)])
            }),
        ),
    ];
    for (number, (name, fault)) in faults.into_iter().enumerate() {
        println!("{name}");
        rogue.next(fault);
        let first = gateway
            .send(&payment(name.replace([' ', ','], "-").as_str()))
            .await;
        first.refuses(Problem::FAILED);
        let again = gateway
            .send(&payment(name.replace([' ', ','], "-").as_str()))
            .await;
        again.refuses(Problem::OUTCOME_UNKNOWN);
        assert_eq!(rogue.requests(), number + 1, "{name}");
    }
    // And it goes on.
    gateway.send(&payment("sound")).await.is(201, "executed");
}

#[tokio::test]
async fn what_an_upstream_turned_away_is_sent_again() {
    let rogue = Rogue::start().await;
    let gateway = rogue.gateway().await;
    rogue.next(reply().reset(REFUSED_STREAM));
    gateway
        .send(&payment("refused"))
        .await
        .refuses(Problem::UNREACHABLE);
    gateway.send(&payment("refused")).await.is(201, "executed");
    assert_eq!(rogue.requests(), 2);
    // A goodbye in two steps, as servers say it that want to lose nothing.
    rogue.next(reply().goodbye(0).goodbye(1));
    gateway.send(&payment("left")).await.is(201, "executed");
    assert_eq!(rogue.requests(), 4);
    for key in ["refused", "left"] {
        gateway.send(&payment(key)).await.is(201, "replayed");
    }
    assert_eq!(rogue.requests(), 4);
}

/// Answers without a body that have trailers all the same, and the next answer on the same connection.
#[tokio::test]
async fn trailers_behind_an_answer_without_a_body_confuse_nobody() {
    let rogue = Rogue::start().await;
    let gateway = rogue.setup().rest_passes().start().await;
    let http2 = Http2::open(gateway.address).await;
    let trailing = |status| reply().status(status).head(END_STREAM, &[("x-sum", "7")]);
    let wants = |request: Request| request.header("TE", "trailers").header("Connection", "TE");
    for status in ["204", "304", "200"] {
        for (key, said) in [("a", "executed"), ("a", "replayed"), ("a", "replayed")] {
            if said == "executed" {
                rogue.next(trailing(status));
            }
            let payment = payment(&format!("{key}-{status}"));
            let mut client = gateway.connect().await;
            for answer in [
                client.send(&wants(payment.clone())).await,
                http2.send(&payment).await,
            ] {
                assert_eq!(answer.status.to_string(), status, "{answer:?}");
                assert!(answer.body.is_empty() && answer.complete, "{answer:?}");
            }
            let next = client
                .send(&crate::support::payment(&format!("next-{status}")))
                .await;
            assert_eq!(next.text(), "paid");
        }
        for method in ["HEAD", "GET"] {
            let mut client = gateway.connect().await;
            rogue.next(trailing(status));
            let answer = client.send(&wants(Request::new(method, "/"))).await;
            assert_eq!(answer.status.to_string(), status, "{answer:?}");
            rogue.next(trailing(status));
            let answer = http2.send(&Request::new(method, "/")).await;
            assert_eq!(answer.status.to_string(), status, "{answer:?}");
            assert_eq!(client.send(&Request::get("/next")).await.text(), "paid");
        }
    }
}
