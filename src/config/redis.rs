//! A store on servers that speak Redis' protocol: its URLs, and what else `[store]` says of it.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::Endpoint;
use super::file::{StoreFile, StoreTlsFile};
use super::finding::Findings;
use super::secret;
use super::setting::type_in_words;
use super::value::{Scalar, Text};

/// The port of a server unless one is named; that of sentinels is another one.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The last database that a server may be asked for; servers have 16 unless they were told otherwise.
const MAX_DATABASE: u32 = 65_535;

/// The most replicas that a claim may wait for: nobody has more for each primary.
const MAX_REPLICAS: u32 = 16;

/// Servers, and how they are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// How they belong together.
    pub form: RedisForm,
    /// At least one: the server, the sentinels, or servers of the cluster.
    pub servers: Vec<Endpoint>,
    /// The ACL user; the default one where none is named.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<Password>,
    /// Whom the sentinels know the gateway as; the default user where none is named.
    pub sentinel_user: Option<String>,
    /// The password of the sentinels, if they have one.
    pub sentinel_password: Option<Password>,
    /// The database.
    pub database: u32,
    /// `None`: without TLS.
    pub tls: Option<RedisTls>,
    /// How many replicas have to have a claim before it counts.
    pub replicas_ack: u32,
    /// A gateway that finds no store begins one.
    pub begin: bool,
}

/// How servers belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisForm {
    /// One server, or a name behind which it is found.
    Single,
    /// A master and its replicas, found through sentinels.
    Sentinel {
        /// The name of the master.
        master: String,
    },
    /// A cluster.
    Cluster,
}

/// A password, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Whom TLS trusts, and what it shows. All in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The roots to trust; `None`: those of the system.
    pub roots: Option<Vec<u8>>,
    /// What the servers are shown.
    pub client: Option<ClientCertificate>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and those above it.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: PrivateKey,
}

/// A private key, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub Vec<u8>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A file, by its path.
#[derive(Clone, Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

impl Text for FilePath {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("is empty".to_owned()),
            text if text.contains('\0') => Err("is not a path".to_owned()),
            text => Ok(Self(PathBuf::from(text))),
        }
    }

    fn kind() -> String {
        "a path".to_owned()
    }
}

/// An ACL user.
#[derive(Clone, Debug)]
pub(super) struct User(pub(super) String);

impl Text for User {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("is empty".to_owned()),
            // As the servers have it.
            text if text.contains([' ', '\0']) => Err("is not the name of a user".to_owned()),
            text => Ok(Self(text.to_owned())),
        }
    }

    fn kind() -> String {
        "the name of a user".to_owned()
    }
}

/// How many replicas have to have a claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicasAck(u32);

impl Scalar for ReplicasAck {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Integer(number) = value else {
            return Err(format!("is {}", type_in_words(value)));
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(count @ 0..=MAX_REPLICAS) => Ok(Self(count)),
            _ => Err(format!("is {number}")),
        }
    }

    fn kind() -> String {
        format!("a whole number from 0 to {MAX_REPLICAS}")
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 0, "maximum": MAX_REPLICAS })
    }
}

impl RedisConfig {
    /// Reads a URL; `None` where its scheme is none of Redis'. What is wrong is said without the URL: there may be a
    /// password in it.
    pub(super) fn from_url(url: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = match scheme {
            "redis" => Scheme::Single { tls: false },
            "rediss" => Scheme::Single { tls: true },
            "redis-sentinel" => Scheme::Sentinel,
            "redis-cluster" => Scheme::Cluster,
            _ => return None,
        };
        Some(Self::read(&scheme, rest))
    }

    fn read(scheme: &Scheme, rest: &str) -> Result<Self, String> {
        if rest.contains(['?', '#']) {
            return Err("has a query or a fragment; there is none in a store's URL".to_owned());
        }
        // A password may have an `@` in it that somebody forgot to write as `%40`.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default_port = match scheme {
            Scheme::Sentinel => SENTINEL_PORT,
            _ => PORT,
        };
        let servers: Result<Vec<_>, _> = hosts
            .split(',')
            .map(|host| server(host, default_port))
            .collect();
        let servers = servers?;
        let (form, database) = match scheme {
            Scheme::Single { .. } if servers.len() > 1 => {
                return Err(
                    "names several servers; write `redis-cluster://` for a cluster".to_owned(),
                );
            }
            Scheme::Single { .. } => (RedisForm::Single, database(path)?),
            Scheme::Sentinel => {
                let (master, path) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err("does not name the master behind the sentinels, `/NAME`".to_owned());
                }
                let master = decoded(master)?;
                (RedisForm::Sentinel { master }, database(path)?)
            }
            Scheme::Cluster if !path.is_empty() => {
                return Err("has a database; a cluster has only one".to_owned());
            }
            Scheme::Cluster => (RedisForm::Cluster, 0),
        };
        let (user, password) = match credentials {
            None => (None, None),
            Some(credentials) => {
                let (user, password) = match credentials.split_once(':') {
                    Some((user, password)) => (user, Some(Password(decoded(password)?))),
                    None => (credentials, None),
                };
                let user = (!user.is_empty()).then(|| decoded(user)).transpose()?;
                (user, password)
            }
        };
        let tls = matches!(scheme, Scheme::Single { tls: true }).then(RedisTls::default);
        Ok(Self {
            form,
            servers,
            user,
            password,
            sentinel_user: None,
            sentinel_password: None,
            database,
            tls,
            replicas_ack: 0,
            begin: true,
        })
    }
}

