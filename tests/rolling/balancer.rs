//! A real HAProxy before several gateways, set up as its users do.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{Connection, Gateway, Request, free_port, tool, until};

/// It asks `/readyz`, tries again elsewhere where it could not connect, and nothing else (which is its default). It looks
/// more often than by default, so that a test need not take minutes; a gateway's `drain_delay` is to be longer than
/// `inter` times `fall`, and twice that leaves room for a busy machine.
const CONFIG: &str = "
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    timeout check 5s
    option redispatch

frontend statistics
    bind 127.0.0.1:STATISTICS
    stats enable
    stats uri /statistics

frontend clients
    bind 127.0.0.1:CLIENTS
    default_backend gateways

backend gateways
    option httpchk GET /readyz
    default-server check inter 500ms fall 2 rise 1
";

/// One that runs. Dropping it ends it.
pub struct Balancer {
    process: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    statistics: SocketAddr,
    folder: TempDir,
}

impl Balancer {
    /// Starts it before these gateways, which are called 0, 1, 2.
    pub async fn before(gateways: &[Gateway]) -> Self {
        let [address, statistics] =
            [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut config = CONFIG
            .replace("STATISTICS", &statistics.port().to_string())
            .replace("CLIENTS", &address.port().to_string());
        for (number, gateway) in gateways.iter().enumerate() {
            let (clients, admin) = (gateway.address, gateway.admin.port());
            writeln!(config, "    server {number} {clients} port {admin}").expect("a text");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("a file");
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        let process = Command::new(tool("haproxy"))
            .arg("-db")
            .arg("-f")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("a server that runs");
        let balancer = Self {
            process,
            address,
            statistics,
            folder,
        };
        until("HAProxy to listen", || async {
            TcpStream::connect(address).await.ok()
        })
        .await;
        for number in 0..gateways.len() {
            balancer.sends_to(number).await;
        }
        balancer
    }

    /// Returns once it takes this gateway for one that can be sent requests.
    pub async fn sends_to(&self, number: usize) {
        until("HAProxy to take the gateway for well", || async {
            let mut connection = Connection::try_open(self.statistics).await.ok()?;
            let asked = Request::get("/statistics;csv");
            let table = connection.try_send(&asked).await?.text();
            let server = format!("gateways,{number},");
            let line = table.lines().find(|line| line.starts_with(&server))?;
            // `status` is the 18th column.
            (line.split(',').nth(17)? == "UP").then_some(())
        })
        .await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- HAProxy's log\n{}\n---", log.unwrap_or_default());
        }
    }
}
