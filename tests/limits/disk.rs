//! A store whose disk takes its time, or takes nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    Act, Gate, Gateway, Problem, Request, Setup, ToyUpstream, payment, tool, until,
};
use crate::{SLACK, metric, settles};

/// A gateway whose disk can be made to stall, or to fail.
async fn with_bad_disk(setup: &Setup) -> Gateway {
    let directory = tempfile::tempdir().expect("a directory");
    let preload = format!("LD_PRELOAD={}", bad_disk(directory.path()).display());
    // It is loaded by the time that the gateway is ready.
    Gateway::start_through(&["env", &preload], &setup.toml()).await
}

/// Compiles what stands between it and its disk.
fn bad_disk(directory: &Path) -> PathBuf {
    let library = directory.join("bad_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/limits/bad_disk.c");
    let compiled = Command::new(tool("cc"))
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(compiled.expect("a compiler").success());
    library
}

/// Makes the gateway's disk stall, or go on.
fn stall(gateway: &Gateway, is_stalled: bool) {
    let flag = gateway.directory().join("stalled");
    if is_stalled {
        std::fs::write(flag, "").expect("a flag");
    } else {
        std::fs::remove_file(flag).expect("the flag");
    }
}

/// Makes every write fail by this error, or none.
fn fail(gateway: &Gateway, error: Option<i32>) {
    let flag = gateway.directory().join("failing");
    match error {
        // At once, so that no half of it is read.
        Some(number) => {
            let whole = gateway.directory().join("whole");
            std::fs::write(&whole, number.to_string()).expect("a flag");
            std::fs::rename(whole, flag).expect("a flag");
        }
        None => std::fs::remove_file(flag).expect("the flag"),
    }
}

/// No room, a file system that the kernel lets nobody write any more, as after an error, and the error itself.
#[tokio::test]
async fn a_disk_that_is_full_read_only_or_broken_refuses_protected_requests_alone_and_is_survived()
{
    tokio::join!(
        survives(28, "No space left on device"),
        survives(30, "Read-only file system"),
        survives(5, "Input/output error"),
    );
}

async fn survives(error: i32, words: &str) {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).rest_passes().embedded();
    let gateway = with_bad_disk(&setup).await;
    gateway.send(&payment("before")).await.is(201, "executed");
    fail(&gateway, Some(error));
    for _ in 0..5 {
        let refused = gateway.send(&payment("k")).await;
        refused.refuses(Problem::STORE_UNAVAILABLE);
        refused.says_when_to_retry();
    }
    let passing = Request::get("/elsewhere");
    assert_eq!(gateway.send(&passing).await.status, 201, "{words}");
    settles(&gateway, "oncegate_store_up", &[], 0).await;
    let said =
        "the store cannot write; it refuses what it cannot record, and tries again by itself";
    let line = gateway.log().message(said).await;
    let reason = line["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("gate.db") && reason.contains(words),
        "{reason}"
    );

    fail(&gateway, None);
    until("the store to take it", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() == "executed").then_some(())
    })
    .await;
    gateway.send(&payment("before")).await.is(201, "replayed");
    settles(&gateway, "oncegate_store_up", &[], 1).await;
    gateway.log().message("the store writes again").await;
    assert_eq!(gateway.log().messages(said).len(), 1, "{words}");
    let charges = upstream.charges_by_key();
    assert_eq!((charges["before"], charges["k"]), (1, 1), "{words}");
}

#[tokio::test]
async fn a_claim_that_the_store_does_not_take_within_its_timeout_is_not_sent_and_leaves_the_key_free()
 {
    // What goes before has to be recorded on a disk that others use, too.
    const LIMIT: Duration = Duration::from_secs(2);
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .rest_passes()
        .embedded()
        .store("timeout = \"2s\"");
    let gateway = with_bad_disk(&setup).await;
    gateway.send(&payment("recorded")).await.is(201, "executed");
    stall(&gateway, true);
    let begun = Instant::now();
    let refused = gateway.send(&payment("k")).await;
    assert!(begun.elapsed() + SLACK >= LIMIT, "{:?}", begun.elapsed());
    refused.refuses(Problem::STORE_UNAVAILABLE);
    refused.says_when_to_retry();
    assert_eq!(metric(&gateway, "oncegate_claims_in_doubt", &[]).await, 1);
    let in_doubt = [("op", "claim"), ("result", "in_doubt")];
    assert_eq!(
        metric(&gateway, "oncegate_store_operations_total", &in_doubt).await,
        1
    );
    assert_eq!(
        gateway
            .metrics()
            .await
            .decisions("pay", "store_unavailable"),
        1
    );
    // What needs no writing goes on.
    gateway.send(&payment("recorded")).await.is(201, "replayed");
    let passing = Request::get("/elsewhere");
    assert_eq!(gateway.send(&passing).await.status, 201);

    stall(&gateway, false);
    settles(&gateway, "oncegate_claims_in_doubt", &[], 0).await;
    gateway.send(&payment("k")).await.is(201, "executed");
    assert_eq!(upstream.charges_by_key()["k"], 1);
}

#[tokio::test]
async fn an_answer_that_is_not_recorded_within_record_timeout_is_given_as_unrecorded_and_recorded_later()
 {
    const LIMIT: Duration = Duration::from_millis(500);
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("record_timeout = \"500ms\"");
    let gateway = with_bad_disk(&setup).await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "charged").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.received_at_least(1).await;
    stall(&gateway, true);
    let begun = Instant::now();
    gate.open();
    let answer = first.await.expect("an answer");
    assert!(begun.elapsed() + SLACK >= LIMIT, "{:?}", begun.elapsed());
    assert_eq!(answer.is(201, "unrecorded").text(), "charged");
    assert_eq!(
        metric(&gateway, "oncegate_recordings_pending", &[]).await,
        1
    );
    assert_eq!(gateway.metrics().await.decisions("pay", "unrecorded"), 1);
    stall(&gateway, false);
    settles(&gateway, "oncegate_recordings_pending", &[], 0).await;
    let replayed = until("the record", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status == 201).then_some(answer)
    })
    .await;
    assert_eq!(replayed.is(201, "replayed").text(), "charged");
    assert_eq!(upstream.charges(), 1);
    settles(&gateway, "oncegate_claims_held", &[], 0).await;
}
