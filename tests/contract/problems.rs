//! One test for each line of the table of problems: status, content type, every member, and the headers.

use std::collections::HashSet;

use serde_json::Value;

use crate::support::{
    Act, Gate, Http2, Problem, RefusedPort, Request, Setup, ToyUpstream, payment, until,
};

#[tokio::test]
async fn a_request_without_a_key_is_refused_and_not_sent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let answer = gateway.send(&payment("k").without("Idempotency-Key")).await;
    let body = answer.refuses(Problem::KEY_MISSING);
    assert_eq!(body.get("key_ref"), None, "{body}");
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused_and_not_sent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let too_long = "k".repeat(256);
    for key in [
        "",
        "\"\"",
        "a b",
        "a,b",
        "\"a\", \"b\"",
        "\"a",
        "a\"b",
        "caf\u{e9}",
        &too_long,
    ] {
        gateway
            .send(&payment(key))
            .await
            .refuses(Problem::KEY_INVALID);
    }
    assert_eq!(upstream.charges(), 0);
    gateway
        .send(&payment(&"k".repeat(255)))
        .await
        .is(201, "executed");
}

#[tokio::test]
async fn a_key_in_another_format_than_the_route_asks_for_is_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"uuid\"")
        .start()
        .await;
    gateway
        .send(&payment("order-1"))
        .await
        .refuses(Problem::KEY_INVALID);
    let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
    gateway.send(&payment(uuid)).await.is(201, "executed");
}

#[tokio::test]
async fn a_request_without_its_scope_is_refused_with_a_challenge() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let answer = gateway.send(&payment("k").without("Authorization")).await;
    answer.refuses(Problem::SCOPE_MISSING);
    assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn the_challenge_is_the_routes_own() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).route("challenge = 'DPoP algs=\"ES256\"'");
    let answer = setup
        .start()
        .await
        .send(&payment("k").without("Authorization"))
        .await;
    answer.refuses(Problem::SCOPE_MISSING);
    assert_eq!(
        answer.header("WWW-Authenticate"),
        Some("DPoP algs=\"ES256\"")
    );
}

#[tokio::test]
async fn a_key_used_for_another_payload_is_refused_in_every_state_of_the_first() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"500ms\"")
        .start()
        .await;
    gateway.send(&payment("done")).await.is(201, "executed");
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let running = gateway.spawn(&payment("running"));
    upstream.received_at_least(2).await;
    let other = |key: &str| payment(key).body("{\"amount\":999}");
    gateway
        .send(&other("running"))
        .await
        .refuses(Problem::KEY_REUSED);
    running.await.expect("an answer").refuses(Problem::TIMEOUT);
    gateway
        .send(&other("running"))
        .await
        .refuses(Problem::KEY_REUSED);
    gateway
        .send(&other("done"))
        .await
        .refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_duplicate_of_a_running_request_is_told_to_come_back() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "first").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let duplicate = gateway.send(&payment("k")).await;
    duplicate.refuses(Problem::IN_PROGRESS);
    duplicate.says_when_to_retry();
    gate.open();
    assert_eq!(
        first.await.expect("an answer").is(201, "executed").text(),
        "first"
    );
    gateway.send(&payment("k")).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_duplicate_of_an_unknown_outcome_is_told_so() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    for _ in 0..3 {
        gateway
            .send(&payment("k"))
            .await
            .refuses(Problem::OUTCOME_UNKNOWN);
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_503_where_the_route_says_so() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("unknown_status = 503")
        .start()
        .await;
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    let unknown = Problem {
        status: 503,
        ..Problem::OUTCOME_UNKNOWN
    };
    gateway.send(&payment("k")).await.refuses(unknown);
}

#[tokio::test]
async fn a_key_whose_retention_is_over_is_a_new_one_otherwise() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("retention = { success = \"1s\" }")
        .start()
        .await;
    gateway.send(&payment("k")).await.is(201, "executed");
    let second = until("the retention to end", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() != "replayed").then_some(answer)
    })
    .await;
    second.is(201, "executed");
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_duplicate_of_an_answer_too_large_to_keep_is_told_that_it_was_completed() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("max_response_body = \"1KiB\"")
        .start()
        .await;
    upstream.next(Act::respond(201, &[], "x".repeat(1025)));
    gateway.send(&payment("k")).await.is(201, "unrecorded");
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::NOT_STORED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_leaves_the_key_free() {
    let port = RefusedPort::take();
    let gateway = Setup::payments_at(&port.url()).start().await;
    for _ in 0..2 {
        gateway
            .send(&payment("k"))
            .await
            .refuses(Problem::UNREACHABLE);
    }
    let upstream = port.listen();
    until("the endpoint to be tried again", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status != 502).then(|| answer.is(201, "executed").clone())
    })
    .await;
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_leaves_the_outcome_unknown() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"300ms\"")
        .start()
        .await;
    upstream.next(Act::hang());
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_and_not_sent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("max_request_body = \"1KiB\"")
        .start()
        .await;
    let too_large = payment("k").body("x".repeat(1025));
    gateway
        .send(&too_large)
        .await
        .refuses(Problem::BODY_TOO_LARGE);
    // The same without a length that gives it away.
    let chunked = payment("k")
        .header("Transfer-Encoding", "chunked")
        .body(format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025)));
    gateway
        .send(&chunked)
        .await
        .refuses(Problem::BODY_TOO_LARGE);
    assert_eq!(upstream.charges(), 0);
    gateway
        .send(&payment("k").body("x".repeat(1024)))
        .await
        .is(201, "executed");
}

