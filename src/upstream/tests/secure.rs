//! TLS: which protocol is spoken, and what a session that is resumed gives away. The upstream is rustls' server below
//! hyper's.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::UpstreamTls;

/// Makes an authority, and a certificate for 127.0.0.1.
const CERTIFICATES: &str = r#"
set -e
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -keyout ca.key -out ca.pem -days 2 -subj /CN=authority 2>/dev/null
openssl req $new -keyout a.key -out a.csr -subj /CN=a 2>/dev/null
printf "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n" >a.ext
openssl x509 -req -in a.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile a.ext -out a.pem 2>/dev/null
"#;

/// What the upstream saw of a connection's handshake.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    kind: Option<HandshakeKind>,
    /// Whether data came with the first flight, which anybody can send again.
    was_early: bool,
}

/// An upstream behind TLS that offers these protocols and says which version of HTTP it was asked in.
struct Secured {
    upstream: Arc<Upstream>,
    seen: Arc<Mutex<Vec<Seen>>>,
    requests: Arc<Mutex<usize>>,
}

impl Secured {
    async fn start(protocol: UpstreamProtocol, offered: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut openssl = Command::new("sh");
        let made = openssl.args(["-c", CERTIFICATES]).current_dir(&folder);
        assert!(made.status().unwrap().success());
        let origin = Origin::bind().await;
        let port = origin.0.local_addr().unwrap().port();
        let endpoint = config::Endpoint {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let mut config = config(vec![UpstreamEndpoint::Https(endpoint)]);
        config.protocol = protocol;
        config.tls = Some(trusting(folder.path()));
        let secured = Self {
            upstream: Upstream::new(&config),
            seen: Arc::default(),
            requests: Arc::default(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(server(folder.path(), offered)));
        let (seen, requests) = (Arc::clone(&secured.seen), Arc::clone(&secured.requests));
        tokio::spawn(async move {
            loop {
                let socket = origin.accept().await;
                // Whoever is not offered what it wants goes no further.
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    continue;
                };
                let session = stream.get_mut().1;
                seen.lock().unwrap().push(Seen {
                    kind: session.handshake_kind(),
                    was_early: session.early_data().is_some(),
                });
                let requests = Arc::clone(&requests);
                let answer = move |request: http::Request<Incoming>| {
                    *requests.lock().unwrap() += 1;
                    let version = Bytes::from(format!("{:?}", request.version()));
                    // The next request needs a connection of its own.
                    let mut response = Response::builder();
                    if request.version() == http::Version::HTTP_11 {
                        response = response.header(http::header::CONNECTION, "close");
                    }
                    std::future::ready(response.body(Full::new(version)))
                };
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let served = server.serve_connection(TokioIo::new(stream), service_fn(answer));
                    // The gateway may close it as it likes.
                    let _ = served.await;
                });
            }
        });
        secured
    }

    /// The version of HTTP that the upstream was asked in.
    async fn version(&self) -> Result<Bytes, SendError> {
        let response = timeout(FOREVER, send(&self.upstream)).await;
        Ok(read_all(response.expect("an answer")?).await.unwrap())
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn trusting(folder: &Path) -> UpstreamTls {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(folder.join("ca.pem"));
    roots.add(root.unwrap()).unwrap();
    UpstreamTls {
        authorities: Arc::new(roots),
        client: None,
        server_name: None,
    }
}

fn server(folder: &Path, offered: &[&str]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::from_pem_file(folder.join("a.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("a.key")).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let names = offered.iter().map(|name| name.as_bytes().to_vec());
    server.alpn_protocols = names.collect();
    // It would take them.
    server.max_early_data_size = 16 << 10;
    server
}

#[tokio::test]
async fn an_endpoint_is_spoken_to_in_what_it_offers() {
    use UpstreamProtocol::{Auto, Http1, Http2};
    let (h1, h2) = ("http/1.1", "h2");
    for (protocol, offered, expected) in [
        (Auto, &[h2, h1][..], Some("HTTP/2.0")),
        (Auto, &[h1, h2], Some("HTTP/1.1")),
        (Auto, &[h2], Some("HTTP/2.0")),
        (Auto, &[h1], Some("HTTP/1.1")),
        (Auto, &[], Some("HTTP/1.1")),
        (Http2, &[h1, h2], Some("HTTP/2.0")),
        (Http2, &[h1], None),
        (Http2, &[], None),
        (Http1, &[h2, h1], Some("HTTP/1.1")),
    ] {
        let secured = Secured::start(protocol, offered).await;
        let version = secured.version().await;
        match expected {
            Some(expected) => assert_eq!(version.unwrap(), expected, "{protocol:?} {offered:?}"),
            None => {
                let error = version.unwrap_err();
                assert!(!error.sent, "{protocol:?} {offered:?}: {error}");
                assert_eq!(*secured.requests.lock().unwrap(), 0, "{protocol:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_and_nothing_is_sent_before_its_handshake_is_over() {
    let secured = Secured::start(UpstreamProtocol::Http1, &["http/1.1"]).await;
    for _ in 0..3 {
        assert_eq!(secured.version().await.unwrap(), "HTTP/1.1");
    }
    let seen = |kind| Seen {
        kind: Some(kind),
        was_early: false,
    };
    let resumed = seen(HandshakeKind::Resumed);
    assert_eq!(
        secured.seen(),
        [seen(HandshakeKind::Full), resumed, resumed]
    );
}
