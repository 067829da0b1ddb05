//! A whole world in one runtime under virtual time: gateways that are processes of their own, their clients, the store
//! that they share, their upstream, and what befalls them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use super::super::forwarded::tests::peer;
use super::super::{Gateway, MAX_CLAIMS, Parts};
use super::chance::{Chance, Draw};
use super::clients::{Attempt, call};
use super::history::{Entry, Event, History, Stood};
use super::link::{End, link};
use super::plan::{Befalls, Fault, Incident, OnUnknown, Operation, Plan, Wanted};
use super::store::{Broken, ScriptedStore};
use super::upstream::Wires;
use crate::config::Config;
use crate::identity::IdKeyBytes;
use crate::process::{Here, Process};
use crate::route::Table;
use crate::server::{Handler, RequestBody};
use crate::telemetry::spans::Spans;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::Upstream;

/// How long the world is left alone before it is looked at: longer than anything in it may take.
const CALM: Duration = Duration::from_secs(150);

/// How long a gateway may drain, and how long its last words may take.
const DRAIN: Duration = Duration::from_secs(3);
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long an incident waits for its moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the last questions may take to be answered.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// The number of the caller who asks at the end.
pub const LAST_CALLER: u64 = 90;

/// The numbers by which the gateways' own questions of the store go.
const FOLLOWERS: u64 = 100_000;

/// What a run left behind.
pub struct Run {
    /// What happened.
    pub history: Vec<Entry>,
    /// How every record stands at the end.
    pub records: Vec<(Operation, Stood)>,
}

/// The parts that everybody in a run knows.
pub struct World {
    /// What is to happen.
    pub plan: Plan,
    /// What has happened.
    pub history: Arc<History>,
    chance: Chance,
    drawn: Mutex<HashMap<(&'static str, u64), u64>>,
    is_calm: AtomicBool,
    hosts: Mutex<Vec<Host>>,
    /// Which gateway an attempt went to, and what for.
    asked: Mutex<HashMap<u64, (usize, Wanted)>>,
}

/// A gateway in a process of its own.
#[derive(Clone)]
struct Host {
    name: String,
    process: Process,
    gateway: Gateway,
    upstream: Arc<Upstream>,
    metrics: Arc<Metrics>,
    listens: bool,
}

/// Runs a plan to its end.
pub fn run(plan: &Plan, broken: Broken) -> Run {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets can be had");
    runtime.block_on(whole(plan.clone(), broken))
}

async fn whole(plan: Plan, broken: Broken) -> Run {
    let world = Arc::new(World {
        chance: Chance(plan.seed),
        history: Arc::new(History::begin()),
        plan,
        drawn: Mutex::default(),
        is_calm: AtomicBool::new(false),
        hosts: Mutex::default(),
        asked: Mutex::default(),
    });
    let store = ScriptedStore::new(Arc::clone(&world), broken);
    for index in 0..world.plan.hosts {
        let host = world.host(index, &store);
        world.hosts().push(host);
    }
    let callers = world.plan.callers.clone();
    let callers = join_all(callers.into_iter().map(|caller| {
        // Tasks, so that they are woken as everything else is.
        tokio::spawn(call(Arc::clone(&world), caller))
    }));
    let incidents = world.plan.incidents.clone();
    let incidents =
        join_all(incidents.into_iter().map(|incident| {
            tokio::spawn(befall(Arc::clone(&world), Arc::clone(&store), incident))
        }));
    for ended in callers.await.into_iter().chain(incidents.await) {
        ended.expect("no part of the simulation panics");
    }
    world.is_calm.store(true, Ordering::Relaxed);
    store.well();
    world.history.add(Event::Calm);
    sleep(CALM).await;
    let records = store.records();
    world.ask_everything_again().await;
    world.look_for_leftovers().await;
    let mut history = world.history.take();
    // What happens at one moment has no order.
    history.sort_by_cached_key(|entry| (entry.at, entry.to_string()));
    Run { history, records }
}

async fn befall(world: Arc<World>, store: Arc<ScriptedStore>, incident: Incident) {
    let Incident {
        at,
        awaits,
        mut what,
        lasts,
    } = incident;
    sleep(at).await;
    if let Some((moment, after)) = awaits {
        let next = world.history.next(moment);
        let Ok(attempt) = timeout(PATIENCE, next).await else {
            return;
        };
        if !after.is_zero() {
            sleep(after).await;
        }
        let asked = world.asked().get(&attempt).copied();
        what = asked.map_or(what, |(host, _)| what.of(host));
    }
    world.history.add(Event::Befell(format!("{what:?}")));
    match what {
        Befalls::Crash(index) => {
            world.end(index);
            sleep(lasts).await;
            world.restart(index, &store);
        }
        Befalls::Freeze(index) => {
            let process = world.hosts()[index].process.clone();
            process.freeze();
            sleep(lasts).await;
            process.thaw();
        }
        Befalls::Drain(index) => {
            let Some(host) = world.close(index) else {
                return;
            };
            if timeout(DRAIN, host.gateway.finished()).await.is_err() {
                host.gateway.cut_short();
                let _ = timeout(LAST_WORDS, host.gateway.finished()).await;
            }
            sleep(Duration::from_millis(500)).await;
            world.end(index);
            sleep(lasts).await;
            world.restart(index, &store);
        }
        Befalls::StoreDown => {
            store.down();
            sleep(lasts).await;
            store.well();
        }
        Befalls::StoreMute => {
            store.mute();
            sleep(lasts).await;
            store.well();
        }
        Befalls::ClockJumps(by_ms) => store.jump(by_ms),
        Befalls::OperatorDeletes(operation) => store.delete(operation),
        Befalls::StoreLoses(operation) => store.lose(operation),
        Befalls::OperatorReleases(operation) => store.resolve(operation, true),
        Befalls::OperatorCompletes(operation) => store.resolve(operation, false),
    }
    world.history.add(Event::Befell(format!("end of {what:?}")));
}

impl World {
    /// The next decision of this name about this request.
    pub fn draw(&self, name: &'static str, request: u64) -> Draw {
        let mut drawn = self.drawn.lock().expect("nothing panics with the lock");
        let nth = drawn.entry((name, request)).or_default();
        *nth += 1;
        self.chance.of(name, request, *nth)
    }

