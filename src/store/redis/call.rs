//! One call of a script: what is sent, how often, and what a failure means.

use std::time::Duration;

use redis::{Cmd, Value, cmd, pipe};

use super::keys::owner_text;
use super::lane::Vouched;
use super::node::{CallError, Node};
use super::script::Script;
use super::servers::{Next, Servers, Way};
use super::{NotDone, Redis, StoreError};
use crate::protocol::{Owner, Seen};

/// How often a call is sent at most where no answer came. A connection that idled may have been closed by whatever
/// stands between: the first call on it fails, and the second makes a new one.
const UNANSWERED: usize = 2;

/// How often a call is sent at most: a server that is none any more names another one, which may have changed, too.
const TRIES: usize = 4;

/// The keys and arguments of a script.
#[derive(Clone)]
pub struct Call {
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

/// What one script answered.
pub struct Outcome {
    /// The answer.
    pub value: Value,
    /// Why an earlier copy of the call has none, and may be executed yet.
    pub in_doubt: Option<String>,
    /// Why replicas that were waited for may lack what it wrote.
    pub lacks: Option<String>,
}

/// What a call is for, which says whether replicas are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They are not.
    Plain,
    /// A claim.
    Claim,
    /// An answer.
    Answer,
}

impl Call {
    /// A call without arguments so far.
    pub fn new(keys: Vec<String>) -> Self {
        let args = Vec::with_capacity(10);
        Self { keys, args }
    }

    /// With these bytes.
    pub fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.args.push(bytes);
        self
    }

    /// With this text.
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes().to_vec())
    }

    /// With this number.
    pub fn number(self, number: u64) -> Self {
        self.bytes(number.to_string().into_bytes())
    }

    /// With this span, in milliseconds.
    pub fn span(self, span: Duration) -> Self {
        self.bytes(span.as_millis().to_string().into_bytes())
    }

    /// With this owner.
    pub fn owner(self, owner: Owner) -> Self {
        self.bytes(owner_text(owner).into_bytes())
    }

    /// With what was seen: owner, fence and beat.
    pub fn seen(self, seen: Seen) -> Self {
        self.owner(seen.owner).number(seen.fence).number(seen.beat)
    }

    /// About how many bytes it has.
    pub fn len(&self) -> usize {
        self.args.iter().map(Vec::len).sum()
    }

    /// The command that runs the script by the name that the server may know.
    fn by_name(&self, script: &Script) -> Cmd {
        self.command("EVALSHA", &script.sha)
    }

    /// The command that brings the script's text along.
    fn by_text(&self, script: &Script) -> Cmd {
        self.command("EVAL", script.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys.len());
        command.arg(&self.keys).arg(&self.args);
        command
    }
}

impl Redis {
    /// Runs a script on the server that holds this bucket, without waiting for replicas.
    pub(super) async fn run(
        &self,
        script: &Script,
        bucket: u8,
        call: &Call,
    ) -> Result<Outcome, StoreError> {
        self.servers.run(script, bucket, call, Purpose::Plain).await
    }
}

impl Servers {
    /// Runs a script on the server that holds this bucket.
    pub async fn run(
        &self,
        script: &Script,
        bucket: u8,
        call: &Call,
        purpose: Purpose,
    ) -> Result<Outcome, StoreError> {
        let mut in_doubt: Option<String> = None;
        let mut unanswered = 0;
        let mut last = CallError::NotSent("no server was asked".to_owned());
        let mut via = None;
        for _ in 0..TRIES {
            let way = match via.take() {
                Some(way) => Ok(way),
                None => self.way(bucket).await,
            };
            let way = match way {
                Ok(way) => way,
                Err(error) => {
                    last = error;
                    break;
                }
            };
            let error = match send(&way, script, call, purpose).await {
                Ok(Vouched { value, lacks }) => {
                    return Ok(Outcome {
                        value,
                        in_doubt,
                        lacks,
                    });
                }
                Err(error) => error,
            };
            let next = match &error {
                CallError::Unanswered(why) => {
                    in_doubt = Some(why.clone());
                    unanswered += 1;
                    if unanswered < UNANSWERED {
                        Next::Again
                    } else {
                        Next::Stop
                    }
                }
                error => self.follow(bucket, &way, error).await,
            };
            last = error;
            match next {
                Next::Again => {}
                Next::Via(way) => via = Some(way),
                Next::Stop => break,
            }
        }
        Err(match in_doubt {
            Some(why) => StoreError::InDoubt(why),
            None => failed(last),
        })
    }
}

