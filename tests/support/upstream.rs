//! A scripted HTTP/1.1 upstream on bare sockets.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::act::{Act, Begins, Step};
use super::wire::{Framing, Head, Received, chunk, read_body, read_chunk, read_head, read_headers};
use super::within;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An upstream that does what the test says and remembers what it was sent.
///
/// Every request that it received to the last byte is one *charge*, whatever it answers. Without a script it
/// answers 201 with the number of the charge.
pub struct ToyUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A port on which nobody listens, yet nobody else can either: connections to it are refused.
pub struct RefusedPort(TcpSocket);

type Script = dyn Fn(&Received) -> Act + Send + Sync;

struct Shared {
    /// Acts for the next requests, in their order of arrival.
    next: Mutex<VecDeque<Act>>,
    /// What is done where `next` is empty.
    always: Mutex<Arc<Script>>,
    received: Mutex<Vec<Received>>,
    /// Whether requests are counted and not kept.
    forgets: AtomicBool,
    /// The number of the latest request.
    numbers: AtomicUsize,
    /// How many were received.
    count: watch::Sender<usize>,
    /// How many of them [`ToyUpstream::next_request`] has handed out.
    handed_out: Mutex<usize>,
    /// Counts the calls of [`ToyUpstream::close_idle_connections`].
    close_idle: watch::Sender<usize>,
    /// Connections accepted so far.
    accepted: watch::Sender<usize>,
    /// Connections that are open now.
    open: watch::Sender<usize>,
}

impl RefusedPort {
    /// Takes a free port.
    pub fn take() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("a free port");
        Self(socket)
    }

    /// What to write into `endpoints`.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().expect("a bound socket"))
    }

    /// Starts an upstream on it.
    pub fn listen(self) -> ToyUpstream {
        ToyUpstream::on(self.0.listen(BACKLOG).expect("to listen"))
    }
}

impl ToyUpstream {
    /// Starts one on a free port.
    pub fn start() -> Self {
        RefusedPort::take().listen()
    }

    /// Starts one at this address; port 0 is any that is free.
    ///
    /// # Errors
    /// Where somebody else listens there.
    pub fn at(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Connections that have just ended may still be remembered there.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self::on(socket.listen(BACKLOG)?))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to write into `endpoints`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is done with the next request that no earlier call of this is for.
    pub fn next(&self, act: Act) -> &Self {
        self.shared.next.lock().expect("no panic").push_back(act);
        self
    }

    /// What is done with every request that [`Self::next`] says nothing about.
    pub fn always(&self, script: impl Fn(&Received) -> Act + Send + Sync + 'static) -> &Self {
        *self.shared.always.lock().expect("no panic") = Arc::new(script);
        self
    }

    /// Counts requests from now on and keeps none: for loads of very many.
    pub fn forgets(&self) -> &Self {
        self.shared.forgets.store(true, Ordering::Relaxed);
        self
    }

    /// The next request that was received to its last byte; each one is handed out once.
    pub async fn next_request(&self) -> Received {
        let number = {
            let mut handed_out = self.shared.handed_out.lock().expect("no panic");
            *handed_out += 1;
            *handed_out
        };
        self.received_at_least(number).await;
        self.requests()[number - 1].clone()
    }

    /// Returns once so many requests were received.
    pub async fn received_at_least(&self, number: usize) {
        let mut count = self.shared.count.subscribe();
        let arrived = count.wait_for(|count| *count >= number);
        within("a request to reach the upstream", arrived)
            .await
            .expect("the count lives on");
    }

    /// Everything that was received so far.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }

