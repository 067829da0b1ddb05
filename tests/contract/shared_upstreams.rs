//! Upstreams that speak HTTP/2: Hypercorn, which nobody here wrote, over TLS and by prior knowledge.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{Authority, Problem, Request, Setup, free_port, payment, tool, until};

/// A payment service in Hypercorn. Dropping it ends it.
struct Hypercorn {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
    options: Vec<String>,
}

impl Hypercorn {
    async fn plain() -> Self {
        Self::start(Vec::new()).await
    }

    async fn secure(authority: &Authority) -> Self {
        let options = [
            format!("--certfile={}", authority.path("gate.pem")),
            format!("--keyfile={}", authority.path("gate.key")),
        ];
        Self::start(options.into()).await
    }

    async fn start(options: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // It cannot say which port it was given.
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = Self::spawn(&folder, address, &options);
        let server = Self {
            process,
            address,
            folder,
            options,
        };
        server.listens().await;
        server
    }

    fn spawn(folder: &TempDir, address: SocketAddr, options: &[String]) -> Child {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/servers");
        let log = File::create(folder.path().join("log")).expect("a file");
        Command::new(tool("hypercorn"))
            // In one process, so that it can be killed.
            .arg("--workers=0")
            .arg(format!("--bind={address}"))
            .args(options)
            .arg("payments:app")
            .current_dir(folder.path())
            .env("PYTHONPATH", sources)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("a server that runs")
    }

    async fn listens(&self) {
        until("hypercorn to listen", || async {
            TcpStream::connect(self.address).await.ok()
        })
        .await;
    }

    fn kill9(&mut self) {
        self.process.kill().expect("a process");
        self.process.wait().expect("its end");
    }

    async fn restart(&mut self) {
        self.process = Self::spawn(&self.folder, self.address, &self.options);
        self.listens().await;
    }

    /// What was executed, one line of JSON each.
    fn executed(&self) -> Vec<serde_json::Value> {
        let lines = fs::read_to_string(self.folder.path().join("executed")).unwrap_or_default();
        let lines = lines.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("lines of JSON")
    }
}

impl Drop for Hypercorn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- hypercorn's log\n{}\n---", log.unwrap_or_default());
        }
    }
}

fn over_tls(server: &Hypercorn, authority: &Authority, protocol: &str) -> Setup {
    Setup::payments_at(&format!("https://{}", server.address))
        .upstream(&format!(
            "tls = {{ roots = {:?} }}",
            authority.path("ca.pem")
        ))
        .upstream(&format!("protocol = {protocol:?}"))
        .upstream(PATIENT)
}

/// A busy machine may take its time for a handshake.
const PATIENT: &str = "connect_timeout = \"10s\"";

fn by_prior_knowledge(server: &Hypercorn) -> Setup {
    Setup::payments_at(&format!("http://{}", server.address))
        .upstream("protocol = \"http2\"")
        .upstream(PATIENT)
}

#[tokio::test]
async fn each_payment_is_executed_once_over_one_connection_of_http_2() {
    let authority = Authority::new();
    for is_secure in [true, false] {
        let (server, setup) = match is_secure {
            true => {
                let server = Hypercorn::secure(&authority).await;
                let setup = over_tls(&server, &authority, "auto");
                (server, setup)
            }
            false => {
                let server = Hypercorn::plain().await;
                let setup = by_prior_knowledge(&server);
                (server, setup)
            }
        };
        let gateway = setup.upstream("idle_timeout = \"1m\"").start().await;
        for key in ["a", "b", "c"] {
            let first = gateway.send(&payment(key)).await;
            first.is(201, "executed");
            assert_eq!(first.json()["protocol"], "2");
            assert_eq!(first.json()["path"], "/v1/payments");
            let again = gateway.send(&payment(key)).await;
            assert_eq!(again.is(201, "replayed").body, first.body);
        }
        let large = payment("large").body("x".repeat(900_000));
        let answer = gateway.send(&large).await;
        assert_eq!(answer.is(201, "executed").json()["length"], 900_000);
        assert_eq!(server.executed().len(), 4);
        let metrics = gateway.metrics().await;
        let open = metrics.value("oncegate_upstream_connections", &[("upstream", "toy")]);
        assert_eq!(open, Some(1.0));
    }
}

