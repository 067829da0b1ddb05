//! kill -9, restarts and drains.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{
    Act, Answer, Connection, Gate, Gateway, Problem, Setup, ToyUpstream, payment, seed, until,
};

#[tokio::test]
async fn what_was_recorded_is_replayed_after_kill_9() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    let first = gateway.send(&payment("k")).await;
    first.is(201, "executed");
    gateway.kill9().await;
    gateway.restart().await;
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").body,
        first.body
    );
    gateway
        .send(&payment("k").body("other"))
        .await
        .refuses(Problem::KEY_REUSED);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_still_unknown_after_kill_9() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("k")).await.refuses(Problem::FAILED);
    gateway.kill9().await;
    gateway.restart().await;
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_dispatch_cut_by_kill_9_is_in_progress_for_one_lease_and_then_unknown() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("lease = \"5s\"");
    let mut gateway = setup.start().await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.kill9().await;
    let killed = std::time::Instant::now();
    gateway.restart().await;
    let duplicate = gateway.send(&payment("k")).await;
    duplicate.refuses(Problem::IN_PROGRESS);
    duplicate.says_when_to_retry();
    let after = until("the lease to lapse", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.json()["operation_state"] != "in_progress").then_some(answer)
    })
    .await;
    after.refuses(Problem::OUTCOME_UNKNOWN);
    // The last beat was at most a third of a lease old.
    assert!(
        killed.elapsed() >= Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn one_that_waits_for_a_silent_attempt_keeps_nobody_else_from_asking() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("wait = \"20s\"")
        .route("lease = \"20s\"");
    let mut gateway = setup.start().await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.kill9().await;
    gateway.restart().await;
    let waiting = gateway.spawn(&payment("k"));
    until("the duplicate to wait", || async {
        let waiters = gateway.metrics().await.value("oncegate_waiters", &[]);
        (waiters == Some(1.0)).then_some(())
    })
    .await;
    let other = gateway.send(&payment("k").body("other")).await;
    other.refuses(Problem::KEY_REUSED);
    assert!(!waiting.is_finished());
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_moment_under_load_never_leads_to_a_second_dispatch() {
    const ROUNDS: usize = 6;
    let mut random = fastrand::Rng::with_seed(seed());
    let upstream = ToyUpstream::start();
    upstream.always(|request| {
        Act::respond(
            201,
            &[],
            format!("{} is charge {}", request.key(), request.number),
        )
    });
    let mut gateway = Setup::payments(&upstream)
        .embedded()
        // A busy disk is not what this is about.
        .store("timeout = \"10s\"")
        .route("lease = \"20s\"")
        .start()
        .await;
    let mut heard = HashMap::new();
    for round in 0..ROUNDS {
        let clients = pay_until_the_gateway_dies(&gateway, round);
        tokio::time::sleep(Duration::from_millis(random.u64(5..400))).await;
        gateway.kill9().await;
        heard.extend(clients.join_all().await.into_iter().flatten());
        gateway.restart().await;
        retry(&gateway, &heard).await;
    }
    let charges = upstream.charges_by_key();
    let twice: Vec<_> = charges
        .iter()
        .filter(|(_, charges)| **charges > 1)
        .collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    let answered = heard.values().flatten().count();
    println!("{} keys, {answered} answered before a kill", heard.len());
    assert!(answered > 0, "the load never got through");
}

/// Keys and what was heard of them: `None` where the gateway died before it answered.
type Heard = Vec<(String, Option<Answer>)>;

fn pay_until_the_gateway_dies(gateway: &Gateway, round: usize) -> JoinSet<Heard> {
    const CLIENTS: usize = 8;
    let address = gateway.address;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(async move {
            let mut heard = Vec::new();
            let Ok(mut connection) = Connection::try_open(address).await else {
                return heard;
            };
            for number in 0.. {
                let key = format!("r{round}-c{client}-{number}");
                let answer = connection.try_send(&payment(&key)).await;
                let died = answer.is_none();
                heard.push((key, answer));
                if died {
                    break;
                }
            }
            heard
        });
    }
    clients
}

/// Every key again: what was answered is replayed, what was not is executed, replayed or known to be undecided.
async fn retry(gateway: &Gateway, heard: &HashMap<String, Option<Answer>>) {
    let mut connection = gateway.connect().await;
    for (key, before) in heard {
        let retry = connection.send(&payment(key)).await;
        match before {
            Some(before) => {
                before.is(201, "executed");
                assert_eq!(retry.is(201, "replayed").body, before.body, "{key}");
            }
            None if retry.status == 201 => {
                assert!(
                    retry.text().starts_with(&format!("{key} is charge ")),
                    "{retry:?}"
                );
            }
            None => {
                let state = retry.json()["operation_state"].clone();
                assert_eq!(retry.status, 409, "{retry:?}");
                assert!(
                    state == "in_progress" || state == "unknown",
                    "{key}: {state}"
                );
            }
        }
    }
}

#[tokio::test]
async fn sigterm_lets_what_is_under_way_end_and_be_recorded() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    gateway.sigterm();
    until("the gateway to stop being ready", || async {
        let ready = gateway
            .admin("/readyz")
            .await
            .is_some_and(|answer| answer.status == 200);
        (!ready).then_some(())
    })
    .await;
    gate.open();
    assert_eq!(
        first.await.expect("an answer").is(201, "executed").text(),
        "paid"
    );
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").text(),
        "paid"
    );
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn sigterm_closes_idle_connections_and_ends_at_once_when_nothing_is_under_way() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).start().await;
    let mut idle = gateway.connect().await;
    idle.send(&payment("k")).await.is(201, "executed");
    let began = std::time::Instant::now();
    gateway.sigterm();
    idle.closed().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_dispatch_that_outlasts_the_drain_is_unknown_and_not_in_progress() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream)
        .embedded()
        .top("drain_timeout = \"500ms\"")
        .route("lease = \"60s\"")
        .start()
        .await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.sigterm();
    gateway.ended().await;
    gateway.restart().await;
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_drain_that_only_a_late_answer_holds_up_ends_well() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream)
        .embedded()
        .top("drain_timeout = \"500ms\"")
        .route("response_timeout = \"100ms\"")
        .start()
        .await;
    upstream.next(Act::hang());
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    gateway.sigterm();
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    let retry = gateway.send(&payment("k")).await;
    retry.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once_and_never_leads_to_a_second_dispatch() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.sigterm();
    until("the drain to begin", || async {
        let ready = gateway
            .admin("/readyz")
            .await
            .is_some_and(|answer| answer.status == 200);
        (!ready).then_some(())
    })
    .await;
    let began = std::time::Instant::now();
    gateway.sigterm();
    gateway.ended().await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    gateway.restart().await;
    assert_eq!(gateway.send(&payment("k")).await.status, 409);
    assert_eq!(upstream.charges(), 1);
}
