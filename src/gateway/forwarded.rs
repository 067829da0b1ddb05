//! Where a request comes from: what proxies before this one say of it, as far as they are trusted, and what the upstream
//! is told (`X-Forwarded-For`, `-Proto`, `-Host`; `Forwarded`, RFC 7239).
//!
//! A proxy vouches for whom it got a request from, and for nothing that this one said. So the way is followed back from
//! the connection's peer for as long as those are trusted who speak, and ends with the first that is not: the client. What
//! was said before that, by whoever, is not repeated to anybody.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::server::{Peer, is_plain_host};

/// The name of the list of addresses.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The name of the scheme.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The name of the host.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The longest way that is followed back, in proxies: no request takes a longer one.
const MAX_HOPS: usize = 32;

/// The client's address, where trusted proxies tell it; `None` where it is the peer's, for all that is known.
pub fn client(headers: &HeaderMap, peer: &Peer) -> Option<IpAddr> {
    if !peer.is_trusted() {
        return None;
    }
    Way::back(headers, peer).hops.last().copied()
}

/// Tells the upstream where a request comes from. `host` is the one that the request asks for.
pub fn tell(headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>) {
    let scheme = if peer.is_encrypted() { "https" } else { "http" };
    let scheme = HeaderValue::from_static(scheme);
    let addr = peer.addr.map(|addr| addr.ip());
    if !peer.is_trusted() {
        headers.remove(FORWARDED);
        set(headers, X_FORWARDED_FOR, addr.and_then(address));
        set(headers, X_FORWARDED_HOST, host.cloned());
        headers.insert(X_FORWARDED_PROTO, scheme);
        return;
    }
    let way = Way::back(headers, peer);
    let told_host = way.host(headers).or_else(|| host.cloned());
    let told_scheme = way.scheme(headers).unwrap_or_else(|| scheme.clone());
    let forwarded = way.forwarded(addr, host, &scheme);
    set(headers, FORWARDED, forwarded);
    set(headers, X_FORWARDED_FOR, way.list(addr));
    set(headers, X_FORWARDED_HOST, told_host);
    headers.insert(X_FORWARDED_PROTO, told_scheme);
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

/// The address as a header's value. It is written for every request, which is why it does not go through [`fmt`].
///
/// [`fmt`]: std::fmt
fn address(peer: IpAddr) -> Option<HeaderValue> {
    let IpAddr::V4(peer) = peer.to_canonical() else {
        return HeaderValue::from_str(&peer.to_string()).ok();
    };
    let mut text = BytesMut::with_capacity("255.255.255.255".len());
    for octet in peer.octets() {
        if !text.is_empty() {
            text.put_u8(b'.');
        }
        text.put_slice(itoa::Buffer::new().format(octet).as_bytes());
    }
    HeaderValue::from_maybe_shared(text.freeze()).ok()
}

/// How a request came to a peer that is trusted.
struct Way {
    /// From the peer back: whom each got the request from. All but the last are trusted.
    hops: Vec<IpAddr>,
    /// What `Forwarded` says of each, in the order of the header; empty where it does not say the same.
    elements: Vec<String>,
}

impl Way {
    fn back(headers: &HeaderMap, peer: &Peer) -> Self {
        let listed = headers.contains_key(X_FORWARDED_FOR).then(|| {
            let addresses =
                backwards(headers, &X_FORWARDED_FOR, ',').map(|node| node_address(&node));
            as_far_as_trusted(addresses, peer)
        });
        let elements: Vec<String> = backwards(headers, &FORWARDED, ',').take(MAX_HOPS).collect();
        let addresses = elements
            .iter()
            .map(|element| node_address(&parameter(element, "for")?));
        let told = as_far_as_trusted(addresses, peer);
        // A proxy that knows only one of the headers lets its client's word in the other one through.
        let agrees = listed.as_ref().is_none_or(|listed| *listed == told);
        let mut elements = if agrees { elements } else { Vec::new() };
        elements.truncate(told.len());
        elements.reverse();
        Self {
            hops: listed.unwrap_or(told),
            elements,
        }
    }

    /// `X-Forwarded-For` for the upstream.
    fn list(&self, peer: Option<IpAddr>) -> Option<HeaderValue> {
        let hops = self.hops.iter().rev().copied().chain(peer);
        let texts: Vec<String> = hops.map(|hop| hop.to_canonical().to_string()).collect();
        let is_known = !texts.is_empty();
        is_known.then(|| HeaderValue::from_str(&texts.join(", ")).ok())?
    }

    /// `Forwarded` for the upstream, where it was used before.
    fn forwarded(
        &self,
        peer: Option<IpAddr>,
        host: Option<&HeaderValue>,
        scheme: &HeaderValue,
    ) -> Option<HeaderValue> {
        if self.elements.is_empty() {
            return None;
        }
        let mut text = self.elements.join(", ");
        // Writing to a string does not fail.
        let _ = match peer.map(|peer| peer.to_canonical()) {
            None => write!(text, ", for=unknown"),
            Some(IpAddr::V4(peer)) => write!(text, ", for={peer}"),
            Some(IpAddr::V6(peer)) => write!(text, ", for=\"[{peer}]\""),
        };
        if let Some(host) = host.and_then(|host| host.to_str().ok()) {
            let _ = write!(text, ";host=\"{host}\"");
        }
        let _ = write!(text, ";proto={}", scheme.to_str().unwrap_or_default());
        HeaderValue::from_str(&text).ok()
    }

    /// The host that the peer was asked for.
    fn host(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let told = backwards(headers, &X_FORWARDED_HOST, ',').next();
        let told = told.or_else(|| parameter(self.elements.last()?, "host"))?;
        is_plain_host(told.as_bytes()).then(|| HeaderValue::from_str(&told).ok())?
    }

    /// The scheme that the peer was asked by.
    fn scheme(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let told = backwards(headers, &X_FORWARDED_PROTO, ',').next();
        let told = told.or_else(|| parameter(self.elements.last()?, "proto"))?;
        let known = ["http", "https", "ws", "wss"].into_iter();
        let mut known = known.filter(|scheme| told.eq_ignore_ascii_case(scheme));
        known.next().map(HeaderValue::from_static)
    }
}

/// The addresses up to the first one that is not trusted, or is none.
fn as_far_as_trusted(addresses: impl Iterator<Item = Option<IpAddr>>, peer: &Peer) -> Vec<IpAddr> {
    let mut hops = Vec::new();
    for address in addresses.take(MAX_HOPS).map_while(|address| address) {
        hops.push(address.to_canonical());
        if !peer.trusted_proxies().contains(Some(address)) {
            break;
        }
    }
    hops
}

/// The members of a list, of all lines together, from the last to the first; empty ones left out.
fn backwards<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    mark: char,
) -> impl Iterator<Item = String> + 'h {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(move |line| {
        // What is not ASCII is no member that anybody knows.
        let line = line.to_str().unwrap_or("?");
        let mut members: Vec<String> = split(line, mark);
        members.reverse();
        members
    })
}

