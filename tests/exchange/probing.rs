//! `on_unknown = "probe"`: the upstream is asked what became of an operation, and only what it knows settles the record.

use std::time::{Duration, Instant};

use oncegate::protocol::State;
use oncegate::telemetry::StoreOp;

use crate::rig::{Rig, impatient};
use crate::store::{Fate, executed};
use crate::support::{Act, Gate, Problem, Received, Request, Setup, ToyUpstream, payment, until};

/// A payment route that asks by the query, with this besides.
fn probing(upstream: &ToyUpstream, more: &str) -> Setup {
    let path = "/v1/payments?idempotency_key={key}";
    impatient(upstream)
        .route("on_unknown = \"probe\"")
        .route(&format!("probe = {{ path = \"{path}\"{more} }}"))
}

/// From now on payments are taken and not answered, and questions are answered so.
fn answers(upstream: &ToyUpstream, question: Act) {
    upstream.always(move |request| match request.method.as_str() {
        "GET" => question.clone(),
        _ => Act::reset_after_reading(),
    });
}

/// From now on payments are answered, too.
fn recovers(upstream: &ToyUpstream, question: Act) {
    upstream.always(move |request| match request.method.as_str() {
        "GET" => question.clone(),
        _ => Act::respond(201, &[], "paid"),
    });
}

fn paid() -> Act {
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Paid", "yes"),
        ("Set-Cookie", "session=1"),
        ("Idempotency-Status", "executed"),
    ];
    Act::respond(200, &headers, "{\"data\":[{\"id\":\"ch_1\"}]}")
}

fn absent() -> Act {
    Act::respond(404, &[], "no such payment")
}

fn of_method(upstream: &ToyUpstream, method: &str) -> Vec<Received> {
    let mut requests = upstream.requests();
    requests.retain(|request| request.method == method);
    requests
}

fn questions(upstream: &ToyUpstream) -> usize {
    of_method(upstream, "GET").len()
}

fn payments(upstream: &ToyUpstream) -> usize {
    of_method(upstream, "POST").len()
}

fn probes(rig: &Rig, result: &str) -> u64 {
    rig.value("probes_total", &[("route", "pay"), ("result", result)])
}

fn resolutions(rig: &Rig, resolved: &str) -> u64 {
    let labels = [("route", "pay"), ("actor", "probe"), ("as", resolved)];
    rig.value("resolutions_total", &labels)
}

/// Another gateway has claimed the key `k`, and went silent.
async fn silent_claim(rig: &Rig) {
    rig.store.next(StoreOp::Claim, Fate::down());
    rig.pay("k").await.refuses(Problem::STORE_UNAVAILABLE);
    rig.store.stranger_claims_for(Duration::from_secs(15));
    rig.store.ages(Duration::from_secs(60));
}

#[tokio::test]
async fn what_the_upstream_knows_settles_the_record_and_is_what_duplicates_hear() {
    let upstream = ToyUpstream::start();
    let more =
        ", headers = { X-Caller = \"oncegate for {key}\", Authorization = \"Bearer gateway\" }";
    let rig = Rig::start(&probing(&upstream, more));
    answers(&upstream, paid());
    let key = "k&kind=../#?%26";
    rig.pay(key).await.refuses(Problem::FAILED);
    let second = rig.pay(key).await;
    let heard = second.is(200, "replayed").text();
    assert_eq!(heard, "{\"data\":[{\"id\":\"ch_1\"}]}");
    assert_eq!(second.header("X-Paid"), Some("yes"));
    assert_eq!(second.header("Set-Cookie"), None);
    rig.pay(key).await.is(200, "replayed");
    assert_eq!((payments(&upstream), questions(&upstream)), (1, 1));
    let question = &of_method(&upstream, "GET")[0];
    let target = "/v1/payments?idempotency_key=k%26kind%3D..%2F%23%3F%2526";
    assert_eq!(question.target, target);
    assert_eq!(
        question.header("X-Caller"),
        Some("oncegate for k&kind=../#?%26")
    );
    // Who asks is the duplicate's client: nobody else's payment is found.
    assert_eq!(question.headers.all("Authorization"), ["Bearer alice"]);
    assert_eq!(
        (probes(&rig, "found"), resolutions(&rig, "completed")),
        (1, 1)
    );
    assert_eq!(
        (rig.decisions("unknown"), rig.decisions("replayed")),
        (1, 2)
    );
}

#[tokio::test]
async fn a_part_of_the_answer_may_be_what_is_recorded() {
    for (part, recorded) in [
        ("/data/0", "{\"id\":\"ch_1\"}"),
        ("", "{\"data\":[{\"id\":\"ch_1\"}]}"),
    ] {
        let upstream = ToyUpstream::start();
        let more = format!(", response = \"json:{part}\", status = 201");
        let rig = Rig::start(&probing(&upstream, &more));
        answers(&upstream, paid());
        rig.pay("k").await.refuses(Problem::FAILED);
        let second = rig.pay("k").await;
        assert_eq!(second.is(201, "replayed").text(), recorded);
        assert_eq!(second.header("Content-Type"), Some("application/json"));
        assert_eq!(second.header("X-Paid"), None);
    }
}

