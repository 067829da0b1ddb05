//! Every step that anybody can take, and what must hold after each.

use oncegate::protocol::State;
use stateright::{Model, Property};

use crate::gateway::{
    Rules, answer_by_record, answered, awaited, cannot_reread, finish, hear, renew, repeated,
    timed_out,
};
use crate::promises::rightly_gone;
use crate::store::{ask, delete, lose};
use crate::world::{Attempt, Call, Phase, Upstream, Word, World};

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
    /// How often an operator deletes the record, whatever it says.
    pub deletions: u8,
    /// How often a probe asks the upstream, and what it may conclude.
    pub probes: u8,
    /// See [`Probe`].
    pub probe: Probe,
    /// Whether an owner whose lease is over by its own clock is sure not to write: it never freezes between that look
    /// and its first byte.
    pub prompt: bool,
    /// What the store loses, once; nothing unless set.
    pub loss: Option<Loss>,
    /// Whether the upstream may refuse by a status of `outcomes.release`.
    pub refusals: bool,
    /// The promises that are not made in this scene: the checker has to find each of them broken.
    pub broken: &'static [&'static str],
    /// The only property to check; all that apply where there is none.
    pub only: Option<&'static str>,
}

/// What a probe may conclude.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    /// It says absent although something that was written may yet be executed: `absent_after` is too short.
    pub hasty: bool,
    /// `silent = "release"`: it says absent of a claim whose owner went silent, too.
    pub silent_release: bool,
}

/// What a store loses at a failover or a restart, although it had acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Everything.
    All,
    /// At most what came after the last claim that was acknowledged (`replicas_ack`).
    SinceTheLastClaim,
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
    /// An operator deletes the record.
    Deletes,
    /// A probe finds that the operation was executed; its word is on its way.
    Finds,
    /// A probe finds that it was not; its word is on its way.
    FindsNothing,
    /// What the store holds is safe now.
    Replicates,
    /// The store loses what it had acknowledged.
    Loses,
}

impl Model for Scene {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new(self.rules.fingerprints.len());
        if self.loss == Some(Loss::SinceTheLastClaim) {
            world.safe = Some(Box::new((None, world.marks.clone())));
        }
        vec![world]
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
            Step::Lapses => self.lapse(&mut world),
            Step::Speaks(word) => {
                let seen = world.reads_unknown()?;
                world.words += 1;
                world.set_adrift(Call::Resolve(seen, word));
            }
            Step::Finds => {
                let seen = world.reads_unknown()?;
                world.probes += 1;
                world.set_adrift(Call::Resolve(seen, Word::Completed));
            }
            Step::FindsNothing => {
                let seen = world.reads_unknown()?;
                world.probes += 1;
                if !self.probe.hasty {
                    world
                        .attempts
                        .iter_mut()
                        .for_each(Attempt::is_never_executed);
                }
                world.set_adrift(Call::Resolve(seen, Word::Gone));
            }
            Step::Deletes => {
                world.deletions += 1;
                delete(&mut world);
            }
            Step::Replicates => world.secure(),
            Step::Loses => {
                world.losses += 1;
                lose(&mut world);
            }
            step => local(&mut world, step),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = self.promises();
        properties.extend(self.sights());
        match self.only {
            Some(only) => properties.retain(|property| property.name == only),
            None => properties.retain(|property| !self.broken.contains(&property.name)),
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
        if self.loss.is_some() && world.losses == 0 {
            steps.push(Step::Loses);
            if !world.is_safe() {
                steps.push(Step::Replicates);
            }
        }
        if world.record.is_some() && world.deletions < self.deletions {
            steps.push(Step::Deletes);
        }
        if world.reads_unknown().is_some() && world.probes < self.probes {
            let silent = claimed && !self.probe.silent_release;
            if world.attempts.iter().any(Attempt::executed) {
                steps.push(Step::Finds);
            } else if !silent {
                steps.push(Step::FindsNothing);
            }
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

    /// The lease is over by the store's clock; a prompt owner sees it by its own, too.
    fn lapse(&self, world: &mut World) {
        world.lapsed = true;
        if !self.prompt {
            return;
        }
        if let Some(holder) = world.holder() {
            let holder = &mut world.attempts[holder];
            match holder.phase {
                Phase::Holding => holder.phase = Phase::Releasing,
                Phase::Asking | Phase::TakingOver(_) => holder.overdue = true,
                _ => {}
            }
        }
    }
}
