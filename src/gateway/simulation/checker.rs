//! What a history must be like: the promises of the gateway, by name. It knows nothing of how they are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::history::{Entry, Event, Heard, Stood};
use super::plan::{Operation, Plan, Wanted};
use super::world::{LAST_CALLER, Run};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// P1: at most one dispatch.
    OneDispatch,
    /// P2: one answer.
    OneAnswer,
    /// P3: nobody else's answer.
    NobodyElses,
    /// P4: unknown is said, not guessed.
    UnknownIsSaid,
    /// P5: closed by default.
    ClosedByDefault,
    /// No key is held for nothing.
    NothingHeld,
    /// What a client is told is true.
    Truth,
    /// Whatever was taken is given back.
    NothingLeft,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// How.
    pub how: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.how)
    }
}

/// Everything that is wrong with a run.
pub fn check(plan: &Plan, run: &Run) -> Vec<Violation> {
    let facts = Facts::of(plan, &run.history);
    let mut judge = Judge {
        facts: &facts,
        found: Vec::new(),
    };
    judge.one_dispatch();
    judge.taken_over_before_the_first_byte();
    judge.one_answer();
    judge.nobody_elses();
    judge.unknown_is_said(&run.records);
    judge.closed_by_default();
    judge.nothing_held(&run.records);
    judge.truth();
    judge.nothing_left();
    judge.found.sort();
    judge.found
}

/// Within how long every gateway heeds an operator's word.
const HEEDED_WITHIN: Duration = Duration::from_millis(2_500);

/// An answer with its moment, its attempt and what is known of that.
type Answer<'a> = (Duration, u64, &'a Story, &'a Heard);

/// The attempt that an answer was made for; none where it was made by hand.
fn source(answer: &Heard) -> u64 {
    let source = answer.content.split_once(": ");
    source
        .and_then(|(source, _)| source.parse().ok())
        .unwrap_or_default()
}

/// What is known of one attempt.
#[derive(Default)]
struct Story {
    wants: Option<Wanted>,
    host: String,
    sent: Duration,
    heard: Option<(Duration, Heard)>,
    /// When its request was given to a socket, each time.
    dispatched: Vec<Duration>,
    executed: Vec<Duration>,
    /// What the upstream wrote, and whether that was whole.
    answered: Option<(Duration, u16, bool)>,
    /// When the store said that it has the claim.
    acquired: Option<Duration>,
    /// When the store had its answer.
    completed: Option<Duration>,
    recorded_last: Option<Duration>,
    /// When its gateway last heard of the store that what became of its claim is on record.
    settled: Option<Duration>,
}

impl Story {
    /// Whether the upstream has said, in full, that it did nothing.
    fn is_released(&self) -> bool {
        matches!(self.answered, Some((_, 401 | 425 | 429, true)))
    }

    fn began(&self) -> Option<Duration> {
        self.dispatched.first().copied()
    }
}

struct Facts<'a> {
    plan: &'a Plan,
    history: &'a [Entry],
    stories: BTreeMap<u64, Story>,
    /// By operation, when an operator's word freed its key, or the store lost its record.
    freed: BTreeMap<Operation, Vec<Duration>>,
    /// By operation, when an operator deleted its record, and what it was.
    deleted: BTreeMap<Operation, Vec<(Duration, &'a Stood)>>,
    /// Those who crashed, and when.
    crashed: BTreeMap<&'a str, Duration>,
}

impl<'a> Facts<'a> {
    fn of(plan: &'a Plan, history: &'a [Entry]) -> Self {
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
                ..
            } => {
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
                self.freed.entry(*operation).or_default().push(at)
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
    fn operations(&self) -> BTreeMap<Operation, Vec<(u64, &Story)>> {
        let mut operations = BTreeMap::<_, Vec<_>>::new();
        for (attempt, story) in &self.stories {
            if let Some(wants) = story.wants {
                let attempts = operations.entry(wants.operation).or_default();
                attempts.push((*attempt, story));
            }
        }
        operations
    }

    fn freed(&self, operation: &Operation) -> usize {
        self.freed.get(operation).map_or(0, Vec::len)
    }

    /// The times between which an operation has one record: what is asked while a deletion gets around may hear either.
    fn lives(&self, operation: Operation) -> Vec<(Duration, Duration)> {
        let mut lives = Vec::new();
        let mut from = Duration::ZERO;
        for (deleted, _) in self.deleted.get(&operation).into_iter().flatten() {
            lives.push((from, *deleted));
            from = *deleted + HEEDED_WITHIN;
        }
        lives.push((from, Duration::MAX));
        lives
    }

    fn is_lost(&self, operation: Operation) -> bool {
        let is_loss = |entry: &Entry| matches!(&entry.event, Event::Lost { operation: lost, .. } if *lost == operation);
        self.history.iter().any(is_loss)
    }

    /// Whether an attempt's gateway may not have heard yet that another attempt of its own at this operation is over. It
    /// then answers for that one.
    fn is_behind(&self, operation: Operation, story: &Story) -> bool {
        self.stories.values().any(|other| {
            other.host == story.host
                && other
                    .wants
                    .is_some_and(|wants| wants.operation == operation)
                && other.acquired.is_some_and(|then| then <= story.sent)
                && other.settled.is_none_or(|then| then >= story.sent)
        })
    }

    /// Whether the attempt's gateway has crashed at some time.
    fn is_crashed(&self, story: &Story) -> bool {
        self.crashed.contains_key(story.host.as_str())
    }
}

struct Judge<'a> {
    facts: &'a Facts<'a>,
    found: Vec<Violation>,
}

