//! Asking the upstream whether an operation of unknown outcome happened (`on_unknown = "probe"`), and settling the record by
//! what it says.
//!
//! A probe never takes over: it resolves what it saw, or nothing. *Found* settles any unknown. *Absent* settles only one that
//! its owner has declared, and not before `absent_after`; of one that went without a word it says nothing, unless the route
//! says otherwise. Any other answer, and none, leaves everything as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::Body as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Shared;
use super::body::{self, Unread};
use super::dispatch::is_event_stream;
use super::exchange::Exchange;
use super::headers;
use super::pace::{Asking, Turn};
use super::subject::Lane;
use crate::identity::Reference;
use crate::identity::json::select;
use crate::process::{self, jitter};
use crate::protocol::{
    Answer, Cause, NotStored, Op, Record, RecordId, Resolution, Response, Seen, State, Timestamp,
    Verdict,
};
use crate::route::{Mode, Probe, ProbeResponse, Silent};
use crate::server::Held;
use crate::store::Unresolved;
use crate::telemetry::{Label, ProbeResult, Settled, Settler};
use crate::upstream::{Gate, OutBody};

/// How often the store is asked which records are unresolved.
const SCAN_EVERY: Duration = Duration::from_secs(5);

/// How long one scan goes on beginning probes; then the next one looks again, with the oldest first.
const SCAN_ASKS_FOR: Duration = Duration::from_secs(10);

/// Records asked for at a time, so that no call of the store is long.
const PAGE: usize = 1000;

/// Records that one scan looks at, the oldest ones: as many as are counted.
const MAX_SCANNED: usize = 100_000;

/// How much is read of an answer whose body says nothing, so that its connection can be used again, in bytes.
const MAX_IGNORED: u64 = 64 << 10;

/// The longest path that is kept whole in a reference ends in this where it was longer.
const CUT: char = '…';

/// An attempt of which no outcome is known, as it was seen.
#[derive(Clone, Copy)]
struct Met {
    id: RecordId,
    seen: Seen,
    /// Whether its owner has said so.
    declared: bool,
    since: Timestamp,
}

/// What the upstream said.
enum Heard {
    /// It happened, and this is its answer; with what that takes of the budget.
    Found(u16, Answer, Option<Held>),
    /// It did not happen, or not yet.
    Absent,
    /// Nothing that counts.
    Nothing(ProbeResult, String),
}

impl Exchange {
    /// Asks the upstream what became of the attempt that the claim has met, and claims once more where that may be known by
    /// now; else the record is what the duplicate is told.
    pub async fn probe(mut self, met: Verdict) {
        if !self.has_asked(&met).await {
            return self.tell(met);
        }
        // Whoever has left in between is sent nothing for.
        if !self.reply.is_closed() {
            self.claim_again(met).await;
        }
    }

    /// Asks the upstream what became of the attempt that was met, or waits for those who do. Whether the record may say
    /// something else now.
    pub async fn has_asked(&mut self, met: &Verdict) -> bool {
        let Verdict::Unknown { seen, cause, since } = *met else {
            return false;
        };
        // Nobody need wait for this one: they meet the same record.
        drop(self.ticket.take());
        let Some(_place) = self.shared.waiters.place() else {
            return false;
        };
        let asked = Instant::now();
        let id = self.subject.id;
        let may_be_known = match self.shared.paces.turn(id, since) {
            Turn::Later => false,
            Turn::UnderWay(mut under_way) => {
                let ended = under_way.changed();
                let shared = Arc::clone(&self.shared);
                tokio::select! {
                    _ = ended => true,
                    () = shared.stop.cancelled() => false,
                }
            }
            Turn::Now(asking) => {
                let declared = cause != Cause::LeaseLapsed;
                let met = Met {
                    id,
                    seen,
                    declared,
                    since,
                };
                self.ask(met, asking).await
            }
        };
        self.tally.waited(asked.elapsed());
        may_be_known
    }

    async fn ask(&self, met: Met, asking: Asking) -> bool {
        let lane = &self.subject.lane;
        let sealed = &self.subject.origin.reference;
        let reference = lane.identifier.open_reference(&met.id, sealed).ok();
        let request = reference
            .as_ref()
            .and_then(|reference| question(lane, reference, Some(&self.outbound.headers)));
        let settling = settle(&self.shared, lane, met, request, asking);
        tokio::select! {
            settled = settling => settled,
            () = self.shared.stop.cancelled() => false,
        }
    }

