//! One server and the connection to it.
//!
//! The connection is made when it is first needed, shared by all calls, and made anew after it broke or fell silent.
//! What a call did or did not do is told apart here: never sent, refused, or sent and unanswered.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo,
    Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::time::{Instant, timeout};

use super::lane::{Lane, Terms};
use crate::config::{Endpoint, RedisTls};

/// Of one attempt to connect: the handshake of TCP, that of TLS, and the log-in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause after an attempt that failed, so that every call is not an attempt of its own.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);

/// A connection to a server that is no primary is made anew, but not all the time.
const RECONNECT_AGAIN: Duration = Duration::from_secs(1);

/// After so many calls that were given up, with no answer to any other between them, the connection counts as dead:
/// a server that froze, or a network that swallows everything, closes nothing.
const SILENT_CALLS: u32 = 4;

/// The longest that a call is waited for by itself; callers give up earlier.
const LONGEST_CALL: Duration = Duration::from_secs(10);

/// Calls under way on one connection; more wait for a place. A server answers some ten thousands a second.
const MAX_UNDER_WAY: usize = 4096;

/// How servers are reached, whichever.
#[derive(Clone, Default)]
pub struct Access {
    /// The ACL user; the default one where none is named.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<String>,
    /// The database; always 0 in a cluster.
    pub database: u32,
    /// `None`: without TLS. Certificates are in PEM.
    pub tls: Option<TlsCertificates>,
    /// How long a call waits for a connection.
    pub patience: Duration,
    /// Who is told what a server says unasked.
    pub pushes: Option<Pushes>,
    /// What is asked of replicas.
    pub terms: Terms,
}

/// Takes what a server says unasked.
pub type Pushes = Arc<dyn Fn(PushInfo) + Send + Sync>;

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| ".."))
            .field("database", &self.database)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// It was never sent.
    NotSent(String),
    /// The server answered with an error.
    Refused {
        /// The first word of the error, such as `OOM`.
        code: String,
        /// The rest of it.
        text: String,
    },
    /// It was sent, or perhaps sent, and no answer came.
    Unanswered(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(text) | Self::Unanswered(text) => f.write_str(text),
            Self::Refused { code, text } if text.is_empty() => f.write_str(code),
            Self::Refused { code, text } => write!(f, "{code} {text}"),
        }
    }
}

type Opening = Shared<BoxFuture<'static, Result<MultiplexedConnection, Arc<str>>>>;

/// One server.
pub struct Node {
    /// Where it is.
    pub address: Endpoint,
    access: Arc<Access>,
    current: Mutex<Option<Attempt>>,
    given_up: AtomicU32,
    lanes: Option<Lanes>,
}

/// The ways for what waits for replicas: claims wait for no answers, and answers for no claims.
struct Lanes {
    claims: Lane,
    answers: Lane,
}

/// One attempt to connect, and the connection that came of it.
#[derive(Clone)]
struct Attempt {
    begun: Instant,
    opening: Opening,
}

impl Attempt {
    fn is_same(&self, other: &Self) -> bool {
        self.opening.ptr_eq(&other.opening)
    }
}

impl Node {
    /// A server that nobody has connected to yet.
    pub fn new(address: Endpoint, access: Arc<Access>) -> Self {
        let mut node = Self {
            address,
            access,
            current: Mutex::default(),
            given_up: AtomicU32::new(0),
            lanes: None,
        };
        let terms = node.access.terms;
        if terms.replicas > 0 {
            node.lanes = Some(Lanes {
                claims: Lane::new(node.again(), terms),
                answers: Lane::new(node.again(), terms),
            });
        }
        node
    }

    /// The same server over another connection.
    fn again(&self) -> Self {
        Self {
            address: self.address.clone(),
            access: Arc::clone(&self.access),
            current: Mutex::default(),
            given_up: AtomicU32::new(0),
            lanes: None,
        }
    }

    /// The way for claims that wait for replicas, where any do.
    pub fn claims(&self) -> Option<&Lane> {
        self.lanes.as_ref().map(|lanes| &lanes.claims)
    }

    /// The way for answers that wait for replicas, where any do.
    pub fn answers(&self) -> Option<&Lane> {
        self.lanes.as_ref().map(|lanes| &lanes.answers)
    }

