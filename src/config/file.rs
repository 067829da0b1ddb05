//! The file as typed: every setting, its type, its default and what it means. The JSON Schema and the reference in
//! the README are made from this.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, Method};

use super::certificates::ClientAuthWord;
use super::document::OWN;
use super::endpoint::{ProtocolWord, ServerNameWord};
use super::finding::{Findings, Place};
use super::health::HealthFile;
use super::listener::{ListenAddress, ProxyProtocolWord, SocketMode, TrustedProxy};
use super::probe::ProbeFile;
use super::quantity::{Count, CountOrNone, Positive, Share, Size, Window};
use super::redis::{FilePath, ReplicasAck, User};
use super::secret::Secret;
use super::setting::{Definition, Form, Value, Written, joined, section, table_schema};
use super::value::{Label, Named, Partly};
use super::words::{
    AfterExpiryWord, BaseUrl, BodyWord, Challenge, Dialect, HostName, KeyAgeWord, KeyWord,
    ModeWord, OnStoreDownWord, OnUnknownWord, OriginWord, Profile, ReloadWord, ScopeWord,
    StatusWord, UnknownStatus,
};
use super::{StoreLocation, UpstreamEndpoint};
use crate::identity::{JsonPointer, KeyFormat};
use crate::route::PathPattern;

section! {
    /// The configuration of oncegate.
    ConfigFile {
        /// Which defaults the limits and timeouts have: those of a sidecar beside one service, whose clients are known, or those
        /// of an edge that strangers reach. What is written wins over either.
        profile: Profile = "sidecar",
        /// When the file is read again: whenever the process gets SIGHUP; with a duration also when its content has changed,
        /// which is looked at that often.
        reload: ReloadWord = "signal",
        /// The URL that the slug of a problem is appended to, to make its `type`. Without it the types are
        /// `urn:oncegate:problem:SLUG`.
        problem_base: Option<BaseUrl>,
        /// How long requests under way may take to end once the gateway was told to.
        drain_timeout: Duration = "30s",
        /// The part of `drain_timeout` in which new connections are still taken, while `/readyz` says already that the
        /// gateway ends and every connection is told to close: time for balancers to notice. Longer than they take for
        /// that is right (HAProxy: `inter` times `fall`; Kubernetes: 5s); 0s for a sidecar that nobody balances.
        drain_delay: Duration = "1s",
        listeners: Vec<ListenerFile> = [{}],
        admin: AdminFile = {},
        store: StoreFile = {},
        limits: LimitsFile = {},
        access_log: AccessLogFile = {},
        upstreams: Named<UpstreamFile>,
        defaults: DefaultsFile = {},
        routes: Vec<RouteFile>,
    }
    later {}
}

section! {
    /// Where clients connect: HTTP/1.1 and HTTP/2 on one port.
    ListenerFile {
        /// The address. With port 0 the system chooses one. With `unix:` it is a socket in the file system; a relative
        /// path starts at the working directory. One that a process left behind is replaced, one that is answered on is
        /// not, and it is removed at the end.
        address: ListenAddress = "127.0.0.1:8080",
        /// The permissions of the socket's file, where the address is `unix:`: 0660 unless set.
        mode: Option<SocketMode>,
        /// TLS 1.2 and 1.3: `certificates`, a list of `{ cert = "chain.pem", key = { file = "key.pem" } }`, chosen by the
        /// name that the client asks for, the first one for all others; `client_ca`, a file of authorities for the
        /// certificates of clients; `client_auth`, whether clients show one: "none", "optional", or "required", which it
        /// is where there is a `client_ca`. All in PEM. The files are read again when they change, and connections stay.
        tls: Option<TlsFile>,
        /// With "required" every connection begins with a PROXY header (version 1 or 2), before TLS, which says where the
        /// client connects from. One without it, or from somebody who is not among the `trusted_proxies`, is closed.
        proxy_protocol: ProxyProtocolWord = "off",
        /// The proxies before this listener: what they say in `X-Forwarded-For`, `-Proto` and `-Host` or in `Forwarded` is
        /// believed and continued, as far back as these proxies vouch for it. What others say there is replaced. They have
        /// to set or remove each of these. "unix:" stands for whoever may open the socket of a `unix:` address.
        trusted_proxies: Vec<TrustedProxy> = [],
    }
    later {}
}