    /// Claims once more after the upstream was asked.
    async fn claim_again(mut self, met: Verdict) {
        let Ok(asking) = Arc::clone(&self.shared.claims).try_acquire_owned() else {
            return self.tell(met);
        };
        let (asked, verdict) = self.claim().await;
        match verdict {
            // As it was: the upstream is not asked twice for one duplicate.
            Ok(verdict @ Verdict::Unknown { .. }) => self.tell(verdict),
            // It is not forwarded without protection either: this much is known of it.
            Err(error) => self.stays_unknown(met, error).boxed().await,
            verdict => self.claimed(asked, verdict, asking).await,
        }
    }
}

/// Asks upstreams about what is unresolved, for as long as the gateway runs and takes requests, by the configuration that is
/// in force whenever a scan begins.
pub async fn unresolved(in_force: impl Fn() -> Arc<Shared>) {
    while !in_force().tasks.is_closed() {
        sleep(SCAN_EVERY / 2 + jitter(SCAN_EVERY)).await;
        let shared = in_force();
        // Without a route to be asked about there is nothing to look for.
        if !shared.lanes.iter().any(|lane| probe_of(lane).is_some()) {
            continue;
        }
        let begun = Instant::now();
        if shared.scan(begun + SCAN_ASKS_FOR).await.is_some() {
            shared.paces.forget_unseen(begun);
        }
    }
}

impl Shared {
    /// Looks through what is unresolved; `None` where the store did not say all.
    async fn scan(self: &Arc<Self>, asks_until: Instant) -> Option<()> {
        let (mut after, mut scanned) = (None, 0);
        while scanned < MAX_SCANNED {
            let page = self.ledger.unresolved(after, PAGE).await.ok()?;
            for unresolved in &page {
                self.consider(unresolved, asks_until).await;
            }
            scanned += page.len();
            after = page.last().map(Unresolved::place);
            if page.len() < PAGE {
                break;
            }
        }
        Some(())
    }

    async fn consider(self: &Arc<Self>, unresolved: &Unresolved, asks_until: Instant) {
        let mut lanes = self
            .lanes
            .iter()
            .filter(|lane| lane.route.id == unresolved.route);
        if !lanes.clone().any(|lane| probe_of(lane).is_some()) {
            return;
        }
        let is_due = self.paces.saw(unresolved.id, unresolved.since);
        let is_asked = lanes.any(|lane| probe_of(lane).is_some_and(|probe| probe.background));
        if !is_due || !is_asked {
            return;
        }
        let place = timeout_at(asks_until, self.paces.background_place()).await;
        let Ok(place) = place else { return };
        if Instant::now() >= asks_until {
            return;
        }
        let turn = self
            .paces
            .background_turn(unresolved.id, unresolved.since, place);
        if let Turn::Now(asking) = turn {
            let (shared, unresolved) = (Arc::clone(self), unresolved.clone());
            tokio::spawn(process::task(async move {
                shared.ask_about(&unresolved, asking).await;
            }));
        }
    }

    async fn ask_about(self: &Arc<Self>, unresolved: &Unresolved, asking: Asking) {
        let id = unresolved.id;
        let record = match self.ledger.read(id).await {
            Ok(Some(record)) => record,
            Ok(None) => return self.paces.forget(id),
            Err(error) => {
                tracing::debug!(route = %unresolved.route, %error, "an unresolved record was not read");
                return;
            }
        };
        let Some(met) = met(id, &record) else {
            return self.paces.forget(id);
        };
        // It is another attempt by now, whose turn is to come.
        if met.since != unresolved.since {
            return;
        }
        let Some((lane, reference)) = self.lane_of(&record, id) else {
            return;
        };
        let request = reference.and_then(|reference| question(lane, &reference, None));
        settle(self, lane, met, request, asking).await;
    }

    /// The route whose record it is, as far as it is asked about, and what the record is about, where it can be read. Of
    /// several routes with one id it is the one that takes such requests.
    fn lane_of(&self, record: &Record, id: RecordId) -> Option<(&Arc<Lane>, Option<Reference>)> {
        let asked = |lane: &&Arc<Lane>| {
            let probe = probe_of(lane);
            lane.route.id == record.route && probe.is_some_and(|probe| probe.background)
        };
        let mut lanes = self.lanes.iter().filter(asked);
        let first = lanes.clone().next()?;
        let opened = first.identifier.open_reference(&id, &record.reference);
        let Ok(reference) = opened else {
            return Some((first, None));
        };
        let method = Method::from_bytes(reference.method.as_bytes()).ok();
        let takes = |lane: &&Arc<Lane>| {
            let matcher = &lane.route.matcher;
            let host = matcher.host.as_deref();
            let path = reference.path.as_bytes();
            method
                .as_ref()
                .is_some_and(|method| matcher.takes(method, host, path))
        };
        let lane = lanes.find(takes)?;
        Some((lane, Some(reference)))
    }
}