    /// The same server over another connection: what it says unasked there is told.
    pub fn listening(&self, pushes: Pushes) -> Self {
        let access = Access {
            pushes: Some(pushes),
            terms: Terms {
                replicas: 0,
                ..self.access.terms
            },
            ..Access::clone(&self.access)
        };
        Self::new(self.address.clone(), Arc::new(access))
    }

    /// The same server, for one who does not log in.
    pub fn as_stranger(&self) -> Self {
        let access = Access {
            user: None,
            password: None,
            terms: Terms {
                replicas: 0,
                ..self.access.terms
            },
            ..Access::clone(&self.access)
        };
        Self::new(self.address.clone(), Arc::new(access))
    }

    /// Sends one command.
    ///
    /// # Errors
    /// See [`CallError`]. A future that is dropped leaves the call unanswered.
    pub async fn call(&self, cmd: &Cmd) -> Result<Value, CallError> {
        self.held().await?.call(cmd).await
    }

    /// Sends several commands one right behind the other.
    ///
    /// # Errors
    /// The same for all of them; a command that the server refuses is an error among the values.
    pub async fn call_all(&self, cmds: &Pipeline) -> Result<Vec<Value>, CallError> {
        self.held().await?.call_all(cmds).await
    }

    /// The connection, for calls that have to go by the same one.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn held(&self) -> Result<Held<'_>, CallError> {
        let (attempt, connection) = self.connection().await?;
        Ok(Held {
            node: self,
            attempt,
            connection,
        })
    }

    /// Whether calls go unanswered at present.
    pub fn is_silent(&self) -> bool {
        let is_silent = |node: &Self| node.given_up.load(Ordering::Relaxed) >= SILENT_CALLS;
        is_silent(self) || self.claims().is_some_and(|claims| is_silent(claims.node()))
    }

    /// So many calls went unanswered at once, besides the one that was waited for.
    pub fn fell_silent(&self, calls: usize) {
        let calls = u32::try_from(calls).unwrap_or(SILENT_CALLS);
        self.given_up
            .fetch_add(calls.min(SILENT_CALLS), Ordering::Relaxed);
    }

    /// Lets go of the connections, so that the next call makes a new one.
    pub fn disconnect(&self) {
        self.lock().take();
        if let Some(Lanes { claims, answers }) = &self.lanes {
            claims.disconnect();
            answers.disconnect();
        }
    }

    /// The same, unless the connection is new; whether it was old.
    pub fn reconnect(&self) -> bool {
        let mut current = self.lock();
        let is_old = current
            .as_ref()
            .is_some_and(|attempt| attempt.begun.elapsed() > RECONNECT_AGAIN);
        if is_old {
            *current = None;
        }
        is_old
    }

    /// An answer that is an error, as one.
    pub fn refusal_in(answer: Value) -> Result<Value, CallError> {
        answer.extract_error().map_err(|error| refusal(&error))
    }

    async fn connection(&self) -> Result<(Attempt, MultiplexedConnection), CallError> {
        let attempt = self.attempt();
        match timeout(self.access.patience, attempt.opening.clone()).await {
            Ok(Ok(connection)) => Ok((attempt, connection)),
            Ok(Err(why)) => Err(self.not_sent(&why)),
            Err(_) => Err(self.not_sent("no connection in time")),
        }
    }

    fn not_sent(&self, why: &str) -> CallError {
        let Endpoint { host, port } = &self.address;
        CallError::NotSent(format!("{host}:{port}: {why}"))
    }

    /// The attempt under way or the connection at hand; a new attempt where there is neither.
    fn attempt(&self) -> Attempt {
        let mut current = self.lock();
        if let Some(attempt) = &*current
            && !(matches!(attempt.opening.peek(), Some(Err(_)))
                && attempt.begun.elapsed() > CONNECT_AGAIN)
        {
            return attempt.clone();
        }
        let opening = open(self.address.clone(), Arc::clone(&self.access))
            .boxed()
            .shared();
        // Whoever asked first may give up; the others still wait.
        tokio::spawn(opening.clone());
        let attempt = Attempt {
            begun: Instant::now(),
            opening,
        };
        *current = Some(attempt.clone());
        attempt
    }

    fn give_up_on(&self, attempt: &Attempt) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|now| now.is_same(attempt)) {
            *current = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Attempt>> {
        // Nothing panics while it is held.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection: where it breaks it is not made anew.
pub struct Held<'n> {
    node: &'n Node,
    attempt: Attempt,
    connection: MultiplexedConnection,
}

impl Held<'_> {
    /// See [`Node::call`].
    pub async fn call(&mut self, cmd: &Cmd) -> Result<Value, CallError> {
        let waiting = Waiting::on(self.node, &self.attempt);
        let answer = self.connection.send_packed_command(cmd).await;
        waiting.ended(answer)
    }

    /// See [`Node::call_all`].
    pub async fn call_all(&mut self, cmds: &Pipeline) -> Result<Vec<Value>, CallError> {
        let waiting = Waiting::on(self.node, &self.attempt);
        let count = cmds.len();
        let answer = self.connection.send_packed_commands(cmds, 0, count).await;
        waiting.ended(answer)
    }
}

