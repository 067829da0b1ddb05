//! Where clients connect: addresses, and which proxies before this gateway are believed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::certificates::{self, TlsConfig};
use super::file::ListenerFile;
use super::finding::Findings;
use super::setting::{choice, quoted};
use super::value::Text;

/// The longest path of a Unix socket, in bytes: the kernel's field has one more, for the zero at its end.
pub(super) const MAX_UNIX_PATH: usize = 107;

/// The permissions of a socket's file unless they are set: its owner and their group may connect.
pub(super) const SOCKET_MODE: u32 = 0o660;

/// What a Unix address begins with.
pub(super) const UNIX: &str = "unix:";

choice!(ProxyProtocolWord { Off = "off", Required = "required" } later {});

/// Section `[[listeners]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: ListenAddress,
    /// The permissions of a Unix socket's file.
    pub mode: u32,
    /// `None`: without TLS.
    pub tls: Option<TlsConfig>,
    /// Whether every connection has to begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Whose word on where a request comes from is taken.
    pub trusted_proxies: TrustedProxies,
}

impl ListenerConfig {
    /// One that speaks plain HTTP on this address and trusts nobody.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address: ListenAddress::Tcp(address),
            mode: 0,
            tls: None,
            proxy_protocol: false,
            trusted_proxies: TrustedProxies::default(),
        }
    }
}

/// What is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The address, unless it is a path.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Text for ListenAddress {
    fn from_text(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return SocketAddr::from_text(text).map(Self::Tcp);
        };
        // As in a URL, `unix:///run/…`, which this is not.
        if path.starts_with("//") {
            return Err(format!("is {}", quoted(text)));
        }
        if path.is_empty() || path.contains('\0') || path.len() > MAX_UNIX_PATH {
            return Err(format!(
                "is {}, and a socket's path has 1 to {MAX_UNIX_PATH} bytes",
                quoted(text)
            ));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }

    fn meant(text: &str) -> Option<String> {
        match text
            .strip_prefix("unix://")
            .or_else(|| text.starts_with('/').then_some(text))
        {
            Some(path) => Some(format!("{UNIX}{path}")),
            None => SocketAddr::meant(text),
        }
    }

    fn kind() -> String {
        format!(
            "{}, or a path, such as \"unix:/run/oncegate.sock\"",
            <SocketAddr as Text>::kind()
        )
    }
}

/// The permissions of a socket's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketMode(u32);

impl Text for SocketMode {
    fn from_text(text: &str) -> Result<Self, String> {
        let is_octal =
            matches!(text.len(), 3 | 4) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) if is_octal => Ok(Self(mode)),
            _ => Err(format!("is {}", quoted(text))),
        }
    }

    fn meant(text: &str) -> Option<String> {
        text.strip_prefix("0o").map(str::to_owned)
    }

    fn kind() -> String {
        "permissions as three octal digits, such as \"0660\"".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^0?[0-7]{3}$");
    }
}

/// The proxies before a listener whose word is taken. By default nobody's is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    nets: Arc<[IpNet]>,
    has_unix: bool,
}

impl TrustedProxies {
    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && !self.has_unix
    }

    /// Whether it is one of them; without an address: somebody behind a Unix socket.
    #[must_use]
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        match address.map(|address| address.to_canonical()) {
            Some(address) => self.nets.iter().any(|net| net.contains(&address)),
            None => self.has_unix,
        }
    }
}

impl FromIterator<TrustedProxy> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = TrustedProxy>>(proxies: I) -> Self {
        let (mut nets, mut has_unix) = (Vec::new(), false);
        for proxy in proxies {
            match proxy {
                TrustedProxy::Net(net) => nets.push(net),
                TrustedProxy::Unix => has_unix = true,
            }
        }
        Self {
            nets: nets.into(),
            has_unix,
        }
    }
}

/// One entry of `trusted_proxies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Everybody in a network.
    Net(IpNet),
    /// Whoever may open the listener's Unix socket.
    Unix,
}

