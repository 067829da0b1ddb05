//! Operators see what nobody knows the outcome of: how much it is, since when, and what the last run left.

use crate::support::{Act, Gate, Gateway, Problem, Setup, ToyUpstream, payment, until};

#[tokio::test]
async fn an_unknown_outcome_is_counted_until_it_is_settled() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream).route("response_timeout = \"100ms\"");
    let gateway = setup.rest_passes().start().await;
    assert_eq!(unresolved(&gateway, "pay").await, Some(0));
    assert_eq!(unresolved(&gateway, "rest").await, Some(0));
    assert_eq!(unresolved(&gateway, "(other)").await, Some(0));
    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    gateway.send(&payment("k")).await.refuses(Problem::TIMEOUT);
    unresolved_becomes(&gateway, "pay", 1).await;
    until("the age to grow", || async {
        let age = gateway.metrics().await.value(AGE, &[("route", "pay")]);
        age.filter(|age| *age >= 1.0)
    })
    .await;
    gate.open();
    unresolved_becomes(&gateway, "pay", 0).await;
    let age = gateway.metrics().await.value(AGE, &[("route", "pay")]);
    assert_eq!(age, Some(0.0));
}

#[tokio::test]
async fn what_the_last_run_left_is_said_at_the_start_and_counted_whatever_became_of_its_route() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("lease = \"2s\"");
    let mut gateway = setup.start().await;
    assert!(gateway.log().messages(FOUND).is_empty());
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment("k1")).await.refuses(Problem::FAILED);
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k2")).await;
    upstream.received_at_least(2).await;
    gateway.kill9().await;
    gateway
        .restart_with(&setup.route("id = \"payments-2\""))
        .await;
    let found = gateway.log().message(FOUND).await;
    assert_eq!(
        (&found["claims"], &found["unknown"]),
        (&1.into(), &1.into())
    );
    // The claim, too, once its owner has been silent for a lease.
    unresolved_becomes(&gateway, "(other)", 2).await;
    assert_eq!(unresolved(&gateway, "pay").await, Some(0));
}

#[tokio::test]
async fn what_was_only_observed_is_nothing_that_the_last_run_left() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .route("mode = \"observe\"");
    let mut gateway = setup.start().await;
    upstream.next(Act::reset_after_reading());
    assert_eq!(gateway.send(&payment("k1")).await.status, 502);
    upstream.next(Act::hang());
    let mut client = gateway.connect().await;
    client.write_request(&payment("k2")).await;
    upstream.received_at_least(2).await;
    until("both to be observed", || async {
        let records = gateway.metrics().await.value("oncegate_store_records", &[]);
        records.filter(|records| *records >= 2.0)
    })
    .await;
    gateway.kill9().await;
    gateway.restart_with(&setup).await;
    assert!(gateway.log().messages(FOUND).is_empty());
    assert_eq!(unresolved(&gateway, "(other)").await, Some(0));
}

const RECORDS: &str = "oncegate_unresolved_records";
const AGE: &str = "oncegate_unresolved_oldest_age_seconds";
const FOUND: &str = "the store holds operations without a known outcome; claims were open when it was used last, and \
                     read as unknown once a lease is over";

async fn unresolved_becomes(gateway: &Gateway, route: &str, number: u64) {
    until(&format!("{number} unresolved of {route}"), || async {
        (unresolved(gateway, route).await == Some(number)).then_some(())
    })
    .await;
}

async fn unresolved(gateway: &Gateway, route: &str) -> Option<u64> {
    let metrics = gateway.metrics().await;
    let value = metrics.value(RECORDS, &[("route", route)]);
    value.and_then(|value| value.to_string().parse().ok())
}
