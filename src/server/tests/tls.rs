//! TLS above everything else that a connection is held to.

use std::fs;
use std::process::Command;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::edge::listener;
use super::*;

/// Makes an authority, and certificates for hosts and a client that it vouches for.
const CERTIFICATES: &str = r#"
set -e
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -keyout ca.key -out ca.pem -days 2 -subj /CN=authority 2>/dev/null
for name in a b client; do
  openssl req $new -keyout $name.key -out $name.csr -subj /CN=$name 2>/dev/null
  printf "subjectAltName=DNS:$name.example,DNS:*.$name.example\nbasicConstraints=CA:FALSE\n" >$name.ext
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext \
    -out $name.pem 2>/dev/null
done
"#;

/// Certificates in a folder of their own.
struct Made(TempDir);

impl Made {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("sh")
            .args(["-c", CERTIFICATES])
            .current_dir(folder.path())
            .status();
        assert!(made.unwrap().success());
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A listener with the certificates of `a` and `b`.
    fn listener(&self, more: &str) -> ListenerConfig {
        let certificate = |name: &str| {
            let (cert, key) = (
                self.path(&format!("{name}.pem")),
                self.path(&format!("{name}.key")),
            );
            format!("{{ cert = {cert:?}, key = {{ file = {key:?} }} }}")
        };
        let more = more.replace("FOLDER", &self.0.path().display().to_string());
        listener(&format!(
            "address = \"127.0.0.1:0\"\n\
             tls = {{ certificates = [{}, {}] {more} }}",
            certificate("a"),
            certificate("b"),
        ))
    }

    fn start(&self, limits: &Limits) -> Running {
        start_at(&self.listener(""), limits)
    }

    /// A client that trusts the authority.
    fn client(&self, alpn: &[&str], shows: Option<&str>) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shows {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.pem")));
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                builder
                    .with_client_auth_cert(vec![chain.unwrap()], key.unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Asks for early data wherever a ticket allows that.
        config.enable_early_data = true;
        TlsConnector::from(Arc::new(config))
    }
}

async fn connect(
    running: &Running,
    client: &TlsConnector,
    host: &'static str,
) -> io::Result<ClientStream<TcpStream>> {
    let socket = running.connect().await;
    let host = ServerName::try_from(host).unwrap();
    timeout(FOREVER, client.connect(host, socket))
        .await
        .expect("a handshake's end")
}

/// The host that the shown certificate is for.
fn shown(made: &Made, stream: &ClientStream<TcpStream>) -> &'static str {
    let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
    let is = |name: &str| {
        *shown == CertificateDer::from_pem_file(made.path(&format!("{name}.pem"))).unwrap()
    };
    ["a", "b"]
        .into_iter()
        .find(|name| is(name))
        .unwrap_or("another")
}

fn failures(running: &Running, failure: HandshakeFailure) -> u64 {
    running.entrance.tls().unwrap().failures()[failure as usize]
}

#[tokio::test]
async fn the_protocol_is_chosen_in_the_handshake_and_held_to() {
    let made = Made::new();
    let running = made.start(&limits());
    for alpn in [&["http/1.1"][..], &[]] {
        let mut stream = connect(&running, &made.client(alpn, None), "a.example")
            .await
            .unwrap();
        say(&mut stream, get("/")).await;
        hear(&mut stream, "\r\n\r\nok").await;
        // HTTP/2 was not chosen: its preface is a bad request line.
        let mut stream = connect(&running, &made.client(alpn, None), "a.example")
            .await
            .unwrap();
        say(&mut stream, PREFACE).await;
        let heard = String::from_utf8(hear_all(&mut stream).await).unwrap();
        assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    }
    let stream = connect(
        &running,
        &made.client(&["h2", "http/1.1"], None),
        "a.example",
    )
    .await
    .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut http2, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    assert_eq!(ask(&mut http2, "/").await, (StatusCode::OK, "ok".into()));
    let (status, body) = ask(&mut http2, "/large").await;
    assert_eq!((status, body.len()), (StatusCode::OK, LARGE));
    let mut stream = connect(&running, &made.client(&["h2"], None), "a.example")
        .await
        .unwrap();
    say(&mut stream, get("/")).await;
    let heard = String::from_utf8_lossy(&hear_all(&mut stream).await).into_owned();
    assert!(!heard.contains("HTTP/1.1"), "{heard}");
    let refused = connect(&running, &made.client(&["spdy/3"], None), "a.example").await;
    assert!(refused.is_err());
    assert_eq!(failures(&running, HandshakeFailure::Incompatible), 1);
}

