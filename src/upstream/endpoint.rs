//! One endpoint of an upstream, as it is configured: where it is, and how one speaks to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderValue;

use super::names;
use super::socket::Address;
use super::tls::Security;
use crate::config::{self, UpstreamConfig, UpstreamEndpoint, UpstreamTls};

pub(super) struct Endpoint {
    pub(super) place: Where,
    /// Where TLS is spoken to it.
    security: Option<Security>,
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
        let tls = config.tls.as_ref();
        let endpoints = config.endpoints.iter();
        endpoints.map(|endpoint| Self::new(endpoint, tls)).collect()
    }

    pub(super) fn new(endpoint: &UpstreamEndpoint, tls: Option<&UpstreamTls>) -> Self {
        let (place, security) = match endpoint {
            UpstreamEndpoint::Http(endpoint) => (Where::of(endpoint), None),
            UpstreamEndpoint::Https(endpoint) => {
                let tls = tls.expect("an `https:` endpoint is lowered with its TLS");
                (
                    Where::of(endpoint),
                    Some(Security::new(tls, &endpoint.host)),
                )
            }
            UpstreamEndpoint::Unix(path) => {
                let address = Address::Unix(path.as_path().into());
                (Where::Address(address), None)
            }
        };
        Self { place, security }
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

    /// Its addresses now, at least one.
    ///
    /// # Errors
    /// Where the name has no address, or the resolver says nothing within `limit`.
    pub(super) async fn addresses(&self, limit: Duration) -> io::Result<Vec<Address>> {
        match &self.place {
            Where::Name { host, port } => {
                let answer = names::look_up(host, limit).await?;
                Ok(answer.at(*port))
            }
            Where::Address(address) => Ok(vec![address.clone()]),
        }
    }
}
