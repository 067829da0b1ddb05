//! What is in force, as a file that says where each setting comes from.

use oncegate::config::{Config, Loaded};

use crate::{SMALLEST, example, parse};

/// What is in force means the same as what it was made of.
fn comes_back(text: &str) -> String {
    let Loaded { effective, .. } = parse(text);
    let printed = effective.to_string();
    let again =
        Config::parse(&printed, "again").unwrap_or_else(|faults| panic!("{faults}\n{printed}"));
    let differ = effective.differences(&again.effective);
    assert!(differ.is_empty(), "{differ:?}\n{printed}");
    printed
}

#[test]
fn each_setting_is_shown_with_where_it_comes_from() {
    let top = "profile = \"edge\"\nlimits.headers = \"7s\"\ndefaults.wait = \"3s\"\n";
    let text = format!("{top}{SMALLEST}").replace(
        "name = \"all\"",
        "name = \"all\"\nretention.success = \"1h\"",
    );
    let printed = comes_back(&text);
    let has = |line: &str| {
        assert!(
            printed.contains(&format!("\n{line}\n")),
            "{line}\n{printed}"
        );
    };
    has("profile = \"edge\"  # oncegate.toml:1");
    has("[limits]");
    has("headers = \"7s\"  # oncegate.toml:2");
    has("first_byte = \"5s\"  # default of profile edge");
    has("max_waiters_per_key = 16  # default");
    has("max_size = \"10GiB\"  # default");
    has("# namespace: not set");
    has("[[listeners]]");
    has("[upstreams.api]");
    has("[[routes]]");
    has("id = \"all\"  # default");
    has("wait = \"3s\"  # oncegate.toml:3");
    has("retention.success = \"1h\"  # oncegate.toml:10");
    has("retention.failure = \"24h\"  # default");
    assert!(!printed.contains("[defaults]"));
}

#[test]
fn what_ready_configurations_become_is_a_configuration_again() {
    for name in [
        "ci.toml",
        "observe.toml",
        "oncegate.toml",
        "payments.toml",
        "queue.toml",
        "services.toml",
        "sidecar.toml",
        "strict.toml",
        "webhooks.toml",
    ] {
        comes_back(&example(name));
    }
}

#[test]
fn secrets_are_shown_by_their_place_alone() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "hidden-hidden-hidden-hidden-hidden").unwrap();
    let store = format!(
        "[store]\nurl = \"redis://me:pass%40word@127.0.0.1/2\"\nnamespace = \"a\"\nid_key = {{ file = {key:?} }}\n"
    );
    let printed = parse(&format!("{store}{SMALLEST}")).effective.to_string();
    assert!(
        !printed.contains("hidden") && !printed.contains("pass%40"),
        "{printed}"
    );
    let url = "url = \"redis://me@127.0.0.1/2\"  # oncegate.toml:2, without its password";
    assert!(printed.contains(url), "{printed}");
    assert!(
        printed.contains(&format!("id_key = {{ file = {key:?} }}  # oncegate.toml:4")),
        "{printed}"
    );
}

#[test]
fn what_differs_is_named() {
    let with = |text: &str| parse(&format!("{text}{SMALLEST}")).effective;
    let (one, other) = (
        with(""),
        with("limits.max_late = 7\nprofile = \"sidecar\"\n"),
    );
    assert_eq!(one.differences(&other), ["limits.max_late"]);
    assert_eq!(one.differences(&one.clone()), [] as [&str; 0]);
    let tls = with("[[listeners]]\naddress = \"127.0.0.1:81\"\n");
    assert_eq!(one.differences(&tls), ["listeners[0].address"]);
}
