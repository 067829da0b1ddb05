//! Judges a history by the promises, one operation after the other, and tells the shortest story of a broken one.
//!
//! It knows nothing of the gateway but what it promises. Where a fault excuses what was heard, the excuse is written out
//! here; whatever is not excused is a violation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Write};
use std::ops::RangeInclusive;

use serde_json::Value;

use crate::history::{Event, Heard, On, What, is_resent};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    AtMostOneDispatch,
    OneAnswer,
    NobodyElsesAnswer,
    UnknownIsSaid,
    ClosedByDefault,
    NothingHeld,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtMostOneDispatch => "P1, at most one dispatch",
            Self::OneAnswer => "P2, one answer",
            Self::NobodyElsesAnswer => "P3, nobody else's answer",
            Self::UnknownIsSaid => "P4, unknown is said, not guessed",
            Self::ClosedByDefault => "P5, closed by default",
            Self::NothingHeld => "no key is held for nothing",
        })
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub promise: Promise,
    pub operation: String,
    pub why: String,
    /// When it was broken.
    pub at: u64,
}

/// What the store of a run is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// It may lose an answer, never a claim, with a server that acknowledged it.
    pub loses_answers: bool,
}

/// Statuses that release, as `outcomes.release` has them by default.
const RELEASED: [u16; 3] = [401, 425, 429];

/// What the upstream does that leaves an outcome known.
const GOOD_MANNERS: [&str; 4] = ["Answers", "Slow", "Declines", "Busy"];

const SECOND: u64 = 1_000_000;

/// An answer that was recorded is on a replica after so long, where nothing is wrong; and a server that was promoted
/// over while it was frozen knows of that so long after it thawed.
const REPLICATED: u64 = 2 * SECOND;
const DEMOTED: u64 = 5 * SECOND;

/// How long after a request, at most, it is on the wire, and how long after that its answer is, where the upstream gives
/// one soon.
const SENT: u64 = 2 * SECOND;
const ANSWERED: u64 = 2 * SECOND;

/// What a gateway needs, at most, to record what became of a claim, unless the store has a fault meanwhile: then so long
/// from the fault's end.
const SETTLED: u64 = 3 * SECOND / 2;

/// After a fault of the store a gateway may not have heard yet, for so long, that what it recorded is recorded: it asks
/// again after a pause of a second at most, and waits for two.
const CONFIRMED: u64 = 3 * SECOND;

/// A fault, from its beginning to its end.
#[derive(Clone, Debug)]
struct Fault {
    number: u64,
    on: On,
    span: RangeInclusive<u64>,
}

impl Fault {
    fn overlaps(&self, span: &RangeInclusive<u64>) -> bool {
        self.span.start() <= span.end() && span.start() <= self.span.end()
    }

    fn is_of_store(&self) -> bool {
        matches!(self.on, On::StoreLink | On::StoreServer | On::StoreAway)
    }
}

/// Every promise that a history breaks, in the order of their numbers.
pub fn check(events: &[Event], terms: Terms) -> Vec<Violation> {
    let faults = faults(events);
    let audited = events.iter().find(|event| event.what == What::Audit);
    let audited = audited.map(|event| event.at);
    let mut by_operation: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| !event.operation.is_empty()) {
        by_operation
            .entry(&event.operation)
            .or_default()
            .push(event);
    }
    let mut violations = Vec::new();
    for (operation, events) in by_operation {
        let mut story = Story::of(operation, events, &faults, &mut violations);
        if is_resent(operation) {
            story.one_dispatch_a_fence();
        } else {
            story.at_most_one_dispatch();
        }
        story.one_answer(terms);
        story.recorded_for_good(terms);
        story.unknown_is_said();
        story.closed_by_default();
        if let Some(audited) = audited {
            story.nothing_held(audited);
        }
    }
    violations.sort_by_key(|violation| violation.promise);
    violations
}