    /// How often the upstream did what it was asked to do.
    pub fn charges(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// The same by idempotency key, as received.
    pub fn charges_by_key(&self) -> HashMap<String, usize> {
        let mut charges = HashMap::new();
        for request in self.shared.received.lock().expect("no panic").iter() {
            *charges.entry(request.key()).or_default() += 1;
        }
        charges
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Whether every connection that was ever accepted is still open: none was given up. One that is not quite at rest is not
    /// taken for the next request, so there may be several.
    pub fn keeps_all_connections(&self) -> bool {
        *self.shared.open.borrow() == self.connections()
    }

    /// Closes the connections that wait for a request, and returns when all are closed.
    pub async fn close_idle_connections(&self) {
        self.shared.close_idle.send_modify(|calls| *calls += 1);
        self.all_closed().await;
    }

    /// Returns once no connection is open.
    pub async fn all_closed(&self) {
        let mut open = self.shared.open.subscribe();
        within("connections to close", open.wait_for(|open| *open == 0))
            .await
            .expect("the count lives on");
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            next: Mutex::default(),
            always: Mutex::new(Arc::new(charge)),
            received: Mutex::default(),
            forgets: AtomicBool::new(false),
            numbers: AtomicUsize::new(0),
            count: watch::Sender::new(0),
            handed_out: Mutex::new(0),
            close_idle: watch::Sender::new(0),
            accepted: watch::Sender::new(0),
            open: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }
}

impl Drop for ToyUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn charge(request: &Received) -> Act {
    let body = format!("{{\"charge\":\"ch_{}\"}}", request.number);
    Act::respond(201, &[("Content-Type", "application/json")], body)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped, and with it every connection, when the upstream is.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.accepted.send_modify(|accepted| *accepted += 1);
        shared.open.send_modify(|open| *open += 1);
        let number = *shared.accepted.borrow();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // An error here is the gateway's hanging up, which many tests make it do.
            let mut exchange = Exchange::new(stream, number, &shared);
            let _ = exchange.run().await;
            exchange.end();
            shared.open.send_modify(|open| *open -= 1);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One connection.
struct Exchange<'a> {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    number: usize,
    shared: &'a Shared,
    is_reset: bool,
}

/// Whether a connection goes on.
#[derive(PartialEq)]
enum Next {
    KeepAlive,
    End,
}

impl<'a> Exchange<'a> {
    fn new(stream: TcpStream, number: usize, shared: &'a Shared) -> Self {
        // What is written is sent at once, and not when the gateway has acknowledged what was before it.
        stream.set_nodelay(true).expect("an open socket");
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            number,
            shared,
            is_reset: false,
        }
    }

    async fn run(&mut self) -> io::Result<()> {
        let mut close_idle = self.shared.close_idle.subscribe();
        loop {
            let head = tokio::select! {
                head = self.next_head() => match head? {
                    Some(head) => head,
                    None => return Ok(()),
                },
                _ = close_idle.changed() => return Ok(()),
            };
            let act = match self.take_next(Begins::AfterHead) {
                Some(act) => act,
                None => self.received(&head).await?,
            };
            if self.play(act, &head).await? == Next::End {
                return Ok(());
            }
        }
    }

    /// Reads a head, unless the next act wants none; `None` at the connection's end.
    async fn next_head(&mut self) -> io::Result<Option<Head>> {
        if self.reader.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        if self.take_next(Begins::BeforeReading).is_some() {
            self.reset();
            return Ok(None);
        }
        read_head(&mut self.reader).await
    }

    fn take_next(&self, begins: Begins) -> Option<Act> {
        let mut next = self.shared.next.lock().expect("no panic");
        match next.front() {
            Some(act) if act.begins == begins => next.pop_front(),
            _ => None,
        }
    }

    /// Reads the rest of a request, counts it and says what is done with it.
    async fn received(&mut self, head: &Head) -> io::Result<Act> {
        let mut body = Vec::new();
        let framing = Framing::of_request(&head.headers);
        let trailers = read_body(&mut self.reader, framing, &mut body).await?;
        let mut words = head.first_line.split(' ').map(str::to_owned);
        let request = {
            let mut received = self.shared.received.lock().expect("no panic");
            let request = Received {
                number: self.shared.numbers.fetch_add(1, Ordering::Relaxed) + 1,
                connection: self.number,
                method: words.next().unwrap_or_default(),
                target: words.next().unwrap_or_default(),
                headers: head.headers.clone(),
                body,
                trailers,
            };
            if !self.shared.forgets.load(Ordering::Relaxed) {
                received.push(request.clone());
            }
            request
        };
        let act = self.take_next(Begins::AfterReading).unwrap_or_else(|| {
            let always = Arc::clone(&self.shared.always.lock().expect("no panic"));
            always(&request)
        });
        self.shared
            .count
            .send_modify(|count| *count = (*count).max(request.number));
        Ok(act)
    }

    async fn play(&mut self, act: Act, head: &Head) -> io::Result<Next> {
        for step in act.steps {
            match step {
                Step::Write(bytes) => self.writer.write_all(&bytes).await?,
                Step::Wait(gate) => gate.opened().await,
                Step::Open(gate) => gate.open(),
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::Echo => self.echo(head).await?,
                Step::Hang => {
                    self.reader.read_to_end(&mut Vec::new()).await?;
                    return Ok(Next::End);
                }
                Step::Close => return Ok(Next::End),
                Step::Reset => {
                    self.reset();
                    return Ok(Next::End);
                }
            }
        }
        // Where the body was left unread, what follows on this connection is not a request.
        Ok(if act.begins == Begins::AfterReading {
            Next::KeepAlive
        } else {
            Next::End
        })
    }

    async fn echo(&mut self, head: &Head) -> io::Result<()> {
        match Framing::of_request(&head.headers) {
            Framing::Chunked => {
                while let Some(piece) = read_chunk(&mut self.reader).await? {
                    self.writer.write_all(&chunk(&piece)).await?;
                }
                read_headers(&mut self.reader).await?;
            }
            framing => {
                let mut body = Vec::new();
                read_body(&mut self.reader, framing, &mut body).await?;
                self.writer.write_all(&chunk(&body)).await?;
            }
        }
        self.writer.write_all(b"0\r\n\r\n").await
    }

    /// Makes the end of this connection a reset.
    fn reset(&mut self) {
        self.is_reset = true;
        let stream: &TcpStream = self.writer.as_ref();
        let linger = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        linger.expect("linger can be set on an open socket");
    }

    fn end(self) {
        if self.is_reset {
            // Dropped, it would say an orderly end first.
            self.writer.forget();
        }
    }
}
