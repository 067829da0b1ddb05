//! What the servers' user may do, needs to, and should not have to: for `check --connect` and the start.

use std::sync::Arc;

use redis::cmd;
use tokio::time::timeout;

use super::call::{Call, asked};
use super::identity::ContactError;
use super::node::{CallError, Node};
use super::reply::texts;
use super::{Redis, StoreError, script};
use crate::config::{RedisConfig, RedisForm};

/// What every user needs.
const COMMANDS: &str = "+evalsha +eval +time +hmget +hget +hset +hdel +exists +del +pexpire +get +set +zadd +zrem \
                        +zrangebyscore +spublish +ssubscribe +sunsubscribe +ping +info +dbsize";

/// What a user of a cluster needs besides.
const IN_A_CLUSTER: &str = " +cluster|slots +asking";

/// What a user needs besides where claims wait for replicas.
const FOR_REPLICAS: &str = " +wait";

/// What a user needs besides where the database is another one than 0.
const IN_A_DATABASE: &str = " +select";

/// What can be said of servers besides whether they serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Commands that the user needs and may not run, in small letters.
    pub missing: Vec<String>,
    /// The servers where it may not run one of them.
    pub lacking: Vec<String>,
    /// What serves, and is easily regretted.
    pub doubts: Vec<String>,
    /// There is a store already; not asked where rights are missing.
    pub is_begun: bool,
}

impl Redis {
    /// The command that gives a user the rights that it needs, and no others. The password is not in it.
    #[must_use]
    pub fn rights(config: &RedisConfig, namespace: &str) -> String {
        let user = config.user.as_deref().unwrap_or("default");
        let mut line = format!(
            "ACL SETUSER {user} on resetkeys ~{{{namespace}:* resetchannels &{{{namespace}:* -@all {COMMANDS}"
        );
        if config.form == RedisForm::Cluster {
            line.push_str(IN_A_CLUSTER);
        }
        if config.replicas_ack > 0 {
            line.push_str(FOR_REPLICAS);
        }
        if config.database != 0 {
            line.push_str(IN_A_DATABASE);
        }
        line
    }

    /// The same as a line for a shell, every word that means something to shells quoted.
    #[must_use]
    pub fn rights_for_a_shell(config: &RedisConfig, namespace: &str) -> String {
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "+@:._-".contains(char);
        let rights = Self::rights(config, namespace);
        let words = rights
            .split(' ')
            .map(|word| match word.chars().all(is_plain) {
                true => word.to_owned(),
                false => format!("'{}'", word.replace('\'', r"'\''")),
            });
        let words: Vec<String> = words.collect();
        format!("redis-cli {}", words.join(" "))
    }

    /// Tries every right on every server, asks what else there is to say of them, and whether the store is the one that
    /// the configuration means; begins none.
    ///
    /// # Errors
    /// Where the store cannot be asked, and where it must not be used.
    pub async fn inspect(&self) -> Result<Inspected, ContactError> {
        let mut inspected = Inspected::default();
        for (node, buckets) in self.servers.all().await.map_err(super::call::failed)? {
            let bucket = buckets.first().copied().unwrap_or_default();
            let missing = self.missing(&node, bucket).await?;
            if !missing.is_empty() {
                let lacking = format!("{}:{}", node.address.host, node.address.port);
                inspected.lacking.push(lacking);
            }
            inspected.missing.extend(missing);
            inspected.doubts.extend(self.doubts(&node).await);
        }
        for found in [&mut inspected.missing, &mut inspected.doubts] {
            found.sort();
            found.dedup();
        }
        if inspected.missing.is_empty() {
            inspected.is_begun = self.is_the_one().await?;
        }
        Ok(inspected)
    }

    /// Says in the log what serves, and is easily regretted.
    pub async fn warn(&self) {
        let Ok(servers) = self.servers.all().await else {
            return;
        };
        // The policy is asked with every ping.
        for (node, _) in servers {
            if self.takes_strangers(&node).await {
                return tracing::warn!("{}", strangers(&node));
            }
        }
    }

    async fn missing(&self, node: &Node, bucket: u8) -> Result<Vec<String>, StoreError> {
        let key = self.keys.rights(bucket);
        let call = Call::new(vec![key.clone()]);
        let run = self.run(&script::RIGHTS, bucket, &call).await;
        let mut missing = match run.map_err(asked) {
            Ok(outcome) => texts(outcome.value)?,
            Err(error) if error.to_string().contains("NOPERM") => {
                vec!["evalsha".to_owned(), "eval".to_owned()]
            }
            Err(error) => return Err(error),
        };
        let mut info = cmd("INFO");
        info.arg("memory");
        let mut subscribe = cmd("SSUBSCRIBE");
        subscribe.arg(&key);
        let mut unsubscribe = cmd("SUNSUBSCRIBE");
        unsubscribe.arg(&key);
        let listening = node.listening(Arc::new(|_| ()));
        let mut wait = cmd("WAIT");
        wait.arg(0).arg(0);
        let waits = self.replicas_ack > 0;
        let tried = [
            ("wait", node, wait),
            ("ping", node, cmd("PING")),
            ("dbsize", node, cmd("DBSIZE")),
            ("info", node, info),
            ("ssubscribe", &listening, subscribe),
            ("sunsubscribe", &listening, unsubscribe),
        ];
        for (name, node, command) in tried.into_iter().skip(usize::from(!waits)) {
            let answer = timeout(self.timeout, node.call(&command)).await;
            if matches!(answer, Ok(Err(CallError::Refused { code, .. })) if code == "NOPERM") {
                missing.push(name.to_owned());
            }
        }
        Ok(missing)
    }

    async fn doubts(&self, node: &Node) -> Vec<String> {
        let mut doubts = Vec::new();
        if let Some(policy) = self.eviction(node).await {
            doubts.push(format!(
                "{} forgets records when its memory is full (maxmemory-policy {policy}), and with them what was \
                 executed: set the policy to noeviction",
                name(node),
            ));
        }
        if self.takes_strangers(node).await {
            doubts.push(strangers(node));
        }
        doubts
    }

    /// Whether the server takes commands of clients that do not log in.
    async fn takes_strangers(&self, node: &Node) -> bool {
        let answer = timeout(self.timeout, node.as_stranger().call(&cmd("PING"))).await;
        matches!(answer, Ok(Ok(_)))
    }
}

fn strangers(node: &Node) -> String {
    format!(
        "{} takes commands without a password, also those that empty the store: give its default user one, or \
         switch that user off",
        name(node),
    )
}

fn name(node: &Node) -> String {
    format!("the server {}:{}", node.address.host, node.address.port)
}
