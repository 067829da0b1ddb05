//! Clients as they are: SDKs that back off, HTTP libraries that send again at once what broke, apps that nobody waits
//! for.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};

use crate::history::{Heard, Journal, PROBED, RESENT, Sight, What, is_resent};
use crate::support::{Answer, Connection, Request};

/// Operations that clients may ask for again.
const REMEMBERED: usize = 200;

/// What an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub scope: &'static str,
    pub key: String,
    pub payload: String,
}

impl Operation {
    pub fn name(&self) -> String {
        format!("{}/{}", self.scope, self.key)
    }

    fn request(&self) -> Request {
        let path = if is_resent(&self.name()) {
            "/v1/transfers"
        } else if self.key.starts_with(PROBED) {
            "/v1/refunds"
        } else {
            "/v1/payments"
        };
        Request::post(path)
            .auth(&format!("Bearer {}", self.scope))
            .key(&self.key)
            .body(&self.payload)
    }
}

/// What all clients share.
pub struct Clients {
    pub journal: Arc<Journal>,
    pub gateways: Vec<SocketAddr>,
    /// The latest operations, and all of them.
    latest: Mutex<VecDeque<Operation>>,
    all: Mutex<Vec<Operation>>,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub enum Manners {
    /// As Stripe's SDKs: patient, with pauses that double and jitter, by `Retry-After`, after everything that may go away.
    Sdk,
    /// As Go's HTTP client: what breaks on a connection that was used before is sent again at once on another one.
    Http,
    /// An app on a phone: it hangs up soon, and its user tries again.
    App,
}

/// How often an operation is tried at most.
const TRIES: u32 = 5;

/// The longest pause that a client takes, whatever `Retry-After` says.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a patient client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

impl Clients {
    pub fn new(journal: Arc<Journal>, gateways: Vec<SocketAddr>) -> Self {
        Self {
            journal,
            gateways,
            latest: Mutex::default(),
            all: Mutex::default(),
        }
    }

    /// Every operation that was asked for.
    pub fn operations(&self) -> Vec<Operation> {
        self.all.lock().expect("no panic").clone()
    }

    /// One client at work until then.
    pub async fn work(self: Arc<Self>, number: u64, manners: Manners, seed: u64, ends: Instant) {
        let mut client = Client {
            name: format!("{manners:?} {number}"),
            rng: Rng::with_seed(seed ^ (number << 32)),
            kept: None,
            all: self,
        };
        let mut operations = 0;
        while Instant::now() < ends {
            operations += 1;
            let operation = client.chosen(number, operations);
            match manners {
                Manners::Sdk => client.as_sdk(&operation).await,
                Manners::Http => client.as_http(&operation).await,
                Manners::App => client.as_app(&operation).await,
            }
            sleep(Duration::from_millis(client.rng.u64(5..80))).await;
        }
    }

    /// Asks for an operation once, on a connection of its own, and writes down what is heard.
    pub async fn ask(
        &self,
        client: &str,
        gateway: usize,
        operation: &Operation,
        patience: Duration,
    ) -> Option<Answer> {
        let address = self.gateways[gateway];
        let trying = async {
            let mut connection = Connection::try_open(address).await.ok()?;
            connection.try_send(&operation.request()).await
        };
        let asked = self.noted(client, gateway, operation, timeout(patience, trying));
        asked.await
    }

    /// Writes down that a request is sent, and what comes of it.
    async fn noted(
        &self,
        client: &str,
        gateway: usize,
        operation: &Operation,
        answer: impl Future<Output = Result<Option<Answer>, tokio::time::error::Elapsed>>,
    ) -> Option<Answer> {
        let (request, name) = (self.journal.number(), operation.name());
        self.journal.note(
            &name,
            What::Sends {
                request,
                client: client.to_owned(),
                gateway,
                payload: operation.payload.clone(),
            },
        );
        let answer = answer.await;
        let nothing = |why: &str| {
            let why = why.to_owned();
            self.journal
                .note(&name, What::HearsNothing { request, why });
        };
        match &answer {
            Ok(Some(answer)) => {
                let heard = heard(answer);
                if heard.said == "executed" {
                    self.journal.shows(Sight::Executed(gateway));
                }
                self.journal.note(&name, What::Hears { request, heard });
            }
            Ok(None) => nothing("no connection, or not to the end"),
            Err(_) => nothing("it hangs up"),
        }
        answer.ok().flatten()
    }
}

/// What of an answer the checker reads.
pub fn heard(answer: &Answer) -> Heard {
    let mut heard = Heard {
        status: answer.status,
        said: answer.idempotency_status().to_owned(),
        ..Heard::default()
    };
    if answer.header("Content-Type") != Some("application/problem+json") {
        heard.body = answer.text();
        return heard;
    }
    let problem = answer.json();
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let kind = text("type");
    heard.slug = kind.rsplit(':').next().unwrap_or_default().to_owned();
    heard.state = text("operation_state");
    heard.safe_new_key = problem["safe_new_key"] == true;
    heard
}

/// One client.
struct Client {
    name: String,
    rng: Rng,
    kept: Option<(usize, Connection)>,
    all: Arc<Clients>,
}

impl Client {
    /// A new operation, mostly; or one that somebody has asked for, or its key from another tenant or for something else.
    fn chosen(&mut self, client: u64, number: u64) -> Operation {
        let latest = self.all.latest.lock().expect("no panic");
        let dice = self.rng.u8(0..100);
        if !latest.is_empty() && dice < 40 {
            let back = self.rng.usize(0..latest.len().min(60));
            let other = latest[latest.len() - 1 - back].clone();
            return match dice {
                0..=3 => Operation {
                    payload: format!("something else than {}", other.payload),
                    ..other
                },
                4..=7 if other.scope == "alice" => {
                    drop(latest);
                    self.new_operation("bob", other.key)
                }
                _ => other,
            };
        }
        drop(latest);
        let kind = ["", "", "", RESENT, PROBED][self.rng.usize(0..5)];
        self.new_operation("alice", format!("{kind}c{client}-{number}"))
    }

