//! Every step that anybody can take, and what must hold after each.

use oncegate::protocol::{Owner, State};
use stateright::{Model, Property};

use crate::gateway::{
    Rules, answer_by_record, answered, answers, awaited, cannot_reread, finish, hear, recorded,
    renew, repeated, timed_out,
};
use crate::store::{ask, index};
use crate::world::{Attempt, Call, Phase, Told, Upstream, Word, World};

/// A scene: who takes part, and how much may go wrong.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Payloads, `resend`, and the rule that is taken out.
    pub rules: Rules,
    /// How often each attempt may renew.
    pub renewals: u8,
    /// How many store calls go adrift: their caller timed out, or sent them twice.
    pub troubles: u8,
    /// How many processes crash.
    pub crashes: u8,
    /// How often the operator speaks.
    pub words: u8,
    /// Whether the operator says gone of what may yet be written.
    pub careless: bool,
    /// Whether the upstream may refuse by a status of `outcomes.release`.
    pub refusals: bool,
    /// The only property to check; all that apply where there is none.
    pub only: Option<&'static str>,
}

/// One step; attempts by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The store applies the awaited call and its caller learns the verdict.
    Answered(usize, Call),
    /// The caller gives up waiting.
    TimedOut(usize, Call),
    /// The caller sends a second copy.
    Repeated(usize, Call),
    /// A call adrift is applied, and nobody learns the verdict.
    Lands(Call),
    /// A beat, answered.
    Renews(usize),
    /// A beat, adrift.
    RenewsInVain(usize),
    /// The first byte of the request.
    Writes(usize),
    /// The connection failed, or the own clock says that the lease is over.
    CannotWrite(usize),
    /// The upstream executes what was written.
    Executes(usize),
    /// The upstream does nothing and says so.
    Refuses(usize),
    /// The upstream's answer arrives.
    Hears(usize),
    /// `response_timeout`, or the connection broke.
    HearsNothing(usize),
    /// `late_response` is over.
    StopsListening(usize),
    /// The record is read, to answer from it.
    Rereads(usize),
    /// It cannot be read.
    CannotReread(usize),
    /// The process is killed.
    Crashes(usize),
    /// The store's clock passes the end of the lease.
    Lapses,
    /// An operator settles what reads as unknown; the word is on its way.
    Speaks(Word),
}

impl Model for Scene {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.rules.fingerprints.len())]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (index, attempt) in world.attempts.iter().enumerate() {
            if self.is_its_turn(world, index) {
                self.steps_of(world, index, attempt, steps);
            }
        }
        let mut last = None;
        for call in &world.adrift {
            if last.replace(call) != Some(call) {
                steps.push(Step::Lands(*call));
            }
        }
        self.steps_of_nobody(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        match step {
            Step::Answered(index, call) => answered(&mut world, index, call, &self.rules),
            Step::TimedOut(index, call) => {
                world.troubles += 1;
                timed_out(&mut world, index, call, &self.rules);
            }
            Step::Repeated(index, call) => {
                world.troubles += 1;
                repeated(&mut world, index, call, &self.rules);
            }
            Step::Lands(call) => {
                let place = world.adrift.iter().position(|other| *other == call)?;
                world.adrift.remove(place);
                ask(
                    &mut world,
                    call,
                    &self.rules.fingerprints,
                    self.rules.removed,
                );
            }
            Step::Renews(index) => renew(&mut world, index, &self.rules),
            Step::RenewsInVain(index) => {
                world.troubles += 1;
                world.attempts[index].renewals += 1;
                world.set_adrift(Call::Renew(index, world.attempts[index].fence));
            }
            Step::Rereads(index) => answer_by_record(&mut world, index, &self.rules),
            Step::Crashes(index) => {
                world.crashes += 1;
                finish(&mut world.attempts[index], Phase::Crashed);
            }
            Step::Lapses => world.lapsed = true,
            Step::Speaks(word) => {
                let seen = world.reads_unknown()?;
                world.words += 1;
                world.set_adrift(Call::Resolve(seen, word));
            }
            step => local(&mut world, step),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = self.promises();
        properties.extend(self.sights());
        if let Some(only) = self.only {
            properties.retain(|property| property.name == only);
        }
        properties
    }
}

