//! A real DNS server, with names that a test gives it, gone with the test.

use std::net::{IpAddr, TcpStream};
use std::process::{Child, Command};
use std::time::Instant;

use tempfile::TempDir;

use super::PATIENCE;
use super::redis::{free_port, guarded, look_again};
use super::tool::tool;

/// The time to live of every answer, in seconds.
const TTL: &str = "1";

/// Debian's `dnsmasq`, which knows the names below `.test` and no others. Dropping it ends it.
pub struct DnsServer {
    port: u16,
    process: Child,
    pid: u32,
    directory: TempDir,
}

impl DnsServer {
    /// Starts one that says this of a name.
    pub fn start(name: &str, addresses: &[IpAddr]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        write(&directory, name, addresses);
        let port = free_port();
        let (process, pid) = spawn(&directory, port);
        Self {
            port,
            process,
            pid,
            directory,
        }
    }

    /// What to write into `resolvers`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on it says this of the name, and knows no other.
    pub fn says(&self, name: &str, addresses: &[IpAddr]) {
        self.will_say(name, addresses);
        self.signal("HUP");
    }

    /// The same, from when it is started again.
    pub fn will_say(&self, name: &str, addresses: &[IpAddr]) {
        write(&self.directory, name, addresses);
    }

    /// Ends it, and waits until nobody listens.
    pub fn kill9(&self) {
        self.signal("KILL");
        wait("the server is still there", || !answers(self.port));
    }

    /// Starts it again, after it was ended, on the same port.
    pub fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        (self.process, self.pid) = spawn(&self.directory, self.port);
    }

    fn signal(&self, signal: &str) {
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid.to_string()])
            .status();
        assert!(kill.expect("kill").success());
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // The guard ends the server when its pipe is closed.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn write(directory: &TempDir, name: &str, addresses: &[IpAddr]) {
    let lines: String = addresses
        .iter()
        .map(|address| format!("{address} {name}\n"))
        .collect();
    std::fs::write(directory.path().join("hosts"), lines).expect("a file");
}

fn spawn(directory: &TempDir, port: u16) -> (Child, u32) {
    let hosts = directory.path().join("hosts");
    let started = guarded(directory, |command| {
        command
            .arg(tool("dnsmasq"))
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
                "--pid-file=",
            ])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--local=/test/",
                "--bind-interfaces",
            ])
            .args(["--listen-address=127.0.0.1", "--local-ttl", TTL])
            .arg(format!("--port={port}"))
            .arg(format!("--addn-hosts={}", hosts.display()));
    });
    wait("the server does not start", || answers(port));
    started
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn wait(what: &str, is_done: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        look_again();
    }
}
