//! How many connections each address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Peer;

/// The part of an IPv6 address that tells clients apart: whoever has one of its addresses has all behind it.
const IPV6_CLIENT: u32 = 64;

/// Counts the connections of each address that has any.
pub(super) struct Addresses {
    /// 0: as many as there are.
    limit: AtomicUsize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// An address has as many connections as it may have.
pub(super) struct Crowded;

/// A connection's place among those of its address, until it is dropped.
pub(super) struct AddressPlace {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            counts: Mutex::default(),
        })
    }

    /// Sets another limit. Connections that came while there was none are not counted.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A place for a connection of this peer; none is needed where it has no address, or brings others' requests.
    pub(super) fn place(self: &Arc<Self>, peer: &Peer) -> Result<Option<AddressPlace>, Crowded> {
        let limit = self.limit.load(Ordering::Relaxed);
        match peer.addr {
            Some(addr) if limit > 0 && !peer.is_trusted() => self.take(addr.ip(), limit).map(Some),
            _ => Ok(None),
        }
    }

    fn take(self: &Arc<Self>, address: IpAddr, limit: usize) -> Result<AddressPlace, Crowded> {
        let address = client(address);
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        if *count >= limit {
            return Err(Crowded);
        }
        *count += 1;
        drop(counts);
        Ok(AddressPlace {
            addresses: Arc::clone(self),
            address,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts();
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (Ipv6Addr::BITS - IPV6_CLIENT);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gives_them_back() {
        let addresses = Addresses::new(2);
        let take = |address: &str| addresses.take(address.parse().unwrap(), 2).ok();
        let (first, _second) = (take("10.0.0.1"), take("::ffff:10.0.0.1"));
        assert!(first.is_some() && _second.is_some());
        assert!(take("10.0.0.1").is_none());
        let other = take("10.0.0.2");
        assert!(other.is_some());
        drop(first);
        assert!(take("10.0.0.1").is_some());
        drop((_second, other));
        assert!(addresses.counts().is_empty());
    }

    #[test]
    fn who_has_one_ipv6_address_has_its_neighbours() {
        let addresses = Addresses::new(1);
        let take = |address: &str| addresses.take(address.parse().unwrap(), 1).ok();
        let _first = take("2001:db8::1");
        assert!(take("2001:db8::ffff:0:0:2").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
    }
}
