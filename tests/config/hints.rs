//! Somebody who misspelt a name or a value can mend the file by what is said alone.

use oncegate::config::Config;

use crate::{faults, faults_in_route, faults_with};

/// What is said after `; ` about the first fault.
fn advice(said: &str) -> &str {
    let first = said.lines().next().unwrap_or_default();
    first
        .split_once("is not a setting; ")
        .map_or(first, |(_, advice)| advice)
}

#[test]
fn a_misspelt_name_is_told_from_one_that_belongs_elsewhere() {
    for (top, expected) in [
        (
            "[upstream.b]\nendpoints = []",
            "did you mean `[upstreams.NAME]`?",
        ),
        ("[[route]]\nname = \"b\"", "did you mean `[[routes]]`?"),
        ("[Store]", "did you mean `[store]`?"),
        ("[limit]", "did you mean `[limits]`?"),
        ("drain_timout = \"1s\"", "did you mean `drain_timeout`?"),
        (
            "wait = \"1s\"",
            "`wait` belongs to `[[routes]]` or `[defaults]`",
        ),
        (
            "success = \"1s\"",
            "`success` belongs to `retention` in `[[routes]]` or `[defaults]`",
        ),
        (
            "max_in_flight = 1",
            "`max_in_flight` belongs to `[upstreams.NAME]`",
        ),
        (
            "limits.drain_timeout = \"1s\"",
            "`drain_timeout` belongs at the top of the file, before the first section",
        ),
        (
            "limits.timeout = \"1s\"",
            "`timeout` belongs to `[store]` or to `health` in `[upstreams.NAME]` or to `probe` in `[[routes]]` or `[defaults]`",
        ),
        (
            "limits.respons_timeout = \"1s\"",
            "did you mean `response_timeout`? It belongs to `[[routes]]` or `[defaults]`",
        ),
        ("store.path = \"x\"", "did you mean `url`?"),
        ("listeners = [{ port = 80 }]", "did you mean `address`?"),
        (
            "defaults.timeout = \"1s\"",
            "did you mean `response_timeout`?",
        ),
        (
            "defaults.release = []",
            "`release` belongs to `outcomes` in `[[routes]]` or `[defaults]`",
        ),
        (
            "listeners = [{ address = \"127.0.0.1:1\", tls = { key = \"x\", certificates = [] } }]",
            "`key` belongs to `certificates` in `tls` in `[[listeners]]`",
        ),
        (
            "listeners = [{ address = \"127.0.0.1:1\", cert = \"x\" }]",
            "`cert` belongs to `certificates` in `tls` in `[[listeners]]`",
        ),
        (
            "store.key = \"x\"",
            "`key` belongs to `tls` in `[store]` or to `encryption_keys` in `[store]`",
        ),
        ("store.type = \"redis\"", "did you mean `url`?"),
        ("store.host = \"redis\"", "did you mean `url`?"),
        ("[redis]", "did you mean `[store]`?"),
        ("admin.port = 9090", "did you mean `address`?"),
        (
            "key = [\"header:X\"]",
            "`key` belongs to `[[routes]]` or `[defaults]` or to `tls` in `[store]` or to `encryption_keys` in `[store]` or to `tls` \
             in `[upstreams.NAME]` or to `certificates` in `tls` in `[[listeners]]`",
        ),
        (
            "defaults.body_limit = \"1MiB\"",
            "did you mean `max_request_body`?",
        ),
        ("defaults.method = [\"POST\"]", "did you mean `methods`?"),
        ("defaults.outcomes.relase = []", "did you mean `release`?"),
        (
            "admin.zzzzzzzzzzzz = 1",
            "there are `address`, `token`, `audit_log`",
        ),
    ] {
        assert_eq!(advice(&faults_with(&format!("{top}\n"))), expected, "{top}");
    }
    // Two letters of four away from `cert`, which nobody means by it.
    let said = faults_with("limits.port = 80\n");
    assert!(advice(&said).starts_with("there are"), "{said}");
}

