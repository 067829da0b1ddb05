//! Which server holds which part of the store: one server, the master of a Sentinel group, or the primaries of a
//! cluster.

mod cluster;
mod sentinel;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use self::cluster::Cluster;
use self::sentinel::Sentinel;
use super::keys::Keys;
use super::lane::Terms;
use super::node::{Access, CallError, Node};
use crate::config::{RedisConfig, RedisForm};

/// What part of a call's time it may wait for a connection: the rest is for the call itself.
const CONNECTING: f64 = 0.8;

/// The pause between two looks at who holds what.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The pause before a call is repeated whose keys are on their way to another server, and not all of them there.
const MOVING: Duration = Duration::from_millis(20);

/// What a server says that is no primary, or not any more, or does not know yet that it is none: one whose replicas
/// have left it for another primary.
const ELSEWHERE: [&str; 5] = [
    "READONLY",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "LOADING",
    "NOREPLICAS",
];

/// The servers of a store.
pub struct Servers(Form);

enum Form {
    Single(Arc<Node>),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

/// How a call gets to a server.
#[derive(Clone)]
pub enum Way {
    /// The server holds the bucket.
    To(Arc<Node>),
    /// The bucket is on its way to this server.
    Asking(Arc<Node>),
}

impl Way {
    /// The server at its end.
    pub fn node(&self) -> &Arc<Node> {
        match self {
            Self::To(node) | Self::Asking(node) => node,
        }
    }
}

/// What to do after a call failed.
pub enum Next {
    /// Ask [`Servers::way`] anew: something has changed.
    Again,
    /// Send it this way, once.
    Via(Way),
    /// Nothing more can be done.
    Stop,
}

impl Servers {
    /// The servers that the configuration names. Nobody is connected to yet.
    pub fn new(config: &RedisConfig, keys: &Keys, timeout: Duration) -> Self {
        let access = Arc::new(Access {
            user: config.user.clone(),
            password: config.password.as_ref().map(|password| password.0.clone()),
            database: config.database,
            tls: config.tls.as_ref().map(super::node::certificates),
            patience: timeout.mul_f64(CONNECTING),
            pushes: None,
            terms: Terms {
                replicas: config.replicas_ack,
                within: timeout,
            },
        });
        let endpoints = config.servers.clone();
        Self(match &config.form {
            RedisForm::Single => {
                let [first, ..] = &endpoints[..] else {
                    unreachable!("the configuration names a server");
                };
                Form::Single(Arc::new(Node::new(first.clone(), access)))
            }
            RedisForm::Sentinel { master } => {
                let password = config.sentinel_password.as_ref();
                let password = password.map(|password| password.0.clone());
                let login = (config.sentinel_user.clone(), password);
                Form::Sentinel(Sentinel::new(endpoints, master.clone(), access, login))
            }
            RedisForm::Cluster => Form::Cluster(Cluster::new(endpoints, keys, access)),
        })
    }

    /// The way to the server that holds this bucket.
    ///
    /// # Errors
    /// Where no such server is known.
    pub async fn way(&self, bucket: u8) -> Result<Way, CallError> {
        let node = match &self.0 {
            Form::Single(node) => Arc::clone(node),
            Form::Sentinel(sentinel) => sentinel.master().await?,
            Form::Cluster(cluster) => cluster.holder(bucket).await?,
        };
        Ok(Way::To(node))
    }

    /// What to do after a call on this way was refused, or could not be sent.
    pub async fn follow(&self, bucket: u8, way: &Way, error: &CallError) -> Next {
        let changed = match (&self.0, error) {
            (Form::Cluster(cluster), CallError::Refused { code, text }) if code == "ASK" => {
                return cluster.asked(text).map_or(Next::Stop, Next::Via);
            }
            (Form::Cluster(_), CallError::Refused { code, .. }) if code == "TRYAGAIN" => {
                tokio::time::sleep(MOVING).await;
                true
            }
            (Form::Cluster(cluster), CallError::Refused { code, text }) if code == "MOVED" => {
                cluster.moved(bucket, text)
            }
            (_, CallError::Refused { code, .. }) if !ELSEWHERE.contains(&&**code) => false,
            (_, CallError::Unanswered(_)) => false,
            // A name may lead to another server by now.
            (Form::Single(node), CallError::Refused { .. }) => node.reconnect(),
            (Form::Single(_), CallError::NotSent(_)) => false,
            (Form::Sentinel(sentinel), _) => sentinel.changed(way.node()).await,
            (Form::Cluster(cluster), _) => cluster.changed(bucket, way.node()).await,
        };
        if changed { Next::Again } else { Next::Stop }
    }

    /// Looks who holds what, unless somebody has just looked: a primary that was cut off and has come back takes itself
    /// for one until it is told otherwise, and what it acknowledges is lost.
    pub async fn look_around(&self) {
        match &self.0 {
            Form::Single(_) => {}
            Form::Sentinel(sentinel) => sentinel.look_around().await,
            Form::Cluster(cluster) => cluster.look_around().await,
        }
    }

    /// All servers that hold a part of the store, each with its buckets.
    ///
    /// # Errors
    /// Where a part has no server.
    pub async fn all(&self) -> Result<Vec<(Arc<Node>, Vec<u8>)>, CallError> {
        let mut all: Vec<(Arc<Node>, Vec<u8>)> = Vec::new();
        for bucket in 0..=u8::MAX {
            let way = self.way(bucket).await?;
            match all
                .iter_mut()
                .find(|(node, _)| Arc::ptr_eq(node, way.node()))
            {
                Some((_, buckets)) => buckets.push(bucket),
                None => all.push((Arc::clone(way.node()), vec![bucket])),
            }
        }
        Ok(all)
    }

    /// Lets go of all connections.
    pub fn disconnect(&self) {
        match &self.0 {
            Form::Single(node) => node.disconnect(),
            Form::Sentinel(sentinel) => sentinel.disconnect(),
            Form::Cluster(cluster) => cluster.disconnect(),
        }
    }
}

/// Looks around one at a time, and not all the time.
#[derive(Default)]
struct Lookout(Mutex<Option<Instant>>);

impl Lookout {
    /// Looks, unless somebody has just looked; waits for whoever is looking.
    async fn look(&self, look: impl Future<Output = ()>) {
        let mut last = self.0.lock().await;
        if last.is_none_or(|last| last.elapsed() >= LOOK_AGAIN) {
            look.await;
            *last = Some(Instant::now());
        }
    }
}