#[tokio::test]
async fn an_answer_without_that_part_settles_nothing() {
    for body in ["{\"data\":[]}", "<html>", "{\"data\":[1],\"data\":[2]}"] {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&probing(&upstream, ", response = \"json:/data/0\""));
        answers(&upstream, Act::respond(200, &[], body));
        rig.pay("k").await.refuses(Problem::FAILED);
        rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
        assert_eq!(probes(&rig, "failed"), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_keep_says_all_the_same_that_it_happened() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, "").route("max_response_body = \"1KiB\""));
    answers(&upstream, Act::respond(200, &[], "x".repeat(5000)));
    rig.pay("k").await.refuses(Problem::FAILED);
    rig.pay("k").await.refuses(Problem::NOT_STORED);
    assert_eq!(resolutions(&rig, "completed"), 1);
}

#[tokio::test]
async fn what_the_upstream_does_not_know_is_claimed_anew_by_the_duplicate() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ", absent_after = \"0s\""));
    answers(&upstream, absent());
    rig.pay("k").await.refuses(Problem::FAILED);
    recovers(&upstream, absent());
    assert_eq!(rig.pay("k").await.is(201, "executed").text(), "paid");
    rig.pay("k").await.is(201, "replayed");
    assert_eq!((payments(&upstream), questions(&upstream)), (2, 1));
    assert_eq!(
        (probes(&rig, "absent"), resolutions(&rig, "released")),
        (1, 1)
    );
}

#[tokio::test]
async fn that_the_upstream_does_not_know_it_counts_only_after_absent_after() {
    const ABSENT_AFTER: Duration = Duration::from_secs(1);
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ", absent_after = \"1s\""));
    answers(&upstream, absent());
    let declared = Instant::now();
    rig.pay("k").await.refuses(Problem::FAILED);
    recovers(&upstream, absent());
    // Whatever the store's clock says meanwhile.
    rig.store.ages(Duration::from_secs(600));
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(probes(&rig, "held"), 1);
    let answer = until("it to be free", || async {
        let answer = rig.pay("k").await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    answer.is(201, "executed");
    assert!(declared.elapsed() >= ABSENT_AFTER);
    assert_eq!((payments(&upstream), questions(&upstream)), (2, 2));
}

#[tokio::test]
async fn of_a_silent_claim_absence_says_nothing() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ", absent_after = \"0s\""));
    recovers(&upstream, absent());
    silent_claim(&rig).await;
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!((payments(&upstream), questions(&upstream)), (0, 1));
    assert!(rig.store.is_claimed());
    assert_eq!(probes(&rig, "held"), 1);
}

#[tokio::test]
async fn of_a_silent_claim_absence_says_that_it_is_free_where_the_route_says_so() {
    let upstream = ToyUpstream::start();
    let more = ", absent_after = \"0s\", silent = \"release\"";
    let rig = Rig::start(&probing(&upstream, more));
    recovers(&upstream, absent());
    silent_claim(&rig).await;
    rig.pay("k").await.is(201, "executed");
    assert_eq!((payments(&upstream), questions(&upstream)), (1, 1));
}

#[tokio::test]
async fn a_silent_claim_is_settled_by_what_is_found() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ""));
    recovers(&upstream, paid());
    silent_claim(&rig).await;
    rig.pay("k").await.is(200, "replayed");
    assert_eq!((payments(&upstream), questions(&upstream)), (0, 1));
}

#[tokio::test]
async fn an_answer_that_says_neither_holds_and_the_upstream_is_left_in_peace_for_a_while() {
    for (act, result) in [
        (Act::respond(500, &[], "oops"), "unclear"),
        (Act::respond(401, &[], "who?"), "unclear"),
        (Act::respond(302, &[("Location", "/")], ""), "unclear"),
        (Act::reset_after_reading(), "failed"),
        (Act::truncate(200, 100, b"a part"), "failed"),
        (Act::hang(), "failed"),
    ] {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&probing(
            &upstream,
            ", absent_after = \"0s\", timeout = \"300ms\"",
        ));
        answers(&upstream, act);
        rig.pay("k").await.refuses(Problem::FAILED);
        for _ in 0..5 {
            rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
        }
        assert_eq!((payments(&upstream), questions(&upstream)), (1, 1));
        assert_eq!(probes(&rig, result), 1, "{result}");
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_holds() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ", absent_after = \"0s\""));
    answers(&upstream, absent());
    rig.pay("k").await.refuses(Problem::FAILED);
    drop(upstream);
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(probes(&rig, "failed"), 1);
}

