//! Keys that are refused by their age have to carry it, and to be remembered for long enough.

use std::time::Duration;

use oncegate::identity::KeyFormat;
use oncegate::route::KeyAge;

use crate::{SMALLEST, faults_in_route, faults_with, parse, policy};

fn in_route(settings: &str) -> String {
    SMALLEST.replace("[\"none\"]", &format!("[\"none\"]\n{settings}"))
}

#[test]
fn a_format_that_carries_no_time_is_refused_where_old_keys_are() {
    for (settings, expected) in [
        (
            "key_age = \"reject\"",
            "f:2:11: routes.all.key_age: is \"reject\", and keys of this `key_format` carry no time; write \"ulid\", \
             \"uuid\" (of which version 7 carries it) or \"issued\" there",
        ),
        (
            "key_format = \"regex:[0-9]+\"\nkey_age = \"reject\"",
            "f:3:11: routes.all.key_age: is \"reject\", and keys of this `key_format` carry no time; write \"ulid\", \
             \"uuid\" (of which version 7 carries it) or \"issued\" there; see also f:2:14",
        ),
    ] {
        assert_eq!(faults_in_route(settings), expected, "{settings}");
    }
}

#[test]
fn a_retention_in_which_no_key_would_be_young_is_refused() {
    let settings = "key_format = \"ulid\"\nkey_age = \"reject\"\nretention.failure = \"11m\"";
    assert_eq!(
        faults_in_route(settings),
        "f:3:11: routes.all.key_age: is \"reject\", and keys are remembered for no longer than 11m: hardly any would be \
         young enough; each of `retention` has to be 12m or more; see also f:4:1"
    );
    for enough in [
        settings.replace("11m", "12m"),
        format!("{settings}\nafter_expiry = \"reject\""),
        settings.replace("reject", "ignore"),
        format!("{settings}\nmode = \"pass\""),
    ] {
        parse(&in_route(&enough));
    }
}

#[test]
fn a_store_that_may_take_longer_than_a_key_stays_young_is_refused() {
    let route = "defaults = { key_format = \"ulid\", key_age = \"reject\", lease = \"5m\" }\n";
    let said = faults_with(&format!("{route}store.timeout = \"16s\"\n"));
    assert!(
        said.contains("is \"reject\", and the 16s of `store.timeout`"),
        "{said}"
    );
    assert!(said.contains("15s is the longest"), "{said}");
    parse(&format!("{route}store.timeout = \"15s\"\n{SMALLEST}"));
}

#[test]
fn the_formats_that_carry_a_time_are_taken() {
    for (format, carries_time) in [("ulid", true), ("uuid", true), ("issued", true)] {
        let settings = format!("key_format = \"{format}\"\nkey_age = \"reject\"");
        let loaded = parse(&in_route(&settings));
        let policy = policy(&loaded.config.routes[0]);
        assert_eq!(policy.key_age, KeyAge::Reject);
        assert_eq!(policy.key_format.carries_time(), carries_time, "{format}");
        let fresh_for = Duration::from_secs(24 * 3600 - 360);
        assert_eq!(policy.fresh_for(), Some(fresh_for));
    }
    let loaded = parse(&in_route("key_format = \"uuid\""));
    let policy = policy(&loaded.config.routes[0]);
    assert!(matches!(policy.key_format, KeyFormat::Uuid));
    assert_eq!(policy.fresh_for(), None);
}

#[test]
fn issued_keys_whose_age_is_ignored_are_warned_of() {
    let loaded = parse(&in_route("key_format = \"issued\""));
    let [warning] = loaded.warnings.as_slice() else {
        panic!("{:?}", loaded.warnings);
    };
    let said = warning.to_string();
    assert!(said.contains("`key_age` = \"reject\""), "{said}");
    let loaded = parse(&in_route("key_format = \"issued\"\nkey_age = \"reject\""));
    assert!(loaded.warnings.is_empty());
}
