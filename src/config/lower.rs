//! From the file as typed to what the program needs, in one step that says every fault. Where something is missing
//! here, that has been said already, and what depends on it is left out.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, header};

use super::file::{
    AdminFile, ConfigFile, FingerprintFile, LimitsFile, OutcomesFile, RetentionFile, RouteFile,
    StoreFile, UpstreamFile,
};
use super::finding::Findings;
use super::order;
use super::redis;
use super::secret;
use super::setting::Setting;
use super::value::{Label, Size, duration_in_words};
use super::words::{BodyWord, KeyWord, ModeWord, OnStoreDownWord, ScopeWord, StatusWord};
use super::{Config, Limits, StoreConfig, StoreLocation, UpstreamConfig};
use crate::identity::{FingerprintRules, KeySource, ScopeSource};
use crate::protocol::{Outcomes, StatusSet};
use crate::route::{Matcher, Mode, OnStoreDown, Policy, RetentionPolicy, Route};

/// What a store may hold unless it is set, in bytes.
const MAX_SIZE: u64 = 10 << 30;

/// The same for a store in memory.
const MAX_SIZE_IN_MEMORY: u64 = 256 << 20;

pub(super) fn lower(file: &ConfigFile, findings: &mut Findings) -> Option<Config> {
    let listeners = listeners(file, findings);
    let store = store(file.store.get(), findings);
    let limits = file.limits.get().and_then(limits);
    let upstreams = upstreams(file, findings);
    let routes = routes(file, findings);
    Some(Config {
        problem_base: file.problem_base.value()?.map(|base| base.0),
        drain_timeout: file.drain_timeout.value()?,
        listeners: listeners?,
        admin: file.admin.get()?.address.value()?,
        store: store?,
        limits: limits?,
        upstreams: upstreams?,
        routes: routes?,
    })
}

fn listeners(file: &ConfigFile, findings: &mut Findings) -> Option<Vec<SocketAddr>> {
    let listeners = file.listeners.get()?;
    if listeners.is_empty() {
        findings.whole(
            &file.listeners.place,
            "is empty; there has to be one listener".to_owned(),
        );
    }
    let admin = file.admin.get().map(|admin: &AdminFile| &admin.address);
    let all: Vec<&Setting<SocketAddr>> = listeners
        .iter()
        .map(|listener| &listener.address)
        .chain(admin)
        .collect();
    for (index, address) in all.iter().enumerate() {
        let same = |other: &&&Setting<SocketAddr>| {
            // Port 0 is another one each time.
            address.get().is_some_and(|address| address.port() != 0) && other.get() == address.get()
        };
        if let Some(first) = all[..index].iter().find(same) {
            let message = format!("{} is taken twice", address.get()?);
            findings.conflict(&address.place, message, &first.place);
        }
    }
    listeners
        .iter()
        .map(|listener| listener.address.value())
        .collect()
}

fn store(file: Option<&StoreFile>, findings: &mut Findings) -> Option<StoreConfig> {
    let file = file?;
    let id_key = match file.id_key.get()? {
        None => None,
        Some(secret) => Some(secret::id_key(secret, &file.id_key.place, findings)?),
    };
    let location = match file.url.value()? {
        StoreLocation::Redis(redis) => {
            shared(file, findings);
            StoreLocation::Redis(Box::new(redis::completed(*redis, file, findings)?))
        }
        location => {
            alone(file, findings);
            location
        }
    };
    let max_size = match (file.max_size.value()?, &location) {
        // The servers have a limit of their own.
        (_, StoreLocation::Redis(_)) => 0,
        (Some(size), _) => size.0.0,
        (None, StoreLocation::Memory) => MAX_SIZE_IN_MEMORY,
        (None, StoreLocation::Embedded(_)) => MAX_SIZE,
    };
    Some(StoreConfig {
        location,
        timeout: file.timeout.get()?.0,
        max_size,
        namespace: file
            .namespace
            .value()?
            .map(|namespace| namespace.0)
            .unwrap_or_default(),
        id_key,
    })
}

