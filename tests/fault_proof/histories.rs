//! Histories written by hand, that the checker can fail and can pass: for each promise one that breaks it, beside those
//! that look like it and are in order.

use crate::checker::{Promise, Terms, check, report};
use crate::history::{Event, Heard, On, What};

const TERMS: Terms = Terms {
    loses_answers: false,
};

/// A history under construction; everything happens a tenth of a second after what was before.
#[derive(Default)]
struct History {
    events: Vec<Event>,
    requests: u64,
    now: u64,
}

const STEP: u64 = 100_000;

impl History {
    fn new() -> Self {
        Self::default()
    }

    fn then(mut self, operation: &str, what: What) -> Self {
        self.now += STEP;
        self.events.push(Event {
            at: self.now,
            operation: operation.to_owned(),
            what,
        });
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.now += seconds * 1_000_000;
        self
    }

    /// A request of `alice/k` to gateway 0; requests are numbered from 1.
    fn sends(self) -> Self {
        self.sends_for("alice/k", "pay")
    }

    fn sends_to(self, gateway: usize) -> Self {
        self.sends_by("alice/k", "pay", gateway)
    }

    fn sends_for(self, operation: &str, payload: &str) -> Self {
        self.sends_by(operation, payload, 0)
    }

    fn sends_by(mut self, operation: &str, payload: &str, gateway: usize) -> Self {
        self.requests += 1;
        let sends = What::Sends {
            request: self.requests,
            client: "a client".to_owned(),
            gateway,
            payload: payload.to_owned(),
        };
        self.then(operation, sends)
    }

    fn hears(self, request: u64, heard: Heard) -> Self {
        self.then("alice/k", What::Hears { request, heard })
    }

    fn leaves(self) -> Self {
        self.leaves_with("alice/k", None)
    }

    fn leaves_with(self, operation: &str, fence: Option<u64>) -> Self {
        let gateway = 0;
        self.then(operation, What::Leaves { gateway, fence })
    }

    fn returns(self, status: u16) -> Self {
        self.then("alice/k", What::Returns { gateway: 0, status })
    }

    fn received(self, number: u64, act: &str, status: u16) -> Self {
        let received = What::Received {
            gateway: 0,
            number,
            payload: "pay".to_owned(),
            act: act.to_owned(),
            status,
        };
        self.then("alice/k", received)
    }

    /// A whole dispatch of charge 7, which is answered.
    fn dispatched(self) -> Self {
        self.leaves().received(7, "Answers", 201).returns(201)
    }

    fn fault(self, on: On) -> Self {
        let (fault, name) = (1, "a fault".to_owned());
        self.then("", What::Begins { fault, name, on })
    }

    fn ends(self) -> Self {
        self.then("", What::Ends { fault: 1 })
    }

    fn audit(self) -> Self {
        self.then("", What::Audit)
    }

    #[track_caller]
    fn keeps_every_promise(self) {
        let violations = check(&self.events, TERMS);
        assert_eq!(violations, [], "{}", report(&self.events, &violations));
    }

    #[track_caller]
    fn breaks(self, promises: &[Promise]) {
        let violations = check(&self.events, TERMS);
        let found: Vec<Promise> = violations.iter().map(|v| v.promise).collect();
        assert_eq!(found, promises, "{violations:#?}");
        // The story of each can be told, and ends where it is broken.
        let report = report(&self.events, &violations);
        for promise in promises {
            assert!(report.contains(&promise.to_string()), "{report}");
        }
    }
}

/// An answer of the upstream to this operation.
fn answer(said: &str, status: u16, operation: &str, payload: &str, charge: u64) -> Heard {
    Heard {
        status,
        said: said.to_owned(),
        body: format!(
            "{{\"operation\":\"{operation}\",\"payload\":\"{payload}\",\"charge\":{charge}}}"
        ),
        ..Heard::default()
    }
}

/// The answer to charge 7.
fn paid(said: &str) -> Heard {
    answer(said, 201, "alice/k", "pay", 7)
}

fn refusal(status: u16, said: &str, slug: &str, state: &str) -> Heard {
    Heard {
        status,
        said: said.to_owned(),
        slug: slug.to_owned(),
        state: state.to_owned(),
        ..Heard::default()
    }
}

