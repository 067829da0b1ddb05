//! A client that pays, and that retries under the same key.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::PATIENCE;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// One payment that a client wants made once.
#[derive(Clone, Debug)]
pub(super) struct Payment {
    /// Its idempotency key.
    pub(super) key: String,
    /// The amount.
    pub(super) cents: u64,
    /// How long the toy API takes to answer after it has charged.
    pub(super) takes_ms: u64,
}

impl Payment {
    /// The same, of an API that is slow to answer.
    pub(super) fn taking_ms(self, takes_ms: u64) -> Self {
        Self { takes_ms, ..self }
    }

    /// The request's body.
    pub(super) fn body(&self) -> String {
        format!(
            "{{\"amount\":{},\"takes_ms\":{}}}",
            self.cents, self.takes_ms
        )
    }
}

/// What a client hears of one request.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    /// An answer.
    Answer(Answer),
    /// The client went away before an answer came.
    HungUp,
    /// The connection broke before an answer came.
    Nothing,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The value of `Idempotency-Status`; empty where there is none.
    pub(super) idempotency_status: String,
    pub(super) body: Bytes,
}

impl Heard {
    /// What a refusal says of the operation.
    pub(super) fn operation_state(&self) -> Option<String> {
        let Self::Answer(answer) = self else {
            return None;
        };
        let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        body["operation_state"].as_str().map(str::to_owned)
    }

    /// The charge in a receipt, or the name of a refusal.
    pub(super) fn gist(&self) -> String {
        match self {
            Self::Answer(answer) => {
                let body: serde_json::Value =
                    serde_json::from_slice(&answer.body).unwrap_or_default();
                let name = body["charge"].as_str().or_else(|| body["type"].as_str());
                let name = name.and_then(|name| name.rsplit(':').next());
                name.unwrap_or_default().to_owned()
            }
            Self::HungUp | Self::Nothing => String::new(),
        }
    }
}

/// The client's side: where it pays, and how many requests it has made.
pub(super) struct Wallet {
    gateway: SocketAddr,
    requests: usize,
}

/// A request under way.
pub(super) struct UnderWay(JoinHandle<Heard>);

impl UnderWay {
    /// What came of it.
    pub(super) async fn heard(self) -> Heard {
        self.0.await.unwrap_or(Heard::Nothing)
    }

    /// Goes away without waiting for an answer.
    pub(super) fn hang_up(self) -> Heard {
        self.0.abort();
        Heard::HungUp
    }
}

impl Wallet {
    pub(super) fn new(gateway: SocketAddr) -> Self {
        Self {
            gateway,
            requests: 0,
        }
    }

    /// How many requests it has made.
    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    /// Pays through this gateway from now on.
    pub(super) fn connect_to(&mut self, gateway: SocketAddr) {
        self.gateway = gateway;
    }

    /// Sends a request and does not wait for its answer yet.
    pub(super) fn spawn(&mut self, payment: &Payment) -> UnderWay {
        self.requests += 1;
        let (gateway, payment) = (self.gateway, payment.clone());
        UnderWay(tokio::spawn(async move { pay(gateway, &payment).await }))
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn send(&mut self, payment: &Payment) -> Heard {
        self.spawn(payment).heard().await
    }
}

/// The status of a GET; `None` where there is no answer.
pub(super) async fn get(server: SocketAddr, path: &str) -> Option<StatusCode> {
    let request = Request::get(path).header(header::HOST, server.to_string());
    let (status, _, _) = exchange(server, request.body(Full::default()).ok()?).await?;
    Some(status)
}

async fn pay(gateway: SocketAddr, payment: &Payment) -> Heard {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/payments")
        .header(header::HOST, gateway.to_string())
        .header(header::AUTHORIZATION, "Bearer demo")
        .header(header::CONTENT_TYPE, "application/json")
        .header("Idempotency-Key", &payment.key)
        .body(Full::from(payment.body()));
    let Ok(request) = request else {
        return Heard::Nothing;
    };
    let Some((status, headers, body)) = exchange(gateway, request).await else {
        return Heard::Nothing;
    };
    let idempotency_status = headers.get("Idempotency-Status");
    let idempotency_status = idempotency_status.and_then(|value| value.to_str().ok());
    Heard::Answer(Answer {
        status: status.as_u16(),
        idempotency_status: idempotency_status.unwrap_or_default().to_owned(),
        body,
    })
}

type Exchanged = (StatusCode, http::HeaderMap, Bytes);

/// One request on a connection of its own, which ends with this future: so a client hangs up.
async fn exchange(server: SocketAddr, request: Request<Full<Bytes>>) -> Option<Exchanged> {
    let exchange = async {
        let stream = TcpStream::connect(server).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let answer = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = Limited::new(body, MAX_ANSWER)
                .collect()
                .await
                .ok()?
                .to_bytes();
            Some((head.status, head.headers, body))
        };
        // The connection is driven here and not in a task, which would outlive a client that hangs up.
        let (connection, answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
        match futures_util::future::select(answer, connection).await {
            futures_util::future::Either::Left((answer, _)) => answer,
            // The answer may have come with the connection's last bytes.
            futures_util::future::Either::Right((_, answer)) => answer.await,
        }
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .ok()
        .flatten()
}
