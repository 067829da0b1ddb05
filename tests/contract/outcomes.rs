//! What becomes of a dispatch: late answers, broken connections, broken answers, large and endless ones.

use crate::support::{Act, Gate, Problem, Setup, ToyUpstream, payment, until};

#[tokio::test]
async fn an_answer_that_comes_late_completes_the_record() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"300ms\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[("X-Late", "yes")], "paid").after(&gate));
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    gate.open();
    let replay = until("the late answer to be recorded", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert_eq!(replay.is(201, "replayed").text(), "paid");
    assert_eq!(replay.header("X-Late"), Some("yes"));
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_late_refusal_is_never_taken_for_an_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"300ms\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(Act::respond(429, &[], "").after(&gate));
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    gate.open();
    // It may free the key or leave it unknown; what it must not do is to become what duplicates hear.
    let after = gateway.send(&payment("k")).await;
    assert!(
        matches!(after.idempotency_status(), "unknown" | "executed"),
        "{after:?}"
    );
    assert!(upstream.charges() <= 2);
}

#[tokio::test]
async fn an_answer_whose_end_comes_too_late_is_a_timeout() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("response_timeout = \"300ms\"")
        .start()
        .await;
    let gate = Gate::closed();
    upstream.next(
        Act::stream(201, &[])
            .chunk("pa")
            .then_wait(&gate)
            .chunk("id")
            .last_chunk(),
    );
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    gate.open();
    let replay = until("the late answer to be recorded", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert_eq!(replay.is(201, "replayed").text(), "paid");
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_outcome_unknown() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for (key, act) in [
        ("after", Act::reset_after_reading()),
        ("before", Act::reset_before_reading()),
        ("closed", Act::raw("").then_close()),
        ("head", Act::raw("HTTP/1.1 201 Cre").then_close()),
        ("truncated", Act::truncate(201, 10, b"half")),
        ("chunks", Act::stream(201, &[]).chunk("half").then_close()),
        ("reset", Act::stream(201, &[]).chunk("half").then_reset()),
        (
            "not-http",
            Act::raw("220 smtp.example ESMTP\r\n").then_close(),
        ),
    ] {
        upstream.next(act);
        let first = gateway.send(&payment(key)).await;
        first.refuses(Problem::FAILED);
        gateway
            .send(&payment(key))
            .await
            .refuses(Problem::OUTCOME_UNKNOWN);
    }
    // All but the one that was never read.
    assert_eq!(upstream.charges(), 7);
    assert!(
        upstream
            .charges_by_key()
            .values()
            .all(|charges| *charges == 1)
    );
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_while_idle_costs_nothing() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    for number in 0..5 {
        gateway
            .send(&payment(&format!("k{number}")))
            .await
            .is(201, "executed");
        upstream.close_idle_connections().await;
    }
    assert_eq!(upstream.charges(), 5);
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let early_hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let answer = "HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\npaid";
    upstream.next(Act::raw(format!("{early_hints}{answer}")));
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "executed").text(),
        "paid"
    );
    assert_eq!(
        gateway.send(&payment("k")).await.is(201, "replayed").text(),
        "paid"
    );
}

#[tokio::test]
async fn a_large_answer_passes_through_before_its_end_and_is_not_kept() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("max_response_body = \"1KiB\"")
        .start()
        .await;
    let gate = Gate::closed();
    let (start, rest) = ("x".repeat(2000), "y".repeat(100_000));
    upstream.next(
        Act::stream(201, &[])
            .chunk(&start)
            .then_wait(&gate)
            .chunk(&rest)
            .last_chunk(),
    );
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    let (status, headers) = client.answer_head().await;
    assert_eq!(
        (status, headers.first("Idempotency-Status")),
        (201, Some("unrecorded"))
    );
    let mut body = Vec::new();
    while body.len() < start.len() {
        body.extend(client.chunk().await.expect("the rest of the first chunk"));
    }
    // The record says so before the first byte was passed on, and so before the end.
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::NOT_STORED);
    gate.open();
    while let Some(chunk) = client.chunk().await {
        body.extend(chunk);
    }
    assert_eq!(body, format!("{start}{rest}").into_bytes());
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn an_answer_of_just_the_limit_is_kept() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("max_response_body = \"1KiB\"")
        .start()
        .await;
    upstream.next(Act::respond(201, &[], "x".repeat(1024)));
    gateway.send(&payment("k")).await.is(201, "executed");
    assert_eq!(
        gateway
            .send(&payment("k"))
            .await
            .is(201, "replayed")
            .body
            .len(),
        1024
    );
}

#[tokio::test]
async fn an_event_stream_passes_through_event_by_event_and_is_not_kept() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream).start().await;
    let gate = Gate::closed();
    let stream = Act::event_stream().chunk("data: one\n\n");
    upstream.next(stream.then_wait(&gate).chunk("data: two\n\n").last_chunk());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    let (status, headers) = client.answer_head().await;
    assert_eq!(
        (status, headers.first("Idempotency-Status")),
        (200, Some("unrecorded"))
    );
    assert_eq!(headers.first("Content-Type"), Some("text/event-stream"));
    assert_eq!(client.chunk().await.as_deref(), Some(&b"data: one\n\n"[..]));
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::NOT_STORED);
    gate.open();
    assert_eq!(client.chunk().await.as_deref(), Some(&b"data: two\n\n"[..]));
    assert_eq!(client.chunk().await, None);
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_large_answer_that_breaks_off_is_not_passed_on_as_whole() {
    let upstream = ToyUpstream::start();
    let gateway = Setup::payments(&upstream)
        .route("max_response_body = \"1KiB\"")
        .start()
        .await;
    upstream.next(Act::stream(201, &[]).chunk("x".repeat(5000)).then_reset());
    let cut = gateway.connect().await.try_send(&payment("k")).await;
    assert!(cut.is_none(), "{cut:?}");
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::NOT_STORED);
    assert_eq!(upstream.charges(), 1);
}