/// How a route's upstream is asked, where it is.
fn probe_of(lane: &Lane) -> Option<&Probe> {
    match &lane.route.mode {
        Mode::Enforce(policy) => policy.on_unknown.probe(),
        Mode::Observe(_) | Mode::Pass => None,
    }
}

/// The attempt that a record speaks of, where its outcome is not known.
fn met(id: RecordId, record: &Record) -> Option<Met> {
    let (seen, declared, since) = match &record.state {
        // That its owner is silent says the store, which listed it and is asked again when it is settled.
        State::Claimed(claim) => (claim.seen, false, claim.lease_until),
        State::Unknown(unknown) => {
            let declared = unknown.cause != Cause::LeaseLapsed;
            (unknown.seen, declared, unknown.since)
        }
        State::Completed(_) | State::Expired => return None,
    };
    Some(Met {
        id,
        seen,
        declared,
        since,
    })
}

/// What the upstream is asked about an operation; `None` where it cannot be asked. A duplicate's own scope is what its
/// first attempt bore, too: the record is reachable from it alone.
fn question(
    lane: &Lane,
    reference: &Reference,
    duplicate: Option<&HeaderMap>,
) -> Option<Request<OutBody>> {
    let (probe, policy) = (probe_of(lane)?, lane.policy());
    let matcher = &lane.route.matcher;
    let is_whole = !reference.path.ends_with(CUT);
    let segments = matcher
        .path
        .captures(reference.path.as_bytes())
        .filter(|_| is_whole)
        .unwrap_or_default();
    let target: Uri = probe.path.fill(&reference.key, &segments)?.parse().ok()?;
    let mut lines = HeaderMap::new();
    let host = match &matcher.host {
        Some(host) => HeaderValue::from_str(host).ok(),
        None => lane.upstream.authority(),
    };
    lines.insert(HOST, host?);
    lines.insert(USER_AGENT, HeaderValue::from_static("oncegate"));
    for (name, value) in &probe.headers {
        lines.insert(name, value.fill(&reference.key)?);
    }
    if let Some(duplicate) = duplicate {
        for source in &policy.scope {
            let name = source.header();
            lines.remove(name);
            for value in duplicate.get_all(name) {
                lines.append(name, value.clone());
            }
        }
    }
    lines.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut request = Request::new(OutBody::Full(Bytes::new()));
    *request.method_mut() = probe.method.clone();
    *request.uri_mut() = target;
    *request.headers_mut() = lines;
    Some(request)
}

