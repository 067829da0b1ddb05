//! The addresses of an endpoint's name.
//!
//! The system's resolver knows more sources than DNS and tells no time to live. So a name is asked for again after a time
//! within which changes of addresses are expected to be noticed, and what it said last counts while it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::socket::Address;

/// Addresses of one name that are tried, so that a name with very many cannot hold a request for ever.
const MAX_ADDRESSES: usize = 16;

/// How long an answer of the resolver counts.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// How long the resolver is left alone after it has failed.
const FAILED_FOR: Duration = Duration::from_secs(1);

pub(super) struct Resolved {
    host: String,
    port: u16,
    /// Locked while the resolver is asked: the others wait for its answer.
    known: Mutex<Known>,
    /// The address to try first.
    turn: AtomicUsize,
}

#[derive(Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// When to ask again; `None`: now.
    until: Option<Instant>,
}

impl Resolved {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            known: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// At least one address; each is the first one in its turn.
    ///
    /// # Errors
    /// Where the name never had one, and the resolver has none, failed a moment ago, or says nothing within `limit`.
    pub(super) async fn addresses(&self, limit: Duration) -> io::Result<Vec<Address>> {
        let lookup = || async {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
            Ok(found.collect())
        };
        self.addresses_by(lookup, limit).await
    }

    async fn addresses_by<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
        &self,
        lookup: impl FnOnce() -> F,
        limit: Duration,
    ) -> io::Result<Vec<Address>> {
        let deadline = Instant::now() + limit;
        let mut known = timeout_at(deadline, self.known.lock()).await?;
        let is_known = known.until.is_some_and(|until| Instant::now() < until);
        if !is_known {
            let asked = timeout_at(deadline, lookup()).await;
            let found = asked.unwrap_or_else(|over| Err(over.into()));
            let good_for = match found {
                Ok(mut found) if !found.is_empty() => {
                    found.truncate(MAX_ADDRESSES);
                    known.addresses = found;
                    GOOD_FOR
                }
                Ok(_) | Err(_) => FAILED_FOR,
            };
            known.until = Some(Instant::now() + good_for);
        }
        if known.addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the name {} has no address that could be found", self.host),
            ));
        }
        let mut addresses: Vec<Address> =
            known.addresses.iter().copied().map(Address::Tcp).collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    async fn ask(names: &Resolved, says: io::Result<Vec<SocketAddr>>) -> Vec<SocketAddr> {
        let addresses = names.addresses_by(|| async { says }, LIMIT).await;
        let addresses = addresses.unwrap_or_default();
        addresses.iter().filter_map(Address::tcp).collect()
    }

    fn fails() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("the resolver is away"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_again_in_time_and_its_addresses_take_turns() {
        let names = Resolved::new("a.test", 80);
        assert_eq!(ask(&names, Ok(vec![at(1), at(2)])).await, [at(1), at(2)]);
        tokio::time::advance(GOOD_FOR - Duration::from_millis(1)).await;
        assert_eq!(ask(&names, Ok(vec![at(3)])).await, [at(2), at(1)]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(ask(&names, Ok(vec![at(3)])).await, [at(3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_addresses_stay_while_the_resolver_fails() {
        let names = Resolved::new("a.test", 80);
        assert_eq!(ask(&names, fails()).await, []);
        assert_eq!(
            ask(&names, Ok(vec![at(1)])).await,
            [],
            "it was asked at once"
        );
        tokio::time::advance(FAILED_FOR).await;
        assert_eq!(ask(&names, Ok(vec![at(1)])).await, [at(1)]);
        for says in [fails(), Ok(Vec::new()), fails()] {
            tokio::time::advance(GOOD_FOR * 360).await;
            assert_eq!(ask(&names, says).await, [at(1)]);
        }
        tokio::time::advance(FAILED_FOR).await;
        assert_eq!(ask(&names, Ok(vec![at(2)])).await, [at(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_costs_the_time_to_connect_once_in_a_while() {
        let names = Resolved::new("a.test", 80);
        assert_eq!(ask(&names, Ok(vec![at(1)])).await, [at(1)]);
        tokio::time::advance(GOOD_FOR).await;
        let hangs = || std::future::pending::<io::Result<Vec<SocketAddr>>>();
        let begun = Instant::now();
        assert_eq!(names.addresses_by(hangs, LIMIT).await.unwrap().len(), 1);
        assert_eq!(begun.elapsed(), LIMIT);
        assert_eq!(names.addresses_by(hangs, LIMIT).await.unwrap().len(), 1);
        assert_eq!(begun.elapsed(), LIMIT);
    }
}