#[tokio::test]
async fn many_payments_at_once_are_executed_once_each() {
    let server = Hypercorn::plain().await;
    let gateway = by_prior_knowledge(&server).start().await;
    let sent: Vec<_> = (0..100)
        .map(|number| gateway.spawn(&payment(&format!("k{}", number / 2))))
        .collect();
    for answer in sent {
        let answer = answer.await.expect("an answer");
        let status = answer.idempotency_status();
        assert!(
            matches!(status, "executed" | "replayed" | "refused"),
            "{status}"
        );
    }
    assert_eq!(server.executed().len(), 50);
}

#[tokio::test]
async fn a_service_that_is_killed_while_it_pays_leaves_an_unknown_outcome() {
    let mut server = Hypercorn::plain().await;
    let gateway = by_prior_knowledge(&server).start().await;
    gateway.send(&payment("a")).await.is(201, "executed");
    let hanging = payment("k").body("hang");
    let first = gateway.spawn(&hanging);
    until("it to be executed", || async {
        (server.executed().len() == 2).then_some(())
    })
    .await;
    server.kill9();
    first.await.expect("an answer").refuses(Problem::FAILED);
    server.restart().await;
    gateway
        .send(&hanging)
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    gateway.send(&payment("b")).await.is(201, "executed");
    assert_eq!(server.executed().len(), 3);
}

#[tokio::test]
async fn a_service_that_is_away_is_sent_nothing() {
    let mut server = Hypercorn::plain().await;
    let gateway = by_prior_knowledge(&server).start().await;
    gateway.send(&payment("a")).await.is(201, "executed");
    server.kill9();
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::UNREACHABLE);
    server.restart().await;
    until("the address to be tried again", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status == 201).then_some(())
    })
    .await;
    assert_eq!(server.executed().len(), 2);
}

/// A client's offer to switch to WebSocket.
fn upgrade() -> Request {
    Request::get("/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn an_upgrade_goes_over_http_1_where_it_can_and_without_its_offer_where_it_cannot() {
    let authority = Authority::new();
    let server = Hypercorn::secure(&authority).await;
    for (protocol, status) in [("auto", 101), ("http2", 201)] {
        let setup = over_tls(&server, &authority, protocol).rest_passes();
        let gateway = setup.start().await;
        let mut client = gateway.connect().await;
        client.write_request(&upgrade()).await;
        let (answered, headers) = client.answer_head().await;
        assert_eq!(answered, status, "{headers:?}");
        let payment = gateway.send(&payment(protocol)).await;
        assert_eq!(payment.json()["protocol"], "2");
    }
}

#[tokio::test]
async fn check_says_what_an_endpoint_speaks() {
    let authority = Authority::new();
    let (secure, plain) = (
        Hypercorn::secure(&authority).await,
        Hypercorn::plain().await,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let check = |setup: Setup| {
        let path = folder.path().join("oncegate.toml");
        let listener = "\n[[listeners]]\naddress = \"127.0.0.1:0\"\n";
        fs::write(&path, setup.toml() + listener).expect("a file");
        let check = Command::new(env!("CARGO_BIN_EXE_oncegate"))
            .args(["check", "--connect", "--config"])
            .arg(path)
            .output();
        String::from_utf8(check.expect("a run").stdout).expect("text")
    };
    let takes = "takes connections of HTTP/2 (";
    assert!(check(over_tls(&secure, &authority, "auto")).contains(takes));
    assert!(check(over_tls(&secure, &authority, "http2")).contains(takes));
    assert!(check(by_prior_knowledge(&plain)).contains(takes));
    let http1 = check(over_tls(&secure, &authority, "http1"));
    assert!(http1.contains("takes connections ("), "{http1}");
}
