//! The primaries of a cluster, each with the buckets that it holds.
//!
//! Ours rather than the client library's: that one sends a call again by itself when a connection breaks, so that
//! nobody knows what a failure means, and goes on asking a primary that has frozen. Here each call goes to one server
//! over that server's own connection, and what one server fails to do holds up nobody who asks another.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::FutureExt;
use futures_util::future::select_ok;
use redis::{Value, cmd};
use tokio::time::timeout;

use super::super::keys::{BUCKETS, Keys};
use super::super::node::{Access, CallError, Node};
use super::{Lookout, Way};
use crate::config::Endpoint;

/// Slots of a cluster, <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.
const SLOTS: u16 = 16_384;

/// Servers that are asked at once who holds what; the first that answers is believed.
const ASKED_AT_ONCE: usize = 8;

/// A cluster.
pub struct Cluster {
    seeds: Vec<Endpoint>,
    /// The slot of each bucket.
    slots: Vec<u16>,
    access: Arc<Access>,
    map: RwLock<Map>,
    /// Why nobody said at the last look who holds what.
    refusal: RwLock<Option<CallError>>,
    lookout: Lookout,
}

#[derive(Default)]
struct Map {
    nodes: HashMap<Endpoint, Arc<Node>>,
    /// By bucket; empty before the first look.
    holders: Vec<Option<Arc<Node>>>,
}

impl Cluster {
    /// A cluster of which these servers are known.
    pub fn new(seeds: Vec<Endpoint>, keys: &Keys, access: Arc<Access>) -> Self {
        let slot = |bucket| crc16(keys.tag(bucket).as_bytes()) % SLOTS;
        Self {
            seeds,
            slots: (0..=u8::MAX).map(slot).collect(),
            access,
            map: RwLock::default(),
            refusal: RwLock::default(),
            lookout: Lookout::default(),
        }
    }

    /// The primary that holds this bucket; looks around where none is known, or where it has fallen silent.
    pub async fn holder(&self, bucket: u8) -> Result<Arc<Node>, CallError> {
        if let Some(holder) = self.known(bucket)
            && !holder.is_silent()
        {
            return Ok(holder);
        }
        self.lookout.look(self.look()).await;
        self.known(bucket).ok_or_else(|| {
            let refusal = self.refusal.read().unwrap_or_else(PoisonError::into_inner);
            let nobody = "no server of the cluster holds this part";
            match &*refusal {
                Some(why) => {
                    CallError::NotSent(format!("{why}, so that {nobody} as far as is known"))
                }
                None => CallError::NotSent(nobody.to_owned()),
            }
        })
    }

    /// Looks who holds what now.
    pub async fn look_around(&self) {
        self.lookout.look(self.look()).await;
    }

    /// Looks who holds this bucket now; whether it is another than this one.
    pub async fn changed(&self, bucket: u8, from: &Arc<Node>) -> bool {
        self.look_around().await;
        let holder = self.known(bucket);
        holder.is_some_and(|holder| !Arc::ptr_eq(&holder, from))
    }

    /// A server said where the bucket is now (`SLOT HOST:PORT`); whether that is understood.
    pub fn moved(&self, bucket: u8, to: &str) -> bool {
        let Some(address) = target(to) else {
            return false;
        };
        let node = self.node(address);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        match map.holders.get_mut(usize::from(bucket)) {
            Some(holder) => *holder = Some(node),
            None => return false,
        }
        true
    }

    /// A server said to where the bucket is moving.
    pub fn asked(&self, to: &str) -> Option<Way> {
        target(to).map(|address| Way::Asking(self.node(address)))
    }

    /// Lets go of all connections.
    pub fn disconnect(&self) {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.nodes.values().for_each(|node| node.disconnect());
    }

