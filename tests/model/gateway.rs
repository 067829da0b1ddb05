//! What an attempt does: the way of a request, one store call or one event of the network at a time.
//!
//! A verdict reaches its caller in the same step in which the store applies the op. That loses nothing: a
//! verdict that dawdles is an attempt that takes no step, and one that never comes is a call adrift.

use oncegate::protocol::{Answer, Found, State, Verdict};

use crate::store::{Guard, ask, asked_for, reread, status_of};
use crate::world::{Attempt, Call, Phase, Told, Upstream, World};

/// What the steps need to know besides the state.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What each attempt asks for, as a number.
    pub fingerprints: Vec<u8>,
    /// Whether the route says `on_unknown = "resend"`.
    pub resend: bool,
    /// The rule that is taken out.
    pub removed: Option<Guard>,
}

/// The call that an attempt waits for.
pub fn awaited(index: usize, attempt: &Attempt) -> Option<Call> {
    match attempt.phase {
        Phase::Asking => Some(Call::Claim(index)),
        Phase::TakingOver(seen) => Some(Call::TakeOver(index, seen)),
        Phase::Completing => Some(Call::Complete(index)),
        Phase::Marking => Some(Call::MarkUnknown(index, attempt.fence)),
        Phase::Releasing => Some(Call::Release(index)),
        Phase::Holding
        | Phase::Awaiting
        | Phase::Late
        | Phase::Rereading
        | Phase::Done
        | Phase::Crashed => None,
    }
}

/// The store answers the call that the attempt waits for.
pub fn answered(world: &mut World, index: usize, call: Call, rules: &Rules) {
    let verdict = ask(world, call, &rules.fingerprints, rules.removed);
    match world.attempts[index].phase {
        Phase::Asking | Phase::TakingOver(_) => claimed(world, index, verdict, rules),
        Phase::Completing => completed(world, index, &verdict),
        Phase::Marking => marked_unknown(world, index, verdict, rules),
        Phase::Releasing => released(world, index, &verdict),
        phase => unreachable!("nothing is awaited in {phase:?}"),
    }
}

/// The caller gives up waiting; the call may be applied at any later time.
pub fn timed_out(world: &mut World, index: usize, call: Call, rules: &Rules) {
    world.set_adrift(call);
    let dispatched = world.any_dispatched();
    let attempt = &mut world.attempts[index];
    match attempt.phase {
        Phase::Asking | Phase::TakingOver(_) if rules.removed == Some(Guard::DoubtIsSettled) => {
            attempt.tell(Told::Undetermined);
            finish(attempt, Phase::Done);
        }
        Phase::Releasing if rules.removed == Some(Guard::NoneAfterVerdict) => {
            attempt.tell(Told::NotSent { dispatched });
        }
        // A claim in doubt is never dispatched.
        Phase::Asking | Phase::TakingOver(_) => {
            attempt.tell(Told::Undetermined);
            attempt.phase = Phase::Releasing;
        }
        // The recording goes on in the background.
        Phase::Completing => attempt.tell(Told::Unrecorded),
        Phase::Marking => attempt.tell(Told::Unknown),
        // Nothing is known of the record, so not even an attempt that wrote nothing says "none".
        Phase::Releasing => attempt.tell(Told::Undetermined),
        phase => unreachable!("nothing is awaited in {phase:?}"),
    }
}

/// The caller sends the call once more while the first copy is unanswered.
pub fn repeated(world: &mut World, index: usize, call: Call, rules: &Rules) {
    world.set_adrift(call);
    let attempt = &mut world.attempts[index];
    attempt.in_doubt |= matches!(call, Call::Claim(_) | Call::TakeOver(..))
        && rules.removed != Some(Guard::CopyIsDoubt);
}

/// A beat.
pub fn renew(world: &mut World, index: usize, rules: &Rules) {
    let call = Call::Renew(index, world.attempts[index].fence);
    let verdict = ask(world, call, &rules.fingerprints, rules.removed);
    let attempt = &mut world.attempts[index];
    attempt.renewals += 1;
    // Losing the claim does not stop a dispatch that is under way.
    if verdict == Verdict::Lost && attempt.phase == Phase::Holding {
        attempt.phase = Phase::Releasing;
    }
}

/// The upstream's answer reaches the attempt.
pub fn hear(attempt: &mut Attempt) {
    match attempt.upstream {
        Upstream::Executed => {
            attempt.upstream = Upstream::Answered;
            attempt.phase = Phase::Completing;
        }
        // A status that releases says nothing of the attempt before.
        Upstream::Refused if attempt.has_prior => attempt.phase = Phase::Marking,
        Upstream::Refused => attempt.phase = Phase::Releasing,
        upstream => unreachable!("there is nothing to hear from {upstream:?}"),
    }
}

/// After `Lost`: the record as it is now answers the client.
pub fn answer_by_record(world: &mut World, index: usize, rules: &Rules) {
    let verdict = reread(world, index, &rules.fingerprints);
    tell_by_record(world, index, verdict, rules);
    after_telling(&mut world.attempts[index]);
}

/// After `Lost`, and the store cannot be asked.
pub fn cannot_reread(attempt: &mut Attempt) {
    attempt.tell(Told::Undetermined);
    after_telling(attempt);
}

