//! Who is asking for what: keys, scopes and fingerprints.

use crate::support::{Act, Gateway, Problem, Request, Setup, ToyUpstream, payment};

#[tokio::test]
async fn a_bare_and_a_quoted_key_are_one_key_and_are_forwarded_as_received() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    gateway.send(&payment("abc")).await.is(201, "executed");
    gateway.send(&payment("\"abc\"")).await.is(201, "replayed");
    gateway.send(&payment("\"def\"")).await.is(201, "executed");
    gateway.send(&payment("def")).await.is(201, "replayed");
    let keys: Vec<_> = upstream
        .requests()
        .iter()
        .map(crate::support::Received::key)
        .collect();
    assert_eq!(keys, ["abc", "\"def\""]);
}

#[tokio::test]
async fn keys_are_told_apart_by_their_case() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    gateway.send(&payment("abc")).await.is(201, "executed");
    gateway.send(&payment("ABC")).await.is(201, "executed");
}

#[tokio::test]
async fn several_keys_are_refused_even_when_they_agree() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for second in ["k", "other"] {
        let several = payment("k").header("idempotency-key", second);
        gateway.send(&several).await.refuses(Problem::KEY_INVALID);
    }
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_key_in_a_trailer_is_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let trailer = payment("k")
        .without("Idempotency-Key")
        .header("Trailer", "Idempotency-Key")
        .header("Transfer-Encoding", "chunked")
        .body("3\r\nabc\r\n0\r\nIdempotency-Key: k\r\n\r\n");
    // With a key in the header as well, and with no announcement.
    let both = payment("k")
        .header("Transfer-Encoding", "chunked")
        .body("3\r\nabc\r\n0\r\nIdempotency-Key: other\r\n\r\n");
    for request in [trailer, both] {
        let answer = gateway.send(&request).await;
        assert_eq!(
            (answer.status, answer.idempotency_status()),
            (400, "refused"),
            "{answer:?}"
        );
    }
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_key_behind_the_body_of_an_unkeyed_request_does_not_reach_the_upstream() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).route("key_required = false");
    let gateway = setup.start().await;
    let request = payment("k")
        .without("Idempotency-Key")
        .header("Trailer", "Idempotency-Key, X-Check")
        .header("Transfer-Encoding", "chunked")
        .body("3\r\nabc\r\n0\r\nIdempotency-Key: k\r\nX-Check: 5\r\n\r\n");
    gateway.send(&request).await.is(201, "unkeyed");
    let sent = upstream.next_request().await;
    assert_eq!(sent.trailers.all("X-Check"), ["5"], "{sent:?}");
    assert!(sent.trailers.all("Idempotency-Key").is_empty(), "{sent:?}");
}

#[tokio::test]
async fn the_key_is_kept_from_the_upstream_where_the_route_says_so() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("forward_key = false")
        .start()
        .await;
    gateway.send(&payment("k")).await.is(201, "executed");
    assert_eq!(
        upstream.next_request().await.header("Idempotency-Key"),
        None
    );
    gateway.send(&payment("k")).await.is(201, "replayed");
}

#[tokio::test]
async fn a_route_may_look_for_the_key_in_other_headers() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key = [\"header:Idempotency-Key\", \"header:X-Request-Key\"]")
        .start()
        .await;
    let other = payment("k")
        .without("Idempotency-Key")
        .header("X-Request-Key", "k");
    gateway.send(&other).await.is(201, "executed");
    // Where a key came from is no part of it.
    gateway.send(&payment("k")).await.is(201, "replayed");
}

#[tokio::test]
async fn one_tenants_key_never_opens_anothers_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let alice = gateway.send(&payment("k").auth("Bearer alice")).await;
    let bob = gateway.send(&payment("k").auth("Bearer bob")).await;
    alice.is(201, "executed");
    bob.is(201, "executed");
    assert_ne!(alice.body, bob.body);
    for (scope, answer) in [("Bearer alice", &alice), ("Bearer bob", &bob)] {
        let replay = gateway.send(&payment("k").auth(scope)).await;
        assert_eq!(replay.is(201, "replayed").body, answer.body);
    }
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_scope_is_all_of_its_headers_and_nothing_else() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("scope = [\"header:X-Tenant\", \"header:X-User\"]")
        .start()
        .await;
    let of = |tenant: &str, user: &str, token: &str| {
        payment("k")
            .header("X-Tenant", tenant)
            .header("X-User", user)
            .auth(token)
    };
    gateway
        .send(&of("a", "bc", "Bearer 1"))
        .await
        .is(201, "executed");
    gateway
        .send(&of("ab", "c", "Bearer 1"))
        .await
        .is(201, "executed");
    gateway
        .send(&of("a", "bc", "Bearer 2"))
        .await
        .is(201, "replayed");
    gateway
        .send(&payment("k").header("X-Tenant", "a"))
        .await
        .refuses(Problem::SCOPE_MISSING);
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn without_scopes_a_key_is_everybodys() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("scope = [\"none\"]")
        .start()
        .await;
    gateway
        .send(&payment("k").without("Authorization"))
        .await
        .is(201, "executed");
    gateway
        .send(&payment("k").auth("Bearer bob"))
        .await
        .is(201, "replayed");
}

#[tokio::test]
async fn one_key_on_two_routes_is_two_operations() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .another_route("name = \"refund\"\nmethods = [\"POST\"]\npath = \"/v1/refunds\"")
        .start()
        .await;
    let refund = Request {
        target: "/v1/refunds".to_owned(),
        ..payment("k")
    };
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&refund).await.is(201, "executed");
    gateway.send(&refund).await.is(201, "replayed");
}

