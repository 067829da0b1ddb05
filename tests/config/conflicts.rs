//! Settings that do not fit to one another are said with every place that is written, all at once.

use oncegate::config::Config;
use oncegate::route::OnUnknown;

use crate::{faults, faults_in_route, faults_with};

#[test]
fn addresses_that_cannot_be_listened_on_together_are_said_with_both_places() {
    let choose = "choose another port for one of them";
    for (top, expected) in [
        (
            "admin.address = \"127.0.0.1:80\"\nlisteners = [{ address = \"127.0.0.1:80\" }]\n",
            format!(
                "f:1:17: admin.address: 127.0.0.1:80 is taken by `listeners[0].address` = \"127.0.0.1:80\"; {choose}; \
                 see also f:2:26"
            ),
        ),
        (
            "admin.address = \"0.0.0.0:80\"\nlisteners = [{ address = \"127.0.0.1:80\" }]\n",
            format!(
                "f:1:17: admin.address: 0.0.0.0:80 is taken by `listeners[0].address` = \"127.0.0.1:80\"; {choose}; \
                 see also f:2:26"
            ),
        ),
        (
            "listeners = [{ address = \"127.0.0.1:9090\" }]\n",
            format!(
                "f:1:26: listeners[0].address: 127.0.0.1:9090 is taken by `admin.address` = \"127.0.0.1:9090\", by \
                 default; {choose}"
            ),
        ),
    ] {
        assert_eq!(faults_with(top), expected, "{top}");
    }
}

#[test]
fn what_two_settings_of_a_route_say_against_each_other_is_said_with_both_places() {
    for (settings, expected) in [
        (
            "outcomes.release = [\"5xx\"]\noutcomes.unknown = [\"503\", \"999\"]",
            "f:3:20: routes.all.outcomes.unknown: 503 is in `release`, too; a status has one meaning: take it out of one \
             of the lists; see also f:2:20\n\
             f:3:28: routes.all.outcomes.unknown[1]: is \"999\"; write a status from \"200\" to \"599\", or a class \
             such as \"5xx\"",
        ),
        (
            "fingerprint.body = \"none\"\nfingerprint.ignore = [\"/a\"]",
            "f:3:22: routes.all.fingerprint.ignore: members can only be ignored where the body counts as JSON; set body \
             = \"json\"; see also f:2:20",
        ),
        (
            "response_timeout = \"40d\"\nretention = { success = 1 }",
            "f:2:20: routes.all.response_timeout: `retention.unknown` = \"30d\" is less than response_timeout 40d + \
             late_response 5m + record_timeout 2s + lease 15s together: an outcome would be forgotten while it is \
             open; it has to be 961h or more\n\
             f:3:25: routes.all.retention.success: is an integer; write a duration such as \"30s\" (ms, s, m, h, d), \
             above zero; did you mean \"1s\"?",
        ),
    ] {
        assert_eq!(faults_in_route(settings), expected, "{settings}");
    }
}

#[test]
fn a_setting_of_a_route_that_one_of_all_forbids_is_said_with_both_places() {
    assert_eq!(
        faults_with("store.timeout = \"1s\"\ndefaults.lease = \"1s\"\n"),
        "f:2:18: routes.all.lease: 1s is less than twice the 1s of `store.timeout`: a claim might be over before it is \
         answered; it has to be 2s or more; see also f:1:17"
    );
    assert_eq!(
        faults_with("limits.max_buffered = \"1KiB\"\ndefaults.max_request_body = \"1KiB\"\n"),
        "f:1:23: limits.max_buffered: `max_response_body` = \"1MiB\" is more than `limits.max_buffered` = \
         \"1KiB\", which all bodies share; lower the former, or raise the latter"
    );
}

#[test]
fn what_routes_are_to_one_another_is_said_beside_what_is_wrong_in_one_of_them() {
    let said = faults(
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[defaults]\nupstream = \"api\"\n\
         [[routes]]\nname = \"rest\"\npath = \"/*\"\nmode = \"pass\"\n\
         [[routes]]\nname = \"rest\"\nid = \"a b\"\npath = \"/pay\"\nscope = [\"X-Tenant\"]\n",
    );
    let places: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(places, ["f:10:8", "f:11:6", "f:12:8", "f:13:10"], "{said}");
    assert!(
        said.contains("two routes have the name `rest`")
            && said.contains("no request reaches route `rest`")
    );
}

