//! The gateway as a child process, so that it can really be killed.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::client::get;
use super::{DemoError, PATIENCE};

/// How many of its last log lines an error shows.
const LAST_WORDS: usize = 20;
/// The pause between two looks at `/readyz`.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Any free port of the loopback interface.
const ANY_PORT: &str = "127.0.0.1:0";

/// A running gateway. Dropping it kills it.
pub(super) struct Gateway {
    directory: PathBuf,
    api: SocketAddr,
    child: Child,
    log: Log,
    addresses: Addresses,
}

/// Where a gateway listens.
#[derive(Clone, Copy)]
struct Addresses {
    clients: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts the gateway before this API, with its files in `directory`, and waits until it is ready.
    pub(super) async fn start(directory: &Path, api: SocketAddr) -> Result<Self, DemoError> {
        let (child, log) = spawn(directory, api, ANY_PORT)?;
        // Held by the value from here on: an error below kills the child as well.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self {
            directory: directory.to_owned(),
            api,
            child,
            log,
            addresses: Addresses {
                clients: nowhere,
                admin: nowhere,
            },
        };
        gateway.become_ready().await?;
        Ok(gateway)
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.addresses.clients
    }

    /// Where health and metrics are served.
    pub(super) fn admin(&self) -> SocketAddr {
        self.addresses.admin
    }

    /// Ends it as `kill -9` does.
    pub(super) fn kill(&mut self) -> Result<(), DemoError> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map_err(|source| DemoError::Setup {
            what: "cannot kill the gateway",
            source,
        })?;
        Ok(())
    }

    /// Starts it again, on the same port and the same store.
    pub(super) async fn restart(&mut self) -> Result<(), DemoError> {
        let listen = self.addresses.clients.to_string();
        (self.child, self.log) = spawn(&self.directory, self.api, &listen)?;
        self.become_ready().await
    }

    async fn become_ready(&mut self) -> Result<(), DemoError> {
        let ready = async {
            self.addresses = self.log.addresses().await?;
            while get(self.addresses.admin, "/readyz").await != Some(http::StatusCode::OK) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(self.log.last_words("did not become ready")),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, api: SocketAddr, listen: &str) -> Result<(Child, Log), DemoError> {
    let config = directory.join("oncegate.toml");
    let start = || -> io::Result<(Child, Log)> {
        std::fs::write(&config, configuration(api, listen))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(directory)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((child, Log::read(log)))
    };
    start().map_err(|source| DemoError::Setup {
        what: "cannot start the gateway",
        source,
    })
}

/// The timeouts are short, so that nobody has to wait for the point of a step.
fn configuration(api: SocketAddr, listen: &str) -> String {
    format!(
        r#"
[[listeners]]
address = "{listen}"

[admin]
address = "{ANY_PORT}"

[store]
url = "embedded:demo.db"

[upstreams.payments]
endpoints = ["http://{api}"]

[[routes]]
name = "create-payment"
methods = ["POST"]
path = "/v1/payments"
upstream = "payments"
scope = ["header:Authorization"]
wait = "5s"
lease = "1s"
response_timeout = "1s"

[[routes]]
name = "rest"
path = "/*"
upstream = "payments"
mode = "pass"
"#
    )
}

/// What the child says on its standard error.
struct Log {
    last: Arc<Mutex<VecDeque<String>>>,
    heard: watch::Receiver<Heard>,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    clients: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Log {
    /// Reads to the end, on a thread of its own: a full pipe would stop the child.
    fn read(source: impl Read + Send + 'static) -> Self {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, heard) = watch::channel(Heard::default());
        let log = Self {
            last: Arc::clone(&last),
            heard,
        };
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                sender.send_modify(|heard| heard.listen(&line));
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.len() == LAST_WORDS {
                    last.pop_front();
                }
                last.push_back(line);
            }
        });
        log
    }

    /// Both addresses, once they were said.
    async fn addresses(&self) -> Result<Addresses, DemoError> {
        let mut heard = self.heard.clone();
        loop {
            let Heard { clients, admin } = *heard.borrow_and_update();
            if let (Some(clients), Some(admin)) = (clients, admin) {
                return Ok(Addresses { clients, admin });
            }
            if heard.changed().await.is_err() {
                return Err(self.last_words("ended"));
            }
        }
    }

    fn last_words(&self, what: &'static str) -> DemoError {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        DemoError::Gateway {
            what,
            log: Vec::from(last.clone()).join("\n"),
        }
    }
}

impl Heard {
    fn listen(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
            return;
        };
        // The fields stand at the top of a line or under `fields`.
        let fields = line.get("fields").unwrap_or(&line);
        let address = fields["address"]
            .as_str()
            .and_then(|address| address.parse().ok());
        match fields["message"].as_str() {
            Some("listening") => self.clients = address,
            Some("admin listening") => self.admin = address,
            _ => {}
        }
    }
}
