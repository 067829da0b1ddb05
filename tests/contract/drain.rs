//! SIGTERM: what is under way ends or is settled, what comes is told to go elsewhere, nothing is left to guess.
//! `crashes` has the plain cases.

use std::time::{Duration, Instant};

use crate::support::{
    Act, Connection, Gate, Gateway, Http2, Problem, Request, Setup, StalledUpstream, ToyUpstream,
    payment, until,
};

/// Longer than a drain may take that has nothing to wait for but its delay.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_drain_says_so_first_and_takes_new_connections_for_a_moment() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).top("drain_delay = \"20s\"");
    let mut gateway = setup.start().await;
    let mut idle = gateway.connect().await;
    idle.send(&payment("k1")).await.is(201, "executed");
    gateway.drains().await;
    // It may have been sent before anybody could hear of the drain.
    let answer = idle.send(&payment("k1")).await;
    answer.is(201, "replayed");
    assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
    idle.closed().await;
    let mut late = gateway.connect().await;
    let answer = late.send(&payment("k2")).await;
    answer.is(201, "executed");
    assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
    late.closed().await;
    let http2 = Http2::open(gateway.address).await;
    http2.send(&payment("k3")).await.is(201, "executed");
    http2.goodbye().await;
    let began = Instant::now();
    gateway.sigterm();
    gateway.ended().await;
    assert!(
        began.elapsed() < SOON,
        "a second signal ends at once: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_new_ones_are_refused() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).top("drain_delay = \"500ms\"");
    let mut gateway = setup.start().await;
    let mut idle = gateway.connect().await;
    idle.send(&payment("k1")).await.is(201, "executed");
    let began = Instant::now();
    gateway.sigterm();
    idle.closed().await;
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_on_its_way_when_the_last_connections_are_taken_is_answered() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).top("drain_delay = \"0s\"");
    let mut gateway = setup.start().await;
    let mut late = gateway.connect().await;
    until("the connection to be taken", || async {
        let open = gateway.metrics().await.value("oncegate_connections", &[]);
        (open == Some(1.0)).then_some(())
    })
    .await;
    let began = Instant::now();
    gateway.drains().await;
    until("new connections to be refused", || async {
        Connection::try_open(gateway.address).await.err()
    })
    .await;
    match late.try_send(&payment("k")).await {
        Some(answer) => {
            answer.is(201, "executed");
            assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
        }
        // It has a second: what was held up for longer was not on its way.
        None => assert!(began.elapsed() >= Duration::from_secs(1)),
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn then_it_refuses_new_connections_and_what_is_under_way_ends_and_is_recorded() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).embedded().start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    gateway.drains().await;
    until("new connections to be refused", || async {
        Connection::try_open(gateway.address).await.err()
    })
    .await;
    gate.open();
    let answer = first.await.expect("an answer");
    assert_eq!(answer.is(201, "executed").text(), "paid");
    assert_eq!(answer.header("Connection"), Some("close"), "{answer:?}");
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    let retry = gateway.send(&payment("k")).await;
    assert_eq!(retry.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn http2_streams_under_way_end_after_the_goodbye() {
    let upstream = ToyUpstream::start();
    let mut gateway = Setup::payments(&upstream).start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let http2 = Http2::open(gateway.address).await;
    let stream = {
        let http2 = http2.clone();
        tokio::spawn(async move { http2.send(&payment("k")).await })
    };
    upstream.next_request().await;
    gateway.drains().await;
    http2.goodbye().await;
    gate.open();
    let answer = stream.await.expect("an answer");
    assert_eq!(answer.is(201, "executed").text(), "paid");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn clients_hear_what_a_drain_cuts_short_and_so_do_their_duplicates() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded();
    let setup = setup.top("drain_timeout = \"1s\"").route("wait = \"60s\"");
    let mut gateway = setup.start().await;
    upstream.next(Act::hang());
    let first = gateway.spawn(&payment("k"));
    upstream.next_request().await;
    let duplicate = gateway.spawn(&payment("k"));
    waiters(&gateway, 1).await;
    gateway.sigterm();
    first.await.expect("an answer").refuses(Problem::FAILED);
    let duplicate = duplicate.await.expect("an answer");
    duplicate.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(gateway.log().messages(UNSETTLED).is_empty());
    gateway.restart().await;
    let retry = gateway.send(&payment("k")).await;
    retry.refuses(Problem::OUTCOME_UNKNOWN);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn what_was_provably_not_sent_is_released() {
    let stalled = StalledUpstream::start().await;
    let setup = Setup::payments_at(&stalled.url())
        .embedded()
        .top("drain_timeout = \"1s\"");
    let mut gateway = setup
        .clone()
        .upstream("connect_timeout = \"60s\"")
        .start()
        .await;
    let first = gateway.spawn(&payment("k"));
    until("the claim", || async {
        let claims = gateway.metrics().await.value("oncegate_claims_held", &[]);
        (claims == Some(1.0)).then_some(())
    })
    .await;
    gateway.sigterm();
    first.await.expect("an answer").refuses(Problem::OVERLOADED);
    assert_eq!(gateway.ended().await.code(), Some(0));
    let upstream = ToyUpstream::start();
    gateway
        .restart_with(&Setup::payments(&upstream).embedded())
        .await;
    let retry = gateway.send(&payment("k")).await;
    retry.is(201, "executed");
}

#[tokio::test]
async fn one_that_waits_for_a_silent_attempt_is_answered_when_a_drain_is_cut_short() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded();
    let setup = setup.top("drain_timeout = \"1s\"");
    let setup = setup.route("wait = \"60s\"").route("lease = \"60s\"");
    let mut gateway = setup.start().await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.kill9().await;
    gateway.restart().await;
    let duplicate = gateway.spawn(&payment("k"));
    waiters(&gateway, 1).await;
    gateway.sigterm();
    let duplicate = duplicate.await.expect("an answer");
    duplicate.refuses(Problem::IN_PROGRESS);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_late_answer_still_completes_its_record_during_a_drain() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded();
    let mut gateway = setup.route("response_timeout = \"100ms\"").start().await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    gateway.drains().await;
    gate.open();
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    let retry = gateway.send(&payment("k")).await;
    assert_eq!(retry.is(201, "replayed").text(), "paid");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn streams_that_pass_through_are_cut_off_when_the_time_is_up() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).embedded().rest_passes();
    let mut gateway = setup.top("drain_timeout = \"500ms\"").start().await;
    let never = Gate::closed();
    let endless = || Act::event_stream().chunk("data: 1\n\n").then_wait(&never);
    upstream.next(endless()).next(endless());
    let (mut passing, mut protected) = (gateway.connect().await, gateway.connect().await);
    passing.write_request(&Request::get("/events")).await;
    assert_eq!(passing.answer_head().await.0, 200);
    protected.write_request(&payment("k")).await;
    let (_, headers) = protected.answer_head().await;
    assert_eq!(headers.first("Idempotency-Status"), Some("unrecorded"));
    let began = Instant::now();
    gateway.sigterm();
    passing.closed().await;
    protected.closed().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(gateway.log().messages(UNSETTLED).is_empty());
    gateway.restart().await;
    let retry = gateway.send(&payment("k")).await;
    retry.refuses(Problem::NOT_STORED);
}

const UNSETTLED: &str = "not everything was settled; open claims will read as unknown";

async fn waiters(gateway: &Gateway, number: u32) {
    until("duplicates to wait", || async {
        let waiters = gateway.metrics().await.value("oncegate_waiters", &[]);
        (waiters == Some(number.into())).then_some(())
    })
    .await;
}
