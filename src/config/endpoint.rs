//! The endpoints of an upstream, and TLS to them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use http::uri::Authority;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use serde_json::{Value as Json, json};

use super::certificates::{self, MAX_AUTHORITIES, unreadable};
use super::file::{UpstreamFile, UpstreamTlsFile};
use super::finding::{Findings, Place};
use super::listener::{MAX_UNIX_PATH, UNIX};
use super::secret;
use super::setting::{choice, quoted};
use super::value::Text;
use super::words::is_host;
use super::{Endpoint, UpstreamProtocol};

choice!(ProtocolWord { Http1 = "http1", Auto = "auto", Http2 = "http2" } later {});

impl From<ProtocolWord> for UpstreamProtocol {
    fn from(word: ProtocolWord) -> Self {
        match word {
            ProtocolWord::Http1 => Self::Http1,
            ProtocolWord::Auto => Self::Auto,
            ProtocolWord::Http2 => Self::Http2,
        }
    }
}

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// One endpoint of an upstream, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamEndpoint {
    /// `http://HOST:PORT`
    Http(Endpoint),
    /// `https://HOST:PORT`
    Https(Endpoint),
    /// `unix:PATH`
    Unix(PathBuf),
}

/// How TLS is spoken to the endpoints of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// Who vouches for them.
    pub authorities: Arc<RootCertStore>,
    /// What they are shown where they ask.
    pub client: Option<Arc<CertifiedKey>>,
    /// Whom they have to be; `None`: the host of each.
    pub server_name: Option<ServerName<'static>>,
}

impl PartialEq for UpstreamTls {
    /// By what the files say. A key is that of its certificate, so that the certificates alone tell two apart.
    fn eq(&self, other: &Self) -> bool {
        let shown = |tls: &Self| tls.client.as_ref().map(|client| client.cert.clone());
        self.authorities.roots == other.authorities.roots
            && shown(self) == shown(other)
            && self.server_name == other.server_name
    }
}

impl Eq for UpstreamTls {}

impl fmt::Display for UpstreamEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, Endpoint { host, port }) = match self {
            Self::Http(endpoint) => (HTTP, endpoint),
            Self::Https(endpoint) => (HTTPS, endpoint),
            Self::Unix(path) => return write!(f, "{UNIX}{}", path.display()),
        };
        match host.contains(':') {
            true => write!(f, "{scheme}[{host}]:{port}"),
            false => write!(f, "{scheme}{host}:{port}"),
        }
    }
}

impl Text for UpstreamEndpoint {
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return unix(path, text);
        }
        let (rest, of): (_, fn(Endpoint) -> Self) =
            match (text.strip_prefix(HTTP), text.strip_prefix(HTTPS)) {
                (Some(rest), _) => (rest, Self::Http),
                (None, Some(rest)) => (rest, Self::Https),
                (None, None) => {
                    return Err("begins with neither `http://`, `https://` nor `unix:`".to_owned());
                }
            };
        host_and_port(rest, text).map(of)
    }

    fn meant(text: &str) -> Option<String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Some(format!("{UNIX}{path}"));
        }
        let (scheme, port) = match text.starts_with(HTTPS) {
            true => (HTTPS, 443),
            false => (HTTP, 80),
        };
        let rest = text.strip_prefix(scheme).unwrap_or(text);
        let rest = rest.trim_end_matches('/');
        let is_other = rest.contains("://") || rest.starts_with('/') || rest.starts_with(UNIX);
        let has_port = rest
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match (is_other, has_port) {
            (true, _) => None,
            (false, true) => Some(format!("{scheme}{rest}")),
            (false, false) => Some(format!("{scheme}{rest}:{port}")),
        }
    }

    fn kind() -> String {
        "`http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^(https?://[^/?#@]+:[0-9]+|unix:.+)$");
    }
}

fn unix(path: &str, text: &str) -> Result<UpstreamEndpoint, String> {
    // As in a URL, `unix:///run/…`, which this is not.
    let is_path = !path.is_empty() && !path.starts_with("//") && !path.contains('\0');
    if !is_path || path.len() > MAX_UNIX_PATH {
        return Err(format!(
            "is {}, and a socket's path has 1 to {MAX_UNIX_PATH} bytes",
            quoted(text)
        ));
    }
    Ok(UpstreamEndpoint::Unix(PathBuf::from(path)))
}

