//! Certificates, clients of TLS, and a way for plain clients through TLS.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tool;

/// The host that the certificates are for.
pub const HOST: &str = "gate.example";

/// Makes an authority and a certificate for this host that it vouches for.
const CERTIFICATES: &str = r#"
set -e
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -keyout ca.key -out ca.pem -days 2 -subj /CN=authority 2>/dev/null
openssl req $new -keyout gate.key -out gate.csr -subj /CN=gate 2>/dev/null
printf 'subjectAltName=DNS:gate.example,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >gate.ext
openssl x509 -req -in gate.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile gate.ext -out gate.pem 2>/dev/null
"#;

/// An authority of its own, with a certificate for [`HOST`].
pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        tool("openssl");
        let folder = tempfile::tempdir().expect("a folder");
        let made = Command::new("sh")
            .args(["-c", CERTIFICATES])
            .current_dir(folder.path())
            .status();
        assert!(made.expect("a shell").success());
        Self(folder)
    }

    /// The path of `gate.pem`, `gate.key` or `ca.pem`.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Puts the certificate and the key of another authority in the place of ours; one file at a time.
    pub fn take(&self, other: &Self, name: &str) {
        std::fs::copy(other.path(name), self.path(name)).expect("a file");
    }

    /// A listener with this certificate.
    pub fn listener(&self) -> String {
        format!(
            "\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n\
             tls = {{ certificates = [{{ cert = {:?}, key = {{ file = {:?} }} }}] }}\n",
            self.path("gate.pem"),
            self.path("gate.key"),
        )
    }

    /// When the certificate ends, by another program's word, in seconds since the Unix epoch.
    pub fn expiry(&self) -> u64 {
        let script = format!(
            "date +%s -d \"$(openssl x509 -noout -enddate -in {} | cut -d= -f2)\"",
            self.path("gate.pem")
        );
        let said = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("a shell");
        let seconds = String::from_utf8_lossy(&said.stdout).trim().parse();
        seconds.expect("a number of seconds")
    }

    /// A connection through TLS, where there can be one.
    pub async fn connect(
        &self,
        address: SocketAddr,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = self.client(alpn);
        let host = ServerName::try_from(HOST).expect("a name");
        let socket = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(host, socket)
            .await
    }

    /// The first bytes that a client sends.
    pub fn hello(&self) -> Vec<u8> {
        let host = ServerName::try_from(HOST).expect("a name");
        let client = ClientConnection::new(Arc::new(self.client("h2")), host);
        let mut hello = Vec::new();
        let mut client = client.expect("a client");
        client.write_tls(&mut hello).expect("there is room");
        hello
    }

    fn client(&self, alpn: &str) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(self.path("ca.pem")).expect("a certificate");
        roots.add(root).expect("an authority");
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }

    /// A place for plain clients, whose bytes go to this address through TLS.
    pub async fn passage(self: &Arc<Self>, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let passage = listener.local_addr().expect("a bound socket");
        let this = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let this = Arc::clone(&this);
                tokio::spawn(async move {
                    let mut gate = this
                        .connect(address, "http/1.1")
                        .await
                        .expect("a handshake");
                    // Either side may end it.
                    let _ = copy_bidirectional(&mut client, &mut gate).await;
                });
            }
        });
        passage
    }

    /// What `openssl s_client` prints with these arguments where it is given this to send, and nothing more.
    pub async fn s_client(&self, address: SocketAddr, arguments: &[&str], input: &str) -> String {
        self.scan(address, arguments, input, false).await
    }

    /// The same where it might be given more, so that the gateway, or a fault, has to end it.
    pub async fn patient_s_client(
        &self,
        address: SocketAddr,
        arguments: &[&str],
        input: &str,
    ) -> String {
        self.scan(address, arguments, input, true).await
    }

    async fn scan(
        &self,
        address: SocketAddr,
        arguments: &[&str],
        input: &str,
        is_patient: bool,
    ) -> String {
        let mut command = Command::new(tool("openssl"));
        command
            .args([
                "s_client",
                "-connect",
                &address.to_string(),
                "-servername",
                HOST,
            ])
            .args(["-CAfile", &self.path("ca.pem"), "-verify_return_error"])
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let said = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("openssl");
            let mut stdin = child.stdin.take().expect("a pipe");
            // It may have been refused by now.
            let _ = stdin.write_all(input.as_bytes());
            let held = is_patient.then_some(stdin);
            let said = child.wait_with_output().expect("a process that we started");
            drop(held);
            said
        });
        let said = super::within("openssl to end", said)
            .await
            .expect("no panic");
        [said.stdout, said.stderr]
            .map(|said| String::from_utf8_lossy(&said).into_owned())
            .concat()
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}