section! {
    /// TLS on a listener.
    TlsFile {
        /// What clients are shown, by the name that they ask for: the first one that names it, else the first.
        certificates: Vec<CertificateFile>,
        /// A file of the authorities that vouch for clients, in PEM.
        client_ca: Option<FilePath>,
        /// Whether clients show a certificate. Where there is a `client_ca` they have to unless this says otherwise.
        client_auth: Option<ClientAuthWord>,
    }
    later {}
}

section! {
    /// A certificate and its key.
    CertificateFile {
        /// A file with the certificate, and behind it those above it, in PEM.
        cert: FilePath,
        /// Its private key, in PEM and without a passphrase.
        key: Secret,
    }
    later {}
}

section! {
    /// Where health and metrics are served: `/healthz`, `/readyz`, `/metrics`; and records, to operators.
    AdminFile {
        /// The address. With port 0 the system chooses one.
        address: SocketAddr = "127.0.0.1:9090",
        /// What operators show to see and settle records (`/v1/records`, `oncegate records`): a secret of 16 or more
        /// visible ASCII characters. Without it there is nothing of the kind. Whoever has it reads keys and recorded answers:
        /// it goes over the wire as it is, so keep the address on the machine or on a network of your own.
        token: Option<Secret>,
        /// The file that gets one JSON line for each record that an operator settled or deleted, flushed before he is
        /// told. It is opened anew for each line, so that it can be moved away at any time. Unless it is set, the lines
        /// stand in the ordinary log.
        audit_log: Option<FilePath>,
    }
    later { "tls", "cors" }
}

section! {
    /// Where records are kept.
    StoreFile {
        /// `memory:` forgets everything when the process ends; `embedded:PATH` is a file for a single process. A
        /// relative path starts at the working directory. `redis://USER:PASSWORD@HOST:PORT/DATABASE` and `rediss://`
        /// with TLS are a server that gateways share, `redis-sentinel://HOST:PORT,HOST:PORT/NAME` names the sentinels
        /// of one, and `redis-cluster://HOST:PORT,HOST:PORT` some servers of a cluster. A password in a URL is never
        /// printed.
        url: StoreLocation = "embedded:oncegate.db",
        /// How long one operation may take, retries included.
        timeout: Positive<Duration> = "250ms",
        /// How much it may hold, in bytes of records: 10GiB unless set, 256MiB for `memory:`. The file of an
        /// embedded store is larger, up to about twice. Servers have a limit of their own (`maxmemory`, with the
        /// policy `noeviction`), so there is none here. When it is full nothing is evicted: new claims are refused
        /// with 503, or forwarded without protection where `on_store_down` is "forward".
        max_size: Option<Positive<Size>>,
        /// Part of every record id, so that gateways that share a store can be kept apart. Records made under
        /// another one are not found any more: change it when no client retries old keys.
        namespace: Option<Label>,
        /// A secret of 32 bytes or more that keys record ids and fingerprints. It is never rotated: records made
        /// under another one could not be found, so a store that was begun with another one is refused at start. An embedded store makes and keeps its own unless this
        /// is set. A relative path starts at the working directory; a newline at the end of a file is not part of
        /// the secret.
        id_key: Option<Secret>,
        /// The password of a shared store, where it does not stand in the URL.
        password: Option<Secret>,
        /// The password that the sentinels themselves ask for (their `requirepass`), where they do: the one above is
        /// that of the servers.
        sentinel_password: Option<Secret>,
        /// The user that the sentinels know the gateway as, where they have users. It needs
        /// `+sentinel|get-master-addr-by-name`.
        sentinel_user: Option<User>,
        /// Whether a gateway that finds no store under its namespace begins one. With false it refuses claims, with
        /// 503, until `oncegate store accept` begins it: a store that was emptied while no gateway was running is then
        /// never taken for a new one.
        begin: bool = true,
        /// How many replicas have to have a claim before it counts; what they do not have in time is refused, with
        /// 503. Required where replicas can take over (`redis-sentinel:`, `redis-cluster:`): 0 says that a claim which no
        /// replica has yet may be lost with its primary, and its operation sent again. With 1, have two replicas for
        /// each primary: with one, claims are refused while it, or its successor's replica, is away.
        replicas_ack: Option<ReplicasAck>,
        /// TLS to a shared store, whatever its URL begins with: `roots`, a file of root certificates to trust in the
        /// place of the system's; `certificate`, a file with what the servers are shown; and `key`, where its private
        /// key is, `{ file = "path" }` or `{ env = "NAME" }`. All in PEM, and each may be left out. A certificate of a
        /// server has to bear the name or address that it is reached by, in a cluster the one that it announces.
        tls: Option<StoreTlsFile>,
        /// Recorded responses are encrypted at rest where there is a key: AES-256-GCM, bound to their record, bodies
        /// compressed first. The first key encrypts and all of them decrypt: to rotate, put a new one in front, and
        /// take the old one away once the longest `retention` is over. A response whose key is missing is not
        /// replayed: its duplicates are answered with 503. What was recorded without a key stays as it is.
        encryption_keys: Vec<EncryptionKeyFile> = [],
    }
    later {}
}

