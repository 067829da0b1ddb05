//! Several endpoints, and names with several addresses: who gets requests, and who gets none. Whatever happens to them,
//! nothing is sent twice.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::support::{Act, DnsServer, Gateway, Metrics, Setup, ToyUpstream, payment, until};

const EJECTED: &str =
    "an address cannot be connected to; for a while it is tried only where no other one is well";

fn local(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Two upstreams at 127.0.0.2 and 127.0.0.3, with one port.
fn neighbours() -> (ToyUpstream, ToyUpstream) {
    for _ in 0..20 {
        let one = ToyUpstream::at(SocketAddr::new(local(2), 0)).expect("a free port");
        if let Ok(two) = ToyUpstream::at(SocketAddr::new(local(3), one.address().port())) {
            return (one, two);
        }
    }
    panic!("no port is free at two addresses");
}

/// Before this name, with a DNS server that knows it.
fn setup(upstream: &ToyUpstream, dns: &DnsServer) -> Setup {
    let url = format!("http://pay.test:{}", upstream.address().port());
    Setup::payments_at(&url).upstream(&format!("resolvers = [\"{}\"]", dns.address()))
}

/// Sends payments, each with another key, and each executed, until this is so.
async fn pay_until(gateway: &Gateway, prefix: &str, is_so: impl Fn() -> bool) {
    let number = AtomicU16::new(0);
    until(prefix, || async {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let answer = gateway.send(&payment(&format!("{prefix}-{number}"))).await;
        answer.is(201, "executed");
        is_so().then_some(())
    })
    .await;
}

async fn pay(gateway: &Gateway, prefix: &str, times: u16) {
    for number in 0..times {
        let answer = gateway.send(&payment(&format!("{prefix}-{number}"))).await;
        answer.is(201, "executed");
    }
}

fn payments(upstream: &ToyUpstream) -> usize {
    let received = upstream.requests();
    let posts = received.iter().filter(|request| request.method == "POST");
    posts.count()
}

fn addresses(metrics: &Metrics, state: &str) -> Option<f64> {
    metrics.value("oncegate_upstream_endpoint_addresses", &[("state", state)])
}

async fn is_up(gateway: &Gateway, upstream: &ToyUpstream, up: f64) {
    let url = upstream.url();
    until("the endpoint's state", || async {
        let metrics = gateway.metrics().await;
        let said = metrics.value("oncegate_upstream_endpoint_up", &[("endpoint", &url)]);
        (said == Some(up)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_dies_is_passed_over_and_gets_requests_again_once_it_lives() {
    let (one, two) = neighbours();
    let gateway = Setup::payments(&one).endpoint(&two.url()).start().await;
    pay_until(&gateway, "both", || one.charges() > 0 && two.charges() > 0).await;
    let address = one.address();
    drop(one);
    pay(&gateway, "dead", 30).await;
    let said = gateway.log().message(EJECTED).await;
    assert_eq!(said["endpoint"], format!("http://{address}"));
    assert_eq!(said["address"], address.to_string());
    let reason = said["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("refused"), "{said}");

    let one = ToyUpstream::at(address).expect("the port of before");
    pay_until(&gateway, "alive", || one.charges() > 0).await;
    gateway
        .log()
        .message("an address can be connected to again")
        .await;
    let metrics = gateway.metrics().await;
    let ejections = metrics.value(
        "oncegate_upstream_ejections_total",
        &[("endpoint", &one.url())],
    );
    assert_eq!(ejections, Some(1.0));
    for upstream in [&one, &two] {
        let charges = upstream.charges_by_key();
        assert!(charges.values().all(|times| *times == 1), "{charges:?}");
    }
}

#[tokio::test]
async fn a_change_of_a_names_addresses_moves_the_load() {
    let (one, two) = neighbours();
    let dns = DnsServer::start("pay.test", &[local(2)]);
    let gateway = setup(&one, &dns).start().await;
    pay(&gateway, "first", 10).await;
    assert_eq!((one.charges(), two.charges()), (10, 0));

    dns.says("pay.test", &[local(2), local(3)]);
    pay_until(&gateway, "both", || two.charges() > 0).await;
    dns.says("pay.test", &[local(3)]);
    until("the address to go", || async {
        let usable = addresses(&gateway.metrics().await, "usable");
        (usable == Some(1.0)).then_some(())
    })
    .await;
    let before = one.charges();
    pay(&gateway, "second", 10).await;
    assert_eq!(one.charges(), before);
    // Nothing waits for a request there any more.
    one.all_closed().await;
}

#[tokio::test]
async fn while_nobody_answers_for_a_name_its_last_addresses_stay() {
    let (one, two) = neighbours();
    let mut dns = DnsServer::start("pay.test", &[local(2)]);
    let gateway = setup(&one, &dns).start().await;
    pay(&gateway, "first", 3).await;
    dns.kill9();
    let failed = |metrics: &Metrics| {
        let labels = [("result", "failed")];
        metrics.value("oncegate_upstream_lookups_total", &labels)
    };
    until("two questions that nobody answers", || async {
        (failed(&gateway.metrics().await) >= Some(2.0)).then_some(())
    })
    .await;
    pay(&gateway, "away", 10).await;
    assert_eq!(one.charges(), 13);
    dns.will_say("pay.test", &[local(3)]);
    dns.restart();
    pay_until(&gateway, "again", || two.charges() > 0).await;
}

/// Some hundred addresses do not fit into a packet.
#[tokio::test]
async fn all_addresses_of_a_large_answer_are_known() {
    let upstream = ToyUpstream::start();
    let many: Vec<IpAddr> = (1..=200).map(local).collect();
    let dns = DnsServer::start("pay.test", &many);
    let gateway = setup(&upstream, &dns).start().await;
    until("all addresses", || async {
        let metrics = gateway.metrics().await;
        let count: f64 = ["usable", "ejected"]
            .iter()
            .filter_map(|state| addresses(&metrics, state))
            .sum();
        (count == 200.0).then_some(())
    })
    .await;
}

/// Answers health checks with a status that can be changed, and charges for everything else.
fn with_health(upstream: &ToyUpstream) -> Arc<AtomicU16> {
    let status = Arc::new(AtomicU16::new(200));
    let answered = Arc::clone(&status);
    upstream.always(move |request| match request.method.as_str() {
        "GET" => Act::respond(answered.load(Ordering::Relaxed), &[], "health"),
        _ => Act::respond(201, &[], "charged"),
    });
    status
}

#[tokio::test]
async fn an_instance_that_fails_its_health_checks_gets_nothing_until_it_is_well_again() {
    let (one, two) = neighbours();
    let (health, other) = (with_health(&one), with_health(&two));
    let check = |path: &str| {
        format!("health = {{ path = \"{path}\", interval = \"600ms\", timeout = \"590ms\" }}")
    };
    let setup = Setup::payments(&one).endpoint(&two.url());
    let gateway = setup.clone().upstream(&check("/healthz")).start().await;
    pay_until(&gateway, "both", || {
        payments(&one) > 0 && payments(&two) > 0
    })
    .await;

    health.store(503, Ordering::Relaxed);
    is_up(&gateway, &one, 0.0).await;
    let before = payments(&one);
    pay(&gateway, "sick", 20).await;
    assert_eq!(payments(&one), before);
    let said = "an address fails its health checks; it gets no requests while another one is well";
    let said = gateway.log().message(said).await;
    assert_eq!(said["reason"], "the status 503");

    // Where none is well, all are tried.
    other.store(500, Ordering::Relaxed);
    is_up(&gateway, &two, 0.0).await;
    pay(&gateway, "all", 5).await;

    health.store(200, Ordering::Relaxed);
    is_up(&gateway, &one, 1.0).await;
    let before = payments(&two);
    pay(&gateway, "well", 20).await;
    assert_eq!(payments(&two), before);

    // The checks of a configuration that is gone are gone with it.
    gateway.rewrite(&setup.upstream(&check("/ready")).toml());
    gateway.sighup();
    let asked = |path: &str| {
        let requests = one.requests();
        requests
            .iter()
            .filter(|request| request.target == path)
            .count()
    };
    until("the new checks", || async {
        (asked("/ready") > 1).then_some(())
    })
    .await;
    let before = asked("/healthz");
    until("more of them", || async {
        (asked("/ready") > 5).then_some(())
    })
    .await;
    assert_eq!(asked("/healthz"), before);
}
