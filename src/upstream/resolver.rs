//! What addresses a name has, by those who know: `/etc/hosts`, DNS, and what else the system asks.
//!
//! DNS is asked in here and not through the C library, since only so an answer comes with the time for which it is good.
//! A name that neither the file nor DNS knows may still be known to the system (`myhostname`, mDNS): that one is asked last.
//!
//! Everything is read anew for each question, so that a changed `/etc/resolv.conf` counts from the next one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver, system_conf};
use tokio::time::timeout;

/// How long one server is waited for before the next one, or the same one again; a lost packet costs no more.
const TRY: Duration = Duration::from_secs(1);

/// How long all of it may take.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// How much longer than the addresses of one family those of the other are waited for: some servers never answer for
/// the one that they do not know.
const GRACE: Duration = Duration::from_millis(300);

/// For how long an answer is good: no less, for the sake of the servers, and no more, whatever they say.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// For how long an answer is good that comes with no time of its own: a file's, or the system's.
const UNTIMED: Duration = Duration::from_secs(10);

/// What is known about a name.
pub(super) struct Answer {
    /// Of IPv4 and of IPv6. `None`: nobody said anything in time. Not both are empty or `None`.
    pub(super) families: [Option<Vec<IpAddr>>; 2],
    pub(super) good_for: Duration,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// Whoever was asked said so.
    #[error("the name has no address")]
    NoAddress,
    /// Nobody answered, or nobody could be asked.
    #[error("the name could not be resolved: {0}")]
    NoAnswer(String),
}

impl Answer {
    fn untimed(addresses: Vec<IpAddr>) -> Self {
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Self {
            families: [Some(v4), Some(v6)],
            good_for: UNTIMED,
        }
    }

    fn addresses(self) -> Vec<IpAddr> {
        self.families.into_iter().flatten().flatten().collect()
    }
}

/// Asks for a name.
///
/// `servers`: who is asked, and nobody else, for the name as it stands. Where there are none, it is asked for as the
/// system would: `/etc/hosts`, then the servers and the search list of `/etc/resolv.conf`, then the system itself.
///
/// # Errors
/// See [`Unknown`]; also where it takes longer than [`LIMIT`].
pub(super) async fn look_up(servers: &[SocketAddr], host: &str) -> Result<Answer, Unknown> {
    let asking = async {
        match servers {
            [] => by_system(host).await,
            servers => Dns::of(servers)?.first_of(vec![absolute(host)?]).await,
        }
    };
    match timeout(LIMIT, asking).await {
        Ok(answer) => answer,
        Err(over) => Err(Unknown::NoAnswer(over.to_string())),
    }
}

/// The addresses that this host has a way to; all of them where that is none.
pub(super) fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (near, far): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|one| has_route(*one));
    match near.is_empty() {
        true => far,
        false => near,
    }
}

/// As the kernel sees it; nothing is sent (RFC 6724, section 6, rule 1).
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((address, 9)).is_ok())
}

async fn by_system(host: &str) -> Result<Answer, Unknown> {
    let Ok(name) = absolute(host) else {
        return by_library(host).await;
    };
    if let Some(addresses) = in_hosts(&name) {
        return Ok(Answer::untimed(addresses));
    }
    // Where there is no such file, the library has its own idea of whom to ask.
    let Ok((config, options)) = system_conf::read_system_conf() else {
        return by_library(host).await;
    };
    let names = candidates(host, &name, &config, options.ndots);
    match Dns::new(config, options)?.first_of(names).await {
        // What is denied twice is not there.
        Err(Unknown::NoAddress) => by_library(host).await.map_err(|_| Unknown::NoAddress),
        answer => answer,
    }
}

/// As every other program of the system would be told.
async fn by_library(host: &str) -> Result<Answer, Unknown> {
    let found = tokio::net::lookup_host((host, 0)).await;
    let found: Vec<IpAddr> = found
        .map_err(|error| Unknown::NoAnswer(error.to_string()))?
        .map(|address| address.ip())
        .collect();
    match found.is_empty() {
        true => Err(Unknown::NoAddress),
        false => Ok(Answer::untimed(found)),
    }
}

fn absolute(host: &str) -> Result<Name, Unknown> {
    let mut name = Name::from_str_relaxed(host).map_err(|_| Unknown::NoAddress)?;
    name.set_fqdn(true);
    Ok(name)
}

fn in_hosts(name: &Name) -> Option<Vec<IpAddr>> {
    let hosts = Hosts::from_system().ok()?;
    let of = |family| {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), family));
        found.into_iter().flat_map(|found| {
            let records = found.answers().iter();
            records
                .filter_map(|record| record.data.ip_addr())
                .collect::<Vec<_>>()
        })
    };
    let found: Vec<IpAddr> = of(RecordType::A).chain(of(RecordType::AAAA)).collect();
    (!found.is_empty()).then_some(found)
}

