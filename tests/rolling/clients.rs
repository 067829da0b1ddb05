//! Clients that keep their connections, believe every answer, and write down whatever is not as it should be.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{Answer, Connection, Http2, Missed, Request, payment, until};

/// The longest pause between two requests of a client, usually; a client without pauses would measure, not ask.
const USUAL_PAUSE_MS: u64 = 60;
/// Now and then one rests so long that its connections, and those of a balancer, have been idle before they are used.
const LONG_PAUSE_MS: u64 = 1500;

/// Some clients at work.
pub struct Clients {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Requests that were answered.
    answered: AtomicUsize,
    /// Every key that was answered, with its answer.
    paid: Mutex<Vec<(String, String)>>,
    failures: Mutex<Vec<String>>,
}

impl Clients {
    /// So many clients of this address, none of which ever tries again.
    pub fn start(number: usize, address: SocketAddr, seed: u64) -> Self {
        Self::at_work(number, seed, move |client| async move {
            let line = Line::Kept(address, None);
            Careful { line, client }.work().await;
        })
    }

    /// So many that speak HTTP/2, know all these addresses, and send to another one what a gateway that says goodbye has
    /// not taken; they try nothing again that was sent.
    pub fn start_shared(number: usize, addresses: &[SocketAddr], seed: u64) -> Self {
        let addresses: Arc<[SocketAddr]> = addresses.into();
        Self::at_work(number, seed, move |client| {
            let line = Line::Shared(Shared2 {
                addresses: Arc::clone(&addresses),
                at: client.name,
                connection: None,
            });
            async move { Careful { line, client }.work().await }
        })
    }

    /// So many clients that know all these addresses, and send every payment to several of them: at once, one after the
    /// other, and again wherever they heard nothing that settles it.
    pub fn start_insisting(number: usize, addresses: &[SocketAddr], seed: u64) -> Self {
        let addresses: Arc<[SocketAddr]> = addresses.into();
        Self::at_work(number, seed, move |client| {
            let addresses = Arc::clone(&addresses);
            async move { Insisting { addresses, client }.work().await }
        })
    }

    fn at_work<F: Future<Output = ()> + Send + 'static>(
        number: usize,
        seed: u64,
        work: impl Fn(Client) -> F,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let tasks = (0..number).map(|name| {
            let client = Client {
                name,
                rng: Rng::with_seed(seed.wrapping_add(name as u64)),
                shared: Arc::clone(&shared),
            };
            tokio::spawn(work(client))
        });
        let tasks = tasks.collect();
        Self { shared, tasks }
    }

    /// Returns after so many more answers.
    pub async fn progress(&self, answers: usize) {
        let before = self.shared.answered.load(Ordering::Relaxed);
        until("more answers", || async {
            let now = self.shared.answered.load(Ordering::Relaxed);
            (now >= before + answers).then_some(())
        })
        .await;
    }

    /// Lets them end what they do, and returns what they have paid for.
    ///
    /// # Panics
    /// Where anything was not as it should be.
    pub async fn end(self) -> Vec<(String, String)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a client");
        }
        let failures = std::mem::take(&mut *self.shared.failures.lock().expect("no panic"));
        let answered = self.shared.answered.load(Ordering::Relaxed);
        let paid = std::mem::take(&mut *self.shared.paid.lock().expect("no panic"));
        println!("{answered} requests, {} payments", paid.len());
        assert!(
            failures.is_empty(),
            "{} failures among {answered} requests:\n{}",
            failures.len(),
            failures.join("\n")
        );
        paid
    }
}

struct Client {
    name: usize,
    rng: Rng,
    shared: Arc<Shared>,
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    async fn pause(&mut self) {
        let longest = match self.rng.u8(..) < 8 {
            true => LONG_PAUSE_MS,
            false => USUAL_PAUSE_MS,
        };
        sleep(Duration::from_millis(self.rng.u64(..longest))).await;
    }

