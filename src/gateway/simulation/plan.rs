//! What a seed makes of a run: who calls when, what befalls the gateways and the store, and which faults may happen.

use std::time::Duration;

use super::chance::{Chance, Draw};
use super::history::Moment;

/// A kind of fault that a run may have or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store takes its time.
    StoreSlow,
    /// The store refuses an op, which is then not done.
    StoreRefuses,
    /// The store applies an op, or loses it, and says nothing of it.
    StoreSilent,
    /// The store applies an op long after its caller gave up.
    StoreLate,
    /// The store applies an op twice, the second time long after the first.
    StoreRepeats,
    /// The upstream cannot be connected to, or resets what it has just accepted.
    Refuses,
    /// The upstream breaks a connection off, having executed or not.
    Resets,
    /// The upstream answers too late.
    AnswersLate,
    /// The upstream executes after it has answered, or broken off.
    ExecutesLate,
    /// The upstream's answer is not whole.
    Truncates,
    /// The upstream answers that it has done nothing.
    Releases,
    /// The upstream answers what says nothing about the outcome.
    Unsure,
    /// The upstream answers with a failure that is final.
    Fails,
    /// The upstream's answers are too long to be kept, or streams.
    LongAnswers,
    /// Connections to the upstream are not kept, or end with bytes that nobody asked for.
    Leaves,
    /// Clients hang up, in the middle of a request or while they wait.
    HangUps,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::StoreSlow,
        Self::StoreRefuses,
        Self::StoreSilent,
        Self::StoreLate,
        Self::StoreRepeats,
        Self::Refuses,
        Self::Resets,
        Self::AnswersLate,
        Self::ExecutesLate,
        Self::Truncates,
        Self::Releases,
        Self::Unsure,
        Self::Fails,
        Self::LongAnswers,
        Self::Leaves,
        Self::HangUps,
    ];
}

/// A client that wants one operation, and retries as clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its number; its attempts are numbered from a hundred times that on.
    pub number: u64,
    /// What it wants.
    pub wants: Wanted,
    /// When it begins.
    pub starts: Duration,
    /// How often it tries.
    pub attempts: u64,
}

/// One request, whoever sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// Under which key and scope.
    pub operation: Operation,
    /// With which payload.
    pub payload: u64,
}

/// What a record is kept of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation {
    /// Whose.
    pub scope: u64,
    /// Under which key.
    pub key: u64,
}

/// Something that befalls a part of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When it begins.
    pub at: Duration,
    /// It waits for this moment from then on, so long after it, and befalls the gateway that it is about.
    pub awaits: Option<(Moment, Duration)>,
    /// What it is.
    pub what: Befalls,
    /// How long it lasts.
    pub lasts: Duration,
}

/// What befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Befalls {
    /// A gateway crashes; another one starts in its place afterwards.
    Crash(usize),
    /// A gateway stands still.
    Freeze(usize),
    /// A gateway drains; another one starts in its place afterwards.
    Drain(usize),
    /// The store refuses everything.
    StoreDown,
    /// The store answers nothing, and applies nothing.
    StoreMute,
    /// The store's clock jumps by so many milliseconds.
    ClockJumps(i64),
    /// The store loses a record that it has acknowledged.
    StoreLoses(Operation),
    /// An operator says of an operation without a known outcome that it was not executed.
    OperatorReleases(Operation),
    /// An operator deletes the record of an operation, whatever it says.
    OperatorDeletes(Operation),
    /// An operator says what an operation without a known outcome came to.
    OperatorCompletes(Operation),
}

impl Befalls {
    /// The same, befalling this gateway where it befalls one.
    pub fn of(self, host: usize) -> Self {
        match self {
            Self::Crash(_) => Self::Crash(host),
            Self::Freeze(_) => Self::Freeze(host),
            Self::Drain(_) => Self::Drain(host),
            other => other,
        }
    }
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides what is left to chance.
    pub seed: u64,
    /// How many gateways there are.
    pub hosts: usize,
    /// How long duplicates wait.
    pub waits: bool,
    /// Whether what nobody knows the outcome of is sent again.
    pub resends: bool,
    /// Which faults happen.
    pub faults: Vec<Fault>,
    /// Who calls.
    pub callers: Vec<Caller>,
    /// What befalls.
    pub incidents: Vec<Incident>,
}

