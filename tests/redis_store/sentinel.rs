//! A master and its replicas, found through sentinels: what the protocol says holds there, too, and a failover in the
//! middle of it all needs nobody's help.

use std::time::{Duration, Instant};

use oncegate::config::{Password, RedisConfig, RedisForm};
use oncegate::protocol::Verdict;
use oncegate::store::{NotDone, Redis, Store, StoreError};
use tokio::time::timeout;

use crate::conformance;
use crate::gateways::id_key;
use crate::rig::{Virtual, claim, complete, config, id, seed, store_at};
use crate::support::{
    Act, Engine, Gate, Gateway, Place, RedisServer, Setup, ToyUpstream, free_port, payment, until,
    within,
};
use crate::tls::Certificates;

/// The password of sentinels that have one.
const PASSWORD: &str = "hunter2";

/// A master, its two replicas, and three sentinels.
pub struct Group {
    pub servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    /// Where the sentinels are asked, and whom they may name, in the order of the servers.
    asked: Vec<u16>,
    named: Vec<u16>,
    /// What comes before a question to a sentinel.
    login: &'static [&'static str],
}

/// What is special about a group.
#[derive(Default)]
struct Kind<'c> {
    has_password: bool,
    tls: Option<&'c Certificates>,
}

impl Group {
    async fn start() -> Self {
        Self::start_with(Kind::default()).await
    }

    async fn start_with(kind: Kind<'_>) -> Self {
        let spoken = |port: u16| {
            let of_server = |tls: &Certificates| tls.of_server(port, false);
            let mut settings = kind.tls.map_or_else(Vec::new, of_server);
            if kind.tls.is_some() {
                settings.extend(["--tls-replication", "yes"].map(str::to_owned));
            }
            settings
        };
        let mut servers: Vec<RedisServer> = Vec::new();
        let mut named: Vec<u16> = Vec::new();
        for _ in 0..3 {
            let tls_port = free_port();
            let mut settings = spoken(tls_port);
            if let Some(master) = named.first() {
                let follow = ["--replicaof", "127.0.0.1", &master.to_string()];
                settings.extend(follow.map(str::to_owned));
            }
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            let server = RedisServer::start_with(Engine::Redis, &settings);
            named.push(if kind.tls.is_some() {
                tls_port
            } else {
                server.port
            });
            servers.push(server);
        }
        until("the replicas to be linked", || async {
            let is_linked = |replica: &RedisServer| {
                replica
                    .cli(&["INFO", "replication"])
                    .contains("master_link_status:up")
            };
            servers[1..].iter().all(is_linked).then_some(())
        })
        .await;
        let mut asked = Vec::new();
        let mut sentinel = || {
            let (port, tls_port) = (free_port(), free_port());
            let mut settings = spoken(tls_port);
            if kind.has_password {
                let protects = ["--requirepass", PASSWORD, "--sentinel", "sentinel-pass"];
                settings.extend(protects.map(str::to_owned));
                settings.push(PASSWORD.to_owned());
            }
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            asked.push(if kind.tls.is_some() { tls_port } else { port });
            let here = Place::here();
            RedisServer::sentinel_at(&here, port, (&here, named[0]), &settings)
        };
        let sentinels = vec![sentinel(), sentinel(), sentinel()];
        let login: &[&str] = match kind.has_password {
            true => &["--no-auth-warning", "-a", PASSWORD],
            false => &[],
        };
        let group = Self {
            servers,
            sentinels,
            asked,
            named,
            login,
        };
        until("the sentinels to know of each other", || async {
            let knows = |sentinel: &RedisServer| {
                let told = group.ask(sentinel, &["SENTINEL", "MASTER", "main"]);
                let lines: Vec<&str> = told.lines().collect();
                let value = |name| {
                    let at = lines.iter().position(|line| *line == name)?;
                    lines.get(at + 1).copied()
                };
                value("num-other-sentinels") == Some("2") && value("num-slaves") == Some("2")
            };
            group.sentinels.iter().all(knows).then_some(())
        })
        .await;
        group
    }

    fn ask(&self, sentinel: &RedisServer, question: &[&str]) -> String {
        sentinel.cli(&[self.login, question].concat())
    }

    fn config(&self) -> RedisConfig {
        let master = "main".to_owned();
        config(RedisForm::Sentinel { master }, &self.asked)
    }

    fn url(&self) -> String {
        let sentinel = |port: &u16| format!("127.0.0.1:{port}");
        let sentinels: Vec<String> = self.asked.iter().map(sentinel).collect();
        format!("redis-sentinel://{}/main", sentinels.join(","))
    }

    /// The place of whom most sentinels name as master.
    fn master(&self) -> usize {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
        let mut votes = vec![0; self.named.len()];
        for sentinel in &self.sentinels {
            let answer = self.ask(sentinel, &question);
            let port = answer.lines().last().and_then(|port| port.parse().ok());
            let place = self.named.iter().position(|named| Some(*named) == port);
            votes[place.expect("a server of ours")] += 1;
        }
        let most = votes
            .iter()
            .position(|votes| votes * 2 > self.sentinels.len());
        most.unwrap_or(0)
    }