/// A call that was sent. Dropped without an end, it was given up.
struct Waiting<'n> {
    node: &'n Node,
    attempt: &'n Attempt,
    has_ended: bool,
}

impl<'n> Waiting<'n> {
    fn on(node: &'n Node, attempt: &'n Attempt) -> Self {
        Self {
            node,
            attempt,
            has_ended: false,
        }
    }

    fn ended<T: Answer>(mut self, answer: Result<T, RedisError>) -> Result<T, CallError> {
        self.has_ended = true;
        let answer = answer.and_then(T::refusal);
        match answer {
            Ok(value) => {
                self.node.given_up.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                let error = refusal(&error);
                match &error {
                    CallError::Refused { .. } => self.node.given_up.store(0, Ordering::Relaxed),
                    // Late, broken, or out of step: of no use any more.
                    _ => self.node.give_up_on(self.attempt),
                }
                Err(error)
            }
        }
    }

    fn was_given_up(&self) {
        let before = self.node.given_up.fetch_add(1, Ordering::Relaxed);
        if before + 1 >= SILENT_CALLS {
            self.node.give_up_on(self.attempt);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.was_given_up();
        }
    }
}

/// An error of the client: the server's own word, or that there is none.
fn refusal(error: &RedisError) -> CallError {
    match error.code() {
        Some(code) => CallError::Refused {
            code: code.to_owned(),
            text: error.detail().unwrap_or_default().to_owned(),
        },
        None => CallError::Unanswered(error.to_string()),
    }
}

/// What a server may answer.
trait Answer: Sized {
    /// An answer that is an error becomes one.
    fn refusal(self) -> Result<Self, RedisError>;
}

impl Answer for Value {
    fn refusal(self) -> Result<Self, RedisError> {
        self.extract_error()
    }
}

impl Answer for Vec<Value> {
    fn refusal(self) -> Result<Self, RedisError> {
        Ok(self)
    }
}

/// Certificates as the client takes them.
pub fn certificates(tls: &RedisTls) -> TlsCertificates {
    TlsCertificates {
        client_tls: tls.client.as_ref().map(|client| ClientTlsConfig {
            client_cert: client.certificate.clone(),
            client_key: client.key.0.clone(),
        }),
        root_cert: tls.roots.clone(),
    }
}

async fn open(address: Endpoint, access: Arc<Access>) -> Result<MultiplexedConnection, Arc<str>> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(LONGEST_CALL))
        .set_concurrency_limit(MAX_UNDER_WAY);
    if let Some(pushes) = access.pushes.clone() {
        config = config.set_push_sender(move |push| {
            pushes(push);
            Ok::<_, std::convert::Infallible>(())
        });
    }
    let connecting = async {
        client(address, &access)?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    };
    // The client's own limit does not hold for every step.
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string().into()),
        Err(_) => Err("no connection in time".into()),
    }
}

fn client(address: Endpoint, access: &Access) -> Result<Client, RedisError> {
    let Endpoint { host, port } = address;
    let to = match &access.tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
    };
    let mut settings = RedisConnectionInfo::default()
        .set_db(i64::from(access.database))
        .set_lib_name("oncegate", env!("CARGO_PKG_VERSION"));
    if access.pushes.is_some() {
        // Unasked words are told from answers in this version only.
        settings = settings.set_protocol(ProtocolVersion::RESP3);
    }
    if let Some(user) = &access.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &access.password {
        settings = settings.set_password(password);
    }
    let info = to
        .into_connection_info()?
        .set_tcp_settings(TcpSettings::default().set_nodelay(true))
        .set_redis_settings(settings);
    match &access.tls {
        None => Client::open(info),
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
    }
}
