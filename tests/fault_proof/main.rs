//! The proof by faults: real gateways, a real store, clients as they are, and everything that can go wrong between and
//! behind them; then a checker reads what happened and says which promise was broken, and how.
//!
//! A few seconds for each store unless `FAULTS_SECONDS` says otherwise; `ONCEGATE_SEED` repeats the choices of a run
//! (their timing is the machine's). `tests/faults --minutes 30` is the long one. The history of a run that failed stays
//! where the failure says.

mod checker;
mod clients;
mod clock;
mod histories;
mod history;
mod nemesis;
mod operator;
mod relay;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod upstream;
mod wiretap;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checker::Terms;
use clients::{Clients, Manners, Operation, heard};
use futures_util::stream::{StreamExt, iter};
use history::{Journal, What, is_resent};
use nemesis::{Acts, Lane, Nemesis};
use scene::{Cluster, Gateways, LEASE};
use support::Setup;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Seconds of faults, where nobody says how many.
const SECONDS: u64 = 16;

/// Clients of each kind.
const SDKS: u64 = 14;
const HTTPS: u64 = 6;
const APPS: u64 = 8;

/// How long dispatches are listened to that were late when the faults ended, and claims lapse whose owners are gone.
const AFTERMATH: Duration = Duration::from_secs(5);

/// How often the audit asks for what is in progress, or has no answer, and the pause between.
const AUDITS: u32 = 60;
const AUDIT_AGAIN: Duration = Duration::from_millis(500);

/// How long an answer is waited for that was late for the audit's own request: as long as gateways listen to it, and some.
const AUDIT_AFTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Operations that are audited at once.
const AUDITED: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gateways_on_a_cluster_keep_every_promise_whatever_fails() {
    let run = Run::begin("cluster");
    let cluster = Cluster::start(run.journal.folder()).await;
    let gateways = cluster.gateways(&run.journal, run.seed).await;
    let acts = run.acts();
    let store = run.nemesis(Lane::Store, acts).of_cluster(cluster);
    let (store, gateways) = tokio::join!(tokio::spawn(store), run.faults(gateways, acts));
    let _store = store.expect("the nemesis' end");
    let terms = Terms {
        loses_answers: true,
    };
    run.judged(gateways, terms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_on_an_embedded_store_keeps_every_promise_whatever_fails() {
    let run = Run::begin("embedded");
    let gateways = Gateways::start(&run.journal, run.seed, 1, Setup::embedded).await;
    let acts = run.acts();
    let folder = gateways.processes[0].directory().to_owned();
    let store = run.nemesis(Lane::Store, acts).of_disk(folder);
    let ((), gateways) = tokio::join!(store, run.faults(gateways, acts));
    let terms = Terms {
        loses_answers: false,
    };
    run.judged(gateways, terms);
}

/// One run and what it writes down.
struct Run {
    folder: PathBuf,
    journal: Arc<Journal>,
    seed: u64,
    seconds: u64,
}

impl Run {
    fn begin(name: &str) -> Self {
        let seconds = std::env::var("FAULTS_SECONDS").map_or(SECONDS, |seconds| {
            seconds.parse().expect("FAULTS_SECONDS is a number")
        });
        let prefix = format!("oncegate-faults-{name}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        // Kept, until the run is found to be in order.
        let folder = folder.expect("a directory").keep();
        Self {
            journal: Arc::new(Journal::begin(&folder)),
            folder,
            seed: support::seed(),
            seconds,
        }
    }

    /// Begins the faults.
    fn acts(&self) -> Acts {
        Acts::new(self.seed, Duration::from_secs(self.seconds))
    }

    fn nemesis(&self, lane: Lane, acts: Acts) -> Nemesis {
        Nemesis::new(&self.journal, lane, acts)
    }

    /// Clients at work while faults befall gateways and their wires; then every operation is asked for once more.
    async fn faults(&self, gateways: Gateways, acts: Acts) -> Gateways {
        let clients = Clients::new(Arc::clone(&self.journal), gateways.addresses());
        let clients = Arc::new(clients);
        let manners = [
            (Manners::Sdk, SDKS),
            (Manners::Http, HTTPS),
            (Manners::App, APPS),
        ];
        let mut at_work = JoinSet::new();
        let mut number = 0;
        for (manners, count) in manners {
            for _ in 0..count {
                number += 1;
                let work = Arc::clone(&clients).work(number, manners, self.seed, acts.ends);
                at_work.spawn(work);
            }
        }
        let of_links = self
            .nemesis(Lane::Links, acts)
            .of_links(Arc::clone(&gateways.links));
        let operator = operator::work(&self.journal, &gateways, acts);
        let operator = tokio::spawn(operator);
        let of_gateways = self.nemesis(Lane::Gateways, acts).of_gateways(gateways);
        let ((), gateways) = tokio::join!(of_links, of_gateways);
        at_work.join_all().await;
        operator.await.expect("the operator's end");
        sleep(LEASE + AFTERMATH).await;
        self.journal.note("", What::Audit);
        iter(clients.operations())
            .for_each_concurrent(AUDITED, |operation| audit(&clients, operation))
            .await;
        gateways
    }

    /// Says what happened, and fails the test where a promise was broken.
    fn judged(self, gateways: Gateways, terms: Terms) {
        for number in 0..gateways.processes.len() {
            gateways.keep_log(number, &self.folder);
        }
        // Otherwise a failure would print all their logs.
        drop(gateways);
        let events = history::read(&self.folder);
        println!(
            "{} s of faults: {}",
            self.seconds,
            checker::summary(&events)
        );
        let violations = checker::check(&events, terms);
        let report = checker::report(&events, &violations);
        assert!(
            violations.is_empty(),
            "{report}\nthe whole history: {}",
            self.folder.display()
        );
        if std::env::var("FAULTS_KEEP").is_err() {
            std::fs::remove_dir_all(&self.folder).expect("our own folder");
        }
    }
}

/// Asks for an operation until there is something to hear that does not go away.
async fn audit(clients: &Clients, operation: Operation) {
    for asked in 0..AUDITS {
        let gateway = usize::try_from(asked).expect("a few") % clients.gateways.len();
        let answer = clients
            .ask("the audit", gateway, &operation, Duration::from_secs(5))
            .await;
        // What may be sent again is, until the upstream answers.
        let goes_on = |said: &str| said == "unknown" && is_resent(&operation.name());
        let is_over = answer.as_ref().is_some_and(|answer| {
            let said = answer.idempotency_status();
            let is_told = answer.status < 409 || answer.status == 422;
            (is_told || matches!(said, "unknown" | "replayed")) && !goes_on(said)
        });
        // A machine that is too busy for the upstream to answer in time is no reason for a key to stay unknown.
        let is_late = answer.is_some_and(|answer| heard(&answer).slug == "upstream-timeout");
        match is_late {
            true => sleep(AUDIT_AFTER_TIMEOUT).await,
            false if is_over => return,
            false => sleep(AUDIT_AGAIN).await,
        }
    }
}