// A user and password are not repeated in what is said.
fn host_and_port(rest: &str, text: &str) -> Result<Endpoint, String> {
    if rest.contains('@') {
        return Err("has a user or password".to_owned());
    }
    for (mark, what) in [('?', "query"), ('#', "fragment"), ('/', "path")] {
        if rest.contains(mark) {
            return Err(format!("has a {what}"));
        }
    }
    let wrong = || format!("is {}", quoted(text));
    let authority: Authority = rest.parse().map_err(|_| wrong())?;
    let port = match authority.port_u16() {
        None | Some(0) => return Err(format!("is {}, without a port", quoted(text))),
        Some(port) => port,
    };
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if !is_host(host) {
        return Err(wrong());
    }
    Ok(Endpoint {
        host: host.to_owned(),
        port,
    })
}

/// A name or an address that a certificate can bear.
#[derive(Clone, Debug)]
pub(super) struct ServerNameWord(ServerName<'static>);

impl Text for ServerNameWord {
    fn from_text(text: &str) -> Result<Self, String> {
        let name = ServerName::try_from(text.to_owned());
        name.map(Self).map_err(|_| format!("is {}", quoted(text)))
    }

    fn kind() -> String {
        "a host's name, or an IP address".to_owned()
    }
}

/// TLS to the endpoints, where one of them needs it. The system's roots are read only then.
pub(super) fn tls(
    endpoints: &[UpstreamEndpoint],
    file: &UpstreamFile,
    findings: &mut Findings,
) -> Option<Option<UpstreamTls>> {
    let written = file.tls.get()?.as_ref();
    let mut hosts = endpoints.iter().filter_map(|endpoint| match endpoint {
        UpstreamEndpoint::Https(endpoint) => Some(endpoint.host.as_str()),
        UpstreamEndpoint::Http(_) | UpstreamEndpoint::Unix(_) => None,
    });
    let place = &file.endpoints.place;
    let Some(first) = hosts.next() else {
        if written.is_some() {
            let message = "is for endpoints on `https://`, and there is none";
            findings.whole(&file.tls.place, message.to_owned());
        }
        return Some(None);
    };
    let server_name = match written {
        Some(file) => file.server_name.value()?.map(|name| name.0),
        None => None,
    };
    if server_name.is_none() {
        for host in std::iter::once(first).chain(hosts) {
            if ServerName::try_from(host).is_err() {
                let message = format!(
                    "has {host}, which no certificate can bear; set `tls.server_name` to the name that it bears"
                );
                findings.whole(place, message);
            }
        }
    }
    let authorities = match written {
        Some(file) => authorities(file, place, findings),
        None => system_roots(place, findings),
    };
    let client = written.map_or(Some(None), |file| client(file, findings));
    Some(Some(UpstreamTls {
        authorities: authorities?,
        client: client?,
        server_name,
    }))
}

fn authorities(
    file: &UpstreamTlsFile,
    endpoints: &Place,
    findings: &mut Findings,
) -> Option<Arc<RootCertStore>> {
    let Some(path) = file.roots.value()? else {
        return system_roots(endpoints, findings);
    };
    secret::read_at_most(&path.0, MAX_AUTHORITIES)
        .map_err(|error| unreadable(&error))
        .and_then(|pem| certificates::authorities(&pem))
        .map_err(|wrong| findings.value(&file.roots.place, wrong))
        .ok()
}

fn system_roots(endpoints: &Place, findings: &mut Findings) -> Option<Arc<RootCertStore>> {
    let roots = certificates::system_authorities();
    if roots.is_empty() {
        let message = "has `https://`, and this system has no root certificates that could be read; install them, or \
                       set `tls.roots`";
        findings.whole(endpoints, message.to_owned());
        return None;
    }
    Some(roots)
}

fn client(file: &UpstreamTlsFile, findings: &mut Findings) -> Option<Option<Arc<CertifiedKey>>> {
    let (path, key) = match (file.certificate.value()?, file.key.value()?) {
        (None, None) => return Some(None),
        (Some(path), Some(key)) => (path.0, key),
        (Some(_), None) => {
            findings.whole(&file.certificate.place, "needs its `key`".to_owned());
            return None;
        }
        (None, Some(_)) => {
            findings.whole(&file.key.place, "needs its `certificate`".to_owned());
            return None;
        }
    };
    let chain = secret::read_file(&path).map_err(|error| unreadable(&error));
    let chain = chain
        .map_err(|wrong| findings.value(&file.certificate.place, wrong))
        .ok();
    let key = secret::bytes(&key, &file.key.place, findings);
    match certificates::certificate(&path, &chain?, &key?) {
        Ok(certificate) => {
            if certificate.is_expired() {
                let message = "the certificate has expired: servers refuse it".to_owned();
                findings.warn(&file.certificate.place, message, &[]);
            }
            Some(Some(certificate.key))
        }
        Err((is_key, wrong)) => {
            let place = if is_key {
                &file.key.place
            } else {
                &file.certificate.place
            };
            findings.value(place, wrong);
            None
        }
    }
}
