//! Connections that speak something else than HTTP from a 101 on, on pass routes (RFC 9110, section 7.8).
//!
//! The client's connection becomes a tunnel only after the upstream has said so. Until then everything is an ordinary
//! exchange, and what the upstream says instead of 101 is an ordinary answer.

use http::header::{HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request};
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

use super::headers;
use crate::server;
use crate::upstream;

/// Protocols in which whole requests would go through unseen: past the routes, and past what protects them.
const NEVER: [&str; 4] = ["h2c", "h2", "http", "tls"];

/// A client's wish to speak another protocol.
pub struct Wish {
    /// The protocols, in the order of the client's preference.
    pub protocols: HeaderValue,
    upgrade: server::Upgrade,
}

impl Wish {
    /// What the request wishes for, where it can be granted: `Upgrade` counts in HTTP/1.1 only, where `Connection`
    /// names it.
    #[must_use]
    pub fn of<B>(request: &mut Request<B>) -> Option<Self> {
        let upgrade = request.extensions_mut().remove::<server::Upgrade>()?;
        let is_named = headers::hides(request.headers(), &UPGRADE);
        if !is_named || *request.method() == Method::CONNECT {
            return None;
        }
        let protocols = protocols(request.headers())?;
        Some(Self { protocols, upgrade })
    }

    /// Joins both connections once the client has its 101. Each side's end is the other's, halves and resets included;
    /// `stop` ends both.
    pub fn grant(self, far: upstream::Tunnel, stop: CancellationToken) {
        let near = self.upgrade.clone();
        self.upgrade.tunnel(move |mut client| async move {
            let Ok(mut upstream) = far.open().await else {
                return near.break_off();
            };
            let is_whole = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                copied = copy_bidirectional(&mut client, &mut upstream) => copied.is_ok(),
            };
            if !is_whole {
                near.break_off();
                far.break_off();
            }
        });
    }
}

fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(UPGRADE).iter();
    let wanted: Vec<&str> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty() && !is_never(protocol))
        .collect();
    if wanted.is_empty() {
        return None;
    }
    HeaderValue::from_str(&wanted.join(", ")).ok()
}

fn is_never(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim();
    NEVER.iter().any(|never| name.eq_ignore_ascii_case(never))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_that_carries_requests_is_not_asked_for() {
        let asked = |line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(line));
            protocols(&headers)
        };
        assert_eq!(asked("websocket").unwrap(), "websocket");
        assert_eq!(asked("H2C, foo/2 , TLS/1.2,bar").unwrap(), "foo/2, bar");
        assert_eq!(asked("h2c"), None);
        assert_eq!(asked("HTTP/2.0, h2c ,"), None);
    }
}
