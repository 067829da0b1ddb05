//! What a request costs: the gateway beside a bare hyper-util proxy, in one run on one machine.
//!
//! `cargo bench --bench proxy` starts both as processes of their own before one upstream, sends the same
//! requests through each in turns, and reports CPU time per request (user and system, of the proxy's process
//! alone) and its ratio to the bare proxy's. Figures of different machines or moments do not compare; ratios of one run do.
//!
//! The gateway runs as it does by default, with one line a request in the access log; `quiet` ones without it. Standard
//! error goes to a file, as where a service manager collects it.
//!
//! Settings, by environment: `BENCH_ROUNDS` (5), `BENCH_SECONDS` a turn (2), `BENCH_CLIENTS` (64).

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BODY: &str =
    r#"{"amount":1999,"currency":"eur","customer":"cus_4711","description":"two tickets, row 7"}"#;
const BARE: &str = "BENCH_BARE_UPSTREAM";

/// How long a program may take to say where it listens.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    match std::env::var(BARE) {
        Ok(upstream) => runtime.block_on(bare(&upstream)),
        Err(_) => runtime.block_on(compare()),
    }
}

async fn compare() {
    let upstream = upstream().await;
    let folder = tempfile::tempdir().expect("a folder for the stores");
    let embedded = format!("embedded:{}", folder.path().join("bench.db").display());
    let gateways = [
        ("pass", "pass", "memory:", true),
        ("pass, quiet", "pass", "memory:", false),
        ("keyed, memory", "enforce", "memory:", true),
        ("keyed, memory, quiet", "enforce", "memory:", false),
        ("keyed, embedded", "enforce", &embedded, true),
    ];
    let mut subjects = vec![Subject::bare(upstream, folder.path()).await];
    for (name, mode, store, has_access_log) in gateways {
        let config = config(mode, store, has_access_log, upstream);
        subjects.push(Subject::gateway(name, &config, folder.path()).await);
    }
    let turn = Duration::from_secs(setting("BENCH_SECONDS", 2));
    let clients = setting("BENCH_CLIENTS", 64);
    for round in 0..=setting("BENCH_ROUNDS", 5) {
        for subject in &mut subjects {
            let sample = subject.turn(clients, turn).await;
            // The first round warms up.
            if round > 0 {
                subject.samples.push(sample);
            }
        }
    }
    println!(
        "{clients} clients, medians of {} turns of {turn:?}",
        subjects[0].samples.len()
    );
    println!(
        "{:<22}{:>12}{:>18}{:>10}",
        "", "requests/s", "CPU us/request", "ratio"
    );
    let bare: Vec<f64> = subjects[0].all(|sample| sample.cpu_us).collect();
    for subject in &subjects {
        let cpu = median(subject.all(|sample| sample.cpu_us));
        let rate = median(subject.all(|sample| sample.per_second));
        // Round by round: a machine that does other things besides is slower in one than in another.
        let ratios = subject.all(|sample| sample.cpu_us).zip(&bare);
        let ratio = median(ratios.map(|(cpu, bare)| cpu / bare));
        println!("{:<22}{rate:>12.0}{cpu:>18.1}{:>10.2}", subject.name, ratio);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// One of the programs that are compared.
struct Subject {
    name: &'static str,
    process: Child,
    address: SocketAddr,
    samples: Vec<Sample>,
}

/// One turn.
struct Sample {
    per_second: f64,
    cpu_us: f64,
}

impl Subject {
    async fn bare(upstream: SocketAddr, folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.env(BARE, upstream.to_string());
        Self::start("bare hyper-util", command, folder).await
    }

    async fn gateway(name: &'static str, config: &str, folder: &Path) -> Self {
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, config).expect("the folder takes a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_oncegate"));
        command.args(["serve", "--config"]).arg(file);
        Self::start(name, command, folder).await
    }

    /// Both programs say on stderr where they listen.
    async fn start(name: &'static str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let lines = fs::File::create(&log).expect("the folder takes a file");
        let process = command.stderr(lines).spawn().expect("the program starts");
        let begun = Instant::now();
        let address = loop {
            let text = fs::read_to_string(&log).expect("the file is there");
            if let Some(address) = listening(&text) {
                break address;
            }
            assert!(begun.elapsed() < STARTS_WITHIN, "no address: {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Self {
            name,
            process,
            address,
            samples: Vec::new(),
        }
    }

    async fn turn(&self, clients: u64, span: Duration) -> Sample {
        let (cpu, begun) = (cpu_seconds(self.process.id()), Instant::now());
        let requests = load(self.address, clients, span).await as f64;
        let (cpu, span) = (cpu_seconds(self.process.id()) - cpu, begun.elapsed());
        Sample {
            per_second: requests / span.as_secs_f64(),
            cpu_us: cpu * 1e6 / requests,
        }
    }

    /// In the order of the rounds.
    fn all(&self, of: impl Fn(&Sample) -> f64) -> impl Iterator<Item = f64> {
        self.samples.iter().map(of)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where a program's lines say that it listens.
fn listening(text: &str) -> Option<SocketAddr> {
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter(|line| line.contains("listening") && !line.contains("admin"))
        .find_map(|line| {
            let rest = &line[line.find("127.0.0.1:")?..];
            let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)));
            rest[..end.unwrap_or(rest.len())].parse().ok()
        })
}

