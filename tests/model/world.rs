//! The state of the whole: one record, the attempts at its key, and the store calls that are still adrift.

use oncegate::protocol::{Record, Seen, State};

use crate::store::index;

/// Everything that the checker tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// What the store holds. Its times are moved back to the same origin after every op: the protocol knows
    /// time only by differences, and [`World::lapsed`] is the only difference that matters within a retention.
    pub record: Option<Record>,
    /// Whether the lease of the claim on record is over by the store's clock.
    pub lapsed: bool,
    /// Which attempts' marks stand. They outlive every call that is adrift: see `MARK_KEEP`.
    pub marks: Vec<bool>,
    /// The attempts, by index.
    pub attempts: Vec<Attempt>,
    /// Calls that nobody waits for any more, and that may be applied at any later time, or never. Sorted.
    pub adrift: Vec<Call>,
    /// The attempts that somebody entitled to it declared gone.
    pub gone: Vec<bool>,
    /// The attempts before those, as far as the records knew them.
    pub prior_gone: Vec<bool>,
    /// What the store keeps whatever happens, where it can lose the rest: the record and the marks at some moment since
    /// it last acknowledged a claim.
    pub safe: Option<Box<(Option<Record>, Vec<bool>)>>,
    /// How many calls went adrift.
    pub troubles: u8,
    /// How many processes crashed.
    pub crashes: u8,
    /// How often the operator spoke.
    pub words: u8,
    /// How often a probe asked.
    pub probes: u8,
    /// How often an operator deleted the record.
    pub deletions: u8,
    /// How often the store lost something.
    pub losses: u8,
}

/// One client's request in one gateway process, with an owner token of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Where it stands.
    pub phase: Phase,
    /// The fence of its claim, 0 before it has one.
    pub fence: u64,
    /// Whether it was told of an unknown attempt before it.
    pub has_prior: bool,
    /// Whether a copy of its claim is unanswered.
    pub in_doubt: bool,
    /// Whether its lease was over by its own clock before it heard of its claim.
    pub overdue: bool,
    /// How often it renewed.
    pub renewals: u8,
    /// What became of its request.
    pub upstream: Upstream,
    /// What its client was told.
    pub told: Option<Told>,
}

/// Where an attempt stands. A frozen process is one whose attempts take no step for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Asks for a claim.
    #[default]
    Asking,
    /// Asks for the claim of an unknown attempt (`on_unknown = "resend"`).
    TakingOver(Seen),
    /// May dispatch.
    Holding,
    /// Has written the request.
    Awaiting,
    /// Has the answer and stores it.
    Completing,
    /// Has no answer and says so.
    Marking,
    /// Has said so, and still listens.
    Late,
    /// Will not dispatch (any more), and gives back what it may hold until the store has answered.
    Releasing,
    /// Was told that it has no say, and asks what the record says.
    Rereading,
    /// Takes no further step.
    Done,
    /// Its process is no more.
    Crashed,
}

/// What became of an attempt's request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// No byte of it was written.
    #[default]
    NotSent,
    /// It was written, and may be executed at any later time.
    Sent,
    /// It was executed, and its answer is on its way or lost.
    Executed,
    /// It was executed, and the gateway has the answer.
    Answered,
    /// The upstream did nothing and said so, by a status of `outcomes.release`.
    Refused,
    /// The upstream did nothing and never will: so much is certain `absent_after` the owner's last word.
    Never,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// The recorded answer, by its status: `executed` or `replayed`.
    Recorded(u16),
    /// The upstream's own answer, as `unrecorded` or `released`.
    Unrecorded,
    /// `operation_state: unknown`.
    Unknown,
    /// `request-in-progress`.
    InProgress,
    /// `upstream-unreachable`, `operation_state: none`. The flag says whether that was a lie.
    NotSent {
        /// Something had been dispatched when the store said what this rests on.
        dispatched: bool,
    },
    /// `key-reused`, which is the only one to say that a new key is safe.
    Reused,
    /// `store-unavailable`, `operation_state: undetermined`.
    Undetermined,
}