    /// Whether this fault may happen now.
    pub fn has(&self, fault: Fault) -> bool {
        self.plan.faults.contains(&fault) && !self.is_calm.load(Ordering::Relaxed)
    }

    /// The first attempt of which an operation was executed by now.
    pub fn executed(&self, operation: Operation) -> Option<u64> {
        self.history.executed(|attempt| {
            let wants = self.wanted(attempt);
            wants.is_some_and(|wants| wants.operation == operation)
        })
    }

    /// What this attempt is for.
    pub fn wanted(&self, attempt: u64) -> Option<Wanted> {
        self.asked().get(&attempt).map(|(_, wants)| *wants)
    }

    /// One of the gateways' places.
    pub fn any_host(&self, draw: &mut Draw) -> usize {
        usize::try_from(draw.number(0..=5)).expect("small") % self.plan.hosts
    }

    /// A client's connection to a gateway, with that one's name, where one listens.
    pub fn connect(&self, index: usize, attempt: u64, wants: Wanted) -> Option<(String, End)> {
        let host = self.hosts()[index].clone();
        if !host.listens {
            return None;
        }
        self.asked().insert(attempt, (index, wants));
        let (near, far) = link();
        let here = Here {
            process: host.process,
            request: attempt,
        };
        tokio::spawn(here.task(serve(host.gateway, far)));
        Some((host.name, near))
    }

    fn host(self: &Arc<Self>, index: usize, store: &Arc<ScriptedStore>) -> Host {
        let config = match (self.plan.on_unknown, self.plan.waits) {
            (OnUnknown::Hold, false) => &*HASTY,
            (OnUnknown::Hold, true) => &*WAITING,
            (OnUnknown::Resend, _) => &*RESENDING,
            (OnUnknown::Probe, _) => &*PROBING,
        };
        let process = Process::new(self.plan.seed + index as u64);
        let upstream = Upstream::within(Arc::new(Wires(Arc::clone(self))), &config.upstreams[0]);
        let metrics = Arc::new(Metrics::new(&["pay"], &["payments"]));
        let gateway = Gateway::new(Parts {
            routes: Table::new(config.routes.clone()),
            upstreams: vec![(config.upstreams[0].name.clone(), Arc::clone(&upstream))],
            store: store.client(),
            store_timeout: config.store.timeout,
            id_key: IdKeyBytes([7; 32]),
            namespace: String::new(),
            limits: config.limits.clone(),
            problem_base: None,
            metrics: Arc::clone(&metrics),
            access_log: AccessLog::off(),
            spans: Spans::default(),
        });
        if self.plan.deletes() {
            let here = Here {
                process: process.clone(),
                request: FOLLOWERS + index as u64,
            };
            let follower = gateway.clone();
            tokio::spawn(here.task(async move { follower.follow_epoch().await }));
        }
        let generation = self.draw("host", index as u64).number(100..=999);
        Host {
            name: format!("gateway {index}/{generation}"),
            process,
            gateway,
            upstream,
            metrics,
            listens: true,
        }
    }

    /// No client gets there any more; `None` where none did before.
    fn close(&self, index: usize) -> Option<Host> {
        let mut hosts = self.hosts();
        let host = &mut hosts[index];
        std::mem::replace(&mut host.listens, false).then(|| host.clone())
    }

