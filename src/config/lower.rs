//! From the file as typed to what the program needs, in one step that says every fault. Where something is missing
//! here, that has been said already, and what depends on it is left out.

use http::HeaderName;

use super::cors;
use super::edge;
use super::endpoint;
use super::file::{
    AccessLogFile, AdminFile, ConfigFile, FingerprintFile, LimitsFile, OutcomesFile, RetentionFile,
    RouteFile, UpstreamFile,
};
use super::finding::Findings;
use super::fit;
use super::health;
use super::home::nearest;
use super::listener::{self, ListenerConfig};
use super::order;
use super::probe;
use super::secret;
use super::setting::Setting;
use super::setting::Value;
use super::store;
use super::value::Label;
use super::words::{
    AfterExpiryWord, BodyWord, KeyAgeWord, KeyWord, ModeWord, OnStoreDownWord, ScopeWord,
    StatusWord,
};
use super::{AccessLogConfig, Config, Http2Limits, Limits, OperatorsConfig, UpstreamConfig};
use crate::identity::{FingerprintRules, KeyFormat, KeySource, ScopeSource};
use crate::protocol::{Outcomes, StatusSet};
use crate::route::{
    AfterExpiry, KeyAge, Matcher, Mode, OnStoreDown, Policy, RetentionPolicy, Route,
};

/// The shortest admin token, in characters: nobody guesses 16 random ones.
const MIN_TOKEN: usize = 16;

pub(super) fn lower(file: &ConfigFile, findings: &mut Findings) -> Option<Config> {
    let listeners = listeners(file, findings);
    let operators = file
        .admin
        .get()
        .and_then(|admin| operators(admin, findings));
    let store = store::store(file.store.get(), findings);
    let limits = file.limits.get().and_then(limits);
    let access_log = file.access_log.get().and_then(access_log);
    let upstreams = upstreams(file, findings);
    let routes = routes(file, findings);
    edge::look(file, findings);
    fit::parts(file, findings);
    fit::unused_upstreams(file, findings);
    Some(Config {
        reload_every: file.reload.get()?.0,
        problem_base: file.problem_base.value()?.map(|base| base.0),
        drain_timeout: file.drain_timeout.value()?,
        drain_delay: file.drain_delay.value()?,
        listeners: listeners?,
        admin: file.admin.get()?.address.value()?,
        operators: operators?,
        store: store?,
        limits: limits?,
        access_log: access_log?,
        upstreams: upstreams?,
        routes: routes?,
    })
}

fn listeners(file: &ConfigFile, findings: &mut Findings) -> Option<Vec<ListenerConfig>> {
    let listeners = file.listeners.get()?;
    if listeners.is_empty() {
        findings.whole(
            &file.listeners.place,
            "is empty; there has to be one listener".to_owned(),
        );
    }
    fit::addresses(listeners, file.admin.get(), findings);
    // Each is read before one is missed: everything that is wrong with them is said at once.
    let listeners: Vec<_> = listeners
        .iter()
        .map(|file| listener::listener(file, findings))
        .collect();
    listeners.into_iter().collect()
}

/// The outer `None`: something is wrong.
#[expect(
    clippy::option_option,
    reason = "what is wrong is not what is not there"
)]
fn operators(file: &AdminFile, findings: &mut Findings) -> Option<Option<OperatorsConfig>> {
    let audit_log = file.audit_log.value()?.map(|path| path.0);
    let Some(secret) = file.token.get()? else {
        if audit_log.is_some() {
            let message = "has nothing to say without a `token`: nobody settles records";
            findings.whole(&file.audit_log.place, message.to_owned());
        }
        return Some(None);
    };
    let token = secret::bytes(secret, &file.token.place, findings)?;
    if token.len() < MIN_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
        let wrong =
            format!("the token needs {MIN_TOKEN} or more characters, all of them visible ASCII");
        findings.value(&file.token.place, wrong);
        return None;
    }
    if let Some(address) = file.address.value()
        && !address.ip().is_loopback()
    {
        let message = "goes over the network as it is, and so do keys and recorded answers: the admin address is no loopback, \
                       and speaks plain HTTP; let nobody listen there";
        let other = file.address.written();
        findings.warn(&file.token.place, message.to_owned(), other.as_slice());
    }
    Some(Some(OperatorsConfig { token, audit_log }))
}