    fn known(&self, bucket: u8) -> Option<Arc<Node>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.holders.get(usize::from(bucket))?.clone()
    }

    fn node(&self, address: Endpoint) -> Arc<Node> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let access = &self.access;
        let node = map
            .nodes
            .entry(address)
            .or_insert_with_key(|address| Arc::new(Node::new(address.clone(), Arc::clone(access))));
        Arc::clone(node)
    }

    async fn look(&self) {
        let asking = self.to_ask().into_iter().map(|node| self.ask(node).boxed());
        let (answer, refusal) = match select_ok(asking).await {
            Ok((ranges, _)) => (Some(ranges), None),
            Err(error) => (None, Some(error)),
        };
        *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = refusal;
        let Some(ranges) = answer else {
            return;
        };
        let holder = |slot: &u16| {
            let range = ranges.iter().find(|range| range.slots.contains(slot))?;
            Some(self.node(range.primary.clone()))
        };
        let holders: Vec<_> = self.slots.iter().map(holder).collect();
        debug_assert_eq!(holders.len(), BUCKETS);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.holders = holders;
        // Who holds nothing any more, and was not named at the beginning, is forgotten.
        let Map { nodes, holders } = &mut *map;
        nodes.retain(|address, node| {
            let holds = holders
                .iter()
                .flatten()
                .any(|holder| Arc::ptr_eq(holder, node));
            holds || self.seeds.contains(address)
        });
    }

    /// Servers that may know: those that answer before those that do not.
    fn to_ask(&self) -> Vec<Arc<Node>> {
        for seed in &self.seeds {
            self.node(seed.clone());
        }
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut nodes: Vec<_> = map.nodes.values().cloned().collect();
        nodes.sort_by_key(|node| node.is_silent());
        nodes.truncate(ASKED_AT_ONCE);
        nodes
    }

    async fn ask(&self, node: Arc<Node>) -> Result<Vec<Range>, CallError> {
        let late = || CallError::NotSent("no answer in time".to_owned());
        let mut question = cmd("CLUSTER");
        question.arg("SLOTS");
        let answer = timeout(self.access.patience, node.call(&question)).await;
        let answer = answer.map_err(|_| late())??;
        // One that is no member of a cluster (yet) knows of nobody.
        let ranges = ranges(&answer, &node.address.host).filter(|ranges| !ranges.is_empty());
        ranges.ok_or_else(|| CallError::NotSent("a strange answer".to_owned()))
    }
}

/// Slots and who holds them.
struct Range {
    slots: std::ops::RangeInclusive<u16>,
    primary: Endpoint,
}

/// What `CLUSTER SLOTS` says: first slot, last slot, the primary (host, port, ..), its replicas.
fn ranges(answer: &Value, asked: &str) -> Option<Vec<Range>> {
    let Value::Array(entries) = answer else {
        return None;
    };
    let range = |entry: &Value| {
        let Value::Array(parts) = entry else {
            return None;
        };
        let [
            Value::Int(first),
            Value::Int(last),
            Value::Array(primary),
            ..,
        ] = &parts[..]
        else {
            return None;
        };
        let [host, Value::Int(port), ..] = &primary[..] else {
            return None;
        };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
            // A server that does not know its own name has the one that it was asked by.
            _ => asked.to_owned(),
        };
        Some(Range {
            slots: u16::try_from(*first).ok()?..=u16::try_from(*last).ok()?,
            primary: Endpoint {
                host,
                port: u16::try_from(*port).ok()?,
            },
        })
    };
    entries.iter().map(range).collect()
}

/// The address in `SLOT HOST:PORT`.
fn target(to: &str) -> Option<Endpoint> {
    let (host, port) = to.split_whitespace().nth(1)?.rsplit_once(':')?;
    let port = port.parse().ok()?;
    (!host.is_empty()).then(|| Endpoint {
        host: host.to_owned(),
        port,
    })
}

/// CRC-16/XMODEM, which assigns keys to slots.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_redirection_names_a_server() {
        let address = |host: &str| Endpoint {
            host: host.to_owned(),
            port: 6381,
        };
        assert_eq!(target("3999 127.0.0.1:6381"), Some(address("127.0.0.1")));
        assert_eq!(target("3999 ::1:6381"), Some(address("::1")));
        for wrong in ["", "3999", "3999 :6381", "3999 host:", "3999 host:70000"] {
            assert_eq!(target(wrong), None, "{wrong:?}");
        }
    }
}
