//! Claims that the store did not answer, refused, or answered too late.

use std::time::Duration;

use oncegate::protocol::Verdict;
use oncegate::store::NotDone;
use oncegate::telemetry::{Health, StoreOp};

use crate::rig::{Rig, impatient};
use crate::store::Fate;
use crate::support::StalledUpstream;
use crate::support::{Gate, Problem, Setup, ToyUpstream, until};

/// A lease that a test waits for.
const SHORT_LEASE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_claim_that_was_taken_without_a_word_is_never_sent_and_given_back_until_the_store_hears_it()
 {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.store.next(StoreOp::Claim, Fate::Unanswered);
    rig.store.always(StoreOp::Release, Fate::down());
    let first = rig.pay("k").await;
    first.refuses(Problem::STORE_UNAVAILABLE);
    first.says_when_to_retry();
    assert!(rig.store.is_claimed());
    assert_eq!(rig.value("claims_in_doubt", &[]), 1);
    rig.pay("k").await.refuses(Problem::IN_PROGRESS);

    rig.store.asked(StoreOp::Release, 3).await;
    assert!(rig.store.is_claimed());
    rig.store.works(StoreOp::Release);
    rig.counts("claims_in_doubt", &[], 0).await;
    assert_eq!(rig.store.record(), None);
    assert_eq!(upstream.charges(), 0);

    rig.pay("k").await.is(201, "executed");
    rig.pay("k").await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
    assert_eq!(rig.decisions("store_unavailable"), 1);
}

#[tokio::test]
async fn a_claim_that_arrives_after_it_was_given_back_is_turned_away() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    let late = Gate::closed();
    rig.store
        .next(StoreOp::Claim, Fate::AppliedLate(late.clone()));
    let first = rig.pay("k").await;
    first.refuses(Problem::STORE_UNAVAILABLE);
    rig.counts("claims_in_doubt", &[], 0).await;
    late.open();
    let verdicts = rig.store.verdicts(StoreOp::Claim, 1).await;
    assert_eq!(verdicts, [Verdict::Lost]);
    assert_eq!(rig.store.record(), None);
    rig.pay("k").await.is(201, "executed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn giving_back_is_repeated_where_it_is_in_doubt_itself() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.store.next(StoreOp::Claim, Fate::Unanswered);
    rig.store.next(StoreOp::Release, Fate::Dropped);
    rig.store.next(StoreOp::Release, Fate::Unanswered);
    rig.pay("k").await.refuses(Problem::STORE_UNAVAILABLE);
    rig.counts("claims_in_doubt", &[], 0).await;
    assert_eq!(rig.store.calls(StoreOp::Release), 3);
    assert_eq!(rig.store.record(), None);
    assert_eq!(upstream.charges(), 0);
}

#[tokio::test]
async fn a_drain_waits_for_a_claim_in_doubt() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.store.next(StoreOp::Claim, Fate::Unanswered);
    rig.store.always(StoreOp::Release, Fate::down());
    rig.pay("k").await.refuses(Problem::STORE_UNAVAILABLE);
    let finished = rig.finishing();
    // Cutting it short changes nothing: a key must not stay held.
    rig.gateway.cut_short();
    rig.store.asked(StoreOp::Release, 4).await;
    assert!(!finished.is_finished());
    rig.store.works(StoreOp::Release);
    finished.await.expect("no panic");
    assert_eq!(rig.store.record(), None);
}

#[tokio::test]
async fn duplicates_of_a_claim_in_doubt_do_not_wait_for_it_to_be_settled() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("wait = \"20s\""));
    rig.store.next(StoreOp::Claim, Fate::Dropped);
    rig.store.always(StoreOp::Release, Fate::down());
    let first = rig.paying("k");
    rig.store.asked(StoreOp::Claim, 1).await;
    let duplicates: Vec<_> = (0..3).map(|_| rig.paying("k")).collect();
    let first = first.await.expect("an answer");
    first.refuses(Problem::STORE_UNAVAILABLE);
    let mut executed = 0;
    for duplicate in duplicates {
        let answer = duplicate.await.expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
        executed += usize::from(answer.idempotency_status() == "executed");
    }
    assert_eq!((executed, upstream.charges()), (1, 1));
}

