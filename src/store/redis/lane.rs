//! Writes that count only when replicas have them: in batches, each with its WAIT behind it on the same connection.
//!
//! WAIT speaks of the writes of its own connection alone, and holds up everything behind it there. So every server has
//! connections of their own for this, and what does not wait for replicas goes by the other one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{Cmd, Value, cmd, pipe};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::node::{CallError, Held, Node};

/// Writes in one batch: enough that a WAIT for each batch costs little beside the writes.
const BATCH: usize = 256;

/// Writes that wait for their batch. Callers give up long before so many are served.
const QUEUE: usize = 4096;

/// The part of a call's time that a server waits for its replicas: the rest is for the write before.
const AT_THE_REPLICAS: f64 = 0.6;

/// What is asked of replicas.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// So many have to have a write; 0: nobody waits.
    pub replicas: u32,
    /// The time of one call.
    pub within: Duration,
}

/// What a write said, and whether the replicas have it.
pub struct Vouched {
    /// What it said.
    pub value: Value,
    /// Why the replicas may not have it.
    pub lacks: Option<String>,
}

/// The way for such writes to one server.
pub struct Lane {
    node: Arc<Node>,
    terms: Terms,
    jobs: OnceLock<mpsc::Sender<Job>>,
    is_short: Arc<AtomicBool>,
}

struct Job {
    command: Cmd,
    /// The key is on its way to this server.
    asking: bool,
    answer: oneshot::Sender<Result<Vouched, CallError>>,
}

impl Lane {
    /// Over this node's connection, which nobody else uses.
    pub fn new(node: Node, terms: Terms) -> Self {
        Self {
            node: Arc::new(node),
            terms,
            jobs: OnceLock::new(),
            is_short: Arc::default(),
        }
    }

    /// Sends one write.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, command: Cmd, asking: bool) -> Result<Vouched, CallError> {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            command,
            asking,
            answer,
        };
        let too_many = |_| CallError::NotSent("too many writes wait for replicas".to_owned());
        self.jobs().try_send(job).map_err(too_many)?;
        let ended = |_| CallError::Unanswered("the connection was given up".to_owned());
        answered.await.map_err(ended)?
    }

    /// The server, over the connection of this lane.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Whether replicas were missing when they were last waited for.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Lets go of the connection.
    pub fn disconnect(&self) {
        self.node.disconnect();
    }

    fn jobs(&self) -> &mpsc::Sender<Job> {
        self.jobs.get_or_init(|| {
            let (sender, jobs) = mpsc::channel(QUEUE);
            let batches = Batches {
                node: Arc::clone(&self.node),
                terms: self.terms,
                is_short: Arc::clone(&self.is_short),
            };
            // Ends with the lane.
            tokio::spawn(batches.serve(jobs));
            sender
        })
    }
}

/// One batch after the other.
struct Batches {
    node: Arc<Node>,
    terms: Terms,
    is_short: Arc<AtomicBool>,
}

impl Batches {
    async fn serve(self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.recv_many(&mut batch, BATCH).await > 0 {
            // A claim whose caller has given up would be made for nobody.
            batch.retain(|job: &Job| !job.answer.is_closed());
            if !batch.is_empty() {
                self.send(std::mem::take(&mut batch)).await;
            }
        }
    }

    async fn send(&self, batch: Vec<Job>) {
        match self.written(&batch).await {
            Ok((held, answers)) => self.answer(batch, held, answers).await,
            Err(error) => {
                for job in batch {
                    // Whoever asked may have given up.
                    let _ = job.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// The answers of a batch, one for each job, and the connection that they came by.
    async fn written(&self, batch: &[Job]) -> Result<(Held<'_>, Vec<Value>), CallError> {
        let mut held = self.node.held().await?;
        let mut commands = pipe();
        for job in batch {
            if job.asking {
                commands.cmd("ASKING");
            }
            commands.add_command(job.command.clone());
        }
        let answers = timeout(self.terms.within, held.call_all(&commands)).await;
        let mut answers = answers.map_err(|_| self.silence(batch.len()))??.into_iter();
        let answer = |job: &Job| {
            if job.asking {
                answers.next();
            }
            answers.next()
        };
        let answers: Option<Vec<Value>> = batch.iter().map(answer).collect();
        let strange = || CallError::Unanswered("an answer is missing".to_owned());
        Ok((held, answers.ok_or_else(strange)?))
    }

    /// Tells the jobs what their writes said: those that wrote nothing at once, the others when the replicas have them.
    async fn answer(&self, batch: Vec<Job>, held: Held<'_>, answers: Vec<Value>) {
        let mut written = Vec::new();
        for (job, value) in batch.into_iter().zip(answers) {
            match Node::refusal_in(value) {
                Ok(value) if has_written(&value) => written.push((job, value)),
                answer => {
                    let lacks = None;
                    let answer = answer.map(|value| Vouched { value, lacks });
                    let _ = job.answer.send(answer);
                }
            }
        }
        if written.is_empty() {
            return;
        }
        let lacks = self.lacks(held).await;
        self.is_short.store(lacks.is_some(), Ordering::Relaxed);
        for (job, value) in written {
            let lacks = lacks.clone();
            let _ = job.answer.send(Ok(Vouched { value, lacks }));
        }
    }

    /// Why the replicas may not have what was written over this connection.
    async fn lacks(&self, mut held: Held<'_>) -> Option<String> {
        let Terms { replicas, within } = self.terms;
        // 0 would be for ever.
        let patience = within.mul_f64(AT_THE_REPLICAS).as_millis().max(1);
        let mut wait = cmd("WAIT");
        wait.arg(replicas).arg(patience.to_string());
        let said = match timeout(within, held.call(&wait)).await {
            Ok(Ok(Value::Int(count))) if count >= i64::from(replicas) => return None,
            Ok(Ok(Value::Int(count))) => format!("{count} have it"),
            Ok(Ok(_)) => "a strange answer".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => self.silence(1).to_string(),
        };
        Some(format!("{replicas} replicas have to have it: {said}"))
    }

    /// No answer in time: nothing more is sent behind what was not answered.
    fn silence(&self, calls: usize) -> CallError {
        self.node.disconnect();
        self.node.fell_silent(calls);
        CallError::Unanswered("no answer in time".to_owned())
    }
}

/// Whether a script says that it wrote.
fn has_written(value: &Value) -> bool {
    let Value::Array(words) = value else {
        return false;
    };
    let word = match words.first() {
        Some(Value::BulkString(word)) => word.as_slice(),
        Some(Value::SimpleString(word)) => word.as_bytes(),
        _ => return false,
    };
    matches!(word, b"acquired" | b"done")
}
