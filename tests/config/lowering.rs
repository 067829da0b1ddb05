//! What a file becomes: defaults, merging, and the annotated example that shows them.

use std::time::Duration;

use http::{HeaderName, Method};
use oncegate::config::{
    Config, Endpoint, ListenAddress, StoreLocation, UpstreamEndpoint, UpstreamProtocol,
};
use oncegate::identity::{BodyRule, KeyFormat, KeySource, ScopeSource};
use oncegate::route::{Mode, OnStoreDown};

use crate::{SMALLEST, example, faults, faults_in_route, parse, policy};

#[test]
fn defaults_are_those_of_the_reference() {
    let Config {
        reload_every,
        problem_base,
        drain_timeout,
        drain_delay,
        listeners,
        admin,
        operators,
        store,
        limits,
        access_log,
        upstreams,
        routes,
    } = parse(SMALLEST).config;
    assert_eq!(problem_base, None);
    assert_eq!(reload_every, None);
    assert_eq!(drain_timeout, Duration::from_secs(30));
    assert!(access_log.enabled && access_log.path);
    assert_eq!(access_log.sample, 1.0);
    assert_eq!(access_log.slow, Duration::from_secs(5));
    assert_eq!(drain_delay, Duration::from_secs(1));
    let [listener] = &listeners[..] else {
        panic!("{listeners:?}");
    };
    let address = ListenAddress::Tcp("127.0.0.1:8080".parse().unwrap());
    assert_eq!(listener.address, address);
    assert!(listener.tls.is_none() && !listener.proxy_protocol);
    assert!(listener.trusted_proxies.is_empty());
    assert_eq!(admin, "127.0.0.1:9090".parse().unwrap());
    assert!(operators.is_none());
    assert_eq!(
        store.location,
        StoreLocation::Embedded("oncegate.db".into())
    );
    assert_eq!(store.timeout, Duration::from_millis(250));
    assert_eq!(store.max_size, 10 << 30);
    assert_eq!(store.namespace, "");
    assert!(store.id_key.is_none());
    assert_eq!(limits.max_connections, 4096);
    assert_eq!(limits.max_buffered, 64 << 20);
    assert_eq!(limits.keep_alive, Duration::from_secs(75));
    let endpoint = UpstreamEndpoint::Http(Endpoint {
        host: "127.0.0.1".to_owned(),
        port: 9000,
    });
    assert_eq!(upstreams[0].endpoints, [endpoint]);
    assert!(upstreams[0].tls.is_none());
    assert_eq!(upstreams[0].protocol, UpstreamProtocol::Http1);
    assert_eq!(upstreams[0].max_in_flight, 1024);
    let route = &routes[0];
    assert_eq!((route.name.as_str(), &*route.id), ("all", "all"));
    assert_eq!(route.matcher.methods, [] as [Method; 0]);
    assert_eq!(route.response_timeout, Duration::from_secs(30));
    let policy = policy(route);
    let KeySource::Header(key) = &policy.key[0];
    assert_eq!(key, "idempotency-key");
    assert!(policy.scope.is_empty());
    assert!(policy.key_required && policy.scope_required && policy.forward_key);
    assert!(matches!(policy.key_format, KeyFormat::Any));
    assert_eq!(policy.fingerprint.body, BodyRule::Bytes);
    assert_eq!(policy.wait, Duration::ZERO);
    assert_eq!(policy.lease, Duration::from_secs(15));
    assert_eq!(policy.late_response, Duration::from_mins(5));
    assert_eq!(policy.retention.unknown, Duration::from_hours(30 * 24));
    assert!(policy.outcomes.release.contains(429) && policy.outcomes.unknown.contains(503));
    assert_eq!(policy.on_store_down, OnStoreDown::Reject);
    assert_eq!(policy.unknown_status, 409);
    assert_eq!(policy.max_response_body, 1 << 20);
}

