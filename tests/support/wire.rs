//! HTTP/1.1 as bytes, for both ends of the harness. Written out here and not taken from a library, because the
//! tests must see and send exactly what is on the wire, bad framing included.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Header lines in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header, whatever the case of its name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// All values of a header, in their order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// A message's first line and headers.
#[derive(Clone, Debug)]
pub struct Head {
    pub first_line: String,
    pub headers: Headers,
}

/// A request as an upstream received it, to its last byte.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its place among all requests of this upstream, from 1.
    pub number: usize,
    /// Which connection it came on, from 1.
    pub connection: usize,
    pub method: String,
    /// The target as it stood in the request line.
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
}

impl Received {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.first(name)
    }

    /// The idempotency key; empty where there is none.
    pub fn key(&self) -> String {
        self.header("Idempotency-Key")
            .unwrap_or_default()
            .to_owned()
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// With the connection.
    ToTheEnd,
}

impl Framing {
    /// Of a request: without a length there is no body.
    pub fn of_request(headers: &Headers) -> Self {
        Self::stated(headers).unwrap_or(Self::Length(0))
    }

    /// Of an answer with this status to this method.
    pub fn of_answer(method: &str, status: u16, headers: &Headers) -> Self {
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return Self::Length(0);
        }
        Self::stated(headers).unwrap_or(Self::ToTheEnd)
    }

    fn stated(headers: &Headers) -> Option<Self> {
        if headers.first("Transfer-Encoding").is_some() {
            return Some(Self::Chunked);
        }
        headers
            .first("Content-Length")?
            .parse()
            .ok()
            .map(Self::Length)
    }
}

/// Reads one head; `None` where the connection ended before its first byte.
pub async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Head>> {
    let Some(first_line) = read_line(reader).await? else {
        return Ok(None);
    };
    let headers = read_headers(reader).await?;
    Ok(Some(Head {
        first_line,
        headers,
    }))
}

/// Reads header lines (or trailers) up to the empty line.
pub async fn read_headers(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Headers> {
    let mut headers = Headers::default();
    loop {
        let line = read_line(reader)
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.0.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads one chunk; `None` after the last one, whose trailers are still to be read.
pub async fn read_chunk(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let line = read_line(reader)
        .await?
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    let length = usize::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
    if length == 0 {
        return Ok(None);
    }
    let mut chunk = vec![0; length];
    reader.read_exact(&mut chunk).await?;
    match read_line(reader).await?.as_deref() {
        Some("") => Ok(Some(chunk)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads a body into `body`, which holds what came even where the rest did not, and returns its trailers.
pub async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    framing: Framing,
    body: &mut Vec<u8>,
) -> io::Result<Headers> {
    match framing {
        Framing::Length(length) => {
            reader.take(length as u64).read_to_end(body).await?;
            if body.len() < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(Headers::default())
        }
        Framing::Chunked => {
            while let Some(chunk) = read_chunk(reader).await? {
                body.extend(chunk);
            }
            read_headers(reader).await
        }
        Framing::ToTheEnd => {
            reader.read_to_end(body).await?;
            Ok(Headers::default())
        }
    }
}

/// One chunk as it goes over the wire.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
