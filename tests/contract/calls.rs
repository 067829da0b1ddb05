//! Calls of gRPC on protected routes: judged by their status, and refused in words that gRPC's clients read.
//!
//! The upstream is the scripted one: to the gateway a call is a message with trailers, whatever the protocol before and
//! behind it. Real clients and servers of gRPC are in `tests/grpc`.

use crate::support::{
    Act, Answer, Gate, Gateway, Http2, Operator, RefusedPort, Request, Setup, ToyUpstream, until,
};

const PATH: &str = "/payments.v1.Payments/Create";
const LATE_PATH: &str = "/payments.v1.Payments/Capture";

fn call(key: &str) -> Request {
    Request::post(PATH)
        .auth("Bearer alice")
        .key(key)
        .header("Content-Type", "application/grpc+proto")
        .header("TE", "trailers")
        .body(b"\0\0\0\0\x01a")
}

fn setup(upstream: &ToyUpstream) -> Setup {
    Setup::payments(upstream).route(&format!("path = {PATH:?}"))
}

/// An answer of one message and this status.
fn ended(status: &str) -> Act {
    Act::raw(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
         6\r\n\0\0\0\0\x01b\r\n0\r\nGrpc-Status: {status}\r\nX-Cost: 3\r\n\r\n"
    ))
}

/// An answer that is nothing but a head.
fn head_alone(status: &str) -> Act {
    Act::respond(
        200,
        &[
            ("Content-Type", "application/grpc"),
            ("Grpc-Status", status),
            ("X-Cost", "3"),
        ],
        "",
    )
}

/// What refuses a call: HTTP's status says nothing.
#[track_caller]
fn refuses(answer: &Answer, code: &str, slug: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("Content-Type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status"), Some(code), "{answer:?}");
    let message = answer.header("grpc-message").expect("a message");
    assert!(message.starts_with(&format!("{slug}: ")), "{message}");
    assert!(answer.header("grpc-status-details-bin").is_some());
    assert!(answer.body.is_empty() && answer.complete);
}

async fn start(setup: &Setup) -> (Gateway, Http2) {
    with_client(setup.start().await).await
}

async fn with_client(gateway: Gateway) -> (Gateway, Http2) {
    let client = Http2::open(gateway.address).await;
    (gateway, client)
}

#[tokio::test]
async fn a_call_is_recorded_with_its_status_and_replayed() {
    let upstream = ToyUpstream::start();
    let (_gateway, client) = start(&setup(&upstream)).await;
    // One that failed is recorded, too: it was executed.
    for (number, status) in ["0", "3", "7", "13"].into_iter().enumerate() {
        upstream.next(ended(status)).next(head_alone(status));
        for kind in ["message", "head"] {
            for said in ["executed", "replayed"] {
                let answer = client.send(&call(&format!("{kind}-{number}"))).await;
                answer.is(200, said);
                let (lines, body) = match kind {
                    "head" => (&answer.headers, &b""[..]),
                    _ => (&answer.trailers, &b"\0\0\0\0\x01b"[..]),
                };
                assert_eq!(answer.body, body);
                assert_eq!(lines.all("grpc-status"), [status], "{kind}");
                assert_eq!(lines.all("x-cost"), ["3"]);
            }
        }
    }
    assert_eq!(upstream.charges(), 8);
}

#[tokio::test]
async fn an_upstream_is_asked_for_what_every_client_can_read() {
    let upstream = ToyUpstream::start();
    let (_gateway, client) = start(&setup(&upstream)).await;
    upstream.next(ended("0"));
    let call = call("k")
        .header("grpc-accept-encoding", "gzip")
        .header("grpc-timeout", "5S");
    client.send(&call).await.is(200, "executed");
    let sent = upstream.next_request().await;
    assert_eq!(sent.headers.all("grpc-accept-encoding"), ["identity"]);
    assert_eq!(sent.headers.all("te"), ["trailers"]);
    assert_eq!(sent.headers.all("grpc-timeout"), ["5S"]);
    assert_eq!(sent.body, b"\0\0\0\0\x01a");
}