    /// Waits until another server than this one is master.
    async fn has_another_master(&self, than: usize) -> usize {
        until("another master", || async {
            let master = self.master();
            (master != than).then_some(master)
        })
        .await
    }
}

/// A group that stays as it is does what the protocol says, whatever else it is.
#[tokio::test]
async fn a_master_behind_sentinels_agrees_with_apply() {
    let group = Group::start().await;
    let config = RedisConfig {
        replicas_ack: 1,
        ..group.config()
    };
    conformance::agrees_with_apply(&mut Virtual::new(&config), seed()).await;
    conformance::closed_says_so(&Virtual::new(&config)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_master_behind_sentinels_gives_a_claim_to_one_of_many() {
    let group = Group::start().await;
    conformance::one_of_many_acquires(&Virtual::new(&group.config()), seed()).await;
}

#[tokio::test]
async fn the_master_is_found_and_its_successor_too() {
    let group = Group::start().await;
    let store = store_at(&group.config(), Duration::from_secs(1));
    let patience = Duration::from_secs(1);
    let verdict = store.apply(id(1), claim(1)).await;
    assert!(
        matches!(verdict, Ok(Verdict::Acquired { .. })),
        "{verdict:?}"
    );
    assert_eq!(store.apply(id(1), complete(1)).await, Ok(Verdict::Done));
    until("a replica to have the record", || async {
        (group.servers[0].cli(&["WAIT", "2", "1000"]) == "2").then_some(())
    })
    .await;
    // Frozen, it closes nothing and refuses nothing.
    group.servers[0].freeze();
    until("its successor to be found", || async {
        timeout(patience, store.apply(id(2), claim(1)))
            .await
            .ok()?
            .ok()
    })
    .await;
    let replayed = store.apply(id(1), claim(2)).await;
    assert!(
        matches!(replayed, Ok(Verdict::Completed(_))),
        "{replayed:?}"
    );
}

#[tokio::test]
async fn sentinels_that_ask_for_a_password_are_given_theirs() {
    let group = Group::start_with(Kind {
        has_password: true,
        ..Kind::default()
    })
    .await;
    for sentinel in &group.sentinels {
        let user = ["ACL", "SETUSER", "gate", "on", ">hunter3", "-@all"];
        let rights = ["+sentinel|get-master-addr-by-name"];
        assert_eq!(group.ask(sentinel, &[&user[..], &rights].concat()), "OK");
    }
    let with = |user: Option<&str>, password: Option<&str>| {
        let config = RedisConfig {
            sentinel_user: user.map(str::to_owned),
            sentinel_password: password.map(|password| Password(password.to_owned())),
            ..group.config()
        };
        store_at(&config, Duration::from_secs(5))
    };
    for (user, password, why) in [
        (None, None, "NOAUTH"),
        (None, Some("hunter4"), "uthentication failed"),
    ] {
        let refused = with(user, password).ping().await;
        let Err(StoreError::NotDone(NotDone::OutOfOrder(said))) = refused else {
            panic!("{refused:?}");
        };
        assert!(said.contains("no sentinel names a master"), "{said}");
        assert!(said.contains(why) && !said.contains("hunter"), "{said}");
    }
    for (user, password) in [(None, PASSWORD), (Some("gate"), "hunter3")] {
        let store: Redis = with(user, Some(password));
        store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_said() {
    let group = Group::start().await;
    let master = "mian".to_owned();
    let config = config(RedisForm::Sentinel { master }, &group.asked);
    let refused = store_at(&config, Duration::from_secs(5)).ping().await;
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("\"mian\"") && said.contains("none of this name"),
        "{said}"
    );
}

#[tokio::test]
async fn a_failover_in_the_middle_of_a_payment_is_noticed_by_no_client() {
    let group = Group::start().await;
    a_failover_in_the_middle(&group, "").await;
}

#[tokio::test]
async fn a_failover_behind_tls_is_noticed_by_no_client() {
    let certificates = Certificates::make();
    let group = Group::start_with(Kind {
        tls: Some(&certificates),
        ..Kind::default()
    })
    .await;
    let roots = certificates.path("root.pem");
    a_failover_in_the_middle(&group, &format!("tls = {{ roots = {roots:?} }}")).await;
}

/// The master freezes while one gateway waits for the upstream's answer and another one for that gateway. The answer
/// comes before there is another master.
async fn a_failover_in_the_middle(group: &Group, setting: &str) {
    let upstream = ToyUpstream::start();
    let (key, _directory) = id_key("k");
    let setup = Setup::payments(&upstream)
        .shared(&group.url(), &key)
        // A busy machine may take its time for a handshake.
        .store("timeout = \"2s\"")
        .store("replicas_ack = 1")
        .store(setting)
        .route("fingerprint = { host = false }")
        .route("record_timeout = \"20s\"")
        .route("wait = \"20s\"");
    let (one, other) = (setup.start().await, setup.start().await);
    one.send(&payment("before")).await.is(201, "executed");
    upstream.next_request().await;

    let gate = Gate::closed();
    upstream.next(Act::respond(201, &[], "paid").after(&gate));
    let first = one.spawn(&payment("k"));
    upstream.next_request().await;
    let duplicate = other.spawn(&payment("k"));
    waits(&other).await;
    let before = group.master();
    group.servers[before].freeze();
    gate.open();
    let first = within("the first answer", first).await.expect("an answer");
    assert_eq!(first.is(201, "executed").text(), "paid");
    let duplicate = within("the second answer", duplicate).await;
    let duplicate = duplicate.expect("an answer");
    assert_eq!(duplicate.is(201, "replayed").text(), "paid");

    let now = group.has_another_master(before).await;
    for gateway in [&one, &other] {
        gateway.send(&payment("before")).await.is(201, "replayed");
    }
    // The old master takes itself for one until the sentinels have told it.
    group.servers[before].thaw();
    until("the old master to follow", || async {
        let replication = group.servers[before].cli(&["INFO", "replication"]);
        replication.contains("master_link_status:up").then_some(())
    })
    .await;
    one.send(&payment("after")).await.is(201, "executed");
    upstream.next_request().await;
    other.send(&payment("after")).await.is(201, "replayed");
    // Messages come from the new master: by asking it would take most of a second. The best of some tells, for what holds
    // one of them up is the machine.
    let mut lag = Duration::MAX;
    for key in ["told", "told-too", "told-again"] {
        let gate = Gate::closed();
        upstream.next(Act::respond(201, &[], "paid").after(&gate));
        let first = one.spawn(&payment(key));
        upstream.next_request().await;
        let duplicate = other.spawn(&payment(key));
        until("the new master to be listened to", || async {
            let channels = group.servers[now].cli(&["PUBSUB", "SHARDCHANNELS"]);
            channels.contains(":r:").then_some(())
        })
        .await;
        gate.open();
        first.await.expect("an answer").is(201, "executed");
        let told = Instant::now();
        duplicate.await.expect("an answer").is(201, "replayed");
        lag = lag.min(told.elapsed());
    }
    assert!(lag < Duration::from_millis(500), "{lag:?}");
    // `before`, `k`, `after` and those that were told.
    assert_eq!(upstream.charges(), 6);
}

/// Waits until somebody waits there.
async fn waits(gateway: &Gateway) {
    until("a duplicate to wait", || async {
        let metrics = gateway.metrics().await;
        (metrics.value("oncegate_waiters", &[])? >= 1.0).then_some(())
    })
    .await;
}

/// A master that was cut off, and is back: it goes on as if nothing had happened, while the sentinels name another one.
/// What it acknowledges is lost.
#[tokio::test]
async fn a_master_that_does_not_know_that_it_is_none_is_left() {
    // By a ping; by claims that no replica gets; by the server's own refusal.
    for (pings, replicas_ack, least) in [(true, 0, "0"), (false, 1, "0"), (false, 0, "1")] {
        let group = crate::replicas::Group::start(2, &[]).await;
        let sentinel = RedisServer::sentinel_of(&group.primary);
        let master = "main".to_owned();
        let config = RedisConfig {
            replicas_ack,
            ..config(RedisForm::Sentinel { master }, &[sentinel.port])
        };
        let store = store_at(&config, Duration::from_secs(1));
        store.apply(id(1), claim(1)).await.unwrap();
        assert_eq!(group.primary.cli(&["WAIT", "2", "5000"]), "2");
        let (next, port) = (&group.replicas[0], group.replicas[0].port.to_string());
        assert_eq!(next.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
        group.replicas[1].cli(&["REPLICAOF", "127.0.0.1", &port]);
        until("the old master to be alone", || async {
            let replication = group.primary.cli(&["INFO", "replication"]);
            replication.contains("connected_slaves:0").then_some(())
        })
        .await;
        group
            .primary
            .cli(&["CONFIG", "SET", "min-replicas-to-write", least]);
        assert_eq!(sentinel.cli(&["SENTINEL", "REMOVE", "main"]), "OK");
        let watched = ["SENTINEL", "MONITOR", "main", "127.0.0.1", &port, "2"];
        assert_eq!(sentinel.cli(&watched), "OK");
        let last = std::cell::Cell::new(1);
        until("claims to go to the new master", || async {
            if pings {
                let _ = store.ping().await;
            }
            let n = last.get() % 250 + 2;
            last.set(n);
            let _ = timeout(Duration::from_secs(1), store.apply(id(n), claim(1))).await;
            let there = next.cli(&["KEYS", &format!("*:r:{n:02x}{n:02x}*")]);
            (!there.is_empty()).then_some(())
        })
        .await;
    }
}
