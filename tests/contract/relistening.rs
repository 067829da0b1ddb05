//! Listeners that come, go and change while the gateway runs, and loads that notice nothing of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::{
    Act, Answer, Authority, Connection, Gate, Gateway, Problem, Request, Setup, ToyUpstream,
    free_port, payment, until, within,
};

/// The listener that every gateway of a test has.
const FIRST: &str = "\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n";

/// This configuration, with the first listener and others.
fn with(setup: &Setup, others: &[&str]) -> String {
    let mut toml = format!("{}{FIRST}", setup.toml());
    for other in others {
        toml.push_str(&format!("[[listeners]]\n{other}\n"));
    }
    toml
}

/// A free address, and a listener on it.
fn another() -> (SocketAddr, String) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    (address, format!("address = \"{address}\""))
}

async fn is_refused(address: SocketAddr) {
    until("connections to be refused", || async {
        Connection::try_open(address).await.err()
    })
    .await;
}

/// What the reload was refused for.
async fn refusal(gateway: &Gateway, toml: &str) -> String {
    assert!(!gateway.reload(toml).await);
    let said = gateway.log().message(REFUSED).await;
    said["error"].as_str().expect("a reason").to_owned()
}

const REFUSED: &str = "the configuration was read again and cannot be used; the one in force stays";

#[tokio::test]
async fn one_that_is_added_is_opened_and_one_that_is_removed_ends_when_its_requests_have() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let mut kept = gateway.connect().await;
    kept.send(&payment("a")).await.is(201, "executed");
    let (address, other) = another();
    assert!(gateway.reload(&with(&setup, &[&other])).await);
    let mut there = Connection::open(address).await;
    there.send(&payment("b")).await.is(201, "executed");

    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    there.write_request(&payment("c")).await;
    upstream.received_at_least(3).await;
    let mut idle = Connection::open(address).await;
    idle.send(&payment("b")).await.is(201, "replayed");
    assert!(gateway.reload(&setup.toml()).await);
    is_refused(address).await;
    // It was told by nothing yet.
    let answer = idle.send(&payment("b")).await;
    answer.is(201, "replayed");
    assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
    idle.closed().await;
    gate.open();
    let answer = there.answer().await;
    assert_eq!(answer.is(201, "executed").text(), "paid");
    assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
    there.closed().await;
    kept.send(&payment("c")).await.is(201, "replayed");

    assert!(gateway.reload(&with(&setup, &[&other])).await);
    let mut again = Connection::open(address).await;
    again.send(&payment("c")).await.is(201, "replayed");
}

#[tokio::test]
async fn a_listener_that_is_gone_is_cut_off_after_drain_timeout() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .top("drain_timeout = \"500ms\"")
        .rest_passes();
    let (address, other) = another();
    let gateway = Gateway::start(&with(&setup, &[&other])).await;
    let never = Gate::closed();
    upstream.next(Act::event_stream().chunk("data: 1\n\n").then_wait(&never));
    let mut endless = Connection::open(address).await;
    endless.write_request(&Request::get("/events")).await;
    assert_eq!(endless.answer_head().await.0, 200);
    assert!(gateway.reload(&setup.toml()).await);
    endless.closed().await;
    gateway.send(&payment("a")).await.is(201, "executed");
}

