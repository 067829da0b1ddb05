//! Makes a run that breaks a promise as small as it gets.

use super::checker::{Promise, check};
use super::plan::Plan;
use super::store::Broken;
use super::world::run;

/// Runs that a shrinking may take.
const MAX_RUNS: usize = 300;

/// The smallest plan found that still breaks one of these promises. What is left out leaves the rest as it was.
pub fn shrink(plan: &Plan, broken: Broken, promises: &[Promise]) -> Plan {
    let mut smallest = plan.clone();
    let mut runs = 0;
    let mut is_smaller = true;
    while is_smaller {
        is_smaller = false;
        let mut index = 0;
        while let Some(candidate) = without(&smallest, index) {
            runs += 1;
            if runs > MAX_RUNS {
                return smallest;
            }
            let found = check(&candidate, &run(&candidate, broken));
            if found.iter().any(|found| promises.contains(&found.promise)) {
                smallest = candidate;
                is_smaller = true;
            } else {
                index += 1;
            }
        }
    }
    smallest
}

/// The plan without one of its parts; `None` where it has no part of that number.
fn without(plan: &Plan, index: usize) -> Option<Plan> {
    let mut plan = plan.clone();
    let (incidents, faults, callers) =
        (plan.incidents.len(), plan.faults.len(), plan.callers.len());
    let extra: u64 = plan.callers.iter().map(|caller| caller.attempts - 1).sum();
    let extra = usize::try_from(extra).expect("attempts are few");
    if index < incidents {
        plan.incidents.remove(index);
    } else if index < incidents + faults {
        plan.faults.remove(index - incidents);
    } else if index < incidents + faults + callers && callers > 1 {
        plan.callers.remove(index - incidents - faults);
    } else if index < incidents + faults + callers + extra {
        // One attempt fewer of the caller whose turn it is.
        let mut left = index.saturating_sub(incidents + faults + callers);
        for caller in &mut plan.callers {
            let more = usize::try_from(caller.attempts - 1).expect("attempts are few");
            if left < more {
                caller.attempts -= 1;
                return Some(plan);
            }
            left -= more;
        }
        return Some(plan);
    } else {
        return None;
    }
    Some(plan)
}