fn faults(events: &[Event]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for event in events {
        match &event.what {
            What::Begins { fault, on, .. } => faults.push(Fault {
                number: *fault,
                on: *on,
                span: event.at..=u64::MAX,
            }),
            What::Ends { fault } => {
                let begun = faults.iter_mut().rfind(|begun| begun.number == *fault);
                let begun = begun.expect("what ends has begun");
                begun.span = *begun.span.start()..=event.at;
            }
            _ => {}
        }
    }
    faults
}

/// A request and what became of it.
struct Request<'a> {
    sent: u64,
    gateway: usize,
    payload: &'a str,
    /// When, and what.
    heard: Option<(u64, &'a Heard)>,
}

/// All that is known of one operation.
struct Story<'a> {
    operation: &'a str,
    events: Vec<&'a Event>,
    requests: Vec<Request<'a>>,
    faults: &'a [Fault],
    violations: &'a mut Vec<Violation>,
}

impl<'a> Story<'a> {
    fn of(
        operation: &'a str,
        events: Vec<&'a Event>,
        faults: &'a [Fault],
        violations: &'a mut Vec<Violation>,
    ) -> Self {
        let mut requests: Vec<Request<'_>> = Vec::new();
        let mut places = HashMap::new();
        for event in &events {
            match &event.what {
                What::Sends {
                    request,
                    gateway,
                    payload,
                    ..
                } => {
                    places.insert(*request, requests.len());
                    requests.push(Request {
                        sent: event.at,
                        gateway: *gateway,
                        payload,
                        heard: None,
                    });
                }
                What::Hears { request, heard } => {
                    requests[places[request]].heard = Some((event.at, heard));
                }
                _ => {}
            }
        }
        Self {
            operation,
            events,
            requests,
            faults,
            violations,
        }
    }

    fn breaks(&mut self, promise: Promise, at: u64, why: String) {
        self.violations.push(Violation {
            promise,
            operation: self.operation.to_owned(),
            why,
            at,
        });
    }

    /// P1, on the wire and at the upstream; and P4 where somebody had been told that nobody knows.
    fn at_most_one_dispatch(&mut self) {
        let (mut left, mut received, mut released, mut freed) = (0, 0, 0, 0);
        let (mut first, mut doubted, mut broken) = (None, None, Vec::new());
        for event in &self.events {
            match &event.what {
                What::Returns { status, .. } if RELEASED.contains(status) => released += 1,
                What::Hears { heard, .. } if heard.said == "unknown" && first.is_some() => {
                    doubted = doubted.or(Some(event.at));
                }
                What::Leaves { .. } => {
                    first = first.or(Some(event.at));
                    left += 1;
                }
                What::Received { .. } => received += 1,
                // An operator who says so of what never arrived lets it leave again, and arrive once.
                What::Says { status: 0, .. } => freed += 1,
                _ => continue,
            }
            if left > 1 + released + freed || received > 1 + released {
                let count = left.max(received);
                let why = format!("it was dispatched {count} times, and released {released} times");
                broken.push((Promise::AtMostOneDispatch, event.at, why));
                if doubted.is_some() && matches!(event.what, What::Leaves { .. }) {
                    let why = "it was dispatched again after a client was told that nobody knows what became of it";
                    broken.push((Promise::UnknownIsSaid, event.at, why.to_owned()));
                }
                break;
            }
        }
        for (promise, at, why) in broken {
            self.breaks(promise, at, why);
        }
    }

    /// P1 where things may be sent again: each claim at most once, which the fence tells.
    fn one_dispatch_a_fence(&mut self) {
        let mut fences = BTreeSet::new();
        let again = self.events.iter().find_map(|event| match &event.what {
            What::Leaves { fence, .. } if !fences.insert(*fence) => Some((event.at, *fence)),
            _ => None,
        });
        if let Some((at, fence)) = again {
            let fence = fence.map_or("no fence".to_owned(), |fence| format!("fence {fence}"));
            let why = format!("it was dispatched twice with {fence}");
            self.breaks(Promise::AtMostOneDispatch, at, why);
        }
    }

