//! Keys that carry their time, and keys that the gateway issues.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Act, Answer, Gateway, Problem, Request, Setup, ToyUpstream, payment, until};

/// A key whose record may be forgotten, and that has none.
const TOO_OLD: Problem = Problem {
    operation_state: "undetermined",
    ..Problem::EXPIRED
};

/// For how long after its making a key may first be used, with a retention of 24 hours.
const FRESH_FOR: Duration = Duration::from_secs(24 * 3600 - 6 * 60);

fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a time after 1970")
}

/// A ULID of this time; keys of other numbers are other keys.
fn ulid(made_at: Duration, number: u32) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let made_at = u64::try_from(made_at.as_millis()).expect("48 bits");
    let time = (0..10).rev().map(|place| made_at >> (5 * place) & 31);
    let digit = |value: u64| char::from(DIGITS[usize::try_from(value).expect("5 bits")]);
    format!("{}{number:016}", time.map(digit).collect::<String>())
}

/// A UUID of version 7 and this time.
fn uuid_v7(made_at: Duration) -> String {
    let time = format!("{:012x}", made_at.as_millis());
    format!("{}-{}-7000-8000-000000000001", &time[..8], &time[8..])
}

async fn issued(gateway: &Gateway) -> Answer {
    let ask = Request::post("/.well-known/oncegate/keys");
    let answer = gateway.send(&ask).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer
}

fn key_in(answer: &Answer) -> String {
    answer.json()["key"].as_str().expect("a key").to_owned()
}

#[tokio::test]
async fn a_key_older_than_its_retention_is_refused_and_never_sent() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"ulid\"\nkey_age = \"reject\"")
        .start()
        .await;
    let old = payment(&ulid(now() - Duration::from_secs(48 * 3600), 1));
    for _ in 0..2 {
        let body = gateway.send(&old).await.refuses(TOO_OLD);
        assert!(body["key_ref"].is_string(), "{body}");
    }
    assert_eq!(upstream.charges(), 0);
    let young = payment(&ulid(now() - Duration::from_secs(3600), 1));
    gateway.send(&young).await.is(201, "executed");
    gateway.send(&young).await.is(201, "replayed");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.decisions("pay", "expired"), 2);
    let claims = |met| metrics.value("oncegate_claims_total", &[("result", met)]);
    assert_eq!(claims("acquired"), Some(1.0), "no claim for an old key");
}

#[tokio::test]
async fn the_record_of_a_key_that_has_become_old_still_answers() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .limits("replay_cache = \"0B\"")
        .route("key_format = \"ulid\"\nkey_age = \"reject\"")
        .start()
        .await;
    // Young for two seconds more.
    let made_at = now() - FRESH_FOR + Duration::from_secs(2);
    upstream.next(Act::respond(201, &[], "paid"));
    let first = payment(&ulid(made_at, 0));
    gateway.send(&first).await.is(201, "executed");
    upstream.next(Act::respond(503, &[], ""));
    let unknown = payment(&ulid(made_at, 1));
    gateway.send(&unknown).await.is(503, "unknown");
    let others = AtomicU32::new(2);
    let refused = until("such keys to be old", || async {
        let number = others.fetch_add(1, Ordering::Relaxed);
        let answer = gateway.send(&payment(&ulid(made_at, number))).await;
        (answer.status == 409).then_some(answer)
    });
    refused.await.refuses(TOO_OLD);
    let charges = upstream.charges();
    let replayed = gateway.send(&first).await;
    assert_eq!(replayed.is(201, "replayed").text(), "paid");
    gateway
        .send(&unknown)
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    gateway
        .send(&payment(&ulid(made_at, 0)).body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), charges);
}

#[tokio::test]
async fn a_key_from_the_future_is_refused_beyond_what_clocks_may_differ() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"ulid\"\nkey_age = \"reject\"")
        .start()
        .await;
    let ahead = payment(&ulid(now() + Duration::from_secs(10 * 60), 1));
    let body = gateway.send(&ahead).await.refuses(Problem::KEY_INVALID);
    let detail = body["detail"].as_str().expect("a sentence");
    assert!(detail.contains("future"), "{detail}");
    let a_little = payment(&ulid(now() + Duration::from_secs(4 * 60), 1));
    gateway.send(&a_little).await.is(201, "executed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn of_uuids_version_7_is_asked_for_where_old_keys_are_refused() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"uuid\"\nkey_age = \"reject\"")
        .start()
        .await;
    let random = payment("919108f7-52d1-4320-9bac-f847db4148a8");
    gateway.send(&random).await.refuses(Problem::KEY_INVALID);
    let old = payment(&uuid_v7(now() - Duration::from_secs(30 * 3600)));
    gateway.send(&old).await.refuses(TOO_OLD);
    let young = payment(&uuid_v7(now()));
    gateway.send(&young).await.is(201, "executed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn the_age_of_keys_does_not_matter_unless_the_route_says_so() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"ulid\"")
        .start()
        .await;
    for made_at in [Duration::ZERO, now() + Duration::from_secs(365 * 24 * 3600)] {
        let key = payment(&ulid(made_at, 1));
        gateway.send(&key).await.is(201, "executed");
    }
}

