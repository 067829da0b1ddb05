//! A store on a disk that takes nothing more: protected requests are refused, the others go on, and all is well again
//! once there is room. The kernel refuses every write of a process whose limit of file sizes is 0, as a full disk does;
//! the limit can be set and lifted from outside, by an ordinary user.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::support::{
    Act, Gate, Gateway, Problem, Request, Setup, ToyUpstream, payment, tool, until,
};

#[tokio::test]
async fn a_full_disk_refuses_protected_requests_passes_the_others_and_is_survived() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded().rest_passes();
    let gateway = setup.limits("replay_cache = \"0B\"").start().await;
    gateway.send(&payment("k0")).await.is(201, "executed");
    writes_fail(&gateway);
    for n in 1..=20 {
        let refused = gateway.send(&payment(&format!("k{n}"))).await;
        refused.refuses(Problem::STORE_UNAVAILABLE);
        refused.says_when_to_retry();
    }
    assert_eq!(upstream.charges(), 1, "nothing is sent that is not claimed");
    let passed = gateway.send(&Request::get("/elsewhere")).await;
    assert_eq!(passed.status, 201, "{passed:?}");
    let said = gateway.log().message(OUT_OF_ORDER).await;
    let reason = said["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("gate.db") && reason.contains("File too large"),
        "{reason}"
    );
    writes_succeed(&gateway);
    let retry = executed_at_last(&gateway, "k1").await;
    assert_eq!(retry, "executed");
    gateway.send(&payment("k0")).await.is(201, "replayed");
    gateway.log().message("the store writes again").await;
    for n in 1..=20 {
        executed_at_last(&gateway, &format!("k{n}")).await;
    }
    assert_eq!(upstream.charges(), 22, "each once, and the one that passed");
    for once in [OUT_OF_ORDER, "the store writes again"] {
        assert_eq!(gateway.log().messages(once).len(), 1, "{once}");
    }
    assert!(gateway.log().messages("no claim").len() <= 1, "no flood");
}

#[tokio::test]
async fn a_disk_that_has_room_for_little_only_loses_nothing_that_was_said() {
    const PAYMENTS: usize = 12;
    let upstream = ToyUpstream::start();
    upstream.always(|request| Act::respond(201, &[], request.number.to_string().repeat(200_000)));
    let setup = Setup::payments(&upstream).embedded();
    let setup = setup.limits("replay_cache = \"0B\"");
    let setup = setup.store("timeout = \"5s\"");
    let gateway = setup.route("lease = \"20s\"").start().await;
    gateway.send(&payment("k")).await.is(201, "executed");
    let size = std::fs::metadata(gateway.directory().join("gate.db"));
    let size = size.expect("the store's file").len();
    limit_file_size(&gateway, &format!("{size}:"));
    let payments = (0..PAYMENTS).map(|n| gateway.spawn(&payment(&format!("k{n}"))));
    let payments: Vec<_> = payments.collect();
    let mut heard = Vec::new();
    for payment in payments {
        heard.push(payment.await.expect("an answer"));
    }
    let unrecorded = heard
        .iter()
        .filter(|answer| answer.status != 201 || answer.idempotency_status() != "executed");
    assert!(unrecorded.count() > 0, "the disk was never full: {heard:?}");
    gateway.log().message(OUT_OF_ORDER).await;
    assert_eq!(gateway.log().messages(OUT_OF_ORDER).len(), 1);
    writes_succeed(&gateway);
    for (n, heard) in heard.iter().enumerate() {
        let key = format!("k{n}");
        let now = until("an answer", || async {
            let answer = gateway.send(&payment(&key)).await;
            (answer.status == 201).then_some(answer)
        })
        .await;
        if heard.status == 201 {
            assert_eq!(now.is(201, "replayed").body, heard.body);
        }
    }
    let twice: Vec<_> = upstream
        .charges_by_key()
        .into_iter()
        .filter(|(_, charges)| *charges > 1)
        .collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}");
    gateway.log().message("the store writes again").await;
    assert_eq!(gateway.log().messages(OUT_OF_ORDER).len(), 1);
}