#[test]
fn what_is_wrong_with_a_probe_is_said() {
    let at = |path: &str, route: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"all\"\nupstream = \"api\"\n\
             scope = [\"none\"]\npath = {path:?}\nlate_response = \"1m\"\n{route}\n"
        );
        match Config::parse(&text, "f") {
            Ok(loaded) => {
                let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
                said.join("\n")
            }
            Err(faults) => faults.to_string(),
        }
    };
    let with = |route: &str| at("/v1/{id}/pay", route);
    let probe = |probe: &str| with(&format!("on_unknown = \"probe\"\nprobe = {{ {probe} }}"));
    assert_eq!(probe("path = \"/v1/{id}?key={key}\""), "");
    for (said, expected) in [
        (with("on_unknown = \"probe\""), "needs to know how"),
        (with("probe = { path = \"/{key}\" }"), "is of no use here"),
        (probe("method = \"GET\""), "probe.path: is required"),
        (
            probe("path = \"/{key}\", method = \"POST\""),
            "write \"GET\" or \"HEAD\"",
        ),
        (
            probe("path = \"/{nobody}/{key}\""),
            "`{nobody}` is no segment of `/v1/{id}/pay`; there is `{key}`, `{id}`",
        ),
        (probe("path = \"v1/{key}\""), "it does not begin with `/`"),
        (probe("path = \"/v1/{key\""), "braces hold a name"),
        (
            probe("path = \"/v1/all\""),
            "has no `{key}`, and neither has a header",
        ),
        (
            probe("path = \"/{key}\", found = [\"2xx\", \"404\"]"),
            "404 is in `found` and in `absent`",
        ),
        (
            probe("path = \"/{key}\", absent = [\"4xx\"], found = [\"200\", \"409\"]"),
            "409 is in `found` and in `absent`",
        ),
        (
            probe("path = \"/{key}\", absent_after = \"89s\", silent = \"release\""),
            "89s is less than response_timeout + late_response = 90s",
        ),
        (
            probe("path = \"/{key}\", absent_after = \"59s\""),
            "59s is less than late_response = 1m",
        ),
        (
            probe("path = \"/{key}\", method = \"HEAD\", response = \"json:/a\""),
            "an answer to HEAD has no body",
        ),
        (
            probe("path = \"/{key}\", response = \"json:a\""),
            "write `probe`, `json:` or `json:/POINTER`",
        ),
        (
            probe("path = \"/{key}\", status = 201"),
            "the probe's own answer has a status of its own",
        ),
        (
            probe("path = \"/{key}\", headers = { X-A = \"{id}\" }"),
            "braces hold `{key}` in a header",
        ),
        (
            probe("path = \"/{key}\", headers = { Connection = \"close\" }"),
            "`connection` is not yours to set",
        ),
        (
            probe("path = \"/{key}\", headers = { X-A = 7 }"),
            "write a text, or the place of a secret",
        ),
        (
            probe("path = \"/{key}\", headers = { X-A = { env = \"ONCEGATE_NO_SUCH\" } }"),
            "is not set",
        ),
        (probe("path = \"/{key}\", timeout = \"0s\""), "is zero"),
        (
            at(
                "/v1/{key}/pay",
                "on_unknown = \"probe\"\nprobe = { path = \"/{key}\" }",
            ),
            "give the segment another name",
        ),
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn absent_counts_by_default_only_when_no_answer_is_waited_for_any_more() {
    for (route, probe, expected_seconds) in [
        ("", "", 300),
        ("late_response = \"10m\"", "", 600),
        ("late_response = \"10m\"", ", silent = \"release\"", 630),
        ("late_response = \"1m\"", "", 120),
        ("late_response = \"0s\"", ", absent_after = \"1s\"", 1),
    ] {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"pay\"\nupstream = \"api\"\n\
             scope = [\"none\"]\npath = \"/pay\"\non_unknown = \"probe\"\n{route}\n\
             probe = {{ path = \"/{{key}}\", response = \"json:\"{probe} }}\n"
        );
        let loaded = Config::parse(&text, "f").expect("a configuration");
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let Some(OnUnknown::Probe(probe)) =
            loaded.config.routes[0].policy().map(|it| &it.on_unknown)
        else {
            panic!("it probes");
        };
        assert_eq!(probe.absent_after.as_secs(), expected_seconds, "{route}");
    }
}

