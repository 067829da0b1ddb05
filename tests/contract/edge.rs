//! Where the world connects: TLS, Unix sockets, proxies before the gateway.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::support::{
    Authority, Connection, Gateway, HOST, Request, Setup, ToyUpstream, free_port, payment, tool,
    until, within,
};

const EXPIRY: &str = "oncegate_tls_certificate_expiry_timestamp_seconds";
const RELOADS: &str = "oncegate_tls_reloads_total";

/// A gateway with TLS.
async fn encrypted(authority: &Authority, upstream: &ToyUpstream) -> Gateway {
    let setup = Setup::payments(upstream)
        .rest_passes()
        .limits("keep_alive = \"60s\"");
    Gateway::start(&format!("{}{}", setup.toml(), authority.listener())).await
}

#[tokio::test]
async fn payments_over_tls_are_made_once_and_the_upstream_hears_https() {
    let authority = Arc::new(Authority::new());
    let upstream = ToyUpstream::start();
    let gateway = encrypted(&authority, &upstream).await;
    let passage = authority.passage(gateway.address).await;
    let mut client = Connection::open(passage).await;
    client.send(&payment("k")).await.is(201, "executed");
    client.send(&payment("k")).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
    let lie = Request::get("/else").header("X-Forwarded-Proto", "gopher");
    client.send(&lie).await.is(201, "");
    for _ in 0..2 {
        let sent = upstream.next_request().await;
        assert_eq!(sent.header("X-Forwarded-Proto"), Some("https"));
        assert_eq!(sent.header("X-Forwarded-For"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn http2_is_chosen_by_alpn_and_its_scheme_is_not_believed() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let gateway = encrypted(&authority, &upstream).await;
    let stream = authority
        .connect(gateway.address, "h2")
        .await
        .expect("a handshake");
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut client, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    for scheme in ["https", "http"] {
        let request = http::Request::get(format!("{scheme}://gate.example/x"));
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let answer = within("an answer", client.send_request(request))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 201);
        let sent = upstream.next_request().await;
        assert_eq!(sent.header("X-Forwarded-Proto"), Some("https"));
        assert_eq!(sent.header("Via"), Some("2 oncegate"));
    }
}

#[tokio::test]
async fn a_scanner_finds_nothing_that_is_old_or_weak() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let gateway = encrypted(&authority, &upstream).await;
    let scan = async |arguments: &[&str], input: &str| {
        authority.s_client(gateway.address, arguments, input).await
    };
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // What this client can do at all: the refusals below are the gateway's.
    for version in ["-tls1_2", "-tls1_3"] {
        let said = scan(&[version, "-quiet"], get).await;
        assert!(said.contains("HTTP/1.1 201 "), "{version}: {said}");
    }
    let weak = "-cipher";
    for refused in [
        &["-tls1", weak, "ALL:@SECLEVEL=0"][..],
        &["-tls1_1", weak, "ALL:@SECLEVEL=0"],
        // No forward secrecy; no authenticated encryption.
        &["-tls1_2", weak, "AES128-GCM-SHA256:@SECLEVEL=0"],
        &["-tls1_2", weak, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"],
        &["-tls1_2", weak, "ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"],
        &["-tls1_3", "-alpn", "http/1.0"],
    ] {
        let said = scan(refused, "").await;
        assert!(
            said.contains("no peer certificate available"),
            "{refused:?}: {said}"
        );
    }
    let said = scan(&["-tls1_2", "-alpn", "http/1.1,h2", "-status"], "").await;
    for part in [
        "Compression: NONE",
        "ALPN protocol: h2",
        "Verify return code: 0 (ok)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Tickets allow no early data.
    let said = scan(&["-tls1_3", "-ign_eof", "-sess_out", "session"], get).await;
    assert!(said.contains("Max Early Data: 0"), "{said}");
    std::fs::write(authority.folder().join("early"), get).expect("a file");
    let resumed = [
        "-tls1_3",
        "-ign_eof",
        "-sess_in",
        "session",
        "-early_data",
        "early",
    ];
    let said = scan(&resumed, get).await;
    assert!(
        said.contains("Reused, TLSv1.3") && said.contains("Early data was not sent"),
        "{said}"
    );
}

#[tokio::test]
async fn a_scanner_that_nobody_here_wrote_finds_what_is_meant_to_be_there_and_no_more() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let gateway = encrypted(&authority, &upstream).await;
    let mut command = Command::new(tool("sslscan"));
    command.args(["--xml=-", "--no-colour"]);
    command.arg(format!("--sni-name={HOST}"));
    command.arg(gateway.address.to_string());
    let scanned = tokio::task::spawn_blocking(move || command.output().expect("sslscan"));
    let scanned = within("the scanner to end", scanned).await;
    let said = String::from_utf8(scanned.expect("no panic").stdout).expect("text");
    let lines = |kind: &str| -> Vec<&str> {
        let start = format!("<{kind} ");
        let lines = said.lines().map(str::trim);
        lines.filter(|line| line.starts_with(&start)).collect()
    };
    let enabled: Vec<_> = lines("protocol")
        .into_iter()
        .filter(|line| line.contains("enabled=\"1\""))
        .collect();
    assert_eq!(
        enabled,
        ["1.2", "1.3"].map(|version| format!(
            "<protocol type=\"tls\" version=\"{version}\" enabled=\"1\" />"
        )),
        "{said}"
    );
    let mut ciphers: Vec<_> = lines("cipher")
        .into_iter()
        .filter_map(|line| line.split("cipher=\"").nth(1)?.split('"').next())
        .collect();
    ciphers.sort_unstable();
    // All encrypt and authenticate at once, and with keys of their own for every connection.
    assert_eq!(
        ciphers,
        [
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
        ],
        "{said}"
    );
    assert_eq!(
        lines("renegotiation"),
        ["<renegotiation supported=\"0\" secure=\"0\" />"],
        "{said}"
    );
    assert!(!lines("heartbleed").is_empty(), "{said}");
    assert!(
        !said.contains("vulnerable=\"1\"") && !said.contains("<compression supported=\"1\""),
        "{said}"
    );
    assert!(
        said.contains(HOST) && said.contains("<self-signed>false"),
        "{said}"
    );
}

#[tokio::test]
async fn why_a_handshake_came_to_nothing_is_said_to_who_looks_closely() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let toml = format!("{}{}", setup.toml(), authority.listener());
    let gateway = Gateway::start_through(&["env", "ONCEGATE_LOG=debug"], &toml).await;
    let mut plain = TcpStream::connect(gateway.address)
        .await
        .expect("a connection");
    let client = plain.local_addr().expect("an address").to_string();
    plain
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("taken");
    let line = gateway
        .log()
        .message("a TLS handshake came to nothing")
        .await;
    assert_eq!(line["client"], client.as_str(), "{line}");
    assert_eq!(line["failure"], "Invalid", "{line}");
    let why = line["why"].as_str().expect("a reason");
    assert!(!why.is_empty() && why.len() < 1000, "{why}");
}

#[tokio::test]
async fn a_client_cannot_renegotiate() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).limits("first_byte = \"1s\"");
    let gateway = Gateway::start(&format!("{}{}", setup.toml(), authority.listener())).await;
    // A line `R` asks for it. A second handshake would show the certificate a second time.
    let said = authority
        .patient_s_client(gateway.address, &["-tls1_2"], "R\n")
        .await;
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert_eq!(said.matches("depth=0 ").count(), 1, "{said}");
}