/// What a store needs that gateways share, and what it cannot have.
fn shared(file: &StoreFile, findings: &mut Findings) {
    let mut needed = Vec::new();
    if let Some(None) = file.namespace.get() {
        needed.push("`store.namespace`, which goes before every key");
    }
    if let Some(None) = file.id_key.get() {
        needed.push("`store.id_key`, the same for every gateway");
    }
    if !needed.is_empty() {
        let message = format!("is shared by gateways; it needs {}", needed.join(", and "));
        findings.whole(&file.url.place, message);
    }
    if let Some(Some(_)) = file.max_size.get() {
        let message = "has no effect on servers of their own; set their maxmemory, with the policy noeviction";
        findings.whole(&file.max_size.place, message.to_owned());
    }
}

/// What a store of one process has no use for.
fn alone(file: &StoreFile, findings: &mut Findings) {
    let message = "is for stores on servers";
    if let Some(Some(_)) = file.password.get() {
        findings.whole(&file.password.place, message.to_owned());
    }
    if let Some(Some(_)) = file.replicas_ack.get() {
        findings.whole(&file.replicas_ack.place, message.to_owned());
    }
    if let Some(Some(_)) = file.tls.get() {
        findings.whole(&file.tls.place, message.to_owned());
    }
}

fn limits(file: &LimitsFile) -> Option<Limits> {
    Some(Limits {
        max_connections: file.max_connections.get()?.0,
        max_buffered: file.max_buffered.get()?.0.0,
        max_waiters_per_key: file.max_waiters_per_key.get()?.0,
        max_waiters: file.max_waiters.get()?.0,
        max_late: file.max_late.get()?.0,
        first_byte: file.first_byte.get()?.0,
        headers: file.headers.get()?.0,
        body_idle: file.body_idle.get()?.0,
        keep_alive: file.keep_alive.get()?.0,
        replay_cache: file.replay_cache.get()?.0,
    })
}

fn upstreams(file: &ConfigFile, findings: &mut Findings) -> Option<Vec<UpstreamConfig>> {
    let upstreams = &file.upstreams.get()?.0;
    if upstreams.is_empty() {
        findings.whole(
            &file.upstreams.place,
            "is empty; there has to be one upstream".to_owned(),
        );
    }
    let upstreams: Vec<_> = upstreams
        .iter()
        .map(|(name, file)| upstream(name, file, findings))
        .collect();
    upstreams.into_iter().collect()
}

fn upstream(name: &str, file: &UpstreamFile, findings: &mut Findings) -> Option<UpstreamConfig> {
    let endpoints = file.endpoints.value()?;
    if endpoints.is_empty() {
        findings.whole(
            &file.endpoints.place,
            "is empty; there has to be one endpoint".to_owned(),
        );
    }
    if let Some(twice) = repeated(&endpoints) {
        let message = format!("has {}:{} twice", twice.host, twice.port);
        findings.whole(&file.endpoints.place, message);
    }
    Some(UpstreamConfig {
        name: name.to_owned(),
        endpoints,
        connect_timeout: file.connect_timeout.get()?.0,
        idle_timeout: file.idle_timeout.get()?.0,
        max_in_flight: file.max_in_flight.get()?.0,
    })
}

fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items
        .iter()
        .enumerate()
        .find(|(index, item)| items[..*index].contains(item))
        .map(|(_, item)| item)
}

fn routes(file: &ConfigFile, findings: &mut Findings) -> Option<Vec<Route>> {
    let files = file.routes.get()?;
    if files.is_empty() {
        findings.whole(
            &file.routes.place,
            "is empty; there has to be one route".to_owned(),
        );
    }
    let max_buffered = file
        .limits
        .get()
        .and_then(|limits| limits.max_buffered.get());
    let max_buffered = max_buffered.map(|size| size.0);
    let store = file.store.get().and_then(|store| store.timeout.get());
    let store_timeout = store.map(|timeout| timeout.0);
    let mut lowered = Vec::new();
    for route_file in files {
        bounds(route_file, max_buffered, findings);
        outlives(route_file, store_timeout, findings);
        lowered.push(route(route_file, file, findings));
    }
    order::names(files, findings);
    let routes: Vec<Route> = lowered.into_iter().collect::<Option<_>>()?;
    order::shadows(files, &routes, findings);
    order::spellings(files, &routes, findings);
    Some(routes)
}