#[test]
fn a_store_in_memory_holds_less_unless_it_is_told() {
    let size = |store: &str| parse(&format!("{store}{SMALLEST}")).config.store.max_size;
    assert_eq!(size("[store]\nurl = \"memory:\"\n"), 256 << 20);
    assert_eq!(
        size("[store]\nurl = \"memory:\"\nmax_size = \"1GiB\"\n"),
        1 << 30
    );
}

#[test]
fn a_table_in_a_route_is_merged_with_the_same_table_in_defaults_field_by_field() {
    let loaded = parse(
        r#"
[upstreams.api]
endpoints = ["http://127.0.0.1:9000", "http://[::1]:9000"]
[defaults]
upstream = "api"
path = "/*"
scope = ["header:X-Tenant", "header:X-User"]
lease = "1s"
retention = { success = "1h", failure = "2h" }
outcomes.release = []
[[routes]]
name = "one"
host = "one.example.com"
lease = "2s"
retention = { failure = "3h" }
[[routes]]
name = "two"
host = "API.example.com"
scope = ["none"]
[routes.fingerprint]
body = "json"
ignore = ["/sent_at"]
headers = ["X-Mode"]
"#,
    );
    let routes = &loaded.config.routes;
    let (one, two) = (policy(&routes[0]), policy(&routes[1]));
    assert_eq!(
        (one.lease, two.lease),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    assert_eq!(one.retention.success, Duration::from_hours(1));
    assert_eq!(one.retention.failure, Duration::from_hours(3));
    assert_eq!(two.retention.failure, Duration::from_hours(2));
    assert_eq!(one.retention.unknown, Duration::from_hours(30 * 24));
    assert!(!one.outcomes.release.contains(401) && one.outcomes.unknown.contains(504));
    let scope: Vec<&str> = one
        .scope
        .iter()
        .map(|source| source.header().as_str())
        .collect();
    assert_eq!(scope, ["x-tenant", "x-user"]);
    assert!(two.scope.is_empty());
    assert_eq!(two.fingerprint.body, BodyRule::Json);
    assert_eq!(two.fingerprint.ignore.len(), 1);
    assert_eq!(two.fingerprint.headers, [HeaderName::from_static("x-mode")]);
    assert_eq!(routes[1].matcher.host.as_deref(), Some("api.example.com"));
    let second = &loaded.config.upstreams[0].endpoints[1];
    assert!(second.to_string().starts_with("http://[::1]:"), "{second}");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn a_pattern_matches_the_whole_key() {
    let text = SMALLEST.replace("[\"none\"]", "[\"none\"]\nkey_format = 'regex:a|b[0-9]'");
    let loaded = parse(&text);
    let KeyFormat::Regex(regex) = &policy(&loaded.config.routes[0]).key_format else {
        panic!("no pattern");
    };
    for (key, fits) in [
        ("a", true),
        ("b7", true),
        ("ab7", false),
        ("a7", false),
        ("a\n", false),
    ] {
        assert_eq!(regex.is_match(key), fits, "{key:?}");
    }
}

#[test]
fn retention_of_unknown_outcomes_may_be_as_short_as_everything_together() {
    let text = SMALLEST.replace("[\"none\"]", "[\"none\"]\nretention.unknown = \"347s\"");
    assert_eq!(
        policy(&parse(&text).config.routes[0]).retention.unknown,
        Duration::from_secs(347)
    );
}

#[test]
fn retention_of_unknown_outcomes_is_judged_by_what_a_route_and_the_defaults_say_together() {
    let with = |defaults: &str, route: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[defaults]\nupstream = \"api\"\n\
             scope = [\"none\"]\n{defaults}\n[[routes]]\nname = \"all\"\npath = \"/*\"\n{route}\n"
        );
        Config::parse(&text, "f")
    };
    // 30s, 5m, 2s and 15s are the defaults of the others.
    for (defaults, route, fits) in [
        ("retention.unknown = \"347s\"", "", true),
        ("retention.unknown = \"346999ms\"", "", false),
        ("retention.unknown = \"347s\"", "lease = \"16s\"", false),
        (
            "retention.unknown = \"347s\"",
            "late_response = \"0s\"",
            true,
        ),
        ("lease = \"16s\"", "retention.unknown = \"347s\"", false),
        ("lease = \"16s\"", "retention.unknown = \"348s\"", true),
        (
            "retention.unknown = \"1s\"",
            "retention.unknown = \"347s\"",
            true,
        ),
        (
            "retention.unknown = \"1s\"",
            "retention.success = \"30d\"",
            false,
        ),
        ("retention.unknown = \"1s\"", "mode = \"observe\"", false),
        ("retention.unknown = \"1s\"", "mode = \"pass\"", true),
        // What is remembered longer is no excuse.
        (
            "retention.unknown = \"200s\"",
            "after_expiry = \"reject\"",
            false,
        ),
        (
            "record_timeout = \"36500d\"",
            "retention.unknown = \"36500d\"",
            false,
        ),
    ] {
        let said = with(defaults, route)
            .map(drop)
            .map_err(|faults| faults.to_string());
        assert_eq!(said.is_ok(), fits, "{defaults} {route}: {said:?}");
        if let Err(said) = said {
            assert!(said.contains("routes.all.retention.unknown"), "{said}");
        }
    }
}