#[tokio::test]
async fn certificates_are_read_again_at_sighup_and_open_connections_stay() {
    let (authority, renewed) = (Arc::new(Authority::new()), Authority::new());
    let upstream = ToyUpstream::start();
    let gateway = encrypted(&authority, &upstream).await;
    let old_expiry = authority.expiry();
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(EXPIRY, &[]), Some(old_expiry as f64));
    for result in ["done", "failed"] {
        assert_eq!(metrics.value(RELOADS, &[("result", result)]), Some(0.0));
    }
    let reason = [("reason", "incompatible")];
    let failures = "oncegate_tls_handshake_failures_total";
    assert_eq!(metrics.value(failures, &reason), Some(0.0));
    let passage = authority.passage(gateway.address).await;
    let mut open = Connection::open(passage).await;
    open.send(&payment("k")).await.is(201, "executed");

    // Without its key it cannot be used.
    let key = std::fs::read(authority.path("gate.key")).expect("a file");
    authority.take(&renewed, "gate.pem");
    hang_up(&gateway);
    let line = gateway
        .log()
        .message("the listener's certificates have changed and cannot be used; those in use stay")
        .await;
    let error = line["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("is not the key of the first certificate"),
        "{line}"
    );
    let text = gateway.log().text();
    assert!(
        text.contains("\"level\":\"ERROR\"") && !text.contains("PRIVATE KEY"),
        "{text}"
    );
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(RELOADS, &[("result", "failed")]), Some(1.0));
    assert_eq!(metrics.value(EXPIRY, &[]), Some(old_expiry as f64));
    authority
        .connect(gateway.address, "h2")
        .await
        .expect("the old certificate");

    authority.take(&renewed, "gate.key");
    assert_ne!(
        std::fs::read(authority.path("gate.key")).expect("a file"),
        key
    );
    hang_up(&gateway);
    gateway
        .log()
        .message("the listener's certificates have changed, and are in use")
        .await;
    assert!(authority.connect(gateway.address, "h2").await.is_err());
    renewed
        .connect(gateway.address, "h2")
        .await
        .expect("the new certificate");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value(RELOADS, &[("result", "done")]), Some(1.0));
    assert_eq!(metrics.value(EXPIRY, &[]), Some(renewed.expiry() as f64));
    open.send(&payment("k")).await.is(201, "replayed");
}