/// Steps that concern one attempt and not the store.
fn local(world: &mut World, step: Step) {
    match step {
        Step::Writes(index) => {
            world.attempts[index].upstream = Upstream::Sent;
            world.attempts[index].phase = Phase::Awaiting;
        }
        Step::CannotWrite(index) => world.attempts[index].phase = Phase::Releasing,
        Step::Executes(index) => world.attempts[index].upstream = Upstream::Executed,
        Step::Refuses(index) => world.attempts[index].upstream = Upstream::Refused,
        Step::Hears(index) => hear(&mut world.attempts[index]),
        Step::HearsNothing(index) => world.attempts[index].phase = Phase::Marking,
        Step::StopsListening(index) => finish(&mut world.attempts[index], Phase::Done),
        Step::CannotReread(index) => {
            world.troubles += 1;
            cannot_reread(&mut world.attempts[index]);
        }
        step => unreachable!("{step:?} is no local step"),
    }
}

impl Scene {
    /// Attempts with one payload are alike until they start, so they start in their order.
    fn is_its_turn(&self, world: &World, index: usize) -> bool {
        let fresh = |attempt: &Attempt| attempt.phase == Phase::Asking && !attempt.in_doubt;
        !fresh(&world.attempts[index])
            || (0..index).all(|earlier| {
                self.rules.fingerprints[earlier] != self.rules.fingerprints[index]
                    || !fresh(&world.attempts[earlier])
            })
    }

    fn steps_of(&self, world: &World, index: usize, attempt: &Attempt, steps: &mut Vec<Step>) {
        let trouble = world.troubles < self.troubles;
        if let Some(call) = awaited(index, attempt) {
            steps.push(Step::Answered(index, call));
            if trouble {
                steps.push(Step::TimedOut(index, call));
                steps.push(Step::Repeated(index, call));
            }
        }
        if matches!(attempt.phase, Phase::Holding | Phase::Awaiting)
            && attempt.renewals < self.renewals
        {
            steps.push(Step::Renews(index));
            if trouble {
                steps.push(Step::RenewsInVain(index));
            }
        }
        match attempt.phase {
            Phase::Holding => steps.extend([Step::Writes(index), Step::CannotWrite(index)]),
            Phase::Awaiting => {
                steps.push(Step::HearsNothing(index));
                if matches!(attempt.upstream, Upstream::Executed | Upstream::Refused) {
                    steps.push(Step::Hears(index));
                }
            }
            Phase::Late => {
                steps.push(Step::StopsListening(index));
                if attempt.upstream == Upstream::Executed {
                    steps.push(Step::Hears(index));
                }
            }
            Phase::Rereading => {
                steps.push(Step::Rereads(index));
                if trouble {
                    steps.push(Step::CannotReread(index));
                }
            }
            _ => {}
        }
        if attempt.upstream == Upstream::Sent {
            steps.push(Step::Executes(index));
            if self.refusals {
                steps.push(Step::Refuses(index));
            }
        }
        let at_work = !matches!(attempt.phase, Phase::Done | Phase::Crashed)
            && (attempt.phase != Phase::Asking || attempt.in_doubt);
        if at_work && world.crashes < self.crashes {
            steps.push(Step::Crashes(index));
        }
    }

    fn steps_of_nobody(&self, world: &World, steps: &mut Vec<Step>) {
        let claimed = world
            .record
            .as_ref()
            .is_some_and(|record| matches!(record.state, State::Claimed(_)));
        if claimed && !world.lapsed {
            steps.push(Step::Lapses);
        }
        if let Some(seen) = world.reads_unknown()
            && world.words < self.words
        {
            steps.push(Step::Speaks(Word::Completed));
            if self.careless || rightly_gone(world, seen.owner) {
                steps.push(Step::Speaks(Word::Gone));
            }
        }
    }

