//! `on_unknown = "probe"`: what a gateway left without a word is asked about, and held where the upstream does not know it.

use crate::support::{Act, Problem, Setup, ToyUpstream, payment, until};

#[tokio::test]
async fn what_kill_9_cut_off_is_held_while_the_upstream_does_not_know_it_and_settled_once_it_does()
{
    let upstream = ToyUpstream::start();
    let probe = "path = \"/v1/payments?key={key}\", absent_after = \"0s\"";
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("lease = \"2s\"")
        .route("scope = [\"none\"]")
        .route("on_unknown = \"probe\"")
        .route(&format!("probe = {{ {probe} }}"));
    let answering = |status: u16| {
        upstream.always(move |request| match request.method.as_str() {
            "GET" => Act::respond(status, &[], "paid"),
            _ => Act::hang(),
        });
    };
    answering(404);
    let mut gateway = setup.start().await;
    let mut client = gateway.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    gateway.kill9().await;
    gateway.restart().await;
    let labels = [("route", "pay"), ("result", "held")];
    until("the upstream to be asked", || async {
        let answer = gateway.send(&payment("k")).await;
        assert_eq!(answer.status, 409, "{answer:?}");
        let metrics = gateway.metrics().await;
        (metrics.value("oncegate_probes_total", &labels)? >= 1.0).then_some(())
    })
    .await;
    gateway
        .send(&payment("k"))
        .await
        .refuses(Problem::OUTCOME_UNKNOWN);
    answering(200);
    // In the background: nobody sends anything.
    let settled = "the upstream was asked, and an operation of unknown outcome is settled";
    let line = gateway.log().message(settled).await;
    assert_eq!(
        (&line["as"], &line["declared"]),
        (&"completed".into(), &false.into())
    );
    let replayed = gateway.send(&payment("k")).await;
    assert_eq!(replayed.is(200, "replayed").text(), "paid");
    let requests = upstream.requests();
    let payments = requests.iter().filter(|request| request.method == "POST");
    assert_eq!(payments.count(), 1);
}
