//! An operator who settles what is unknown by what the upstream knows, while everything else goes on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::history::{Journal, What};
use crate::nemesis::Acts;
use crate::scene::Gateways;
use crate::support::{Connection, Request};
use crate::upstream::{Books, Charge};

/// Records that are looked at at a time.
const PAGE: usize = 50;

/// What an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a record has to stay as it is, with the upstream knowing nothing of it, before the operator says that it was
/// never done: longer than anything here holds a request back, or freezes.
const CERTAIN: Duration = Duration::from_secs(8);

/// Works until the faults end.
pub fn work(
    journal: &Arc<Journal>,
    gateways: &Gateways,
    acts: Acts,
) -> impl Future<Output = ()> + use<> {
    let token = std::fs::read_to_string(gateways.operator.token_file()).expect("a token");
    let mut operator = Operator {
        journal: Arc::clone(journal),
        books: Arc::clone(&gateways.books),
        admins: Arc::clone(&gateways.admins),
        token: token.trim().to_owned(),
        rng: Rng::with_seed(acts.seed),
        since: HashMap::new(),
    };
    async move {
        while Instant::now() < acts.ends {
            sleep(Duration::from_millis(operator.rng.u64(100..800))).await;
            // What does not answer, or changes meanwhile, is looked at again.
            let _ = operator.looks().await;
        }
    }
}

struct Operator {
    journal: Arc<Journal>,
    books: Arc<Books>,
    admins: Arc<Mutex<Vec<SocketAddr>>>,
    token: String,
    rng: Rng,
    /// Since when each record is as it is, by id and version.
    since: HashMap<(String, String), Instant>,
}

impl Operator {
    /// Looks at what is unknown, and settles half of what can be settled.
    async fn looks(&mut self) -> Option<()> {
        let admin = {
            let admins = self.admins.lock().expect("no panic");
            admins[self.rng.usize(0..admins.len())]
        };
        let listing = Request::get(&format!("/v1/records?route=pay&limit={PAGE}"));
        let page = self.asks(admin, listing).await?;
        for record in page["records"].as_array()? {
            if self.rng.bool() {
                self.settles(admin, record).await;
            }
        }
        Some(())
    }

    async fn settles(&mut self, admin: SocketAddr, record: &Value) -> Option<()> {
        let operation = self.whose(admin, record).await?;
        let id = record["id"].as_str()?;
        let seen = (id.to_owned(), record["version"].to_string());
        let since = *self.since.entry(seen).or_insert_with(Instant::now);
        let (status, body, word) = match self.books.of(&operation) {
            Some(Some(charge)) => {
                let body = by_hand(&operation, &charge);
                let headers = json!([["Content-Type", "application/json"]]);
                let more = json!({ "status": charge.status, "headers": headers, "body": body });
                (charge.status, body, ("resolve", more))
            }
            // The upstream does not know what it did, or may yet receive it.
            Some(None) => return None,
            None if since.elapsed() < CERTAIN => return None,
            None => (0, String::new(), ("release", json!({}))),
        };
        let (act, mut word) = word;
        let said = word.as_object_mut()?;
        said.insert("version".to_owned(), record["version"].clone());
        said.insert("actor".to_owned(), json!("ada"));
        said.insert("reason".to_owned(), json!("the upstream says so"));
        // Before it is said: it may be done though nobody hears so.
        let says = What::Says {
            status,
            body: body.clone(),
        };
        self.journal.note(&operation, says);
        let request = Request::post(&format!("/v1/records/{id}/{act}")).body(word.to_string());
        self.asks(admin, request).await?;
        if status > 0 {
            self.journal
                .note(&operation, What::Settled { status, body });
        }
        Some(())
    }

    /// The name of the operation of a record. The listing tells the key, not whose it is.
    async fn whose(&self, admin: SocketAddr, record: &Value) -> Option<String> {
        let key = record["reference"]["key"].as_str()?;
        for scope in ["alice", "bob"] {
            let by = json!({ "route": "pay", "key": key, "scope": [format!("Bearer {scope}")] });
            let request = Request::post("/v1/records/lookup").body(by.to_string());
            let found = self.asks(admin, request).await;
            if found.is_some_and(|found| found["id"] == record["id"]) {
                return Some(format!("{scope}/{key}"));
            }
        }
        None
    }

    async fn asks(&self, admin: SocketAddr, request: Request) -> Option<Value> {
        let request = request.auth(&format!("Bearer {}", self.token));
        let asking = async {
            let mut connection = Connection::try_open(admin).await.ok()?;
            connection.try_send(&request).await
        };
        let answer = timeout(PATIENCE, asking).await.ok()??;
        (answer.status == 200).then(|| answer.json())
    }
}

/// What an operator writes: not byte for byte what the upstream would have said, so that each can be told from the other.
fn by_hand(operation: &str, charge: &Charge) -> String {
    json!({
        "operation": operation,
        "payload": charge.payload,
        "charge": charge.number,
        "settled": "by hand",
    })
    .to_string()
}