/// Asks, and settles the record where the answer does. Says whether the record may say something else now.
async fn settle(
    shared: &Shared,
    lane: &Lane,
    met: Met,
    request: Option<Request<OutBody>>,
    mut asking: Asking,
) -> bool {
    let Some(probe) = probe_of(lane) else {
        return false;
    };
    let key_ref = lane.identifier.key_ref(&met.id);
    let route = &lane.route.name;
    let Some(request) = request else {
        lane.metrics().probe(ProbeResult::Unaskable, None);
        tracing::warn!(%key_ref, route, "the upstream cannot be asked about an operation: its key does not fit into the probe's path, or its record cannot be read");
        return false;
    };
    // What the upstream says is of the moment when it was asked, or later.
    let absent_counts_at = asking.first_sight + probe.absent_after;
    let begun = Instant::now();
    let heard = timeout(probe.timeout, hear(shared, lane, probe, request))
        .await
        .unwrap_or_else(|_| Heard::Nothing(ProbeResult::Failed, "no answer in time".to_owned()));
    let took = Some(begun.elapsed());
    let (resolution, resolved, result, _held) = match heard {
        Heard::Found(status, answer, held) => {
            let retention = lane.policy().keep_answer(status);
            let resolution = Resolution::Completed { answer, retention };
            (resolution, Settled::Completed, ProbeResult::Found, held)
        }
        Heard::Absent if !met.declared && probe.silent == Silent::Hold => {
            lane.metrics().probe(ProbeResult::Held, took);
            tracing::debug!(%key_ref, route, "the upstream does not know the operation of a gateway that went silent");
            return false;
        }
        Heard::Absent if begun < absent_counts_at => {
            asking.again_at = Some(absent_counts_at);
            lane.metrics().probe(ProbeResult::Held, took);
            tracing::debug!(%key_ref, route, "the upstream does not know the operation yet");
            return false;
        }
        Heard::Absent => (
            Resolution::Gone,
            Settled::Released,
            ProbeResult::Absent,
            None,
        ),
        Heard::Nothing(result, why) => {
            lane.metrics().probe(result, took);
            tracing::warn!(%key_ref, route, why, "the upstream did not say what became of an operation");
            return false;
        }
    };
    let resolve = Op::Resolve {
        seen: met.seen,
        verdict: resolution,
    };
    let result = match shared.ledger.ask(met.id, resolve).await {
        Ok(Verdict::Done) => {
            let resolutions = &lane.all_metrics.resolutions;
            resolutions.inc(Some(lane.index), Settler::Probe, resolved);
            tracing::info!(
                %key_ref, route, as = resolved.name(), declared = met.declared,
                "the upstream was asked, and an operation of unknown outcome is settled",
            );
            result
        }
        Ok(_) => ProbeResult::Changed,
        Err(error) => {
            tracing::warn!(%key_ref, route, %error, "what the upstream said was not recorded");
            ProbeResult::NoVerdict
        }
    };
    lane.metrics().probe(result, took);
    let is_settled = matches!(result, ProbeResult::Found | ProbeResult::Absent);
    drop(asking);
    if is_settled {
        shared.paces.forget(met.id);
    }
    result != ProbeResult::NoVerdict
}

/// Sends the question once, and says what the answer means.
async fn hear(shared: &Shared, lane: &Lane, probe: &Probe, request: Request<OutBody>) -> Heard {
    let nothing = |why: &str| Heard::Nothing(ProbeResult::Failed, why.to_owned());
    let response = match lane.upstream.send(Box::new(request), &Gate::open()).await {
        Ok(response) => response,
        Err(error) => return nothing(&error.to_string()),
    };
    let (mut head, mut rest) = response.into_parts();
    let status = head.status.as_u16();
    if !probe.found.contains(status) {
        let ignored = body::read(&mut rest, MAX_IGNORED, &shared.budget).await;
        // A status of an answer that broke off is one all the same.
        drop(ignored);
        return match probe.absent.contains(status) {
            true => Heard::Absent,
            false => Heard::Nothing(ProbeResult::Unclear, format!("it answered {status}")),
        };
    }
    let has_body = headers::has_body(&probe.method, head.status);
    headers::from_upstream(&mut head.headers, has_body, rest.size_hint().exact());
    headers::remove_own_responses(&mut head.headers);
    let is_whole_answer = probe.response == ProbeResponse::Probe;
    if is_whole_answer && is_event_stream(&head.headers) {
        return Heard::Found(status, Answer::NotStored(NotStored::Streaming), None);
    }
    let limit = lane.policy().max_response_body;
    let whole = match body::read(&mut rest, limit, &shared.budget).await {
        Ok(whole) => whole,
        Err(partial) => {
            return match partial.reason {
                Unread::TooLarge if is_whole_answer => {
                    Heard::Found(status, Answer::NotStored(NotStored::TooLarge), None)
                }
                Unread::TooLarge => nothing("its answer is longer than max_response_body"),
                Unread::NoRoom => nothing("there is no room for its answer (max_buffered)"),
                Unread::Broken => nothing("its answer broke off"),
            };
        }
    };
    let recorded = match &probe.response {
        ProbeResponse::Probe => Response::new(
            status,
            headers::recorded(&head.headers, false),
            Bytes::copy_from_slice(&whole.bytes),
        ),
        ProbeResponse::Json { pointer, status } => match select(&whole.bytes, pointer) {
            Ok(Some(part)) => {
                let media = Bytes::from_static(b"application/json");
                Response::new(
                    *status,
                    vec![("content-type".to_owned(), media)],
                    Bytes::from(part),
                )
            }
            Ok(None) => return nothing("its answer has nothing at the JSON pointer"),
            Err(error) => return nothing(&error.to_string()),
        },
    };
    let status = recorded.status;
    Heard::Found(status, Answer::Stored(Arc::new(recorded)), Some(whole.held))
}