#[tokio::test]
async fn a_full_store_refuses_new_claims_and_still_replays() {
    let upstream = ToyUpstream::start();
    upstream.always(|_| Act::respond(201, &[], "x".repeat(16 * 1024)));
    let gateway = Setup::payments(&upstream)
        .store("max_size = \"256KiB\"")
        .start()
        .await;
    let mut connection = gateway.connect().await;
    let mut kept = 0;
    let refused = loop {
        let answer = connection.send(&payment(&format!("k{kept}"))).await;
        if answer.status != 201 {
            break answer;
        }
        kept += 1;
        assert!(kept < 1000, "the store never became full");
    };
    refused.refuses(Problem::STORE_UNAVAILABLE);
    refused.says_when_to_retry();
    assert_eq!(upstream.charges(), kept);
    gateway.send(&payment("k0")).await.is(201, "replayed");
}

#[tokio::test]
async fn more_waiting_duplicates_than_the_bound_are_turned_away() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .limits("max_waiters_per_key = 1")
        .route("wait = \"20s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let mut duplicates: Vec<_> = (0..3).map(|_| gateway.spawn(&payment("k"))).collect();
    // Two of them cannot wait; which ones is not ours to say.
    let mut turned_away = 0;
    while turned_away < 2 {
        let answer;
        (answer, _, duplicates) = futures_util::future::select_all(duplicates).await;
        let answer = answer.expect("an answer");
        answer.refuses(Problem::OVERLOADED);
        answer.says_when_to_retry();
        turned_away += 1;
    }
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    let waited = duplicates
        .pop()
        .expect("the one that waits")
        .await
        .expect("an answer");
    waited.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn more_requests_than_the_upstream_may_have_are_turned_away_unsent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .upstream("max_in_flight = 1")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let first = gateway.spawn(&payment("a"));
    upstream.next_request().await;
    let second = gateway.send(&payment("b")).await;
    second.refuses(Problem::OVERLOADED);
    second.says_when_to_retry();
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    gateway.send(&payment("b")).await.is(201, "executed");
    assert_eq!(upstream.charges(), 2);
}

/// A client that opened no window held its places of the upstream for as long as it answered pings.
#[tokio::test]
async fn places_of_the_upstream_are_free_again_when_clients_take_nothing_of_their_answers() {
    const PLACES: usize = 8;
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .rest_passes()
        .upstream(&format!("max_in_flight = {PLACES}"))
        .limits("body_idle = \"2s\"")
        .start()
        .await;
    upstream.always(|received| match received.method.as_str() {
        "GET" => Act::respond(200, &[], vec![b'a'; 2_000_000]),
        _ => Act::respond(201, &[], ""),
    });
    let shut = Http2::with_shut_windows(gateway.address).await;
    let mut kept = Vec::new();
    for _ in 0..PLACES {
        let (status, body) = shut.begin(&Request::get("/large")).await;
        assert_eq!(status, 200);
        kept.push(body);
    }
    let turned_away = gateway.send(&payment("a")).await;
    turned_away.refuses(Problem::OVERLOADED);
    let served = until("a place", || async {
        let answer = gateway.send(&payment("a")).await;
        (answer.status == 201).then_some(answer)
    });
    served.await.is(201, "executed");
}

#[tokio::test]
async fn a_path_without_a_route_is_not_found() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for request in [
        Request::get("/v1/payments"),
        Request::post("/v1/refunds").key("k"),
    ] {
        let answer = gateway.send(&request).await;
        answer.is_problem(Problem::NO_ROUTE);
    }
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_message_that_breaks_the_http_policy_is_a_bad_request() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let upgrade = payment("k")
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket");
    gateway
        .send(&upgrade)
        .await
        .is_problem(Problem::BAD_REQUEST);
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn the_type_of_a_problem_is_a_urn_or_below_the_base_that_is_set() {
    let upstream = ToyUpstream::start();
    let request = payment("k").without("Idempotency-Key");
    let plain = Setup::payments(&upstream)
        .start()
        .await
        .send(&request)
        .await;
    assert_eq!(plain.json()["type"], "urn:oncegate:problem:key-missing");
    let setup = Setup::payments(&upstream).top("problem_base = \"https://docs.example/p/\"");
    let based = setup.start().await.send(&request).await;
    based.refuses(Problem::KEY_MISSING);
    assert_eq!(based.json()["type"], "https://docs.example/p/key-missing");
}

#[tokio::test]
async fn the_key_ref_names_the_key_of_one_scope_without_telling_it() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let mut refs = HashSet::new();
    for (key, scope) in [
        ("k1", "Bearer alice"),
        ("k2", "Bearer alice"),
        ("k1", "Bearer bob"),
    ] {
        let request = payment(key).auth(scope);
        gateway.send(&request).await.is(201, "executed");
        let refusal = |body: &str| gateway.spawn(&request.clone().body(body));
        let first = refusal("1")
            .await
            .expect("an answer")
            .refuses(Problem::KEY_REUSED);
        let again = refusal("2")
            .await
            .expect("an answer")
            .refuses(Problem::KEY_REUSED);
        assert_eq!(first["key_ref"], again["key_ref"], "one key has one name");
        let Value::String(key_ref) = &first["key_ref"] else {
            panic!("no key_ref: {first}")
        };
        assert!((6..=64).contains(&key_ref.len()), "{key_ref}");
        assert!(
            !key_ref.contains(key) && !first.to_string().contains("alice"),
            "{first}"
        );
        refs.insert(key_ref.clone());
    }
    assert_eq!(refs.len(), 3, "{refs:?}");
}
