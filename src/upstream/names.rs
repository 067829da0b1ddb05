//! The addresses of an endpoint's name, kept up to date for as long as its upstream lives.
//!
//! Every name has a task, which asks again when an answer is no longer good: no request waits for that, but those that
//! come before the first answer.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Upstream;
use super::resolver::{Answer, Unknown, look_up, reachable};
use super::socket::Address;
use super::stats::Lookup;

/// Addresses of one name that requests are balanced over: more than services have instances, and a name with very
/// many holds no memory for ever.
const MAX_ADDRESSES: usize = 256;

/// How long the resolver is left alone after it has failed, or has said that there is no such name.
const AGAIN: Duration = Duration::from_secs(1);

/// For how long a name has to be without an address, by answers in a row, until it is believed: servers that have just
/// started deny what they have not heard of yet.
const NONE_BELIEVED_AFTER: Duration = Duration::from_secs(30);

/// What was said last, family by family.
#[derive(Default)]
struct Known {
    families: [Vec<IpAddr>; 2],
    /// What was made of it.
    in_use: HashSet<IpAddr>,
    /// Since when it is said that there is nothing.
    none_since: Option<Instant>,
}

impl Known {
    /// The addresses from now on, and when to ask again. What nothing is heard about stays as it was.
    fn hears(&mut self, answer: Result<Answer, Unknown>) -> (Vec<IpAddr>, Duration) {
        let again = match answer {
            Ok(answer) => {
                self.none_since = None;
                for (known, heard) in self.families.iter_mut().zip(answer.families) {
                    *known = heard.unwrap_or_else(|| std::mem::take(known));
                }
                answer.good_for
            }
            Err(Unknown::NoAddress) => {
                let since = *self.none_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= NONE_BELIEVED_AFTER {
                    self.families = Default::default();
                }
                AGAIN
            }
            Err(Unknown::NoAnswer(_)) => {
                self.none_since = None;
                AGAIN
            }
        };
        let families = self.families.iter().map(|family| self.first_of(family));
        let mut addresses = reachable(families.collect::<Vec<_>>().concat());
        addresses.truncate(MAX_ADDRESSES);
        self.in_use = addresses.iter().copied().collect();
        (addresses, again)
    }

    /// Of very many those that are in use, and then the others: resolvers give them in another order each time, and nothing
    /// would be known for long about any of them.
    fn first_of(&self, family: &[IpAddr]) -> Vec<IpAddr> {
        let mut seen = HashSet::new();
        let each = family.iter().copied().filter(|one| seen.insert(*one));
        let (mut first, others): (Vec<_>, Vec<_>) = each.partition(|one| self.in_use.contains(one));
        first.extend(others);
        first.truncate(MAX_ADDRESSES);
        first
    }
}

/// Asks for the addresses of a name again and again, while the upstream lives.
pub(super) async fn keep_up(
    upstream: Weak<Upstream>,
    servers: Vec<SocketAddr>,
    endpoint: usize,
    (host, port): (String, u16),
) {
    let mut known = Known::default();
    let mut was_answered = true;
    loop {
        let answer = look_up(&servers, &host).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let is_answered = say(&upstream, endpoint, was_answered, answer.as_ref().err());
        let (addresses, again) = known.hears(answer);
        let at = |address: IpAddr| Address::Tcp(SocketAddr::new(address, port));
        upstream.renew(endpoint, addresses.into_iter().map(at).collect());
        upstream.balance.heard(endpoint);
        was_answered = is_answered;
        drop(upstream);
        sleep(again).await;
    }
}

/// Counts an answer, and logs where it is another kind of answer than the one before; says whether there is one.
fn say(upstream: &Upstream, endpoint: usize, was_answered: bool, wrong: Option<&Unknown>) -> bool {
    let endpoint = &upstream.endpoints[endpoint];
    endpoint.counters.lookup(match wrong {
        None => Lookup::Answered,
        Some(Unknown::NoAddress) => Lookup::NoAddress,
        Some(Unknown::NoAnswer(_)) => Lookup::NoAnswer,
    });
    let (name, label) = (&*upstream.name, &*endpoint.label);
    match wrong {
        Some(reason) if was_answered => {
            tracing::warn!(upstream = name, endpoint = label, %reason, "an endpoint's name cannot be resolved; the addresses known last stay in use");
        }
        None if !was_answered => {
            tracing::info!(
                upstream = name,
                endpoint = label,
                "the endpoint's name is resolved again"
            );
        }
        _ => {}
    }
    wrong.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn says(v4: Option<&[u8]>, seconds: u64) -> Result<Answer, Unknown> {
        Ok(Answer {
            families: [v4.map(|all| all.iter().copied().map(at).collect()), None],
            good_for: Duration::from_secs(seconds),
        })
    }

    fn fails() -> Result<Answer, Unknown> {
        Err(Unknown::NoAnswer("nobody is there".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_addresses_stay_while_nobody_answers() {
        let mut known = Known::default();
        assert_eq!(known.hears(fails()), (vec![], AGAIN));
        let seven = Duration::from_secs(7);
        assert_eq!(
            known.hears(says(Some(&[1, 2]), 7)),
            (vec![at(1), at(2)], seven)
        );
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(3_600)).await;
            assert_eq!(known.hears(fails()), (vec![at(1), at(2)], AGAIN));
        }
        assert_eq!(known.hears(says(Some(&[3]), 7)).0, [at(3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_no_such_name_is_believed_when_it_is_said_for_long_enough() {
        let mut known = Known::default();
        known.hears(says(Some(&[1]), 7));
        for wrong in [Unknown::NoAddress, Unknown::NoAddress] {
            assert_eq!(known.hears(Err(wrong)).0, [at(1)]);
            tokio::time::advance(NONE_BELIEVED_AFTER - Duration::from_millis(1)).await;
        }
        // Silence in between says that whoever denied the name may not be in order.
        assert_eq!(known.hears(fails()).0, [at(1)]);
        assert_eq!(known.hears(Err(Unknown::NoAddress)).0, [at(1)]);
        tokio::time::advance(NONE_BELIEVED_AFTER).await;
        assert!(known.hears(Err(Unknown::NoAddress)).0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_one_family_stays_while_only_the_other_one_is_answered_for() {
        let mut known = Known::default();
        known.hears(says(Some(&[1]), 7));
        assert_eq!(known.hears(says(None, 7)).0, [at(1)]);
    }

    #[tokio::test]
    async fn an_address_that_is_given_twice_counts_once_and_very_many_are_cut() {
        let mut known = Known::default();
        assert_eq!(known.hears(says(Some(&[1, 1]), 7)).0, [at(1)]);
        let many = (0..9).flat_map(|high| (0..=255).map(move |low| [127, 0, high, low].into()));
        let mut many: Vec<IpAddr> = many.collect();
        let answer = |all: &[IpAddr]| {
            Ok(Answer {
                families: [Some(all.to_vec()), None],
                good_for: AGAIN,
            })
        };
        let first = known.hears(answer(&many)).0;
        assert_eq!(first.len(), MAX_ADDRESSES);
        // Resolvers turn their answers round.
        many.rotate_left(1_000);
        let gone = many.iter().position(|one| *one == first[7]);
        many.swap_remove(gone.unwrap());
        let second = known.hears(answer(&many)).0;
        assert_eq!(second.len(), MAX_ADDRESSES);
        let stayed = first.iter().filter(|one| second.contains(one)).count();
        assert_eq!(stayed, MAX_ADDRESSES - 1);
    }
}