#[tokio::test]
async fn a_status_that_says_nothing_leaves_the_call_unknown() {
    let upstream = ToyUpstream::start();
    let (gateway, client) = start(&setup(&upstream)).await;
    let no_status = Act::raw(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
         6\r\n\0\0\0\0\x01b\r\n0\r\n\r\n",
    );
    let acts = [
        ("unavailable", ended("14")),
        ("deadline", head_alone("4")),
        ("cancelled", ended("1")),
        ("truncated", no_status),
        ("strange", ended("99")),
        ("exhausted", head_alone("8")),
        // Who reads the first one sees a call that may be repeated, and who reads the last one sees a payment.
        ("twofold", ended("16\r\nGrpc-Status: 0")),
    ];
    for (key, act) in acts {
        upstream.next(act);
        client.send(&call(key)).await.is(200, "unknown");
        refuses(&client.send(&call(key)).await, "2", "outcome-unknown");
    }
    assert_eq!(upstream.charges(), 7);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.decisions("pay", "unknown"), 14);
}

#[tokio::test]
async fn a_status_that_says_that_nothing_was_done_frees_the_key() {
    let upstream = ToyUpstream::start();
    let (_gateway, client) = start(&setup(&upstream)).await;
    for act in [head_alone("16"), ended("16")] {
        upstream.next(act).next(ended("0"));
        let key = &format!("k{}", upstream.charges());
        client.send(&call(key)).await.is(200, "released");
        client.send(&call(key)).await.is(200, "executed");
    }
}

#[tokio::test]
async fn after_a_prior_attempt_a_call_that_is_refused_is_unknown() {
    let upstream = ToyUpstream::start();
    let setup = setup(&upstream).route("on_unknown = \"resend\"\nlease = \"1s\"");
    let (_gateway, client) = start(&setup).await;
    // ALREADY_EXISTS and ABORTED stand for 409, UNAUTHENTICATED would release.
    for (key, status) in [("a", "6"), ("b", "10"), ("c", "16")] {
        upstream.next(ended("14")).next(ended(status));
        client.send(&call(key)).await.is(200, "unknown");
        let again = client.send(&call(key)).await;
        assert_eq!(
            again.is(200, "unknown").trailers.all("grpc-status"),
            [status]
        );
    }
    assert_eq!(upstream.charges(), 6);
}

#[tokio::test]
async fn refusals_are_statuses_of_grpc() {
    let upstream = ToyUpstream::start();
    // Only what is to take too long has little time for it.
    let setup = setup(&upstream)
        .route("max_request_body = \"64B\"")
        .another_route(&format!(
            "name = \"late\"\npath = {LATE_PATH:?}\nresponse_timeout = \"300ms\""
        ));
    let (gateway, client) = start(&setup).await;

    let answer = client.send(&call("k").without("Idempotency-Key")).await;
    refuses(&answer, "3", "key-missing");
    assert_eq!(answer.idempotency_status(), "refused");
    refuses(&client.send(&call("a,b")).await, "3", "key-invalid");
    let nobody = client.send(&call("k").without("Authorization")).await;
    refuses(&nobody, "16", "scope-missing");
    assert!(nobody.header("WWW-Authenticate").is_some());
    refuses(
        &client.send(&call("k").body([0; 65])).await,
        "8",
        "body-too-large",
    );
    let mut nowhere = call("k");
    nowhere.target = "/payments.v1.Payments/Delete".to_owned();
    refuses(&client.send(&nowhere).await, "12", "no-route");

    let gate = Gate::closed();
    upstream.next(ended("0").after(&gate));
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.send(&call("slow")).await }
    });
    upstream.next_request().await;
    let running = client.send(&call("slow")).await;
    refuses(&running, "14", "request-in-progress");
    assert_eq!(running.header("Retry-After"), Some("1"));
    assert_eq!(running.header("grpc-retry-pushback-ms"), Some("1000"));
    gate.open();
    first.await.expect("an answer").is(200, "executed");
    upstream.next(Act::hang());
    let late = Request {
        target: LATE_PATH.to_owned(),
        ..call("late")
    };
    refuses(&client.send(&late).await, "4", "upstream-timeout");

    upstream.next(ended("0"));
    client.send(&call("k")).await.is(200, "executed");
    let other = client.send(&call("k").body(b"\0\0\0\0\x01c")).await;
    refuses(&other, "9", "key-reused");
    assert_eq!(other.header("grpc-retry-pushback-ms"), None);

    upstream.next(Act::reset_after_reading());
    refuses(&client.send(&call("lost")).await, "2", "upstream-failed");

    // The log and the metrics see what they see of other refusals.
    let line = gateway.log().request("mismatch").await;
    assert_eq!(line["problem"], "key-reused", "{line}");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.decisions("pay", "in_progress"), 1);
    assert_eq!(metrics.decisions("pay", "mismatch"), 1);
}