#[test]
fn a_key_is_remembered_for_as_long_again_where_the_route_says_so() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    for (after_expiry, tombstones, open) in [("execute", 0, 720), ("reject", 1, 1440)] {
        let settings = format!(
            "[\"none\"]\nafter_expiry = \"{after_expiry}\"\nretention = {{ success = \"1h\", failure = \"2h\" }}"
        );
        let loaded = parse(&SMALLEST.replace("[\"none\"]", &settings));
        let policy = policy(&loaded.config.routes[0]);
        for (status, keep) in [
            (201, hours(1)),
            (399, hours(1)),
            (400, hours(2)),
            (503, hours(2)),
        ] {
            let kept = policy.keep_answer(status);
            assert_eq!((kept.keep, kept.tombstone), (keep, keep * tombstones));
        }
        assert_eq!(policy.keep_open(), hours(open));
    }
}

#[test]
fn an_observed_route_is_held_to_what_enforcing_would_ask_of_it() {
    let observed = |settings: &str| faults_in_route(&format!("mode = \"observe\"\n{settings}"));
    assert!(observed("lease = \"499ms\"").contains("routes.all.lease"));
    assert!(observed("scope = []").contains("routes.all.scope"));
    let loaded = parse(&SMALLEST.replace("[\"none\"]", "[\"none\"]\nmode = \"observe\""));
    assert!(matches!(loaded.config.routes[0].mode, Mode::Observe(_)));
}

#[test]
fn the_quick_configuration_protects_what_bears_a_key() {
    let config = Config::quick(
        "http://127.0.0.1:9000",
        "127.0.0.1:0",
        "127.0.0.1:0",
        "memory:",
    )
    .unwrap();
    assert_eq!(config.config.store.location, StoreLocation::Memory);
    let endpoint = &config.config.upstreams[0].endpoints[0];
    assert_eq!(endpoint.to_string(), "http://127.0.0.1:9000");
    let [protected, rest] = config.config.routes.as_slice() else {
        panic!("{:?}", config.config.routes);
    };
    assert_eq!(protected.matcher.methods, [Method::POST, Method::PATCH]);
    let policy = policy(protected);
    assert!(!policy.key_required);
    let authorization = ScopeSource::HeaderIfSent(HeaderName::from_static("authorization"));
    assert_eq!(policy.scope, [authorization]);
    assert!(matches!(rest.mode, Mode::Pass) && rest.matcher.methods.is_empty());
}