/// A store call; attempts by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Claim(usize),
    TakeOver(usize, Seen),
    /// With the fence that it renews.
    Renew(usize, u64),
    Complete(usize),
    /// With the fence that it declares unknown.
    MarkUnknown(usize, u64),
    Release(usize),
    Resolve(Seen, Word),
}

/// What an operator says of an unknown attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// It was executed, and here is an answer for it.
    Completed,
    /// It was not, and will not be.
    Gone,
}

impl World {
    pub fn new(attempts: usize) -> Self {
        Self {
            record: None,
            lapsed: false,
            marks: vec![false; attempts],
            attempts: vec![Attempt::default(); attempts],
            adrift: Vec::new(),
            gone: vec![false; attempts],
            prior_gone: vec![false; attempts],
            safe: None,
            troubles: 0,
            crashes: 0,
            words: 0,
            probes: 0,
            deletions: 0,
            losses: 0,
        }
    }

    /// Whether some request was written which the upstream has not refused: it may be, or become, executed.
    pub fn any_dispatched(&self) -> bool {
        self.attempts.iter().any(Attempt::dispatched)
    }

    /// Whether no attempt will take a further step.
    pub fn quiet(&self) -> bool {
        self.attempts
            .iter()
            .all(|attempt| matches!(attempt.phase, Phase::Done | Phase::Crashed))
    }

    /// What an operator who lists unsettled operations sees.
    pub fn reads_unknown(&self) -> Option<Seen> {
        let record = self.record.as_ref()?;
        match &record.state {
            State::Claimed(claim) if self.lapsed => Some(claim.seen),
            State::Unknown(unknown) => Some(unknown.seen),
            _ => None,
        }
    }

    /// Who has the claim on record.
    pub fn holder(&self) -> Option<usize> {
        match &self.record.as_ref()?.state {
            State::Claimed(claim) => Some(index(claim.seen.owner)),
            _ => None,
        }
    }

    /// What the store holds now is what it will not lose any more.
    pub fn secure(&mut self) {
        if let Some(safe) = &mut self.safe {
            **safe = (self.record.clone(), self.marks.clone());
        }
    }

    /// Whether the store can lose nothing of what it holds, or all of it at any time.
    pub fn is_safe(&self) -> bool {
        let safe = self.safe.as_deref();
        safe.is_none_or(|(record, marks)| (record, marks) == (&self.record, &self.marks))
    }

    /// Leaves a call to itself.
    pub fn set_adrift(&mut self, call: Call) {
        self.adrift.push(call);
        self.adrift.sort_unstable();
    }
}

impl Attempt {
    pub fn dispatched(&self) -> bool {
        matches!(
            self.upstream,
            Upstream::Sent | Upstream::Executed | Upstream::Answered
        )
    }

    pub fn executed(&self) -> bool {
        matches!(self.upstream, Upstream::Executed | Upstream::Answered)
    }

    /// What was written and is not executed yet will not be.
    pub fn is_never_executed(&mut self) {
        if self.upstream == Upstream::Sent {
            self.upstream = Upstream::Never;
        }
    }

    pub fn wrote(&self) -> bool {
        self.upstream != Upstream::NotSent
    }

    /// Whether an answer of the upstream may still come.
    pub fn may_hear(&self) -> bool {
        matches!(self.upstream, Upstream::Sent | Upstream::Executed)
    }

    /// Whether it has not written and may yet do so. A process that looked at its own lease, froze and
    /// thawed writes without looking again, so nothing but the phase speaks against it.
    pub fn may_write(&self) -> bool {
        matches!(
            self.phase,
            Phase::Asking | Phase::TakingOver(_) | Phase::Holding
        )
    }

    /// Whether it may have done something that speaks against `operation_state: none`.
    pub fn stained(&self) -> bool {
        self.wrote() || self.has_prior
    }

    /// A client hears once.
    pub fn tell(&mut self, told: Told) {
        self.told.get_or_insert(told);
    }
}