#[tokio::test]
async fn a_call_that_nothing_protects_is_refused_so_too() {
    let port = RefusedPort::take();
    let (_gateway, client) = start(&Setup::payments_at(&port.url()).rest_passes()).await;
    let mut passed = call("k");
    passed.target = "/else".to_owned();
    refuses(&client.send(&passed).await, "14", "upstream-unreachable");
    // What is no call is told as ever.
    let json = passed
        .without("Content-Type")
        .header("Content-Type", "application/json");
    let refused = client.send(&json).await;
    assert_eq!(refused.status, 502);
    assert_eq!(
        refused.header("Content-Type"),
        Some("application/problem+json")
    );
}

#[tokio::test]
async fn who_asks_again_by_itself_is_told_that_an_unknown_call_is_unavailable() {
    let upstream = ToyUpstream::start();
    let (_gateway, client) = start(&setup(&upstream).route("unknown_status = 503")).await;
    upstream.next(ended("14"));
    client.send(&call("k")).await.is(200, "unknown");
    refuses(&client.send(&call("k")).await, "14", "outcome-unknown");
}

#[tokio::test]
async fn a_call_whose_answer_is_not_held_is_passed_on_to_its_status() {
    let upstream = ToyUpstream::start();
    let (_gateway, client) = start(&setup(&upstream).route("max_response_body = \"3B\"")).await;
    upstream.next(ended("0"));
    let answer = client.send(&call("k")).await;
    assert_eq!(
        answer.is(200, "unrecorded").trailers.all("grpc-status"),
        ["0"]
    );
    refuses(&client.send(&call("k")).await, "6", "response-not-stored");
}

#[tokio::test]
async fn an_unknown_call_is_settled_by_hand_with_its_trailers() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let (gateway, client) = with_client(operator.starts(&setup(&upstream)).await).await;
    upstream.next(ended("14"));
    client.send(&call("k")).await.is(200, "unknown");
    let record = operator.finds(&gateway, "k").await.json();
    assert_eq!(record["cause"], "status");
    let response = serde_json::json!({
        "status": 200,
        "headers": [["Content-Type", "application/grpc"]],
        "body_base64": "AAAAAAFi",
        "trailers": [["grpc-status", "0"]],
    });
    let resolved = operator.says(&gateway, &record, "resolve", response).await;
    assert_eq!(resolved.status, 200, "{resolved:?}");
    let answer = client.send(&call("k")).await;
    assert_eq!(
        answer.is(200, "replayed").trailers.all("grpc-status"),
        ["0"]
    );
    assert_eq!(answer.body, b"\0\0\0\0\x01b");
}

/// One that failed is kept as long as failures are, though HTTP's status is 200.
#[tokio::test]
async fn a_call_that_is_settled_by_hand_is_kept_as_its_status_says() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let kept = "retention = { success = \"24h\", failure = \"1s\" }";
    let (gateway, client) = with_client(operator.starts(&setup(&upstream).route(kept)).await).await;
    let calls = [
        ("0", "trailers"),
        ("99", "trailers"),
        ("5", "trailers"),
        ("5", "headers"),
    ];
    for (code, place) in calls {
        let key = format!("{code}-{place}");
        upstream.next(ended("14"));
        client.send(&call(&key)).await.is(200, "unknown");
        let record = operator.finds(&gateway, &key).await.json();
        let mut response = serde_json::json!({ "status": 200 });
        response[place] = serde_json::json!([["grpc-status", code]]);
        let resolved = operator.says(&gateway, &record, "resolve", response).await;
        assert_eq!(resolved.status, 200, "{resolved:?}");
    }
    upstream.always(|_| ended("0"));
    for (_, place) in &calls[2..] {
        until("the key to be free", || async {
            let answer = client.send(&call(&format!("5-{place}"))).await;
            (answer.idempotency_status() == "executed").then_some(())
        })
        .await;
    }
    for code in ["0", "99"] {
        let answer = client.send(&call(&format!("{code}-trailers"))).await;
        answer.is(200, "replayed");
    }
}

