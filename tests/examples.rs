//! The ready configurations under `config/`: each is loaded, and each does before a real upstream what it is there
//! for. Only ports and paths are replaced.

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use oncegate::config::{Config, StoreLocation};
use oncegate::store::Redis;
use support::{
    Act, Authority, Connection, Engine, Gate, Gateway, Http2, RedisCluster, RedisServer, Request,
    ToyUpstream, free_port, payment, until, within,
};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixStream};

/// The examples that a test below exercises, by name. One that is not among them fails
/// [`every_example_is_exercised`].
const EXERCISED: [&str; 15] = [
    "ci", "cluster", "edge", "grpc", "observe", "oncegate", "payments", "probe", "queue", "redis",
    "sentinel", "services", "sidecar", "strict", "webhooks",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// The examples by name, in the order of the alphabet.
fn names() -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .map(|path| {
            let name = path.file_stem().and_then(|name| name.to_str());
            name.expect("a name of letters").to_owned()
        })
        .collect()
}

/// An example as it is, but for where it listens, where it sends and where it keeps.
async fn start(name: &str, upstreams: &[&ToyUpstream]) -> Gateway {
    start_with(&text_of(name, upstreams)).await
}

/// It waits for longer than it says for a disk that is busy with something else.
async fn start_with(text: &str) -> Gateway {
    const WRITTEN: &str = "\ntimeout = \"250ms\"";
    const PATIENT: &str = "\ntimeout = \"5s\"";
    let text = if text.contains(WRITTEN) {
        text.replace(WRITTEN, PATIENT)
    } else if text.contains("\n[store]") {
        text.replace("\n[store]", &format!("\n[store]{PATIENT}"))
    } else {
        format!("{text}\n[store]{PATIENT}\n")
    };
    Gateway::start(&text).await
}

/// Its text.
fn text_of(name: &str, upstreams: &[&ToyUpstream]) -> String {
    let path = folder().join(format!("{name}.toml"));
    let mut text = std::fs::read_to_string(path).expect("an example");
    for (index, upstream) in upstreams.iter().enumerate() {
        let written = format!("http://127.0.0.1:{}", 9000 + index);
        assert!(text.contains(&written), "{name} has no {written}");
        text = text.replace(&written, &upstream.url());
    }
    // The gateway is started in a folder of its own.
    text.replace("embedded:/var/lib/oncegate/", "embedded:")
}

/// The secrets that the examples name, and where they are instead.
fn secrets() -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("redis"), "hunter2\n").expect("a file");
    std::fs::write(directory.path().join("oncegate-id"), "k".repeat(32)).expect("a file");
    let authority = Authority::new();
    for name in ["api", "partner"] {
        for (made, named) in [("gate.pem", "chain"), ("gate.key", "key")] {
            let path = directory.path().join(format!("{name}-{named}"));
            std::fs::copy(authority.path(made), path).expect("a file");
        }
    }
    let path = directory.path().display().to_string();
    (directory, path)
}

#[test]
fn every_example_can_be_loaded() {
    for name in names() {
        let (directory, path) = secrets();
        let text = text_of(&name, &[]).replace("/run/secrets", &path);
        let path = directory.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).expect("a file");
        if let Err(faults) = Config::load(&path) {
            panic!("{faults}");
        }
    }
}

#[test]
fn every_example_is_exercised() {
    let exercised: BTreeSet<String> = EXERCISED.map(str::to_owned).into();
    assert_eq!(names(), exercised, "config/ and the tests below differ");
}