    /// P2 and P3: whoever gets an answer of the upstream gets the one to this operation.
    fn one_answer(&mut self, terms: Terms) {
        let charges: BTreeSet<(u64, u16)> = self
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Received { number, status, .. } => Some((*number, *status)),
                What::Says { status, body } => {
                    let body: Value = serde_json::from_str(body).ok()?;
                    Some((body["charge"].as_u64()?, *status))
                }
                _ => None,
            })
            .collect();
        // An operator, or a probe, may settle what its owner has an answer to, and cannot record; or whose recorded answer a server of
        // the store has lost.
        let says = |event: &&&Event| matches!(event.what, What::Says { .. });
        let by_hand = self.events.iter().rfind(says);
        let may_differ = by_hand.is_some_and(|says| {
            let begun = self.events[0].at.saturating_sub(DEMOTED);
            let span = begun..=says.at.saturating_add(REPLICATED);
            let lost = |fault: &Fault| fault.on == On::StoreServer && fault.overlaps(&span);
            terms.loses_answers && self.faults.iter().any(lost)
        });
        // What an operator was told is recorded is the answer, though nobody has heard it yet.
        let mut first = self.events.iter().find_map(|event| match &event.what {
            What::Settled { status, body } => Some((*status, body)),
            _ => None,
        });
        let mut broken = Vec::new();
        for request in &self.requests {
            let Some((at, heard)) = request.heard else {
                continue;
            };
            if heard.body.is_empty() {
                continue;
            }
            if let Some((promise, why)) = self.not_its_own(request, heard, &charges) {
                broken.push((promise, at, why));
                continue;
            }
            let is_the_answer = match &*heard.said {
                "executed" | "replayed" => !may_differ,
                // What releases is no answer that anybody else hears, whether or not the store took it in time.
                "unrecorded" => by_hand.is_none() && !RELEASED.contains(&heard.status),
                _ => false,
            };
            if !is_the_answer {
                continue;
            }
            match first {
                Some((status, body)) if (status, body) != (heard.status, &heard.body) => {
                    let why = format!("its answer is {status} {body}, and a client heard {heard}");
                    broken.push((Promise::OneAnswer, at, why));
                }
                Some(_) => {}
                None => first = Some((heard.status, &heard.body)),
            }
        }
        for (promise, at, why) in broken {
            self.breaks(promise, at, why);
        }
    }

    /// What is wrong with an answer as an answer to this request.
    fn not_its_own(
        &self,
        request: &Request<'_>,
        heard: &Heard,
        charges: &BTreeSet<(u64, u16)>,
    ) -> Option<(Promise, String)> {
        let Ok(body) = serde_json::from_str::<Value>(&heard.body) else {
            let why = format!("an answer that the upstream never gave: {heard}");
            return Some((Promise::OneAnswer, why));
        };
        let of = body["operation"].as_str().unwrap_or_default();
        if of != self.operation {
            let scope = |name: &str| name.split('/').next().map(str::to_owned);
            let promise = if scope(of) == scope(self.operation) {
                Promise::OneAnswer
            } else {
                Promise::NobodyElsesAnswer
            };
            return Some((promise, format!("a client heard the answer to {of}")));
        }
        if body["payload"] != request.payload {
            let why = format!(
                "a client that sent {:?} heard the answer to {}",
                request.payload, body["payload"]
            );
            return Some((Promise::OneAnswer, why));
        }
        let charge = body["charge"].as_u64().unwrap_or(0);
        if !charges.contains(&(charge, heard.status)) {
            let why = format!("an answer that the upstream never gave: {heard}");
            return Some((Promise::OneAnswer, why));
        }
        None
    }

    /// P2: what is said to be recorded is replayed from then on, or nothing is said.
    fn recorded_for_good(&mut self, terms: Terms) {
        let recorded = self.requests.iter().filter_map(|request| {
            let (at, heard) = request.heard?;
            let is_recorded = ["executed", "replayed"].contains(&&*heard.said);
            is_recorded.then_some((at, request.payload))
        });
        let Some((since, payload)) = recorded.min() else {
            return;
        };
        let may_be_lost = |fault: &&Fault| {
            fault.on == On::StoreServer
                && fault.span.start().saturating_sub(REPLICATED) <= since
                && since <= fault.span.end().saturating_add(DEMOTED)
        };
        if terms.loses_answers && self.faults.iter().any(|fault| may_be_lost(&fault)) {
            return;
        }
        let other = self.requests.iter().find_map(|request| {
            let (at, heard) = request.heard?;
            let is_later = request.sent > since && request.payload == payload;
            let is_replayed = heard.said == "replayed"
                || ["store-unavailable", "overloaded"].contains(&&*heard.slug);
            let is_excused = is_replayed || self.may_not_know_yet(request, at, heard);
            (is_later && !is_excused).then_some((at, heard))
        });
        if let Some((at, heard)) = other {
            let why = format!("its answer had been recorded, and a later client heard {heard}");
            self.breaks(Promise::OneAnswer, at, why);
        }
    }

    /// Whether the gateway that was asked made the dispatch, and was cut off from the store when it recorded the answer:
    /// others may replay what it does not know to be recorded yet, and it calls it in progress.
    fn may_not_know_yet(&self, request: &Request<'_>, at: u64, heard: &Heard) -> bool {
        let made_it = |event: &&Event| matches!(event.what, What::Leaves { gateway, .. } if gateway == request.gateway);
        let knows = |other: &Request<'_>| {
            let heard = other.heard.filter(|(at, _)| *at < request.sent);
            let recorded =
                heard.is_some_and(|(_, heard)| ["executed", "replayed"].contains(&&*heard.said));
            recorded && other.gateway == request.gateway
        };
        let lately = at.saturating_sub(CONFIRMED)..=at;
        let is_cut_off = |fault: &Fault| fault.is_of_store() && fault.overlaps(&lately);
        heard.slug == "request-in-progress"
            && self.events.iter().any(made_it)
            && !self.requests.iter().any(knows)
            && self.faults.iter().any(is_cut_off)
    }

    /// P4: nobody is told that nothing happened once something may have.
    fn unknown_is_said(&mut self) {
        let mut broken = Vec::new();
        for request in &self.requests {
            let Some((at, heard)) = request.heard else {
                continue;
            };
            if heard.state == "none" && self.is_out(request.sent..=at) {
                let why = format!("it had been dispatched, and a client heard {heard}");
                broken.push((at, why));
            }
            let left = |event: &&&Event| matches!(event.what, What::Leaves { .. });
            let is_other = heard.slug == "key-reused";
            if heard.safe_new_key && !is_other && self.events.iter().any(|event| left(&event)) {
                let why = format!("it was dispatched, and a client was told of a new key: {heard}");
                broken.push((at, why));
            }
        }
        for (at, why) in broken {
            self.breaks(Promise::UnknownIsSaid, at, why);
        }
    }

    /// Whether a dispatch that nothing had released was out for all of this time.
    fn is_out(&self, span: RangeInclusive<u64>) -> bool {
        let (mut out, mut was_out) = (0, false);
        for event in self.events.iter().filter(|event| event.at <= *span.end()) {
            if event.at > *span.start() && !was_out {
                was_out = out > 0;
                if !was_out {
                    return false;
                }
            }
            match &event.what {
                What::Leaves { .. } => out += 1,
                What::Returns { status, .. } if RELEASED.contains(status) => {
                    if was_out {
                        return false;
                    }
                    out -= 1;
                }
                What::Says { status: 0, .. } if was_out => return false,
                What::Says { status: 0, .. } => out = 0,
                _ => {}
            }
        }
        was_out
    }

    /// P5: what is first asked for while the store is away is not dispatched before it is back.
    fn closed_by_default(&mut self) {
        let Some(asked) = self.requests.first().map(|request| request.sent) else {
            return;
        };
        let left = self.events.iter().find_map(|event| {
            let is_away = |fault: &Fault| {
                fault.on == On::StoreAway
                    && *fault.span.start() <= asked
                    && fault.span.contains(&event.at)
            };
            let left = matches!(event.what, What::Leaves { .. });
            (left && self.faults.iter().any(is_away)).then_some(event.at)
        });
        if let Some(at) = left {
            let why = "it was asked for and dispatched while the store was away".to_owned();
            self.breaks(Promise::ClosedByDefault, at, why);
        }
    }

    /// Once all faults are over every key leads to its answer, unless nobody can know it.
    fn nothing_held(&mut self, audited: u64) {
        let mut asked = self.requests.iter().rev();
        let Some(last) = asked.find(|request| request.sent >= audited) else {
            return;
        };
        let Some((at, heard)) = last.heard else {
            let why = "all faults are over, and the key gets no answer".to_owned();
            return self.breaks(Promise::NothingHeld, last.sent, why);
        };
        let is_other = |request: &Request<'_>| request.payload != last.payload;
        let is_well = match (&*heard.said, &*heard.slug) {
            ("executed" | "replayed" | "released" | "unrecorded", _) => true,
            ("unknown", _) if is_resent(self.operation) => false,
            ("unknown", _) => self.is_unknown_for_a_reason(),
            (_, "key-reused") => self.requests.iter().any(is_other),
            _ => false,
        };
        if !is_well {
            let why = format!("all faults are over, no reason is left, and the key gets {heard}");
            self.breaks(Promise::NothingHeld, at, why);
        }
    }

    /// Whether the outcome cannot be known: the upstream's manners, or what befell the gateway that had the claim.
    fn is_unknown_for_a_reason(&self) -> bool {
        let bad_manners = |event: &&Event| match &event.what {
            What::Received { act, .. } => !GOOD_MANNERS.contains(&&**act),
            _ => false,
        };
        if self.events.iter().any(bad_manners) {
            return true;
        }
        // Of a dispatch it is known whose it was, and when its answer came.
        let dispatches = self.events.iter().enumerate();
        let mut are_all_released = true;
        let mut owners: Vec<Owner> = dispatches
            .filter_map(|(place, event)| {
                let What::Leaves { gateway, .. } = event.what else {
                    return None;
                };
                let mut later = self.events[place..].iter();
                let returned = later.find_map(|event| match event.what {
                    What::Returns { status, .. } => Some((event.at, status)),
                    _ => None,
                });
                are_all_released &= returned.is_some_and(|(_, status)| RELEASED.contains(&status));
                let answered = event.at.saturating_add(ANSWERED);
                let until = returned.map_or(answered, |(at, _)| at);
                Some(Owner {
                    gateway,
                    asking: event.at..=until,
                })
            })
            .collect();
        // Where there was none, or all were released, any other of those that were asked before anybody heard that it is
        // unknown may have died with the claim, or had its request taken by a broken wire.
        if are_all_released {
            let told = |request: &Request<'_>| {
                let (at, heard) = request.heard?;
                (heard.said == "unknown").then_some(at)
            };
            let told = self.requests.iter().filter_map(told).min();
            let told = told.unwrap_or(u64::MAX);
            let is_released = |request: &Request<'_>| {
                let heard = request.heard.map(|(_, heard)| &*heard.said);
                heard == Some("released")
            };
            let asked = self.requests.iter();
            let asked = asked.filter(|request| request.sent < told && !is_released(request));
            owners.extend(asked.map(Owner::by_request));
        }
        owners.iter().any(|owner| self.befell(owner))
    }

    /// Whether something happened to the gateway, or to its wire to the upstream, that the claim may not have outlived.
    fn befell(&self, owner: &Owner) -> bool {
        let (since, answered) = (*owner.asking.start(), *owner.asking.end());
        let mut settled = answered.saturating_add(SETTLED);
        // In the order of their beginnings: one may delay it until the next one does.
        for fault in self.faults.iter().filter(|fault| fault.is_of_store()) {
            if fault.overlaps(&(since..=settled)) {
                settled = settled.max(fault.span.end().saturating_add(SETTLED));
            }
        }
        self.faults.iter().any(|fault| match fault.on {
            On::Gateway(gateway) if gateway == owner.gateway => fault.overlaps(&(since..=settled)),
            On::Link(gateway) if gateway == owner.gateway => fault.overlaps(&owner.asking),
            _ => false,
        })
    }
}

