//! What is wrong is said with its place, and with what is allowed.

use std::path::Path;

use oncegate::config::{Config, Faults};

use crate::{SMALLEST, faults, faults_in_route, faults_with};

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_is_allowed() {
    let duration = "write a duration such as \"30s\" (ms, s, m, h, d)";
    let size = "write a size such as \"64KiB\" (B, KiB, MiB, GiB, TiB)";
    for (top, expected) in [
        ("drain_timeout = 30", format!("f:1:17: drain_timeout: is an integer; {duration}; did you mean \"30s\"?")),
        ("drain_timeout = \"30\"", format!("f:1:17: drain_timeout: \"30\" has no unit; {duration}; did you mean \"30s\"?")),
        (
            "drain_timeout = \"1h 30m\"",
            format!("f:1:17: drain_timeout: \"1h 30m\" has the unit \"h 30m\"; {duration}; did you mean \"90m\"?"),
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
            "f:1:1: \"a b\": is not a setting; there are `profile`, `reload`, `problem_base`, `drain_timeout`, `drain_delay`, `[[listeners]]`, \
             `[admin]`, `[store]`, `[limits]`, `[access_log]`, `[upstreams.NAME]`, `[defaults]`, `[[routes]]`"
                .to_owned(),
        ),
        (
            "limits = 7",
            "f:1:10: limits: is an integer; write a table with max_connections, max_connections_per_address, max_buffered, max_waiters_per_key, \
             max_waiters, max_late, first_byte, headers, body_idle, min_receive_rate, min_send_rate, rate_grace, keep_alive, http2_streams, http2_stream_window, http2_connection_window, http2_ping_every, http2_ping_timeout, replay_cache"
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
            format!("f:1:23: limits.max_buffered: \"64MB\" has the unit \"MB\"; {size}, above zero; did you mean \"64MiB\"?"),
        ),
        ("limits.replay_cache = 7", format!("f:1:23: limits.replay_cache: 7 has no unit; {size}; did you mean \"7B\"?")),
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
             \"127.0.0.1:8080\" or \"[::]:8080\", or a path, such as \"unix:/run/oncegate.sock\"; did you mean \
             \"127.0.0.1:80\"?"
                .to_owned(),
        ),
        (
            "admin.address = \"127.0.0.1:8080\"",
            "f:1:17: admin.address: 127.0.0.1:8080 is taken by `listeners[0].address` = \"127.0.0.1:8080\", by default; \
             choose another port for one of them"
                .to_owned(),
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
    let write = "write `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`";
    for (endpoints, expected) in [
        (
            "[]",
            "endpoints: is empty; there has to be one endpoint".to_owned(),
        ),
        (
            r#"["127.0.0.1:80"]"#,
            format!(
                "endpoints[0]: begins with neither `http://`, `https://` nor `unix:`; {write}; did you mean \"http://127.0.0.1:80\"?"
            ),
        ),
        (
            r#"["https://a"]"#,
            format!(
                "endpoints[0]: is \"https://a\", without a port; {write}; did you mean \"https://a:443\"?"
            ),
        ),
        (
            r#"["unix:///run/a"]"#,
            format!(
                "endpoints[0]: is \"unix:///run/a\", and a socket's path has 1 to 107 bytes; {write}; did you mean \"unix:/run/a\"?"
            ),
        ),
        (
            r#"["http://a:1/"]"#,
            format!("endpoints[0]: has a path; {write}; did you mean \"http://a:1\"?"),
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
            format!(
                "endpoints[0]: is \"http://a\", without a port; {write}; did you mean \"http://a:80\"?"
            ),
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
            "endpoints: has http://a:1 twice".to_owned(),
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
fn what_is_wrong_in_the_tls_of_an_upstream_is_said() {
    let wrong = |endpoint: &str, tls: &str| {
        faults(&SMALLEST.replace(
            "[\"http://127.0.0.1:9000\"]",
            &format!("[{endpoint:?}]\ntls = {{ {tls} }}\n"),
        ))
    };
    for (endpoint, tls, expected) in [
        (
            "http://a:1",
            "",
            "tls: is for endpoints on `https://`, and there is none",
        ),
        (
            "https://a:1",
            "roots = \"no/such/file\"",
            "tls.roots: cannot be read: No such file",
        ),
        (
            "https://a:1",
            "roots = \"Cargo.toml\"",
            "tls.roots: holds no certificate in PEM",
        ),
        (
            "https://a:1",
            "certificate = \"Cargo.toml\"",
            "tls.certificate: needs its `key`",
        ),
        (
            "https://a:1",
            "key = { file = \"Cargo.toml\" }",
            "tls.key: needs its `certificate`",
        ),
        (
            "https://a:1",
            "certificate = \"Cargo.toml\", key = { file = \"Cargo.toml\" }",
            "tls.certificate: holds no certificate in PEM",
        ),
        (
            "https://a:1",
            "server_name = \"a b\"",
            "tls.server_name: is \"a b\"; write a host's name, or an IP address",
        ),
    ] {
        let said = wrong(endpoint, tls);
        assert!(
            said.contains(&format!("upstreams.api.{expected}")),
            "{tls}: {said}"
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
        ("upstream = \"b\"", "2:12: routes.all.upstream: there is no upstream `b`; there is only api".to_owned()),
        (
            "methods = [\"POST\", \"get\"]",
            "2:20: routes.all.methods[1]: is \"get\"; write a method in capitals, such as \"POST\", and not CONNECT; \
             did you mean \"GET\"?"
                .to_owned(),
        ),
        (
            "host = \"a:80\"",
            "2:8: routes.all.host: is \"a:80\"; write a host without port, such as \"api.example.com\"; did you \
             mean \"a\"?"
                .to_owned(),
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
            "2:14: routes.all.key_format: has a pattern that is wrong: unopened group; write `any`, `uuid`, `ulid`, \
             `issued` or `regex:PATTERN`"
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
            "2:42: routes.all.fingerprint.ignore[0]: is \"a\"; write a JSON pointer, such as \"/sent_at\"; \
             did you mean \"/a\"?"
                .to_owned(),
        ),
        ("unknown_status = 500", "2:18: routes.all.unknown_status: is 500; write 409 or 503".to_owned()),
        (
            "outcomes = { release = [\"5xx\"] }",
            "2:24: routes.all.outcomes.release: 502 is in `unknown` by default; write `unknown`, too, without it".to_owned(),
        ),
        (
            "outcomes = { release = [\"604\"] }",
            "2:25: routes.all.outcomes.release[0]: is \"604\"; write a status from \"200\" to \"599\", or a class \
             such as \"5xx\""
                .to_owned(),
        ),
        (
            "retention = { unknown = \"346s\" }",
            "2:25: routes.all.retention.unknown: `retention.unknown` = \"346s\" is less than response_timeout 30s + \
             late_response 5m + record_timeout 2s + lease 15s together: an outcome would be forgotten while it is open; \
             it has to be 347s or more"
                .to_owned(),
        ),
        (
            "lease = \"499ms\"",
            "2:9: routes.all.lease: 499ms is less than twice the 250ms of `store.timeout`: a claim might be over before \
             it is answered; it has to be 500ms or more"
                .to_owned(),
        ),
        (
            "max_request_body = \"65MiB\"",
            "2:20: routes.all.max_request_body: `max_request_body` = \"65MiB\" is more than `limits.max_buffered` = \
             \"64MiB\", which all bodies share; lower the former, or raise the latter"
                .to_owned(),
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
fn what_is_missing_is_said() {
    let text = "[upstreams.a]\n\n[[routes]]\nmethods = [\"POST\"]\n";
    let scope = "is required on a protected route, here or in `defaults`; write what names the client, such as \
                 [\"header:X-Tenant\"], or [\"none\"] where there is only one";
    let expected = [
        "f:1:1: upstreams.a.endpoints: is required; write a list of: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`".to_owned(),
        "f:3:1: routes[0].name: is required; write 1 to 100 letters, digits, `.`, `_` or `-`".to_owned(),
        "f:3:1: routes[0].path: is required, here or in `defaults`; write a path such as \"/v1/payments\", \"/v1/*\" or \"/v1/{id}/refund\"".to_owned(),
        format!("f:3:1: routes[0].scope: {scope}"),
        "f:3:1: routes[0].upstream: is required, here or in `defaults`, as the name of an upstream (a); write 1 to 100 letters, digits, `.`, `_` or `-`".to_owned(),
    ];
    assert_eq!(faults(text), expected.join("\n"));
    assert_eq!(
        faults(""),
        "f:1:1: routes: is required; write `[[routes]]`, with two brackets, before each\n\
         f:1:1: upstreams: is required; write `[upstreams.NAME]`, with a name of your choice"
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
        "admin.address = \"unix:/run/admin.sock\"",
        "admin.cors = true",
        "store.url = \"dynamodb://table\"",
    ] {
        let said = faults_with(top);
        assert!(
            said.contains("not in this version") && said.lines().count() <= 2,
            "{top}: {said}"
        );
    }
    for settings in [
        "key = [\"query:key\"]",
        "key = [\"json:/key\"]",
        "key = [\"graphql:idempotent\"]",
        "key = [\"derived:1m\"]",
        "scope = [\"jwt:sub\"]",
        "scope = [\"client-cert\"]",
        "scope = [\"client-ip\"]",
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
    let text = r#"profile = "edgy"
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
mode = "watch"
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
        said[7].to_string().ends_with("; see also f:12:8"),
        "{}",
        said[7]
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
fn faults_of_arguments_name_the_arguments() {
    let faults = Config::quick("ftp://a:1", "x", "y\"\n", "redis://:password@h/0").unwrap_err();
    assert_eq!(
        faults.to_string(),
        "command line: --listen: is \"x\"; write an IP address and a port, such as \"127.0.0.1:8080\" or \
         \"[::]:8080\", or a path, such as \"unix:/run/oncegate.sock\"\n\
         command line: --admin: is \"y\\\"\\n\"; write an IP address and a port, such as \"127.0.0.1:8080\" or \
         \"[::]:8080\"\n\
         command line: --store: is shared by gateways; it needs `store.namespace`, which goes before every key, and \
         `store.id_key`, the same for every gateway\n\
         command line: --upstream: begins with neither `http://`, `https://` nor `unix:`; write `http://HOST:PORT`, \
         `https://HOST:PORT` or `unix:PATH`"
    );
}