#[tokio::test]
async fn what_enforce_mode_would_make_of_old_keys_is_observed() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("mode = \"observe\"\nkey_format = \"ulid\"\nkey_age = \"reject\"")
        .start()
        .await;
    let old = payment(&ulid(now() - Duration::from_secs(48 * 3600), 1));
    gateway.send(&old).await.is(201, "observed");
    let ahead = payment(&ulid(now() + Duration::from_secs(48 * 3600), 1));
    gateway.send(&ahead).await.is(201, "observed");
    let counted = until("both to be counted", || async {
        let metrics = gateway.metrics().await;
        let would_be = |name| {
            let labels = [("route", "pay"), ("would_be", name)];
            metrics.value("oncegate_observed_total", &labels)
        };
        let counted = (would_be("expired"), would_be("key_invalid"));
        (counted.0 != Some(0.0) && counted.1 != Some(0.0)).then_some(counted)
    });
    assert_eq!(counted.await, (Some(1.0), Some(1.0)));
}

#[tokio::test]
async fn an_issued_key_is_used_once_like_any_other() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("key_format = \"issued\"\nkey_age = \"reject\"")
        .start()
        .await;
    let answer = issued(&gateway).await;
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let expires_at = answer.json()["expires_at"].as_u64().expect("seconds");
    let expected = (now() + FRESH_FOR).as_secs();
    assert!(expected.abs_diff(expires_at) <= 30, "{expires_at}");
    let key = key_in(&answer);
    let request = payment(&key);
    gateway.send(&request).await.is(201, "executed");
    gateway.send(&request).await.is(201, "replayed");
    // Another client's operation under the same key is another one.
    let other = payment(&key).auth("Bearer bob");
    gateway.send(&other).await.is(201, "executed");
    assert_ne!(key_in(&issued(&gateway).await), key);
    assert_eq!(upstream.charges(), 2);
    let metrics = gateway.metrics().await;
    let unrouted = metrics.value("oncegate_unrouted_total", &[("reason", "key_issued")]);
    assert_eq!(unrouted, Some(2.0));
}

#[tokio::test]
async fn keys_that_were_not_issued_here_are_refused() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).route("key_format = \"issued\"\nkey_age = \"reject\"");
    let (gateway, stranger) = (setup.start().await, setup.start().await);
    let key = key_in(&issued(&gateway).await);
    let last = if key.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{last}", &key[..key.len() - 1]);
    let strangers = key_in(&issued(&stranger).await);
    for bad in [forged, strangers, key.to_uppercase(), "order-1".to_owned()] {
        let refused = gateway.send(&payment(&bad)).await;
        let body = refused.refuses(Problem::KEY_INVALID);
        let detail = body["detail"].as_str().expect("a sentence");
        assert!(detail.contains("/.well-known/oncegate/keys"), "{detail}");
    }
    let missing = gateway.send(&payment("k").without("Idempotency-Key")).await;
    let body = missing.refuses(Problem::KEY_MISSING);
    let detail = body["detail"].as_str().expect("a sentence");
    assert!(detail.contains("/.well-known/oncegate/keys"), "{detail}");
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn an_issued_key_outlives_the_process_with_its_store() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream)
        .embedded()
        .route("key_format = \"issued\"\nkey_age = \"reject\"")
        .start()
        .await;
    let key = key_in(&issued(&gateway).await);
    gateway.kill9().await;
    gateway.restart().await;
    gateway.send(&payment(&key)).await.is(201, "executed");
}

#[tokio::test]
async fn keys_are_issued_only_where_a_route_takes_them_and_only_by_post() {
    let upstream = ToyUpstream::start();
    let none = Setup::payments(&upstream).start().await;
    let ask = Request::post("/.well-known/oncegate/keys");
    none.send(&ask).await.is_problem(Problem::NO_ROUTE);
    let some = Setup::payments(&upstream).route("key_format = \"issued\"");
    let some = some.start().await;
    let answer = issued(&some).await;
    assert_eq!(
        answer.json()["expires_at"],
        serde_json::Value::Null,
        "nothing is made of its age"
    );
    let get = Request::get("/.well-known/oncegate/keys");
    some.send(&get).await.is_problem(Problem::NO_ROUTE);
    let entry = some.log().nth_message("request", 0).await;
    assert_eq!(entry["decision"], "key_issued", "{entry}");
    assert_eq!(entry["status"], 201, "{entry}");
}

#[tokio::test]
async fn a_request_for_a_key_may_bear_a_body_and_its_connection_goes_on() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).route("key_format = \"issued\"");
    let gateway = gateway.start().await;
    let ask = Request::post("/.well-known/oncegate/keys").body("{}");
    let answer = gateway.send(&ask).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let ask = Request::post("/.well-known/oncegate/keys");
        let answer = connection.send(&ask).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}