#[test]
fn a_route_that_passes_and_says_how_it_is_protected_is_warned_of() {
    let warnings = |defaults: &str, rest: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"rest\"\npath = \"/*\"\n\
             upstream = \"api\"\nmode = \"pass\"\n{rest}\n[defaults]\n{defaults}\n"
        );
        let loaded = Config::parse(&text, "f").expect("a configuration");
        let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    for own in [
        "wait = \"5s\"",
        "key_format = \"uuid\"",
        "on_unknown = \"resend\"",
        "probe = { path = \"/{key}\" }",
    ] {
        let said = warnings("", own);
        assert!(said.contains("has no effect"), "{own}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(warnings(own, ""), "", "{own}");
    }
}

#[test]
fn a_probe_in_the_defaults_is_for_the_routes_that_ask() {
    let with = |one: &str, other: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[defaults]\nupstream = \"api\"\n\
             late_response = \"1m\"\nscope = [\"header:X-Tenant\"]\nprobe = {{ path = \"/v1/{{key}}\" }}\n[[routes]]\n\
             name = \"one\"\npath = \"/one\"\n{one}\n[[routes]]\nname = \"other\"\npath = \"/other\"\n{other}\n"
        );
        match Config::parse(&text, "f") {
            Ok(loaded) => {
                let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
                said.join("\n")
            }
            Err(faults) => faults.to_string(),
        }
    };
    let probes = "on_unknown = \"probe\"";
    assert_eq!(with(probes, ""), "");
    let said = with("", "");
    assert!(said.contains("is of no use here"), "{said}");
    let said = with(
        probes,
        &format!("{probes}\nprobe = {{ background = true }}"),
    );
    assert!(
        said.contains("one of them gets the other's answer"),
        "{said}"
    );
    let said = with(
        probes,
        &format!("{probes}\nkey_format = \"uuid\"\nprobe = {{ background = true }}"),
    );
    assert_eq!(said, "");
}

#[test]
fn a_part_that_is_more_than_its_whole_is_warned_of_where_both_are_written() {
    let warnings = |top: &str| {
        let text = format!(
            "{top}\n[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"rest\"\n\
             path = \"/*\"\nupstream = \"api\"\nmode = \"pass\"\n"
        );
        let loaded = Config::parse(&text, "f").expect("a configuration");
        let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    for (top, expected) in [
        (
            "drain_timeout = \"1s\"\ndrain_delay = \"5s\"",
            "f:2:15: drain_delay: 5s is longer than the 1s of `drain_timeout`, of which it is a part: what runs is cut \
             short as soon as new connections are refused; raise `drain_timeout`, or lower this; see also f:1:17",
        ),
        (
            "limits.max_waiters = 10\nlimits.max_waiters_per_key = 11",
            "f:2:30: limits.max_waiters_per_key: 11 has no effect: `max_waiters` is 10, for all of them together; raise \
             that, or lower this; see also f:1:22",
        ),
        (
            "limits.max_connections_per_address = 4097",
            "f:1:38: limits.max_connections_per_address: 4097 has no effect: `max_connections` is 4096, for all of them \
             together; raise that, or lower this",
        ),
        // A default gives way: nobody has asked for it.
        (
            "drain_timeout = \"500ms\"\nlimits.max_waiters = 3\nlimits.max_connections = 3",
            "",
        ),
        ("drain_timeout = \"5s\"\ndrain_delay = \"5s\"", ""),
    ] {
        assert_eq!(warnings(top), expected, "{top}");
    }
}

#[test]
fn an_upstream_that_no_route_names_is_warned_of() {
    let warnings = |route: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[upstreams.old]\n\
             endpoints = [\"http://127.0.0.1:9001\"]\n[defaults]\nupstream = \"api\"\nmode = \"pass\"\n[[routes]]\n\
             name = \"rest\"\npath = \"/*\"\n{route}\n[[routes]]\nname = \"one\"\npath = \"/one\"\nmethods = [\"GET\"]\n"
        );
        let loaded = Config::parse(&text, "f").expect("a configuration");
        let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    let said = warnings("");
    assert!(
        said.contains(
            "f:4:13: upstreams.old.endpoints: no route sends anything to `old`: name it in a route, or remove it"
        ),
        "{said}"
    );
    assert!(!warnings("upstream = \"old\"").contains("no route sends"));
}
