//! The addresses of an endpoint's name, kept up to date for as long as its upstream lives.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Upstream;
use super::socket::Address;

/// Addresses of one name that requests are balanced over: more than services have instances, and a name with very
/// many holds neither memory nor requests for ever.
const MAX_ADDRESSES: usize = 256;

/// How long an answer of the resolver counts.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// How long the resolver is left alone after it has failed.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// How long the resolver may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What the resolver said about a name.
pub(super) struct Answer {
    /// At least one, each once.
    addresses: Vec<IpAddr>,
    good_for: Duration,
}

impl Answer {
    /// The addresses with this port.
    pub(super) fn at(&self, port: u16) -> Vec<Address> {
        let at = |address: &IpAddr| Address::Tcp(SocketAddr::new(*address, port));
        self.addresses.iter().map(at).collect()
    }
}

/// Asks for the addresses of a name again and again, while the upstream lives. What was said last counts while the
/// resolver fails.
pub(super) async fn keep_up(upstream: Weak<Upstream>, endpoint: usize, host: String, port: u16) {
    loop {
        let answer = look_up(&host, LIMIT).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let good_for = match answer {
            Ok(answer) => {
                upstream.balance.renew(endpoint, answer.at(port));
                answer.good_for
            }
            Err(_) => FAILED_FOR,
        };
        upstream.balance.heard(endpoint);
        drop(upstream);
        sleep(good_for).await;
    }
}

/// The addresses of a name.
///
/// # Errors
/// Where it has none, or the resolver fails or says nothing within `limit`.
pub(super) async fn look_up(host: &str, limit: Duration) -> io::Result<Answer> {
    let found = timeout(limit, tokio::net::lookup_host((host, 0))).await??;
    let mut addresses = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the name {host} has no address that could be found"),
        ));
    }
    Ok(Answer {
        addresses,
        good_for: GOOD_FOR,
    })
}