section! {
    /// TLS to the servers of a shared store, whatever its URL begins with.
    StoreTlsFile {
        /// A file of root certificates to trust, in PEM, in the place of the system's.
        roots: Option<FilePath>,
        /// A file with the certificate that the servers are shown, and those above it, in PEM.
        certificate: Option<FilePath>,
        /// The private key of that certificate, in PEM.
        key: Option<Secret>,
    }
    later {}
}

section! {
    /// A key that recorded responses are encrypted with.
    EncryptionKeyFile {
        /// Its name, which encrypted responses bear. Never give it to another key.
        id: Label,
        /// A secret of 32 bytes or more.
        key: Secret,
    }
    later {}
}

section! {
    /// The bounds of everything that waits or is held. Each says what happens beyond it.
    LimitsFile {
        /// Client connections at a time. A further one is answered with 503 `overloaded` and closed.
        max_connections: Count = 4096 edge 16384,
        /// Client connections of one address at a time, of one /64 with IPv6; 0 for as many as there are. A further one is
        /// refused as one beyond `max_connections` is. Behind a PROXY header the address is the client's. Connections of
        /// trusted proxies, which bring many clients, and over Unix sockets are not counted.
        max_connections_per_address: CountOrNone = 0 edge 256,
        /// Bodies held in memory, all requests together: those of requests, and recorded answers until their clients
        /// have taken them. A request whose body or replay finds no room is answered with 503 `overloaded`.
        max_buffered: Positive<Size> = "64MiB" edge "256MiB",
        /// Duplicates that wait for the first of one key. A further one is answered with 503 `overloaded`.
        max_waiters_per_key: Count = 16,
        /// Duplicates that wait, all keys together. A further one is answered with 503 `overloaded`.
        max_waiters: Count = 256 edge 4096,
        /// Dispatches kept open past their `response_timeout`. A further one is not kept open: its late answer is
        /// lost, and the outcome stays unknown.
        max_late: Count = 256 edge 1024,
        /// From accepting a connection to its first byte; then it is closed. A PROXY header has that long to come whole,
        /// and so have the first byte of TLS and, behind the handshake, that of HTTP.
        first_byte: Positive<Duration> = "10s" edge "5s",
        /// From the first byte of a request to the end of its head; then the connection is closed. So is one whose TLS
        /// handshake takes longer. A head that stalls
        /// over HTTP/2 leaves its connection idle, and `keep_alive` closes it.
        headers: Positive<Duration> = "10s" edge "5s",
        /// Between two pieces of a body; then the request is given up, or the client that takes nothing of its
        /// answer.
        body_idle: Positive<Duration> = "30s" edge "15s",
        /// Bytes a second that a client has to send of a body, on average while it is waited for; then the request is given
        /// up. 0 for as few as it likes, if only one in every `body_idle`.
        min_receive_rate: Size = "0" edge "240B",
        /// Bytes a second that a client has to take of an answer, on average while there are some for it; then the
        /// connection is closed, with HTTP/2 the stream. 0 for as few as it likes. What the system's buffers take counts as
        /// taken, and a stream of events that is silent has nothing to take.
        min_send_rate: Size = "0" edge "240B",
        /// How long a client may be slower than these rates, all its delays together; bytes beyond the rate make good for it.
        rate_grace: Positive<Duration> = "5s",
        /// Between two requests on a connection; then it is closed. It has to be longer than a balancer in front keeps its
        /// idle connections.
        keep_alive: Positive<Duration> = "75s" edge "30s",
        /// Requests under way on one HTTP/2 connection; a client is told, and a further one is refused.
        http2_streams: Count = 128 edge 64,
        /// What an HTTP/2 client may send ahead of its being read, for one body.
        http2_stream_window: Window = "256KiB" edge "64KiB",
        /// The same for all bodies of a connection.
        http2_connection_window: Window = "1MiB" edge "256KiB",
        /// How often an HTTP/2 client is asked whether it is still there.
        http2_ping_every: Positive<Duration> = "20s" edge "15s",
        /// How long it may take to answer that, behind all that is on its way to it: half a minute is what a full window takes
        /// over the slowest of mobile links. Then its connection is closed.
        http2_ping_timeout: Positive<Duration> = "20s" edge "30s",
        /// Recorded responses held in memory, so that a replay need not ask the store. The least used make room
        /// for new ones, and their replays ask the store. 0 switches it off.
        replay_cache: Size = "64MiB",
    }
    later {}
}

