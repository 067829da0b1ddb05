//! How spans reach their collector: OTLP over HTTP/1.1, with a connection for each batch. They do so beside all requests:
//! a collector that is slow or away costs spans, and a line when that begins and when it ends.

use std::env;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, TryCurrentError};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::ENDPOINTS;
use crate::config::{authorities, system_authorities};

/// How long an export may take where the environment does not say (the specification's number).
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer of a collector that is read, in bytes: it says how many spans it did not take, and why.
const MAX_ANSWER: usize = 64 * 1024;

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectorError {
    /// What the environment says of the endpoint is none.
    #[error("{0}")]
    Exporter(#[from] ExporterBuildError),
    /// It asks for a protocol that is not spoken.
    #[error("the protocol of OTLP is http/protobuf here, and not {0:?}")]
    Protocol(String),
    /// The file of certificates cannot be read.
    #[error("the certificates in {file} cannot be used: {reason}")]
    Certificates { file: String, reason: String },
    /// There is no runtime to do it in.
    #[error(transparent)]
    Runtime(#[from] TryCurrentError),
}

/// An exporter as the environment describes it.
///
/// # Errors
/// Why there is none.
pub(super) fn exporter() -> Result<Told, CollectorError> {
    if let Some(protocol) = of_traces("PROTOCOL").filter(|word| word != "http/protobuf") {
        return Err(CollectorError::Protocol(protocol));
    }
    let is_encrypted = ENDPOINTS
        .iter()
        .filter_map(|name| env::var(name).ok())
        .any(|endpoint| endpoint.starts_with("https:"));
    let timeout = of_traces("TIMEOUT").and_then(|text| text.parse().ok());
    let timeout = timeout.map_or(TIMEOUT, Duration::from_millis);
    let collector = Collector {
        runtime: Handle::try_current()?,
        tls: is_encrypted.then(security).transpose()?,
        timeout,
    };
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_timeout(timeout)
        .build()?;
    Ok(Told {
        exporter,
        fails: AtomicBool::new(false),
    })
}

/// A variable of the exporter, the one for traces first.
fn of_traces(name: &str) -> Option<String> {
    let prefixes = ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"];
    let mut values = prefixes
        .into_iter()
        .filter_map(|prefix| env::var(format!("{prefix}{name}")).ok());
    values.find(|value| !value.is_empty())
}

/// Whom a collector's certificate has to come from: the authorities in the file that the environment names, else those
/// that the system trusts.
fn security() -> Result<Arc<ClientConfig>, CollectorError> {
    let roots = match of_traces("CERTIFICATE") {
        Some(file) => std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|pem| authorities(&pem))
            .map_err(|reason| CollectorError::Certificates { file, reason })?,
        None => system_authorities(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider knows both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Says in the log when spans begin to be lost, and when that is over.
#[derive(Debug)]
pub(super) struct Told {
    exporter: OtlpExporter,
    fails: AtomicBool,
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let did_fail = self.fails.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !did_fail => {
                tracing::warn!(%error, "spans do not reach their collector; they are dropped");
            }
            Ok(()) if did_fail => tracing::info!("spans reach their collector again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Where spans are exported to. It is asked from a thread without a runtime.
#[derive(Debug)]
struct Collector {
    runtime: Handle,
    /// `None` where no endpoint asks for it.
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
}

/// What [`HttpClient`] promises.
type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Answering<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let (limit, tls) = (self.timeout, self.tls.clone());
        // Its timer, too, is the runtime's.
        let sent = async move { timeout(limit, send(request, tls)).await };
        let sent = self.runtime.spawn(sent);
        Box::pin(async move {
            let answer = sent.await?.unwrap_or_else(|silent| Err(silent.into()));
            if let Err(error) = &answer {
                tracing::debug!(%error, "no answer of the collector");
            }
            answer
        })
    }
}

async fn send(
    request: Request<Bytes>,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    // An address of IPv6 stands in brackets.
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_encrypted = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri
        .port_u16()
        .unwrap_or(if is_encrypted { 443 } else { 80 });
    let socket = TcpStream::connect((host, port)).await?;
    match tls.filter(|_| is_encrypted) {
        Some(config) => {
            let name = ServerName::try_from(host.to_owned())?;
            let socket = TlsConnector::from(config).connect(name, socket).await?;
            exchange(socket, request, &uri).await
        }
        None => exchange(socket, request, &uri).await,
    }
}

async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Bytes>,
    uri: &Uri,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let (mut head, body) = request.into_parts();
    if let Some(authority) = uri.authority() {
        let host =
            HeaderValue::from_str(authority.as_str().rsplit('@').next().unwrap_or_default())?;
        head.headers.insert(HOST, host);
    }
    head.uri = uri
        .path_and_query()
        .map_or_else(|| Uri::from_static("/"), |path| path.clone().into());
    let answer = async move {
        let response = sender
            .send_request(Request::from_parts(head, Full::new(body)))
            .await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    // The connection ends with what has been sent over it; why it ended is the answer's to say.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