/// Sends a script to one server: by its name and, where the server does not know that, with its text.
async fn send(
    way: &Way,
    script: &Script,
    call: &Call,
    purpose: Purpose,
) -> Result<Vouched, CallError> {
    match deliver(way, call.by_name(script), purpose).await {
        Err(CallError::Refused { code, .. }) if code == "NOSCRIPT" => {
            deliver(way, call.by_text(script), purpose).await
        }
        answer => answer,
    }
}

async fn deliver(way: &Way, command: Cmd, purpose: Purpose) -> Result<Vouched, CallError> {
    let lane = match purpose {
        Purpose::Plain => None,
        Purpose::Claim => way.node().claims(),
        Purpose::Answer => way.node().answers(),
    };
    if let Some(lane) = lane {
        return lane.call(command, matches!(way, Way::Asking(_))).await;
    }
    let value = match way {
        Way::To(node) => node.call(&command).await,
        Way::Asking(node) => ask(node, &command).await,
    }?;
    let lacks = None;
    Ok(Vouched { value, lacks })
}

/// Sends a command to a server that the key is on its way to: without the word before it, the server would send
/// it back.
async fn ask(node: &Node, command: &Cmd) -> Result<Value, CallError> {
    let mut commands = pipe();
    commands.cmd("ASKING").add_command(command.clone());
    let mut answers = node.call_all(&commands).await?;
    let answer = answers.pop().unwrap_or_default();
    Node::refusal_in(answer)
}

/// What the failure of a call says about the op.
pub fn failed(error: CallError) -> StoreError {
    let (code, said) = match error {
        CallError::NotSent(why) => return NotDone::OutOfOrder(why).into(),
        CallError::Unanswered(why) => return StoreError::InDoubt(why),
        CallError::Refused { code, text } => {
            let said = format!("{code} {text}");
            (code, said)
        }
    };
    match code.as_str() {
        "OOM" => NotDone::Full.into(),
        "WRONGTYPE" => NotDone::Unreadable(said).into(),
        // Refused before anything was executed, or at a script's first write.
        "READONLY" | "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "LOADING"
        | "BUSY" | "MISCONF" | "NOREPLICAS" | "NOAUTH" | "NOSCRIPT" | "CROSSSLOT" => {
            NotDone::OutOfOrder(said).into()
        }
        // A script that failed half-way has written, and so may one whose user may not run all of its commands.
        _ => StoreError::InDoubt(said),
    }
}

/// `why` it was not done, unless an earlier copy of the call may have done it.
pub fn failure(why: NotDone, in_doubt: Option<String>) -> StoreError {
    match in_doubt {
        Some(doubt) => StoreError::InDoubt(doubt),
        None => StoreError::NotDone(why),
    }
}

/// A question without an answer has no effect.
pub fn asked(error: StoreError) -> StoreError {
    match error {
        StoreError::InDoubt(why) => NotDone::OutOfOrder(why).into(),
        error @ StoreError::NotDone(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_never_ran_is_not_done() {
        let fate = |code: &str| {
            failed(CallError::Refused {
                code: code.to_owned(),
                text: "because".to_owned(),
            })
        };
        assert_eq!(fate("OOM"), StoreError::NotDone(NotDone::Full));
        assert!(matches!(
            fate("READONLY"),
            StoreError::NotDone(NotDone::OutOfOrder(_))
        ));
        assert!(matches!(
            fate("WRONGTYPE"),
            StoreError::NotDone(NotDone::Unreadable(_))
        ));
        for code in ["ERR", "NOPERM", "SOMETHING"] {
            assert!(matches!(fate(code), StoreError::InDoubt(_)), "{code}");
        }
        let broken = CallError::Unanswered("the connection broke".to_owned());
        assert!(matches!(failed(broken), StoreError::InDoubt(_)));
    }
}