#[test]
fn the_annotated_example_has_every_setting_with_its_default() {
    let text = example("oncegate.toml");
    let file: serde_json::Value = toml::from_str(&text).expect("TOML");
    let schema = oncegate::config::schema();
    let mut missing = Vec::new();
    for (name, setting) in properties(&schema) {
        let written = &file[name];
        let (inner, written) = match name.as_str() {
            "listeners" | "routes" => (&setting["items"], &written[0]),
            "upstreams" => (&setting["additionalProperties"], &written["payments"]),
            // Documented by the routes.
            "defaults" => continue,
            _ => (setting, written),
        };
        compare(name, inner, written, &text, &mut missing);
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A section that stands in comments, `# [path]` and what follows it, as far as there is one.
fn commented_section(text: &str, path: &str) -> Option<serde_json::Value> {
    let (_, rest) = text.split_once(&format!("# [{path}]"))?;
    let lines = rest.lines().skip(1);
    let lines: Vec<&str> = lines.map_while(|line| line.strip_prefix("# ")).collect();
    Some(toml::from_str(&lines.join("\n")).expect("TOML"))
}

fn properties(schema: &serde_json::Value) -> impl Iterator<Item = (&String, &serde_json::Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn compare(
    path: &str,
    schema: &serde_json::Value,
    written: &serde_json::Value,
    text: &str,
    missing: &mut Vec<String>,
) {
    if schema["properties"].is_object() && path != "store.id_key" {
        // A section that a file may do without stands in comments.
        let commented = commented_section(text, &path.replace("upstreams.", "upstreams.payments."));
        let written = commented.as_ref().unwrap_or(written);
        for (name, inner) in properties(schema) {
            compare(
                &format!("{path}.{name}"),
                inner,
                &written[name],
                text,
                missing,
            );
        }
        return;
    }
    let name = path.rsplit('.').next().unwrap_or(path);
    let named = written.is_null() && text.contains(&format!("# {name} = "));
    let differs = schema
        .get("default")
        .is_some_and(|default| default != written);
    // The example takes only POST; by default a route takes every method.
    if differs && path != "routes.methods" || written.is_null() && !named {
        missing.push(format!(
            "{path}: {written}, by default {:?}",
            schema.get("default")
        ));
    }
}

#[test]
fn health_checks_that_cannot_be_are_said() {
    for (health, expected) in [
        ("{}", "upstreams.api.health.path: is required"),
        ("{ path = \"healthz\" }", "did you mean \"/healthz\"?"),
        ("{ path = \"/\", status = [] }", "no check could pass"),
        (
            "{ path = \"/\", timeout = \"5s\" }",
            "is 5s, and has to be less than `interval` = 5s",
        ),
        (
            "{ path = \"/\", interval = \"1s\" }",
            "is 1s unless set, and has to be less than `interval` = 1s",
        ),
        (
            "{ path = \"/\", host = \"a b\" }",
            "upstreams.api.health.host: is \"a b\"",
        ),
    ] {
        let text = SMALLEST.replacen("endpoints", &format!("health = {health}\nendpoints"), 1);
        let said = faults(&text);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn health_checks_are_off_unless_they_are_set_and_then_complete() {
    let upstream = |line: &str| {
        let text = SMALLEST.replacen("endpoints", &format!("{line}\nendpoints"), 1);
        parse(&text).config.upstreams[0].clone()
    };
    assert_eq!(upstream("").health, None);
    assert!(upstream("").resolvers.is_empty());
    let set = upstream(
        "health = { path = \"/up?all\", host = \"api.test:80\", interval = \"3s\", status = [\"204\"] }\n\
         resolvers = [\"10.0.0.2:53\", \"[::1]:5353\"]",
    );
    assert_eq!(set.resolvers.len(), 2);
    let health = set.health.expect("health checks");
    assert_eq!(health.path.as_str(), "/up?all");
    assert_eq!(health.host.expect("a host"), "api.test:80");
    let seconds = Duration::from_secs;
    assert_eq!((health.interval, health.timeout), (seconds(3), seconds(1)));
    assert_eq!((health.healthy, health.unhealthy), (2, 3));
    assert!(health.status.contains(204) && !health.status.contains(200));
}
