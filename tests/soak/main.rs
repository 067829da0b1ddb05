//! A mixed load with faults for a while: every promise is kept, nothing grows, and nothing is left at the end.
//!
//! Twenty seconds unless `SOAK_SECONDS` says otherwise; `ONCEGATE_SEED` repeats the choices of a run (their timing is the
//! machine's). `SOAK_SECONDS=600 cargo nextest run --release --test soak --no-capture` is the long one.

#[path = "../support/mod.rs"]
mod support;

mod books;
mod load;
mod upstream;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use books::Books;
use load::Worker;
use support::{Gateway, Setup, ToyUpstream, until};
use tokio::time::Instant;
use watch::Watch;

/// Clients at work at a time.
const WORKERS: u64 = 48;

/// What is held for somebody, and by nobody when the load is over.
const HELD: [&str; 9] = [
    "oncegate_claims_held",
    "oncegate_claims_in_doubt",
    "oncegate_waiters",
    "oncegate_buffered_bytes",
    "oncegate_late_dispatches",
    "oncegate_recordings_pending",
    "oncegate_connections",
    "oncegate_upstream_in_flight",
    "oncegate_upstream_connections",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_mixed_load_with_faults_every_promise_is_kept_and_nothing_grows() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(20, |seconds| {
        seconds.parse().expect("SOAK_SECONDS is a number")
    });
    let seed = support::seed();
    let books = Arc::new(Books::default());
    let upstream = ToyUpstream::start();
    upstream.forgets().always({
        let books = Arc::clone(&books);
        move |request| upstream::act(request, &books)
    });
    let gateway = Arc::new(setup(&upstream).start().await);
    let ends = Instant::now() + Duration::from_secs(seconds);
    let watch = tokio::spawn(Watch::until(Arc::clone(&gateway), ends));
    let workers = (0..WORKERS).map(|number| {
        let worker = Worker::new(number, seed, gateway.address, Arc::clone(&books));
        tokio::spawn(worker.work(ends))
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.expect("a worker's end");
    }
    let watch = watch.await.expect("the watch's end");
    nothing_is_held(&gateway).await;
    let metrics = gateway.metrics().await;
    let executed = metrics.decisions("pay", "executed");
    println!("{}\n{}", books.summary(), watch.summary());
    books.are_in_order(executed);
    watch.saw_nothing_grow();
}

/// Small bounds and short times, so that all of them are met.
fn setup(upstream: &ToyUpstream) -> Setup {
    let limits = [
        "max_connections = 256",
        "max_buffered = \"4MiB\"",
        "max_waiters = 32",
        "max_waiters_per_key = 4",
        "max_late = 8",
        "first_byte = \"1s\"",
        "headers = \"1s\"",
        "body_idle = \"1s\"",
        "keep_alive = \"3s\"",
        "replay_cache = \"1MiB\"",
    ];
    let route = [
        "wait = \"2s\"",
        "key_required = false",
        "max_request_body = \"256KiB\"",
        "max_response_body = \"128KiB\"",
        "lease = \"5s\"",
        "response_timeout = \"500ms\"",
        "late_response = \"2s\"",
        "retention = { success = \"15s\", failure = \"15s\", unknown = \"15s\" }",
    ];
    let setup = Setup::payments(upstream)
        .embedded()
        .store("timeout = \"2s\"");
    let setup = limits.into_iter().fold(setup, Setup::limits);
    let setup = route.into_iter().fold(setup, Setup::route);
    setup.upstream("idle_timeout = \"2s\"").rest_passes()
}

async fn nothing_is_held(gateway: &Gateway) {
    let look = || async {
        let metrics = gateway.metrics().await;
        let held = HELD.map(|name| metrics.value(name, &[]));
        (held == [Some(0.0); HELD.len()]).then_some(())
    };
    until("every gauge to be back at zero", look).await;
}
