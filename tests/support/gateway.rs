//! The real binary, run as its users run it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use super::client::{Answer, Connection, Request};
use super::log::Log;
use super::metrics::Metrics;
use super::redis::free_port;
use super::setup::Setup;
use super::until;
use super::usage::{self, Usage};

/// Any free port of the loopback interface.
const ANY_PORT: &str = "127.0.0.1:0";

/// A gateway with a directory of its own. Dropping it kills it, and prints its log where the test failed.
pub struct Gateway {
    process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// The program that starts it, where it is not started by itself.
    through: Vec<String>,
    /// The socket that it is given, which outlives it.
    socket: Option<TcpListener>,
    /// Where it is told to listen, whenever it is started.
    listen: String,
    given: Given,
    directory: TempDir,
}

/// How the binary is told what to do.
enum Given {
    /// By a file of these lines.
    File(String),
    /// By `--upstream`.
    Upstream(String),
}

impl Gateway {
    /// Starts the binary with this configuration, which names neither listeners nor admin, and waits until it
    /// is ready.
    pub async fn start(toml: &str) -> Self {
        Self::begin(Given::File(toml.to_owned())).await
    }

    /// Starts the binary as a service manager does that listens for it.
    pub async fn start_on(socket: TcpListener, toml: &str) -> Self {
        let shell = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let through = ["sh", "-c", shell].map(str::to_owned).to_vec();
        Self::begin_on(through, Given::File(toml.to_owned()), Some(socket)).await
    }

    /// The same through another program, which is given the binary and its arguments.
    pub async fn start_through(program: &[&str], toml: &str) -> Self {
        let program = program.iter().map(|word| (*word).to_owned()).collect();
        Self::begin_through(program, Given::File(toml.to_owned())).await
    }

    /// Starts the binary without a file before this upstream, and waits until it is ready.
    pub async fn before(url: &str) -> Self {
        Self::begin(Given::Upstream(url.to_owned())).await
    }

    async fn begin(given: Given) -> Self {
        Self::begin_through(Vec::new(), given).await
    }

    async fn begin_through(through: Vec<String>, given: Given) -> Self {
        Self::begin_on(through, given, None).await
    }

    async fn begin_on(through: Vec<String>, given: Given, socket: Option<TcpListener>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listen = match &socket {
            Some(socket) => socket.local_addr().expect("an address").to_string(),
            // It is to have the same port when it is started again.
            None => format!("127.0.0.1:{}", free_port()),
        };
        let process = Process::start(directory.path(), &through, &given, &listen, socket.as_ref());
        let (address, admin) = process.addresses().await;
        let gateway = Self {
            process,
            address,
            admin,
            through,
            socket,
            listen,
            given,
            directory,
        };
        gateway.ready().await;
        gateway
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> &Log {
        &self.process.log
    }

    /// The directory that it works in: configuration and store.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process, as the kernel names it.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Answer {
        self.connect().await.send(request).await
    }

    /// Sends a request on a connection of its own, from a task of its own.
    pub fn spawn(&self, request: &Request) -> tokio::task::JoinHandle<Answer> {
        let (address, request) = (self.address, request.clone());
        tokio::spawn(async move { Connection::open(address).await.send(&request).await })
    }

    /// A new client connection.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    /// Asks the admin port; `None` where nobody listens there any more. It waits for a question no longer than two seconds,
    /// for which a busy test may be held up: that one asks again.
    pub async fn admin(&self, path: &str) -> Option<Answer> {
        until("an answer of the admin port", || async {
            let Ok(mut connection) = Connection::try_open(self.admin).await else {
                return Some(None);
            };
            connection.try_send(&Request::get(path)).await.map(Some)
        })
        .await
    }