#[tokio::test]
async fn a_claim_that_arrives_twice_is_one_dispatch() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.store.next(StoreOp::Claim, Fate::AppliedTwice);
    rig.store.next(StoreOp::Complete, Fate::AppliedTwice);
    rig.pay("k").await.is(201, "executed");
    rig.pay("k").await.is(201, "replayed");
    assert_eq!(upstream.charges(), 1);
}

#[tokio::test]
async fn a_claim_that_the_store_refuses_is_not_sent() {
    let unavailable = [
        NotDone::OutOfOrder("disk".to_owned()),
        NotDone::Full,
        NotDone::Closed,
        NotDone::Unreadable("damaged".to_owned()),
    ];
    let unavailable = unavailable.map(|reason| (reason, Problem::STORE_UNAVAILABLE));
    for (reason, problem) in unavailable
        .into_iter()
        .chain([(NotDone::Overloaded, Problem::OVERLOADED)])
    {
        let upstream = ToyUpstream::start();
        let rig = Rig::start(&impatient(&upstream));
        rig.store.next(StoreOp::Claim, Fate::NotDone(reason));
        let refused = rig.pay("k").await;
        refused.refuses(problem);
        refused.says_when_to_retry();
        rig.is_quiet().await;
        // There is no doubt about it, and so nothing to give back.
        assert_eq!(rig.store.calls(StoreOp::Release), 0);
        assert_eq!(upstream.charges(), 0);
        let decision = problem.slug.replace('-', "_");
        assert_eq!(rig.decisions(&decision), 1);
        rig.pay("k").await.is(201, "executed");
    }
}

#[tokio::test]
async fn where_the_route_says_so_a_request_goes_on_unprotected_while_the_store_is_down() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("on_store_down = \"forward\""));
    rig.store.next(StoreOp::Claim, Fate::down());
    rig.pay("refused").await.is(201, "unkeyed");
    assert_eq!(rig.store.calls(StoreOp::Release), 0);
    rig.store.next(StoreOp::Claim, Fate::Unanswered);
    rig.pay("in-doubt").await.is(201, "unkeyed");
    rig.counts("claims_in_doubt", &[], 0).await;
    assert_eq!(rig.store.calls(StoreOp::Release), 1);
    assert_eq!(upstream.charges(), 2);
    assert_eq!(rig.decisions("unprotected"), 2);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_or_a_store_with_too_much_to_do_is_not_a_store_that_is_down() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream).route("on_store_down = \"forward\""));
    let unreadable = NotDone::Unreadable("damaged".to_owned());
    rig.store.next(StoreOp::Claim, Fate::NotDone(unreadable));
    rig.pay("k").await.refuses(Problem::STORE_UNAVAILABLE);
    rig.store
        .next(StoreOp::Claim, Fate::NotDone(NotDone::Overloaded));
    rig.pay("k").await.refuses(Problem::OVERLOADED);
    assert_eq!(upstream.charges(), 0);
    assert_eq!(rig.decisions("unprotected"), 0);
}

#[tokio::test]
async fn a_claim_that_is_answered_after_its_lease_is_not_sent_and_given_back() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream).route("lease = \"300ms\"");
    // A file may not have a store that is waited for longer than a lease.
    let rig = Rig::altered(&setup, |config| {
        config.store.timeout = Duration::from_secs(30);
    });
    let answered = Gate::closed();
    rig.store
        .next(StoreOp::Claim, Fate::AnsweredLate(answered.clone()));
    let first = rig.paying("k");
    rig.store.asked(StoreOp::Claim, 1).await;
    tokio::time::sleep(SHORT_LEASE).await;
    answered.open();
    let first = first.await.expect("an answer");
    first.refuses(Problem::STORE_UNAVAILABLE);
    first.says_when_to_retry();
    assert_eq!(rig.store.record(), None);
    assert_eq!((upstream.connections(), upstream.charges()), (0, 0));
}