/// Who may have had a claim, and from when to when it waited for the upstream.
struct Owner {
    gateway: usize,
    asking: RangeInclusive<u64>,
}

impl Owner {
    fn by_request(request: &Request<'_>) -> Self {
        Self {
            gateway: request.gateway,
            asking: request.sent..=request.sent.saturating_add(SENT),
        }
    }
}

/// The violations as people want them: how many of which promise, and of each the shortest history in full.
pub fn report(events: &[Event], violations: &[Violation]) -> String {
    let mut report = String::new();
    let promises: BTreeSet<Promise> = violations.iter().map(|v| v.promise).collect();
    for promise in promises {
        let of_it = violations.iter().filter(|v| v.promise == promise);
        let operations = of_it.clone().count();
        let first = of_it.clone().map(|v| v.at).min().unwrap_or(0) / SECOND;
        let shortest = of_it.min_by_key(|violation| history(events, violation).len());
        let shortest = shortest.expect("one that was counted");
        let _ = writeln!(
            report,
            "BROKEN: {promise}, {operations} times, first after {first} s; the shortest history is that of {}:\n{}",
            shortest.operation, shortest.why
        );
        for event in history(events, shortest) {
            let _ = writeln!(report, "  {event}");
        }
    }
    report
}

/// What happened to an operation up to the moment at which the promise was broken, and the faults meanwhile.
fn history<'a>(events: &'a [Event], violation: &Violation) -> Vec<&'a Event> {
    let of_it = |event: &&Event| event.operation == violation.operation;
    let begun = events.iter().find(of_it).map_or(0, |event| event.at);
    let span = begun.saturating_sub(SECOND)..=violation.at;
    let faults = faults(events);
    let near: BTreeSet<u64> = faults
        .iter()
        .filter(|fault| fault.overlaps(&span))
        .map(|fault| fault.number)
        .collect();
    let is_near = |event: &&Event| match &event.what {
        What::Begins { fault, .. } | What::Ends { fault } => near.contains(fault),
        What::Audit => true,
        _ => false,
    };
    let is_told = |event: &&Event| of_it(event) || is_near(event);
    let until = events.iter().filter(|event| event.at <= violation.at);
    until.filter(is_told).collect()
}