fn unknown() -> Heard {
    refusal(409, "unknown", "outcome-unknown", "unknown")
}

fn unreachable() -> Heard {
    refusal(502, "refused", "upstream-unreachable", "none")
}

#[test]
fn an_operation_that_is_executed_and_replayed_is_in_order() {
    History::new()
        .sends()
        .dispatched()
        .hears(1, paid("executed"))
        .sends()
        .hears(2, paid("replayed"))
        .audit()
        .sends()
        .hears(3, paid("replayed"))
        .keeps_every_promise();
}

#[test]
fn two_dispatches_break_the_first_promise() {
    History::new()
        .sends()
        .dispatched()
        .leaves()
        .breaks(&[Promise::AtMostOneDispatch]);
}

#[test]
fn a_dispatch_that_no_wire_saw_counts_too() {
    let first = History::new().sends().received(7, "Resets", 0);
    first
        .received(8, "Resets", 0)
        .breaks(&[Promise::AtMostOneDispatch]);
}

#[test]
fn what_the_upstream_released_may_be_dispatched_again() {
    busy_and_sent_again("released").keeps_every_promise();
}

#[test]
fn a_release_that_the_store_did_not_take_in_time_is_nobodys_answer() {
    busy_and_sent_again("unrecorded").keeps_every_promise();
}

/// The upstream releases what is sent first, of which the client hears this, and executes what is sent then.
fn busy_and_sent_again(said: &str) -> History {
    History::new()
        .sends()
        .leaves()
        .received(7, "Busy", 429)
        .returns(429)
        .hears(1, answer(said, 429, "alice/k", "pay", 7))
        .sends()
        .leaves()
        .received(8, "Busy", 201)
        .returns(201)
        .hears(2, answer("executed", 201, "alice/k", "pay", 8))
}

#[test]
fn a_release_that_never_came_back_releases_nothing() {
    History::new()
        .sends()
        .leaves()
        .received(7, "Busy", 429)
        .leaves()
        .breaks(&[Promise::AtMostOneDispatch]);
}

#[test]
fn what_may_be_sent_again_is_so_with_another_fence() {
    let operation = "alice/transfer-1";
    let first = || {
        let sent = History::new().sends_for(operation, "pay");
        sent.leaves_with(operation, Some(1))
    };
    let second = first().leaves_with(operation, Some(2));
    second.keeps_every_promise();
    let second = first().leaves_with(operation, Some(1));
    second.breaks(&[Promise::AtMostOneDispatch]);
}

#[test]
fn what_an_operator_says_was_never_done_may_leave_again_and_arrive_once() {
    let never = || What::Says {
        status: 0,
        body: String::new(),
    };
    let left = || History::new().sends().leaves().then("alice/k", never());
    left().dispatched().keeps_every_promise();
    let arrives = left().dispatched().received(8, "Answers", 201);
    arrives.breaks(&[Promise::AtMostOneDispatch]);
}

#[test]
fn what_an_operator_says_is_the_answer_from_then_on() {
    let by_hand = answer("replayed", 201, "alice/k", "pay", 7);
    let body = format!("{} ", by_hand.body);
    let by_hand = Heard {
        body: body.clone(),
        ..by_hand
    };
    let settled = || {
        let sent = History::new().sends().leaves().received(7, "Late", 201);
        let says = What::Says {
            status: 201,
            body: body.clone(),
        };
        let settled = sent.hears(1, unknown()).then("alice/k", says).sends();
        settled.hears(2, by_hand.clone()).sends()
    };
    settled().hears(3, by_hand.clone()).keeps_every_promise();
    settled()
        .hears(3, paid("replayed"))
        .breaks(&[Promise::OneAnswer]);
    let told = What::Settled {
        status: 201,
        body: body.clone(),
    };
    let unheard = History::new().sends().leaves().received(7, "Late", 201);
    let unheard = unheard.hears(1, unknown()).then("alice/k", told).sends();
    unheard
        .hears(2, paid("replayed"))
        .breaks(&[Promise::OneAnswer]);
}

