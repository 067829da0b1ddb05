//! What clients do: well-behaved ones, unlucky ones and bad ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::books::Books;
use crate::support::{Answer, Connection, Http2, Request, payment, within};
use crate::upstream::{ACT, LARGE, PIECE, Wanted};

/// The longest pause between two operations of a worker, in milliseconds.
const PAUSE_MS: u64 = 30;

/// How long a client that takes nothing stays: longer than `body_idle`.
const SLOW: Duration = Duration::from_millis(1500);

/// How often, and how many times, a client asks again for what became of an operation: for long enough to hear of every
/// late answer, and not until the record expires.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ASKS: usize = 9;

/// What is left of a connection that was closed before the whole of an answer.
const NOTHING: &str = "nothing";

/// One client, which does one thing after another.
pub struct Worker {
    rng: Rng,
    number: u64,
    operations: u64,
    gateway: SocketAddr,
    books: Arc<Books>,
    /// A connection that is used again and again.
    kept: Option<Connection>,
}

impl Worker {
    pub fn new(number: u64, seed: u64, gateway: SocketAddr, books: Arc<Books>) -> Self {
        Self {
            rng: Rng::with_seed(seed.wrapping_add(number)),
            number,
            operations: 0,
            gateway,
            books,
            kept: None,
        }
    }

    /// Works until then.
    pub async fn work(mut self, ends: Instant) {
        while Instant::now() < ends {
            self.operations += 1;
            match self.rng.u8(0..40) {
                0..=9 => self.new_one().await,
                10..=15 => self.duplicates().await,
                16..=19 => self.joins().await,
                20 | 21 => self.mismatch().await,
                22..=25 => self.http2().await,
                26 | 27 => self.hangs_up().await,
                28 => self.unlucky("reset", Wanted::Reset).await,
                29 => self.unlucky("truncated", Wanted::Truncate).await,
                30 => self.unlucky("late", Wanted::Late).await,
                31 => self.unlucky("stall", Wanted::Stall).await,
                32 => self.unlucky("large", Wanted::Large).await,
                33 | 34 => self.streams().await,
                35 | 36 => self.unkeyed().await,
                37 => self.slow_reader().await,
                38 => self.malformed().await,
                _ => self.stalled_body().await,
            }
            sleep(Duration::from_millis(self.rng.u64(0..PAUSE_MS))).await;
        }
    }

    /// A payment under a key of its own, of a size that is chosen at random, that asks for this.
    fn payment(&mut self, wanted: Wanted) -> (String, Request) {
        let key = format!("w{}-{}", self.number, self.operations);
        let size = match self.rng.u8(0..10) {
            0 => self.rng.usize(10_000..200_000),
            _ => self.rng.usize(0..500),
        };
        let body = format!("{{\"key\":\"{key}\",\"pad\":\"{}\"}}", "p".repeat(size));
        let request = payment(&key).header(ACT, &wanted.name()).body(body);
        (key, request)
    }