/// What a run was like, as lines.
pub fn summary(events: &[Event]) -> String {
    let mut operations = BTreeSet::new();
    let (mut heard, mut faults): (BTreeMap<String, usize>, BTreeMap<&str, usize>) =
        Default::default();
    let (mut dispatches, mut resent, mut settled) = (0, 0, 0);
    for event in events {
        match &event.what {
            What::Sends { .. } => {
                operations.insert(&*event.operation);
            }
            What::Hears { heard: answer, .. } => {
                let what = format!("{} {} {}", answer.status, answer.said, answer.slug);
                *heard.entry(what.trim_end().to_owned()).or_default() += 1;
            }
            What::HearsNothing { .. } => *heard.entry("nothing".to_owned()).or_default() += 1,
            What::Leaves { fence, .. } => {
                dispatches += 1;
                resent += usize::from(fence.is_some_and(|fence| fence > 1));
            }
            What::Says { .. } => settled += 1,
            What::Begins { name, .. } => *faults.entry(name).or_default() += 1,
            _ => {}
        }
    }
    let mut lines = format!(
        "{} operations, {dispatches} dispatches, {resent} of them again; an operator or a probe \
         spoke {settled} times\n",
        operations.len()
    );
    for (what, count) in &heard {
        let _ = writeln!(lines, "  {count:>8} heard {what}");
    }
    for (name, count) in &faults {
        let _ = writeln!(lines, "  {count:>8} times {name}");
    }
    lines
}