enum Scheme {
    Single { tls: bool },
    Sentinel,
    Cluster,
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
fn server(text: &str, default_port: u16) -> Result<Endpoint, String> {
    let wrong = || "does not name its servers as `HOST:PORT`".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => default_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)?,
    };
    if !super::words::is_host(host) {
        return Err(wrong());
    }
    let host = host.to_owned();
    Ok(Endpoint { host, port })
}

fn database(path: &str) -> Result<u32, String> {
    match path {
        "" => Ok(0),
        digits => digits
            .parse()
            .ok()
            .filter(|database| *database <= MAX_DATABASE)
            .ok_or_else(|| "does not end with the number of a database".to_owned()),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    let text = text.map_err(|_| "has a user, password or name that is not UTF-8".to_owned())?;
    Ok(text.into_owned())
}

/// Adds to the URL what else `[store]` says: the password and TLS.
pub(super) fn completed(
    mut redis: RedisConfig,
    file: &StoreFile,
    findings: &mut Findings,
) -> Option<RedisConfig> {
    let password = file.password.get()?;
    if let Some(secret) = password {
        if redis.password.is_some() {
            let message = "stands beside a password in the URL; write it once".to_owned();
            findings.whole(&file.password.place, message);
        }
        redis.password = Some(Password(secret::text(
            secret,
            &file.password.place,
            findings,
        )?));
    }
    if redis.user.is_some() && redis.password.is_none() {
        let message = "names a user, but there is no password; set store.password".to_owned();
        findings.whole(&file.url.place, message);
    }
    let has_successors = redis.form != RedisForm::Single;
    let replicas_ack = file.replicas_ack.get()?;
    if let Some(ReplicasAck(count)) = replicas_ack {
        redis.replicas_ack = *count;
    }
    if has_successors && replicas_ack.is_none() {
        let message = "has replicas that take over; it needs `store.replicas_ack`, where 0 says that a claim \
                       counts before a replica has it, and may be lost with its primary";
        findings.whole(&file.url.place, message.to_owned());
    }
    if let Some(tls) = file.tls.get()? {
        redis.tls = Some(self::tls(tls, findings)?);
    }
    sentinel_login(&mut redis, file, findings)?;
    redis.begin = *file.begin.get()?;
    Some(redis)
}

/// Sentinels have users of their own: the URL names those of the servers behind them.
fn sentinel_login(
    redis: &mut RedisConfig,
    file: &StoreFile,
    findings: &mut Findings,
) -> Option<()> {
    let user = file.sentinel_user.get()?.as_ref();
    let password = file.sentinel_password.get()?;
    let has_sentinels = matches!(redis.form, RedisForm::Sentinel { .. });
    let message = "is for a `redis-sentinel://` store";
    if user.is_some() && !has_sentinels {
        findings.whole(&file.sentinel_user.place, message.to_owned());
    } else if user.is_some() && password.is_none() {
        let message = "needs `store.sentinel_password`".to_owned();
        findings.whole(&file.sentinel_user.place, message);
    }
    if password.is_some() && !has_sentinels {
        findings.whole(&file.sentinel_password.place, message.to_owned());
    }
    redis.sentinel_user = user.map(|user| user.0.clone());
    if let Some(secret) = password {
        let place = &file.sentinel_password.place;
        redis.sentinel_password = Some(Password(secret::text(secret, place, findings)?));
    }
    Some(())
}

fn tls(file: &StoreTlsFile, findings: &mut Findings) -> Option<RedisTls> {
    let mut pem = |setting: &super::setting::Setting<Option<FilePath>>| match setting.value()? {
        None => Some(None),
        Some(path) => match secret::read_file(&path.0) {
            Ok(bytes) => Some(Some(bytes)),
            Err(error) => {
                findings.value(&setting.place, format!("cannot be read: {error}"));
                None
            }
        },
    };
    let (roots, certificate) = (pem(&file.roots), pem(&file.certificate));
    let key = match file.key.get()? {
        None => None,
        Some(key) => Some(secret::bytes(key, &file.key.place, findings)?),
    };
    let client = match (certificate?, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(ClientCertificate {
            certificate,
            key: PrivateKey(key),
        }),
        (Some(_), None) => {
            findings.whole(&file.certificate.place, "needs its `key`".to_owned());
            None
        }
        (None, Some(_)) => {
            findings.whole(&file.key.place, "needs its `certificate`".to_owned());
            None
        }
    };
    Some(RedisTls {
        roots: roots?,
        client,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<RedisConfig, String> {
        RedisConfig::from_url(url).expect("a scheme of Redis")
    }

    #[test]
    fn each_form_is_read() {
        let single = read("redis://cache.internal/3").unwrap();
        assert_eq!(single.form, RedisForm::Single);
        assert_eq!(single.database, 3);
        assert_eq!(single.servers, [endpoint("cache.internal", 6379)]);
        assert_eq!(single.tls, None);

        let secure = read("rediss://gate:p%40ss@[::1]:7000").unwrap();
        assert_eq!(secure.user.as_deref(), Some("gate"));
        assert_eq!(secure.password, Some(Password("p@ss".to_owned())));
        assert_eq!(secure.servers, [endpoint("::1", 7000)]);
        assert_eq!(secure.tls, Some(RedisTls::default()));

        let sentinel = read("redis-sentinel://:secret@a,b:26380/main/2").unwrap();
        let master = "main".to_owned();
        assert_eq!(sentinel.form, RedisForm::Sentinel { master });
        assert_eq!((sentinel.user, sentinel.database), (None, 2));
        assert_eq!(
            sentinel.servers,
            [endpoint("a", 26379), endpoint("b", 26380)]
        );

        let cluster = read("redis-cluster://a:7000,b:7001").unwrap();
        assert_eq!(cluster.form, RedisForm::Cluster);
        assert_eq!(cluster.servers, [endpoint("a", 7000), endpoint("b", 7001)]);
        assert_eq!(RedisConfig::from_url("dynamodb://table"), None);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let wrong = [
            "redis://u:hunter2@",
            "redis://u:hunter2@a:b",
            "redis://u:hunter2@a:0",
            "redis://u:hunter2@a/x",
            "redis://u:hunter2@a,b",
            "redis://u:hunter2@a?x=1",
            "redis-sentinel://u:hunter2@a",
            "redis-cluster://u:hunter2@a/1",
        ];
        for url in wrong {
            let said = read(url).unwrap_err();
            assert!(!said.contains("hunter2"), "{said}");
        }
        let printed = format!("{:?}", read("redis://u:hunter2@a").unwrap());
        assert!(!printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn a_shared_store_needs_a_namespace_and_an_id_key_and_has_no_size() {
        let rest = "[upstreams.u]\nendpoints = [\"http://127.0.0.1:1\"]\n\
                    [[routes]]\nname = \"r\"\npath = \"/*\"\nupstream = \"u\"\nmode = \"pass\"\n";
        let faults = |store: &str| {
            let text = format!("[store]\n{store}\n{rest}");
            let loaded = super::super::Config::parse(&text, "oncegate.toml");
            let faults = loaded.map(drop).map_err(|faults| faults.to_string());
            faults.err().unwrap_or_default()
        };
        let said = faults("url = \"redis://u:hunter2@a\"\nmax_size = \"1GiB\"");
        for part in [
            "store.namespace",
            "store.id_key",
            "is shared by gateways; it needs",
            "store.max_size",
            "maxmemory",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
        let said = faults("url = \"memory:\"\npassword = { env = \"PATH\" }");
        assert!(
            said.contains("store.password: is for stores on servers"),
            "{said}"
        );
        let shared = "namespace = \"n\"\nid_key = { env = \"PATH\" }";
        assert_eq!(faults(&format!("url = \"redis://a\"\n{shared}")), "");
        let said = faults(&format!(
            "url = \"redis://:x@a\"\n{shared}\npassword = {{ env = \"PATH\" }}"
        ));
        assert!(said.contains("write it once"), "{said}");
        for url in ["redis-sentinel://a/main", "redis-cluster://a"] {
            let url = format!("url = {url:?}\n{shared}\n");
            let said = faults(&url);
            assert!(said.contains("it needs `store.replicas_ack`"), "{said}");
            assert_eq!(faults(&format!("{url}replicas_ack = 0")), "");
            assert_eq!(faults(&format!("{url}replicas_ack = 1")), "");
            let said = faults(&format!("{url}replicas_ack = 17"));
            assert!(said.contains("from 0 to 16"), "{said}");
        }
        let said = faults(&format!("url = \"redis://u@a\"\n{shared}"));
        assert!(said.contains("set store.password"), "{said}");
    }

    fn endpoint(host: &str, port: u16) -> Endpoint {
        let host = host.to_owned();
        Endpoint { host, port }
    }
}
