//! The toy payments API: it charges at every call and recognises nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{DemoError, PATIENCE};

/// The longest order that is read, in bytes.
const MAX_ORDER: usize = 16 * 1024;
/// The longest time that an order may ask for, in milliseconds.
const MAX_TAKES_MS: u64 = 60_000;
/// The pause after a connection could not be accepted, for lack of files or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running API. Dropping it stops it.
pub(super) struct PaymentsApi {
    address: SocketAddr,
    charges: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

/// What a client orders.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Order {
    amount: u64,
    /// How long the answer takes *after* the charge.
    takes_ms: u64,
}

impl PaymentsApi {
    /// Starts one on a free port of the loopback interface.
    pub(super) async fn start() -> Result<Self, DemoError> {
        let no_port = |source| DemoError::Setup {
            what: "cannot listen",
            source,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(no_port)?;
        let address = listener.local_addr().map_err(no_port)?;
        let charges = watch::Sender::new(0);
        let accepting = tokio::spawn(accept(listener, charges.clone()));
        Ok(Self {
            address,
            charges,
            accepting,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it has charged.
    pub(super) fn charges(&self) -> usize {
        *self.charges.borrow()
    }

    /// Returns once it has charged so often.
    pub(super) async fn charged(&self, number: usize) -> Result<(), DemoError> {
        let mut charges = self.watch();
        let charged = charges.wait_for(|charges| *charges >= number);
        match tokio::time::timeout(PATIENCE, charged).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(DemoError::Deadline("a charge")),
        }
    }

    /// The number of charges, as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<usize> {
        self.charges.subscribe()
    }
}

impl Drop for PaymentsApi {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, charges: watch::Sender<usize>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let charges = charges.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| pay(request, charges.clone()));
            // It fails where the gateway goes away, as it does when it is killed.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Charges first and answers afterwards: what goes wrong in between is what the demo is about.
async fn pay(
    request: Request<Incoming>,
    charges: watch::Sender<usize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/v1/payments" {
        return Ok(answer(
            StatusCode::NOT_FOUND,
            &serde_json::json!({ "error": "no such thing" }),
        ));
    }
    if request.method() != http::Method::POST {
        let number = *charges.borrow();
        return Ok(answer(
            StatusCode::OK,
            &serde_json::json!({ "charges": number }),
        ));
    }
    let order = match order(request).await {
        Ok(order) => order,
        Err(error) => {
            let error = serde_json::json!({ "error": error.to_string() });
            return Ok(answer(StatusCode::BAD_REQUEST, &error));
        }
    };
    let mut number = 0;
    charges.send_modify(|charges| {
        *charges += 1;
        number = *charges;
    });
    tokio::time::sleep(Duration::from_millis(order.takes_ms.min(MAX_TAKES_MS))).await;
    let receipt = serde_json::json!({ "charge": format!("ch_{number}"), "amount": order.amount });
    Ok(answer(StatusCode::CREATED, &receipt))
}

async fn order(request: Request<Incoming>) -> io::Result<Order> {
    let body = Limited::new(request.into_body(), MAX_ORDER).collect().await;
    let body = body.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{body}\n")));
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    answer
}