#[tokio::test]
async fn duplicates_that_come_together_ask_once_and_hear_the_same() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ""));
    let gate = Gate::closed();
    answers(&upstream, paid().after(&gate));
    rig.pay("k").await.refuses(Problem::FAILED);
    let duplicates: Vec<_> = (0..5).map(|_| rig.paying("k")).collect();
    rig.counts("waiters", &[], 5).await;
    gate.open();
    for duplicate in duplicates {
        duplicate.await.expect("an answer").is(200, "replayed");
    }
    assert_eq!((payments(&upstream), questions(&upstream)), (1, 1));
}

#[tokio::test]
async fn of_duplicates_that_come_together_one_claims_what_is_free() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ", absent_after = \"0s\"").route("wait = \"20s\""));
    let gate = Gate::closed();
    answers(&upstream, absent().after(&gate));
    rig.pay("k").await.refuses(Problem::FAILED);
    let duplicates: Vec<_> = (0..5).map(|_| rig.paying("k")).collect();
    rig.counts("waiters", &[], 5).await;
    recovers(&upstream, absent());
    gate.open();
    let mut executed = 0;
    for duplicate in duplicates {
        let answer = duplicate.await.expect("an answer");
        assert_eq!(answer.text(), "paid");
        executed += usize::from(answer.idempotency_status() == "executed");
    }
    assert_eq!((executed, payments(&upstream)), (1, 2));
}

#[tokio::test]
async fn as_many_duplicates_wait_for_probes_as_for_anything_else() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, "").limits("max_waiters = 1"));
    let gate = Gate::closed();
    answers(&upstream, paid().after(&gate));
    rig.pay("k").await.refuses(Problem::FAILED);
    let first = rig.paying("k");
    rig.counts("waiters", &[], 1).await;
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    gate.open();
    first.await.expect("an answer").is(200, "replayed");
}

#[tokio::test]
async fn an_operators_word_that_comes_first_counts() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ""));
    let gate = Gate::closed();
    answers(&upstream, paid().after(&gate));
    rig.pay("k").await.refuses(Problem::FAILED);
    let duplicate = rig.paying("k");
    upstream.received_at_least(2).await;
    rig.store.resolve(executed(200, "as the operator says"));
    gate.open();
    let duplicate = duplicate.await.expect("an answer");
    assert_eq!(duplicate.is(200, "replayed").text(), "as the operator says");
    assert_eq!(
        (probes(&rig, "changed"), resolutions(&rig, "completed")),
        (1, 0)
    );
}

#[tokio::test]
async fn nothing_is_sent_for_a_client_that_left_while_the_upstream_was_asked() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ", absent_after = \"0s\""));
    let gate = Gate::closed();
    answers(&upstream, absent().after(&gate));
    rig.pay("k").await.refuses(Problem::FAILED);
    let client = rig.client("k").await;
    upstream.received_at_least(2).await;
    client.hang_up();
    rig.all_have_hung_up().await;
    gate.open();
    rig.counts("probes_total", &[("route", "pay"), ("result", "absent")], 1)
        .await;
    rig.counts("waiters", &[], 0).await;
    assert_eq!(payments(&upstream), 1);
    assert_eq!(rig.store.state(), None);
}

#[tokio::test]
async fn what_the_store_took_without_a_word_is_found_by_the_next_duplicate() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&probing(&upstream, ""));
    answers(&upstream, paid());
    rig.pay("k").await.refuses(Problem::FAILED);
    rig.store.next(StoreOp::Resolve, Fate::Unanswered);
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    rig.pay("k").await.is(200, "replayed");
    assert_eq!(probes(&rig, "no_verdict"), 1);
}

#[tokio::test]
async fn segments_of_the_path_are_filled_in_and_a_key_that_would_be_more_than_one_is_not_asked_about()
 {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream)
        .route("path = \"/v1/{id}/refund\"")
        .route("on_unknown = \"probe\"")
        .route("probe = { path = \"/v1/refunds/{key}?of={id}\" }");
    let rig = Rig::start(&setup);
    answers(&upstream, paid());
    let refund = |key: &str| Request {
        target: "/v1/pay%20ment/refund".to_owned(),
        ..payment(key)
    };
    rig.send(&refund("k")).await.refuses(Problem::FAILED);
    rig.send(&refund("k")).await.is(200, "replayed");
    let question = &of_method(&upstream, "GET")[0];
    assert_eq!(question.target, "/v1/refunds/k?of=pay%20ment");
    for key in ["..", "../payments"] {
        rig.send(&refund(key)).await.refuses(Problem::FAILED);
        rig.send(&refund(key))
            .await
            .refuses(Problem::OUTCOME_UNKNOWN);
    }
    assert_eq!(questions(&upstream), 1);
    assert_eq!(probes(&rig, "unaskable"), 2);
}

