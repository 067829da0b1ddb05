//! The master of a Sentinel group: whom most of the sentinels name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Value, cmd};
use tokio::time::timeout;

use super::super::lane::Terms;
use super::super::node::{Access, CallError, Node};
use super::Lookout;
use crate::config::Endpoint;

/// A master, found through its sentinels.
pub struct Sentinel {
    sentinels: Vec<Node>,
    name: String,
    access: Arc<Access>,
    master: RwLock<Option<Arc<Node>>>,
    /// Why nobody named one, when they were last asked.
    refusal: RwLock<Option<String>>,
    lookout: Lookout,
}

impl Sentinel {
    /// Sentinels are asked with a user and a password of their own (`login`), and with TLS where the servers are.
    pub fn new(
        sentinels: Vec<Endpoint>,
        name: String,
        access: Arc<Access>,
        login: (Option<String>, Option<String>),
    ) -> Self {
        let (user, password) = login;
        let asking = Arc::new(Access {
            user,
            password,
            database: 0,
            terms: Terms::default(),
            ..Access::clone(&access)
        });
        let sentinel = |address| Node::new(address, Arc::clone(&asking));
        Self {
            sentinels: sentinels.into_iter().map(sentinel).collect(),
            name,
            access,
            master: RwLock::default(),
            refusal: RwLock::default(),
            lookout: Lookout::default(),
        }
    }

    /// The master, as it was last named; asks where nobody has named one, or where it has fallen silent.
    pub async fn master(&self) -> Result<Arc<Node>, CallError> {
        if let Some(master) = self.known()
            && !master.is_silent()
        {
            return Ok(master);
        }
        self.lookout.look(self.look()).await;
        self.known().ok_or_else(|| {
            let refusal = self.refusal.read().unwrap_or_else(PoisonError::into_inner);
            let why = refusal.as_deref().unwrap_or("none answers");
            CallError::NotSent(format!("no sentinel names a master {:?}: {why}", self.name))
        })
    }

    /// Asks who is master now.
    pub async fn look_around(&self) {
        self.lookout.look(self.look()).await;
    }

    /// The same; whether it is another than this one.
    pub async fn changed(&self, from: &Arc<Node>) -> bool {
        self.look_around().await;
        self.known().is_some_and(|now| !Arc::ptr_eq(&now, from))
    }

    /// Lets go of all connections.
    pub fn disconnect(&self) {
        self.sentinels.iter().for_each(Node::disconnect);
        if let Some(master) = self.known() {
            master.disconnect();
        }
    }

    fn known(&self) -> Option<Arc<Node>> {
        let known = self.master.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    async fn look(&self) {
        let asked = self.sentinels.iter().map(|sentinel| self.ask(sentinel));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut votes: HashMap<Endpoint, usize> = HashMap::new();
        let mut refusal = None;
        while let Some(answer) = answers.next().await {
            let address = match answer {
                Ok(address) => address,
                Err(why) => {
                    refusal = Some(why);
                    continue;
                }
            };
            let votes = votes.entry(address).or_default();
            *votes += 1;
            // One that is frozen must not hold up what the others agree upon.
            if *votes * 2 > self.sentinels.len() {
                break;
            }
        }
        *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = refusal;
        let Some((address, _)) = votes.iter().max_by_key(|(_, votes)| **votes) else {
            return;
        };
        if self.known().is_none_or(|known| known.address != *address) {
            tracing::info!(
                host = address.host,
                port = address.port,
                "the store's master"
            );
            let master = Arc::new(Node::new(address.clone(), Arc::clone(&self.access)));
            *self.master.write().unwrap_or_else(PoisonError::into_inner) = Some(master);
        }
    }

    /// Whom this sentinel names, or why it names nobody.
    async fn ask(&self, sentinel: &Node) -> Result<Endpoint, String> {
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let Endpoint { host, port } = &sentinel.address;
        let says = |what: &str| format!("{host}:{port} says {what}");
        let answer = timeout(self.access.patience, sentinel.call(&question)).await;
        match answer {
            Err(_) => Err(format!("{host}:{port}: no answer in time")),
            Ok(Err(error @ CallError::Refused { .. })) => Err(says(&error.to_string())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(Value::Nil)) => Err(says("that it watches none of this name")),
            Ok(Ok(answer)) => address(&answer).ok_or_else(|| says("something strange")),
        }
    }
}

/// An address as a sentinel names it: host and port.
fn address(answer: &Value) -> Option<Endpoint> {
    let Value::Array(words) = answer else {
        return None;
    };
    let [Value::BulkString(host), Value::BulkString(port)] = &words[..] else {
        return None;
    };
    Some(Endpoint {
        host: String::from_utf8(host.clone()).ok()?,
        port: std::str::from_utf8(port).ok()?.parse().ok()?,
    })
}
