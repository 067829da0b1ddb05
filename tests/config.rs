//! What a configuration file may say, and what is said about one that is wrong.

use std::path::Path;
use std::time::Duration;

use http::{HeaderName, Method};
use oncegate::config::{Config, Endpoint, Faults, Loaded, StoreLocation};
use oncegate::identity::{BodyRule, KeyFormat, KeySource, ScopeSource};
use oncegate::route::{Mode, OnStoreDown, Policy, Route};
use proptest::prelude::*;

/// The smallest configuration, to which others add.
const SMALLEST: &str = r#"
[upstreams.api]
endpoints = ["http://127.0.0.1:9000"]

[[routes]]
name = "all"
path = "/*"
upstream = "api"
scope = ["none"]
"#;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    std::fs::read_to_string(path).expect("an example")
}

fn parse(text: &str) -> Loaded {
    Config::parse(text, "oncegate.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(text: &str) -> String {
    match Config::parse(text, "f") {
        Ok(_) => panic!("nothing is wrong with: {text}"),
        Err(faults) => faults.to_string(),
    }
}

/// What is wrong with the smallest configuration and this before it; lines count from the added text.
fn faults_with(top: &str) -> String {
    faults(&format!("{top}{SMALLEST}"))
}

/// The same with this in its route, which begins in line 2.
fn faults_in_route(settings: &str) -> String {
    let route = "name = \"all\"\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n";
    let upstream = "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n";
    let names: Vec<&str> = settings
        .lines()
        .filter_map(|line| line.split(" =").next())
        .collect();
    let kept: String = route
        .lines()
        .filter(|line| {
            !names
                .iter()
                .any(|name| line.starts_with(&format!("{name} =")))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    faults(&format!("[[routes]]\n{settings}\n{kept}{upstream}"))
}

fn policy(route: &Route) -> &Policy {
    match &route.mode {
        Mode::Enforce(policy) => policy,
        Mode::Pass => panic!("{} is not protected", route.name),
    }
}

#[test]
fn the_examples_can_be_loaded() {
    for name in ["oncegate.toml", "sidecar.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("config")
            .join(name);
        let loaded = Config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.config.routes.len(), 2, "{name}");
    }
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
fn defaults_are_those_of_the_reference() {
    let Config {
        problem_base,
        drain_timeout,
        listeners,
        admin,
        store,
        limits,
        upstreams,
        routes,
    } = parse(SMALLEST).config;
    assert_eq!(problem_base, None);
    assert_eq!(drain_timeout, Duration::from_secs(30));
    assert_eq!(listeners, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(admin, "127.0.0.1:9090".parse().unwrap());
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
    let endpoint = Endpoint {
        host: "127.0.0.1".to_owned(),
        port: 9000,
    };
    assert_eq!(upstreams[0].endpoints, [endpoint]);
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
    assert_eq!(loaded.config.upstreams[0].endpoints[1].host, "::1");
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
fn what_is_wrong_is_said_with_its_place_and_what_is_allowed() {
    let duration = "write a duration such as \"30s\" (ms, s, m, h, d)";
    let size = "write a size such as \"64KiB\" (B, KiB, MiB, GiB, TiB)";
    for (top, expected) in [
        ("drain_timeout = 30", format!("f:1:17: drain_timeout: is an integer; {duration}")),
        ("drain_timeout = \"30\"", format!("f:1:17: drain_timeout: \"30\" has no unit; {duration}")),
        (
            "drain_timeout = \"1h 30m\"",
            format!("f:1:17: drain_timeout: \"1h 30m\" has the unit \"h 30m\"; {duration}"),
        ),
        (
            "drain_timeout = \"-1s\"",
            format!("f:1:17: drain_timeout: \"-1s\" does not begin with a whole number; {duration}"),
        ),
        (
            "drain_timeout = \"99999999999999999999d\"",
            format!("f:1:17: drain_timeout: \"99999999999999999999d\" is too large; {duration}"),
        ),
        (
            "drain_timeout = \"36501d\"",
            format!("f:1:17: drain_timeout: \"36501d\" is longer than 36500d; {duration}"),
        ),
        (
            "drain_timeuot = \"30s\"",
            "f:1:1: drain_timeuot: is not a setting; did you mean `drain_timeout`?".to_owned(),
        ),
        (
            "\"a b\" = 1",
            "f:1:1: \"a b\": is not a setting; there are profile, problem_base, drain_timeout, listeners, admin, \
             store, limits, upstreams, defaults, routes"
                .to_owned(),
        ),
        (
            "limits = 7",
            "f:1:10: limits: is an integer; write a table with max_connections, max_buffered, max_waiters_per_key, \
             max_waiters, max_late, first_byte, headers, body_idle, keep_alive, replay_cache"
                .to_owned(),
        ),
        (
            "limits.max_late = 0",
            "f:1:19: limits.max_late: is 0; write a whole number from 1 to 1000000000".to_owned(),
        ),
        (
            "limits.max_late = -1",
            "f:1:19: limits.max_late: is -1; write a whole number from 1 to 1000000000".to_owned(),
        ),
        (
            "limits.max_buffered = \"0\"",
            format!("f:1:23: limits.max_buffered: is zero; {size}, above zero"),
        ),
        (
            "limits.max_buffered = \"64MB\"",
            format!("f:1:23: limits.max_buffered: \"64MB\" has the unit \"MB\"; {size}, above zero"),
        ),
        ("limits.replay_cache = 7", format!("f:1:23: limits.replay_cache: 7 has no unit; {size}")),
        (
            "limits.headers = \"0s\"",
            format!("f:1:18: limits.headers: is zero; {duration}, above zero"),
        ),
        (
            "problem_base = \"docs\"",
            "f:1:16: problem_base: is \"docs\"; write an http or https URL that ends in `/`".to_owned(),
        ),
        ("listeners = []", "f:1:13: listeners: is empty; there has to be one listener".to_owned()),
        (
            "listeners = [{ address = \"localhost:80\" }]",
            "f:1:26: listeners[0].address: is \"localhost:80\"; write an IP address and a port, such as \
             \"127.0.0.1:8080\" or \"[::]:8080\""
                .to_owned(),
        ),
        (
            "admin.address = \"127.0.0.1:8080\"",
            "f:1:17: admin.address: 127.0.0.1:8080 is taken twice; the other one is at 1:1".to_owned(),
        ),
        (
            "store.url = \"memory:x\"",
            "f:1:13: store.url: has something after `memory:`; write `memory:`, `embedded:PATH`, or servers after \
             `redis://`, `rediss://`, `redis-sentinel://` or `redis-cluster://`"
                .to_owned(),
        ),
        (
            "store.url = \"embedded:\"",
            "f:1:13: store.url: has no path; write `memory:`, `embedded:PATH`, or servers after `redis://`, \
             `rediss://`, `redis-sentinel://` or `redis-cluster://`"
                .to_owned(),
        ),
        (
            "store.namespace = \"\"",
            "f:1:19: store.namespace: is empty; write 1 to 100 letters, digits, `.`, `_` or `-`".to_owned(),
        ),
        (
            "defaults.nmae = 1",
            "f:1:10: defaults.nmae: is not a setting; did you mean `name`?".to_owned(),
        ),
        (
            "defaults.name = \"x\"",
            "f:1:17: defaults.name: belongs to one route; there is no `name` for all".to_owned(),
        ),
        (
            "defaults.lease = \"x\"",
            format!("f:1:18: defaults.lease: \"x\" does not begin with a whole number; {duration}, above zero"),
        ),
    ] {
        assert_eq!(faults_with(top), expected, "{top}");
    }
}

#[test]
fn what_is_wrong_in_an_upstream_is_said() {
    let wrong = |endpoints: &str| {
        faults(
            &SMALLEST
                .replace("[\"http://127.0.0.1:9000\"]", endpoints)
                .replace("\n\n", "\n"),
        )
    };
    let write = "write `http://HOST:PORT`";
    for (endpoints, expected) in [
        (
            "[]",
            "endpoints: is empty; there has to be one endpoint".to_owned(),
        ),
        (
            r#"["127.0.0.1:80"]"#,
            format!("endpoints[0]: does not begin with `http://`; {write}"),
        ),
        (
            r#"["https://a:1"]"#,
            format!("endpoints[0]: `https:` is not in this version; {write}"),
        ),
        (
            r#"["http://a:1/"]"#,
            format!("endpoints[0]: has a path; {write}"),
        ),
        (
            r#"["http://a:1?b"]"#,
            format!("endpoints[0]: has a query; {write}"),
        ),
        (
            r#"["http://u:p@a:1"]"#,
            format!("endpoints[0]: has a user or password; {write}"),
        ),
        (
            r#"["http://a"]"#,
            format!("endpoints[0]: is \"http://a\", without a port; {write}"),
        ),
        (
            r#"["http://a:0"]"#,
            format!("endpoints[0]: is \"http://a:0\", without a port; {write}"),
        ),
        (
            r#"["http://:80"]"#,
            format!("endpoints[0]: is \"http://:80\"; {write}"),
        ),
        (
            r#"["http://a:99999"]"#,
            format!("endpoints[0]: is \"http://a:99999\", without a port; {write}"),
        ),
        (
            r#"["http://a:1", "http://a:1"]"#,
            "endpoints: has a:1 twice".to_owned(),
        ),
    ] {
        let column = if expected.starts_with("endpoints[") {
            14
        } else {
            13
        };
        assert_eq!(
            wrong(endpoints),
            format!("f:3:{column}: upstreams.api.{expected}"),
            "{endpoints}"
        );
    }
}

#[test]
fn what_is_wrong_in_a_route_is_said() {
    let path = "write a path such as \"/v1/payments\", \"/v1/*\" or \"/v1/{id}/refund\"";
    for (settings, expected) in [
        (
            "path = \"/v1//x\"",
            format!("2:8: routes.all.path: \"/v1//x\" is no path pattern: it has an empty segment (`//`); {path}"),
        ),
        ("upstream = \"b\"", "2:12: routes.all.upstream: there is no upstream `b`; there are api".to_owned()),
        (
            "methods = [\"POST\", \"get\"]",
            "2:20: routes.all.methods[1]: is \"get\"; write a method in capitals, such as \"POST\", and not CONNECT"
                .to_owned(),
        ),
        (
            "host = \"a:80\"",
            "2:8: routes.all.host: is \"a:80\"; write a host without port, such as \"api.example.com\"".to_owned(),
        ),
        ("key = []", "2:7: routes.all.key: is empty; write [\"header:Idempotency-Key\"]".to_owned()),
        ("key = [\"header:a\", \"header:A\"]", "2:7: routes.all.key: has `header:a` twice".to_owned()),
        (
            "key = [\"header:Host\"]",
            "2:8: routes.all.key[0]: is \"header:Host\", which no upstream is sent as it came; write `header:NAME`"
                .to_owned(),
        ),
        (
            "key_format = \"regex:a)|(b\"",
            "2:14: routes.all.key_format: has a pattern that is wrong: unopened group; write `any`, `uuid`, `ulid` \
             or `regex:PATTERN`"
                .to_owned(),
        ),
        (
            "scope = [\"none\", \"header:A\"]",
            "2:9: routes.all.scope: has `none` beside something else; write it alone".to_owned(),
        ),
        (
            "scope = []",
            "2:9: routes.all.scope: is empty; write [\"none\"] where there is a single client".to_owned(),
        ),
        (
            "challenge = \"a\\nb\"",
            "2:13: routes.all.challenge: is \"a\\nb\"; write a challenge, such as \"Bearer\" or 'Basic \
             realm=\"payments\"'"
                .to_owned(),
        ),
        (
            "fingerprint = { ignore = [\"/a\"] }",
            "2:26: routes.all.fingerprint.ignore: members can only be ignored where the body counts as JSON; set \
             body = \"json\""
                .to_owned(),
        ),
        (
            "fingerprint = { body = \"json\", ignore = [\"a\"] }",
            "2:42: routes.all.fingerprint.ignore[0]: is \"a\"; write a JSON pointer, such as \"/sent_at\"".to_owned(),
        ),
        ("unknown_status = 500", "2:18: routes.all.unknown_status: is 500; write 409 or 503".to_owned()),
        (
            "outcomes = { release = [\"5xx\"] }",
            "2:24: routes.all.outcomes.release: 502 is both in `release` and in `unknown`; the other one is at 2:12"
                .to_owned(),
        ),
        (
            "outcomes = { release = [\"604\"] }",
            "2:25: routes.all.outcomes.release[0]: is \"604\"; write a status from \"200\" to \"599\", or a class \
             such as \"5xx\""
                .to_owned(),
        ),
        (
            "retention = { unknown = \"346s\" }",
            "2:25: routes.all.retention.unknown: 346s is less than response_timeout, late_response, record_timeout \
             and lease together; it has to be 347s or more"
                .to_owned(),
        ),
        (
            "lease = \"499ms\"",
            "2:9: routes.all.lease: 499ms is less than twice the 250ms of store.timeout: a claim might be over before \
             it is answered; it has to be 500ms or more"
                .to_owned(),
        ),
        (
            "max_request_body = \"65MiB\"",
            "2:20: routes.all.max_request_body: is more than limits.max_buffered, which all bodies share".to_owned(),
        ),
        (
            "name = \"a b\"",
            "2:8: routes[0].name: is \"a b\"; write 1 to 100 letters, digits, `.`, `_` or `-`".to_owned(),
        ),
    ] {
        assert_eq!(faults_in_route(settings), format!("f:{expected}"), "{settings}");
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
fn what_is_missing_is_said() {
    let text = "[upstreams.a]\n\n[[routes]]\nmethods = [\"POST\"]\n";
    let scope = "is required on a protected route, here or in `defaults`; write what names the client, such as \
                 [\"header:X-Tenant\"], or [\"none\"] where there is only one";
    let expected = [
        "f:1:1: upstreams.a.endpoints: is required; write a list of: `http://HOST:PORT`".to_owned(),
        "f:3:1: routes[0].name: is required".to_owned(),
        "f:3:1: routes[0].path: is required, here or in `defaults`".to_owned(),
        format!("f:3:1: routes[0].scope: {scope}"),
        "f:3:1: routes[0].upstream: is required, here or in `defaults`".to_owned(),
    ];
    assert_eq!(faults(text), expected.join("\n"));
    assert_eq!(
        faults(""),
        "f:1:1: routes: is required; write a list of tables\n\
         f:1:1: upstreams: is required; write tables under names of your choice"
    );
    let file = Config::load(Path::new("no/such/file.toml")).unwrap_err();
    assert_eq!(
        file.to_string(),
        "no/such/file.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn what_a_later_version_will_know_is_refused_by_name() {
    for top in [
        "profile = \"edge\"",
        "listeners = [{ address = \"unix:/run/oncegate.sock\" }]",
        "listeners = [{ tls = {} }]",
        "listeners = [{ proxy_protocol = true }]",
        "listeners = [{ trusted_proxies = [] }]",
        "admin.token = { env = \"TOKEN\" }",
        "admin.cors = true",
        "store.url = \"dynamodb://table\"",
        "store.encryption_keys = []",
        "store.replicas_ack = 1",
        "defaults.probe = {}",
    ] {
        let said = faults_with(top);
        assert!(
            said.contains("not in this version") && said.lines().count() <= 2,
            "{top}: {said}"
        );
    }
    for settings in [
        "mode = \"observe\"",
        "key = [\"query:key\"]",
        "key = [\"json:/key\"]",
        "key = [\"graphql:idempotent\"]",
        "key = [\"derived:1m\"]",
        "key_format = \"issued\"",
        "scope = [\"jwt:sub\"]",
        "scope = [\"client-cert\"]",
        "scope = [\"client-ip\"]",
        "on_unknown = \"resend\"",
        "on_unknown = \"probe\"",
        "probe = { method = \"GET\" }",
        "after_expiry = \"reject\"",
        "key_age = \"reject\"",
        "dialect = \"stripe\"",
        "dialect = \"graphql\"",
    ] {
        let said = faults_in_route(settings);
        assert!(
            said.contains("not in this version") && said.lines().count() == 1,
            "{settings}: {said}"
        );
    }
}

#[test]
fn every_fault_of_a_file_is_said_at_once_in_the_order_of_the_file() {
    let text = r#"profile = "edge"
drain_timout = "30s"
[store]
url = "redis://:password@host/0"
timeout = "0s"
[upstreams.api]
endpoints = ["http://127.0.0.1:9000"]
[defaults]
lease = 15
upstream = "ipa"
[[routes]]
name = "one"
path = "one"
scope = ["none"]
[[routes]]
name = "one"
path = "/*"
mode = "observe"
"#;
    let Faults(said) = Config::parse(text, "f").unwrap_err();
    let places: Vec<String> = said
        .iter()
        .map(|fault| format!("{} {}", fault.position.expect("a place"), fault.setting))
        .collect();
    assert_eq!(
        places,
        [
            "1:11 profile",
            "2:1 drain_timout",
            "4:7 store.url",
            "5:11 store.timeout",
            "9:9 defaults.lease",
            "10:12 routes.one.upstream",
            "13:8 routes.one.path",
            "16:8 routes.one.name",
            "18:8 routes.one.mode",
        ]
    );
    assert!(!said.iter().any(|fault| fault.message.contains("password")));
    assert!(
        said[7].message.ends_with("; the other one is at 12:8"),
        "{}",
        said[7]
    );
}

#[test]
fn faults_of_syntax_are_said_together_with_values_that_are_wrong_whatever_the_syntax() {
    let text = "drain_timeout = \"x\"\n[limits]\nmax_late = 1\nmax_late = 2\n[upstreams.a]\n[ upstreams.a ]\nb = 1\n";
    assert_eq!(
        faults(text),
        "f:1:17: drain_timeout: \"x\" does not begin with a whole number; write a duration such as \"30s\" (ms, s, m, \
         h, d)\n\
         f:4:1: not TOML: duplicate key; the other one is at 3:1\n\
         f:6:13: not TOML: duplicate key; the other one is at 5:1"
    );
    assert_eq!(
        faults("a = [1\n"),
        "f:1:7: not TOML: unclosed array, expected `]`"
    );
}

#[test]
fn columns_count_characters() {
    let said = faults_with("problem_base = \"é\" # é\nadmin = { \"é\" = 1, address = 7 }");
    let places: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(places, ["f:1:16", "f:2:11", "f:2:30"]);
}

#[test]
fn a_secret_is_read_from_its_place_and_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("id");
    let load = |secret: &[u8]| {
        std::fs::write(&path, secret).unwrap();
        let text = format!(
            "store.id_key = {{ file = '{}' }}\n{SMALLEST}",
            path.display()
        );
        Config::parse(&text, "f").map(|loaded| loaded.config.store)
    };
    let secret = b"a secret of more than thirty-two bytes";
    let plain = load(secret).unwrap();
    for end in ["\n", "\r\n"] {
        let ended = load(&[secret, end.as_bytes()].concat()).unwrap();
        assert_eq!(ended.id_key.unwrap().0, plain.id_key.as_ref().unwrap().0);
    }
    let other = load(&[secret, b"!".as_slice()].concat()).unwrap();
    assert_ne!(other.id_key.unwrap().0, plain.id_key.as_ref().unwrap().0);
    let printed = format!("{plain:?}");
    assert!(
        !printed.contains("secret of")
            && !printed.contains(&format!("{:?}", &plain.id_key.unwrap().0[..4]))
    );

    let short = load(&secret[..31]).unwrap_err().to_string();
    assert_eq!(
        short,
        "f:1:16: store.id_key: the secret has 31 bytes; it needs 32 or more"
    );
    let long = load(&[b'x'; 70_000]).unwrap_err().to_string();
    assert!(
        long.ends_with("cannot be read: it has more than 65536 bytes"),
        "{long}"
    );
}

#[test]
fn a_secret_may_be_in_the_environment() {
    let with =
        |name: &str| Config::parse(&format!("store.id_key.env = \"{name}\"\n{SMALLEST}"), "f");
    // Cargo sets it for tests, and it is long enough.
    assert!(
        with("CARGO_PKG_DESCRIPTION")
            .unwrap()
            .config
            .store
            .id_key
            .is_some()
    );
    for (name, said) in [
        (
            "ONCEGATE_NO_SUCH",
            "the environment variable \"ONCEGATE_NO_SUCH\" is not set",
        ),
        ("", "\"\" is no name of an environment variable"),
        ("A=B", "\"A=B\" is no name of an environment variable"),
        (
            "A\\u0000B",
            "\"A\\0B\" is no name of an environment variable",
        ),
    ] {
        let faults = with(name).unwrap_err().to_string();
        assert!(faults.ends_with(said), "{faults}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    for value in [
        "\"hunter2\"",
        "{ text = \"hunter2\" }",
        "{ env = \"A\", file = \"hunter2\" }",
        "[\"hunter2\"]",
    ] {
        let said = faults_with(&format!("store.id_key = {value}"));
        assert_eq!(
            said,
            "f:1:16: store.id_key: is not the place of a secret; write `{ env = \"NAME\" }` or `{ file = \"path\" }`"
        );
    }
}

#[test]
fn what_deserves_a_look_is_warned_of() {
    let text = r#"[upstreams.api]
endpoints = ["http://127.0.0.1:9000"]
[defaults]
upstream = "api"
scope = ["header:Authorization"]
[[routes]]
name = "one"
path = "/v1/one"
methods = ["POST"]
[[routes]]
name = "two"
id = "one"
path = "/V1/two"
methods = ["POST"]
scope = ["header:X-Tenant"]
[[routes]]
name = "rest"
path = "/*"
mode = "pass"
"#;
    let said: Vec<String> = parse(text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    let spelling = "passes unprotected by route `rest`; if the upstream takes it for a path of this route, narrow that one; \
         the other one is at 18:8";
    assert_eq!(
        said,
        [
            "oncegate.toml:5:9: routes.one.scope: a client that refreshes its token between two tries is another \
             client by `header:Authorization`; where a header names the client for good, use that"
                .to_owned(),
            format!("oncegate.toml:8:8: routes.one.path: `/V1/ONE` {spelling}"),
            "oncegate.toml:12:6: routes.two.id: two routes have the id `one`: the same key means the same operation \
             on both; the other one is at 7:8"
                .to_owned(),
            format!("oncegate.toml:13:8: routes.two.path: `/V1/TWO` {spelling}"),
        ]
    );
}

/// The findings about a route that protects POST /v1/payments, after one of these settings that passes.
fn after_a_pass_route(pass: &str) -> Result<Vec<String>, String> {
    let text = format!(
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[defaults]\nupstream = \"api\"\n\
         scope = [\"none\"]\n[[routes]]\nname = \"rest\"\nmode = \"pass\"\n{pass}\n[[routes]]\nname = \"create\"\n\
         methods = [\"POST\"]\npath = \"/v1/{{any}}\"\n"
    );
    match Config::parse(&text, "f") {
        Ok(loaded) => Ok(loaded.warnings.iter().map(ToString::to_string).collect()),
        Err(faults) => Err(faults.to_string()),
    }
}

#[test]
fn a_route_that_no_request_can_reach_is_refused() {
    for pass in [
        "path = \"/*\"",
        "path = \"/v1/*\"",
        "path = \"/{v}/{x}\"\nmethods = [\"GET\", \"POST\"]",
    ] {
        let said = after_a_pass_route(pass).unwrap_err();
        let line = 12 + pass.lines().count();
        assert_eq!(
            said,
            format!(
                "f:{line}:8: routes.create.path: no request reaches route `create`: route `rest` stands before it and \
                 takes them all; put this one first, or remove it; the other one is at 9:8"
            )
        );
    }
}

#[test]
fn requests_of_a_protected_route_that_an_earlier_one_passes_are_warned_of() {
    for pass in [
        "path = \"/v1/payments\"",
        "path = \"/*\"\nhost = \"one.example.com\"",
    ] {
        let said = after_a_pass_route(pass).unwrap();
        let line = 12 + pass.lines().count();
        assert_eq!(
            said,
            [format!(
                "f:{line}:8: routes.create.path: POST requests that match both this route and route `rest` pass \
                 unprotected, because that one stands before it; put this one first, unless that is meant; the other \
                 one is at 9:8"
            )]
        );
    }
    for pass in [
        "path = \"/v1/*\"\nmethods = [\"GET\"]",
        "path = \"/v1/payments/{id}\"",
    ] {
        assert_eq!(after_a_pass_route(pass), Ok(Vec::new()), "{pass}");
    }
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
    assert_eq!(config.store.location, StoreLocation::Memory);
    assert_eq!(config.upstreams[0].endpoints[0].port, 9000);
    let [protected, rest] = config.routes.as_slice() else {
        panic!("{:?}", config.routes);
    };
    assert_eq!(protected.matcher.methods, [Method::POST, Method::PATCH]);
    let policy = policy(protected);
    assert!(!policy.key_required);
    let authorization = ScopeSource::HeaderIfSent(HeaderName::from_static("authorization"));
    assert_eq!(policy.scope, [authorization]);
    assert!(matches!(rest.mode, Mode::Pass) && rest.matcher.methods.is_empty());
}

#[test]
fn faults_of_arguments_name_the_arguments() {
    let faults = Config::quick("https://a:1", "x", "y\"\n", "redis://:password@h/0").unwrap_err();
    assert_eq!(
        faults.to_string(),
        "command line: --listen: is \"x\"; write an IP address and a port, such as \"127.0.0.1:8080\" or \
         \"[::]:8080\"\n\
         command line: --admin: is \"y\\\"\\n\"; write an IP address and a port, such as \"127.0.0.1:8080\" or \
         \"[::]:8080\"\n\
         command line: --store: is shared by gateways; it needs `store.namespace`, which goes before every key, and \
         `store.id_key`, the same for every gateway\n\
         command line: --upstream: `https:` is not in this version; write `http://HOST:PORT`"
    );
}

/// Either a configuration, or faults that all lie within the text.
fn judge(text: &str) -> Result<(), TestCaseError> {
    if let Err(Faults(faults)) = Config::parse(text, "f") {
        prop_assert!(!faults.is_empty());
        for fault in faults {
            let position = fault.position.expect("a place");
            prop_assert!(
                (1..=text.lines().count() + 1).contains(&position.line),
                "{}",
                fault
            );
            prop_assert!(!fault.to_string().contains('\n'), "{}", fault);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        judge(&text)?;
    }

    #[test]
    fn nothing_that_looks_like_a_configuration_makes_it_panic(
        lines in proptest::collection::vec(
            prop_oneof![
                "\\[{1,2}(routes|defaults|upstreams|upstreams\\.a|limits|store|routes\\.outcomes|admin)\\]{1,2}",
                "(name|path|scope|key|lease|mode|url|retention|release|endpoints|id_key|routes|defaults|a\\.b) = \
                 (\"[a-z:/]{0,6}\"|[0-9]{1,20}|\\[\\]|\\{\\}|\\[\\{\\}\\]|\\[\"x\", 1\\]|true|\\{ unknown = \"1s\" \\}|1979-05-27|nan)",
            ],
            0..12,
        ),
    ) {
        judge(&lines.join("\n"))?;
    }

    #[test]
    fn no_damage_to_an_example_makes_it_panic(
        from in 0..8000_usize,
        length in 0..60_usize,
        instead in "[\\[\\]{}\"=.a0\n#é]{0,4}",
    ) {
        let text = example("oncegate.toml");
        let from = text.floor_char_boundary(from);
        let to = text.ceil_char_boundary(from + length).min(text.len());
        judge(&format!("{}{instead}{}", &text[..from], &text[to..]))?;
    }
}