#[tokio::test]
async fn who_comes_after_a_change_meets_the_listener_as_it_is_now_and_the_others_stay() {
    let authority = Authority::new();
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let seen = async |connection: &mut Connection, key: &str| {
        let request = payment(key).header("X-Forwarded-For", "192.0.2.7");
        connection.send(&request).await.is(201, "executed");
        let sent = upstream.next_request().await;
        sent.header("X-Forwarded-For").map(str::to_owned)
    };
    let mut before = gateway.connect().await;
    assert_eq!(seen(&mut before, "a").await.as_deref(), Some("127.0.0.1"));

    let trusting = with(&setup, &[]).replace(FIRST, &format!("{FIRST}{TRUSTING}"));
    assert!(gateway.reload(&trusting).await);
    assert_eq!(seen(&mut before, "b").await.as_deref(), Some("127.0.0.1"));
    let mut after = gateway.connect().await;
    let chain = seen(&mut after, "c").await;
    assert_eq!(chain.as_deref(), Some("192.0.2.7, 127.0.0.1"));

    let encrypted = with(&setup, &[]).replace(FIRST, &authority.listener());
    assert!(gateway.reload(&encrypted).await);
    before.send(&payment("a")).await.is(201, "replayed");
    let mut tls = authority
        .connect(gateway.address, "http/1.1")
        .await
        .expect("a handshake");
    let get = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    tls.write_all(get).await.expect("a stream");
    let mut said = [0; 12];
    within("an answer", tls.read_exact(&mut said))
        .await
        .expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 404");
    let mut plain = gateway.connect().await;
    assert!(plain.try_send(&payment("a")).await.is_none());
    let expires = "oncegate_tls_certificate_expiry_timestamp_seconds";
    assert!(has_series(&gateway, expires).await);

    assert!(gateway.reload(&with(&setup, &[])).await);
    gateway.send(&payment("a")).await.is(201, "replayed");
    assert!(!has_series(&gateway, expires).await);
}

const TRUSTING: &str = "trusted_proxies = [\"127.0.0.1\"]\n";

async fn has_series(gateway: &Gateway, name: &str) -> bool {
    let series = gateway.metrics().await.series();
    series.iter().any(|one| one.starts_with(name))
}