impl Judge<'_> {
    fn broken(&mut self, promise: Promise, how: String) {
        self.found.push(Violation { promise, how });
    }

    /// P1. What the upstream has said to have done nothing about does not count, and each word of an operator's that
    /// frees a key allows for one more.
    fn one_dispatch(&mut self) {
        for (operation, attempts) in self.facts.operations() {
            let dispatches: Vec<u64> = attempts
                .iter()
                .filter(|(_, story)| !story.is_released())
                .flat_map(|(attempt, story)| story.dispatched.iter().map(|_| *attempt))
                .collect();
            let may_be = 1 + self.facts.freed(&operation);
            if dispatches.len() > may_be && !self.facts.plan.resends {
                let how = format!("{operation:?} was sent by attempts {dispatches:?}");
                self.broken(Promise::OneDispatch, how);
            }
            for (attempt, story) in attempts {
                if story.dispatched.len() > 1 {
                    let how = format!("attempt {attempt} was sent {}x", story.dispatched.len());
                    self.broken(Promise::OneDispatch, how);
                }
            }
        }
    }

    /// Who has lost its claim to another one, before its first byte, sends nothing any more.
    fn taken_over_before_the_first_byte(&mut self) {
        for Entry { at, event } in self.facts.history {
            if let Event::Applied {
                op: "take_over",
                before: Stood::Claimed(before) | Stood::Unknown(before),
                after: Stood::Claimed(after),
                ..
            } = event
                && before != after
                && let Some(story) = self.facts.stories.get(before)
                && story.began().is_some_and(|began| began > *at)
            {
                let how = format!("attempt {before} was sent after {after} had taken over");
                self.broken(Promise::OneDispatch, how);
            }
        }
    }

    /// P2. From the first one that hears an answer on, whoever asks hears the same, or nothing that contradicts it.
    fn one_answer(&mut self) {
        for (operation, attempts) in self.facts.operations() {
            if self.facts.is_lost(operation) {
                continue;
            }
            for (from, to) in self.facts.lives(operation) {
                let mut heard: Vec<Answer> = attempts
                    .iter()
                    .filter_map(|(attempt, story)| {
                        let (at, heard) = story.heard.as_ref()?;
                        Some((*at, *attempt, *story, heard))
                    })
                    .filter(|(at, _, story, _)| from <= story.sent && *at < to)
                    .collect();
                heard.sort_by_key(|(at, attempt, ..)| (*at, *attempt));
                self.one_answer_in_a_life(operation, heard);
            }
            self.deleted_answers(operation, &attempts);
        }
        self.completed_is_final();
    }

    fn one_answer_in_a_life(&mut self, operation: Operation, heard: Vec<Answer>) {
        let mut firm: Option<(Duration, u64, Wanted, &Heard)> = None;
        for (at, attempt, story, answer) in heard {
            let wants = story.wants.expect("it was sent");
            let is_firm = matches!(answer.idempotency.as_str(), "executed" | "replayed");
            if let Some((since, first, what, content)) = firm {
                let is_other = wants.payload != what.payload;
                let differs = is_firm && answer.is_whole && answer.content != content.content;
                let contradicts = since < story.sent
                    && !is_firm
                    && !matches!(answer.problem.as_str(), "store-unavailable" | "overloaded")
                    && !(is_other && answer.problem == "key-reused")
                    && !(answer.problem == "request-in-progress"
                        && self.facts.is_behind(operation, story));
                let freed = self.facts.freed(&operation) > 0;
                if (differs && !freed) || (differs && since < story.sent) || contradicts {
                    let how = format!(
                        "attempt {first} heard {} {:?}, and attempt {attempt} {} {} {} {:?}",
                        content.status,
                        content.content,
                        answer.status,
                        answer.idempotency,
                        answer.problem,
                        answer.content,
                    );
                    self.broken(Promise::OneAnswer, how);
                }
            } else if is_firm && answer.is_whole {
                firm = Some((at, attempt, wants, answer));
            }
        }
    }

    /// What an operator has deleted is soon heard nowhere any more, unless its own attempt records it again.
    fn deleted_answers(&mut self, operation: Operation, attempts: &[(u64, &Story)]) {
        for (deleted, was) in self.facts.deleted.get(&operation).into_iter().flatten() {
            let Stood::Completed(Some(by), _) = was else {
                continue;
            };
            let recorded = self
                .facts
                .stories
                .get(by)
                .and_then(|story| story.recorded_last);
            if recorded.is_some_and(|then| then >= *deleted) {
                continue;
            }
            for (attempt, story) in attempts {
                if let Some((_, answer)) = &story.heard
                    && story.sent > *deleted + HEEDED_WITHIN
                    && source(answer) == *by
                {
                    let how = format!(
                        "attempt {attempt} heard what was deleted: {}",
                        answer.content
                    );
                    self.broken(Promise::OneAnswer, how);
                }
            }
        }
    }

    fn completed_is_final(&mut self) {
        for entry in self.facts.history {
            if let Event::Applied {
                attempt,
                before,
                after,
                op,
                is_same_payload,
                ..
            } = &entry.event
            {
                let was_completed = matches!(before, Stood::Completed(..));
                let completes = matches!(after, Stood::Completed(..)) && *op == "complete";
                if was_completed && before != after {
                    let how = format!("{op} of attempt {attempt} changed {before:?} to {after:?}");
                    self.broken(Promise::OneAnswer, how);
                } else if completes && !was_completed && !is_same_payload {
                    let how = format!("attempt {attempt} completed another request's record");
                    self.broken(Promise::OneAnswer, how);
                }
            }
        }
    }

    /// P3. An answer was made for the same scope, key and payload.
    fn nobody_elses(&mut self) {
        for (attempt, story) in &self.facts.stories {
            let (Some((_, answer)), Some(wants)) = (&story.heard, story.wants) else {
                continue;
            };
            let from = source(answer);
            let made_for = self.facts.stories.get(&from).and_then(|story| story.wants);
            if from > 0 && made_for != Some(wants) {
                let how = format!("attempt {attempt} at {wants:?} heard {:?}", answer.content);
                self.broken(Promise::NobodyElses, how);
            }
        }
    }

    /// P4. What was sent, and not said to have done nothing, is on record in the end; no word of a gateway's takes an
    /// unknown outcome away.
    fn unknown_is_said(&mut self, records: &[(Operation, Stood)]) {
        for (operation, attempts) in self.facts.operations() {
            let last_freed = self.facts.freed.get(&operation);
            let last_freed = last_freed.and_then(|times| times.last());
            let unsettled = attempts.iter().find(|(_, story)| {
                let began = story.began();
                !story.is_released() && began.is_some() && began.as_ref() > last_freed
            });
            let Some((attempt, _)) = unsettled.filter(|(attempt, _)| *attempt < LAST_CALLER * 100)
            else {
                continue;
            };
            let stood = records.iter().find(|(of, _)| *of == operation);
            if stood.is_none_or(|(_, stood)| *stood == Stood::Absent) {
                let how = format!("attempt {attempt} was sent, and nothing is on record");
                self.broken(Promise::UnknownIsSaid, how);
            }
        }
        for entry in self.facts.history {
            if let Event::Applied {
                attempt,
                op,
                before: before @ Stood::Unknown(_),
                after: after @ (Stood::Absent | Stood::Claimed(_)),
                ..
            } = &entry.event
                && *op != "resolve"
                && !(*op == "take_over" && self.facts.plan.resends)
            {
                let how = format!("{op} of attempt {attempt} made {after:?} of {before:?}");
                self.broken(Promise::UnknownIsSaid, how);
            }
        }
    }

    /// P5. Nothing is sent without a claim that the store has granted.
    fn closed_by_default(&mut self) {
        for (attempt, story) in &self.facts.stories {
            if let Some(began) = story.began()
                && story.acquired.is_none_or(|acquired| acquired > began)
            {
                let how = format!("attempt {attempt} was sent without a claim");
                self.broken(Promise::ClosedByDefault, how);
            }
        }
    }

    /// In the end a key is held only where something may have been sent, or where a gateway crashed with the claim.
    fn nothing_held(&mut self, records: &[(Operation, Stood)]) {
        for (operation, stood) in records {
            let (Stood::Claimed(owner) | Stood::Unknown(owner)) = stood else {
                continue;
            };
            let Some(story) = self.facts.stories.get(owner) else {
                continue;
            };
            // That it did nothing may have been heard too late.
            let is_sent = story.began().is_some();
            // Who sends again is not held up by it.
            if !is_sent && !self.facts.is_crashed(story) && !self.facts.plan.resends {
                let how = format!("{operation:?} is {stood:?} for nothing");
                self.broken(Promise::NothingHeld, how);
            }
        }
        let resends = self.facts.plan.resends;
        let mut last = BTreeMap::new();
        for (attempt, story) in self.facts.stories.range(LAST_CALLER * 100..) {
            last.insert(story.wants, (attempt, story));
        }
        for (attempt, story) in last.into_values() {
            let answer = story.heard.as_ref().map(|(_, answer)| answer);
            let is_settled = answer.is_some_and(|answer| {
                answer.is_whole
                    && match answer.problem.as_str() {
                        "" => answer.idempotency != "unknown",
                        "key-reused" | "response-not-stored" => true,
                        "outcome-unknown" => !resends,
                        _ => false,
                    }
            });
            if !is_settled {
                let how = format!("when all is well attempt {attempt} hears {answer:?}");
                self.broken(Promise::NothingHeld, how);
            }
        }
    }

    fn truth(&mut self) {
        for (attempt, story) in &self.facts.stories {
            if let Some((at, answer)) = &story.heard
                && let Some(lie) = self.lie(*attempt, story, *at, answer)
            {
                let how = format!(
                    "attempt {attempt} heard {} {} {} ({}): {lie}",
                    answer.status, answer.idempotency, answer.problem, answer.state
                );
                self.broken(Promise::Truth, how);
            }
        }
    }

    /// What is not true of an answer.
    fn lie(
        &self,
        attempt: u64,
        story: &Story,
        at: Duration,
        answer: &Heard,
    ) -> Option<&'static str> {
        let operation = story.wants.expect("it was sent").operation;
        let is_sent = story.began().is_some_and(|began| began <= at);
        let is_ever_sent = story.began().is_some();
        let is_claimed_by_others = || {
            let mut stories = self.facts.stories.iter();
            stories.any(|(other, story)| {
                let is_same = story
                    .wants
                    .is_some_and(|wants| wants.operation == operation);
                *other != attempt && is_same && story.acquired.is_some_and(|then| then <= at)
            })
        };
        let is_under_way = || {
            let mut stories = self.facts.stories.iter();
            stories.any(|(_, other)| {
                let is_same = other
                    .wants
                    .is_some_and(|wants| wants.operation == operation);
                let began_before = other.began().is_some_and(|began| began < story.sent);
                is_same && began_before && !other.is_released()
            })
        };
        if answer.state == "none" && is_ever_sent {
            return Some("it was sent");
        }
        if answer.state == "none" && is_under_way() && self.facts.freed(&operation) == 0 {
            return Some("another attempt was sent before");
        }
        if answer.problem == "upstream-unreachable"
            && answer.state == "none"
            && story.settled.is_none_or(|then| then > at)
        {
            return Some("the claim may not have been given back");
        }
        if answer.safe_new_key && is_ever_sent {
            return Some("a new key would be a second execution");
        }
        match answer.idempotency.as_str() {
            "executed" if !is_sent => Some("it was not sent"),
            "executed" if story.completed.is_none_or(|then| then > at) => {
                Some("it was not recorded")
            }
            "executed" | "released" | "unrecorded" if story.answered.is_none() => {
                Some("the upstream has answered nothing")
            }
            "released" if !story.is_released() => Some("the upstream has not said so"),
            "unrecorded" if !is_sent => Some("it was not sent"),
            "refused" if is_sent => Some("it was sent"),
            "unknown" if !is_sent && !is_claimed_by_others() => Some("nothing was sent"),
            "" => Some("it says nothing of what became of it"),
            _ if answer.problem == "response-not-stored" && !is_claimed_by_others() => {
                Some("nothing was completed")
            }
            _ => None,
        }
    }

    fn nothing_left(&mut self) {
        let mut left = BTreeSet::new();
        for entry in self.facts.history {
            if let Event::Left { host, what } = &entry.event {
                left.insert(format!("{host}: {what}"));
            }
        }
        for how in left {
            self.broken(Promise::NothingLeft, how);
        }
    }
}
