//! `on_unknown = "resend"`: what a gateway left without a word is sent again.

use std::time::{Duration, Instant};

use crate::support::{Act, Setup, ToyUpstream, payment, until};

#[tokio::test]
async fn what_kill_9_cut_off_is_sent_again_once_its_claim_was_seen_silent_for_a_lease() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("lease = \"2s\"")
        .route("on_unknown = \"resend\"");
    let mut gateway = setup.start().await;
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.kill9().await;
    let restarted = Instant::now();
    gateway.restart().await;
    let answer = until("it to be sent again", || async {
        let answer = gateway.send(&payment("k")).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    answer.is(201, "executed");
    assert!(restarted.elapsed() >= Duration::from_secs(2));
    let requests = upstream.requests();
    let fences: Vec<_> = requests
        .iter()
        .map(|request| request.header("Oncegate-Fence"))
        .collect();
    assert_eq!(fences, [Some("1"), Some("2")]);
    gateway.send(&payment("k")).await.is(201, "replayed");
    assert_eq!(upstream.charges(), 2);
    let line = gateway
        .log()
        .message("an operation of unknown outcome is sent again")
        .await;
    assert_eq!(line["fence"], 2);
}
