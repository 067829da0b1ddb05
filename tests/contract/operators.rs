//! Operators see records, and settle those whose outcome nobody knows.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    Act, Connection, Gate, Gateway, Operator, Problem, Request, Setup, ToyUpstream, payment, until,
};

#[tokio::test]
async fn without_a_token_there_are_no_records_to_see() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for path in ["/v1/records", "/v1/records/lookup"] {
        let answer = Operator::new()
            .get(&gateway, &path["/v1/records".len()..])
            .await;
        assert_eq!(
            (answer.status, answer.text()),
            (404, "not found\n".to_owned())
        );
    }
}

#[tokio::test]
async fn who_shows_no_token_or_another_one_sees_nothing() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    let none = Request::get("/v1/records");
    for request in [
        none.clone(),
        none.clone().auth("Bearer a-token-of-the-operato"),
        none.clone().auth("Bearer a-token-of-the-operator-"),
        none.clone().auth("Basic a-token-of-the-operator"),
        none.clone().auth("Bearer"),
        Request::post("/v1/records/lookup")
            .auth("Bearer x")
            .body("{}"),
        Request::get("/v1/records/nothing/of/the/kind"),
    ] {
        let answer = Connection::open(gateway.admin).await.send(&request).await;
        assert_eq!(answer.status, 401, "{request:?}");
        assert!(answer.header("WWW-Authenticate").is_some());
    }
    assert_eq!(operator.get(&gateway, "").await.status, 200);
    assert_eq!(gateway.admin("/metrics").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_held_payment_is_found_told_and_settled_by_its_response() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let setup = Setup::payments(&upstream).route("response_timeout = \"200ms\"");
    for setup in [setup.clone(), setup.embedded()] {
        let gateway = operator.starts(&setup).await;
        let refused = held(&upstream, &gateway, "k").await;
        let listed = operator.unresolved(&gateway, 1).await.remove(0);
        assert_eq!(listed["key_ref"], refused["key_ref"]);
        assert_eq!(listed["reference"]["key"], "k");
        assert_eq!(listed["reference"]["path"], "/v1/payments");
        assert_eq!(listed["route"], "pay");

        let record = operator.finds(&gateway, "k").await.json();
        assert_eq!(record["version"], listed["version"]);
        assert_eq!(
            (&record["state"], &record["cause"]),
            (&json!("unknown"), &json!("timeout"))
        );
        let moments: Vec<&str> = ["claimed_at", "written_at", "unknown_since"]
            .iter()
            .map(|name| record[*name].as_str().expect("a moment"))
            .collect();
        assert!(moments.is_sorted(), "{moments:?}");

        let response = json!({ "status": 201, "headers": [["X-Paid", "yes"]], "body": "paid" });
        let resolved = operator.says(&gateway, &record, "resolve", response).await;
        assert_eq!(
            (resolved.status, &resolved.json()["state"]),
            (200, &json!("completed"))
        );
        let replayed = gateway.send(&payment("k")).await;
        assert_eq!(replayed.is(201, "replayed").text(), "paid");
        assert_eq!(replayed.header("X-Paid"), Some("yes"));
        operator.unresolved(&gateway, 0).await;

        let audit = Operator::audit(&gateway);
        let [line] = audit.as_slice() else {
            panic!("{audit:?}");
        };
        assert_eq!(
            (&line["action"], &line["actor"]),
            (&json!("resolve"), &json!("ada"))
        );
        assert_eq!(line["key_ref"], refused["key_ref"]);
        assert_eq!(line["before"]["state"], "unknown");
        assert_eq!(line["after"]["response"]["status"], 201);
        let labels = [("route", "pay"), ("actor", "operator"), ("as", "completed")];
        let metrics = gateway.metrics().await;
        assert_eq!(
            metrics.value("oncegate_resolutions_total", &labels),
            Some(1.0)
        );
    }
}

#[tokio::test]
async fn what_was_seen_of_an_answer_that_broke_off_is_told() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    upstream.next(Act::truncate(200, 100, b"half"));
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    let record = operator.finds(&gateway, "k").await.json();
    assert_eq!(record["cause"], "truncated");
    assert_eq!(
        (&record["status_seen"], &record["bytes_seen"]),
        (&json!(200), &json!(4))
    );
}