impl Plan {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        let mut draw = Chance(seed).of("plan", 0, 0);
        let hosts = usize::try_from(draw.number(1..=3)).expect("it is at most 3");
        // Few kinds at a time find more than all of them at once.
        let share = draw.one(&[15, 30, 50]);
        let mut faults: Vec<Fault> = Fault::ALL.to_vec();
        faults.retain(|_| draw.percent(share));
        let callers = (1..=draw.number(2..=6))
            .map(|number| caller(number, &mut draw))
            .collect::<Vec<_>>();
        let incidents = (0..draw.number(0..=4))
            .map(|_| incident(hosts, &callers, &mut draw))
            .collect();
        let mut plan = Self {
            seed,
            hosts,
            waits: draw.percent(50),
            resends: draw.percent(25),
            faults,
            callers,
            incidents,
        };
        if draw.percent(10) {
            plan.race_for_the_first_byte(&mut draw);
        }
        plan
    }

    /// Makes it likely that somebody takes over from an owner that has not sent anything yet: what comes in between has
    /// only a moment for it.
    fn race_for_the_first_byte(&mut self, draw: &mut Draw) {
        self.resends = true;
        if !self.faults.contains(&Fault::Refuses) {
            self.faults.push(Fault::Refuses);
        }
        self.incidents.push(Incident {
            at: draw.ms(0..=20),
            awaits: Some((Moment::Claimed, Duration::ZERO)),
            what: draw.one(&[Befalls::ClockJumps(4_000), Befalls::Freeze(0)]),
            lasts: draw.ms(3_000..=10_000),
        });
        for caller in &mut self.callers {
            caller.attempts = 5;
        }
    }

    /// Whether completed records may go before their time, so that gateways have to follow the store's epoch.
    pub fn deletes(&self) -> bool {
        let mut all = self.incidents.iter();
        all.any(|incident| matches!(incident.what, Befalls::OperatorDeletes(_)))
    }

    /// What this attempt is for.
    pub fn wanted(&self, attempt: u64) -> Option<Wanted> {
        let number = attempt / 100;
        let caller = self.callers.iter().find(|caller| caller.number == number)?;
        Some(caller.wants)
    }
}

fn caller(number: u64, draw: &mut Draw) -> Caller {
    let is_crowd = draw.percent(70);
    Caller {
        number,
        wants: Wanted {
            operation: Operation {
                scope: u64::from(draw.percent(10)),
                key: u64::from(draw.percent(15)),
            },
            payload: u64::from(draw.percent(15)),
        },
        starts: draw.ms(0..=if is_crowd { 20 } else { 15_000 }),
        attempts: draw.number(1..=5),
    }
}

fn incident(hosts: usize, callers: &[Caller], draw: &mut Draw) -> Incident {
    let host = usize::try_from(draw.number(0..=2)).expect("it is at most 2") % hosts;
    let operation = callers[usize::try_from(draw.number(0..=5)).expect("small") % callers.len()]
        .wants
        .operation;
    let what = match draw.number(0..=12) {
        0..=2 => Befalls::Crash(host),
        3..=4 => Befalls::Freeze(host),
        5 => Befalls::Drain(host),
        6 => Befalls::StoreDown,
        7 => Befalls::StoreMute,
        8 => {
            let by = i64::try_from(draw.number(0..=16_000)).expect("small");
            Befalls::ClockJumps(by - 8_000)
        }
        9 => Befalls::OperatorReleases(operation),
        10 => Befalls::StoreLoses(operation),
        11 => Befalls::OperatorDeletes(operation),
        _ => Befalls::OperatorCompletes(operation),
    };
    let is_by_hand = matches!(
        what,
        Befalls::OperatorReleases(_) | Befalls::OperatorDeletes(_) | Befalls::OperatorCompletes(_)
    );
    let is_early = draw.percent(60) && !is_by_hand;
    Incident {
        at: draw.ms(0..=if is_early { 100 } else { 20_000 }),
        what,
        lasts: draw.ms(100..=10_000),
        awaits: draw.percent(40).then(|| {
            let moments = [
                Moment::Claimed,
                Moment::Claimed,
                Moment::Dispatched,
                Moment::Answered,
                Moment::Recorded,
            ];
            let after = match draw.percent(50) {
                true => Duration::ZERO,
                false => draw.ms(0..=5),
            };
            (draw.one(&moments), after)
        }),
    }
}