section! {
    /// One line for each request, on standard error. Refusals, unknown outcomes, errors, statuses from 500 on, requests
    /// whose client has left and slow ones are always written; of the others as many as `sample` says.
    AccessLogFile {
        /// Whether there is one.
        enabled: bool = true,
        /// The share of ordinary requests that are written: 1.0 for all, 0.01 for one in a hundred, 0.0 for none.
        sample: Share = 1.0,
        /// A request that takes longer than this is not an ordinary one.
        slow: Positive<Duration> = "5s",
        /// Whether lines bear the path, without its query. Where paths carry secrets, switch it off; the route's name
        /// is there in any case.
        path: bool = true,
    }
    later {}
}

section! {
    /// A service behind the gateway.
    UpstreamFile {
        /// Its addresses. Requests are balanced over several, and a name stands for all addresses that it has. A `unix:` path is relative to the working directory; where no
        /// client says one, the `Host` of requests to it is `localhost`.
        endpoints: Vec<UpstreamEndpoint>,
        /// TLS to its `https:` endpoints, where the defaults will not do: `roots`, a file of the certificates to trust in
        /// place of the system's; `certificate`, a file with what the endpoints are shown; `key`, where its private key
        /// is, `{ file = "path" }` or `{ env = "NAME" }`; and `server_name`, the name to ask for and to verify in place
        /// of the endpoint's own. All in PEM, read at the start and at SIGHUP, and each may be left out. Certificates are always
        /// verified. TLS 1.2 and 1.3.
        tls: Option<UpstreamTlsFile>,
        /// What is spoken to it. `http1`: HTTP/1.1. `auto`: to `https:` endpoints HTTP/2 or HTTP/1.1, whichever they
        /// prefer (ALPN), and HTTP/1.1 to the others. `http2`: HTTP/2 only; an `https:` endpoint that will not speak it
        /// fails the handshake, and others are taken to speak it from the first byte, as servers of gRPC do. Requests
        /// share its connections.
        protocol: ProtocolWord = "http1",
        /// DNS servers, `IP:PORT`, that are asked for the names among its endpoints in place of the system's resolver, which
        /// is `/etc/hosts`, `/etc/resolv.conf` with its search list, and whatever else the system asks. The first one that
        /// answers counts; names are taken as they stand.
        resolvers: Vec<SocketAddr> = [],
        /// Active health checks, with at least a path: `health = { path = "/healthz" }`. Every address is sent a GET request
        /// by itself, over the same TLS as others; one that fails gets no requests until it is well again, or no address
        /// is. Off unless set.
        health: Option<HealthFile>,
        /// How long one attempt to connect to one address may take, the TLS handshake included.
        connect_timeout: Positive<Duration> = "1s",
        /// How long an idle connection is kept: less than the service keeps it (Node.js: 5 s).
        idle_timeout: Positive<Duration> = "4s",
        /// Requests under way at a time.
        max_in_flight: Count = 1024,
    }
    later { "proxy_protocol" }
}

section! {
    /// TLS to the endpoints of an upstream.
    UpstreamTlsFile {
        /// A file of root certificates to trust, in PEM, in the place of the system's.
        roots: Option<FilePath>,
        /// A file with the certificate that the endpoints are shown, and those above it, in PEM.
        certificate: Option<FilePath>,
        /// The private key of that certificate, in PEM and without a passphrase.
        key: Option<Secret>,
        /// The name that the endpoints are asked for, and that their certificates have to bear: the host of each unless
        /// set.
        server_name: Option<ServerNameWord>,
    }
    later {}
}

