//! What one gateway hears of what another one does.

use std::time::{Duration, Instant};

use crate::gateways::{id_key, setup};
use crate::support::{
    Act, Answer, Gate, Gateway, RedisServer, ToyUpstream, payment, until, within,
};

/// Duplicates measured.
const MEASURED: usize = 20;

/// Two gateways on one server, where duplicates wait.
struct Pair {
    upstream: ToyUpstream,
    server: RedisServer,
    one: Gateway,
    other: Gateway,
    _directory: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Self {
        Self::on(RedisServer::start(), None).await
    }

    /// `user`: whom the gateways log in as, with the password `hunter2`.
    async fn on(server: RedisServer, user: Option<&str>) -> Self {
        let upstream = ToyUpstream::start();
        let (key, directory) = id_key("k");
        let mut setup = setup(&upstream, &server, &key).store("timeout = \"2s\"");
        if let Some(user) = user {
            let with_user = format!("redis://{user}:hunter2@127.0.0.1:{}", server.port);
            setup = setup.shared(&with_user, &key).store("timeout = \"2s\"");
        }
        let setup = setup.route("wait = \"20s\"");
        Self {
            one: setup.start().await,
            other: setup.start().await,
            upstream,
            server,
            _directory: directory,
        }
    }

    /// Sends a payment by the one gateway and a duplicate by the other one, and says how much later than the first
    /// the duplicate was answered. `waits` comes once the duplicate waits, before the first is answered.
    async fn lag(&self, key: &str, waits: impl AsyncFnOnce()) -> Duration {
        let gate = Gate::closed();
        self.upstream
            .next(Act::respond(201, &[], "paid").after(&gate));
        let first = self.one.spawn(&payment(key));
        self.upstream.next_request().await;
        let duplicate = self.other.spawn(&payment(key));
        self.waiters(1.0).await;
        waits().await;
        gate.open();
        let told = |answer: tokio::task::JoinHandle<Answer>| async {
            let answer = answer.await.expect("an answer");
            (answer, Instant::now())
        };
        let ((first, at_first), (duplicate, at_last)) = within(
            "both answers",
            futures_util::future::join(told(first), told(duplicate)),
        )
        .await;
        first.is(201, "executed");
        assert_eq!(duplicate.is(201, "replayed").text(), "paid");
        at_last.saturating_duration_since(at_first)
    }

    async fn waiters(&self, number: f64) {
        until("the duplicates to wait", || async {
            let metrics = self.other.metrics().await;
            (metrics.value("oncegate_waiters", &[])? >= number).then_some(())
        })
        .await;
    }

    /// Returns once so many channels are listened to.
    async fn listens(&self, number: usize) {
        until("the gateway to listen", || async {
            let channels = self.server.cli(&["PUBSUB", "SHARDCHANNELS"]);
            let listened = channels.lines().filter(|line| !line.is_empty()).count();
            (listened == number).then_some(())
        })
        .await;
    }

    fn connections(&self) -> usize {
        let list = self.server.cli(&["CLIENT", "LIST"]);
        // Without the one that asks.
        list.lines()
            .filter(|line| !line.contains("cmd=client"))
            .count()
    }
}

#[tokio::test]
async fn a_duplicate_at_another_gateway_learns_of_the_end_by_a_message() {
    let pair = Pair::start().await;
    let mut lags = Vec::new();
    for n in 0..MEASURED {
        let listens = async || pair.listens(1).await;
        lags.push(pair.lag(&format!("k{n}"), listens).await);
        // Nobody waits any more.
        pair.listens(0).await;
    }
    lags.sort();
    println!("lags: {lags:?}");
    // By asking it would take most of a second.
    assert!(lags[MEASURED / 2] < Duration::from_millis(250), "{lags:?}");
    assert_eq!(pair.upstream.charges(), MEASURED);
}

#[tokio::test]
async fn a_connection_for_messages_that_broke_is_made_again() {
    let pair = Pair::start().await;
    let breaks = async || {
        pair.listens(1).await;
        pair.server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        pair.listens(1).await;
    };
    // The best of some tells: what holds one of them up is the machine.
    let mut lag = Duration::MAX;
    for key in ["a", "b", "c"] {
        lag = lag.min(pair.lag(key, breaks).await);
        pair.listens(0).await;
    }
    assert!(lag < Duration::from_millis(500), "{lag:?}");
}

#[tokio::test]
async fn without_messages_the_end_is_learned_by_asking() {
    let server = RedisServer::start();
    // All rights but those to channels.
    let rights = [
        "ACL",
        "SETUSER",
        "mute",
        "on",
        ">hunter2",
        "+@all",
        "~*",
        "resetchannels",
    ];
    assert_eq!(server.cli(&rights), "OK");
    let pair = Pair::on(server, Some("mute")).await;
    let lag = pair.lag("k", async || ()).await;
    println!("lag: {lag:?}");
    assert!(lag <= Duration::from_millis(1500), "{lag:?}");
    let said = pair.other.log().text();
    assert!(said.contains("the store refuses subscriptions"), "{said}");
}

#[tokio::test]
async fn those_that_wait_hold_no_connection() {
    let pair = Pair::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    pair.upstream
        .always(move |_| Act::respond(201, &[], "paid").after(&held));
    let first = pair.one.spawn(&payment("k0"));
    pair.upstream.next_request().await;
    let mut waiting = vec![pair.other.spawn(&payment("k0"))];
    pair.listens(1).await;
    let before = pair.connections();
    assert!(before >= 3, "two gateways, and one that listens: {before}");
    let mut firsts = vec![first];
    for n in 1..50 {
        firsts.push(pair.one.spawn(&payment(&format!("k{n}"))));
        pair.upstream.next_request().await;
        waiting.push(pair.other.spawn(&payment(&format!("k{n}"))));
    }
    pair.waiters(50.0).await;
    pair.listens(50).await;
    assert_eq!(pair.connections(), before);
    gate.open();
    for answer in waiting {
        answer.await.expect("an answer").is(201, "replayed");
    }
    pair.listens(0).await;
    assert_eq!(pair.upstream.charges(), 50);
}

#[tokio::test]
async fn what_is_taken_away_by_hand_is_replayed_from_no_cache_two_seconds_later() {
    let pair = Pair::start().await;
    pair.one.send(&payment("k")).await.is(201, "executed");
    // Until the epoch is known to be unchanged the cache does not count; then replays ask the server nothing.
    until("a replay from the cache", || async {
        let evaluated = |server: &RedisServer| server.calls("hmget");
        let before = evaluated(&pair.server);
        pair.other.send(&payment("k")).await.is(201, "replayed");
        (evaluated(&pair.server) == before).then_some(())
    })
    .await;
    let keys = pair.server.cli(&["KEYS", "{payments-test:*}:r:*"]);
    assert_eq!(pair.server.cli(&["DEL", &keys]), "1");
    pair.other.send(&payment("k")).await.is(201, "replayed");
    // As an operator's tool does, by whatever gateway.
    let epoch = ["SET", "{payments-test:00}:epoch", "17"];
    assert_eq!(pair.server.cli(&epoch), "OK");
    let changed = Instant::now();
    until("the cache to be forgotten", || async {
        let answer = pair.other.send(&payment("k")).await;
        (answer.idempotency_status() == "executed").then_some(())
    })
    .await;
    let took = changed.elapsed();
    println!("forgotten after {took:?}");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    assert_eq!(pair.upstream.charges(), 2);
}