    fn promises(&self) -> Vec<Property<Self>> {
        let mut promises = vec![
            Property::always(ONE_ANSWER, |_, world: &World| {
                told(world).all(|(_, told)| match told {
                    Told::Recorded(status) => recorded(world) == Some(status),
                    _ => true,
                })
            }),
            Property::always(OWN_PAYLOAD, |scene: &Self, world: &World| {
                told(world).all(|(index, told)| match told {
                    Told::Recorded(status) => answers(status, index, &scene.rules),
                    _ => true,
                })
            }),
            Property::always(NOTHING_SENT, |_, world: &World| {
                told(world).all(|(index, told)| match told {
                    Told::Reused | Told::NotSent { .. } => !world.attempts[index].wrote(),
                    _ => true,
                })
            }),
            Property::always(OWN_RECORD, |scene: &Self, world: &World| {
                let payload_of = |index: usize| scene.rules.fingerprints[index];
                owner_on_record(world)
                    .is_none_or(|owner| payload_on_record(world) == Some(payload_of(owner)))
            }),
            Property::always(MARKED, |_, world: &World| {
                holder(world).is_none_or(|holder| !world.marks[holder])
            }),
            Property::always(HELD, |scene: &Self, world: &World| {
                !world.quiet() || !held_for_nothing(world, scene.rules.resend)
            }),
            Property::always(GONE, |_, world: &World| {
                world.gone.is_none() || owner_on_record(world) != world.gone
            }),
        ];
        if self.careless {
            return promises;
        }
        promises.extend([
            Property::always(NOT_FORGOTTEN, |_, world: &World| {
                let mut attempts = world.attempts.iter().enumerate();
                attempts.all(|(index, attempt)| !attempt.dispatched() || remembered(world, index))
            }),
            Property::always(TRUTH, |_, world: &World| {
                let mut attempts = world.attempts.iter();
                !attempts.any(thrown_away) || recorded(world).is_some()
            }),
            Property::always(HONEST_NONE, |_, world: &World| {
                told(world).all(|(_, told)| told != Told::NotSent { dispatched: true })
            }),
        ]);
        if !self.rules.resend {
            promises.extend([
                Property::always(ONE_EXECUTION, |_, world: &World| {
                    count(world, Attempt::executed) <= 1
                }),
                Property::always(ONE_DISPATCH, |_, world: &World| {
                    count(world, Attempt::dispatched) <= 1
                }),
            ]);
        }
        promises
    }

    /// What must be seen somewhere, lest a promise hold because nothing happens.
    fn sights(&self) -> Vec<Property<Self>> {
        let mut sights = vec![
            Property::sometimes(
                "the first attempt's client gets its answer",
                |_, world: &World| world.attempts[0].told == Some(Told::Recorded(201)),
            ),
            Property::sometimes("a late truth settles an unknown", |_, world: &World| {
                recorded(world) == Some(201) && world.attempts[0].told == Some(Told::Unknown)
            }),
            Property::sometimes(
                "a client is told that nothing was sent",
                |_, world: &World| {
                    told(world).any(|(_, told)| told == Told::NotSent { dispatched: false })
                },
            ),
        ];
        let payloads = &self.rules.fingerprints;
        if payloads.iter().any(|payload| *payload != payloads[0]) {
            sights.push(Property::sometimes(
                "another payload is refused",
                |_, world: &World| told(world).any(|(_, told)| told == Told::Reused),
            ));
        } else {
            sights.push(Property::sometimes(
                "an answer is replayed",
                |_, world: &World| world.attempts[1].told == Some(Told::Recorded(201)),
            ));
        }
        if self.troubles > 0 {
            sights.push(Property::sometimes(
                "a claim in doubt is settled and its late copy turned away",
                |_, world: &World| {
                    world.attempts[0].told == Some(Told::Undetermined)
                        && world.record.is_none()
                        && world.adrift.is_empty()
                        && world.quiet()
                },
            ));
        }
        if self.words > 0 {
            sights.push(Property::sometimes(
                "an operator frees a key, and it executes",
                |_, world: &World| world.gone == Some(0) && world.attempts[1].executed(),
            ));
        }
        if self.rules.resend && payloads[0] == payloads[1] {
            sights.push(Property::sometimes(
                "a prior attempt is restored",
                |_, world: &World| {
                    let unknown = world.attempts[1].told == Some(Told::Unknown);
                    unknown && world.marks[1] && owner_on_record(world) == Some(0)
                },
            ));
        }
        sights
    }
}