/// What a name may stand for, the likeliest first (resolv.conf(5): `search`, `ndots`).
fn candidates(host: &str, name: &Name, config: &ResolverConfig, ndots: usize) -> Vec<Name> {
    if host.ends_with('.') || name.is_localhost() {
        return vec![name.clone()];
    }
    let mut relative = name.clone();
    relative.set_fqdn(false);
    let domains = match config.search() {
        [] => config
            .domain()
            .map(std::slice::from_ref)
            .unwrap_or_default(),
        search => search,
    };
    let mut names: Vec<Name> = domains
        .iter()
        .filter_map(|domain| relative.clone().append_domain(domain).ok())
        .collect();
    let is_long = host.matches('.').count() >= ndots;
    names.insert(if is_long { 0 } else { names.len() }, name.clone());
    names
}

struct Dns(TokioResolver);

/// The addresses of one family, and for how long they are good.
type Family = Result<(Vec<IpAddr>, Duration), Unknown>;

impl Dns {
    fn of(servers: &[SocketAddr]) -> Result<Self, Unknown> {
        let server = |address: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.into_iter().map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.collect())
        };
        let servers = servers.iter().map(server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        Self::new(config, ResolverOpts::default())
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, Unknown> {
        options.timeout = options.timeout.min(TRY);
        // One after the other: the first one may know names that the second one denies.
        options.num_concurrent_reqs = 1;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.use_hosts_file = ResolveHosts::Never;
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let built = builder.build();
        built.map(Self).map_err(|error| no_answer(&error))
    }

    /// The first of these names that exists. Silence about one says nothing about the next one, so that it ends there.
    async fn first_of(&self, names: Vec<Name>) -> Result<Answer, Unknown> {
        for name in names {
            match self.both(name).await {
                Err(Unknown::NoAddress) => {}
                answer => return answer,
            }
        }
        Err(Unknown::NoAddress)
    }

    async fn both(&self, name: Name) -> Result<Answer, Unknown> {
        let v4 = pin!(self.family(name.clone(), RecordType::A));
        let v6 = pin!(self.family(name, RecordType::AAAA));
        let (v4, v6) = match select(v4, v6).await {
            Either::Left((v4, v6)) => {
                let v6 = other(&v4, v6).await;
                (v4, v6)
            }
            Either::Right((v6, v4)) => (other(&v6, v4).await, v6),
        };
        let both = [v4, v6];
        let good_for = both.iter().flatten().filter(|found| !found.0.is_empty());
        if let Some(good_for) = good_for.map(|found| found.1).min() {
            return Ok(Answer {
                families: both.map(|family| family.ok().map(|found| found.0)),
                good_for,
            });
        }
        let silence = both.into_iter().find_map(Result::err);
        Err(silence.unwrap_or(Unknown::NoAddress))
    }

    async fn family(&self, name: Name, family: RecordType) -> Family {
        let found = match self.0.lookup(name, family).await {
            Ok(found) => found,
            Err(error) if says_none(&error) => return Ok((Vec::new(), TTL.0)),
            Err(error) => return Err(no_answer(&error)),
        };
        let records = found.answers();
        let ttl = records.iter().map(|record| record.ttl).min();
        let addresses = records.iter().filter_map(|record| record.data.ip_addr());
        let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
        Ok((addresses.collect(), ttl.clamp(TTL.0, TTL.1)))
    }
}

/// What is heard of the other family, once one is known.
async fn other(known: &Family, other: impl Future<Output = Family>) -> Family {
    let has_some = known.as_ref().is_ok_and(|found| !found.0.is_empty());
    if !has_some {
        return other.await;
    }
    let heard = timeout(GRACE, other).await;
    heard.unwrap_or_else(|over| Err(Unknown::NoAnswer(over.to_string())))
}

fn says_none(error: &NetError) -> bool {
    error.is_no_records_found() || error.is_nx_domain()
}

fn no_answer(error: &NetError) -> Unknown {
    Unknown::NoAnswer(error.to_string())
}

/// The addresses of a name once, for whoever has no use for the time.
///
/// # Errors
/// As [`look_up`], as an error of the system.
pub(super) async fn addresses(servers: &[SocketAddr], host: &str) -> io::Result<Vec<IpAddr>> {
    let answer = look_up(servers, host).await;
    let answer = answer.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error.to_string()));
    Ok(reachable(answer?.addresses()))
}
