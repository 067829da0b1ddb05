//! HTTP/2 streams that stall by the hundred, or are all given up: in order each by itself.

use crate::attacker::{
    ATTACKERS, Attacker, CANCEL, FLOODS, MOST_BYTES, comes_to_rest, frames, passing, paying, stream,
};
use crate::bystander::Bystander;
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, push_field, push_frame,
};
use crate::support::{Act, Gate, Request, Setup, ToyUpstream, until};
use crate::{settles, timeouts};

/// Streams that each of the attackers below begins.
const STREAMS: u32 = 100;

/// Begins as many streams as may be on each of several connections, each with these bytes behind its head, and says
/// nothing more.
async fn stalled(what: &str, settings: &[u8], head: &[u8], body: &[u8]) {
    let upstream = ToyUpstream::start();
    upstream.always(|request| match request.target.as_str() {
        "/x" => Act::respond(200, &[], vec![b'a'; 1_000_000]),
        _ => Act::respond(201, &[], ""),
    });
    let setup = Setup::payments(&upstream).rest_passes();
    let gateway = setup.limits("body_idle = \"3s\"").start().await;
    let bystander = Bystander::begin(&gateway).await;
    let before = gateway.usage().resident_kib * 1024;
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        let mut attacker = Attacker::begin_with(gateway.address, settings).await;
        // By then it has widened the connection's window.
        assert!(attacker.is_seen().await);
        let end = if body.is_empty() { END_STREAM } else { 0 };
        let mut bytes = Vec::new();
        for number in 0..STREAMS {
            let stream = stream(number);
            push_frame(&mut bytes, HEADERS, END_HEADERS | end, stream, head);
            if !body.is_empty() {
                push_frame(&mut bytes, DATA, 0, stream, body);
            }
        }
        assert!(attacker.send(&bytes).await && attacker.is_seen().await);
        attackers.push(attacker);
    }
    // Each is given up when its time is over.
    let given_up = u64::from(STREAMS) * ATTACKERS as u64;
    until("all streams to be given up", || async {
        let over = timeouts(&gateway, "body_idle").await;
        (over >= given_up).then_some(())
    })
    .await;
    let served = bystander.was_served().await;
    let most = gateway.most_resident_bytes().saturating_sub(before);
    println!("{what}: {most} bytes, {served} payments alongside");
    assert!(most < MOST_BYTES, "{what}: {most} bytes");
    drop(attackers);
    comes_to_rest(&gateway).await;
}

#[tokio::test]
async fn bodies_that_stall_on_every_stream_hold_no_more_than_the_windows_and_are_given_up() {
    // As much as the window of a connection takes.
    let piece = [b'a'; 10_000];
    let mut head = paying("stalled");
    push_field(&mut head, b"content-length", b"20000");
    stalled("bodies", b"", &head, &piece).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_on_any_stream_hold_little_and_are_given_up() {
    // SETTINGS_INITIAL_WINDOW_SIZE.
    for window in [0, 1] {
        let settings = [0, 4, 0, 0, 0, window];
        stalled("answers", &settings, &passing("GET"), b"").await;
    }
}

/// Whoever waits until a request is on its way before giving it up is not seen by h2: all its streams are in order.
#[tokio::test]
async fn requests_that_are_all_given_up_end_their_connection_and_leave_no_key_claimed() {
    let upstream = ToyUpstream::start();
    upstream.always(|_| Act::respond(201, &[], ""));
    let gateway = Setup::payments(&upstream).rest_passes().start().await;
    let bystander = Bystander::begin(&gateway).await;
    let mut attacker = Attacker::begin(gateway.address).await;
    let mut begun = 0;
    loop {
        let mut bytes = Vec::new();
        // No more than h2 bears of those that it has not handed over.
        for number in begun..begun + 10 {
            let head = paying(&format!("given-up-{number}"));
            let stream = stream(number);
            push_frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, stream, &head);
        }
        if !attacker.send(&bytes).await || !attacker.is_seen().await {
            break;
        }
        let resets = (begun..begun + 10)
            .flat_map(|number| frames(1, RST_STREAM, 0, stream(number), &CANCEL));
        begun += 10;
        assert!(begun < 20_000, "it goes on for ever");
        if !attacker.send(&resets.collect::<Vec<_>>()).await {
            break;
        }
    }
    bystander.was_served().await;
    println!("{begun} payments were given up");
    assert!(begun >= 200, "{begun}");
    settles(&gateway, FLOODS, &[], 1).await;
    comes_to_rest(&gateway).await;
    // What was sent is recorded, and what was not is free.
    let mut connection = gateway.connect().await;
    for number in (0..begun).step_by(7) {
        let key = format!("given-up-{number}");
        let answer = connection.send(&paid_again(&key)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(upstream.charges_by_key()[&key], 1);
    }
}

/// A payment that was claimed goes on without its client, and so beyond the streams that a client may have.
#[tokio::test]
async fn payments_that_are_given_up_take_no_more_of_an_upstream_than_it_has_to_give() {
    const IN_FLIGHT: usize = 8;
    const PAYMENTS: u32 = 60;
    let upstream = ToyUpstream::start();
    let gate = Gate::closed();
    upstream.always({
        let gate = gate.clone();
        move |_| Act::respond(201, &[], "").after(&gate)
    });
    let setup = Setup::payments(&upstream).upstream(&format!("max_in_flight = {IN_FLIGHT}"));
    let gateway = setup.start().await;
    let mut attacker = Attacker::begin(gateway.address).await;
    for number in 0..PAYMENTS {
        let head = paying(&format!("kept-{number}"));
        let begun = frames(1, HEADERS, END_HEADERS | END_STREAM, stream(number), &head);
        assert!(attacker.send(&begun).await && attacker.is_seen().await);
        let given_up = frames(1, RST_STREAM, 0, stream(number), &CANCEL);
        assert!(attacker.send(&given_up).await && attacker.is_seen().await);
    }
    until("as many to be on their way as may", || async {
        (upstream.charges() == IN_FLIGHT).then_some(())
    })
    .await;
    settles(&gateway, "oncegate_claims_held", &[], IN_FLIGHT as u64).await;
    gate.open();
    settles(&gateway, "oncegate_claims_held", &[], 0).await;
    assert_eq!(upstream.charges(), IN_FLIGHT);
    let mut replayed = 0;
    for number in 0..PAYMENTS {
        let answer = gateway.send(&paid_again(&format!("kept-{number}"))).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        replayed += usize::from(answer.idempotency_status() == "replayed");
    }
    assert_eq!(replayed, IN_FLIGHT);
    assert!(upstream.charges_by_key().values().all(|count| *count == 1));
}

/// The same payment over HTTP/1.
fn paid_again(key: &str) -> Request {
    Request::post("/v1/payments")
        .header("Host", "a.example")
        .auth("Bearer alice")
        .key(key)
}
