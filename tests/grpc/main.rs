//! gRPC as its own library speaks it, client and server, with the real binary in between.

#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use support::{Gateway, Log, tool, until};

/// A program of `tests/grpc` in Python, which tells its story line by line. Dropping it ends it.
struct Script {
    process: Child,
    log: Log,
}

impl Script {
    fn start(name: &str, arguments: &[String]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc");
        let mut process = Command::new(tool("python3"))
            .arg(folder.join(name))
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python of tests/install");
        let log = Log::capture(process.stdout.take().expect("it is piped"));
        Self { process, log }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Client, gateway and server.
struct Rig {
    gateway: Gateway,
    server: Script,
    client: Script,
    orders: Mutex<ChildStdin>,
    calls: AtomicUsize,
}

/// The call of this key.
fn create(wish: &str, key: &str) -> Value {
    json!({
        "kind": "unary",
        "method": "/payments.v1.Payments/Create",
        "messages": [wish],
        "metadata": [["authorization", "Bearer alice"], ["idempotency-key", key]],
    })
}

impl Rig {
    async fn start(route: &str) -> Self {
        let server = Script::start("server.py", &[]);
        let listening = server.log.message("listening").await;
        let gateway = Gateway::start(&format!(
            r#"
            [store]
            url = "memory:"

            [upstreams.payments]
            endpoints = ["http://127.0.0.1:{}"]
            protocol = "http2"

            [defaults]
            upstream = "payments"
            scope = ["header:Authorization"]

            [[routes]]
            name = "create"
            methods = ["POST"]
            path = "/payments.v1.Payments/*"
            {route}

            [[routes]]
            name = "rest"
            path = "/*"
            mode = "pass"
            "#,
            listening["port"]
        ))
        .await;
        let mut client = Script::start("client.py", &[gateway.address.to_string()]);
        let orders = Mutex::new(client.process.stdin.take().expect("it is piped"));
        Self {
            gateway,
            server,
            client,
            orders,
            calls: AtomicUsize::new(0),
        }
    }

    /// Begins a call.
    fn begin(&self, mut order: Value) -> String {
        let id = format!("call {}", self.calls.fetch_add(1, Ordering::Relaxed));
        order["id"] = json!(id);
        let mut orders = self.orders.lock().expect("no panic");
        writeln!(orders, "{order}").expect("the client reads");
        id
    }

    /// What the client's library makes of its answer.
    async fn ended(&self, id: &str) -> Value {
        self.client.log.message(id).await
    }

    async fn calls(&self, order: Value) -> Value {
        let id = self.begin(order);
        self.ended(&id).await
    }

    /// How often the server did what it was asked to do, which is at least once: its word may come after the client's.
    async fn executed(&self) -> usize {
        self.server.log.message("executed").await;
        self.server.log.messages("executed").len()
    }
}

/// The values of that name, wherever they stand.
fn said<'a>(answer: &'a Value, part: &str, name: &str) -> Vec<&'a str> {
    let lines = answer[part].as_array().into_iter().flatten();
    lines
        .filter(|line| line[0] == name)
        .filter_map(|line| line[1].as_str())
        .collect()
}

#[tokio::test]
async fn a_unary_call_is_executed_once_and_replayed_with_its_trailing_metadata() {
    let rig = Rig::start("").await;
    for status in ["executed", "replayed", "replayed"] {
        let answer = rig.calls(create("pay", "k")).await;
        assert_eq!(answer["code"], "OK", "{answer}");
        assert_eq!(answer["heard"], json!(["paid 1"]));
        assert_eq!(said(&answer, "initial", "idempotency-status"), [status]);
        assert_eq!(said(&answer, "initial", "x-region"), ["north"]);
        assert_eq!(said(&answer, "trailing", "x-cost"), ["1"]);
        assert_eq!(said(&answer, "trailing", "x-receipt-bin"), ["00ff"]);
    }
    assert_eq!(rig.executed().await, 1);
    let sent = rig.server.log.message("executed").await;
    assert_eq!(said(&sent, "metadata", "idempotency-key"), ["k"]);
}

#[tokio::test]
async fn a_failure_is_recorded_with_its_message_and_replayed() {
    let rig = Rig::start("").await;
    for _ in 0..2 {
        let answer = rig.calls(create("fails PERMISSION_DENIED", "k")).await;
        assert_eq!(answer["code"], "PERMISSION_DENIED", "{answer}");
        assert_eq!(answer["text"], "no. 1: 100% sure");
        assert_eq!(said(&answer, "trailing", "x-cost"), ["1"]);
    }
    assert_eq!(rig.executed().await, 1);
}