fn route(file: &RouteFile, config: &ConfigFile, findings: &mut Findings) -> Option<Route> {
    let name = required(&file.name, "", findings);
    let path = required(&file.path, ", here or in `defaults`", findings);
    let upstream = required(&file.upstream, ", here or in `defaults`", findings);
    if let (Some(Label(name)), Some(upstreams)) = (&upstream, config.upstreams.get())
        && !upstreams.0.contains_key(name)
    {
        let names: Vec<&str> = upstreams.0.keys().map(String::as_str).collect();
        let message = format!(
            "there is no upstream `{name}`; there are {}",
            names.join(", ")
        );
        findings.whole(&file.upstream.place, message);
    }
    let mode = mode(file, findings);
    let Label(name) = name?;
    Some(Route {
        id: file
            .id
            .value()?
            .map_or_else(|| name.clone(), |id| id.0)
            .into(),
        name,
        matcher: Matcher {
            methods: file.methods.value()?,
            host: file.host.value()?.map(|host| host.0),
            path: path?,
        },
        upstream: upstream?.0,
        response_timeout: file.response_timeout.get()?.0,
        mode: mode?,
    })
}

/// A setting that only looks as if it might be left out.
fn required<T: Clone>(
    setting: &Setting<Option<T>>,
    where_to: &str,
    findings: &mut Findings,
) -> Option<T> {
    let value = setting.value()?;
    if value.is_none() {
        findings.whole(&setting.place, format!("is required{where_to}"));
    }
    value
}

fn mode(file: &RouteFile, findings: &mut Findings) -> Option<Mode> {
    match file.mode.value()? {
        ModeWord::Pass => Some(Mode::Pass),
        ModeWord::Enforce => policy(file, findings).map(Box::new).map(Mode::Enforce),
    }
}

fn policy(file: &RouteFile, findings: &mut Findings) -> Option<Policy> {
    // Each of these first, so that a fault in one does not hide those of the next.
    let key = key(&file.key, findings);
    let scope = scope(&file.scope, findings);
    let fingerprint = file
        .fingerprint
        .get()
        .and_then(|file| fingerprint(file, findings));
    let outcomes = file
        .outcomes
        .get()
        .and_then(|file| outcomes(file, findings));
    let retention = file
        .retention
        .get()
        .and_then(|retention| retention_of(retention, file, findings));
    Some(Policy {
        key: key?,
        key_required: file.key_required.value()?,
        key_format: file.key_format.value()?,
        scope: scope?,
        scope_required: file.scope_required.value()?,
        challenge: file.challenge.value()?.0,
        fingerprint: fingerprint?,
        wait: file.wait.value()?,
        lease: file.lease.get()?.0,
        late_response: file.late_response.value()?,
        record_timeout: file.record_timeout.get()?.0,
        unknown_status: file.unknown_status.get()?.0,
        outcomes: outcomes?,
        retention: retention?,
        on_store_down: match file.on_store_down.value()? {
            OnStoreDownWord::Reject => OnStoreDown::Reject,
            OnStoreDownWord::Forward => OnStoreDown::Forward,
        },
        forward_key: file.forward_key.value()?,
        max_request_body: file.max_request_body.get()?.0.0,
        max_response_body: file.max_response_body.get()?.0.0,
    })
}

fn key(setting: &Setting<Vec<KeyWord>>, findings: &mut Findings) -> Option<Vec<KeySource>> {
    let words = setting.value()?;
    if words.is_empty() {
        findings.whole(
            &setting.place,
            "is empty; write [\"header:Idempotency-Key\"]".to_owned(),
        );
    }
    if let Some(twice) = repeated(&words) {
        findings.whole(&setting.place, format!("has `header:{}` twice", twice.0));
    }
    Some(
        words
            .into_iter()
            .map(|KeyWord(name)| KeySource::Header(name))
            .collect(),
    )
}