#[tokio::test]
async fn sidecar_protects_payments_and_passes_the_rest() {
    let upstream = ToyUpstream::start();
    let gateway = start("sidecar", &[&upstream]).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    let keyless = payment("k").without("Idempotency-Key");
    gateway.send(&keyless).await.is(400, "refused");
    gateway
        .send(&Request::get("/v1/payments"))
        .await
        .is(201, "");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn oncegate_protects_payments_and_passes_the_rest() {
    let upstream = ToyUpstream::start();
    let gateway = start("oncegate", &[&upstream]).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    let other = payment("k").body("{\"amount\":200}");
    gateway.send(&other).await.is(422, "refused");
    gateway.send(&Request::get("/else")).await.is(201, "");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn observe_passes_payments_and_counts_those_that_enforcing_would_have_replayed() {
    let upstream = ToyUpstream::start();
    let gateway = start("observe", &[&upstream]).await;
    gateway.send(&payment("k")).await.is(201, "observed");
    let labels = [("route", "create-payment"), ("would_be", "replayed")];
    let mut sent = 1;
    // What is observed is noted beside the request: a duplicate that is quick may meet the first one still in progress.
    loop {
        gateway.send(&payment("k")).await.is(201, "observed");
        sent += 1;
        assert_eq!(upstream.charges(), sent);
        until("the duplicate to be counted", || async {
            let counted = gateway.metrics().await.all_decisions("create-payment");
            (counted == sent as u64).then_some(())
        })
        .await;
        let metrics = gateway.metrics().await;
        if metrics.value("oncegate_observed_total", &labels) >= Some(1.0) {
            break;
        }
        assert!(sent < 10, "no duplicate would have been replayed");
    }
}

#[tokio::test]
async fn grpc_makes_a_payment_once_and_passes_other_calls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let calls = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve_calls(listener, Arc::clone(&calls)));
    let text = text_of("grpc", &[]).replace("127.0.0.1:9000", &address);
    let gateway = start_with(&text).await;
    let client = Http2::open(gateway.address).await;
    let call = |method: &str| {
        Request::post(&format!("/payments.v1.Payments/{method}"))
            .auth("Bearer alice")
            .key("k")
            .header("Content-Type", "application/grpc")
            .header("TE", "trailers")
            .body(b"\0\0\0\0\x01a")
    };
    for (method, status) in [("Create", "executed"), ("Create", "replayed"), ("Find", "")] {
        let answer = client.send(&call(method)).await;
        answer.is(200, status);
        assert_eq!(answer.body, b"\0\0\0\0\x01b");
        assert_eq!(answer.trailers.all("grpc-status"), ["0"]);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let keyless = client
        .send(&call("Create").without("Idempotency-Key"))
        .await;
    assert_eq!(keyless.header("grpc-status"), Some("3"), "{keyless:?}");
}

/// Answers every call, over HTTP/2 and nothing else, with one message.
async fn serve_calls(listener: TcpListener, calls: Arc<AtomicUsize>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let calls = Arc::clone(&calls);
        let service = service_fn(move |request: http::Request<Incoming>| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move {
                request.into_body().collect().await?;
                let status = [(
                    http::HeaderName::from_static("grpc-status"),
                    http::HeaderValue::from_static("0"),
                )];
                let frames = [
                    Frame::data(Bytes::from_static(b"\0\0\0\0\x01b")),
                    Frame::trailers(http::HeaderMap::from_iter(status)),
                ];
                let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
                let answer = http::Response::builder().header("content-type", "application/grpc");
                let answer = answer.body(StreamBody::new(frames)).expect("an answer");
                Ok::<_, hyper::Error>(answer)
            }
        });
        let http2 = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
    }
}

#[tokio::test]
async fn probe_asks_the_provider_what_became_of_a_payment_that_it_did_not_answer() {
    const KEY: &str = "7f5e2c9a-0d5b-4c7e-9a51-2f6f0e6f0a11";
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.method.as_str() {
        "GET" => Act::respond(200, &[("X-Cost", "1")], "{ \"id\": \"ch_1\" }"),
        _ => Act::reset_after_reading(),
    });
    let gateway = start("probe", &[&upstream]).await;
    gateway.send(&payment(KEY)).await.is(502, "unknown");
    let second = gateway.send(&payment(KEY)).await;
    assert_eq!(second.is(201, "replayed").text(), "{\"id\":\"ch_1\"}");
    let target = format!("/v1/payments/by-key/{KEY}");
    assert_eq!(upstream.requests()[1].target, target);
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn payments_lets_duplicates_wait_knows_a_payment_in_another_order_and_serves_the_keyless() {
    let upstream = ToyUpstream::start();
    let gateway = start("payments", &[&upstream]).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "ch_1").after(&gate));
    let ordered = |body: &str| payment("k").body(body);
    let first = gateway.spawn(&ordered("{\"amount\":100,\"currency\":\"eur\"}"));
    upstream.next_request().await;
    let second = gateway.spawn(&ordered("{\"currency\":\"eur\",\"amount\":100}"));
    waits(&gateway).await;
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    second.await.expect("an answer").is(201, "replayed");
    let other = ordered("{\"amount\":200,\"currency\":\"eur\"}");
    gateway.send(&other).await.is(422, "refused");
    let keyless = payment("k").without("Idempotency-Key");
    gateway.send(&keyless).await.is(201, "unkeyed");
    assert_eq!(upstream.charges(), 2);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.decisions("write", "joined"), 1);
}