    /// Sends a request on the connection that is kept, or a new one, and notes what was heard.
    async fn send(&mut self, kind: &'static str, key: &str, request: &Request) -> Option<Answer> {
        let mut connection = match self.kept.take() {
            Some(kept) if self.rng.bool() => kept,
            _ => match Connection::try_open(self.gateway).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.books.saw(kind, error.kind().to_string());
                    return None;
                }
            },
        };
        let answer = connection.try_send(request).await;
        self.note(kind, key, answer.as_ref());
        if answer
            .as_ref()
            .is_some_and(|answer| answer.header("Connection").is_none())
        {
            self.kept = Some(connection);
        }
        answer
    }

    fn note(&self, kind: &'static str, key: &str, answer: Option<&Answer>) {
        match answer {
            Some(answer) => self.books.heard(kind, key, answer),
            None => self.books.saw(kind, NOTHING),
        }
    }

    async fn new_one(&mut self) {
        let (key, request) = self.payment(Wanted::Answer);
        self.send("new", &key, &request).await;
    }

    async fn duplicates(&mut self) {
        let (key, request) = self.payment(Wanted::Answer);
        let first = self.send("new", &key, &request).await;
        let is_recorded = first.is_some_and(|first| first.idempotency_status() == "executed");
        for _ in 0..self.rng.u8(1..4) {
            let Some(again) = self.send("duplicate", &key, &request).await else {
                continue;
            };
            // Once it is recorded, there is nothing else to hear but that there is no room.
            if is_recorded && again.idempotency_status() != "replayed" && again.status != 503 {
                self.books.fault(format!(
                    "{key} was recorded, and is not replayed: {again:?}"
                ));
            }
        }
    }

    async fn joins(&mut self) {
        let (key, request) = self.payment(Wanted::Slow);
        let together = (0..self.rng.usize(2..8)).map(|_| once(self.gateway, &request));
        for answer in join_all(together).await {
            self.note("join", &key, answer.as_ref());
        }
    }

    async fn mismatch(&mut self) {
        let (key, request) = self.payment(Wanted::Answer);
        let first = self.send("new", &key, &request).await;
        if first.is_none_or(|first| first.idempotency_status() != "executed") {
            return;
        }
        let other = request.body(format!("another body under {key}"));
        if let Some(answer) = self.send("mismatch", &key, &other).await
            && !matches!(answer.status, 422 | 503)
        {
            self.books.fault(format!("{key} was reused: {answer:?}"));
        }
    }

    async fn http2(&mut self) {
        let Some(connection) = Http2::try_open(self.gateway).await else {
            return self.books.saw("http2", NOTHING);
        };
        let operations: Vec<_> = (0..self.rng.usize(1..6))
            .map(|_| {
                self.operations += 1;
                self.payment(Wanted::Answer)
            })
            .collect();
        // Each of them twice, all at a time.
        let together = operations.iter().chain(&operations);
        let connection = &connection;
        let answers = together.map(|(key, request)| async move {
            let answer = connection.try_send(request).await;
            (key, answer)
        });
        for (key, answer) in join_all(answers).await {
            self.note("http2", key, answer.as_ref());
        }
    }

    /// Leaves before the answer, and comes back for it.
    async fn hangs_up(&mut self) {
        let (key, request) = self.payment(Wanted::Slow);
        if let Ok(mut stream) = TcpStream::connect(self.gateway).await {
            let authority = self.gateway.to_string();
            let _ = stream.write_all(&request.to_bytes(&authority)).await;
            sleep(Duration::from_millis(self.rng.u64(0..60))).await;
        }
        self.asks_again("hang-up", &key, &request).await;
    }

    /// Meets a fault of the upstream, and asks what became of it.
    async fn unlucky(&mut self, kind: &'static str, wanted: Wanted) {
        let (key, request) = self.payment(wanted);
        self.send(kind, &key, &request).await;
        self.asks_again(kind, &key, &request).await;
    }

    /// Until there is an answer, or it is long enough.
    async fn asks_again(&mut self, kind: &'static str, key: &str, request: &Request) {
        for _ in 0..ASKS {
            let answer = self.send(kind, key, request).await;
            if answer.is_some_and(|answer| answer.status == 201) {
                return;
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// A long body each way through a route that only passes.
    async fn streams(&mut self) {
        let pieces = self.rng.usize(1..50);
        let body: Vec<u8> = (0..pieces).flat_map(|_| chunk(&[b's'; PIECE])).collect();
        let request = Request::post("/stream")
            .header(ACT, &Wanted::Stream.name())
            .header("Transfer-Encoding", "chunked")
            .body([&body[..], b"0\r\n\r\n"].concat());
        match once(self.gateway, &request).await {
            Some(answer) if answer.status == 200 => {
                let is_whole = answer.body == vec![b'b'; LARGE];
                self.books.saw("stream", "whole");
                if !is_whole {
                    self.books
                        .fault(format!("a stream is not whole: {answer:?}"));
                }
            }
            Some(answer) => self.books.saw("stream", answer.status.to_string()),
            None => self.books.saw("stream", NOTHING),
        }
    }

    async fn unkeyed(&mut self) {
        let (_, request) = self.payment(Wanted::Answer);
        match once(self.gateway, &request.without("Idempotency-Key")).await {
            Some(answer) => {
                let said = answer.idempotency_status();
                self.books
                    .saw("unkeyed", format!("{} {said}", answer.status));
            }
            None => self.books.saw("unkeyed", NOTHING),
        }
    }

    /// Asks for much, takes little, and stays; over HTTP/2 it takes nothing at all.
    async fn slow_reader(&mut self) {
        let large = Request::get("/large").header(ACT, &Wanted::Large.name());
        if self.rng.bool() {
            if let Some(shut) = Http2::try_open_shut(self.gateway).await {
                let _kept = timeout(SLOW, shut.try_begin(&large)).await;
                sleep(SLOW).await;
            }
        } else if let Ok(mut stream) = TcpStream::connect(self.gateway).await {
            let _ = stream.write_all(&large.to_bytes("gateway")).await;
            let _ = timeout(SLOW, stream.read(&mut [0; 99])).await;
            sleep(SLOW).await;
        }
        self.books.saw("slow reader", "left");
    }

    /// Sends what is no request, and waits until the gateway has had enough.
    async fn malformed(&mut self) {
        let large_head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
        let all = [
            "\0\u{1}\u{2}nonsense\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHo",
            "POST /v1/payments HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "POST /v1/payments HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense of several bytes",
            "PRI * HT",
            "",
            &large_head,
        ];
        let bytes = all[self.rng.usize(..all.len())];
        if let Ok(mut stream) = TcpStream::connect(self.gateway).await {
            let _ = stream.write_all(bytes.as_bytes()).await;
            let _ = within(
                "the connection to close",
                stream.read_to_end(&mut Vec::new()),
            )
            .await;
        }
        self.books.saw("malformed", "closed");
    }

    /// Begins a body and says no more of it.
    async fn stalled_body(&mut self) {
        let (key, request) = self.payment(Wanted::Answer);
        let announced = request.header("Content-Length", "250000");
        let answer = once(self.gateway, &announced).await;
        self.note("stalled body", &key, answer.as_ref());
    }
}

/// Sends a request on a connection of its own.
async fn once(gateway: SocketAddr, request: &Request) -> Option<Answer> {
    let mut connection = Connection::try_open(gateway).await.ok()?;
    connection.try_send(request).await
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let head = format!("{:x}\r\n", bytes.len());
    [head.as_bytes(), bytes, b"\r\n"].concat()
}