    fn end(&self, index: usize) {
        let host = {
            let mut hosts = self.hosts();
            hosts[index].listens = false;
            hosts[index].clone()
        };
        host.process.crash();
        self.history.add(Event::Crashed { host: host.name });
    }

    fn restart(self: &Arc<Self>, index: usize, store: &Arc<ScriptedStore>) {
        let host = self.host(index, store);
        let before = std::mem::replace(&mut self.hosts()[index], host);
        // Where two incidents meet, one of them ends what the other began.
        before.process.crash();
        self.history.add(Event::Crashed { host: before.name });
    }

    /// Everybody who wanted something asks once more, at every gateway, when all is well.
    async fn ask_everything_again(self: &Arc<Self>) {
        let mut wanted: Vec<_> = self
            .plan
            .callers
            .iter()
            .map(|caller| caller.wants)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut attempt = LAST_CALLER * 100;
        for wants in wanted {
            // Who sends again has to see a silent attempt for a whole lease first, and who probes has a pace.
            let again = usize::from(self.plan.on_unknown != OnUnknown::Hold) * 2;
            for host in (0..self.plan.hosts).chain(std::iter::repeat_n(0, again)) {
                sleep(Duration::from_secs(4 * again as u64)).await;
                let asks = Attempt {
                    world: Arc::clone(self),
                    attempt,
                    wants,
                };
                asks.run(host, LAST_PATIENCE).await;
                attempt += 1;
            }
        }
    }

    /// Whatever a gateway counted, held or waited for is over.
    async fn look_for_leftovers(&self) {
        let hosts = self.hosts().clone();
        for host in hosts {
            let left = |what: String| {
                self.history.add(Event::Left {
                    host: host.name.clone(),
                    what,
                });
            };
            if timeout(LAST_PATIENCE, host.gateway.finished())
                .await
                .is_err()
            {
                left("tasks".to_owned());
            }
            host.gateway.mirror();
            let metrics = &host.metrics;
            let shared = host.gateway.0.load();
            for (name, value) in [
                ("claims_held", metrics.claims_held.value()),
                ("claims_in_doubt", metrics.claims_in_doubt.value()),
                ("recordings_pending", metrics.recordings_pending.value()),
                ("late_dispatches", metrics.late_dispatches.value()),
                ("waiters", metrics.waiters.value()),
                ("buffered", metrics.buffered.value()),
                ("in_flight", metrics.route(0).in_flight.value()),
                ("upstream in_flight", host.upstream.stats().in_flight as u64),
                (
                    "claims",
                    (MAX_CLAIMS - shared.claims.available_permits()) as u64,
                ),
            ] {
                if value > 0 {
                    left(format!("{name} {value}"));
                }
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u64, (usize, Wanted)>> {
        self.asked.lock().expect("nothing panics with the lock")
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().expect("nothing panics with the lock")
    }
}

/// A gateway's side of a client's connection.
async fn serve(gateway: Gateway, end: End) {
    let peer = peer("127.0.0.1", &[]);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (gateway, peer) = (gateway.clone(), peer.clone());
        let request = Box::new(request.map(RequestBody::unwatched));
        async move { Ok::<_, Infallible>(gateway.handle(request, peer).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(end), service);
    // What it ended with is the client's concern.
    let _ = connection.await;
}

static HASTY: LazyLock<Config> = LazyLock::new(|| config("0s", "hold"));
static WAITING: LazyLock<Config> = LazyLock::new(|| config("2s", "hold"));
static RESENDING: LazyLock<Config> = LazyLock::new(|| config("1s", "resend"));
static PROBING: LazyLock<Config> = LazyLock::new(|| config("1s", "probe"));

fn config(wait: &str, on_unknown: &str) -> Config {
    let probe = match on_unknown {
        "probe" => r#"probe = { path = "/pay?key={key}", absent_after = "20s" }"#,
        _ => "",
    };
    let text = format!(
        r#"
        [[listeners]]
        address = "127.0.0.1:1"
        [admin]
        address = "127.0.0.1:2"
        [store]
        url = "memory:"
        timeout = "250ms"
        [limits]
        max_waiters_per_key = 3
        max_late = 2
        [upstreams.payments]
        endpoints = ["http://127.0.0.1:9", "http://127.0.0.1:10"]
        [[routes]]
        name = "pay"
        methods = ["POST"]
        path = "/pay"
        upstream = "payments"
        scope = ["header:Authorization"]
        wait = "{wait}"
        on_unknown = "{on_unknown}"
        {probe}
        lease = "3s"
        response_timeout = "4s"
        late_response = "20s"
        record_timeout = "1s"
        max_response_body = "2KiB"
        "#
    );
    match Config::parse(&text, "simulation") {
        Ok(loaded) => loaded.config,
        Err(faults) => panic!("{faults:?}"),
    }
}
