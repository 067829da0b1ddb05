//! Upstreams behind TLS and on Unix sockets: what was not sent is not unknown, and who is not who he should be hears
//! nothing.

use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::support::{Authority, Gateway, Problem, Setup, ToyUpstream, payment, until, within};

/// A certificate of this authority that was over a day ago.
const EXPIRED: &str = "openssl x509 -req -in gate.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                       -extfile gate.ext -days -1 -out gate.pem 2>/dev/null";

/// TLS before an upstream; its certificate names 127.0.0.1.
pub struct Front {
    pub url: String,
    accepting: tokio::task::JoinHandle<()>,
}

impl Front {
    pub async fn before(upstream: &ToyUpstream, authority: &Authority) -> Self {
        Self::with(upstream, authority, None, rustls::ALL_VERSIONS).await
    }

    /// `clients`: whose certificates clients have to show.
    async fn with(
        upstream: &ToyUpstream,
        authority: &Authority,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                let root = CertificateDer::from_pem_file(clients.path("ca.pem"));
                roots.add(root.expect("a certificate")).expect("a root");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let chain = CertificateDer::pem_file_iter(authority.path("gate.pem"))
            .expect("certificates")
            .collect::<Result<_, _>>()
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_file(authority.path("gate.key")).expect("a key");
        let mut config = builder.with_single_cert(chain, key).expect("a server");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("a bound socket").port();
        let to = upstream.url().replace("http://", "");
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, to) = (acceptor.clone(), to.clone());
                tokio::spawn(async move {
                    // Whom the gateway refuses, or who refuses it, goes no further.
                    let Ok(mut near) = acceptor.accept(socket).await else {
                        return;
                    };
                    let mut far = TcpStream::connect(to).await.expect("the upstream");
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self {
            url: format!("https://127.0.0.1:{port}"),
            accepting,
        }
    }

    fn setup(&self, tls: &str) -> Setup {
        let tls = format!("tls = {{ {tls} }}");
        // A busy machine may take its time for a handshake.
        let patient = "connect_timeout = \"10s\"";
        Setup::payments_at(&self.url)
            .upstream(&tls)
            .upstream(patient)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn roots(authority: &Authority) -> String {
    format!("roots = {:?}", authority.path("ca.pem"))
}

/// Nothing reaches this upstream from this gateway, and the key stays free.
async fn nothing_is_sent(gateway: &Gateway, upstream: &ToyUpstream) {
    for _ in 0..2 {
        let answer = gateway.send(&payment("k")).await;
        answer.refuses(Problem::UNREACHABLE);
    }
    assert_eq!((upstream.connections(), upstream.charges()), (0, 0));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.decisions("pay", "upstream_unreachable"), 2);
    let labels = [("upstream", "toy"), ("kind", "connect")];
    let errors = metrics.value("oncegate_upstream_errors_total", &labels);
    assert_eq!(errors, Some(2.0));
}

/// Both versions send what is no answer after the handshake or between two requests: tickets.
#[tokio::test]
async fn payments_go_through_tls_once_and_connections_are_used_again() {
    let authority = Authority::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let upstream = ToyUpstream::start();
        let front = Front::with(&upstream, &authority, None, &[version]).await;
        let gateway = front.setup(&roots(&authority)).start().await;
        for key in ["a", "b", "c"] {
            gateway.send(&payment(key)).await.is(201, "executed");
            gateway.send(&payment(key)).await.is(201, "replayed");
        }
        assert_eq!(upstream.charges(), 3);
        let large = payment("large").body("x".repeat(900_000));
        gateway.send(&large).await.is(201, "executed");
        assert_eq!(upstream.charges(), 4);
        // Now and then one is not at rest yet when the next request comes.
        assert!(upstream.connections() < 4 && upstream.keeps_all_connections());
    }
}

/// The certificates are right; what it offers to speak is HTTP/1.1.
#[tokio::test]
async fn an_upstream_that_does_not_offer_http_2_is_sent_nothing_where_nothing_else_will_do() {
    let (authority, upstream) = (Authority::new(), ToyUpstream::start());
    let front = Front::before(&upstream, &authority).await;
    let only = |protocol: &str| {
        let protocol = format!("protocol = {protocol:?}");
        front.setup(&roots(&authority)).upstream(&protocol)
    };
    nothing_is_sent(&only("http2").start().await, &upstream).await;
    let gateway = only("auto").start().await;
    for key in ["a", "b"] {
        gateway.send(&payment(key)).await.is(201, "executed");
    }
    assert_eq!(upstream.charges(), 2);
    assert!(upstream.keeps_all_connections());
}

#[tokio::test]
async fn a_connection_that_tls_has_closed_meanwhile_costs_no_request() {
    let (authority, upstream) = (Authority::new(), ToyUpstream::start());
    let front = Front::before(&upstream, &authority).await;
    let gateway = front.setup(&roots(&authority)).start().await;
    for key in ["a", "b", "c"] {
        gateway.send(&payment(key)).await.is(201, "executed");
        upstream.close_idle_connections().await;
    }
    assert_eq!((upstream.charges(), upstream.connections()), (3, 3));
}

#[tokio::test]
async fn an_upstream_that_is_not_who_it_should_be_is_sent_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let upstream = ToyUpstream::start();
    let front = Front::before(&upstream, &authority).await;
    let wrong_name = format!("{}, server_name = \"other.example\"", roots(&authority));
    for tls in [wrong_name, roots(&other), String::new()] {
        let gateway = front.setup(&tls).start().await;
        nothing_is_sent(&gateway, &upstream).await;
    }
    let right_name = format!("{}, server_name = \"gate.example\"", roots(&authority));
    let gateway = front.setup(&right_name).start().await;
    gateway.send(&payment("k")).await.is(201, "executed");
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_over_is_sent_nothing() {
    let (authority, upstream) = (Authority::new(), ToyUpstream::start());
    let made = Command::new("sh")
        .args(["-c", EXPIRED])
        .current_dir(authority.folder())
        .status();
    assert!(made.expect("a shell").success());
    let front = Front::before(&upstream, &authority).await;
    let gateway = front.setup(&roots(&authority)).start().await;
    nothing_is_sent(&gateway, &upstream).await;
}

/// With TLS 1.3 the refusal comes after our handshake is done.
#[tokio::test]
async fn an_upstream_that_refuses_our_certificate_is_sent_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let shows = |whose: &Authority| {
        let (certificate, key) = (whose.path("gate.pem"), whose.path("gate.key"));
        format!(
            "{}, certificate = {certificate:?}, key = {{ file = {key:?} }}",
            roots(&authority)
        )
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let upstream = ToyUpstream::start();
        let front = Front::with(&upstream, &authority, Some(&authority), &[version]).await;
        for tls in [roots(&authority), shows(&other)] {
            let gateway = front.setup(&tls).start().await;
            nothing_is_sent(&gateway, &upstream).await;
        }
        let gateway = front.setup(&shows(&authority)).start().await;
        for key in ["a", "b"] {
            gateway.send(&payment(key)).await.is(201, "executed");
        }
        assert_eq!(upstream.charges(), 2);
        assert!(upstream.keeps_all_connections());
    }
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_or_nothing_is_sent_nothing() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent_url = format!("https://{}", silent.local_addr().expect("bound"));
    for url in [upstream.url().replace("http:", "https:"), silent_url] {
        let tls = format!("tls = {{ {} }}", roots(&authority));
        let setup = Setup::payments_at(&url).upstream(&tls);
        let gateway = setup.upstream("connect_timeout = \"300ms\"").start().await;
        gateway
            .send(&payment("k"))
            .await
            .refuses(Problem::UNREACHABLE);
    }
    assert_eq!(upstream.charges(), 0);
}

