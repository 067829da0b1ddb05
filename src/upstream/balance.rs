//! Which address gets a request.
//!
//! Of two that are drawn by lot, the one with fewer requests under way (the power of two choices; M. Mitzenmacher,
//! "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001): nearly as even as looking at all,
//! and several gateways do not all run to the same one. Among those that are well; where none is, among all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Endpoint, Where};
use super::socket::Address;
use super::target::Target;
use crate::process;

/// Addresses that one request tries, so that a name with very many dead ones cannot hold it for ever.
const MAX_TRIED: usize = 16;

/// The addresses of all endpoints of an upstream.
pub(super) struct Balance {
    targets: ArcSwap<Vec<Arc<Target>>>,
    /// Held by whoever changes `targets`. The endpoints whose names nothing was heard about yet.
    unheard: Mutex<Vec<usize>>,
    /// How many these are.
    unheard_count: AtomicUsize,
    /// Something was heard.
    news: Notify,
}

impl Balance {
    /// The endpoints that are addresses; the names are still to be heard about.
    pub(super) fn of(endpoints: &[Endpoint]) -> Self {
        let (mut targets, mut unheard) = (Vec::new(), Vec::new());
        for (index, endpoint) in endpoints.iter().enumerate() {
            match &endpoint.place {
                Where::Address(address) => {
                    targets.push(Arc::new(Target::new(address.clone(), index)));
                }
                Where::Name { .. } => unheard.push(index),
            }
        }
        Self {
            targets: ArcSwap::from_pointee(targets),
            unheard_count: AtomicUsize::new(unheard.len()),
            unheard: Mutex::new(unheard),
            news: Notify::new(),
        }
    }

    /// All addresses, in the order of the endpoints.
    pub(super) fn targets(&self) -> Arc<Vec<Arc<Target>>> {
        self.targets.load_full()
    }

    /// From now on the endpoint has these addresses; those that it had not before are returned. Those that stay keep their
    /// connections and their standing.
    pub(super) fn renew(&self, endpoint: usize, addresses: Vec<Address>) -> Vec<Arc<Target>> {
        let _alone = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.targets();
        let (had, mut targets): (Vec<_>, Vec<_>) = before
            .iter()
            .cloned()
            .partition(|target| target.endpoint == endpoint);
        let (stay, leave): (Vec<_>, Vec<_>) = had
            .into_iter()
            .partition(|target| addresses.contains(&target.address));
        let is_new = |address: &Address| stay.iter().all(|target| target.address != *address);
        let new: Vec<Address> = addresses.into_iter().filter(is_new).collect();
        let fresh = |address| Arc::new(Target::new(address, endpoint));
        let new: Vec<Arc<Target>> = new.into_iter().map(fresh).collect();
        if new.is_empty() && leave.is_empty() {
            return new;
        }
        targets.extend(stay);
        targets.extend(new.iter().cloned());
        targets.sort_by_key(|target| target.endpoint);
        self.targets.store(Arc::new(targets));
        for target in leave {
            target.leave();
        }
        new
    }

    /// The resolver has said something about the endpoint's name, and be it that there is none.
    pub(super) fn heard(&self, endpoint: usize) {
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = unheard.len();
        unheard.retain(|other| *other != endpoint);
        if unheard.len() < before {
            self.unheard_count.store(unheard.len(), Ordering::Release);
            self.news.notify_waiters();
        }
    }

    /// The address to try next. Where all known ones were tried, and there are names of which nothing was heard yet,
    /// it waits for them until `deadline`.
    pub(super) async fn next(
        &self,
        tried: &[Arc<Target>],
        deadline: Instant,
    ) -> Option<Arc<Target>> {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let is_all = self.unheard_count.load(Ordering::Acquire) == 0;
            let chosen = self.choose(tried);
            if chosen.is_some() || is_all || timeout_at(deadline, news).await.is_err() {
                return chosen;
            }
        }
    }

    /// The address to try next, of those known now.
    pub(super) fn choose(&self, tried: &[Arc<Target>]) -> Option<Arc<Target>> {
        let targets = self.targets.load();
        let is_tried = |target: &Arc<Target>| tried.iter().any(|other| Arc::ptr_eq(other, target));
        let is_good = |target: &Arc<Target>| target.is_well() && !is_tried(target);
        if tried.len() >= MAX_TRIED {
            return None;
        }
        // Most often the two that are drawn are well, and nobody has to look at the others.
        if let Some((one, two)) = draw(&targets)
            && is_good(one)
            && is_good(two)
        {
            return Some(Arc::clone(lesser(one, two)));
        }
        let mut left: Vec<_> = targets.iter().filter(|target| is_good(target)).collect();
        if left.is_empty() {
            left.extend(targets.iter().filter(|target| !is_tried(target)));
        }
        match draw(&left) {
            Some((one, two)) => Some(Arc::clone(lesser(one, two))),
            None => left.first().copied().map(Arc::clone),
        }
    }
}

/// Two different ones, each pair in each order as likely as any other.
fn draw<T>(of: &[T]) -> Option<(&T, &T)> {
    let count = of.len();
    if count < 2 {
        return None;
    }
    let chance = process::dice();
    // The halves of a number, each scaled to a range (D. Lemire, "Fast Random Integer Generation in an Interval",
    // 2019): the bias is below one in ten million for as many as there may be.
    let scaled = |half: u64, range: usize| (half * range as u64 >> 32) as usize;
    let one = scaled(chance >> 32, count);
    let two = scaled(chance & u64::from(u32::MAX), count - 1);
    Some((&of[one], &of[if two < one { two } else { two + 1 }]))
}

/// The one with fewer requests under way; of equals the first one, which is as much by lot as the other.
fn lesser<'a>(one: &'a Arc<Target>, two: &'a Arc<Target>) -> &'a Arc<Target> {
    if two.in_flight() < one.in_flight() {
        two
    } else {
        one
    }
}