#[tokio::test]
async fn a_claim_that_is_answered_after_its_lease_is_not_written_to_an_open_connection_either() {
    let upstream = ToyUpstream::start();
    let setup = impatient(&upstream).route("lease = \"300ms\"");
    // A file may not have a store that is waited for longer than a lease.
    let rig = Rig::altered(&setup, |config| {
        config.store.timeout = Duration::from_secs(30);
    });
    until("a connection to be open", || async {
        (rig.pay("warm").await.status == 201).then_some(())
    })
    .await;
    let charges = upstream.charges();
    let answered = Gate::closed();
    // A beat would renew the lease, by right.
    rig.store.always(StoreOp::Renew, Fate::down());
    rig.store
        .next(StoreOp::Claim, Fate::AnsweredLate(answered.clone()));
    let (claims, first) = (rig.store.calls(StoreOp::Claim), rig.paying("k"));
    rig.store.asked(StoreOp::Claim, claims + 1).await;
    tokio::time::sleep(SHORT_LEASE).await;
    answered.open();
    let first = first.await.expect("an answer");
    first.refuses(Problem::STORE_UNAVAILABLE);
    assert_eq!(upstream.charges(), charges);
    rig.is_quiet().await;
    rig.store.works(StoreOp::Renew);
    until("the key to be free", || async {
        (rig.pay("k").await.status == 201).then_some(())
    })
    .await;
    assert_eq!(upstream.charges(), charges + 1);
}

#[tokio::test]
async fn a_claim_found_lost_before_the_first_byte_is_not_sent() {
    let upstream = StalledUpstream::start().await;
    let setup = Setup::payments_at(&upstream.url())
        .upstream("connect_timeout = \"20s\"")
        // The kernel tries a connection that found no room again from second to second; the lease outlasts that,
        // so that it is not its lapse that keeps the request from being sent.
        .route("lease = \"6s\"");
    let rig = Rig::start(&setup);
    let first = rig.paying("k");
    rig.counts("claims_held", &[], 1).await;
    rig.store.take_over();
    let before_write = [("phase", "before_write")];
    rig.counts("leases_lost_total", &before_write, 1).await;
    assert!(!first.is_finished());
    assert_eq!(upstream.takes_one().await, b"");
    // What it hears is what the record says: the other gateway is at it.
    first
        .await
        .expect("an answer")
        .refuses(Problem::IN_PROGRESS);
    assert!(rig.store.is_claimed());
    rig.is_quiet().await;
}

#[tokio::test]
async fn an_outage_of_the_store_shows_with_the_first_request_that_meets_it_and_so_does_its_end() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.pay("a").await.is(201, "executed");
    assert_eq!(rig.store_health(), Health::Up);
    rig.store.always(StoreOp::Claim, Fate::down());
    rig.pay("b").await.refuses(Problem::STORE_UNAVAILABLE);
    assert_eq!(rig.store_health(), Health::Down);
    // What can still be read says nothing about claims.
    assert!(rig.gateway.ping_store().await.is_ok());
    assert_eq!(rig.store_health(), Health::Down);
    rig.store.works(StoreOp::Claim);
    rig.pay("b").await.is(201, "executed");
    assert_eq!(rig.store_health(), Health::Up);
}

#[tokio::test]
async fn answers_about_one_record_or_one_moment_say_nothing_about_the_stores_health() {
    let upstream = ToyUpstream::start();
    let rig = Rig::start(&impatient(&upstream));
    rig.pay("a").await.is(201, "executed");
    for fate in [
        NotDone::Full,
        NotDone::Overloaded,
        NotDone::Unreadable("damaged".to_owned()),
    ] {
        rig.store.next(StoreOp::Claim, Fate::NotDone(fate));
        assert_eq!(rig.pay("b").await.status, 503);
        assert_eq!(rig.store_health(), Health::Up);
    }
}
