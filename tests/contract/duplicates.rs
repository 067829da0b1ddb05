//! Duplicates at the same moment: waiting, joining, crowds, and clients that go away.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::support::{
    Act, Connection, Gate, Http2, PATIENCE, Problem, Setup, ToyUpstream, payment, seed, until,
};

#[tokio::test]
async fn a_duplicate_that_may_wait_hears_the_first_ones_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[("X-Paid", "yes")], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let duplicates: Vec<_> = (0..3).map(|_| gateway.spawn(&payment("k"))).collect();
    gate.open();
    assert_eq!(
        first.await.expect("an answer").is(201, "executed").text(),
        "paid"
    );
    for duplicate in duplicates {
        let answer = duplicate.await.expect("an answer");
        assert_eq!(answer.is(201, "replayed").text(), "paid");
        assert_eq!(answer.header("X-Paid"), Some("yes"));
    }
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_duplicate_waits_no_longer_than_its_route_says() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"200ms\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let began = std::time::Instant::now();
    let duplicate = gateway.send(&payment("k")).await;
    duplicate.refuses(Problem::IN_PROGRESS);
    duplicate.says_when_to_retry();
    assert!(
        began.elapsed() >= Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
    gate.open();
    first.await.expect("an answer").is(201, "executed");
}

#[tokio::test]
async fn a_waiting_duplicate_of_a_request_whose_outcome_is_unknown_hears_that() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::reset_after_reading().after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let duplicate = gateway.spawn(&payment("k"));
    gate.open();
    first.await.expect("an answer").refuses(Problem::FAILED);
    let duplicate = duplicate.await.expect("an answer");
    assert_eq!(
        duplicate.json()["operation_state"],
        "unknown",
        "{duplicate:?}"
    );
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn waiting_duplicates_of_a_released_request_are_told_to_retry_and_are_not_sent_all_at_once() {
    const WAITERS: usize = 8;
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .limits("max_waiters_per_key = 8")
        .route("wait = \"20s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(429, &[], "").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let duplicates = (0..=WAITERS).map(|_| gateway.spawn(&payment("k")));
    // That one is turned away is the sign that all others wait.
    let (turned_away, _, waiting) = futures_util::future::select_all(duplicates).await;
    turned_away.expect("an answer").refuses(Problem::OVERLOADED);
    gate.open();
    first.await.expect("an answer").is(429, "released");
    for duplicate in waiting {
        let answer = duplicate.await.expect("an answer");
        assert_eq!(answer.idempotency_status(), "refused", "{answer:?}");
        assert_eq!(answer.json()["retry_same_key"], true, "{answer:?}");
    }
    assert_eq!(upstream.charges(), 1);
    gateway.send(&payment("k")).await.is(201, "executed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_keys_with_two_hundred_concurrent_duplicates_each_are_fifty_dispatches() {
    const KEYS: usize = 50;
    const COPIES: usize = 200;
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        // Ten thousand requests at one moment: a busy machine is not what this is about.
        .store("timeout = \"20s\"")
        .route("lease = \"60s\"")
        .limits("max_waiters_per_key = 200")
        .limits("max_waiters = 10000")
        .route("wait = \"90s\"")
        .start()
        .await;
    // Each key's copies come over all connections: one stream a key and connection, four times.
    let connections = COPIES / 4;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let connection = Http2::open(gateway.address).await;
        for copy in 0..4 * KEYS {
            let (connection, key) = (connection.clone(), format!("k{}", copy % KEYS));
            tasks.spawn(async move { (connection.send(&payment(&key)).await, key) });
        }
    }
    let mut bodies: HashMap<String, HashSet<Vec<u8>>> = HashMap::new();
    let (mut executed, mut replayed) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let (answer, key) = done.expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
        match answer.idempotency_status() {
            "executed" => executed += 1,
            "replayed" => replayed += 1,
            other => panic!("{other}: {answer:?}"),
        }
        bodies.entry(key).or_default().insert(answer.body);
    }
    assert_eq!((executed, replayed), (KEYS, KEYS * (COPIES - 1)));
    assert_eq!(upstream.charges(), KEYS);
    assert_eq!(bodies.len(), KEYS);
    assert!(
        bodies.values().all(|bodies| bodies.len() == 1),
        "a key has two answers"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_duplicates_of_one_key_are_one_dispatch() {
    const CONNECTIONS: usize = 50;
    const EACH: usize = 200;
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let gateway = Setup::payments(&upstream).start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = gateway.connect().await;
        let gate = gate.clone();
        tasks.spawn(async move {
            let (mut paid, mut turned_away) = (0, 0);
            for number in 0..EACH {
                // The second half of every connection's requests comes after the answer.
                if number == EACH / 2 {
                    gate.open();
                }
                let answer = connection.send(&payment("k")).await;
                match (answer.status, answer.idempotency_status()) {
                    (201, "executed" | "replayed") => {
                        assert_eq!(answer.body, b"paid");
                        paid += 1;
                    }
                    (409 | 503, "refused") => {
                        assert_eq!(answer.json()["retry_same_key"], true, "{answer:?}");
                        turned_away += 1;
                    }
                    _ => panic!("{answer:?}"),
                }
            }
            (paid, turned_away)
        });
    }
    let (mut paid, mut turned_away) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let (more_paid, more_turned_away) = done.expect("no panic");
        paid += more_paid;
        turned_away += more_turned_away;
    }
    assert_eq!(paid + turned_away, CONNECTIONS * EACH);
    assert!(
        paid > 0 && turned_away > 0,
        "{paid} paid, {turned_away} turned away"
    );
    assert_eq!(upstream.charges(), 1);
    assert_eq!(gateway.metrics().await.decisions("pay", "executed"), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_neither_the_dispatch_nor_its_recording() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.hang_up();
    gate.open();
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").text(),
        "paid"
    );
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_http2_stream_that_is_reset_stops_neither_the_dispatch_nor_its_recording() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let http2 = Http2::open(gateway.address).await;
    let stream = tokio::spawn({
        let http2 = http2.clone();
        async move { http2.send(&payment("k")).await }
    });
    upstream.next_request().await;
    stream.abort();
    assert!(stream.await.is_err());
    // The reset has been sent before this, on the same connection.
    http2.send(&payment("other")).await.is(201, "executed");
    gate.open();
    assert_eq!(
        http2.send(&payment("k")).await.is(201, "replayed").text(),
        "paid"
    );
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn clients_that_hang_up_at_any_moment_and_retry_are_charged_once() {
    const CLIENTS: usize = 100;
    let mut random = fastrand::Rng::with_seed(seed());
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("wait = \"20s\"")
        .start()
        .await;
    for number in 0..CLIENTS {
        let mut client = gateway.connect().await;
        let key = format!("k{number}");
        let bytes = payment(&key).to_bytes(&gateway.address.to_string());
        let sent = random.usize(1..=bytes.len());
        client.write(&bytes[..sent]).await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..2000))).await;
        client.hang_up();
        let retry = gateway.send(&payment(&key)).await;
        assert_eq!(retry.status, 201, "{retry:?}");
        // The first copy may have been read late: what counts is that both were one.
        let again = gateway.send(&payment(&key)).await;
        assert_eq!(again.is(201, "replayed").body, retry.body);
    }
    let charges = upstream.charges_by_key();
    assert_eq!(charges.len(), CLIENTS);
    assert!(charges.values().all(|charges| *charges == 1), "{charges:?}");
}

#[tokio::test]
async fn duplicates_of_a_beating_claim_are_told_in_progress_long_past_its_first_lease() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("lease = \"1s\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let began = std::time::Instant::now();
    let mut connection = Connection::open(gateway.address).await;
    while began.elapsed() < Duration::from_secs(3) {
        connection
            .send(&payment("k"))
            .await
            .refuses(Problem::IN_PROGRESS);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gate.open();
    first.await.expect("an answer").is(201, "executed");
    let replay = until("the replay", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status == 201).then_some(answer)
    });
    assert_eq!(
        tokio::time::timeout(PATIENCE, replay)
            .await
            .expect("in time")
            .text(),
        "paid"
    );
    assert_eq!(upstream.charges(), 1);
}
