//! What routes are to one another, and what deserves a look.

use oncegate::config::Config;

use crate::parse;

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
    assert_eq!(
        said,
        [
            "oncegate.toml:5:9: routes.one.scope: route `one` tells clients apart by `header:Authorization`: a client \
             that refreshes its token between two tries is another client then, and its retry is executed; scope by \
             a header that stays the same (\"header:X-Tenant\", say), unless tokens outlive retries",
            "oncegate.toml:12:6: routes.two.id: routes one and two have the id `one`, so the same key means the same \
             operation on all of them; give each its own `id`, unless they are one operation; see also \
             oncegate.toml:7:8",
            "oncegate.toml:18:8: routes.rest.path: other spellings of protected paths pass here unprotected: \
             `/V1/ONE` for route `one` and `/V1/TWO` for route `two`; make sure that the upstream answers them with \
             404, or narrow this path to what has to pass; see also oncegate.toml:8:8, oncegate.toml:13:8",
        ]
    );
}

#[test]
fn every_case_and_every_mode_in_which_a_protected_path_passes_is_warned_of() {
    let said = |path: &str, mode: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[defaults]\nupstream = \"api\"\n\
             scope = [\"none\"]\n[[routes]]\nname = \"one\"\npath = \"{path}\"\n[[routes]]\nname = \"rest\"\n\
             path = \"/*\"\nmode = \"{mode}\"\n"
        );
        let warnings = parse(&text).warnings;
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        said.join("\n")
    };
    for mode in ["observe", "pass"] {
        for (path, other) in [("/v1/one", "/V1/ONE"), ("/V1/ONE", "/v1/one")] {
            let said = said(path, mode);
            assert!(
                said.contains(&format!("`{other}` for route `one`")),
                "{mode}: {said}"
            );
        }
    }
    assert_eq!(said("/v1/one", "enforce"), "");
}

#[test]
fn a_scope_by_token_is_warned_of_where_duplicates_are_only_counted_too() {
    let said = |mode: &str| {
        let text = format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"one\"\npath = \"/one\"\n\
             upstream = \"api\"\nscope = [\"header:Authorization\"]\nmode = \"{mode}\"\n"
        );
        parse(&text).warnings.len()
    };
    assert_eq!(["enforce", "observe", "pass"].map(said), [1, 1, 0]);
}

#[test]
fn to_send_again_what_the_upstream_cannot_recognise_is_warned_of() {
    let route = |forward_key: bool| {
        format!(
            "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"all\"\npath = \"/*\"\n\
             upstream = \"api\"\nscope = [\"none\"]\non_unknown = \"resend\"\nforward_key = {forward_key}\n"
        )
    };
    assert!(parse(&route(true)).warnings.is_empty());
    let said: Vec<String> = parse(&route(false))
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "oncegate.toml:8:14: routes.all.on_unknown: the upstream does not see the key (`forward_key` = false), so \
             that it cannot tell an operation that is sent again from a new one and executes it twice; forward the key, \
             or write \"hold\"; see also oncegate.toml:9:15"
        ]
    );
}

/// The findings about a route that protects POST /v1/payments, after one of these settings that passes.
fn after_a_pass_route(pass: &str) -> Result<Vec<String>, String> {
    after_a_route("pass", pass)
}

/// The same after one of this mode.
fn after_a_route(mode: &str, pass: &str) -> Result<Vec<String>, String> {
    let text = format!(
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[defaults]\nupstream = \"api\"\n\
         scope = [\"none\"]\n[[routes]]\nname = \"rest\"\nmode = \"{mode}\"\n{pass}\n[[routes]]\nname = \"create\"\n\
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
                 takes them all, unprotected; put this one first, or remove it; see also f:9:8"
            )
        );
        assert_eq!(after_a_route("observe", pass), Err(said));
    }
}

#[test]
fn requests_of_a_protected_route_that_an_earlier_one_passes_are_warned_of() {
    for pass in [
        "path = \"/v1/payments\"",
        "path = \"/*\"\nhost = \"one.example.com\"",
    ] {
        let said = after_a_pass_route(pass).unwrap();
        assert_eq!(after_a_route("observe", pass).as_ref(), Ok(&said));
        assert_eq!(after_a_route("enforce", pass), Ok(Vec::new()));
        let line = 12 + pass.lines().count();
        assert_eq!(
            said,
            [format!(
                "f:9:8: routes.rest.path: route `rest` stands before protected routes and takes requests of theirs, \
                 which then pass unprotected: POST of `create`; put it after them, unless that is meant; see also \
                 f:{line}:8"
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