    fn answered(&self) {
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn fails(&self, what: String) {
        self.shared.failures.lock().expect("no panic").push(what);
    }

    fn has_paid(&self, key: &str, receipt: String) {
        let mut paid = self.shared.paid.lock().expect("no panic");
        paid.push((key.to_owned(), receipt));
    }
}

/// What an upstream answers to this payment; what follows differs from one execution to the next.
pub fn receipt(key: &str) -> String {
    format!("paid {key} by ")
}

/// How a client reaches a gateway.
enum Line {
    /// At one address, over a connection that is kept.
    Kept(SocketAddr, Option<Connection>),
    Shared(Shared2),
}

/// A connection of HTTP/2 to one of several addresses.
struct Shared2 {
    addresses: Arc<[SocketAddr]>,
    /// The address that is next.
    at: usize,
    connection: Option<Http2>,
}

impl Line {
    async fn send(&mut self, request: &Request) -> Result<Answer, String> {
        match self {
            Self::Kept(address, kept) => send_kept(*address, kept, request).await,
            Self::Shared(shared) => shared.send(request).await,
        }
    }
}

async fn send_kept(
    address: SocketAddr,
    connection: &mut Option<Connection>,
    request: &Request,
) -> Result<Answer, String> {
    let mut kept = match connection.take() {
        Some(kept) => kept,
        None => match Connection::try_open(address).await {
            Ok(opened) => opened,
            Err(error) => return Err(format!("no connection: {error}")),
        },
    };
    let answer = kept.try_send(request).await.ok_or("no whole answer")?;
    let closes = answer
        .header("Connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    *connection = (!closes).then_some(kept);
    Ok(answer)
}

impl Shared2 {
    async fn send(&mut self, request: &Request) -> Result<Answer, String> {
        // One of them is away at a time, and another may say goodbye while it is asked.
        for _ in 0..2 * self.addresses.len() {
            let kept = match self.connection.take() {
                Some(kept) => Some(kept),
                None => Http2::try_open(self.addresses[self.at % self.addresses.len()]).await,
            };
            if let Some(kept) = kept {
                match kept.send_or_miss(request).await {
                    Ok(answer) => {
                        self.connection = Some(kept);
                        return Ok(answer);
                    }
                    Err(Missed::Unsent) => {}
                    Err(Missed::Lost) => return Err("no whole answer".to_owned()),
                }
            }
            self.at += 1;
        }
        Err("no gateway takes it".to_owned())
    }
}

/// Sends everything once, and now and then something again that was answered.
struct Careful {
    line: Line,
    client: Client,
}

impl Careful {
    async fn work(mut self) {
        let mut paid: Vec<(String, String)> = Vec::new();
        let mut number = 0;
        while self.client.goes_on() {
            number += 1;
            let key = format!("c{}-{number}", self.client.name);
            match self.client.rng.u8(..10) {
                0..6 => {
                    let sent = self.line.send(&payment(&key)).await;
                    let Some(answer) = self.holds(sent, &key, "executed", &receipt(&key)) else {
                        continue;
                    };
                    self.client.has_paid(&key, answer.clone());
                    paid.push((key, answer));
                }
                6..8 if !paid.is_empty() => {
                    let (key, first) = &paid[self.client.rng.usize(..paid.len())];
                    let sent = self.line.send(&payment(key)).await;
                    self.holds(sent, key, "replayed", first);
                }
                _ => {
                    let request = Request::get(&format!("/things/{key}"));
                    let sent = self.line.send(&request).await;
                    self.holds(sent, &key, "", "");
                }
            }
            self.client.pause().await;
        }
    }

    /// The answer's body, where it is what it should be.
    fn holds(
        &self,
        answer: Result<Answer, String>,
        key: &str,
        status: &str,
        body: &str,
    ) -> Option<String> {
        let what = match answer {
            Ok(answer) => {
                self.client.answered();
                let text = answer.text();
                let is_right = answer.status == 201 && answer.idempotency_status() == status;
                if is_right && text.starts_with(body) {
                    return Some(text);
                }
                format!("{answer:?}")
            }
            Err(error) => error,
        };
        self.client
            .fails(format!("{key}, which should be {status:?}: {what}"));
        None
    }
}

/// Sends every payment to several addresses.
struct Insisting {
    addresses: Arc<[SocketAddr]>,
    client: Client,
}

impl Insisting {
    async fn work(mut self) {
        let mut number = 0;
        while self.client.goes_on() {
            number += 1;
            let key = format!("i{}-{number}", self.client.name);
            let copies = self.client.rng.usize(2..5);
            let mut sent = tokio::task::JoinSet::new();
            for _ in 0..copies {
                let first = self.client.rng.usize(..self.addresses.len());
                let addresses = Arc::clone(&self.addresses);
                let (request, shared) = (payment(&key), Arc::clone(&self.client.shared));
                let pause = Duration::from_millis(self.client.rng.u64(..80));
                sent.spawn(async move {
                    sleep(pause).await;
                    insist(&addresses, first, &request, &shared).await
                });
            }
            let answers = sent.join_all().await;
            let texts: Vec<String> = answers.iter().map(Answer::text).collect();
            if texts.iter().any(|text| *text != texts[0]) || !texts[0].starts_with(&receipt(&key)) {
                self.client.fails(format!("{key}: {answers:?}"));
            }
            let executed = |answer: &&Answer| answer.idempotency_status() == "executed";
            // None where it was one whose connection was lost.
            if answers.iter().filter(executed).count() > 1 {
                self.client
                    .fails(format!("{key} was executed more than once: {answers:?}"));
            }
            self.client.has_paid(&key, texts[0].clone());
            self.client.pause().await;
        }
    }
}

/// Sends a request to one address after the other until it is answered for good.
async fn insist(
    addresses: &[SocketAddr],
    first: usize,
    request: &Request,
    shared: &Shared,
) -> Answer {
    let mut tried = first;
    until("an answer for good", || {
        let address = addresses[tried % addresses.len()];
        tried += 1;
        async move {
            let mut connection = Connection::try_open(address).await.ok()?;
            let answer = connection.try_send(request).await?;
            shared.answered.fetch_add(1, Ordering::Relaxed);
            if answer.status == 201 {
                return Some(answer);
            }
            // What a client may hear that asks again with the same key; nothing here leaves an outcome unknown.
            let is_honest = answer.status == 409
                && answer.json()["operation_state"] == "in_progress"
                || answer.status == 503 && answer.json()["retry_same_key"] == true;
            if !is_honest {
                let mut failures = shared.failures.lock().expect("no panic");
                failures.push(format!("{answer:?}"));
            }
            None
        }
    })
    .await
}