fn scope(
    setting: &Setting<Option<Vec<ScopeWord>>>,
    findings: &mut Findings,
) -> Option<Vec<ScopeSource>> {
    let Some(words) = setting.value()? else {
        let message = "is required on a protected route, here or in `defaults`; write what names the client, such \
                       as [\"header:X-Tenant\"], or [\"none\"] where there is only one";
        findings.whole(&setting.place, message.to_owned());
        return None;
    };
    if words.is_empty() {
        findings.whole(
            &setting.place,
            "is empty; write [\"none\"] where there is a single client".to_owned(),
        );
    }
    if words.contains(&ScopeWord::None) && words.len() > 1 {
        findings.whole(
            &setting.place,
            "has `none` beside something else; write it alone".to_owned(),
        );
    }
    if let Some(ScopeWord::Header(twice)) = repeated(&words) {
        findings.whole(&setting.place, format!("has `header:{twice}` twice"));
    }
    if words.contains(&ScopeWord::Header(header::AUTHORIZATION)) {
        let message = "a client that refreshes its token between two tries is another client by \
                       `header:Authorization`; where a header names the client for good, use that";
        findings.warn(&setting.place, message.to_owned(), None);
    }
    let sources = words.into_iter().filter_map(|word| match word {
        ScopeWord::Header(name) => Some(ScopeSource::Header(name)),
        ScopeWord::None => None,
    });
    Some(sources.collect())
}

fn fingerprint(file: &FingerprintFile, findings: &mut Findings) -> Option<FingerprintRules> {
    let body = file.body.value();
    let ignore = file.ignore.value()?;
    if !ignore.is_empty() && body.is_some_and(|body| body != BodyWord::Json) {
        let message =
            "members can only be ignored where the body counts as JSON; set body = \"json\"";
        findings.whole(&file.ignore.place, message.to_owned());
    }
    let headers: Vec<HeaderName> = file.headers.value()?;
    if let Some(twice) = repeated(&headers) {
        findings.whole(&file.headers.place, format!("has `{twice}` twice"));
    }
    Some(FingerprintRules {
        body: body?.into(),
        query: file.query.value()?,
        host: file.host.value()?,
        headers,
        ignore,
    })
}

fn outcomes(file: &OutcomesFile, findings: &mut Findings) -> Option<Outcomes> {
    let set = |words: &[StatusWord]| {
        let words: Vec<&str> = words.iter().map(|word| word.0.as_str()).collect();
        StatusSet::parse(&words).ok()
    };
    let release = set(file.release.get()?)?;
    let unknown = set(file.unknown.get()?)?;
    if let Some(status) = release.overlap(&unknown) {
        let (later, first) = if file.release.place.offset > file.unknown.place.offset {
            (&file.release.place, &file.unknown.place)
        } else {
            (&file.unknown.place, &file.release.place)
        };
        findings.conflict(
            later,
            format!("{status} is both in `release` and in `unknown`"),
            first,
        );
    }
    Some(Outcomes { release, unknown })
}

fn retention_of(
    file: &RetentionFile,
    route: &RouteFile,
    findings: &mut Findings,
) -> Option<RetentionPolicy> {
    let retention = RetentionPolicy {
        success: file.success.get()?.0,
        failure: file.failure.get()?.0,
        unknown: file.unknown.get()?.0,
    };
    let longest: Duration = route.response_timeout.get()?.0
        + route.late_response.value()?
        + route.record_timeout.get()?.0
        + route.lease.get()?.0;
    if retention.unknown < longest {
        let message = format!(
            "{} is less than response_timeout, late_response, record_timeout and lease together; it has to be {} or \
             more",
            duration_in_words(retention.unknown),
            duration_in_words(longest),
        );
        findings.whole(&file.unknown.place, message);
    }
    Some(retention)
}

/// No body may be allowed that can never be held.
fn bounds(file: &RouteFile, max_buffered: Option<Size>, findings: &mut Findings) {
    for size in [&file.max_request_body, &file.max_response_body] {
        if let (Some(bytes), Some(max)) = (size.get(), max_buffered)
            && bytes.0.0 > max.0
        {
            let message = "is more than limits.max_buffered, which all bodies share";
            findings.whole(&size.place, message.to_owned());
        }
    }
}

/// A claim must not be over before the store has answered it.
fn outlives(file: &RouteFile, store_timeout: Option<Duration>, findings: &mut Findings) {
    if let (Some(lease), Some(timeout)) = (file.lease.get(), store_timeout)
        && file.mode.value() == Some(ModeWord::Enforce)
        && lease.0 < 2 * timeout
    {
        let message = format!(
            "{} is less than twice the {} of store.timeout: a claim might be over before it is answered; it has to \
             be {} or more",
            duration_in_words(lease.0),
            duration_in_words(timeout),
            duration_in_words(2 * timeout),
        );
        findings.whole(&file.lease.place, message);
    }
}