#[test]
fn nobody_is_told_that_something_is_missing_which_is_there_under_another_name() {
    let upstream = "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n";
    let route = "name = \"a\"\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n";
    for text in [
        format!("{upstream}[[route]]\n{route}"),
        format!(
            "{}[[routes]]\n{}",
            upstream.replace("endpoints", "endpoint"),
            route
        ),
        format!("{upstream}[[routes]]\n{}", route.replace("name", "nmae")),
        format!("{upstream}[[routes]]\n{}", route.replace("path", "paths")),
        format!("{upstream}[[routes]]\n{}", route.replace("scope", "scopes")),
    ] {
        let said = faults(&text);
        assert!(
            said.lines().count() == 1 && said.contains("did you mean"),
            "{said}"
        );
    }
}

#[test]
fn a_section_in_the_wrong_brackets_is_said_with_the_right_ones() {
    let routes = "name = \"a\"\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n";
    let text =
        format!("[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[routes]\n{routes}");
    assert_eq!(
        faults(&text),
        "f:3:1: routes: is a table; write `[[routes]]`, with two brackets, before each"
    );
    let text =
        format!("[[upstreams]]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\n{routes}");
    assert_eq!(
        faults(&text),
        "f:1:1: upstreams: is a list; write `[upstreams.NAME]`, with a name of your choice"
    );
    let text =
        format!("[upstreams]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\n{routes}");
    assert_eq!(
        faults(&text),
        "f:2:13: upstreams.endpoints: belongs to one of them; write `[upstreams.NAME]` before it, with a name of your \
         choice"
    );
}

#[test]
fn a_section_inside_another_is_said_by_its_whole_heading() {
    let said = faults_with("listeners = [{ address = \"127.0.0.1:1\", tls = {} }]\n");
    assert_eq!(
        said,
        "f:1:47: listeners[0].tls.certificates: is required; write `[[listeners.tls.certificates]]`, with two brackets, before each"
    );
    let said = faults_in_route("probe = []");
    assert!(said.contains("write a table"), "{said}");
}