/// Splits at marks that are not within quotes. Read from its end, which is the proxy's: a quote that its client left open
/// does not swallow what the proxy says behind it.
fn split(text: &str, mark: char) -> Vec<String> {
    let (mut parts, mut end, mut is_quoted) = (Vec::new(), text.len(), false);
    for (place, char) in text.char_indices().rev() {
        if char == mark && !is_quoted {
            parts.push(&text[place + char.len_utf8()..end]);
            end = place;
        }
        is_quoted ^= char == '"' && !is_escaped(&text[..place]);
    }
    parts.push(&text[..end]);
    let parts = parts.iter().rev().map(|part| part.trim().to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

/// Whether what comes after this is escaped.
fn is_escaped(before: &str) -> bool {
    let backslashes = before.bytes().rev().take_while(|byte| *byte == b'\\');
    backslashes.count() % 2 == 1
}

/// A parameter of an element of `Forwarded`.
fn parameter(element: &str, name: &str) -> Option<String> {
    let parameters = split(element, ';');
    let mut values = parameters.iter().filter_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then_some(value.trim())
    });
    let value = values.next()?;
    // Said twice, it says nothing.
    if values.next().is_some() {
        return None;
    }
    let inner = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    Some(inner.unwrap_or(value).to_owned())
}

/// The address of a node: alone, in brackets, or with a port.
fn node_address(node: &str) -> Option<IpAddr> {
    if let Ok(address) = node.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = node.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    node.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{ListenAddress, ListenerConfig, TrustedProxy};
    use crate::server::Entrance;

    /// Somebody at a listener that trusts these networks; nobody's address is one behind a Unix socket.
    pub fn peer(address: &str, trusted: &[&str]) -> Peer {
        let any = SocketAddr::from(([127, 0, 0, 1], 80));
        let proxy = |text: &&str| match *text {
            "unix:" => TrustedProxy::Unix,
            net => TrustedProxy::Net(net.parse().unwrap()),
        };
        let config = ListenerConfig {
            trusted_proxies: trusted.iter().map(proxy).collect(),
            ..ListenerConfig::plain(any)
        };
        let addr = address.parse().ok().map(|ip| SocketAddr::new(ip, 4711));
        let entrance = Arc::new(Entrance::new(&config).unwrap());
        entrance.peer(addr, ListenAddress::Tcp(any))
    }

    /// What the upstream is told of these lines, each `name: value`, by 10.0.0.1 where 10/8 and 2001:db8::/32 are
    /// trusted, and who the client is.
    fn told(lines: &[&str]) -> (Vec<String>, Option<String>) {
        told_by("10.0.0.1", lines)
    }

    fn told_by(proxy: &str, lines: &[&str]) -> (Vec<String>, Option<String>) {
        let peer = peer(proxy, &["10.0.0.0/8", "2001:db8::/32", "unix:"]);
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let client = client(&headers, &peer).map(|client| client.to_string());
        tell(
            &mut headers,
            &peer,
            Some(&HeaderValue::from_static("a.example")),
        );
        let names = [
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_FORWARDED_HOST,
            FORWARDED,
        ];
        let values = names.iter().map(|name| {
            let lines: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect();
            lines.join(" | ")
        });
        (values.collect(), client)
    }

    fn is(lines: &[&str], expected: [&str; 4], client: Option<&str>) {
        let found = told(lines);
        assert_eq!(found.0, expected, "{lines:?}");
        assert_eq!(found.1.as_deref(), client, "{lines:?}");
    }

    #[test]
    fn what_somebody_says_who_is_not_trusted_is_replaced() {
        let lines = [
            "x-forwarded-for: 1.2.3.4",
            "x-forwarded-proto: https",
            "x-forwarded-host: evil.example",
            "forwarded: for=1.2.3.4",
        ];
        let (told, client) = told_by("192.0.2.1", &lines);
        assert_eq!(told, ["192.0.2.1", "http", "a.example", ""]);
        assert_eq!(client, None);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_continued() {
        is(&[], ["10.0.0.1", "http", "a.example", ""], None);
        is(
            &[
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-proto: HTTPS",
                "x-forwarded-host: shop.example:8443",
            ],
            ["192.0.2.7, 10.0.0.1", "https", "shop.example:8443", ""],
            Some("192.0.2.7"),
        );
        // By several proxies, on several lines, with ports.
        is(
            &[
                "x-forwarded-for: 192.0.2.7:5000,10.2.0.1",
                "x-forwarded-for: [2001:db8::1]:99",
            ],
            [
                "192.0.2.7, 10.2.0.1, 2001:db8::1, 10.0.0.1",
                "http",
                "a.example",
                "",
            ],
            Some("192.0.2.7"),
        );
        is(
            &["x-forwarded-for: 10.3.0.1, 10.2.0.1"],
            ["10.3.0.1, 10.2.0.1, 10.0.0.1", "http", "a.example", ""],
            Some("10.3.0.1"),
        );
    }

    #[test]
    fn what_the_client_of_a_trusted_proxy_says_is_not_repeated() {
        is(
            &["x-forwarded-for: 8.8.8.8, 10.9.9.9, 192.0.2.7, 10.2.0.1"],
            ["192.0.2.7, 10.2.0.1, 10.0.0.1", "http", "a.example", ""],
            Some("192.0.2.7"),
        );
        is(
            &[
                "x-forwarded-proto: https, http",
                "x-forwarded-host: evil.example, shop.example",
            ],
            ["10.0.0.1", "http", "shop.example", ""],
            None,
        );
    }

    #[test]
    fn garbage_ends_the_way() {
        for garbage in [
            "unknown",
            "_hidden",
            "10.0.0",
            "1.2.3.4.5",
            "\"10.0.0.9\"",
            "a b",
            "::1:x",
            "-",
        ] {
            is(
                &[&format!("x-forwarded-for: 1.2.3.4, {garbage}, 10.2.0.1")],
                ["10.2.0.1, 10.0.0.1", "http", "a.example", ""],
                Some("10.2.0.1"),
            );
        }
        is(
            &[
                "x-forwarded-for: , ,",
                "x-forwarded-proto: gopher",
                "x-forwarded-host: a b",
                "forwarded: ;;=,",
            ],
            ["10.0.0.1", "http", "a.example", ""],
            None,
        );
    }

    #[test]
    fn a_list_however_long_is_followed_for_so_long_and_no_longer() {
        let long = vec!["10.1.1.1"; 5000].join(",");
        let (told, client) = told(&[&format!("x-forwarded-for: {long}")]);
        assert_eq!(told[0].split(", ").count(), MAX_HOPS + 1);
        assert_eq!(client.as_deref(), Some("10.1.1.1"));
        let (forwarded, _) = super::tests::told(&[&format!(
            "forwarded: {}",
            vec!["for=10.1.1.1"; 5000].join(",")
        )]);
        assert_eq!(forwarded[3].split(", ").count(), MAX_HOPS + 1);
    }

    #[test]
    fn forwarded_is_continued_as_far_as_it_is_trusted() {
        let theirs =
            "for=192.0.2.7;proto=https;host=\"shop.example\", for=\"[2001:db8::7]:80\";proto=https";
        is(
            &[&format!("forwarded: for=8.8.8.8, {theirs}")],
            [
                "192.0.2.7, 2001:db8::7, 10.0.0.1",
                "https",
                "a.example",
                &format!("{theirs}, for=10.0.0.1;host=\"a.example\";proto=http"),
            ],
            Some("192.0.2.7"),
        );
        let (told, _) = told_by(
            "2001:db8::1",
            &["forwarded: for=192.0.2.7;host=\"b.example\""],
        );
        let ours = "for=\"[2001:db8::1]\";host=\"a.example\";proto=http";
        assert_eq!(
            told[2..],
            [
                "b.example",
                &format!("for=192.0.2.7;host=\"b.example\", {ours}")
            ]
        );
    }

    #[test]
    fn forwarded_of_a_client_does_not_get_past_a_proxy_that_knows_the_other_headers_alone() {
        is(
            &[
                "x-forwarded-for: 192.0.2.7",
                "forwarded: for=10.5.5.5;host=evil.example;proto=https",
            ],
            ["192.0.2.7, 10.0.0.1", "http", "a.example", ""],
            Some("192.0.2.7"),
        );
        is(
            &[
                "x-forwarded-for: 192.0.2.7",
                "forwarded: for=192.0.2.7;proto=https",
            ],
            [
                "192.0.2.7, 10.0.0.1",
                "https",
                "a.example",
                "for=192.0.2.7;proto=https, for=10.0.0.1;host=\"a.example\";proto=http",
            ],
            Some("192.0.2.7"),
        );
    }

    #[test]
    fn commas_within_quotes_are_no_ends() {
        is(
            &["forwarded: for=8.8.8.8;by=\"a, for=10.7.7.7\", for=10.2.0.1"],
            [
                "8.8.8.8, 10.2.0.1, 10.0.0.1",
                "http",
                "a.example",
                "for=8.8.8.8;by=\"a, for=10.7.7.7\", for=10.2.0.1, for=10.0.0.1;host=\"a.example\";proto=http",
            ],
            Some("8.8.8.8"),
        );
    }

    #[test]
    fn a_quote_that_a_client_left_open_hides_nobody() {
        for open in ["\"", "x=\"\\", "\\\"", "\"a\\\"", "for=\"10.7.7.7"] {
            is(
                &[&format!("x-forwarded-for: {open}, 192.0.2.7")],
                ["192.0.2.7, 10.0.0.1", "http", "a.example", ""],
                Some("192.0.2.7"),
            );
            is(
                &[&format!("forwarded: {open}, for=192.0.2.7;by=\"a\\\", b\"")],
                [
                    "192.0.2.7, 10.0.0.1",
                    "http",
                    "a.example",
                    "for=192.0.2.7;by=\"a\\\", b\", for=10.0.0.1;host=\"a.example\";proto=http",
                ],
                Some("192.0.2.7"),
            );
        }
    }

    #[test]
    fn who_opens_a_trusted_socket_tells_the_client_and_has_no_address() {
        let (told, client) = told_by("unix", &["x-forwarded-for: 192.0.2.7"]);
        assert_eq!(
            (told[0].as_str(), client.as_deref()),
            ("192.0.2.7", Some("192.0.2.7"))
        );
        let (told, client) = told_by("unix", &[]);
        assert_eq!((told[0].as_str(), client), ("", None));
    }
}
