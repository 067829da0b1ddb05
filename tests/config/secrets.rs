//! Secrets are read from their places, and never repeated.

use oncegate::config::Config;

use crate::{SMALLEST, faults_with};

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
fn a_line_with_a_secret_is_not_shown_though_its_setting_is_named_on_another_one() {
    for text in [
        "[[store.encryption_keys]]\nid = \"a\"\nkey = \"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ",
        "[store]\nencryption_keys = [\n  { id = \"a\", key = \"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ },\n]",
        "[store.id_key]\ntext = q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ",
    ] {
        let said = Config::parse(text, "f").unwrap_err().to_string();
        assert!(said.contains("not TOML"), "{said}");
        assert!(!said.contains("q83vEjRW"), "{said}");
    }
}

#[test]
fn the_admin_token_is_one_that_a_header_can_bear_and_is_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let load = |token: &str| {
        std::fs::write(&path, token).unwrap();
        let path = path.display();
        let text = format!("admin.token = {{ file = '{path}' }}\n{SMALLEST}");
        Config::parse(&text, "f").map(|loaded| loaded.config.operators)
    };
    let operators = load("0123456789abcdef\n").unwrap().unwrap();
    assert_eq!(operators.token, b"0123456789abcdef");
    assert!(!format!("{operators:?}").contains("48, 49"));
    for token in ["0123456789abcde", "0123456789 abcdef", "0123456789abcdefü"] {
        assert_eq!(
            load(token).unwrap_err().to_string(),
            "f:1:15: admin.token: the token needs 16 or more characters, all of them visible ASCII"
        );
    }
    let alone = faults_with("admin.audit_log = \"audit.log\"");
    assert!(alone.contains("without a `token`"), "{alone}");
}