section! {
    /// What is done with which requests: the first route that matches in method, host and path has a request. What
    /// none matches is answered with 404. `name`, `path` and `upstream` are required, and so is `scope` unless the
    /// mode is `pass`.
    RouteFile {
        /// Its label in metrics and logs. Required, and no two routes share one.
        name: Option<Label>,
        /// Its identity in record ids: `name` unless set. Set it before you rename a route, so that its records
        /// are still found.
        id: Option<Label>,
        /// The methods that it takes. Empty: all of them, and GET, HEAD, OPTIONS and TRACE then pass unprotected.
        methods: Vec<Method> = [],
        /// The path that it takes, as the client wrote it: exact; `/v1/*` for everything below `/v1/`; or with one
        /// segment left open, `/v1/{id}/refund`. Where an upstream might normalise a path to one of another
        /// route, the request is refused with 400. Required.
        path: Option<PathPattern>,
        /// The host that it takes, whatever the port. Any unless set.
        host: Option<HostName>,
        /// The name of the upstream that its requests go to. Required.
        upstream: Option<Label>,
        /// `enforce` lets each operation through once; `observe` forwards untouched, and counts what `enforce` would
        /// have made of each request; `pass` forwards untouched.
        mode: ModeWord = "enforce",
        /// Where the key is looked for, in order.
        key: Vec<KeyWord> = ["header:Idempotency-Key"],
        /// Whether a request without a key is refused, or forwarded as `unkeyed`.
        key_required: bool = true,
        /// What a key looks like. The pattern of `regex:PATTERN` has to match the whole key. `issued` keys are made by the
        /// gateway: clients ask for one by `POST /.well-known/oncegate/keys`.
        key_format: KeyFormat = "any",
        /// Who is asking: all of these together name the client whose records these are. `["none"]` is for
        /// upstreams with a single client. Records made under another scope are not found any more: change it when
        /// no client retries old keys. Required unless the mode is `pass`.
        scope: Option<Vec<ScopeWord>>,
        /// Whether a request without a scope is refused, or forwarded as `unkeyed`.
        scope_required: bool = true,
        /// The `WWW-Authenticate` of a request that is refused for want of a scope.
        challenge: Challenge = "Bearer",
        fingerprint: FingerprintFile = {},
        cors: CorsFile = {},
        /// How long a duplicate waits for the first; with 0s it is answered with 409 at once.
        wait: Duration = "0s",
        /// How long a claim is good for without a sign of life of the gateway that holds it. Never less than twice
        /// `store.timeout`.
        lease: Positive<Duration> = "15s",
        /// From the dispatch to the last byte of the response; where the mode is `pass`, to the end of its head.
        response_timeout: Positive<Duration> = "30s",
        /// How much longer a dispatch is kept open, so that a late answer is still recorded.
        late_response: Duration = "5m",
        /// How long a client waits for its response to be recorded.
        record_timeout: Positive<Duration> = "2s",
        /// What a duplicate of an operation of unknown outcome meets. `hold` answers it by `unknown_status`. `resend` sends
        /// it again, under the same key: only for upstreams that recognise keys by themselves. `probe` asks the upstream
        /// whether it happened, as `probe` says.
        on_unknown: OnUnknownWord = "hold",
        probe: Option<ProbeFile>,
        /// The status of `outcome-unknown`: 503 is for clients that take any 4xx for a failure.
        unknown_status: UnknownStatus = 409,
        outcomes: OutcomesFile = {},
        retention: RetentionFile = {},
        /// What a key meets when its retention is over. With "execute" it is new again. With "reject" it is
        /// remembered and refused (409 `result-expired`) for as long again; one of unknown outcome is held as unknown for twice
        /// `retention.unknown`.
        after_expiry: AfterExpiryWord = "execute",
        /// What is made of the time that keys of some formats carry (`issued`, `ulid`, and `uuid`, which then has to be of
        /// version 7). With "reject" a key that is so old that its record may be forgotten is never executed: without a record
        /// it is refused (409 `result-expired`).
        key_age: KeyAgeWord = "ignore",
        /// When the store cannot be asked, or is full and the key is new: "reject" answers with 503, "forward"
        /// sends the request on without protection.
        on_store_down: OnStoreDownWord = "reject",
        /// How refusals are written: as draft-ietf-httpapi-idempotency-key-header-07 has them.
        dialect: Dialect = "ietf",
        /// Whether the upstream sees the key.
        forward_key: bool = true,
        /// The largest request body that is taken; 413 beyond it.
        max_request_body: Positive<Size> = "1MiB",
        /// The largest response body that is recorded. A larger one passes, and duplicates are told that it was
        /// not stored.
        max_response_body: Positive<Size> = "1MiB",
    }
    later {}
}