#[tokio::test]
async fn edge_takes_payments_over_tls_through_a_balancer_and_over_a_socket() {
    let upstream = ToyUpstream::start();
    let authority = Arc::new(Authority::new());
    let port = free_port();
    let text = text_of("edge", &[&upstream])
        .replace("0.0.0.0:8443", "127.0.0.1:8080")
        .replace("0.0.0.0:8081", &format!("127.0.0.1:{port}"))
        .replace("/run/secrets/api-chain", &authority.path("gate.pem"))
        .replace("/run/secrets/partner-chain", &authority.path("gate.pem"))
        .replace("/run/secrets/api-key", &authority.path("gate.key"))
        .replace("/run/secrets/partner-key", &authority.path("gate.key"));
    let gateway = start_with(&text).await;
    let passage = authority.passage(gateway.address).await;
    let mut client = Connection::open(passage).await;
    client.send(&payment("k")).await.is(201, "executed");

    let balanced = SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = Connection::open(balanced).await;
    client
        .write(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n")
        .await;
    let same_host = payment("k").header("Host", &passage.to_string());
    client.send(&same_host).await.is(201, "replayed");
    client.send(&Request::get("/else")).await.is(201, "");
    upstream.next_request().await;
    let sent = upstream.next_request().await;
    assert_eq!(sent.header("X-Forwarded-For"), Some("192.0.2.7"));

    let path = gateway.directory().join("oncegate.sock");
    let mut socket = UnixStream::connect(path).await.expect("a socket");
    let request =
        "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.8\r\nConnection: close\r\n\r\n";
    socket
        .write_all(request.as_bytes())
        .await
        .expect("a socket");
    assert_eq!(
        upstream.next_request().await.header("X-Forwarded-For"),
        Some("192.0.2.8")
    );
    assert_eq!(upstream.charges(), 3);
}

/// Returns once a duplicate waits for the first.
async fn waits(gateway: &Gateway) {
    until("a duplicate to wait", || async {
        let metrics = gateway.metrics().await;
        let waiting = metrics.value("oncegate_waiters", &[])?;
        (waiting >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn webhooks_takes_an_event_once_by_the_id_that_its_provider_gives_it() {
    let upstream = ToyUpstream::start();
    let gateway = start("webhooks", &[&upstream]).await;
    let event = |header: &str, id: &str| {
        Request::post("/webhooks/orders")
            .header(header, id)
            .header("Webhook-Signature", &fastrand::u64(..).to_string())
            .body("{\"type\":\"paid\"}")
    };
    gateway
        .send(&event("Webhook-Id", "msg_1"))
        .await
        .is(201, "executed");
    gateway
        .send(&event("Webhook-Id", "msg_1"))
        .await
        .is(201, "replayed");
    gateway
        .send(&event("X-GitHub-Delivery", "d-1"))
        .await
        .is(201, "executed");
    gateway
        .send(&event("X-GitHub-Delivery", "d-1"))
        .await
        .is(201, "replayed");
    // The receiver says that it did nothing, and the event comes again.
    upstream.next(Act::respond(500, &[], "no database"));
    gateway
        .send(&event("Webhook-Id", "msg_2"))
        .await
        .is(500, "released");
    gateway
        .send(&event("Webhook-Id", "msg_2"))
        .await
        .is(201, "executed");
    // Nobody knows, and the provider is told to ask again.
    upstream.next(Act::reset_after_reading());
    gateway
        .send(&event("Webhook-Id", "msg_3"))
        .await
        .is(502, "unknown");
    gateway
        .send(&event("Webhook-Id", "msg_3"))
        .await
        .is(503, "unknown");
    assert_eq!(upstream.charges(), 5);
}

#[tokio::test]
async fn services_sends_each_host_to_its_own_service_and_keeps_tenants_apart() {
    let [one, two, payments] = [(); 3].map(|()| ToyUpstream::start());
    let gateway = start("services", &[&one, &two, &payments]).await;
    let create = |host: &str, tenant: &str| {
        Request::post("/v1/things")
            .header("Host", host)
            .header("X-Tenant", tenant)
            .key("k")
            .body("{}")
    };
    let (orders_host, payments_host) = ("orders.example.com", "payments.example.com");
    gateway
        .send(&create(orders_host, "a"))
        .await
        .is(201, "executed");
    gateway
        .send(&create(orders_host, "a"))
        .await
        .is(201, "replayed");
    gateway
        .send(&create(payments_host, "a"))
        .await
        .is(201, "executed");
    gateway
        .send(&create(payments_host, "b"))
        .await
        .is(201, "executed");
    let read = Request::get("/v1/things").header("Host", payments_host);
    gateway.send(&read).await.is(201, "");
    assert_eq!(
        gateway.send(&create("else.example.com", "a")).await.status,
        404
    );
    assert_eq!((one.charges() + two.charges(), payments.charges()), (1, 3));
}

#[tokio::test]
async fn strict_refuses_what_bears_no_proper_key_and_holds_every_error() {
    let upstream = ToyUpstream::start();
    let gateway = start("strict", &[&upstream]).await;
    let transfer = |key: &str| {
        let request = Request::new("PUT", "/transfers/1").key(key).body("{}");
        request.header("X-Tenant", "bank").header("X-User", "alice")
    };
    let (first, second) = (
        "6b1e7b1c-6c1f-4d7e-9a53-0a51f6a1f001",
        "6b1e7b1c-6c1f-4d7e-9a53-0a51f6a1f002",
    );
    gateway.send(&transfer("1")).await.is(400, "refused");
    gateway
        .send(&transfer(first).without("X-User"))
        .await
        .is(401, "refused");
    gateway.send(&transfer(first)).await.is(201, "executed");
    gateway.send(&transfer(first)).await.is(201, "replayed");
    upstream.next(Act::respond(500, &[], "half of it"));
    gateway.send(&transfer(second)).await.is(500, "unknown");
    gateway.send(&transfer(second)).await.is(503, "unknown");
    gateway
        .send(&Request::get("/transfers/1"))
        .await
        .is(201, "");
    assert_eq!(
        gateway
            .send(&Request::new("LOCK", "/transfers/1"))
            .await
            .status,
        404
    );
    assert_eq!(upstream.charges(), 3);
    assert!(gateway.directory().join("records.db").exists());
}

#[tokio::test]
async fn ci_leaves_no_file_and_calls_a_handler_that_hangs_unknown() {
    let upstream = ToyUpstream::start();
    let gateway = start("ci", &[&upstream]).await;
    let write = Request::new("DELETE", "/things/1");
    gateway.send(&write).await.is(400, "refused");
    let write = write.key("k");
    gateway.send(&write).await.is(201, "executed");
    gateway.send(&write).await.is(201, "replayed");
    upstream.next(Act::hang());
    gateway
        .send(&write.clone().key("l"))
        .await
        .is(504, "unknown");
    gateway.send(&write.key("l")).await.is(409, "unknown");
    let files = std::fs::read_dir(gateway.directory()).expect("a folder");
    // The configuration, which the test wrote.
    assert_eq!(files.count(), 1);
}

#[tokio::test]
async fn queue_lets_a_second_delivery_of_a_task_wait_for_the_first() {
    let upstream = ToyUpstream::start();
    let gateway = start("queue", &[&upstream]).await;
    let task = |name: &str| {
        let task = Request::post("/tasks/mail").header("X-CloudTasks-TaskName", name);
        task.body("{}")
    };
    let gate = Gate::closed();
    upstream.next(Act::respond(204, &[], "").after(&gate));
    let first = gateway.spawn(&task("t1"));
    upstream.next_request().await;
    let second = gateway.spawn(&task("t1"));
    waits(&gateway).await;
    gate.open();
    first.await.expect("an answer").is(204, "executed");
    second.await.expect("an answer").is(204, "replayed");
    upstream.next(Act::reset_after_reading());
    gateway.send(&task("t2")).await.is(502, "unknown");
    gateway.send(&task("t2")).await.is(503, "unknown");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn redis_lets_a_duplicate_at_another_gateway_wait_for_the_first() {
    let server = RedisServer::start();
    gives_rights("redis", &[&server]);
    is_shared("redis", &[server.port]).await;
}

#[tokio::test]
async fn sentinel_lets_a_duplicate_at_another_gateway_wait_for_the_first() {
    let master = RedisServer::start();
    let port = master.port.to_string();
    let follow = ["--replicaof", "127.0.0.1", &port];
    let _replica = RedisServer::start_with(Engine::Redis, &follow);
    // One that has just come says for about a second that it has nothing.
    until("the replica to have what the master has", || async {
        let said = master.cli(&["INFO", "replication"]);
        let master = said.split("master_repl_offset:").nth(1)?;
        let master = master.lines().next()?.trim().to_owned();
        let has = format!("state=online,offset={master},");
        (master != "0" && said.contains(&has)).then_some(())
    })
    .await;
    gives_rights("sentinel", &[&master]);
    let sentinels: Vec<_> = (0..3).map(|_| RedisServer::sentinel_of(&master)).collect();
    let ports: Vec<u16> = sentinels.iter().map(|sentinel| sentinel.port).collect();
    is_shared("sentinel", &ports).await;
}

#[tokio::test]
async fn cluster_lets_a_duplicate_at_another_gateway_wait_for_the_first() {
    let cluster = RedisCluster::start();
    let servers: Vec<_> = cluster.servers.iter().collect();
    gives_rights("cluster", &servers);
    is_shared("cluster", &cluster.ports()[..3]).await;
}

/// Gives the example's user the rights that `check --connect` names, and no others.
fn gives_rights(name: &str, servers: &[&RedisServer]) {
    let (directory, path) = secrets();
    let text = text_of(name, &[]).replace("/run/secrets", &path);
    let file = directory.path().join("example.toml");
    std::fs::write(&file, text).expect("a file");
    let store = Config::load(&file).expect("an example").config.store;
    let StoreLocation::Redis(config) = &store.location else {
        panic!("{name} keeps its records elsewhere");
    };
    let rights = Redis::rights(config, &store.namespace);
    let set: Vec<&str> = rights.split_whitespace().chain([">hunter2"]).collect();
    for server in servers {
        assert_eq!(server.cli(&set), "OK");
    }
}

/// Two gateways with this example on these servers, and a duplicate that waits at the other one.
async fn is_shared(name: &str, ports: &[u16]) {
    let upstream = ToyUpstream::start();
    let (_directory, secrets) = secrets();
    let mut text = text_of(name, &[&upstream]).replace("/run/secrets", &secrets);
    let first: u16 = match name {
        "redis" => 6379,
        "sentinel" => 26379,
        _ => 7000,
    };
    for (written, port) in (first..).zip(ports) {
        assert!(
            text.contains(&format!(":{written}")),
            "{name} has no {written}"
        );
        text = text.replace(&format!(":{written}"), &format!(":{port}"));
    }
    let one = Gateway::start(&text).await;
    let other = Gateway::start(&text).await;
    let pay = payment("k").header("X-Tenant", "a");
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "ch_1").after(&gate));
    let first = one.spawn(&pay);
    upstream.next_request().await;
    let second = other.spawn(&pay);
    waits(&other).await;
    gate.open();
    within("an answer", first)
        .await
        .expect("an answer")
        .is(201, "executed");
    within("an answer", second)
        .await
        .expect("an answer")
        .is(201, "replayed");
    one.send(&pay).await.is(201, "replayed");
    other.send(&Request::get("/v1/payments")).await.is(201, "");
    assert_eq!(upstream.charges(), 2);
    let log = [one.log().text(), other.log().text()].concat();
    assert!(!log.contains("refuses subscriptions"), "{log}");
}