#[tokio::test]
async fn what_was_not_executed_is_released_and_executed_by_the_retry() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let setup = Setup::payments(&upstream).route("response_timeout = \"200ms\"");
    let gateway = operator.starts(&setup).await;
    held(&upstream, &gateway, "k").await;
    let record = operator.finds(&gateway, "k").await.json();
    let released = operator.says(&gateway, &record, "release", json!({})).await;
    assert_eq!(
        (released.status, &released.json()["state"]),
        (200, &json!("absent"))
    );
    gateway.send(&payment("k")).await.is(201, "executed");
    // The same word again is about a record that is no more.
    let again = operator.says(&gateway, &record, "release", json!({})).await;
    assert_eq!(
        (again.status, &again.json()["record"]["state"]),
        (409, &json!("completed"))
    );
    gateway.send(&payment("k")).await.is(201, "replayed");
}

#[tokio::test]
async fn a_payment_under_way_is_nobodys_to_settle() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let record = operator.finds(&gateway, "k").await.json();
    assert_eq!(record["state"], "claimed");
    let response = json!({ "status": 500 });
    for (act, more) in [
        ("resolve", response),
        ("release", json!({})),
        ("delete", json!({})),
    ] {
        let refused = operator.says(&gateway, &record, act, more).await;
        assert_eq!(refused.status, 409, "{act}");
        assert_eq!(
            refused.json()["type"],
            "urn:oncegate:problem:record-changed"
        );
    }
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    assert!(Operator::audit(&gateway).is_empty());
}

#[tokio::test]
async fn a_word_about_what_was_unknown_does_not_take_back_a_late_truth() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let setup = Setup::payments(&upstream).route("response_timeout = \"200ms\"");
    let gateway = operator.starts(&setup).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    let seen = operator.finds(&gateway, "k").await.json();
    gate.open();
    until("the late answer", || async {
        let now = operator.finds(&gateway, "k").await.json();
        (now["state"] == "completed").then_some(())
    })
    .await;
    for (act, more) in [
        ("release", json!({})),
        ("resolve", json!({ "status": 500 })),
        ("delete", json!({})),
    ] {
        let refused = operator.says(&gateway, &seen, act, more).await;
        assert_eq!(
            (refused.status, &refused.json()["record"]["state"]),
            (409, &json!("completed"))
        );
    }
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").text(),
        "paid"
    );
}

#[tokio::test]
async fn a_deleted_answer_is_replayed_no_more_from_that_moment_on() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let setup = Setup::payments(&upstream);
    for setup in [setup.clone(), setup.embedded()] {
        let gateway = operator.starts(&setup).await;
        gateway.send(&payment("k")).await.is(201, "executed");
        // Twice: the second one comes from the cache.
        gateway.send(&payment("k")).await.is(201, "replayed");
        gateway.send(&payment("k")).await.is(201, "replayed");
        let record = operator.finds(&gateway, "k").await.json();
        assert_eq!(
            (&record["attempts"], &record["state"]),
            (&json!(1), &json!("completed"))
        );
        let deleted = operator.says(&gateway, &record, "delete", json!({})).await;
        assert_eq!(deleted.status, 200, "{deleted:?}");
        gateway.send(&payment("k")).await.is(201, "executed");
        assert_eq!(Operator::audit(&gateway)[0]["action"], "delete");
    }
}

