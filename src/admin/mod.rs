//! What operators and their machines ask, on a listener of its own: `/healthz`, `/readyz` and `/metrics`, and, where
//! there is a token to show, `/v1/records`.
//!
//! It shares nothing with the listeners for clients, so that a probe is answered however busy those are. It
//! knows no requests.

mod places;
mod readiness;
mod records;

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use self::places::{FirstWord, Places};
pub use self::readiness::{Readiness, Report, Status, StoreHealth};
pub use self::records::{Forgotten, Parts as RecordsParts, Records};
use crate::server::{AcceptFailures, concerns_one_connection};
use crate::telemetry::Metrics;

/// Brings gauges up to date that mirror other modules; called before each scrape, and not to wait for anything.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// From accepting a connection to the last byte of its only answer; Prometheus gives up after 10 s itself.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// From accepting a connection to the end of its request's head: silent ones make room sooner where others wait.
const HEAD_DEADLINE: Duration = Duration::from_secs(2);

/// The largest request head, in bytes. hyper takes no less than 8 KiB.
const MAX_HEAD: usize = 8 * 1024;

/// How long accepting rests after a fault that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The admin listener.
pub struct Admin {
    listener: TcpListener,
    pages: Arc<Pages>,
    deadline: Duration,
}

impl Admin {
    /// Listens on `address`.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        refresh: Refresh,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            pages: Arc::new(Pages {
                metrics,
                readiness,
                refresh,
                records: Arc::default(),
            }),
            deadline: CONNECTION_DEADLINE,
        })
    }

    /// What answers `/v1/records`, to whoever shows the token: nothing at first. It may be changed at any time.
    #[must_use]
    pub fn records(&self) -> Arc<ArcSwapOption<Records>> {
        Arc::clone(&self.pages.records)
    }

    /// Where it listens: the port that was chosen where 0 was asked for.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped, which ends the connections, too. Serve through a drain: `/readyz`
    /// has something to say then.
    pub async fn serve(self) {
        let mut places = Places::default();
        let mut failures = AcceptFailures::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let (pages, deadline) = (Arc::clone(&self.pages), self.deadline);
                    places
                        .admit(|first_word| converse(stream, peer, pages, deadline, first_word))
                        .await;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    if let Some(failures) = failures.count() {
                        tracing::warn!(%error, failures, "the admin listener cannot accept connections");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

/// One request and its answer. Connections are not kept alive: what asks here asks seldom, and every connection
/// is bounded by one deadline.
async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    pages: Arc<Pages>,
    deadline: Duration,
    first_word: FirstWord,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        let is_too_late = !first_word.is_first();
        async move {
            if is_too_late {
                // The place is somebody else's, and this task is about to end.
                pending::<()>().await;
            }
            let path = request.uri().path();
            let answer = match pages.records.load_full() {
                Some(records) if Records::has(path) => records.answer(request, peer).await,
                _ => pages.answer(request.method(), path),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline.min(HEAD_DEADLINE))
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // A peer that is slow, breaks off or speaks no HTTP is nothing that an operator could act on.
    let _ = timeout(deadline, connection).await;
}

/// What is answered.
struct Pages {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    refresh: Refresh,
    /// `None` where there is no token.
    records: Arc<ArcSwapOption<Records>>,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

impl Pages {
    /// hyper leaves the body out where the method is HEAD.
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let found: fn(&Self) -> Response<Full<Bytes>> = match path {
            "/healthz" => |_| page(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => Self::ready,
            "/metrics" => Self::metrics,
            _ => return page(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        };
        if matches!(*method, Method::GET | Method::HEAD) {
            return found(self);
        }
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
        let headers = refusal.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        refusal
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let report = self.readiness.report();
        let status = match report.status {
            Status::Ready => StatusCode::OK,
            Status::Starting | Status::Draining => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = serde_json::to_vec(&report).expect("two plain enums are always JSON");
        page(status, JSON, body)
    }

    /// Store and drain are mirrored from what `/readyz` says, so that the two never contradict each other.
    fn metrics(&self) -> Response<Full<Bytes>> {
        (self.refresh)();
        let report = self.readiness.report();
        let metrics = &self.metrics;
        metrics
            .store
            .up
            .set((report.store == StoreHealth::Up).into());
        metrics
            .draining
            .set((report.status == Status::Draining).into());
        page(StatusCode::OK, PROMETHEUS, metrics.render())
    }
}

fn page(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;

    use super::places::MAX_CONNECTIONS;
    use super::*;

    /// An admin listener with one route and a hook that says three waiters.
    struct Served {
        address: SocketAddr,
        store: Arc<crate::telemetry::StoreHealth>,
        readiness: Arc<Readiness>,
        _connections: JoinSet<()>,
    }

    impl Served {
        async fn with_deadline(deadline: Duration) -> Self {
            let metrics = Arc::new(Metrics::new(&["rest"], &["api"]));
            let store = Arc::clone(&metrics.store.health);
            let readiness = Arc::new(Readiness::new(Arc::clone(&store)));
            let mirrored = Arc::clone(&metrics);
            let refresh: Refresh = Arc::new(move || mirrored.store.records.set(3));
            let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
            let mut admin = Admin::bind(any_port, metrics, Arc::clone(&readiness), refresh)
                .await
                .unwrap();
            admin.deadline = deadline;
            let address = admin.local_address().unwrap();
            let mut connections = JoinSet::new();
            connections.spawn(admin.serve());
            Self {
                address,
                store,
                readiness,
                _connections: connections,
            }
        }

        async fn ask(&self, head: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn request(&self, method: &str, path: &str) -> String {
            self.ask(&format!("{method} {path} HTTP/1.1\r\nHost: admin\r\n\r\n"))
                .await
        }
    }

    async fn served() -> Served {
        Served::with_deadline(CONNECTION_DEADLINE).await
    }

    #[tokio::test]
    async fn health_is_ok_before_anything_is_ready() {
        let served = served().await;
        let answer = served.request("GET", "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[tokio::test]
    async fn readiness_says_how_the_store_is() {
        let served = served().await;
        let answer = served.request("GET", "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with(r#"{"status":"starting","store":"not_asked"}"#));
        served.store.answered();
        let answer = served.request("GET", "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with(r#"{"status":"ready","store":"up"}"#));
        served.store.failed(false, &"away");
        let answer = served.request("GET", "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with(r#"{"status":"ready","store":"down"}"#));
        served.readiness.draining();
        let answer = served.request("GET", "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with(r#"{"status":"draining","store":"down"}"#));
    }

    #[tokio::test]
    async fn a_scrape_calls_the_hook_and_agrees_with_readiness() {
        let served = served().await;
        served.store.answered();
        served.readiness.draining();
        let answer = served.request("GET", "/metrics?x=y").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"));
        assert!(answer.contains("\noncegate_store_records 3\n"), "{answer}");
        assert!(answer.contains("\noncegate_store_up 1\n"), "{answer}");
        assert!(answer.contains("\noncegate_draining 1\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_head_request_gets_the_head_alone() {
        let served = served().await;
        let answer = served.request("HEAD", "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("content-length: 3\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let served = served().await;
        let answer = served.request("GET", "/").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let answer = served.request("POST", "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_cut_off() {
        let served = Served::with_deadline(Duration::from_millis(20)).await;
        let answer = served.ask("GET /healthz HTTP/1.1\r\nHost: adm").await;
        assert!(!answer.contains("200"), "{answer}");
    }

    #[tokio::test]
    async fn a_probe_does_not_wait_for_silent_connections() {
        let served = served().await;
        let begun = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..10 * MAX_CONNECTIONS {
            silent.push(TcpStream::connect(served.address).await.unwrap());
        }
        let answer = served.request("GET", "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(begun.elapsed() < HEAD_DEADLINE, "{:?}", begun.elapsed());
        assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0, "it is closed");
    }
}