#[tokio::test]
async fn a_duplicate_in_flight_is_told_to_come_again_and_a_retry_policy_does() {
    let rig = Rig::start("").await;
    let first = rig.begin(create("slow", "k"));
    rig.server.log.message("executed").await;
    let refused = rig.calls(create("slow", "k")).await;
    assert_eq!(refused["code"], "UNAVAILABLE", "{refused}");
    let details = &refused["details"];
    assert_eq!(details["reason"], "REQUEST_IN_PROGRESS");
    assert_eq!(details["domain"], "oncegate");
    assert_eq!(details["retry_delay_s"], 1);
    let members = &details["metadata"];
    assert_eq!(members["operation_state"], "in_progress");
    assert_eq!(members["retry_same_key"], "true");
    assert_eq!(members["safe_new_key"], "false");
    assert!(members["key_ref"].is_string());
    assert_eq!(members["type"], "urn:oncegate:problem:request-in-progress");
    // The library of this one asks again by itself, after the pause that it is told.
    let mut insistent = create("slow", "k");
    insistent["retries"] = json!(true);
    let insistent = rig.begin(insistent);
    until("it to be refused once", || async {
        let refused = rig
            .gateway
            .metrics()
            .await
            .decisions("create", "in_progress");
        (refused >= 2).then_some(())
    })
    .await;
    let open = json!({ "kind": "unary", "method": "/echo.v1.Echo/Open", "messages": [""], "metadata": [] });
    assert_eq!(rig.calls(open).await["code"], "OK");
    for id in [first, insistent] {
        let answer = rig.ended(&id).await;
        assert_eq!(answer["code"], "OK", "{answer}");
        assert_eq!(answer["heard"], json!(["paid 1"]));
    }
    assert_eq!(rig.executed().await, 1);
}

#[tokio::test]
async fn an_unavailable_server_leaves_the_call_unknown() {
    let rig = Rig::start("").await;
    let first = rig.calls(create("fails UNAVAILABLE", "k")).await;
    // As it came.
    assert_eq!(first["code"], "UNAVAILABLE", "{first}");
    assert_eq!(first["text"], "no. 1: 100% sure");
    let second = rig.calls(create("fails UNAVAILABLE", "k")).await;
    assert_eq!(second["code"], "UNKNOWN", "{second}");
    assert_eq!(second["details"]["reason"], "OUTCOME_UNKNOWN");
    assert_eq!(second["details"]["metadata"]["operation_state"], "unknown");
    assert_eq!(rig.executed().await, 1);
}

/// The library says so of its own accord, after the call.
#[tokio::test]
async fn an_answer_that_is_too_large_to_send_leaves_the_call_unknown() {
    let rig = Rig::start("").await;
    let first = rig.calls(create("much", "k")).await;
    assert_eq!(first["code"], "RESOURCE_EXHAUSTED", "{first}");
    let second = rig.calls(create("much", "k")).await;
    assert_eq!(second["code"], "UNKNOWN", "{second}");
    assert_eq!(second["details"]["reason"], "OUTCOME_UNKNOWN");
    assert_eq!(rig.executed().await, 1);
}

#[tokio::test]
async fn another_call_under_the_same_key_is_refused() {
    let rig = Rig::start("").await;
    rig.calls(create("pay", "k")).await;
    let other = rig.calls(create("pay more", "k")).await;
    assert_eq!(other["code"], "FAILED_PRECONDITION", "{other}");
    assert_eq!(other["details"]["reason"], "KEY_REUSED");
    assert_eq!(said(&other, "trailing", "idempotency-status"), ["refused"]);
    let mut keyless = create("pay", "k");
    keyless["metadata"] = json!([["authorization", "Bearer alice"]]);
    let keyless = rig.calls(keyless).await;
    assert_eq!(keyless["code"], "INVALID_ARGUMENT", "{keyless}");
    assert_eq!(rig.executed().await, 1);
}

#[tokio::test]
async fn streams_of_a_pass_route_go_both_ways_at_once() {
    let rig = Rig::start("").await;
    let streamed = rig
        .calls(json!({ "kind": "stream", "method": "/echo.v1.Echo/Count", "messages": ["5"], "metadata": [] }))
        .await;
    assert_eq!(streamed["code"], "OK", "{streamed}");
    assert_eq!(streamed["heard"], json!(["0", "1", "2", "3", "4"]));
    let chat = rig
        .calls(json!({ "kind": "chat", "method": "/echo.v1.Echo/Chat", "messages": ["a", "b"], "metadata": [] }))
        .await;
    assert_eq!(chat["code"], "OK", "{chat}");
    assert_eq!(chat["heard"], json!(["heard a", "heard b"]));
    assert_eq!(said(&chat, "trailing", "x-heard"), ["all"]);
}

#[tokio::test]
async fn a_stream_that_is_too_long_for_a_record_is_not_stored() {
    let rig = Rig::start("max_response_body = \"64B\"").await;
    let mut order = create("100", "k");
    order["kind"] = json!("stream");
    order["method"] = json!("/payments.v1.Payments/Count");
    let streamed = rig.calls(order.clone()).await;
    assert_eq!(streamed["code"], "OK", "{streamed}");
    assert_eq!(streamed["heard"].as_array().map(Vec::len), Some(100));
    assert_eq!(
        said(&streamed, "initial", "idempotency-status"),
        ["unrecorded"]
    );
    let again = rig.calls(order).await;
    assert_eq!(again["code"], "ALREADY_EXISTS", "{again}");
    assert_eq!(again["details"]["reason"], "RESPONSE_NOT_STORED");
}