#[tokio::test]
async fn whether_a_customer_was_charged_is_found_by_what_the_customer_sent() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    upstream.next(Act::respond(201, &[], "paid"));
    gateway.send(&payment("k")).await.is(201, "executed");
    let known = json!({ "route": "pay", "key": "k", "scope": ["Bearer alice"], "body": true });
    let found = operator.post(&gateway, "/lookup", &known).await.json();
    assert_eq!(
        (&found["response"]["status"], &found["response"]["body"]),
        (&json!(201), &json!("paid"))
    );
    let id = found["id"].as_str().expect("an id");
    let without = operator.get(&gateway, &format!("/{id}")).await.json();
    assert_eq!(without["response"]["body"], Value::Null);
    let logged = until("the access log", || async {
        let lines = gateway.log().text();
        let mut lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find_map(|line| line["key_ref"].as_str().map(str::to_owned))
    })
    .await;
    assert_eq!(found["key_ref"], logged);
    // Nobody else's, and nothing of another key; it is said under which name it would be known.
    for (key, scope) in [("k", "Bearer bob"), ("other", "Bearer alice")] {
        let known = json!({ "route": "pay", "key": key, "scope": [scope] });
        let absent = operator.post(&gateway, "/lookup", &known).await;
        assert_eq!(absent.status, 404);
        let absent = absent.json();
        assert!(absent["key_ref"].is_string());
        assert!(
            absent["detail"]
                .as_str()
                .expect("words")
                .contains("in this scope")
        );
    }
    for nonsense in [
        json!({ "route": "none", "key": "k", "scope": ["Bearer alice"] }),
        json!({ "route": "pay", "key": "k" }),
        json!({ "route": "pay", "key": "k k", "scope": ["Bearer alice"] }),
        json!({ "route": "pay", "key": "k", "scope": ["a", "b"] }),
        json!({ "rute": "pay" }),
    ] {
        let refused = operator.post(&gateway, "/lookup", &nonsense).await;
        assert_eq!(refused.status, 400, "{nonsense}");
    }
}

