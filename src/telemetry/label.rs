//! The values that labels can have. Each is a closed set, so that every series exists from the start and no
//! client can make a new one.

use crate::protocol::{Cause, NotStored, Op};

/// A label with a closed set of values.
pub trait Label: Copy + 'static {
    /// Every value, each at its own [`Label::index`].
    const ALL: &'static [Self];

    /// The value in metrics.
    fn name(self) -> &'static str;

    /// The place in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Defines an enum whose variants are the values of one label, with what each of them means.
macro_rules! label {
    (
        $(#[doc = $about:literal])+
        pub enum $label:ident {
            $( $(#[doc = $help:literal])+ $value:ident = $name:literal, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $label {
            $( $(#[doc = $help])+ $value, )+
        }

        impl $label {
            /// What the value means, for the reference.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self {
                    $( Self::$value => concat!($($help),+).trim_ascii(), )+
                }
            }
        }

        impl Label for $label {
            const ALL: &'static [Self] = &[$( Self::$value, )+];

            fn name(self) -> &'static str {
                match self {
                    $( Self::$value => $name, )+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Who settled a record.
    pub enum Settler {
        /// An operator, by the admin API.
        Operator = "operator",
        /// A probe of the upstream.
        Probe = "probe",
    }
}

label! {
    /// As what a record was settled.
    pub enum Settled {
        /// It was executed; its answer is replayed from now on.
        Completed = "completed",
        /// It was not executed; its key is free again.
        Released = "released",
        /// An operator deleted the record, whatever it said.
        Deleted = "deleted",
    }
}

label! {
    /// What became of a request on a route. Every request counts exactly once.
    pub enum Decision {
        /// A `pass` route, or a method that its route does not protect: it went through untouched.
        Passthrough = "passthrough",
        /// It was sent to the upstream, and the answer is recorded.
        Executed = "executed",
        /// It was answered from the record.
        Replayed = "replayed",
        /// It waited for the first request with its key and got the same answer.
        Joined = "joined",
        /// It was sent; the upstream's answer says that nothing was done, and the key is free again.
        Released = "released",
        /// It was sent and answered, but the answer could not be recorded in time.
        Unrecorded = "unrecorded",
        /// Refused (409): the first request with this key is still running.
        InProgress = "in_progress",
        /// Refused (422): the key was used for another request.
        Mismatch = "mismatch",
        /// Refused (400): the route requires a key.
        KeyMissing = "key_missing",
        /// Refused (400): the key is too long, malformed, or there are several.
        KeyInvalid = "key_invalid",
        /// Refused (401): the request does not say who is asking.
        ScopeMissing = "scope_missing",
        /// Sent without a known outcome, or refused because an earlier attempt was.
        Unknown = "unknown",
        /// Refused (409): the operation is completed, but its response could not be kept.
        NotStored = "not_stored",
        /// Refused (409): the retention is over and the key is remembered.
        Expired = "expired",
        /// Refused (502): no upstream could be reached; nothing was sent.
        UpstreamUnreachable = "upstream_unreachable",
        /// Refused (413): the body is beyond the route's limit.
        BodyTooLarge = "body_too_large",
        /// Refused (503): the store could not be asked; nothing was sent.
        StoreUnavailable = "store_unavailable",
        /// Refused (503): a bound was reached; nothing was sent.
        Overloaded = "overloaded",
        /// It was forwarded without protection because it bears no key or no scope.
        Unkeyed = "unkeyed",
        /// It was forwarded without protection because the store was down.
        Unprotected = "unprotected",
        /// Observe mode: it went through, and no earlier request with its key was seen.
        Observed = "observed",
        /// Observe mode: it went through, and enforce mode would have met a duplicate.
        ObservedDuplicate = "observed_duplicate",
    }
}

label! {
    /// What enforce mode would have made of a request that observe mode let through.
    pub enum WouldBe {
        /// Sent: its key is new.
        Executed = "executed",
        /// A duplicate, answered from the record of the first one.
        Replayed = "replayed",
        /// A duplicate while the first one was under way: it would have waited for as long as `wait` says, or been
        /// refused (409).
        InProgress = "in_progress",
        /// A duplicate, refused (422): the key was used for another request.
        Mismatch = "mismatch",
        /// A duplicate, refused (409): the first one's response could not have been kept.
        NotStored = "not_stored",
        /// A duplicate, refused (409): the first one was sent, and its outcome is not known.
        Unknown = "unknown",
        /// A duplicate of a request that was not seen to its end, because its client left or this process ended.
        /// Enforce mode goes on without the client, and answers from the record.
        Unseen = "unseen",
        /// A duplicate, refused (409): the retention is over and the key is remembered.
        Expired = "expired",
        /// Refused (400): the route requires a key.
        KeyMissing = "key_missing",
        /// Refused (400): the key is too long, malformed, in a trailer, or there are several.
        KeyInvalid = "key_invalid",
        /// Refused (401): the request does not say who is asking.
        ScopeMissing = "scope_missing",
        /// Forwarded without protection because it bears no key or no scope.
        Unkeyed = "unkeyed",
        /// Refused (400): an upgrade, a `Connection` that names the key, the scope or a header of the fingerprint, or a
        /// body that broke off.
        BadRequest = "bad_request",
        /// Refused (413): the body is beyond the route's limit.
        BodyTooLarge = "body_too_large",
        /// The store did not say: refused (503), or forwarded without protection where the route says so.
        StoreUnavailable = "store_unavailable",
        /// Not known, because observing is not to cost more: too many requests are observed at a time, the store is
        /// three quarters full, there is no room for the copy of a JSON body, or the request was answered before its
        /// body was whole.
        NotObserved = "not_observed",
    }
}

impl WouldBe {
    /// Whether an earlier request with the same key was seen.
    #[must_use]
    pub fn is_duplicate(self) -> bool {
        matches!(
            self,
            Self::Replayed
                | Self::InProgress
                | Self::Mismatch
                | Self::NotStored
                | Self::Unknown
                | Self::Unseen
                | Self::Expired
        )
    }
}

label! {
    /// How the answer that an observed duplicate got compares with the one that would have been replayed.
    pub enum ObservedReplay {
        /// The same status.
        SameStatus = "same_status",
        /// Another status.
        OtherStatus = "other_status",
        /// It got no whole answer.
        NoAnswer = "no_answer",
    }
}

label! {
    /// Why a request has no decision.
    pub enum Unrouted {
        /// No route matches (404).
        NoRoute = "no_route",
        /// The message breaks the HTTP policy (400).
        BadRequest = "bad_request",
        /// The client left before its request was whole.
        Abandoned = "abandoned",
        /// It was a browser's question whether a page may call a route, and was answered (204).
        Preflight = "preflight",
        /// It asked for a key and got one (201).
        KeyIssued = "key_issued",
        /// It asked for a key, and the store did not say what time it is (503).
        KeyNotIssued = "key_not_issued",
    }
}

label! {
    /// What a store is asked: the protocol's ops, and the questions that change nothing.
    pub enum StoreOp {
        /// [`Op::Claim`]
        Claim = "claim",
        /// [`Op::Renew`]
        Renew = "renew",
        /// [`Op::Complete`]
        Complete = "complete",
        /// [`Op::MarkUnknown`]
        MarkUnknown = "mark_unknown",
        /// [`Op::Release`]
        Release = "release",
        /// [`Op::TakeOver`]
        TakeOver = "take_over",
        /// [`Op::Resolve`]
        Resolve = "resolve",
        /// What a client would be told.
        Look = "look",
        /// The record as it is stored.
        Read = "read",
        /// Which records are unresolved.
        Unresolved = "unresolved",
        /// Whether the store can be asked.
        Ping = "ping",
    }
}

impl StoreOp {
    /// Whether it changes nothing: its answer does not say that the store can write.
    #[must_use]
    pub fn is_question(self) -> bool {
        matches!(
            self,
            Self::Look | Self::Read | Self::Unresolved | Self::Ping
        )
    }
}

impl From<&Op> for StoreOp {
    fn from(op: &Op) -> Self {
        match op {
            Op::Claim { .. } => Self::Claim,
            Op::Renew { .. } => Self::Renew,
            Op::Complete { .. } => Self::Complete,
            Op::MarkUnknown { .. } => Self::MarkUnknown,
            Op::Release { .. } => Self::Release,
            Op::TakeOver { .. } => Self::TakeOver,
            Op::Resolve { .. } => Self::Resolve,
        }
    }
}

label! {
    /// How a store call ended.
    pub enum StoreResult {
        /// With a verdict, whatever it says.
        Done = "done",
        /// It was certainly not applied.
        NotDone = "not_done",
        /// It may have been applied, or may yet be.
        InDoubt = "in_doubt",
    }
}

label! {
    /// What a claim met.
    pub enum ClaimResult {
        /// It is this attempt's: the request may be sent.
        Acquired = "acquired",
        /// Another attempt has it.
        InFlight = "in_flight",
        /// An attempt before it is completed.
        Completed = "completed",
        /// An attempt before it was sent, and its outcome is not known.
        Unknown = "unknown",
        /// The key was used for another request.
        Mismatch = "mismatch",
        /// The retention is over, and the key is remembered.
        Expired = "expired",
        /// The store gave no verdict.
        NoVerdict = "no_verdict",
    }
}

label! {
    /// Why a connection was turned away.
    pub enum ConnectionRefused {
        /// As many are open as there may be.
        MaxConnections = "max_connections",
        /// As many are open from the same address as there may be.
        MaxConnectionsPerAddress = "max_connections_per_address",
    }
}

label! {
    /// Which limit was over when a client's connection was closed.
    pub enum LimitOver {
        /// Nothing came.
        FirstByte = "first_byte",
        /// The head of a request did not come to its end.
        Headers = "headers",
        /// The client sent nothing more of a body, or took nothing more of an answer.
        BodyIdle = "body_idle",
        /// The client sent a body too slowly.
        MinReceiveRate = "min_receive_rate",
        /// The client took an answer too slowly.
        MinSendRate = "min_send_rate",
        /// No further request came.
        KeepAlive = "keep_alive",
        /// Nothing moved in a tunnel for an hour.
        TunnelIdle = "tunnel_idle",
    }
}

label! {
    /// Why a TLS handshake came to nothing.
    pub enum TlsFailed {
        /// The client was silent for too long.
        TimedOut = "timed_out",
        /// The client left in the middle.
        ClientGone = "client_gone",
        /// The client refused, our certificate perhaps.
        RefusedByClient = "refused_by_client",
        /// The client's certificate is missing or not good.
        ClientCertificate = "client_certificate",
        /// No version, cipher or protocol is known to both.
        Incompatible = "incompatible",
        /// What came is no TLS.
        Invalid = "invalid",
        /// Half of max_connections were in a handshake.
        Overloaded = "overloaded",
    }
}

label! {
    /// Why a connection was closed whose listener requires a PROXY header.
    pub enum ProxyRefused {
        /// It is not from one of the trusted proxies.
        Untrusted = "untrusted",
        /// It does not begin with such a header.
        Invalid = "invalid",
    }
}

label! {
    /// What became of changed files.
    pub enum Reload {
        /// They are in use.
        Done = "done",
        /// They cannot be used.
        Failed = "failed",
    }
}

label! {
    /// What a beat met.
    pub enum Beat {
        /// The claim is still the owner's.
        Held = "held",
        /// The claim is not the owner's any more.
        Lost = "lost",
        /// The store gave no verdict; the next beat tries again.
        NoVerdict = "no_verdict",
    }
}

label! {
    /// When an owner learned that its claim is lost.
    pub enum LeaseLost {
        /// Before the first byte of the request: it was not sent.
        BeforeWrite = "before_write",
        /// The request was under way already, and was not stopped.
        AfterWrite = "after_write",
    }
}

label! {
    /// How a dispatch ended that was kept open past its `response_timeout`.
    pub enum LateAnswer {
        /// An answer came and settled the record.
        Completed = "completed",
        /// An answer came, and its status says nothing about the outcome.
        Unsettled = "unsettled",
        /// An answer came, and the record was settled otherwise by then.
        Lost = "lost",
        /// An answer came and could not be recorded.
        Unrecorded = "unrecorded",
        /// No complete answer came within `late_response` or before the end of a drain, or `max_late` others were open.
        None = "none",
    }
}

label! {
    /// What a duplicate of an operation of unknown outcome met under `on_unknown = "resend"`.
    pub enum Resend {
        /// It took the operation over, and it was sent again.
        Sent = "sent",
        /// The owner went silent without a word, and this gateway has not seen it silent for a whole lease yet.
        Early = "early",
        /// Somebody else took it over or settled it in between.
        Changed = "changed",
        /// The store gave no verdict; nothing was sent.
        NoVerdict = "no_verdict",
    }
}

label! {
    /// What came of asking the upstream whether an operation happened.
    pub enum ProbeResult {
        /// It happened, and its answer is recorded.
        Found = "found",
        /// It did not happen, and the key is free again.
        Absent = "absent",
        /// The upstream does not know it, which says nothing: `absent_after` is not over, or the attempt's gateway has gone
        /// without a word.
        Held = "held",
        /// The answer's status is in neither list.
        Unclear = "unclear",
        /// No whole answer in time, or none that can be recorded.
        Failed = "failed",
        /// There is no question to ask: the key does not fit into the path, or the record does not say what it is about.
        Unaskable = "unaskable",
        /// Somebody else settled it in between.
        Changed = "changed",
        /// The store gave no verdict.
        NoVerdict = "no_verdict",
    }
}

label! {
    /// What went wrong at an upstream.
    pub enum UpstreamError {
        /// No connection: name not found, refused, timed out, or a failed TLS handshake. Nothing was sent.
        Connect = "connect",
        /// The upstream refused the stream before it did anything (REFUSED_STREAM). Nothing was sent.
        Refused = "refused",
        /// `max_in_flight` was reached. Nothing was sent.
        Saturated = "saturated",
        /// No complete answer within `response_timeout`.
        Timeout = "timeout",
        /// The connection broke before the head of an answer.
        ConnectionLost = "connection_lost",
        /// The answer broke off, or was not HTTP.
        Truncated = "truncated",
    }
}

label! {
    /// How an address of an upstream is.
    pub enum AddressState {
        /// It gets its share of the requests.
        Usable = "usable",
        /// It could not be connected to, and nobody has succeeded since.
        Ejected = "ejected",
        /// It fails its health checks.
        Unhealthy = "unhealthy",
    }
}

label! {
    /// What came of a health check.
    pub enum HealthResult {
        /// It answered in time, and with a status that passes.
        Passed = "passed",
        /// It did not.
        Failed = "failed",
    }
}

label! {
    /// What was said about the name of an endpoint.
    pub enum LookupResult {
        /// Addresses.
        Answered = "answered",
        /// That it has none.
        None = "none",
        /// Nothing.
        Failed = "failed",
    }
}

impl Label for Cause {
    const ALL: &'static [Self] = &[
        Self::LeaseLapsed,
        Self::Timeout,
        Self::ConnectionLost,
        Self::Truncated,
        Self::Status(0),
        Self::Drained,
    ];

    fn name(self) -> &'static str {
        Cause::name(self)
    }

    fn index(self) -> usize {
        match self {
            Self::LeaseLapsed => 0,
            Self::Timeout => 1,
            Self::ConnectionLost => 2,
            Self::Truncated => 3,
            Self::Status(_) => 4,
            Self::Drained => 5,
        }
    }
}

impl Label for NotStored {
    const ALL: &'static [Self] = &[Self::TooLarge, Self::Streaming, Self::NoRoom];

    fn name(self) -> &'static str {
        NotStored::name(self)
    }

    fn index(self) -> usize {
        match self {
            Self::TooLarge => 0,
            Self::Streaming => 1,
            Self::NoRoom => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::Owner;

    fn assert_well_formed<L: Label>() {
        for (place, value) in L::ALL.iter().enumerate() {
            assert_eq!(value.index(), place, "{}", value.name());
            assert!(
                value
                    .name()
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
        }
        let names: BTreeSet<_> = L::ALL.iter().map(|value| value.name()).collect();
        assert_eq!(names.len(), L::ALL.len());
    }

    #[test]
    fn every_label_value_has_a_place_and_a_name_of_its_own() {
        assert_well_formed::<Decision>();
        assert_well_formed::<WouldBe>();
        assert_well_formed::<ObservedReplay>();
        assert_well_formed::<Unrouted>();
        assert_well_formed::<StoreOp>();
        assert_well_formed::<StoreResult>();
        assert_well_formed::<ClaimResult>();
        assert_well_formed::<ConnectionRefused>();
        assert_well_formed::<LimitOver>();
        assert_well_formed::<TlsFailed>();
        assert_well_formed::<ProxyRefused>();
        assert_well_formed::<Reload>();
        assert_well_formed::<Beat>();
        assert_well_formed::<LeaseLost>();
        assert_well_formed::<LateAnswer>();
        assert_well_formed::<Resend>();
        assert_well_formed::<ProbeResult>();
        assert_well_formed::<UpstreamError>();
        assert_well_formed::<Cause>();
        assert_well_formed::<NotStored>();
    }

    #[test]
    fn an_op_has_the_same_name_in_metrics_as_in_the_protocol() {
        let op = Op::Release { owner: Owner(1) };
        assert_eq!(StoreOp::from(&op).name(), op.name());
        let protocol = [
            "claim",
            "renew",
            "complete",
            "mark_unknown",
            "release",
            "take_over",
            "resolve",
        ];
        let metrics: Vec<_> = StoreOp::ALL.iter().map(|op| op.name()).collect();
        assert_eq!(metrics[..protocol.len()], protocol);
    }
}