pub const ONE_EXECUTION: &str = "P1 at most one execution";
pub const ONE_DISPATCH: &str = "P1 at most one dispatch that the upstream did not refuse";
pub const ONE_ANSWER: &str = "P2 an answer that was told as recorded is the one on record";
pub const OWN_PAYLOAD: &str = "P2 another payload never gets an answer";
pub const OWN_RECORD: &str = "nobody acquires the record of another payload";
pub const NOT_FORGOTTEN: &str = "P4 what was dispatched is neither forgotten nor hidden";
pub const HONEST_NONE: &str = "P4 nobody hears `none` of what may have been sent";
pub const NOTHING_SENT: &str =
    "P4 who sent something hears neither `none` nor that a new key is safe";
pub const TRUTH: &str = "P4 an answer in hand settles the record";
pub const MARKED: &str = "a marked owner holds no claim";
pub const HELD: &str = "no key stays held for nothing";
pub const GONE: &str = "an owner that was declared gone does not come back";

/// An operator is right to say gone where nothing was written, and the owner will not write any more; under
/// `resend` the word is about every attempt that the record may stand for.
fn rightly_gone(world: &World, owner: Owner) -> bool {
    let holds = |attempt: &Attempt| attempt.phase == Phase::Holding;
    !world.any_dispatched()
        && !world.attempts[index(owner)].may_write()
        && !world.attempts.iter().any(holds)
}

fn told(world: &World) -> impl Iterator<Item = (usize, Told)> {
    let attempts = world.attempts.iter().enumerate();
    attempts.filter_map(|(index, attempt)| Some((index, attempt.told?)))
}

fn count(world: &World, is: fn(&Attempt) -> bool) -> usize {
    world.attempts.iter().filter(|attempt| is(attempt)).count()
}

fn owner_on_record(world: &World) -> Option<usize> {
    let seen = world.record.as_ref()?.seen()?;
    Some(index(seen.owner))
}

fn payload_on_record(world: &World) -> Option<u8> {
    Some(world.record.as_ref()?.fingerprint.0[0])
}

fn holder(world: &World) -> Option<usize> {
    match &world.record.as_ref()?.state {
        State::Claimed(claim) => Some(index(claim.seen.owner)),
        _ => None,
    }
}

/// Whether the record still speaks of this attempt, which was dispatched.
fn remembered(world: &World, attempt: usize) -> bool {
    match world.record.as_ref().map(|record| &record.state) {
        Some(State::Completed(_) | State::Unknown(_)) => true,
        Some(State::Claimed(claim)) => index(claim.seen.owner) == attempt || claim.prior.is_some(),
        Some(State::Expired) | None => false,
    }
}

/// Whether an attempt has the upstream's answer and nothing more to do with it.
fn thrown_away(attempt: &Attempt) -> bool {
    attempt.phase == Phase::Done && attempt.upstream == Upstream::Answered
}

/// Whether nobody is at work and the record still refuses the key, although nothing was dispatched. The claim
/// of a crashed process is not for nothing: only its upstream knows what it wrote. Under `resend` the next
/// client takes an unknown over.
fn held_for_nothing(world: &World, resend: bool) -> bool {
    let Some(record) = &world.record else {
        return false;
    };
    let crashed = |owner| world.attempts[index(owner)].phase == Phase::Crashed;
    match &record.state {
        State::Claimed(claim) => !crashed(claim.seen.owner),
        State::Unknown(unknown) => {
            let owner = unknown.seen.owner;
            !resend && !crashed(owner) && !world.attempts[index(owner)].wrote()
        }
        State::Completed(_) | State::Expired => false,
    }
}