section! {
    /// Which pages of other origins may call the route from a browser, and read its answers, refusals and replays (CORS).
    CorsFile {
        /// The origins, as browsers write them: `https://shop.example.com`, `https://*.example.com` for one label more, or `*`
        /// alone for all. Where it is empty the gateway says nothing about origins, and what the upstream says passes as it is.
        /// Elsewhere the gateway answers preflights, and what it says takes the place of what the upstream says
        /// (`Access-Control-*`).
        origins: Vec<OriginWord> = [],
        /// Whether pages may send cookies and client certificates along.
        credentials: bool = false,
        /// More request headers that pages may set, besides `Content-Type`, `Authorization`, and those that the route has in
        /// `key`, `scope` and `fingerprint.headers`.
        headers: Vec<HeaderName> = [],
        /// More response headers that pages may read, besides `Idempotency-Status`, `Idempotent-Replayed`, `Location`,
        /// `Retry-After`, `WWW-Authenticate`, and those that every page may read, such as `Content-Type`.
        expose: Vec<HeaderName> = [],
        /// For how long a browser remembers that a page may call the route. Browsers have bounds of their own.
        max_age: Duration = "10m",
    }
    later {}
}

section! {
    /// What makes two requests the same, besides method and path. Retries of requests that were recorded under
    /// other rules look like other requests and are refused with 422: change it when no client retries old keys.
    FingerprintFile {
        /// The body counts byte for byte, as JSON (the order of members does not matter), or not at all.
        body: BodyWord = "bytes",
        /// Whether the query counts.
        query: bool = true,
        /// Whether the host counts, whatever its port. Say false where clients reach one service by several names.
        host: bool = true,
        /// Headers that count.
        headers: Vec<HeaderName> = [],
        /// Members of a JSON body that do not count, by JSON pointer (RFC 6901). Only with `body = "json"`.
        ignore: Vec<JsonPointer> = [],
    }
    later {}
}

section! {
    /// What the upstream's status says about the operation. What is in neither list is recorded.
    OutcomesFile {
        /// The upstream did nothing: the key is free again.
        release: Partly<StatusWord> = ["401", "425", "429"],
        /// The status does not say what happened.
        unknown: Partly<StatusWord> = ["408", "502", "503", "504"],
    }
    later {}
}

section! {
    /// How long outcomes are kept.
    RetentionFile {
        /// Recorded responses below 400.
        success: Positive<Duration> = "24h",
        /// Recorded responses from 400 on.
        failure: Positive<Duration> = "24h",
        /// Unknown outcomes. Never less than `response_timeout`, `late_response`, `record_timeout` and `lease`
        /// together.
        unknown: Positive<Duration> = "30d",
    }
    later {}
}

/// Section `[defaults]`: read for its faults alone, since every route was completed from it before.
pub(super) struct DefaultsFile {
    /// Where they say something about protection: it is not a route's own word.
    pub(super) protecting: Vec<usize>,
}

impl RouteFile {
    /// Settings that say how operations are protected, where they are written, here or in `[defaults]`; not the ones that
    /// are more often there for other routes.
    pub(super) fn protecting(&self) -> Vec<&Place> {
        let written = [
            self.key_format.written(),
            self.wait.written(),
            self.on_unknown.written(),
            self.probe.written(),
        ];
        written.into_iter().flatten().collect()
    }
}

impl Value for DefaultsFile {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let route = RouteFile::read(written, findings)?;
        let own = [("name", &route.name), ("id", &route.id)];
        for (name, setting) in own {
            if setting.written().is_some() {
                findings.value(
                    &setting.place,
                    format!("belongs to one route; there is no `{name}` for all"),
                );
            }
        }
        let protecting = route.protecting();
        let protecting = protecting.iter().map(|place| place.offset).collect();
        Some(Self { protecting })
    }

    fn kind() -> String {
        RouteFile::kind()
    }

    fn schema() -> serde_json::Value {
        let mut settings = RouteFile::settings();
        settings.retain(|setting| !OWN.contains(&setting.name));
        table_schema(&Self::about(), &settings)
    }

    fn settings() -> Vec<Definition> {
        Vec::new()
    }

    fn about() -> String {
        joined(&[
            "Anything that a route may say, for all routes, but for `name` and `id`. A table in a route is merged with",
            "the same table in here, field by field.",
        ])
    }

    fn form() -> Form {
        Form::Section
    }
}
