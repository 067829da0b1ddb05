//! `cors`: which origins, what is refused, and what it comes to.

use oncegate::config::Config;
use oncegate::route::{Cors, Origins};

use crate::faults_in_route;

const ORIGIN: &str =
    "write an origin such as \"https://shop.example.com\" or \"https://*.example.com\", or \"*\"";

/// What the route of this file says.
fn cors(settings: &str) -> Option<Cors> {
    let text = format!(
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\nname = \"all\"\nupstream = \"api\"\n\
         path = \"/*\"\n{settings}\n"
    );
    let loaded = Config::parse(&text, "f").expect("a configuration without faults");
    loaded.config.routes[0].cors.as_deref().cloned()
}

#[test]
fn what_is_no_origin_is_said_with_what_was_meant() {
    for (written, wrong, meant) in [
        (
            "shop.example.com",
            "it has no scheme",
            "https://shop.example.com",
        ),
        (
            "https://Shop.example.com",
            "its host is none in lower case",
            "https://shop.example.com",
        ),
        (
            "https://shop.example.com/pay",
            "it has something behind host and port",
            "https://shop.example.com",
        ),
        (
            "https://shop.example.com:443",
            "its port is none that browsers write",
            "https://shop.example.com",
        ),
    ] {
        assert_eq!(
            faults_in_route(&format!("cors = {{ origins = [{written:?}] }}")),
            format!(
                "f:2:21: routes.all.cors.origins[0]: {written:?} is no origin: {wrong}; {ORIGIN}; did you mean {meant:?}?"
            ),
        );
    }
    for (written, wrong) in [
        ("null", "`null` is the origin of whoever wants it to be"),
        (
            "https://*.com",
            "a `*` stands for the first label of a host, before two others",
        ),
    ] {
        assert_eq!(
            faults_in_route(&format!("cors = {{ origins = [{written:?}] }}")),
            format!(
                "f:2:21: routes.all.cors.origins[0]: {written:?} is no origin: {wrong}; {ORIGIN}"
            ),
        );
    }
}

#[test]
fn what_the_settings_of_pages_say_against_each_other_is_said() {
    for (settings, expected) in [
        (
            "cors = { origins = [\"*\"], credentials = true }",
            "f:2:20: routes.all.cors.origins: lets every page act with its visitor's cookies, and browsers do not take it; \
             name the origins; see also f:2:41",
        ),
        (
            "cors = { origins = [\"*\", \"https://a.example\"] }",
            "f:2:20: routes.all.cors.origins: has `*` beside something else; write it alone",
        ),
        (
            "cors = { origins = [\"https://a.example\", \"https://a.example\"] }",
            "f:2:20: routes.all.cors.origins: has `https://a.example` twice",
        ),
        (
            "cors = { credentials = true }",
            "f:2:24: routes.all.cors.credentials: has no effect without `origins`, the origins whose pages may call the \
             route",
        ),
        (
            "cors = { origins = [\"https://a.example\"], credentials = true, expose = [\"*\"] }",
            "f:2:72: routes.all.cors.expose: has `*`, which browsers take for a name where there are credentials; name \
             the headers",
        ),
    ] {
        assert_eq!(faults_in_route(settings), expected, "{settings}");
    }
}

#[test]
fn pages_may_set_what_the_route_reads_and_read_what_the_gateway_says() {
    let cors = cors(
        "scope = [\"header:X-Tenant\"]\nkey = [\"header:X-Key\"]\nfingerprint.headers = [\"X-Version\"]\n\
         cors = { origins = [\"https://a.example\"], headers = [\"X-More\", \"X-Tenant\"], expose = [\"X-Charge\"], \
         max_age = \"1h\" }",
    );
    let cors = cors.expect("origins");
    assert_eq!(
        cors.headers,
        "content-type, authorization, x-key, x-tenant, x-version, x-more"
    );
    assert_eq!(
        cors.expose,
        "idempotency-status, idempotent-replayed, location, retry-after, www-authenticate, x-charge"
    );
    assert_eq!(cors.max_age, "3600");
    assert!(!cors.credentials);
    assert!(matches!(cors.origins, Origins::These(origins) if origins.len() == 1));
}

#[test]
fn without_origins_nothing_is_said_of_pages() {
    assert!(cors("mode = \"pass\"").is_none());
    assert!(cors("mode = \"pass\"\ncors = { origins = [] }").is_none());
}