/// The defaults but for what has to be said.
fn config(mode: &str, store: &str, has_access_log: bool, upstream: SocketAddr) -> String {
    let scope = match mode {
        "pass" => "",
        _ => "scope = [\"none\"]\n",
    };
    let access_log = match has_access_log {
        true => "",
        false => "[access_log]\nenabled = false\n",
    };
    format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n{access_log}\
         [store]\nurl = \"{store}\"\ntimeout = \"5s\"\nmax_size = \"8GiB\"\n\
         [upstreams.up]\nendpoints = [\"http://{upstream}\"]\n\
         [[routes]]\nname = \"all\"\npath = \"/*\"\nupstream = \"up\"\nmode = \"{mode}\"\n{scope}"
    )
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// User and system time of a process so far: fields 14 and 15 of `/proc/PID/stat`, in hundredths of a second.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// Clients that send one request after the other, each with a key of its own; returns how many were answered.
async fn load(address: SocketAddr, clients: u64, span: Duration) -> u64 {
    static KEY: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + span;
    let clients = (0..clients).map(|_| {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address)
                .await
                .expect("the proxy listens");
            stream.set_nodelay(true).expect("a TCP socket");
            let (mut answered, mut buffer) = (0, vec![0; 4096]);
            while Instant::now() < until {
                let key = KEY.fetch_add(1, Ordering::Relaxed);
                let request = format!(
                    "POST /v1/payments HTTP/1.1\r\nhost: bench\r\nidempotency-key: bench-{key}\r\n\
                     content-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
                    BODY.len(),
                );
                stream
                    .write_all(request.as_bytes())
                    .await
                    .expect("the proxy reads");
                answer(&mut stream, &mut buffer).await;
                answered += 1;
            }
            answered
        })
    });
    let mut total = 0;
    for client in clients.collect::<Vec<_>>() {
        total += client.await.expect("a client does not panic");
    }
    total
}

/// Reads one answer with a `Content-Length`, which must be a 201.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let read = stream
            .read(&mut buffer[filled..])
            .await
            .expect("the proxy answers");
        assert!(read > 0, "the proxy hung up");
        filled += read;
        let text = String::from_utf8_lossy(&buffer[..filled]);
        let Some(head) = text.find("\r\n\r\n") else {
            continue;
        };
        assert!(text.starts_with("HTTP/1.1 201"), "{text}");
        let length = text[..head]
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse::<usize>()
                    .ok()
            })
            .expect("answers have a length");
        if filled >= head + 4 + length {
            return;
        }
    }
}

/// An API that says yes.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("sockets are left");
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async move {
                    use http_body_util::BodyExt;
                    let _ = request.into_body().collect().await;
                    let mut response = Response::new(Full::new(Bytes::from_static(
                        br#"{"id":"pay_1","status":"succeeded","amount":1999}"#,
                    )));
                    *response.status_mut() = http::StatusCode::CREATED;
                    Ok::<_, hyper::Error>(response)
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// The least that hyper-util's parts make a proxy of: no routes, no limits, no metrics.
async fn bare(upstream: &str) {
    let client: Arc<Client<HttpConnector, Incoming>> =
        Arc::new(Client::builder(TokioExecutor::new()).build_http());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    eprintln!(
        "listening on {}",
        listener.local_addr().expect("it is bound")
    );
    loop {
        let (stream, _) = listener.accept().await.expect("sockets are left");
        stream.set_nodelay(true).expect("a TCP socket");
        let (client, upstream) = (Arc::clone(&client), upstream.to_owned());
        tokio::spawn(async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let path = request
                    .uri()
                    .path_and_query()
                    .map_or("/", |path| path.as_str());
                let uri: Result<Uri, _> = format!("http://{upstream}{path}").parse();
                let client = Arc::clone(&client);
                async move {
                    *request.uri_mut() = uri.expect("a valid target");
                    client.request(request).await
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
