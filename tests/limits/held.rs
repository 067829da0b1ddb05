//! What is held for clients: bodies, those that wait, dispatches that may be answered late.

use crate::bystander::Bystander;
use crate::support::{Act, Gate, Http2, Problem, Request, Setup, ToyUpstream, payment, until};
use crate::{metric, settles};

#[tokio::test]
async fn a_body_that_finds_no_room_is_refused_and_small_ones_go_on() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .limits("max_buffered = \"256KiB\"")
        .route("max_request_body = \"200KiB\"")
        .route("max_response_body = \"200KiB\"")
        .start()
        .await;
    let bystander = Bystander::begin(&gateway).await;
    let mut stalling = Vec::new();
    for key in ["a", "b"] {
        // All but the last byte is there.
        let request = payment(key)
            .header("Content-Length", "120001")
            .body("b".repeat(120_000));
        let mut connection = gateway.connect().await;
        connection.write_request(&request).await;
        stalling.push(connection);
    }
    until("both bodies to be held", || async {
        let held = metric(&gateway, "oncegate_buffered_bytes", &[]).await;
        (held >= 240_000).then_some(())
    })
    .await;
    let third = payment("c").body("c".repeat(100_000));
    let refused = gateway.send(&third).await;
    refused.refuses(Problem::OVERLOADED);
    refused.says_when_to_retry();
    assert!(metric(&gateway, "oncegate_buffered_bytes", &[]).await <= 256 << 10);
    assert_eq!(gateway.metrics().await.decisions("pay", "overloaded"), 1);

    stalling.pop().expect("two of them").hang_up();
    until("the room to be free", || async {
        let held = metric(&gateway, "oncegate_buffered_bytes", &[]).await;
        (held < 130_000).then_some(())
    })
    .await;
    gateway.send(&third).await.is(201, "executed");
    drop(stalling);
    bystander.was_served().await;
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
}

/// Answers were held without bound for clients who took nothing of them.
#[tokio::test]
async fn an_answer_counts_as_held_until_its_client_has_taken_it() {
    const ANSWER: usize = 100_000;
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.key().as_str() {
        "large" => Act::respond(201, &[], vec![b'a'; ANSWER]),
        _ => Act::respond(201, &[], ""),
    });
    let gateway = Setup::payments(&upstream)
        .limits("max_buffered = \"256KiB\"")
        .limits("body_idle = \"3s\"")
        .route("max_request_body = \"1KiB\"")
        .route("max_response_body = \"200KiB\"")
        .start()
        .await;
    let bystander = Bystander::begin(&gateway).await;
    let shut = Http2::with_shut_windows(gateway.address).await;
    // The first is executed, the second replayed; neither is taken.
    let kept = [
        shut.begin(&payment("large")).await,
        shut.begin(&payment("large")).await,
    ];
    assert!(kept.iter().all(|(status, _)| *status == 201));
    let held = metric(&gateway, "oncegate_buffered_bytes", &[]).await;
    assert!(held >= 2 * ANSWER as u64, "{held}");

    let refused = gateway.send(&payment("large")).await;
    refused.refuses(Problem::OVERLOADED);
    refused.says_when_to_retry();
    bystander.was_served().await;
    // After `body_idle` their streams are reset, and there is room again.
    settles(
        &gateway,
        "oncegate_client_timeouts_total",
        &[("limit", "body_idle")],
        2,
    )
    .await;
    settles(&gateway, "oncegate_buffered_bytes", &[], 0).await;
    let replayed = gateway.send(&payment("large")).await;
    assert_eq!(replayed.is(201, "replayed").body.len(), ANSWER);
    let large = upstream.charges_by_key()["large"];
    assert_eq!(large, 1);
}

#[tokio::test]
async fn no_more_duplicates_wait_than_may_whatever_their_keys() {
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    upstream.always({
        let gate = gate.clone();
        move |request| {
            let act = Act::respond(201, &[], "");
            match request.key().starts_with("slow") {
                true => act.after(&gate),
                false => act,
            }
        }
    });
    let gateway = Setup::payments(&upstream)
        .limits("max_waiters = 3")
        .route("wait = \"20s\"")
        .start()
        .await;
    let bystander = Bystander::begin(&gateway).await;
    let keys = ["slow-a", "slow-b"];
    let firsts = keys.map(|key| gateway.spawn(&payment(key)));
    settles(&gateway, "oncegate_claims_held", &[], 2).await;
    let mut waiting = Vec::new();
    for number in 0..3 {
        waiting.push(gateway.spawn(&payment(keys[number % 2])));
        settles(&gateway, "oncegate_waiters", &[], number as u64 + 1).await;
    }
    for key in keys {
        let refused = gateway.send(&payment(key)).await;
        refused.refuses(Problem::OVERLOADED);
        refused.says_when_to_retry();
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("oncegate_waiters", &[]), Some(3.0));
    assert_eq!(metrics.value("oncegate_waiters_limit", &[]), Some(3.0));
    assert_eq!(metrics.decisions("pay", "overloaded"), 2);
    bystander.was_served().await;
    gate.open();
    for first in firsts {
        first.await.expect("an answer").is(201, "executed");
    }
    for waited in waiting {
        waited.await.expect("an answer").is(201, "replayed");
    }
    assert_eq!(gateway.metrics().await.decisions("pay", "joined"), 3);
    for gauge in [
        "oncegate_waiters",
        "oncegate_claims_held",
        "oncegate_buffered_bytes",
    ] {
        settles(&gateway, gauge, &[], 0).await;
    }
    let charges = upstream.charges_by_key();
    assert_eq!(keys.map(|key| charges[key]), [1, 1]);
}

#[tokio::test]
async fn no_more_dispatches_are_kept_open_for_late_answers_than_may() {
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    upstream.always({
        let gate = gate.clone();
        move |request| {
            let act = Act::respond(201, &[], "late");
            match request.key().starts_with("late") {
                true => act.after(&gate),
                false => act,
            }
        }
    });
    // On a route of their own: the bystander may be held up for longer.
    let gateway = Setup::payments(&upstream)
        .limits("max_late = 1")
        .another_route("name = \"late\"\npath = \"/late\"\nresponse_timeout = \"1s\"")
        .start()
        .await;
    let bystander = Bystander::begin(&gateway).await;
    let to_be_late = |key| Request {
        target: "/late".to_owned(),
        ..payment(key)
    };
    for key in ["late-kept", "late-not-kept"] {
        let answer = gateway.send(&to_be_late(key)).await;
        answer.refuses(Problem::TIMEOUT);
    }
    let late = |result| [("route", "late"), ("result", result)];
    assert_eq!(metric(&gateway, "oncegate_late_dispatches", &[]).await, 1);
    assert_eq!(
        metric(&gateway, "oncegate_late_dispatches_limit", &[]).await,
        1
    );
    settles(&gateway, "oncegate_late_answers_total", &late("none"), 1).await;
    gate.open();
    settles(
        &gateway,
        "oncegate_late_answers_total",
        &late("completed"),
        1,
    )
    .await;
    settles(&gateway, "oncegate_late_dispatches", &[], 0).await;
    let kept = gateway.send(&to_be_late("late-kept")).await;
    kept.is(201, "replayed");
    let not_kept = gateway.send(&to_be_late("late-not-kept")).await;
    not_kept.refuses(Problem::OUTCOME_UNKNOWN);
    // The place is free again.
    gateway
        .send(&payment("late-again"))
        .await
        .is(201, "executed");
    bystander.was_served().await;
    settles(&gateway, "oncegate_claims_held", &[], 0).await;
    settles(&gateway, "oncegate_upstream_in_flight", &[], 0).await;
}