#[tokio::test]
async fn the_list_is_paged_and_can_be_narrowed() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let refund = "name = \"refund\"\npath = \"/v1/refunds\"\nmethods = [\"POST\"]";
    let setup = Setup::payments(&upstream).another_route(refund);
    let gateway = operator.starts(&setup).await;
    for n in 0..5 {
        upstream.next(Act::reset_after_reading());
        let request = payment(&format!("k{n}"));
        let request = match n {
            0 => Request {
                target: "/v1/refunds".to_owned(),
                ..request
            },
            _ => request,
        };
        gateway.send(&request).await.refuses(Problem::FAILED);
    }
    let (mut keys, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = operator.get(&gateway, &query).await.json();
        let records = page["records"].as_array().expect("a list");
        assert!(records.len() <= 2);
        keys.extend(
            records
                .iter()
                .map(|r| r["reference"]["key"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => query = format!("?limit=2&cursor={next}"),
            None => break,
        }
    }
    // Those of one millisecond stand in the order of their ids.
    keys.sort();
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4"]);
    let of = async |query: &str| {
        let page = operator.get(&gateway, query).await.json();
        page["records"].as_array().expect("a list").len()
    };
    assert_eq!(of("?route=refund").await, 1);
    assert_eq!(of("?min_age=3600").await, 0);
    for nonsense in [
        "?limit=x",
        "?cursor=1",
        "?route=none",
        "?other=1",
        "?limit=1&limit=2",
    ] {
        assert_eq!(
            operator.get(&gateway, nonsense).await.status,
            400,
            "{nonsense}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    let record = operator.finds(&gateway, "k").await.json();
    let log = gateway.directory().join("audit.log");
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let refused = operator.says(&gateway, &record, "delete", json!({})).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    gateway.send(&payment("k")).await.is(201, "replayed");
    fs::remove_dir(&log).unwrap();
    let deleted = operator.says(&gateway, &record, "delete", json!({})).await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
}

#[tokio::test]
async fn what_a_crash_left_is_settled_from_a_terminal() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("lease = \"4s\"");
    let mut gateway = operator.starts(&setup).await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.kill9().await;
    gateway.restart().await;
    let record = operator.unresolved(&gateway, 1).await.remove(0);
    assert_eq!(record["cause"], "lease_lapsed");
    assert!(record["claimed_at"].is_string());
    let listed = said(&operator.runs(&gateway, &["list"]), 0);
    assert!(
        listed.contains("lease_lapsed") && listed.contains("POST /v1/payments"),
        "{listed}"
    );
    let key_ref = record["key_ref"].as_str().expect("a key_ref");
    let shown = said(&operator.runs(&gateway, &["show", key_ref]), 0);
    assert!(
        shown.contains("oncegate records release"),
        "it says what to do next: {shown}"
    );
    let unsaid = operator.runs(&gateway, &["show", "0123456789ab"]);
    let unsaid = String::from_utf8_lossy(&unsaid.stderr).into_owned();
    assert!(unsaid.contains("settled meanwhile"), "{unsaid}");
    let reason = ["--reason", "seen at the bank", "--actor", "ada"];
    let mut resolve = vec![
        "resolve",
        key_ref,
        "--status",
        "201",
        "--header",
        "X-Paid: yes",
        "--body",
        "paid",
    ];
    resolve.extend(reason);
    said(&operator.runs(&gateway, &resolve), 0);
    let replayed = gateway.send(&payment("k")).await;
    assert_eq!(replayed.is(201, "replayed").text(), "paid");
    assert_eq!(replayed.header("x-paid"), Some("yes"));

    let by_key = [
        "show",
        "--route",
        "pay",
        "--key",
        "k",
        "--scope",
        "Bearer alice",
        "--json",
    ];
    let shown: Value = serde_json::from_str(&said(&operator.runs(&gateway, &by_key), 0)).unwrap();
    let id = shown["id"].as_str().expect("an id");
    let mut release = vec!["release", id];
    release.extend(reason);
    said(&operator.runs(&gateway, &release), 1);
    let mut delete = vec!["delete", id];
    delete.extend(reason);
    said(&operator.runs(&gateway, &delete), 0);
    gateway.send(&payment("k")).await.is(201, "executed");
    said(&operator.runs(&gateway, &["show", "no id"]), 1);
    said(&operator.runs(&gateway, &["show"]), 2);
    let actions: Vec<Value> = Operator::audit(&gateway)
        .iter()
        .map(|line| line["action"].clone())
        .collect();
    assert_eq!(actions, ["resolve", "delete"]);
}

#[tokio::test]
async fn what_show_says_to_do_is_about_the_attempt_that_it_showed() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let setup = Setup::payments(&upstream).route("response_timeout = \"200ms\"");
    let gateway = operator.starts(&setup).await;
    let refused = held(&upstream, &gateway, "k").await;
    let key_ref = refused["key_ref"].as_str().expect("a key_ref");
    let shown = said(&operator.runs(&gateway, &["show", key_ref]), 0);
    // Somebody else releases it, and its retry is another attempt of which nobody knows anything.
    let reason = ["--reason", "seen at the bank"];
    let mut release = vec!["release", key_ref];
    release.extend(reason);
    said(&operator.runs(&gateway, &release), 0);
    held(&upstream, &gateway, "k").await;
    for word in ["release", "resolve"] {
        let (_, rest) = shown
            .split_once(&format!("oncegate records {word} "))
            .expect(word);
        let line = rest.split_once(" --").expect("an id").0;
        let (_, version) = rest.split_once("--version ").expect("a version");
        let version = version.split_whitespace().next().expect("a version");
        let mut words = vec![word, line, "--version", version];
        words.extend(if word == "resolve" {
            &["--status", "201"][..]
        } else {
            &[]
        });
        words.extend(reason);
        let done = operator.runs(&gateway, &words);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
    }
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn who_has_no_name_is_called_by_number() {
    let (upstream, operator) = (ToyUpstream::start(), Operator::new());
    let gateway = operator.starts(&Setup::payments(&upstream)).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    let record = operator.finds(&gateway, "k").await.json();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["records", "delete", record["id"].as_str().expect("an id")])
        .args([
            "--reason",
            "a test",
            "--admin",
            &format!("http://{}", gateway.admin),
        ])
        .arg("--token-file")
        .arg(operator.token_file())
        .env_clear()
        .output()
        .expect("the binary");
    said(&output, 0);
    let line = Operator::audit(&gateway).remove(0);
    let actor = line["actor"].as_str().expect("an actor");
    let number = actor.strip_prefix("uid ").expect(actor);
    assert!(number.parse::<u32>().is_ok(), "{actor}");
    // Nobody who asks nowhere has to guess how to say where.
    let nowhere = std::process::Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(["records", "list"])
        .output()
        .expect("the binary");
    let told = String::from_utf8_lossy(&nowhere.stderr);
    assert_eq!(nowhere.status.code(), Some(2), "{told}");
    for way in ["--config", "--admin", "--token-file"] {
        assert!(told.contains(way), "{told}");
    }
}

/// A payment of which nobody knows whether it was made; what its client was told.
async fn held(upstream: &ToyUpstream, gateway: &Gateway, key: &str) -> Value {
    upstream.next(Act::hang());
    let refused = gateway.send(&payment(key)).await;
    refused.refuses(Problem::TIMEOUT)
}

/// What a command printed, provided that it ended with this code.
fn said(output: &std::process::Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