    /// Reads `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin("/metrics").await.expect("metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics::parse(&answer.text())
    }

    /// The most memory that it has taken so far, in bytes (`VmHWM`).
    pub fn most_resident_bytes(&self) -> u64 {
        usage::kib(self.pid(), "VmHWM") * 1024
    }

    /// Whether the system may give it huge pages, all of which are resident once a byte of them was written to.
    pub fn may_have_huge_pages(&self) -> bool {
        usage::status(self.pid(), "THP_enabled") == "1"
    }

    /// The time that it has kept processors busy, in hundredths of a second.
    pub fn processor_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.process.child.id());
        let stat = std::fs::read_to_string(path).expect("a process that we started");
        // Its name, which may hold anything, is in brackets.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let busy = fields.split_whitespace().skip(11).take(2);
        busy.map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum()
    }

    /// Ends it without any warning, as a power cut would.
    pub async fn kill9(&mut self) {
        self.process
            .child
            .kill()
            .expect("a process that we started");
        self.ended().await;
    }

    /// What its process takes of the machine now.
    pub fn usage(&self) -> Usage {
        Usage::of(self.process.child.id())
    }

    /// Asks it to drain and end.
    pub fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Asks it to read its configuration again.
    pub fn sighup(&self) {
        self.signal("HUP");
    }

    /// Gives it another configuration, which it is not told of.
    pub fn rewrite(&self, toml: &str) {
        let config = self.directory.path().join("oncegate.toml");
        std::fs::write(config, listening(toml, &self.listen)).expect("a configuration");
    }

    /// The same, and tells it; whether this is in force once it was read.
    pub async fn reload(&self, toml: &str) -> bool {
        let readings = async || {
            let metrics = self.metrics().await;
            ["done", "failed"].map(|result| {
                let labels = [("result", result)];
                metrics.value("oncegate_config_reloads_total", &labels)
            })
        };
        let before = readings().await;
        self.rewrite(toml);
        self.sighup();
        until("the configuration to be read again", || async {
            let now = readings().await;
            (now != before).then(|| now[0] != before[0])
        })
        .await
    }

    fn signal(&self, name: &str) {
        // The standard library can only kill.
        let kill = format!("kill -{name} {}", self.process.child.id());
        let status = Command::new("sh")
            .args(["-c", &kill])
            .status()
            .expect("a shell");
        assert!(status.success(), "{kill}");
    }

    /// The same, and waits until it says so.
    pub async fn drains(&self) {
        self.sigterm();
        until("the gateway to stop being ready", || async {
            let answer = self.admin("/readyz").await;
            answer
                .is_none_or(|answer| answer.status != 200)
                .then_some(())
        })
        .await;
    }

    /// Waits for its end and says how it went.
    pub async fn ended(&mut self) -> ExitStatus {
        self.process.log.ended().await;
        self.process
            .child
            .wait()
            .expect("a process that we started")
    }

    /// What it is to be started again with: another configuration.
    pub fn given(&mut self, toml: &str) {
        self.given = Given::File(toml.to_owned());
    }

    /// The same where its log is not read.
    pub async fn exited(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.process.child);
        until("the process to exit", || async {
            child
                .borrow_mut()
                .try_wait()
                .expect("a process that we started")
        })
        .await
    }

    /// Starts it again, after it ended, on the same port and the same store.
    pub async fn restart(&mut self) {
        let directory = self.directory.path();
        let socket = self.socket.as_ref();
        self.process = Process::start(directory, &self.through, &self.given, &self.listen, socket);
        (self.address, self.admin) = self.process.addresses().await;
        self.ready().await;
    }

    /// The same with another configuration.
    pub async fn restart_with(&mut self, setup: &Setup) {
        self.given = Given::File(setup.toml());
        self.restart().await;
    }

    async fn ready(&self) {
        until("the gateway to be ready", || async {
            self.admin("/readyz")
                .await
                .filter(|answer| answer.status == 200)
        })
        .await;
    }
}

/// A configuration that listens where it is told to, first of all: a ready one has sections for that, others get them.
fn listening(toml: &str, listen: &str) -> String {
    let mut file = toml
        .replace("address = \"0.0.0.0:8080\"", "address = \"127.0.0.1:8080\"")
        .replacen(
            "address = \"127.0.0.1:8080\"",
            &format!("address = \"{listen}\""),
            1,
        )
        .replace(
            "address = \"127.0.0.1:8080\"",
            &format!("address = \"{ANY_PORT}\""),
        )
        .replace(
            "address = \"127.0.0.1:9090\"",
            &format!("address = \"{ANY_PORT}\""),
        );
    if !toml.contains("\n[admin]") {
        file.push_str(&format!("\n[admin]\naddress = \"{ANY_PORT}\"\n"));
    }
    if !toml.contains("[[listeners]]") {
        file.push_str(&format!("\n[[listeners]]\naddress = \"{listen}\"\n"));
    }
    file
}

/// One run of the binary.
struct Process {
    child: Child,
    log: Log,
}

impl Process {
    fn start(
        directory: &Path,
        through: &[String],
        given: &Given,
        listen: &str,
        socket: Option<&TcpListener>,
    ) -> Self {
        let binary = env!("CARGO_BIN_EXE_oncegate");
        let mut command = match through {
            [program, words @ ..] => {
                let mut command = Command::new(program);
                command.args(words).arg(binary);
                command
            }
            [] => Command::new(binary),
        };
        command.arg("serve");
        match given {
            Given::File(toml) => {
                let config = directory.join("oncegate.toml");
                let file = listening(toml, listen);
                std::fs::write(&config, file).expect("a configuration");
                command.arg("--config").arg(config)
            }
            Given::Upstream(url) => {
                command.args(["--upstream", url, "--listen", listen, "--admin", ANY_PORT])
            }
        };
        let stdin = match socket {
            Some(socket) => OwnedFd::from(socket.try_clone().expect("a socket")).into(),
            None => Stdio::null(),
        };
        let mut child = command
            .current_dir(directory)
            .env_remove("RUST_LOG")
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let log = Log::capture(child.stderr.take().expect("a pipe"));
        Self { child, log }
    }

    /// Where it listens, by its own word.
    async fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let address = |line: serde_json::Value| {
            let address = line["address"]
                .as_str()
                .and_then(|address| address.parse().ok());
            address.unwrap_or_else(|| panic!("no address: {line}"))
        };
        let clients = address(self.log.message("listening").await);
        (clients, address(self.log.message("admin listening").await))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}\n---", self.log.text());
        }
    }
}
