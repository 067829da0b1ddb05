//! The same messages through the gateway to servers that nobody here wrote: what is forwarded, all of them understand
//! as the corpus says, or refuse by themselves; and none sees a request that was not forwarded.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::hold::{gateway, hold, recorder};
use crate::read::{Message, Outcome, corpus};
use crate::support::{ToyUpstream, free_port, tool, until};

/// A real server in a folder of its own, perhaps before a recorder. Dropping it ends it.
struct Server {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
    _recorder: Option<ToyUpstream>,
}

#[tokio::test]
async fn gunicorn_understands_what_is_forwarded() {
    let app = format!("--chdir={}", sources().display());
    let options = ["--threads=4", "--keep-alive=60", "--no-control-socket"];
    let server = Server::start("gunicorn", |port, _| {
        let mut arguments = vec![
            app,
            format!("--bind=127.0.0.1:{port}"),
            "wsgi:app".to_owned(),
        ];
        arguments.extend(options.map(str::to_owned));
        arguments
    });
    server.agrees().await;
}

#[tokio::test]
async fn waitress_understands_what_is_forwarded() {
    let server = Server::start("waitress-serve", |port, _| {
        vec![
            "--channel-timeout=60".to_owned(),
            format!("--listen=127.0.0.1:{port}"),
            "wsgi:app".to_owned(),
        ]
    });
    server.agrees().await;
}

#[tokio::test]
async fn uvicorn_understands_what_is_forwarded() {
    let server = Server::start("uvicorn", |port, _| {
        let app_dir = format!("--app-dir={}", sources().display());
        let options = ["--timeout-keep-alive=60", "--no-access-log", "asgi:app"];
        let mut arguments = vec![app_dir, format!("--port={port}")];
        arguments.extend(options.map(str::to_owned));
        arguments
    });
    server.agrees().await;
}

#[tokio::test]
async fn hypercorn_understands_what_is_forwarded() {
    let server = Server::start("hypercorn", |port, _| {
        vec![
            "--keep-alive=60".to_owned(),
            format!("--bind=127.0.0.1:{port}"),
            "asgi:app".to_owned(),
        ]
    });
    server.agrees().await;
}

#[tokio::test]
async fn node_understands_what_is_forwarded() {
    let server = Server::start("node", |port, _| {
        vec![
            sources().join("node.js").display().to_string(),
            port.to_string(),
        ]
    });
    server.agrees().await;
}

#[tokio::test]
async fn nginx_understands_what_is_forwarded() {
    let server = Server::before_recorder("nginx", "nginx.conf", |config, folder| {
        vec![
            "-p".to_owned(),
            folder.to_owned(),
            "-c".to_owned(),
            config.to_owned(),
        ]
    });
    server.agrees().await;
}

#[tokio::test]
async fn haproxy_understands_what_is_forwarded() {
    let server = Server::before_recorder("haproxy", "haproxy.cfg", |config, _| {
        vec!["-db".to_owned(), "-f".to_owned(), config.to_owned()]
    });
    server.agrees().await;
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/servers")
}

impl Server {
    fn start(program: &str, arguments: impl FnOnce(u16, &Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_address();
        let arguments = arguments(address.port(), folder.path());
        Self::spawn(program, &arguments, address, folder, None)
    }

    /// With this configuration, in which PORT, RECORDER, PID and TEMP stand for themselves.
    fn before_recorder(
        program: &str,
        config: &str,
        arguments: impl FnOnce(&str, &str) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (recorder, address) = (recorder(), free_address());
        let recorded_at = recorder.url().replace("http://", "");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = fs::read_to_string(sources().join(config))
            .expect("a configuration")
            .replace("PORT", &address.port().to_string())
            .replace("RECORDER", &recorded_at)
            .replace("PID", &path("pid"))
            .replace("TEMP", &path("temp"));
        fs::write(path(config), text).expect("a file");
        let arguments = arguments(&path(config), &folder.path().display().to_string());
        Self::spawn(program, &arguments, address, folder, Some(recorder))
    }

    fn spawn(
        program: &str,
        arguments: &[String],
        address: SocketAddr,
        folder: TempDir,
        recorder: Option<ToyUpstream>,
    ) -> Self {
        let log = File::create(folder.path().join("log")).expect("a file");
        let process = Command::new(tool(program))
            .args(arguments)
            .current_dir(folder.path())
            .env("PYTHONPATH", sources())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("a server that runs");
        Self {
            process,
            address,
            folder,
            _recorder: recorder,
        }
    }

    /// Sends it the corpus through a gateway.
    async fn agrees(self) {
        until("the server to listen", || async {
            TcpStream::connect(self.address).await.ok()
        })
        .await;
        let gateway = gateway(&format!("http://{}", self.address)).await;
        let messages: Vec<Message> = corpus("messages").into_iter().filter(reaches).collect();
        let report = hold(&gateway, &messages).await;
        println!(
            "{} messages, {} understood, refused by the server: {:#?}",
            messages.len(),
            report.understood,
            report.refused_upstream
        );
        assert!(report.faults.is_empty(), "{}", report.faults.join("\n"));
        let refused = report.refused_upstream.len() as u64;
        assert!(
            refused * 10 < report.understood,
            "it refuses more than oddities"
        );
    }
}

/// Whether any of it may reach a server.
fn reaches(message: &Message) -> bool {
    let mut outcomes = message.outcomes.iter();
    outcomes.any(|outcome| {
        matches!(
            outcome,
            Outcome::Forwarded(_) | Outcome::Broken(_) | Outcome::Waits
        )
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that forks ends its children when it is asked to, and not when it is killed.
        let asked = Command::new("kill")
            .arg(self.process.id().to_string())
            .status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- the server's log\n{}\n---", log.unwrap_or_default());
        }
    }
}

/// Most of these servers cannot say which port they were given.
fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}