#[tokio::test]
async fn a_full_disk_lets_requests_go_on_unprotected_where_the_route_says_so() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded();
    let gateway = setup.route("on_store_down = \"forward\"").start().await;
    writes_fail(&gateway);
    for n in 0..3 {
        let answer = gateway.send(&payment(&format!("k{n}"))).await;
        answer.is(201, "unkeyed");
    }
    writes_succeed(&gateway);
    until("protection", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() == "executed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_finds_the_disk_full_is_recorded_once_there_is_room() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded();
    let gateway = setup.route("record_timeout = \"300ms\"").start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    writes_fail(&gateway);
    gate.open();
    let first = first.await.expect("an answer");
    assert_eq!(first.is(201, "unrecorded").text(), "paid");
    let duplicate = gateway.send(&payment("k")).await;
    assert!(duplicate.status >= 400, "{duplicate:?}");
    writes_succeed(&gateway);
    let replay = until("the record", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.idempotency_status() == "replayed").then_some(answer)
    })
    .await;
    assert_eq!(replay.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_gateway_that_dies_on_a_full_disk_has_lost_nothing_that_it_said() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    gateway.send(&payment("k0")).await.is(201, "executed");
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let mut client = gateway.connect().await;
    client.write_request(&payment("k1")).await;
    upstream.received_at_least(2).await;
    writes_fail(&gateway);
    gate.open();
    client.answer().await.is(201, "unrecorded");
    gateway.kill9().await;
    gateway.restart().await;
    gateway.send(&payment("k0")).await.is(201, "replayed");
    let retry = gateway.send(&payment("k1")).await;
    retry.refuses(Problem::IN_PROGRESS);
    assert_eq!(upstream.charges(), 2);
}

#[tokio::test]
async fn a_gateway_does_not_start_on_a_full_disk_and_says_why() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    gateway.send(&payment("k")).await.is(201, "executed");
    gateway.kill9().await;
    let limit = [tool("prlimit").display().to_string(), "--fsize=0".into()];
    let output = serve(&gateway, &limit);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("gate.db") && said.contains("File too large"),
        "{said}"
    );
    gateway.restart().await;
    gateway.send(&payment("k")).await.is(201, "replayed");
}

#[tokio::test]
async fn a_gateway_does_not_start_on_a_file_that_it_may_not_write_and_says_why() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    gateway.kill9().await;
    let file = gateway.directory().join("gate.db");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).expect("our own file");
    let output = serve(&gateway, &as_an_ordinary_user());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("gate.db") && said.contains("Permission denied"),
        "{said}"
    );
}

const OUT_OF_ORDER: &str =
    "the store cannot write; it refuses what it cannot record, and tries again by itself";

fn writes_fail(gateway: &Gateway) {
    limit_file_size(gateway, "0:");
}

fn writes_succeed(gateway: &Gateway) {
    limit_file_size(gateway, "unlimited:");
}

/// Sets the soft limit, which may be lifted again.
fn limit_file_size(gateway: &Gateway, limit: &str) {
    let mut prlimit = Command::new(tool("prlimit"));
    prlimit.arg(format!("--pid={}", gateway.pid()));
    let status = prlimit.arg(format!("--fsize={limit}")).status();
    assert!(status.expect("prlimit").success(), "{prlimit:?}");
}

/// What became of the request, once it is answered with success.
async fn executed_at_last(gateway: &Gateway, key: &str) -> String {
    until("the store to take it", || async {
        let answer = gateway.send(&payment(key)).await;
        (answer.status == 201).then(|| answer.idempotency_status().to_owned())
    })
    .await
}

/// What takes root's power over files away from a command; nothing where the test runs as somebody else.
fn as_an_ordinary_user() -> Vec<String> {
    let id = Command::new("id").arg("-u").output().expect("id");
    if id.stdout != b"0\n" {
        return Vec::new();
    }
    let setpriv = tool("setpriv").display().to_string();
    let powers = ["--bounding-set=-all", "--inh-caps=-all"];
    std::iter::once(setpriv)
        .chain(powers.map(str::to_owned))
        .collect()
}

/// Runs the gateway again where it was, behind these words of a command, to its end.
fn serve(gateway: &Gateway, before: &[String]) -> Output {
    let program = env!("CARGO_BIN_EXE_oncegate").to_owned();
    let serve = ["serve", "--config", "oncegate.toml"].map(str::to_owned);
    let mut words = before.iter().cloned().chain([program]).chain(serve);
    let mut command = Command::new(words.next().expect("a program"));
    let output = command
        .args(words)
        .current_dir(gateway.directory())
        .output();
    output.expect("the binary")
}