#[tokio::test]
async fn routes_of_one_id_share_their_keys() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("path = \"/v1/{kind}/pay\"")
        .route("fingerprint = { query = false }")
        .start()
        .await;
    let to = |target: &str| Request {
        target: target.to_owned(),
        ..payment("k")
    };
    gateway.send(&to("/v1/a/pay?x=1")).await.is(201, "executed");
    gateway.send(&to("/v1/a/pay?x=2")).await.is(201, "replayed");
    // One key that hits two resources is a mistake, not two operations.
    gateway
        .send(&to("/v1/b/pay"))
        .await
        .refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn method_query_host_and_body_are_what_makes_two_requests_the_same() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("methods = [\"POST\", \"PATCH\"]")
        .start()
        .await;
    gateway.send(&payment("k")).await.is(201, "executed");
    let with = |change: fn(&mut Request)| {
        let mut request = payment("k");
        change(&mut request);
        request
    };
    for other in [
        with(|request| request.method = "PATCH".to_owned()),
        with(|request| request.target.push_str("?dry_run=true")),
        with(|request| request.body.push(b' ')),
        payment("k").header("Host", "other.example"),
    ] {
        gateway.send(&other).await.refuses(Problem::KEY_REUSED);
    }
    // Headers that the route does not name make no difference.
    let agent = payment("k")
        .header("User-Agent", "retry/2")
        .header("Accept", "*/*");
    gateway.send(&agent).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_chunked_body_is_the_same_as_one_with_a_length() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    gateway
        .send(&payment("k").body("abc"))
        .await
        .is(201, "executed");
    let chunked = payment("k")
        .header("Transfer-Encoding", "chunked")
        .body("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n");
    gateway.send(&chunked).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_json_fingerprint_sees_values_and_not_their_spelling() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("fingerprint = { body = \"json\", ignore = [\"/sent_at\"] }")
        .start()
        .await;
    let with = |body: &str| payment("k").body(body);
    gateway
        .send(&with("{\"a\":1,\"b\":[2],\"sent_at\":1}"))
        .await
        .is(201, "executed");
    gateway
        .send(&with("{ \"b\": [2], \"a\": 1 }"))
        .await
        .is(201, "replayed");
    gateway
        .send(&with("{\"a\":1,\"b\":[2],\"sent_at\":9}"))
        .await
        .is(201, "replayed");
    gateway
        .send(&with("{\"a\":1,\"b\":[3]}"))
        .await
        .refuses(Problem::KEY_REUSED);
    gateway
        .send(&with("{\"a\":\"1\",\"b\":[2]}"))
        .await
        .refuses(Problem::KEY_REUSED);
}

#[tokio::test]
async fn a_fingerprint_counts_what_the_route_says() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("fingerprint = { body = \"none\", host = false, headers = [\"X-Version\"] }")
        .start()
        .await;
    let version = |version: &str| payment("k").header("X-Version", version);
    gateway.send(&version("1")).await.is(201, "executed");
    gateway
        .send(&version("1").body("other"))
        .await
        .is(201, "replayed");
    gateway
        .send(&version("1").header("Host", "other.example"))
        .await
        .is(201, "replayed");
    gateway
        .send(&version("2"))
        .await
        .refuses(Problem::KEY_REUSED);
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::KEY_REUSED);
}

#[tokio::test]
async fn keys_and_credentials_are_not_readable_in_the_store_or_the_log() {
    let upstream = ToyUpstream::start();
    upstream.always(|_| Act::respond(201, &[], "paid"));
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    let mut request = payment("very-telling-key")
        .auth("Bearer very-secret-token")
        .header("traceparent", "00-very-private-trace")
        .body("very-private-body");
    request.target.push_str("?card=very-private-query");
    gateway.send(&request).await.is(201, "executed");
    gateway.send(&request).await.is(201, "replayed");
    let nowhere = Request::get("/nowhere?card=very-private-query").key("very-telling-key");
    gateway.send(&nowhere).await.is_problem(Problem::NO_ROUTE);
    gateway
        .send(&request.clone().body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    // Its line is in the log.
    gateway.log().request("no_route").await;
    gateway.log().request("mismatch").await;
    gateway.kill9().await;
    let mut read = gateway.log().text().into_bytes();
    for file in std::fs::read_dir(gateway.directory()).expect("its directory") {
        read.extend(std::fs::read(file.expect("a file").path()).expect("a file"));
    }
    for secret in ["very-telling-key", "very-secret-token", "very-private"] {
        let found = read
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} is readable");
    }
}

#[tokio::test]
async fn without_a_file_what_bears_a_key_is_protected_whether_or_not_it_says_who_sends_it() {
    let upstream = ToyUpstream::start();
    let gateway = Gateway::before(&upstream.url()).await;
    let nobody = payment("k").without("Authorization");
    gateway.send(&nobody).await.is(201, "executed");
    for _ in 1..10 {
        gateway.send(&nobody).await.is(201, "replayed");
    }
    assert_eq!(upstream.charges(), 1);
    let empty = nobody.clone().header("Authorization", "");
    gateway.send(&empty).await.is(201, "replayed");
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    let bob = payment("k").without("Authorization").auth("Bearer bob");
    gateway.send(&bob).await.is(201, "executed");
    let unkeyed = nobody.without("Idempotency-Key");
    gateway.send(&unkeyed).await.is(201, "unkeyed");
    assert_eq!(upstream.charges(), 4);
}
