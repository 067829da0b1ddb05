//! `on_unknown = "probe"` where gateways share a store.

use crate::gateways::{id_key, setup};
use crate::support::{Act, RedisServer, ToyUpstream, payment, until};

#[tokio::test]
async fn what_a_killed_gateway_left_is_settled_by_another_one_though_nobody_asks() {
    let (upstream, server) = (ToyUpstream::start(), RedisServer::start());
    let (key, _directory) = id_key("k");
    let setup = setup(&upstream, &server, &key)
        .store("timeout = \"2s\"")
        .route("lease = \"4s\"")
        .route("on_unknown = \"probe\"")
        .route("probe = { path = \"/v1/payments?key={key}\", background = true }");
    upstream.always(|request| match request.method.as_str() {
        "GET" => Act::respond(200, &[], "paid"),
        _ => Act::hang(),
    });
    let mut killed = setup.start().await;
    let other = setup.start().await;
    let third = setup.start().await;
    let mut client = killed.connect().await;
    client.write_request(&payment("k")).await;
    upstream.next_request().await;
    killed.kill9().await;
    let labels = [("route", "pay"), ("actor", "probe"), ("as", "completed")];
    let settled = || async {
        let mut settled = 0.0;
        for gateway in [&other, &third] {
            let metrics = gateway.metrics().await;
            settled += metrics.value("oncegate_resolutions_total", &labels)?;
        }
        (settled >= 1.0).then_some(settled)
    };
    // Once, whoever was faster.
    assert_eq!(until("it to be settled", settled).await, 1.0);
    for gateway in [&other, &third] {
        let replayed = gateway.send(&payment("k")).await;
        assert_eq!(replayed.is(200, "replayed").text(), "paid");
    }
    let payments = upstream.requests();
    let payments = payments.iter().filter(|request| request.method == "POST");
    assert_eq!(payments.count(), 1);
}