#[tokio::test]
async fn a_listener_that_cannot_be_opened_keeps_everything_as_it_was() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let (free, other) = another();
    let changed = setup
        .clone()
        .limits("max_connections = 1")
        .another_route("name = \"refund\"\npath = \"/v1/refunds\"\nkey_required = false");
    let cannot = format!("address = \"{}\"", gateway.admin);
    let toml = with(&changed, &[&other, &cannot]);
    let error = refusal(&gateway, &toml).await;
    let expected = format!("cannot listen on {}: ", gateway.admin);
    assert!(error.starts_with(&expected), "{error}");
    is_refused(free).await;
    let refund = Request {
        target: "/v1/refunds".to_owned(),
        ..payment("r")
    };
    let mut one = gateway.connect().await;
    one.send(&refund).await.is_problem(Problem::NO_ROUTE);
    gateway.send(&payment("a")).await.is(201, "executed");
    // Without the bad one all of it is.
    assert!(gateway.reload(&with(&changed, &[&other])).await);
    one.send(&refund).await.is(201, "executed");
    drop(one);
    until("its place to be free", || async {
        let mut there = Connection::open(free).await;
        let answer = there.try_send(&payment("a")).await?;
        (answer.status == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_listener_whose_certificate_cannot_be_read_keeps_everything_as_it_was() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let tls = "tls = { certificates = [{ cert = \"gone.pem\", key = { file = \"gone.key\" } }] }";
    let toml = with(&setup, &[]).replace(FIRST, &format!("{FIRST}{tls}\n"));
    let error = refusal(&gateway, &toml).await;
    assert!(error.contains("gone.pem"), "{error}");
    gateway.send(&payment("a")).await.is(201, "executed");
}

#[tokio::test]
async fn a_unix_socket_comes_with_its_permissions_gets_others_and_goes() {
    use std::os::unix::fs::PermissionsExt;

    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let gateway = setup.start().await;
    let path = gateway.directory().join("gate.sock");
    let mode = || {
        let found = std::fs::metadata(&path).map(|found| found.permissions().mode() & 0o777);
        found.ok()
    };
    let socket = |mode: &str| format!("address = \"unix:gate.sock\"\nmode = \"{mode}\"");
    assert!(gateway.reload(&with(&setup, &[&socket("0600")])).await);
    assert_eq!(mode(), Some(0o600));
    assert!(gateway.reload(&with(&setup, &[&socket("0640")])).await);
    assert_eq!(mode(), Some(0o640));
    let mut client = UnixStream::connect(&path).await.expect("a connection");
    let get = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(get).await.expect("a socket");
    let mut said = String::new();
    within("an answer", client.read_to_string(&mut said))
        .await
        .expect("an answer");
    assert!(said.starts_with("HTTP/1.1 404"), "{said}");
    assert!(gateway.reload(&setup.toml()).await);
    until("the file to be gone", || async {
        mode().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_passed_socket_is_never_left_to_nobody() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream);
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gateway = Gateway::start_on(socket, &setup.toml()).await;
    let (free, other) = another();
    let toml = setup.toml() + "\n[[listeners]]\n" + &other + "\n";
    let error = refusal(&gateway, &toml).await;
    let expected = format!("cannot listen on {}: a socket with this", gateway.address);
    assert!(error.starts_with(&expected), "{error}");
    is_refused(free).await;
    gateway.send(&payment("a")).await.is(201, "executed");
}

/// A new connection, where there can be one, and the answer to its first request.
async fn first_on(address: SocketAddr, request: &Request) -> Option<(Connection, Answer)> {
    let answered = async {
        let mut connection = Connection::try_open(address).await.ok()?;
        let answer = connection.try_send(request).await?;
        Some((connection, answer))
    };
    let answered = answered.await;
    if answered.is_none() {
        // Nothing tells when it is there again.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answered
}

/// How often the configuration is read again within the load below.
const RELOADS: usize = 20;

#[tokio::test]
async fn twenty_reloads_of_limits_listeners_and_routes_within_a_load_fail_no_request() {
    let upstream = ToyUpstream::start();
    // A busy machine's disk is nobody's failed request.
    let setup = Setup::payments(&upstream)
        .embedded()
        .store("timeout = \"5s\"");
    let (address, other) = another();
    let less = with(&setup, &[]);
    let more = with(
        &setup
            .clone()
            .limits("max_connections = 300")
            .limits("max_buffered = \"32MiB\"")
            .limits("max_waiters = 20")
            .limits("max_late = 20")
            .limits("keep_alive = \"20s\"")
            .limits("replay_cache = \"1MiB\"")
            .another_route("name = \"refund\"\npath = \"/v1/refunds\"\nkey_required = false"),
        &[&other],
    )
    .replace(FIRST, &format!("{FIRST}{TRUSTING}"));
    let gateway = Gateway::start(&less).await;
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let keeps = |address: SocketAddr, name: String, is_steady: bool| {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        tokio::spawn(async move {
            let mut number = 0;
            let mut connection = None;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let request = payment(&format!("{name}-{number}"));
                let (kept, answer) = match connection.take() {
                    // The listener is there now and then, and the kernel takes connections until it goes.
                    None if !is_steady => match first_on(address, &request).await {
                        Some(answered) => answered,
                        None => continue,
                    },
                    kept => {
                        let mut kept: Connection = match kept {
                            Some(kept) => kept,
                            None => Connection::open(address).await,
                        };
                        let answer = kept.send(&request).await;
                        (kept, answer)
                    }
                };
                answer.is(201, "executed");
                sent.fetch_add(1, Ordering::Relaxed);
                let closes = answer.header("Connection") == Some("close");
                // Some come anew for every request.
                connection = (!closes && !name.starts_with("new")).then_some(kept);
            }
        })
    };
    let load = [
        keeps(gateway.address, "kept".to_owned(), true),
        keeps(gateway.address, "kept-too".to_owned(), true),
        keeps(gateway.address, "new".to_owned(), true),
        keeps(address, "there".to_owned(), false),
    ];
    for round in 0..RELOADS {
        let before = sent.load(Ordering::Relaxed);
        let toml = if round % 2 == 0 { &more } else { &less };
        assert!(gateway.reload(toml).await);
        until("some answers", || async {
            (sent.load(Ordering::Relaxed) > before + 10).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("no request fails");
    }
    assert_eq!(upstream.charges(), sent.load(Ordering::Relaxed));
    let charges = upstream.charges_by_key();
    assert!(charges.keys().any(|key| key.starts_with("there")));
    assert!(charges.values().all(|count| *count == 1));
}