#[test]
fn a_value_that_was_nearly_right_is_said_with_what_was_meant() {
    for (settings, meant) in [
        ("mode = \"enforced\"", "\"enforce\""),
        ("mode = \"Pass\"", "\"pass\""),
        ("on_store_down = \"foward\"", "\"forward\""),
        ("key_format = \"UUID\"", "\"uuid\""),
        ("key_format = \"isued\"", "\"issued\""),
        ("key_age = \"rejct\"", "\"reject\""),
        ("key = [\"Idempotency-Key\"]", "\"header:Idempotency-Key\""),
        (
            "key = \"header:Idempotency-Key\"",
            "[\"header:Idempotency-Key\"]",
        ),
        ("scope = [\"heder: X-Tenant\"]", "\"header:X-Tenant\""),
        ("scope = \"none\"", "[\"none\"]"),
        ("scope = [\"None\"]", "\"none\""),
        ("methods = [\"post\"]", "\"POST\""),
        ("methods = \"POST\"", "[\"POST\"]"),
        ("path = \"v1/pay\"", "\"/v1/pay\""),
        ("path = \"/v1/*/pay\"", "\"/v1/{any}/pay\""),
        ("path = \"/v1/**\"", "\"/v1/*\""),
        (
            "host = \"https://api.example.com:443/\"",
            "\"api.example.com\"",
        ),
        ("wait = 5", "\"5s\""),
        ("wait = \"5 sec\"", "\"5s\""),
        ("wait = \"1h30m\"", "\"90m\""),
        ("lease = \"1 Minute\"", "\"1m\""),
        ("retention.success = \"2weeks\"", "\"14d\""),
        ("max_request_body = \"10MB\"", "\"10MiB\""),
        ("max_request_body = 4096", "\"4096B\""),
        ("key_required = \"no\"", "false"),
        ("unknown_status = \"503\"", "503"),
        ("outcomes.release = [429]", "\"429\""),
        ("fingerprint = { body = \"jsn\" }", "\"json\""),
        (
            "fingerprint = { body = \"json\", ignore = [\"meta.sent\"] }",
            "\"/meta/sent\"",
        ),
    ] {
        let said = faults_in_route(settings);
        assert!(
            said.ends_with(&format!("; did you mean {meant}?")),
            "{settings}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for (top, meant) in [
        ("listeners = [{ address = \":8080\" }]", "\"0.0.0.0:8080\""),
        ("listeners = [{ address = 8081 }]", "\"127.0.0.1:8081\""),
        ("store.url = \"records.db\"", "\"embedded:records.db\""),
        ("store.url = \"memory\"", "\"memory:\""),
        ("limits.max_late = \"16\"", "16"),
    ] {
        let said = faults_with(&format!("{top}\n"));
        assert!(
            said.ends_with(&format!("; did you mean {meant}?")),
            "{top}: {said}"
        );
    }
}

#[test]
fn what_cannot_be_used_either_is_not_offered() {
    for settings in [
        "lease = 0",
        "max_request_body = \"0\"",
        "mode = \"x\"",
        "key = [\"query key\"]",
    ] {
        let said = faults_in_route(settings);
        assert!(!said.contains("did you mean"), "{said}");
    }
}

#[test]
fn a_word_of_a_later_version_is_known_with_a_slip_in_it() {
    let said = faults_in_route("dialect = \"Stripe\"");
    assert!(said.contains("`stripe` is not in this version"), "{said}");
}

#[test]
fn the_upstream_that_was_meant_is_named() {
    let with = |upstreams: &str, upstream: &str| {
        faults(&format!(
            "{upstreams}[[routes]]\nname = \"a\"\npath = \"/*\"\nscope = [\"none\"]\nupstream = {upstream:?}\n"
        ))
    };
    let [payments, orders] = ["payments", "orders"]
        .map(|name| format!("[upstreams.{name}]\nendpoints = [\"http://127.0.0.1:9000\"]\n"));
    for (upstreams, upstream, expected) in [
        (
            &payments,
            "payment",
            "there is no upstream `payment`; did you mean \"payments\"?",
        ),
        (
            &payments,
            "ledger",
            "there is no upstream `ledger`; there is only payments",
        ),
        (
            &format!("{payments}{orders}"),
            "ledger",
            "there is no upstream `ledger`; there are orders, payments",
        ),
        (
            &payments,
            "http://user:hunter2@host:1",
            "is a URL where a name is needed, as `api` is of `[upstreams.api]`; write 1 to 100 letters, digits, `.`, \
             `_` or `-`",
        ),
    ] {
        let said = with(upstreams, upstream);
        assert!(
            said.ends_with(&format!("routes.a.upstream: {expected}")),
            "{said}"
        );
    }
}

#[test]
fn a_colon_where_others_write_open_segments_is_warned_of() {
    let text = "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"a\"\n\
                path = \"/v1/:id/refund\"\nupstream = \"api\"\nscope = [\"none\"]\n";
    let loaded = Config::parse(text, "f").expect("nothing is wrong with it");
    let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["f:5:8: routes.a.path: `:id` stands for itself here; write `{id}` for any segment"]
    );
}

/// One look at the file is enough: what is in a misspelt section is judged as what was meant.
#[test]
fn what_is_wrong_in_a_misspelt_section_is_said_with_its_name() {
    let said = faults(concat!(
        "[limit]\nmax_conections = 10\nheaders = 5\n",
        "[[route]]\nname = \"a\"\npath = \"/*\"\nupstream = \"api\"\nmode = \"passes\"\nretension = { succes = \"1 day\" }\n",
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n",
    ));
    for expected in [
        "limit: is not a setting; did you mean `[limits]`?",
        "limit.max_conections: is not a setting; did you mean `max_connections`?",
        "limit.headers: is an integer; write a duration",
        "route: is not a setting; did you mean `[[routes]]`?",
        "mode: is \"passes\"; write \"enforce\" or \"observe\" or \"pass\"",
        "retension: is not a setting; did you mean `retention`?",
        "retension.succes: is not a setting; did you mean `success`?",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    assert!(!said.contains("is required"), "{said}");
}
