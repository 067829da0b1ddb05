//! A raw HTTP/1.1 client: it sends what the test says, byte for byte, and gives back what came.

use std::fmt;
use std::net::SocketAddr;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::wire::{Framing, Headers, read_body, read_chunk, read_head, read_headers};
use super::within;

/// A request to be sent. `Host` and `Content-Length` are added where the test does not set them.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

/// The request that most tests send: a payment by Alice under this key.
pub fn payment(key: &str) -> Request {
    Request::post("/v1/payments")
        .auth("Bearer alice")
        .key(key)
        .header("Content-Type", "application/json")
        .body("{\"amount\":100}")
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self {
            method,
            target,
            headers: Headers::default(),
            body: Vec::new(),
        }
    }

    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Adds a header line.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes every line of a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers
            .0
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// Sets `Idempotency-Key`.
    pub fn key(self, key: &str) -> Self {
        self.without("Idempotency-Key")
            .header("Idempotency-Key", key)
    }

    /// Sets `Authorization`.
    pub fn auth(self, credentials: &str) -> Self {
        self.without("Authorization")
            .header("Authorization", credentials)
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The request as it goes over the wire to this authority.
    pub fn to_bytes(&self, authority: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if self.headers.first("Host").is_none() {
            head.push_str(&format!("Host: {authority}\r\n"));
        }
        for (name, value) in &self.headers.0 {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = ["Content-Length", "Transfer-Encoding"]
            .iter()
            .any(|name| self.headers.first(name).is_some());
        let bare_get = self.body.is_empty() && self.method == "GET";
        if !framed && !bare_get {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

/// An answer.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// What came behind it.
    pub trailers: Headers,
    /// Whether the body came to its end.
    pub complete: bool,
}

impl fmt::Debug for Answer {
    /// For people: the body as text, and not more of it than anybody reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const READABLE: usize = 500;
        let end = if self.complete { "" } else { " (broken off)" };
        writeln!(f, "{}{end}", self.status)?;
        for (name, value) in &self.headers.0 {
            writeln!(f, "  {name}: {value}")?;
        }
        let start = &self.body[..self.body.len().min(READABLE)];
        write!(f, "  {} bytes: {}", self.body.len(), start.escape_ascii())
    }
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.first(name)
    }

    /// The one value of `Idempotency-Status`; empty where there is none.
    pub fn idempotency_status(&self) -> &str {
        let values = self.headers.all("Idempotency-Status");
        assert!(
            values.len() <= 1,
            "several Idempotency-Status headers: {values:?}"
        );
        values.first().copied().unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("no JSON ({error}): {self:?}"),
        }
    }

    /// Asserts status, `Idempotency-Status` and, for a replay, its mark.
    #[track_caller]
    pub fn is(&self, status: u16, idempotency_status: &str) -> &Self {
        let found = (self.status, self.idempotency_status());
        assert_eq!(found, (status, idempotency_status), "{self:?}");
        let replayed = (idempotency_status == "replayed").then_some("true");
        assert_eq!(self.header("Idempotent-Replayed"), replayed, "{self:?}");
        self
    }
}

/// One client connection.
pub struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    authority: String,
    method: String,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        match Self::try_open(address).await {
            Ok(connection) => connection,
            Err(error) => panic!("no connection to {address}: {error}"),
        }
    }

    pub async fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let (reader, writer) = TcpStream::connect(address).await?.into_split();
        let (authority, method) = (address.to_string(), String::new());
        Ok(Self {
            reader: BufReader::new(reader),
            writer,
            authority,
            method,
        })
    }

    /// Sends a request and reads its answer; the connection can be used again.
    pub async fn send(&mut self, request: &Request) -> Answer {
        self.write_request(request).await;
        self.answer().await
    }

    /// The same where the gateway may die in between: `None` where no complete answer came.
    pub async fn try_send(&mut self, request: &Request) -> Option<Answer> {
        self.method.clone_from(&request.method);
        self.writer
            .write_all(&request.to_bytes(&self.authority))
            .await
            .ok()?;
        within("an answer", self.try_answer())
            .await
            .filter(|answer| answer.complete)
    }

    pub async fn write_request(&mut self, request: &Request) {
        self.method.clone_from(&request.method);
        self.write(&request.to_bytes(&self.authority)).await;
    }

    /// Sends these bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.writer
            .write_all(bytes)
            .await
            .expect("the gateway reads");
    }

    /// Reads one answer, body included.
    pub async fn answer(&mut self) -> Answer {
        let answer = within("an answer", self.try_answer()).await;
        answer.expect("an answer before the connection ends")
    }

    /// Reads the head of an answer and nothing of its body; interim answers are skipped.
    pub async fn answer_head(&mut self) -> (u16, Headers) {
        let head = within("the head of an answer", self.try_answer_head()).await;
        head.expect("an answer before the connection ends")
    }

    /// Reads one chunk of a body whose head was read; `None` after the last one.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let chunk = within("a chunk", read_chunk(&mut self.reader))
            .await
            .expect("a whole chunk");
        if chunk.is_none() {
            read_headers(&mut self.reader)
                .await
                .expect("the end of the chunks");
        }
        chunk
    }

    /// Returns when the gateway has closed the connection, whatever it sent before.
    pub async fn closed(&mut self) {
        let (mut rest, end) = (Vec::new(), Framing::ToTheEnd);
        // A reset closes it as well.
        let _ = within(
            "the connection to close",
            read_body(&mut self.reader, end, &mut rest),
        )
        .await;
    }

    /// Goes away without waiting for an answer.
    pub fn hang_up(self) {}

    /// Reads one answer; `None` where the connection ends before it.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        let (status, headers) = self.try_answer_head().await?;
        let framing = Framing::of_answer(&self.method, status, &headers);
        let mut body = Vec::new();
        let trailers = read_body(&mut self.reader, framing, &mut body).await;
        Some(Answer {
            status,
            headers,
            body,
            complete: trailers.is_ok(),
            trailers: trailers.unwrap_or_default(),
        })
    }

    async fn try_answer_head(&mut self) -> Option<(u16, Headers)> {
        loop {
            let head = read_head(&mut self.reader).await.ok()??;
            let status = head.first_line.split(' ').nth(1)?.parse().ok()?;
            if !(100..=199).contains(&status) || status == 101 {
                return Some((status, head.headers));
            }
        }
    }
}
