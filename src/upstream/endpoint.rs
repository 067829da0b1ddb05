//! One endpoint of an upstream, as it is configured: where it is, and how one speaks to it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;

use super::resolver;
use super::socket::Address;
use super::stats::EndpointCounters;
use super::tls::{Offer, Security};
use crate::config::{self, UpstreamConfig, UpstreamEndpoint, UpstreamProtocol};

pub(super) struct Endpoint {
    /// As it is configured.
    pub(super) label: Box<str>,
    pub(super) counters: EndpointCounters,
    pub(super) place: Where,
    /// Where TLS is spoken to it.
    security: Option<Security>,
    /// The protocols that it has the choice of.
    offer: Offer,
}

pub(super) enum Where {
    /// All addresses that it has.
    Name { host: String, port: u16 },
    /// This one.
    Address(Address),
}

impl Where {
    fn of(endpoint: &config::Endpoint) -> Self {
        let config::Endpoint { host, port } = endpoint;
        match host.parse::<IpAddr>() {
            Ok(address) => Self::Address(Address::Tcp(SocketAddr::new(address, *port))),
            Err(_) => Self::Name {
                host: host.clone(),
                port: *port,
            },
        }
    }
}

impl Endpoint {
    pub(super) fn all(config: &UpstreamConfig) -> Vec<Self> {
        let endpoints = config.endpoints.iter();
        endpoints
            .map(|endpoint| Self::new(endpoint, config))
            .collect()
    }

    pub(super) fn new(endpoint: &UpstreamEndpoint, config: &UpstreamConfig) -> Self {
        let offer = match (config.protocol, endpoint) {
            (UpstreamProtocol::Http2, _) => Offer::Http2,
            (UpstreamProtocol::Auto, UpstreamEndpoint::Https(_)) => Offer::Either,
            (UpstreamProtocol::Auto | UpstreamProtocol::Http1, _) => Offer::Http1,
        };
        let (place, security) = match endpoint {
            UpstreamEndpoint::Http(endpoint) => (Where::of(endpoint), None),
            UpstreamEndpoint::Https(endpoint) => {
                let tls = config.tls.as_ref();
                let tls = tls.expect("an `https:` endpoint is lowered with its TLS");
                (
                    Where::of(endpoint),
                    Some(Security::new(tls, &endpoint.host, offer)),
                )
            }
            UpstreamEndpoint::Unix(path) => {
                let address = Address::Unix(path.as_path().into());
                (Where::Address(address), None)
            }
        };
        Self {
            label: endpoint.to_string().into(),
            counters: EndpointCounters::default(),
            place,
            security,
            offer,
        }
    }

    /// What it is called by where no client says a host; a path has no name of its own.
    pub(super) fn authority(&self) -> Option<HeaderValue> {
        let authority = match &self.place {
            Where::Name { host, port } => format!("{host}:{port}"),
            Where::Address(Address::Tcp(address)) => address.to_string(),
            Where::Address(Address::Unix(_)) => "localhost".to_owned(),
        };
        HeaderValue::from_str(&authority).ok()
    }

    pub(super) fn security(&self) -> Option<&Security> {
        self.security.as_ref()
    }

    /// The protocols that it has the choice of for a request. HTTP/2 switches to no other one.
    pub(super) fn offer(&self, has_upgrade: bool) -> Offer {
        match self.offer {
            Offer::Either if has_upgrade => Offer::Http1,
            offer => offer,
        }
    }

    /// Its addresses now, at least one.
    ///
    /// # Errors
    /// Where the name has no address, or nobody says anything in time.
    pub(super) async fn addresses(&self, resolvers: &[SocketAddr]) -> io::Result<Vec<Address>> {
        match &self.place {
            Where::Name { host, port } => {
                let found = resolver::addresses(resolvers, host).await?;
                let at = |address| Address::Tcp(SocketAddr::new(address, *port));
                Ok(found.into_iter().map(at).collect())
            }
            Where::Address(address) => Ok(vec![address.clone()]),
        }
    }
}