/// Forgets what no later step of this attempt looks at.
pub fn finish(attempt: &mut Attempt, phase: Phase) {
    attempt.phase = phase;
    attempt.fence = 0;
    attempt.has_prior = false;
    attempt.in_doubt = false;
    attempt.overdue = false;
    attempt.renewals = 0;
}

fn claimed(world: &mut World, index: usize, verdict: Verdict, rules: &Rules) {
    let attempt = &mut world.attempts[index];
    match verdict {
        Verdict::Acquired { seen, prior } => {
            attempt.fence = seen.fence;
            attempt.has_prior = prior.is_some();
            // A copy that comes later finds a claim of its own, or what became of it.
            attempt.in_doubt = false;
            attempt.phase = if attempt.overdue {
                Phase::Releasing
            } else {
                Phase::Holding
            };
        }
        Verdict::Unknown { seen, .. } if rules.resend => {
            attempt.phase = Phase::TakingOver(seen);
        }
        Verdict::Lost | Verdict::Changed => attempt.phase = Phase::Rereading,
        verdict => {
            tell_by_record(world, index, Some(verdict), rules);
            after_telling(&mut world.attempts[index]);
        }
    }
}

fn completed(world: &mut World, index: usize, verdict: &Verdict) {
    let attempt = &mut world.attempts[index];
    match verdict {
        Verdict::Done => attempt.tell(Told::Recorded(status_of(index))),
        _ if attempt.told.is_none() => {
            attempt.phase = Phase::Rereading;
            return;
        }
        _ => {}
    }
    finish(attempt, Phase::Done);
}

fn marked_unknown(world: &mut World, index: usize, verdict: Verdict, rules: &Rules) {
    match verdict {
        Verdict::Done => world.attempts[index].tell(Told::Unknown),
        Verdict::Lost => {
            world.attempts[index].phase = Phase::Rereading;
            return;
        }
        verdict => tell_by_record(world, index, Some(verdict), rules),
    }
    after_telling(&mut world.attempts[index]);
}

fn released(world: &mut World, index: usize, verdict: &Verdict) {
    let dispatched = world.any_dispatched();
    let attempt = &mut world.attempts[index];
    attempt.in_doubt = false;
    match verdict {
        Verdict::Done if attempt.upstream == Upstream::Refused => attempt.tell(Told::Unrecorded),
        Verdict::Done if !attempt.has_prior => attempt.tell(Told::NotSent { dispatched }),
        Verdict::Done | Verdict::Restored => attempt.tell(Told::Unknown),
        _ if attempt.told.is_none() => {
            attempt.phase = Phase::Rereading;
            return;
        }
        _ => {}
    }
    finish(attempt, Phase::Done);
}

fn tell_by_record(world: &mut World, index: usize, verdict: Option<Verdict>, rules: &Rules) {
    let dispatched = world.any_dispatched();
    let fingerprint = rules.fingerprints[index];
    let attempt = &mut world.attempts[index];
    let told = match verdict {
        Some(Verdict::Completed(found)) => {
            let status = status_in(&found);
            // Ops that bear no fingerprint learn of completion, too.
            if found.fingerprint.0[0] == fingerprint {
                Told::Recorded(status)
            } else {
                other_payload(attempt)
            }
        }
        Some(Verdict::Mismatch) => other_payload(attempt),
        Some(Verdict::InFlight { .. }) => Told::InProgress,
        None if !attempt.stained() || rules.removed == Some(Guard::StainedNeverSaysNone) => {
            Told::NotSent { dispatched }
        }
        None | Some(Verdict::Unknown { .. }) => Told::Unknown,
        Some(verdict) => unreachable!("the record never says {verdict:?} here"),
    };
    attempt.tell(told);
}

/// Who wrote, or has a prior, cannot be told that a new key is safe.
fn other_payload(attempt: &Attempt) -> Told {
    if attempt.stained() {
        Told::Unknown
    } else {
        Told::Reused
    }
}

fn status_in(found: &Found) -> u16 {
    match &found.completed.answer {
        Answer::Stored(response) => response.status,
        other => unreachable!("every answer is stored here, not {other:?}"),
    }
}

/// What is left to do when the client knows: settle a claim in doubt, listen, or nothing.
fn after_telling(attempt: &mut Attempt) {
    if attempt.in_doubt {
        attempt.phase = Phase::Releasing;
    } else if attempt.may_hear() {
        finish(attempt, Phase::Late);
    } else {
        finish(attempt, Phase::Done);
    }
}

/// The recorded answer's status, where the record has one.
pub fn recorded(world: &World) -> Option<u16> {
    match &world.record.as_ref()?.state {
        State::Completed(completed) => match &completed.answer {
            Answer::Stored(response) => Some(response.status),
            Answer::NotStored(_) | Answer::Sealed(_) => None,
        },
        _ => None,
    }
}

/// Whether an answer of this status is an answer to what this attempt asked for.
pub fn answers(status: u16, index: usize, rules: &Rules) -> bool {
    asked_for(status, &rules.fingerprints) == rules.fingerprints[index]
}