#[tokio::test]
async fn the_certificate_is_the_one_of_the_host_and_else_the_first() {
    let made = Made::new();
    let running = made.start(&limits());
    let client = made.client(&[], None);
    for (host, expected) in [
        ("a.example", "a"),
        ("b.example", "b"),
        ("B.Example", "b"),
        ("www.b.example", "b"),
        ("deep.www.b.example", "a"),
        ("c.example", "a"),
        ("127.0.0.1", "a"),
    ] {
        let stream = connect(&running, &client, host).await;
        match stream {
            Ok(stream) => assert_eq!(shown(&made, &stream), expected, "{host}"),
            // The client finds that it is not the host's.
            Err(_) => assert_eq!(expected, "a", "{host}"),
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_and_its_request_waits_for_the_handshake() {
    let made = Made::new();
    let running = made.start(&limits());
    let client = made.client(&["http/1.1"], None);
    for resumed in [false, true, true] {
        let mut stream = connect(&running, &client, "a.example").await.unwrap();
        assert!(!stream.get_ref().1.is_early_data_accepted());
        say(&mut stream, get("/")).await;
        hear(&mut stream, "ok").await;
        let kind = stream.get_ref().1.handshake_kind();
        let is_resumed = kind == Some(rustls::HandshakeKind::Resumed);
        assert_eq!(is_resumed, resumed, "{kind:?}");
        // No ticket allows early data at all.
        assert!(stream.get_mut().1.early_data().is_none());
    }
}

#[tokio::test]
async fn clients_show_certificates_where_they_have_to_and_only_good_ones() {
    let made = Made::new();
    let other = Made::new();
    let ask = async |running: &Running, client: &TlsConnector| {
        let mut stream = connect(running, client, "a.example").await.ok()?;
        stream.write_all(get("/").as_bytes()).await.ok()?;
        let heard = hear_all_or(&mut stream, "\r\n\r\nok").await;
        heard.ends_with(b"ok").then_some(())
    };
    for (auth, without) in [("required", None), ("optional", Some(()))] {
        let more = format!(", client_ca = \"FOLDER/ca.pem\", client_auth = {auth:?}");
        let running = start_at(&made.listener(&more), &limits());
        assert_eq!(
            ask(&running, &made.client(&[], Some("client"))).await,
            Some(()),
            "{auth}"
        );
        assert_eq!(
            ask(&running, &made.client(&[], None)).await,
            without,
            "{auth}"
        );
        let before = failures(&running, HandshakeFailure::ClientCertificate);
        fs::copy(other.path("client.pem"), made.path("other.pem")).unwrap();
        fs::copy(other.path("client.key"), made.path("other.key")).unwrap();
        assert_eq!(
            ask(&running, &made.client(&[], Some("other"))).await,
            None,
            "{auth}"
        );
        let after = failures(&running, HandshakeFailure::ClientCertificate);
        assert_eq!(after - before, 1, "{auth}");
    }
}

/// Reads until this, or to the end.
async fn hear_all_or(stream: &mut (impl AsyncRead + Unpin), end: &str) -> Vec<u8> {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        match timeout(FOREVER, stream.read_buf(&mut heard))
            .await
            .expect("an end")
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    heard
}

#[tokio::test]
async fn new_certificates_are_used_and_bad_ones_are_not_and_connections_stay() {
    let (made, new) = (Made::new(), Made::new());
    let running = made.start(&limits());
    let tls = running.entrance.tls().unwrap();
    let mut look = None;
    // Judged when they have stayed the same for two looks.
    let mut looks = || {
        tls.look(&mut look);
        tls.look(&mut look)
    };
    assert!(matches!(looks(), Change::None));
    let mut old = connect(&running, &made.client(&[], None), "a.example")
        .await
        .unwrap();
    say(&mut old, get("/")).await;
    hear(&mut old, "ok").await;

    fs::copy(new.path("a.pem"), made.path("a.pem")).unwrap();
    let refused = looks();
    let Change::Refused(error) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.to_string().contains("is not the key of"), "{error}");
    // It is said once.
    assert!(matches!(looks(), Change::None));
    assert!(
        connect(&running, &made.client(&[], None), "a.example")
            .await
            .is_ok()
    );
    fs::copy(new.path("a.key"), made.path("a.key")).unwrap();
    assert!(matches!(looks(), Change::Used));
    assert!(
        connect(&running, &made.client(&[], None), "a.example")
            .await
            .is_err()
    );
    assert!(
        connect(&running, &new.client(&[], None), "a.example")
            .await
            .is_ok()
    );
    fs::remove_file(made.path("b.key")).unwrap();
    assert!(matches!(looks(), Change::Refused(_)));
    assert!(matches!(looks(), Change::None));
    assert!(
        connect(&running, &new.client(&[], None), "a.example")
            .await
            .is_ok()
    );

    say(&mut old, get("/")).await;
    hear(&mut old, "ok").await;
}

/// Certificates may go between the reading of a configuration and its use.
#[tokio::test]
async fn a_listener_that_changes_and_whose_certificate_has_gone_refuses_the_change_and_stays() {
    let made = Made::new();
    let (before, mut after) = (made.listener(""), made.listener(""));
    after.proxy_protocol = true;
    let (server, listeners) = Server::bind(&[before], &limits()).unwrap();
    let entrance = Arc::clone(&listeners.entrances()[0]);
    assert!(listeners.prepare(std::slice::from_ref(&after)).is_ok());
    fs::remove_file(made.path("b.key")).unwrap();
    let refused = listeners.prepare(std::slice::from_ref(&after));
    let refused = refused.err().expect("a certificate that has gone");
    assert!(refused.to_string().contains("b.key"), "{refused}");
    assert!(Arc::ptr_eq(&entrance, &listeners.entrances()[0]));
    drop(server);
}

/// Puts a certificate that has expired in the place of the first one, for the same key.
const EXPIRED: &str = r#"
set -e
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n[e]\nbasicConstraints=CA:FALSE\n' >ca.conf
touch index
echo 01 >serial
openssl ca -batch -notext -config ca.conf -extensions e -selfsign -keyfile a.key -in a.csr -out a.pem \
  -startdate 20200101000000Z -enddate 20200102000000Z 2>/dev/null
"#;

#[tokio::test]
async fn a_certificate_that_has_expired_does_not_take_the_place_of_one_that_has_not() {
    let made = Made::new();
    let running = made.start(&limits());
    let client = made.client(&[], None);
    let expired = Command::new("sh")
        .args(["-c", EXPIRED])
        .current_dir(made.0.path())
        .status();
    assert!(expired.unwrap().success());
    let tls = running.entrance.tls().unwrap();
    let mut look = None;
    tls.look(&mut look);
    let refused = tls.look(&mut look);
    assert!(
        matches!(refused, Change::Refused(TlsFilesError::Expired)),
        "{refused:?}"
    );
    assert!(connect(&running, &client, "a.example").await.is_ok());
    // A start takes what there is: the clients may know better.
    assert!(Server::bind(&[made.listener("")], &limits()).is_ok());
}

#[tokio::test]
async fn a_change_is_judged_once_it_is_over() {
    let (made, new) = (Made::new(), Made::new());
    let running = made.start(&limits());
    let tls = running.entrance.tls().unwrap();
    let mut look = None;
    for file in ["a.pem", "a.key"] {
        fs::copy(new.path(file), made.path(file)).unwrap();
        assert!(matches!(tls.look(&mut look), Change::None), "{file}");
    }
    assert!(matches!(tls.look(&mut look), Change::Used));
}

#[tokio::test]
async fn a_client_that_is_silent_in_its_handshake_is_closed() {
    let made = Made::new();
    let silent_before = made.start(&Limits {
        first_byte: SHORT,
        ..limits()
    });
    let mut socket = silent_before.connect().await;
    ends_silently(&mut socket, SHORT, FOREVER).await;
    assert_eq!(
        silent_before.counters.snapshot().closed[Limit::FirstByte as usize],
        1
    );

    let silent_within = made.start(&Limits {
        headers: SHORT,
        ..limits()
    });
    // The beginning of a record that is never whole.
    let mut socket = silent_within.connect().await;
    say(&mut socket, [0x16, 3, 1, 2, 0, 1]).await;
    ends_silently(&mut socket, SHORT, FOREVER).await;
    assert_eq!(
        silent_within.counters.snapshot().closed[Limit::Headers as usize],
        1
    );
    assert_eq!(failures(&silent_within, HandshakeFailure::TimedOut), 1);

    // And behind it, like everybody else.
    let mut stream = connect(&silent_before, &made.client(&[], None), "a.example")
        .await
        .unwrap();
    ends_silently(&mut stream, SHORT, FOREVER).await;
    let mut stream = connect(&silent_within, &made.client(&[], None), "a.example")
        .await
        .unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nho").await;
    ends_silently(&mut stream, SHORT, FOREVER).await;
}

#[tokio::test]
async fn half_of_the_connections_may_be_in_a_handshake_and_no_more() {
    let made = Made::new();
    let running = made.start(&Limits {
        max_connections: 4,
        ..limits()
    });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = running.connect().await;
        say(&mut socket, [0x16]).await;
        held.push(socket);
    }
    let refused = async || loop {
        if connect(&running, &made.client(&[], None), "a.example")
            .await
            .is_err()
        {
            return;
        }
    };
    timeout(FOREVER, refused())
        .await
        .expect("a handshake too many");
    assert!(failures(&running, HandshakeFailure::Overloaded) >= 1);
    drop(held);
    let served = async || loop {
        if connect(&running, &made.client(&[], None), "a.example")
            .await
            .is_ok()
        {
            return;
        }
    };
    timeout(FOREVER, served())
        .await
        .expect("room for a handshake");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped_though_there_is_room_to_encrypt_into() {
    let made = Made::new();
    let running = made.start(&Limits {
        body_idle: SHORT,
        ..limits()
    });
    let dropped = running.token();
    let mut stream = connect(&running, &made.client(&[], None), "a.example")
        .await
        .unwrap();
    say(&mut stream, get("/flood")).await;
    dropped.await;
    assert_eq!(
        running.counters.snapshot().closed[Limit::BodyIdle as usize],
        1
    );
}

#[tokio::test]
async fn what_is_no_tls_is_told_so_and_counted() {
    let made = Made::new();
    let running = made.start(&limits());
    let mut socket = running.connect().await;
    say(&mut socket, get("/")).await;
    let heard = hear_all(&mut socket).await;
    assert!(!heard.starts_with(b"HTTP"), "{heard:?}");
    assert_eq!(failures(&running, HandshakeFailure::Invalid), 1);
    // A client that does not know the authority says so.
    let other = Made::new();
    assert!(
        connect(&running, &other.client(&[], None), "a.example")
            .await
            .is_err()
    );
    let told = async || {
        while failures(&running, HandshakeFailure::RefusedByClient) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(FOREVER, told()).await.expect("the client's alert");
}

#[tokio::test]
async fn a_drain_says_goodbye_over_tls_and_a_full_server_says_so() {
    let made = Made::new();
    let running = made.start(&Limits {
        max_connections: 2,
        ..limits()
    });
    let client = made.client(&["http/1.1"], None);
    let mut busy = connect(&running, &client, "a.example").await.unwrap();
    say(&mut busy, get("/hold")).await;
    running.paths.begun.notified().await;
    let mut idle = connect(&running, &client, "a.example").await.unwrap();
    say(&mut idle, get("/")).await;
    hear(&mut idle, "ok").await;

    let mut third = connect(&running, &client, "a.example").await.unwrap();
    say(&mut third, get("/")).await;
    let heard = String::from_utf8(hear_all(&mut third).await).unwrap();
    assert!(
        heard.starts_with("HTTP/1.1 503 ") && heard.ends_with("{\"title\":\"full\"}"),
        "{heard}"
    );

    running.drain_within(FOREVER);
    assert_eq!(hear_all(&mut idle).await, b"");
    running.paths.may_answer.notify_one();
    let heard = String::from_utf8(hear_all(&mut busy).await).unwrap();
    assert!(
        heard.contains("connection: close") && heard.ends_with("held"),
        "{heard}"
    );
    running.ended().await;
}