/// Tells it to look at its files.
fn hang_up(gateway: &Gateway) {
    let kill = Command::new("kill")
        .args(["-HUP", &gateway.pid().to_string()])
        .status();
    assert!(kill.expect("a command").success());
}

#[tokio::test]
async fn a_drain_lets_a_request_over_tls_end_and_takes_the_socket_away() {
    let authority = Arc::new(Authority::new());
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).top("drain_delay = \"0s\"");
    let text = format!(
        "{}{}[[listeners]]\naddress = \"unix:gate.sock\"\n",
        setup.toml(),
        authority.listener()
    );
    let mut gateway = Gateway::start(&text).await;
    let socket = gateway.directory().join("gate.sock");
    assert!(socket.exists());
    let gate = crate::support::Gate::closed();
    upstream.next(crate::support::Act::respond(201, &[], "ch_1").after(&gate));
    let passage = authority.passage(gateway.address).await;
    let mut client = Connection::open(passage).await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.drains().await;
    gate.open();
    client.answer().await.is(201, "executed");
    client.closed().await;
    assert!(gateway.ended().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn clients_behind_a_unix_socket_have_no_address_unless_a_trusted_proxy_says_theirs() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).rest_passes();
    let text = format!(
        "{}\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n\
         [[listeners]]\naddress = \"unix:plain.sock\"\nmode = \"0600\"\n\
         [[listeners]]\naddress = \"unix:proxied.sock\"\ntrusted_proxies = [\"unix:\"]\n",
        setup.toml()
    );
    let gateway = Gateway::start(&text).await;
    for (name, client, forwarded) in [
        ("plain.sock", "unix:", None),
        ("proxied.sock", "192.0.2.7", Some("192.0.2.7")),
    ] {
        let mut socket = UnixStream::connect(gateway.directory().join(name))
            .await
            .expect("a socket");
        let request =
            "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n";
        socket
            .write_all(request.as_bytes())
            .await
            .expect("a socket");
        let mut answer = String::new();
        within("an answer", socket.read_to_string(&mut answer))
            .await
            .expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        let sent = upstream.next_request().await;
        assert_eq!(sent.header("X-Forwarded-For"), forwarded);
        let line = until("the request's line", || async {
            let lines = gateway.log().messages("request");
            lines.into_iter().find(|line| {
                line["listener"]
                    .as_str()
                    .is_some_and(|at| at.ends_with(name))
            })
        })
        .await;
        assert_eq!(line["client"], client, "{line}");
        assert_eq!(line["listener"], format!("unix:{name}"), "{line}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is_and_nobody_else_does() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).rest_passes();
    let text = format!(
        "{}\n[[listeners]]\naddress = \"127.0.0.1:8080\"\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n",
        setup.toml()
    );
    let gateway = Gateway::start(&text).await;
    let told = Request::get("/x")
        .header("X-Forwarded-For", "8.8.8.8, 192.0.2.7, 10.1.1.1")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "shop.example");
    gateway.send(&told).await.is(201, "");
    let sent = upstream.next_request().await;
    assert_eq!(
        sent.header("X-Forwarded-For"),
        Some("192.0.2.7, 10.1.1.1, 127.0.0.1")
    );
    assert_eq!(sent.header("X-Forwarded-Proto"), Some("https"));
    assert_eq!(sent.header("X-Forwarded-Host"), Some("shop.example"));
    assert_eq!(sent.headers.all("Host"), [gateway.address.to_string()]);
    let line = gateway.log().nth_message("request", 0).await;
    assert_eq!(line["client"], "192.0.2.7", "{line}");
    let proxy = line["proxy"].as_str().unwrap_or_default();
    assert!(proxy.starts_with("127.0.0.1:"), "{line}");

    // The same protected, and by somebody who is not trusted.
    let paid = payment("k").header("X-Forwarded-For", "192.0.2.7");
    gateway.send(&paid).await.is(201, "executed");
    assert_eq!(
        upstream.next_request().await.header("X-Forwarded-For"),
        Some("192.0.2.7, 127.0.0.1")
    );
    let mut stranger = from_address("127.0.0.9", gateway.address).await;
    let lie = "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\
               X-Forwarded-Proto: https\r\nConnection: close\r\n\r\n";
    stranger.write_all(lie.as_bytes()).await.expect("a socket");
    let sent = upstream.next_request().await;
    assert_eq!(sent.header("X-Forwarded-For"), Some("127.0.0.9"));
    assert_eq!(sent.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(sent.header("Forwarded"), None);
    let line = gateway.log().nth_message("request", 2).await;
    let client = line["client"].as_str().unwrap_or_default();
    assert!(
        client.starts_with("127.0.0.9:") && line["proxy"].is_null(),
        "{line}"
    );
}

/// A connection from another of this machine's addresses.
async fn from_address(ip: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any_port = format!("{ip}:0").parse().expect("an address");
    socket.bind(any_port).expect("an address of this machine");
    socket.connect(to).await.expect("a connection")
}

/// HAProxy before a gateway, with a port for each version of PROXY headers. Dropping it ends it.
struct HaProxy {
    process: Child,
    ports: [u16; 2],
    _folder: TempDir,
}

impl HaProxy {
    async fn before(gateway: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = [free_port(), free_port()];
        let mut config = "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
                          timeout server 60s\n"
            .to_owned();
        for (port, version) in ports
            .into_iter()
            .zip(["send-proxy", "send-proxy-v2 check inter 100ms"])
        {
            writeln!(
                config,
                "listen on{port}\n  bind 127.0.0.1:{port}\n  server gate {gateway} {version}"
            )
            .expect("a text");
        }
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("a file");
        let process = Command::new(tool("haproxy"))
            .arg("-db")
            .arg("-f")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server that runs");
        let proxy = Self {
            process,
            ports,
            _folder: folder,
        };
        until("HAProxy to listen", || async {
            TcpStream::connect(("127.0.0.1", ports[1])).await.ok()
        })
        .await;
        proxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn haproxy_says_who_the_client_is_in_either_version_and_also_before_tls() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).rest_passes();
    let required = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let plain = format!("\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n{required}");
    let tls = authority
        .listener()
        .replace("tls = ", &format!("{required}tls = "));
    let get = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (listener, is_tls) in [(plain, false), (tls, true)] {
        let gateway = Gateway::start(&format!("{}{listener}", setup.toml())).await;
        let haproxy = HaProxy::before(gateway.address).await;
        for port in haproxy.ports {
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            if is_tls {
                let said = authority
                    .s_client(at, &["-quiet", "-bind", "127.0.0.5:0"], get)
                    .await;
                assert!(said.contains("HTTP/1.1 201 "), "{said}");
            } else {
                let mut client = from_address("127.0.0.5", at).await;
                client.write_all(get.as_bytes()).await.expect("a socket");
                let mut heard = String::new();
                within("an answer", client.read_to_string(&mut heard))
                    .await
                    .expect("an answer");
                assert!(heard.starts_with("HTTP/1.1 201 "), "{heard}");
            }
            let sent = upstream.next_request().await;
            assert_eq!(sent.header("X-Forwarded-For"), Some("127.0.0.5"));
            let proto = if is_tls { "https" } else { "http" };
            assert_eq!(sent.header("X-Forwarded-Proto"), Some(proto));
        }
        let line = gateway.log().nth_message("request", 1).await;
        let part = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        assert!(part("client").starts_with("127.0.0.5:"), "{line}");
        assert!(part("proxy").starts_with("127.0.0.1:"), "{line}");
        let metrics = gateway.metrics().await;
        for reason in ["untrusted", "invalid"] {
            let labels = [("reason", reason)];
            assert_eq!(
                metrics.value("oncegate_proxy_protocol_failures_total", &labels),
                Some(0.0)
            );
        }
        let mut stranger = from_address("127.0.0.9", gateway.address).await;
        let mut heard = Vec::new();
        let end = stranger.read_to_end(&mut heard);
        let _ = within("the connection to close", end).await;
        assert_eq!(heard, b"");
        let labels = [("reason", "untrusted")];
        let metrics = gateway.metrics().await;
        assert_eq!(
            metrics.value("oncegate_proxy_protocol_failures_total", &labels),
            Some(1.0)
        );
    }
}