#[tokio::test]
async fn the_background_settles_what_nobody_asks_for_with_the_configured_headers_alone() {
    let upstream = ToyUpstream::start();
    let more = ", headers = { Authorization = \"Bearer gateway\" }, background = true";
    let rig = Rig::start(&probing(&upstream, more));
    answers(&upstream, paid());
    rig.pay("k").await.refuses(Problem::FAILED);
    let gateway = rig.gateway.clone();
    let background = tokio::spawn(async move { gateway.probe_unresolved().await });
    let found = [("route", "pay"), ("result", "found")];
    rig.counts("probes_total", &found, 1).await;
    background.abort();
    assert!(matches!(rig.store.state(), Some(State::Completed(_))));
    let question = &of_method(&upstream, "GET")[0];
    assert_eq!(question.headers.all("Authorization"), ["Bearer gateway"]);
    rig.pay("k").await.is(200, "replayed");
    assert_eq!((payments(&upstream), questions(&upstream)), (1, 1));
}

#[tokio::test]
async fn the_background_asks_by_few_at_a_time_and_not_where_it_cannot_tell_clients_apart() {
    const RECORDS: usize = 40;
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    let mut most = 0;
    answers(&upstream, paid().after(&gate));
    for background in [false, true] {
        let more = format!(", timeout = \"20s\", background = {background}");
        let rig = Rig::start(&probing(&upstream, &more));
        for number in 0..RECORDS {
            rig.pay(&format!("{background}-{number}"))
                .await
                .refuses(Problem::FAILED);
        }
        let gateway = rig.gateway.clone();
        let task = tokio::spawn(async move { gateway.probe_unresolved().await });
        if background {
            until("the background to ask", || async {
                (questions(&upstream) >= 8).then_some(())
            })
            .await;
            most = questions(&upstream);
            gate.open();
            rig.counts(
                "probes_total",
                &[("route", "pay"), ("result", "found")],
                RECORDS as u64,
            )
            .await;
        } else {
            // Due by the second look at the latest.
            rig.store.asked(StoreOp::Unresolved, 3).await;
            assert_eq!(questions(&upstream), 0);
        }
        task.abort();
    }
    assert_eq!(most, 8);
}

#[tokio::test]
async fn a_route_that_holds_asks_nobody() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    answers(&upstream, paid());
    rig.pay("k").await.refuses(Problem::FAILED);
    rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
    // Longer than the pause between two looks.
    let looks = rig.gateway.probe_unresolved();
    let _ = tokio::time::timeout(Duration::from_secs(8), looks).await;
    assert_eq!(questions(&upstream), 0);
}

#[tokio::test]
async fn the_upstream_is_asked_about_a_key_that_has_become_old_and_it_is_never_sent_again() {
    let upstream = ToyUpstream::start();
    let setup = probing(&upstream, ", absent_after = \"0s\"")
        .route("key_format = \"uuid\"\nkey_age = \"reject\"");
    let rig = Rig::start(&setup);
    let key = |last: u32| {
        let now = oncegate::store::system_clock()().0;
        let (high, low) = (now >> 16, now & 0xffff);
        format!("{high:08x}-{low:04x}-7000-8000-{last:012x}")
    };
    let (executed, not_executed) = (key(1), key(2));
    answers(&upstream, paid());
    rig.pay(&executed).await.refuses(Problem::FAILED);
    rig.pay(&not_executed).await.refuses(Problem::FAILED);
    rig.store.ages(Duration::from_secs(25 * 3600));
    rig.pay(&executed).await.is(200, "replayed");
    recovers(&upstream, absent());
    let body = rig.pay(&not_executed).await;
    assert_eq!((body.status, body.idempotency_status()), (409, "refused"));
    assert_eq!((payments(&upstream), questions(&upstream)), (2, 2));
    assert_eq!(resolutions(&rig, "completed"), 1);
}

#[tokio::test]
async fn what_was_seen_to_be_unknown_is_not_forwarded_when_the_store_falls_silent_after_the_question()
 {
    for fate in [Fate::down(), Fate::Unanswered] {
        let upstream = ToyUpstream::start();
        let setup =
            probing(&upstream, ", absent_after = \"0s\"").route("on_store_down = \"forward\"");
        let rig = Rig::start(&setup);
        answers(&upstream, absent());
        rig.pay("k").await.refuses(Problem::FAILED);
        recovers(&upstream, absent());
        rig.store.next(StoreOp::Claim, Fate::AppliedTwice);
        rig.store.next(StoreOp::Claim, fate);
        rig.pay("k").await.refuses(Problem::OUTCOME_UNKNOWN);
        assert_eq!(payments(&upstream), 1);
        rig.is_quiet().await;
        rig.pay("k").await.is(201, "executed");
    }
}