#[test]
fn two_answers_break_the_second_promise() {
    let other = answer("replayed", 402, "alice/k", "pay", 7);
    History::new()
        .sends()
        .dispatched()
        .hears(1, paid("executed"))
        .sends()
        .hears(2, other)
        .breaks(&[Promise::OneAnswer]);
}

#[test]
fn an_answer_to_something_else_under_the_same_key_breaks_the_second_promise() {
    History::new()
        .sends()
        .dispatched()
        .hears(1, paid("executed"))
        .sends_for("alice/k", "pay more")
        .hears(2, paid("replayed"))
        .breaks(&[Promise::OneAnswer]);
}

#[test]
fn the_answer_to_another_key_breaks_the_second_promise() {
    History::new()
        .sends()
        .dispatched()
        .hears(1, answer("replayed", 201, "alice/other", "pay", 7))
        .breaks(&[Promise::OneAnswer]);
}

#[test]
fn what_was_recorded_and_is_not_replayed_breaks_the_second_promise() {
    let recorded = || {
        let sent = History::new().sends().dispatched();
        sent.hears(1, paid("executed")).sends()
    };
    recorded().hears(2, unknown()).breaks(&[Promise::OneAnswer]);
    let away = refusal(503, "refused", "store-unavailable", "undetermined");
    recorded().hears(2, away).keeps_every_promise();
}

#[test]
fn a_gateway_that_the_store_was_kept_from_may_not_know_yet_that_its_answer_is_recorded() {
    let in_progress = || refusal(409, "refused", "request-in-progress", "in_progress");
    let recorded = || History::new().sends().dispatched().fault(On::StoreAway);
    let replayed = |history: History| {
        let asked = history.ends().sends_to(1);
        asked.hears(2, paid("replayed"))
    };
    let asked = replayed(recorded()).sends();
    asked.hears(3, in_progress()).keeps_every_promise();
    let later = replayed(recorded()).after(4).sends();
    later.hears(3, in_progress()).breaks(&[Promise::OneAnswer]);
    let elsewhere = replayed(recorded()).sends_to(1);
    elsewhere
        .hears(3, in_progress())
        .breaks(&[Promise::OneAnswer]);
    let knows = replayed(recorded()).sends().hears(3, paid("replayed"));
    knows
        .sends()
        .hears(4, in_progress())
        .breaks(&[Promise::OneAnswer]);
}

#[test]
fn a_store_that_may_lose_an_answer_may_do_so_with_a_server_only() {
    let lost = |on| {
        let sent = History::new().sends().dispatched();
        let heard = sent.hears(1, paid("executed")).fault(on).ends();
        let events = heard.sends().hears(2, unknown()).events;
        let terms = Terms {
            loses_answers: true,
        };
        check(&events, terms).len()
    };
    assert_eq!(lost(On::StoreServer), 0);
    assert_eq!(lost(On::Gateway(0)), 1);
}

#[test]
fn an_answer_of_another_tenant_breaks_the_third_promise() {
    History::new()
        .sends()
        .dispatched()
        .hears(1, answer("replayed", 201, "bob/k", "pay", 7))
        .breaks(&[Promise::NobodyElsesAnswer]);
}

#[test]
fn a_dispatch_after_unknown_was_said_breaks_the_fourth_promise() {
    History::new()
        .sends()
        .leaves()
        .received(7, "Hangs", 0)
        .hears(1, unknown())
        .sends()
        .leaves()
        .breaks(&[Promise::AtMostOneDispatch, Promise::UnknownIsSaid]);
}

#[test]
fn nothing_happened_is_a_lie_once_it_was_dispatched() {
    History::new()
        .sends()
        .leaves()
        .received(7, "Hangs", 0)
        .sends()
        .hears(2, unreachable())
        .breaks(&[Promise::UnknownIsSaid]);
}

#[test]
fn nothing_happened_may_be_said_of_a_request_that_was_sent_before() {
    History::new()
        .sends()
        .sends()
        .leaves()
        .received(7, "Hangs", 0)
        .hears(1, unreachable())
        .keeps_every_promise();
}