/// An end without TLS's own word for it may be anybody's.
#[tokio::test]
async fn an_answer_that_ends_without_close_notify_is_cut_off() {
    let (authority, upstream) = (Authority::new(), ToyUpstream::start());
    let front = Front::before(&upstream, &authority).await;
    let raw = "HTTP/1.1 200 OK\r\n\r\nhalf of it";
    upstream.next(crate::support::Act::raw(raw).then_reset());
    let gateway = front.setup(&roots(&authority)).start().await;
    let answer = gateway.send(&payment("k")).await;
    answer.refuses(Problem::FAILED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn payments_go_to_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let upstream = UnixListener::bind(&path).expect("a socket");
    let setup = Setup::payments_at(&format!("unix:{}", path.display()));
    let gateway = setup.start().await;
    let answering = tokio::spawn(async move {
        let (mut socket, _) = upstream.accept().await.expect("a connection");
        let mut heads = Vec::new();
        for _ in 0..2 {
            let mut read = Vec::new();
            while !read.windows(4).any(|end| end == b"\r\n\r\n") || !read.ends_with(b"}") {
                let count = socket.read_buf(&mut read).await.expect("a request");
                assert_ne!(count, 0, "one connection for both requests");
            }
            heads.push(String::from_utf8_lossy(&read).into_owned());
            let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
            socket.write_all(answer).await.expect("an open socket");
        }
        heads
    });
    for key in ["a", "b"] {
        gateway.send(&payment(key)).await.is(201, "executed");
        gateway.send(&payment(key)).await.is(201, "replayed");
    }
    let heads = within("both requests", answering).await.expect("no panic");
    let host = format!("host: {}\r\n", gateway.address).to_lowercase();
    assert!(heads[0].to_lowercase().contains(&host), "{}", heads[0]);
    let is_idle = async || {
        let metrics = gateway.metrics().await;
        let open = metrics.value("oncegate_upstream_connections", &[("upstream", "toy")]);
        (open == Some(0.0)).then_some(())
    };
    until("the closed connection to be gone", is_idle).await;
    gateway
        .send(&payment("c"))
        .await
        .refuses(Problem::UNREACHABLE);
}