fn limits(file: &LimitsFile) -> Option<Limits> {
    Some(Limits {
        max_connections: file.max_connections.get()?.0,
        max_connections_per_address: file.max_connections_per_address.get()?.0,
        max_buffered: file.max_buffered.get()?.0.0,
        max_waiters_per_key: file.max_waiters_per_key.get()?.0,
        max_waiters: file.max_waiters.get()?.0,
        max_late: file.max_late.get()?.0,
        first_byte: file.first_byte.get()?.0,
        headers: file.headers.get()?.0,
        body_idle: file.body_idle.get()?.0,
        min_receive_rate: file.min_receive_rate.get()?.0,
        min_send_rate: file.min_send_rate.get()?.0,
        rate_grace: file.rate_grace.get()?.0,
        keep_alive: file.keep_alive.get()?.0,
        http2: Http2Limits {
            streams: u32::try_from(file.http2_streams.get()?.0).unwrap_or(u32::MAX),
            stream_window: file.http2_stream_window.get()?.0,
            connection_window: file.http2_connection_window.get()?.0,
            ping_every: file.http2_ping_every.get()?.0,
            ping_timeout: file.http2_ping_timeout.get()?.0,
        },
        replay_cache: file.replay_cache.get()?.0,
    })
}

fn access_log(file: &AccessLogFile) -> Option<AccessLogConfig> {
    Some(AccessLogConfig {
        enabled: file.enabled.value()?,
        sample: file.sample.get()?.0,
        slow: file.slow.get()?.0,
        path: file.path.value()?,
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
        .map(|(name, file)| upstream(name, file.as_ref()?, findings))
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
        findings.whole(&file.endpoints.place, format!("has {twice} twice"));
    }
    let tls = endpoint::tls(&endpoints, file, findings);
    let health = health::check(file, findings);
    Some(UpstreamConfig {
        name: name.to_owned(),
        endpoints,
        tls: tls?,
        protocol: file.protocol.value()?.into(),
        resolvers: file.resolvers.value()?,
        health: health?,
        connect_timeout: file.connect_timeout.get()?.0,
        idle_timeout: file.idle_timeout.get()?.0,
        max_in_flight: file.max_in_flight.get()?.0,
    })
}

pub(super) fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
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
    let mut lowered = Vec::new();
    for route_file in files {
        fit::limits(route_file, file.limits.get(), findings);
        fit::lease(route_file, file.store.get(), findings);
        fit::key_age_in_time(route_file, file.store.get(), findings);
        lowered.push(route(route_file, file, findings));
    }
    probe::unused(files, findings);
    order::names(files, findings);
    order::colons(files, findings);
    order::tokens(files, findings);
    order::idle(files, file.defaults.get(), findings);
    order::shadows(files, findings);
    let routes: Vec<Route> = lowered.into_iter().collect::<Option<_>>()?;
    order::spellings(files, &routes, findings);
    Some(routes)
}

