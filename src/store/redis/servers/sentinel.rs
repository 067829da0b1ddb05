//! The master of a Sentinel group: whom most of the sentinels name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Value, cmd};

use super::super::node::{Access, CallError, Node};
use super::Lookout;
use crate::config::Endpoint;

/// A master, found through its sentinels.
pub struct Sentinel {
    sentinels: Vec<Node>,
    name: String,
    access: Arc<Access>,
    master: RwLock<Option<Arc<Node>>>,
    lookout: Lookout,
}

impl Sentinel {
    /// Sentinels are asked without a password, and with TLS where the servers are.
    pub fn new(sentinels: Vec<Endpoint>, name: String, access: Arc<Access>) -> Self {
        let asking = Arc::new(Access {
            user: None,
            password: None,
            database: 0,
            ..Access::clone(&access)
        });
        let sentinel = |address| Node::new(address, Arc::clone(&asking));
        Self {
            sentinels: sentinels.into_iter().map(sentinel).collect(),
            name,
            access,
            master: RwLock::default(),
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
        let nobody = || CallError::NotSent(format!("no sentinel names a master {:?}", self.name));
        self.known().ok_or_else(nobody)
    }

    /// Asks who is master now; whether it is another than this one.
    pub async fn changed(&self, from: &Arc<Node>) -> bool {
        self.lookout.look(self.look()).await;
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
        while let Some(answer) = answers.next().await {
            let Some(address) = answer else { continue };
            let votes = votes.entry(address).or_default();
            *votes += 1;
            // One that is frozen must not hold up what the others agree upon.
            if *votes * 2 > self.sentinels.len() {
                break;
            }
        }
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

    async fn ask(&self, sentinel: &Node) -> Option<Endpoint> {
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answer = tokio::time::timeout(self.access.patience, sentinel.call(&question)).await;
        let Ok(Ok(Value::Array(words))) = answer else {
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
}