/// The lines of the access log tell calls that failed from those that did not, and are written for failures of the server.
#[tokio::test]
async fn the_access_log_has_the_status_of_a_call() {
    let upstream = ToyUpstream::start();
    let setup = setup(&upstream).rest_passes();
    let setup = setup.top("access_log = { sample = 0.0 }");
    let (gateway, client) = start(&setup).await;
    let passing = |key: &str| {
        let mut passing = call(key);
        passing.target = "/else".to_owned();
        passing
    };
    upstream.next(ended("0")).next(ended("5"));
    for key in ["ok", "not-found"] {
        client.send(&passing(key)).await.is(200, "");
    }
    upstream.next(ended("13")).next(head_alone("14"));
    for key in ["internal", "unavailable"] {
        client.send(&passing(key)).await.is(200, "");
    }
    upstream.next(ended("13"));
    client.send(&call("k")).await.is(200, "executed");
    client.send(&call("k")).await.is(200, "replayed");
    let keyless = call("k").without("Idempotency-Key");
    refuses(&client.send(&keyless).await, "3", "key-missing");
    // What is no call has none, whatever its upstream says.
    upstream.next(Act::respond(500, &[("Grpc-Status", "13")], ""));
    let json = Request::post("/else").body("{}");
    assert_eq!(client.send(&json).await.status, 500);

    gateway.log().nth_message("request", 5).await;
    let lines = gateway.log().messages("request");
    let said: Vec<_> = lines
        .iter()
        .map(|line| {
            let decision = line["decision"].as_str().unwrap_or_default();
            (decision, line["grpc_status"].as_u64())
        })
        .collect();
    let expected = [
        ("passthrough", Some(13)),
        ("passthrough", Some(14)),
        ("executed", Some(13)),
        ("replayed", Some(13)),
        ("key_missing", Some(3)),
        ("passthrough", None),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn an_unknown_call_is_settled_from_a_terminal_with_its_trailers() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let (gateway, client) = with_client(operator.starts(&setup(&upstream)).await).await;
    upstream.next(ended("14"));
    client.send(&call("k")).await.is(200, "unknown");
    let record = operator.finds(&gateway, "k").await.json();
    let message = gateway.directory().join("message");
    std::fs::write(&message, b"\0\0\0\0\x01b").expect("a file");
    let body = format!("@{}", message.display());
    let mut resolve = vec!["resolve", record["key_ref"].as_str().expect("a key_ref")];
    resolve.extend([
        "--status",
        "200",
        "--header",
        "Content-Type: application/grpc",
    ]);
    resolve.extend(["--trailer", "grpc-status: 0", "--body", &body]);
    resolve.extend(["--reason", "seen at the bank"]);
    let resolved = operator.runs(&gateway, &resolve);
    assert!(resolved.status.success(), "{resolved:?}");
    let answer = client.send(&call("k")).await;
    assert_eq!(
        answer.is(200, "replayed").trailers.all("grpc-status"),
        ["0"]
    );
    assert_eq!(answer.body, b"\0\0\0\0\x01b");
}

#[tokio::test]
async fn what_enforcing_would_have_made_of_a_call_is_observed_by_its_status() {
    let upstream = ToyUpstream::start();
    let (gateway, client) = start(&setup(&upstream).route("mode = \"observe\"")).await;
    upstream.always(|_| ended("14"));
    let labels = [("route", "pay"), ("would_be", "unknown")];
    // What is observed is noted beside the request: a duplicate that is quick may meet the first one still in progress.
    until("a duplicate to meet an unknown call", || async {
        client.send(&call("k")).await.is(200, "observed");
        let metrics = gateway.metrics().await;
        let met = metrics.value("oncegate_observed_total", &labels);
        (met >= Some(1.0)).then_some(())
    })
    .await;
}
