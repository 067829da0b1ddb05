//! Which endpoint gets a request, and what happens where one is dead.

use super::*;

#[tokio::test]
async fn refused_connections_send_nothing() {
    let upstream = Upstream::new(&config(vec![nobody().await, nobody().await]));
    assert_eq!(
        send(&upstream).await.err(),
        Some(unsent(SendErrorKind::Connect))
    );
    assert_eq!(upstream.stats().errors(SendErrorKind::Connect), 1);
}

#[tokio::test]
async fn a_name_without_an_address_sends_nothing() {
    let upstream = Upstream::new(&config(vec![endpoint("no-such-host.invalid", 80)]));
    assert_eq!(
        send(&upstream).await.err(),
        Some(unsent(SendErrorKind::Resolve))
    );
}

#[tokio::test]
async fn a_name_is_resolved_and_the_other_endpoints_of_a_dead_one_are_tried() {
    let origin = Origin::bind().await;
    let live = endpoint("localhost", origin.0.local_addr().unwrap().port());
    let upstream = Upstream::new(&config(vec![nobody().await, live]));
    for _ in 0..2 {
        let (response, _) = tokio::join!(send(&upstream), origin.answer(OK));
        assert_eq!(response.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_dead_endpoint_is_avoided_for_a_while() {
    let origin = Origin::bind().await;
    let upstream = Upstream::new(&config(vec![nobody().await, origin.endpoint()]));
    let (response, _) = tokio::join!(send(&upstream), origin.answer(OK));
    response.unwrap();
    for _ in 0..4 {
        assert_eq!(upstream.choose(&[]), Some(1));
    }
}

#[tokio::test]
async fn requests_go_where_the_fewest_are_in_flight_and_in_turn_among_equals() {
    let (one, two) = (Origin::bind().await, Origin::bind().await);
    let upstream = Upstream::new(&config(vec![one.endpoint(), two.endpoint()]));
    let (held, _socket) = tokio::join!(send(&upstream), one.answer(OK));
    let held = held.unwrap();
    for _ in 0..3 {
        let (response, _) = tokio::join!(send(&upstream), two.answer(OK));
        drop(response.unwrap());
    }
    drop(held);
    let mut turns = [upstream.choose(&[]), upstream.choose(&[])];
    turns.sort_unstable();
    assert_eq!(turns, [Some(0), Some(1)]);
}

#[tokio::test]
async fn more_than_max_in_flight_is_overloaded_at_once() {
    let origin = Origin::bind().await;
    let mut config = config(vec![origin.endpoint()]);
    config.max_in_flight = 1;
    let upstream = Upstream::new(&config);
    let (held, _socket) = tokio::join!(send(&upstream), origin.answer(OK));
    assert_eq!(
        send(&upstream).await.err(),
        Some(unsent(SendErrorKind::Overloaded))
    );
    drop(held.unwrap());
    let (response, _) = tokio::join!(send(&upstream), origin.answer(OK));
    assert!(response.is_ok());
}
