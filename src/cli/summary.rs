//! What a configuration was understood as, in a few lines: what `check` says where nothing is wrong.

use std::fmt::Write;

use http::Method;

use crate::config::{
    ClientAuth, Config, Endpoint, ListenerConfig, RedisForm, StoreConfig, StoreLocation,
};
use crate::identity::{KeySource, ScopeSource};
use crate::route::{Mode, OnUnknown, Policy, Route};

/// The lines, each with its end.
pub(super) fn of(config: &Config) -> String {
    let mut text = String::new();
    let listeners: Vec<String> = config.listeners.iter().map(listener).collect();
    let _ = writeln!(
        text,
        "  listens on   {}; admin {}",
        listeners.join(", "),
        config.admin
    );
    let _ = writeln!(text, "  keeps        {}", store(&config.store));
    for upstream in &config.upstreams {
        let endpoints: Vec<String> = upstream.endpoints.iter().map(url).collect();
        let _ = writeln!(
            text,
            "  upstream     {}: {}",
            upstream.name,
            endpoints.join(", ")
        );
    }
    text.push_str("  routes       the first that matches has a request; what none matches is answered with 404\n");
    let requests: Vec<String> = config.routes.iter().map(requests).collect();
    let longest = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let names = longest(&mut config.routes.iter().map(|route| &route.name));
    let wide = longest(&mut requests.iter());
    for (index, (route, requests)) in config.routes.iter().zip(&requests).enumerate() {
        let (name, number) = (&route.name, index + 1);
        let _ = writeln!(
            text,
            "  {number:>3}. {name:names$}  {requests:wide$}  → {}: {}",
            route.upstream,
            treatment(route),
        );
    }
    text
}

/// A listener in words.
fn listener(listener: &ListenerConfig) -> String {
    let mut more = Vec::new();
    match listener.tls.as_ref().map(|tls| tls.client_auth) {
        Some(ClientAuth::Required) => more.push("TLS, clients with certificates"),
        Some(ClientAuth::Optional) => more.push("TLS, certificates of clients looked at"),
        Some(ClientAuth::None) => more.push("TLS"),
        None => {}
    }
    if listener.proxy_protocol {
        more.push("PROXY headers");
    } else if !listener.trusted_proxies.is_empty() {
        more.push("behind proxies");
    }
    match more.is_empty() {
        true => listener.address.to_string(),
        false => format!("{} ({})", listener.address, more.join(", ")),
    }
}

/// A store in words, by its absolute path where it is a file.
pub(super) fn store(store: &StoreConfig) -> String {
    match &store.location {
        StoreLocation::Memory => "records in memory, until the process ends".to_owned(),
        StoreLocation::Embedded(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("records in {}, for one process", path.display())
        }
        StoreLocation::Redis(redis) => {
            let servers: Vec<String> = redis
                .servers
                .iter()
                .map(|server| format!("{}:{}", server.host, server.port))
                .collect();
            let kind = match &redis.form {
                RedisForm::Single => "on the server".to_owned(),
                RedisForm::Sentinel { master } => {
                    format!("on the master {master} of the sentinels")
                }
                RedisForm::Cluster => "in the cluster of".to_owned(),
            };
            let (servers, namespace) = (servers.join(", "), &store.namespace);
            format!("records {kind} {servers}, shared by the gateways of {namespace}")
        }
    }
}

/// An endpoint as it is written in a configuration.
pub(super) fn url(endpoint: &Endpoint) -> String {
    let (host, port) = (&endpoint.host, endpoint.port);
    if host.contains(':') {
        format!("http://[{host}]:{port}")
    } else {
        format!("http://{host}:{port}")
    }
}

fn requests(route: &Route) -> String {
    let methods: Vec<&str> = route.matcher.methods.iter().map(Method::as_str).collect();
    let methods = if methods.is_empty() {
        "any method".to_owned()
    } else {
        methods.join(",")
    };
    let host = route.matcher.host.as_deref().unwrap_or_default();
    format!("{methods} {host}{}", route.matcher.path)
}

fn treatment(route: &Route) -> String {
    match &route.mode {
        Mode::Pass => "passes".to_owned(),
        Mode::Observe(policy) => format!("observes what would be {}", once(policy, route)),
        Mode::Enforce(policy) => once(policy, route),
    }
}

fn once(policy: &Policy, route: &Route) -> String {
    let keys: Vec<String> = policy
        .key
        .iter()
        .map(|KeySource::Header(name)| name.to_string())
        .collect();
    let scope: Vec<String> = policy
        .scope
        .iter()
        .map(ScopeSource::header)
        .map(ToString::to_string)
        .collect();
    let needed = if policy.key_required {
        "needed"
    } else {
        "where sent"
    };
    let scope = match (scope.as_slice(), policy.scope_required) {
        ([], _) => "one client".to_owned(),
        (names, true) => format!("client by {}", names.join(" + ")),
        (names, false) => format!("client by {} where sent", names.join(" + ")),
    };
    let safe = if route.matcher.methods.is_empty() {
        ", safe methods pass"
    } else {
        ""
    };
    let keys = keys.join(" or ");
    let (fresh, unknown) = (fresh(policy), unknown(policy));
    format!("once, key {keys} ({needed}{fresh}), {scope}{safe}, {unknown}")
}

/// Up to what age keys are taken, where they are asked for it.
fn fresh(policy: &Policy) -> String {
    let fresh_for = policy.fresh_for().map(crate::config::duration_in_words);
    fresh_for.map_or_else(String::new, |age| format!(", up to {age} old"))
}

/// What becomes of an operation of unknown outcome.
fn unknown(policy: &Policy) -> String {
    match &policy.on_unknown {
        OnUnknown::Hold => "unknown outcomes held".to_owned(),
        OnUnknown::Resend => "unknown outcomes sent again".to_owned(),
        OnUnknown::Probe(probe) => {
            let (method, path) = (&probe.method, &probe.path);
            let when = match probe.background {
                true => "in the background, too",
                false => "for duplicates only",
            };
            format!("unknown outcomes asked about by {method} {path}, {when}")
        }
    }
}