    fn new_operation(&mut self, scope: &'static str, key: String) -> Operation {
        let payload = format!("pay {scope} {} for {key}", self.rng.u16(1..1000));
        let operation = Operation {
            scope,
            key,
            payload,
        };
        let mut all = self.all.all.lock().expect("no panic");
        // A tenant has one operation under a key, whoever asks for it.
        let known = all
            .iter()
            .rev()
            .take(2 * REMEMBERED)
            .find(|other| (other.scope, &other.key) == (scope, &operation.key));
        if let Some(known) = known {
            return known.clone();
        }
        all.push(operation.clone());
        let mut latest = self.all.latest.lock().expect("no panic");
        latest.push_back(operation.clone());
        if latest.len() > REMEMBERED {
            latest.pop_front();
        }
        operation
    }

    async fn as_sdk(&mut self, operation: &Operation) {
        for tried in 0..TRIES {
            let gateway = self.any_gateway();
            let answer = self.all.ask(&self.name, gateway, operation, PATIENCE).await;
            let retries = answer
                .as_ref()
                .is_none_or(|answer| matches!(answer.status, 409 | 425 | 429 | 500..));
            if !retries {
                // Now and then somebody asks twice.
                if self.rng.u8(0..8) == 0 {
                    let gateway = self.any_gateway();
                    let all = &self.all;
                    all.ask(&self.name, gateway, operation, PATIENCE).await;
                }
                return;
            }
            let after = answer
                .as_ref()
                .and_then(|answer| answer.header("Retry-After"));
            let after = after.and_then(|seconds| seconds.parse().ok());
            let pause = (Duration::from_millis(50) * 2u32.pow(tried)).mul_f64(0.5 + self.rng.f64());
            let pause = after.map_or(pause, Duration::from_secs).min(LONGEST_PAUSE);
            sleep(pause).await;
        }
    }

    async fn as_http(&mut self, operation: &Operation) {
        for _ in 0..2 {
            let kept = self.kept.take();
            let is_used = kept.is_some();
            let (gateway, mut connection) = match kept {
                Some(kept) => kept,
                None => {
                    let gateway = self.any_gateway();
                    match Connection::try_open(self.all.gateways[gateway]).await {
                        Ok(connection) => (gateway, connection),
                        Err(_) => return,
                    }
                }
            };
            let request = operation.request();
            let trying = timeout(PATIENCE, connection.try_send(&request));
            let all = Arc::clone(&self.all);
            let answer = all.noted(&self.name, gateway, operation, trying).await;
            match answer {
                Some(answer) if answer.header("Connection").is_none() => {
                    self.kept = Some((gateway, connection));
                    return;
                }
                Some(_) => return,
                None if is_used => {}
                None => return,
            }
        }
    }

    async fn as_app(&mut self, operation: &Operation) {
        for _ in 0..TRIES {
            let gateway = self.any_gateway();
            let patience = Duration::from_millis(self.rng.u64(5..700));
            let all = Arc::clone(&self.all);
            let answer = all.ask(&self.name, gateway, operation, patience).await;
            if answer.is_some_and(|answer| answer.status < 500 && answer.status != 409) {
                return;
            }
            sleep(Duration::from_millis(self.rng.u64(10..300))).await;
        }
    }

    fn any_gateway(&mut self) -> usize {
        self.rng.usize(0..self.all.gateways.len())
    }
}
