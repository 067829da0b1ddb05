//! A store and an upstream that fail at random, and clients that never give up.

use std::collections::HashMap;
use std::sync::Mutex;

use oncegate::protocol::State;
use tokio::task::JoinSet;

use crate::rig::Rig;
use crate::support::{Act, Answer, Setup, ToyUpstream, payment, seed};

const KEYS: usize = 40;
/// Clients of each key, at the same moment.
const CLIENTS: usize = 3;
/// How often each of them asks, one request after the other.
const TRIES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_store_and_upstream_do_nothing_is_sent_twice_and_no_key_stays_held() {
    let seed = seed();
    let upstream = ToyUpstream::start();
    let random = Mutex::new(fastrand::Rng::with_seed(seed));
    upstream.always(move |request| {
        let paid = format!("{} is charge {}", request.key(), request.number);
        match random.lock().expect("no panic").u8(..20) {
            0..14 => Act::respond(201, &[], paid),
            14 => Act::respond(500, &[], paid),
            15 => Act::respond(503, &[], "nobody knows"),
            16 => Act::truncate(201, 100, b"half"),
            17 => Act::reset_after_reading(),
            _ => Act::hang(),
        }
    });
    let setup = Setup::payments(&upstream)
        .store("timeout = \"20ms\"")
        .limits("replay_cache = \"0\"")
        .route("wait = \"200ms\"")
        .route("lease = \"1s\"")
        .route("record_timeout = \"100ms\"")
        .route("response_timeout = \"300ms\"")
        .route("late_response = \"300ms\"");
    let rig = Rig::start(&setup);
    rig.store.goes_mad(seed);
    let heard = retried(&rig).await;
    rig.store.recovers();
    rig.is_quiet().await;
    rig.counts("late_dispatches", &[], 0).await;

    for state in rig.store.states() {
        assert!(
            !matches!(state, State::Claimed(_)),
            "held for nothing: {state:?}"
        );
    }
    let mut settled = 0;
    for (key, answers) in &heard {
        let last = rig.pay(key).await;
        match last.idempotency_status() {
            "executed" | "replayed" => settled += 1,
            // An answer that does not say what happened is passed on as it came.
            "unknown" if last.status == 503 => {}
            "unknown" => drop(last.json()),
            other => panic!("{key}: {other} {last:?}"),
        }
        for answer in answers {
            agrees(key, answer, &last);
        }
    }
    println!("{settled} of {KEYS} keys are settled");
    let charges = upstream.charges_by_key();
    let twice: Vec<_> = charges
        .iter()
        .filter(|(_, charges)| **charges > 1)
        .collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    assert!(settled > 0, "the load never got through");
    let requests = (KEYS * (CLIENTS * TRIES + 1)) as u64;
    assert_eq!(rig.all_decisions(), requests, "each counts once");
}

/// What every client of every key has heard.
async fn retried(rig: &Rig) -> HashMap<String, Vec<Answer>> {
    let mut clients = JoinSet::new();
    for number in 0..KEYS * CLIENTS {
        let key = format!("k{}", number % KEYS);
        let mut connection = rig.connect().await;
        clients.spawn(async move {
            let mut heard = Vec::new();
            for _ in 0..TRIES {
                heard.push(connection.send(&payment(&key)).await);
            }
            (key, heard)
        });
    }
    let mut heard: HashMap<String, Vec<Answer>> = HashMap::new();
    while let Some(done) = clients.join_next().await {
        let (key, answers) = done.expect("an answer");
        heard.entry(key).or_default().extend(answers);
    }
    heard
}

/// What was heard on the way is not belied by the last word on it.
#[track_caller]
fn agrees(key: &str, answer: &Answer, last: &Answer) {
    match answer.idempotency_status() {
        "executed" | "replayed" | "unrecorded" => {
            last.is(answer.status, "replayed");
            assert_eq!(answer.body, last.body, "{key}");
        }
        "unknown" => {
            let sent = answer.status == 502 || answer.status == 503 || answer.status == 504;
            let again = last.idempotency_status() == "executed";
            assert!(!(sent && again), "{key} was sent again: {answer:?}");
        }
        "refused" => {
            let body = answer.json();
            assert_eq!(body["retry_same_key"], true, "{key}: {answer:?}");
            assert_ne!(body["operation_state"], "none", "{key}: {answer:?}");
        }
        other => panic!("{key}: {other} {answer:?}"),
    }
}