#[test]
fn a_new_key_is_not_safe_where_this_one_was_dispatched() {
    let safe = |slug| Heard {
        safe_new_key: true,
        ..refusal(422, "refused", slug, "undetermined")
    };
    let sent = || History::new().sends().sends();
    sent()
        .hears(1, safe("key-invalid"))
        .leaves()
        .breaks(&[Promise::UnknownIsSaid]);
    sent()
        .hears(1, safe("key-reused"))
        .leaves()
        .keeps_every_promise();
}

#[test]
fn a_dispatch_while_the_store_is_away_breaks_the_fifth_promise() {
    History::new()
        .fault(On::StoreAway)
        .sends()
        .leaves()
        .ends()
        .breaks(&[Promise::ClosedByDefault]);
}

#[test]
fn what_was_claimed_before_the_store_went_away_may_be_dispatched() {
    let claimed = History::new().sends().fault(On::StoreAway);
    claimed.leaves().ends().keeps_every_promise();
}

#[test]
fn a_key_in_progress_after_all_faults_is_held_for_nothing() {
    let progress = refusal(409, "refused", "request-in-progress", "in_progress");
    History::new()
        .sends()
        .audit()
        .sends()
        .hears(2, progress)
        .breaks(&[Promise::NothingHeld]);
}

#[test]
fn a_key_without_an_answer_after_all_faults_is_held_for_nothing() {
    let asked = History::new().sends().audit().sends();
    asked.breaks(&[Promise::NothingHeld]);
}

#[test]
fn an_unknown_that_was_never_dispatched_needs_somebody_who_died_with_the_claim() {
    let asked = |on| {
        let asked = History::new().sends().fault(on).ends().after(20).audit();
        asked.sends().hears(2, unknown())
    };
    asked(On::StoreLink).breaks(&[Promise::NothingHeld]);
    asked(On::Gateway(1)).breaks(&[Promise::NothingHeld]);
    asked(On::Gateway(0)).keeps_every_promise();
}

#[test]
fn an_unknown_behind_a_release_needs_a_wire_that_took_it_or_somebody_who_died_with_the_claim() {
    let asked = |on| {
        let busy = History::new().sends().leaves().received(7, "Busy", 429);
        let released = answer("released", 429, "alice/k", "pay", 7);
        let released = busy.returns(429).hears(1, released).after(20);
        let unknown_then = released.sends().fault(on).ends().hears(2, unknown());
        let asked = unknown_then.after(20).audit();
        asked.sends().hears(3, unknown())
    };
    asked(On::StoreLink).breaks(&[Promise::NothingHeld]);
    asked(On::Link(1)).breaks(&[Promise::NothingHeld]);
    asked(On::Link(0)).keeps_every_promise();
    asked(On::Gateway(0)).keeps_every_promise();
}

#[test]
fn an_unknown_whose_answer_came_is_held_for_nothing() {
    let sent = |act| {
        let sent = History::new().sends().leaves().received(7, act, 201);
        sent.after(20).audit().sends().hears(2, unknown())
    };
    sent("Answers").breaks(&[Promise::NothingHeld]);
    sent("Truncates").keeps_every_promise();
}

#[test]
fn the_story_of_a_broken_promise_has_its_events_and_the_faults_near_it() {
    let events = History::new()
        .fault(On::Link(0))
        .ends()
        .after(10)
        .sends_for("alice/other", "pay")
        .then(
            "",
            What::Begins {
                fault: 2,
                name: "gateway frozen".to_owned(),
                on: On::Gateway(0),
            },
        )
        .sends()
        .dispatched()
        .leaves()
        .sends()
        .events;
    let report = report(&events, &check(&events, TERMS));
    let told: Vec<&str> = report
        .lines()
        .skip(2)
        .map(|line| line[14..].trim())
        .collect();
    let expected = [
        "fault 2 begins: gateway frozen",
        "a client sends request 2 (pay) to gateway 0",
        "DISPATCH leaves gateway 0",
        "upstream has it from gateway 0 as charge 7: Answers (201)",
        "an answer goes back to gateway 0: 201",
        "DISPATCH leaves gateway 0",
    ];
    assert_eq!(told, expected, "{report}");
}
