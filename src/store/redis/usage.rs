//! How full the servers are, as they said when they were last asked.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use futures_util::future::join_all;
use redis::{Pipeline, Value, cmd, pipe};
use tokio::time::timeout;

use super::call::failed;
use super::node::Node;
use super::{Redis, StoreError, Usage};

/// What the servers said.
#[derive(Default)]
pub struct Gauge {
    records: AtomicU64,
    bytes: AtomicU64,
    limit_bytes: AtomicU64,
    aged_out: AtomicU64,
    has_warned: AtomicBool,
    /// Of the primary that has the fewest.
    replicas: AtomicU32,
    is_short: AtomicBool,
}

impl Gauge {
    /// What they said last.
    pub fn read(&self) -> Usage {
        Usage {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            limit_bytes: self.limit_bytes.load(Ordering::Relaxed),
            aged_out: self.aged_out.load(Ordering::Relaxed),
        }
    }

    /// An index named a record that nobody settled, and that is gone.
    pub fn aged_out(&self) {
        self.aged_out.fetch_add(1, Ordering::Relaxed);
    }

    fn set(&self, usage: Usage) {
        self.records.store(usage.records, Ordering::Relaxed);
        self.bytes.store(usage.bytes, Ordering::Relaxed);
        self.limit_bytes.store(usage.limit_bytes, Ordering::Relaxed);
    }
}

impl Redis {
    /// Asks all servers whether they can be asked, how full they are, and what time it is.
    pub(super) async fn measure(&self) -> Result<(), StoreError> {
        let servers = self.servers.all().await.map_err(failed)?;
        let question = question();
        let answers = servers.iter().map(|(node, _)| async {
            let answer = node.call_all(&question).await;
            // At once: others may take long, or not answer at all.
            answer.inspect(|answer| self.clock.heard(answer))
        });
        let mut usage = Usage::default();
        let mut evicting = None;
        let mut least = None;
        for answer in join_all(answers).await {
            let answer = answer.map_err(failed)?;
            let [pong, keys, memory, replication, _time] = answer.as_slice() else {
                return Err(super::reply::strange().into());
            };
            Node::refusal_in(pong.clone()).map_err(failed)?;
            // A user who may not ask for these has a store all the same.
            if let Value::Int(keys) = keys {
                usage.records += u64::try_from(*keys).unwrap_or(0);
            }
            let memory = text(memory);
            let number = |name| field(memory, name).and_then(|number| number.parse().ok());
            usage.bytes += number("used_memory").unwrap_or(0);
            usage.limit_bytes += number("maxmemory").unwrap_or(0);
            evicting = evicting.or(evicting_policy(memory));
            let replicas = field(text(replication), "connected_slaves");
            let replicas = replicas.and_then(|count| count.parse::<u32>().ok());
            least = [least, replicas].into_iter().flatten().min();
        }
        self.warn_of_eviction(evicting.as_deref());
        self.gauge.set(usage);
        self.warn_of_replicas(least);
        Ok(())
    }

    /// The policy of a server that forgets records to make room; `None` where it does not, or does not say.
    pub(super) async fn eviction(&self, node: &Node) -> Option<String> {
        let mut question = cmd("INFO");
        question.arg("memory");
        let answer = timeout(self.timeout, node.call(&question)).await;
        evicting_policy(text(&answer.ok()?.ok()?))
    }

    /// The replicas of the primary that has the fewest, where they are fewer than a claim waits for: no claim can be
    /// made there.
    ///
    /// # Errors
    /// Where a server does not answer.
    pub async fn missing_replicas(&self) -> Result<Option<u32>, StoreError> {
        self.measure().await?;
        let least = self.gauge.replicas.load(Ordering::Relaxed);
        Ok((least < self.replicas_ack).then_some(least))
    }

    fn warn_of_replicas(&self, least: Option<u32>) {
        // A user who may not ask knows nothing.
        let least = least.unwrap_or(u32::MAX);
        self.gauge.replicas.store(least, Ordering::Relaxed);
        let is_short = least < self.replicas_ack;
        let was_short = self.gauge.is_short.swap(is_short, Ordering::Relaxed);
        if is_short && !was_short {
            tracing::warn!(
                replicas = least,
                replicas_ack = self.replicas_ack,
                "a primary of the store has fewer replicas than claims wait for: its claims are refused",
            );
        }
    }

    /// A server that forgets a claim to make room lets its operation through twice.
    fn warn_of_eviction(&self, policy: Option<&str>) {
        let has_warned = self
            .gauge
            .has_warned
            .swap(policy.is_some(), Ordering::Relaxed);
        if let Some(policy) = policy
            && !has_warned
        {
            tracing::warn!(
                policy,
                "the store forgets records when its memory is full, and with them what was executed; set its \
                 maxmemory-policy to noeviction",
            );
        }
    }
}

fn question() -> Pipeline {
    let mut question = pipe();
    question.cmd("PING").cmd("DBSIZE");
    question.cmd("INFO").arg("memory");
    question.cmd("INFO").arg("replication");
    question.cmd("TIME");
    question
}

fn evicting_policy(memory: &str) -> Option<String> {
    let policy = field(memory, "maxmemory_policy")?;
    (policy != "noeviction").then(|| policy.to_owned())
}

fn text(value: &Value) -> &str {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => "",
    }
}

/// A line `name:value` of what INFO says.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