impl Text for TrustedProxy {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == UNIX {
            return Ok(Self::Unix);
        }
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse::<IpNet>(),
        };
        match net {
            // `10.1.2.3/8` may be a slip in either half.
            Ok(net) if net.trunc() != net => Err(format!(
                "is {}, which has bits behind its prefix; the network is {}",
                quoted(text),
                net.trunc()
            )),
            Ok(net) => Ok(Self::Net(net)),
            Err(_) => Err(format!("is {}", quoted(text))),
        }
    }

    fn kind() -> String {
        "an IP address, a network such as \"10.0.0.0/8\" or \"fd00::/8\", or \"unix:\"".to_owned()
    }
}

pub(super) fn listener(file: &ListenerFile, findings: &mut Findings) -> Option<ListenerConfig> {
    let tls = match file.tls.get()? {
        Some(tls) => certificates::tls(tls, &file.tls.place, findings).map(Some),
        None => Some(None),
    };
    let address = file.address.value()?;
    let trusted: TrustedProxies = file.trusted_proxies.value()?.into_iter().collect();
    let proxy_protocol = file.proxy_protocol.value()? == ProxyProtocolWord::Required;
    let is_unix = address.tcp().is_none();
    if let (false, Some(place)) = (is_unix, file.mode.written()) {
        findings.whole(place, "is for listeners on `unix:`".to_owned());
    }
    if trusted.has_unix && !is_unix {
        let message = "names \"unix:\", which is for listeners on `unix:`; name networks";
        findings.whole(&file.trusted_proxies.place, message.to_owned());
    }
    if proxy_protocol && !is_unix && trusted.nets.is_empty() {
        let message = "needs `trusted_proxies`, the networks of those who may say where a connection comes from";
        findings.whole(&file.proxy_protocol.place, message.to_owned());
    }
    if proxy_protocol && is_unix && !trusted.has_unix {
        let message = "needs `trusted_proxies = [\"unix:\"]`: whoever opens the socket says where a connection comes \
                       from";
        findings.whole(&file.proxy_protocol.place, message.to_owned());
    }
    Some(ListenerConfig {
        address,
        mode: file.mode.value()?.map_or(SOCKET_MODE, |mode| mode.0),
        tls: tls?,
        proxy_protocol,
        trusted_proxies: trusted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_or_a_path() {
        let read = ListenAddress::from_text;
        assert_eq!(
            read("[::1]:80"),
            Ok(ListenAddress::Tcp("[::1]:80".parse().unwrap()))
        );
        assert_eq!(
            read("unix:/run/a.sock"),
            Ok(ListenAddress::Unix("/run/a.sock".into()))
        );
        assert_eq!(
            read("unix:/run/a.sock").unwrap().to_string(),
            "unix:/run/a.sock"
        );
        for wrong in [
            "",
            "unix:",
            "a:80",
            "unix:a\0b",
            "unix:///run/a",
            &format!("unix:/{}", "a".repeat(107)),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for slip in ["unix:///run/a.sock", "/run/a.sock"] {
            let meant = ListenAddress::meant(slip);
            assert_eq!(meant.as_deref(), Some("unix:/run/a.sock"), "{slip}");
        }
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(SocketMode::from_text("0660").unwrap().0, 0o660);
        assert_eq!(SocketMode::from_text("600").unwrap().0, 0o600);
        for wrong in ["", "66", "0o660", "0680", "1777", "+660", "rw-"] {
            assert!(SocketMode::from_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_are_trusted_whichever_way_their_addresses_are_written() {
        let list = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"];
        let proxies: TrustedProxies = list
            .iter()
            .map(|text| TrustedProxy::from_text(text).unwrap())
            .collect();
        for (address, is_trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("11.0.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(proxies.contains(Some(address)), is_trusted, "{address}");
        }
        assert!(!proxies.contains(None));
        assert!(!TrustedProxies::default().contains(None));
        assert!(
            [TrustedProxy::Unix]
                .into_iter()
                .collect::<TrustedProxies>()
                .contains(None)
        );
        for wrong in ["", "10.0.0.0/33", "10.1.0.0/8", "localhost", "unix:/run/x"] {
            assert!(TrustedProxy::from_text(wrong).is_err(), "{wrong}");
        }
    }
}
