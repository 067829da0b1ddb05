//! Servers behind TLS, with roots and certificates of their own.

use std::process::Command;

use oncegate::config::{ClientCertificate, PrivateKey, RedisForm, RedisTls};
use oncegate::store::{Store, StoreError};

use crate::rig::{TIMEOUT, config, store_at};
use crate::support::{Engine, RedisServer, tool};

/// Makes a root, and certificates for a server and a client that it vouches for.
const CERTIFICATES: &str = r#"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -days 2 -subj /CN=root 2>/dev/null
for name in server client; do
  openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name 2>/dev/null
  printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >$name.ext
  openssl x509 -req -in $name.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile $name.ext \
    -out $name.pem 2>/dev/null
done
"#;

/// A root, and what it vouches for.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    pub fn make() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        tool("openssl");
        let directory = tempfile::tempdir().expect("a directory");
        let made = Command::new("sh")
            .args(["-c", CERTIFICATES])
            .current_dir(directory.path())
            .status();
        assert!(made.expect("a shell").success());
        Self(directory)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a file")
    }

    /// What makes a server speak TLS on this port, besides what it speaks without.
    pub fn of_server(&self, port: u16, asks_clients: bool) -> Vec<String> {
        let (port, path) = (port.to_string(), |name| self.path(name));
        let asks = if asks_clients { "yes" } else { "no" };
        let settings = [
            ["--tls-port", &port],
            ["--tls-cert-file", &path("server.pem")],
            ["--tls-key-file", &path("server.key")],
            ["--tls-ca-cert-file", &path("root.pem")],
            ["--tls-auth-clients", asks],
        ];
        settings.concat().into_iter().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn own_roots_and_a_client_certificate_open_the_store() {
    let certificates = Certificates::make();
    let port = crate::support::free_port();
    let settings = certificates.of_server(port, true);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = RedisServer::start_with(Engine::Redis, &settings);
    let read = |name: &str| certificates.read(name);
    let mut config = config(RedisForm::Single, &[port]);
    let with = |roots: Option<Vec<u8>>, client: bool| RedisTls {
        roots,
        client: client.then(|| ClientCertificate {
            certificate: read("client.pem"),
            key: PrivateKey(read("client.key")),
        }),
    };
    for (tls, what) in [
        (with(None, true), "the system's roots do not vouch for it"),
        (
            with(Some(read("root.pem")), false),
            "the server wants a certificate",
        ),
    ] {
        config.tls = Some(tls);
        let refused = store_at(&config, TIMEOUT).ping().await;
        assert!(
            matches!(
                refused,
                Err(StoreError::NotDone(_) | StoreError::InDoubt(_))
            ),
            "{what}"
        );
    }
    config.tls = Some(with(Some(read("root.pem")), true));
    store_at(&config, TIMEOUT).ping().await.unwrap();
    drop(server);
}
