//! What a history says of each attempt and each operation, for the checker to judge by.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::{Entry, Event, Heard, Stood};
use super::plan::{OnUnknown, Operation, Plan, Wanted};

/// Within how long every gateway heeds an operator's word.
pub const HEEDED_WITHIN: Duration = Duration::from_millis(2_500);

/// What is known of one attempt.
#[derive(Default)]
pub struct Story {
    pub wants: Option<Wanted>,
    pub host: String,
    pub sent: Duration,
    pub heard: Option<(Duration, Heard)>,
    /// When its request was given to a socket, each time.
    pub dispatched: Vec<Duration>,
    pub executed: Vec<Duration>,
    /// What the upstream wrote, and whether that was whole.
    pub answered: Option<(Duration, u16, bool)>,
    /// When the store said that it has the claim.
    pub acquired: Option<Duration>,
    /// When the store had its answer.
    pub completed: Option<Duration>,
    pub recorded_last: Option<Duration>,
    /// When its gateway last heard of the store that what became of its claim is on record.
    pub settled: Option<Duration>,
}

impl Story {
    /// Whether the upstream has said, in full, that it did nothing.
    pub fn is_released(&self) -> bool {
        matches!(self.answered, Some((_, 401 | 425 | 429, true)))
    }

    pub fn began(&self) -> Option<Duration> {
        self.dispatched.first().copied()
    }
}

pub struct Facts<'a> {
    pub plan: &'a Plan,
    pub history: &'a [Entry],
    pub stories: BTreeMap<u64, Story>,
    /// By operation, when an operator's word freed its key, or the store lost its record.
    pub freed: BTreeMap<Operation, Vec<Duration>>,
    /// By operation, when an operator deleted its record, and what it was.
    pub deleted: BTreeMap<Operation, Vec<(Duration, &'a Stood)>>,
    /// Those who crashed, and when.
    pub crashed: BTreeMap<&'a str, Duration>,
}

impl<'a> Facts<'a> {
    pub fn of(plan: &'a Plan, history: &'a [Entry]) -> Self {
        let mut facts = Self {
            plan,
            history,
            stories: BTreeMap::new(),
            freed: BTreeMap::new(),
            deleted: BTreeMap::new(),
            crashed: BTreeMap::new(),
        };
        for entry in history {
            facts.learn(entry);
        }
        facts
    }

    fn learn(&mut self, Entry { at, event }: &'a Entry) {
        let at = *at;
        match event {
            Event::Sent {
                attempt,
                wants,
                host,
            } => {
                let story = self.story(*attempt);
                story.wants = Some(*wants);
                story.host.clone_from(host);
                story.sent = at;
            }
            Event::Heard { attempt, answer } => {
                self.story(*attempt).heard = Some((at, answer.clone()));
            }
            Event::Dispatched { attempt } => self.story(*attempt).dispatched.push(at),
            Event::Executed { attempt } => self.story(*attempt).executed.push(at),
            Event::Answered {
                attempt,
                status,
                is_whole,
            } => self.story(*attempt).answered = Some((at, *status, *is_whole)),
            Event::Applied {
                attempt,
                op,
                verdict,
                after,
                operation,
                ..
            } => {
                // What a probe says; an operator's word has an event of its own.
                if *op == "resolve" && *attempt > 0 && *after == Stood::Absent {
                    self.freed.entry(*operation).or_default().push(at);
                }
                let story = self.story(*attempt);
                if *verdict == "acquired" {
                    story.acquired.get_or_insert(at);
                }
                if *op == "complete"
                    && matches!(after, Stood::Completed(Some(by), _) if by == attempt)
                {
                    story.completed.get_or_insert(at);
                    story.recorded_last = Some(at);
                }
            }
            Event::Acknowledged { attempt } => self.story(*attempt).settled = Some(at),
            Event::Deleted { operation, was } => {
                self.freed.entry(*operation).or_default().push(at);
                self.deleted.entry(*operation).or_default().push((at, was));
            }
            Event::Released(operation) | Event::Lost { operation, .. } => {
                self.freed.entry(*operation).or_default().push(at);
            }
            Event::Crashed { host } => {
                self.crashed.entry(host).or_insert(at);
            }
            _ => {}
        }
    }

    fn story(&mut self, attempt: u64) -> &mut Story {
        self.stories.entry(attempt).or_default()
    }

    /// The attempts at each operation.
    pub fn operations(&self) -> BTreeMap<Operation, Vec<(u64, &Story)>> {
        let mut operations = BTreeMap::<_, Vec<_>>::new();
        for (attempt, story) in &self.stories {
            if let Some(wants) = story.wants {
                let attempts = operations.entry(wants.operation).or_default();
                attempts.push((*attempt, story));
            }
        }
        operations
    }

    pub fn freed(&self, operation: &Operation) -> usize {
        self.freed.get(operation).map_or(0, Vec::len)
    }

    /// The times between which an operation has one record: what is asked while a deletion gets around may hear either.
    pub fn lives(&self, operation: Operation) -> Vec<(Duration, Duration)> {
        let mut lives = Vec::new();
        let mut from = Duration::ZERO;
        for (deleted, _) in self.deleted.get(&operation).into_iter().flatten() {
            lives.push((from, *deleted));
            from = *deleted + HEEDED_WITHIN;
        }
        lives.push((from, Duration::MAX));
        lives
    }

    pub fn is_lost(&self, operation: Operation) -> bool {
        let is_loss = |entry: &Entry| matches!(&entry.event, Event::Lost { operation: lost, .. } if *lost == operation);
        self.history.iter().any(is_loss)
    }

    /// Whether an attempt's gateway may not have heard yet that another attempt of its own at this operation is over. It
    /// then answers for that one.
    pub fn is_behind(&self, operation: Operation, story: &Story) -> bool {
        self.stories.values().any(|other| {
            other.host == story.host
                && other
                    .wants
                    .is_some_and(|wants| wants.operation == operation)
                && other.acquired.is_some_and(|then| then <= story.sent)
                && other.settled.is_none_or(|then| then >= story.sent)
        })
    }

    /// Whether what nobody knows the outcome of is sent again.
    pub fn resends(&self) -> bool {
        self.plan.on_unknown == OnUnknown::Resend
    }

    /// Whether the attempt's gateway has crashed at some time.
    pub fn is_crashed(&self, story: &Story) -> bool {
        self.crashed.contains_key(story.host.as_str())
    }
}