fn route(file: &RouteFile, config: &ConfigFile, findings: &mut Findings) -> Option<Route> {
    let name = required(&file.name, "", findings);
    let path = required(&file.path, ", here or in `defaults`", findings);
    let names = config.upstreams.get().map_or_else(Vec::new, |upstreams| {
        upstreams.0.keys().map(String::as_str).collect()
    });
    let which = match names.as_slice() {
        [] => String::new(),
        names => format!(", as the name of an upstream ({})", names.join(", ")),
    };
    let which = format!(", here or in `defaults`{which}");
    let upstream = required(&file.upstream, &which, findings);
    if let (Some(Label(name)), Some(upstreams)) = (&upstream, config.upstreams.get())
        && !upstreams.0.contains_key(name)
    {
        let names: Vec<&str> = upstreams.0.keys().map(String::as_str).collect();
        let advice = match (nearest(name, &names), names.as_slice()) {
            (Some(near), _) => format!("did you mean \"{near}\"?"),
            (None, []) => format!("write `[upstreams.{name}]` with its endpoints"),
            (None, [one]) => format!("there is only {one}"),
            (None, names) => format!("there are {}", names.join(", ")),
        };
        let message = format!("there is no upstream `{name}`; {advice}");
        findings.whole(&file.upstream.place, message);
    }
    let cors = cors::cors(file, findings);
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
        cors: cors?,
        mode: mode?,
    })
}

/// A setting that only looks as if it might be left out.
fn required<T: Value + Clone>(
    setting: &Setting<Option<T>>,
    where_to: &str,
    findings: &mut Findings,
) -> Option<T> {
    let value = setting.value()?;
    if value.is_none() {
        let message = format!("is required{where_to}; write {}", T::kind());
        findings.whole(&setting.place, message);
    }
    value
}

fn mode(file: &RouteFile, findings: &mut Findings) -> Option<Mode> {
    match file.mode.value()? {
        ModeWord::Pass => Some(Mode::Pass),
        ModeWord::Enforce => policy(file, findings).map(Box::new).map(Mode::Enforce),
        ModeWord::Observe => policy(file, findings).map(Box::new).map(Mode::Observe),
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
    fit::resend(file, findings);
    let on_unknown = probe::on_unknown(file, findings);
    let key_age = match file.key_age.value()? {
        KeyAgeWord::Ignore => KeyAge::Ignore,
        KeyAgeWord::Reject => KeyAge::Reject,
    };
    let policy = Policy {
        key: key?,
        key_required: file.key_required.value()?,
        key_format: match (file.key_format.value()?, key_age) {
            // Only one of its versions carries the time.
            (KeyFormat::Uuid, KeyAge::Reject) => KeyFormat::UuidV7,
            (format, _) => format,
        },
        key_age,
        scope: scope?,
        scope_required: file.scope_required.value()?,
        challenge: file.challenge.value()?.0,
        fingerprint: fingerprint?,
        wait: file.wait.value()?,
        lease: file.lease.get()?.0,
        late_response: file.late_response.value()?,
        record_timeout: file.record_timeout.get()?.0,
        on_unknown: on_unknown?,
        unknown_status: file.unknown_status.get()?.0,
        outcomes: outcomes?,
        retention: retention?,
        after_expiry: match file.after_expiry.value()? {
            AfterExpiryWord::Execute => AfterExpiry::Execute,
            AfterExpiryWord::Reject => AfterExpiry::Reject,
        },
        on_store_down: match file.on_store_down.value()? {
            OnStoreDownWord::Reject => OnStoreDown::Reject,
            OnStoreDownWord::Forward => OnStoreDown::Forward,
        },
        forward_key: file.forward_key.value()?,
        max_request_body: file.max_request_body.get()?.0.0,
        max_response_body: file.max_response_body.get()?.0.0,
    };
    fit::key_age(file, &policy, findings);
    Some(policy)
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
        let other = file.body.written();
        findings.conflict(&file.ignore.place, message.to_owned(), other.as_slice());
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
    let release = set(&file.release.get()?.0)?;
    let unknown = set(&file.unknown.get()?.0)?;
    if let Some(status) = release.overlap(&unknown) {
        fit::two_meanings(file, status, findings);
    }
    Some(Outcomes { release, unknown })
}

fn retention_of(
    file: &RetentionFile,
    route: &RouteFile,
    findings: &mut Findings,
) -> Option<RetentionPolicy> {
    fit::retention(file, route, findings);
    Some(RetentionPolicy {
        success: file.success.get()?.0,
        failure: file.failure.get()?.0,
        unknown: file.unknown.get()?.0,
    })
}
