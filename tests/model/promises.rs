//! What must hold after each step, and what must be seen somewhere.

use oncegate::protocol::{Owner, State};
use stateright::Property;

use crate::checker::Scene;
use crate::gateway::{answers, recorded};
use crate::store::{index, is_settled_by_word};
use crate::world::{Attempt, Phase, Told, Upstream, World};

impl Scene {
    /// Every promise, whether it is made in this scene or not.
    pub fn promises(&self) -> Vec<Property<Self>> {
        vec![
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
                world.holder().is_none_or(|holder| !world.marks[holder])
            }),
            Property::always(HELD, |scene: &Self, world: &World| {
                !world.quiet() || !held_for_nothing(world, scene.rules.resend)
            }),
            Property::always(GONE, |_, world: &World| {
                owner_on_record(world).is_none_or(|owner| !world.gone[owner])
            }),
            Property::always(PRIOR_GONE, |_, world: &World| {
                owner_on_record(world).is_none_or(|owner| !world.prior_gone[owner])
            }),
            Property::always(TOLD_ONE, |_, world: &World| {
                let mut answers = told(world).filter_map(|(_, told)| match told {
                    Told::Recorded(status) => Some(status),
                    _ => None,
                });
                let first = answers.next();
                answers.all(|answer| Some(answer) == first)
            }),
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
            Property::always(ONE_EXECUTION, |_, world: &World| {
                count(world, Attempt::executed) <= 1
            }),
            Property::always(ONE_DISPATCH, |_, world: &World| {
                count(world, Attempt::dispatched) <= 1
            }),
        ]
    }

    /// What must be seen somewhere, lest a promise hold because nothing happens.
    pub fn sights(&self) -> Vec<Property<Self>> {
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
                |_, world: &World| world.gone[0] && world.attempts[1].executed(),
            ));
        }
        if self.probes > 0 {
            sights.push(Property::sometimes(
                "a probe finds nothing, and the key executes",
                |_, world: &World| world.gone[0] && world.attempts[1].executed(),
            ));
            sights.push(Property::sometimes(
                "a probe finds an execution, and its word is recorded",
                |_, world: &World| {
                    recorded(world).is_some_and(is_settled_by_word) && world.attempts[0].executed()
                },
            ));
        }
        if self.loss.is_some() {
            sights.push(Property::sometimes(
                "the store loses an answer that a client has",
                |_, world: &World| {
                    let heard = world.attempts[0].told == Some(Told::Recorded(201));
                    heard && recorded(world).is_none()
                },
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
pub const TOLD_ONE: &str = "P2 no two clients are told two recorded answers";
pub const OWN_PAYLOAD: &str = "P2 another payload never gets an answer";
pub const OWN_RECORD: &str = "nobody acquires the record of another payload";
pub const NOT_FORGOTTEN: &str = "P4 what was dispatched is neither forgotten nor hidden";
pub const HONEST_NONE: &str = "P4 nobody hears `none` of what may have been sent";
pub const NOTHING_SENT: &str =
    "P4 who sent something hears neither `none` nor that a new key is safe";
pub const TRUTH: &str = "P4 an answer in hand settles the record";
pub const MARKED: &str = "a marked owner holds no claim";
pub const HELD: &str = "no key stays held for nothing";
pub const PRIOR_GONE: &str = "nor does the attempt before it";
pub const GONE: &str = "an owner that was declared gone does not come back";

/// An operator is right to say gone where nothing was written, and the owner will not write any more; under
/// `resend` the word is about every attempt that the record may stand for.
pub fn rightly_gone(world: &World, owner: Owner) -> bool {
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
