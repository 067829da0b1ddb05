//! The commands as a user calls them: what they print, and with which code they end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use socket2::{Domain, Socket, Type};

fn oncegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oncegate"))
        .args(arguments)
        .env_remove("ONCEGATE_LOG")
        .output()
        .expect("the binary")
}

/// Writes a configuration with these endpoints and settings and gives its path.
fn configuration(directory: &Path, upstream: SocketAddr, more: &str) -> String {
    let path = directory.join("oncegate.toml");
    let text = format!(
        "{more}\n[upstreams.api]\nendpoints = [\"http://{upstream}\"]\n[[routes]]\nname = \"all\"\npath = \"/*\"\n\
         upstream = \"api\"\nscope = [\"none\"]\n"
    );
    std::fs::write(&path, text).expect("a configuration");
    path.to_str().expect("a path of letters").to_owned()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Answers one request with this status line; its thread gives the request's first line.
fn answering(status: &'static str) -> (SocketAddr, JoinHandle<String>) {
    answering_on("127.0.0.1:0", status)
}

fn answering_on(address: &str, status: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind(address).expect("a port");
    let address = listener.local_addr().expect("an address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        let mut piece = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = stream.read(&mut piece).expect("a request");
            assert_ne!(read, 0, "the request ended early");
            request.extend_from_slice(&piece[..read]);
        }
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").expect("an answer");
        said(&request).lines().next().unwrap_or_default().to_owned()
    });
    (address, thread)
}

/// An address where nobody listens, nor can while the test runs.
fn nobody() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any_port.into()).expect("a port");
    let address = Box::leak(Box::new(socket)).local_addr().expect("bound");
    address.as_socket().expect("an address")
}

#[test]
fn a_good_configuration_is_ok_and_is_said_as_it_was_understood() {
    let directory = tempfile::tempdir().unwrap();
    let upstream = nobody();
    let store = "store.url = 'embedded:/var/lib/records.db'";
    let path = configuration(directory.path(), upstream, store);
    let check = oncegate(&["check", "--config", &path]);
    assert_eq!(check.status.code(), Some(0));
    assert_eq!(
        said(&check.stdout),
        format!(
            "{path}: ok\n  \
             listens on   127.0.0.1:8080; admin 127.0.0.1:9090\n  \
             keeps        records in /var/lib/records.db, for one process\n  \
             upstream     api: http://{upstream}\n  \
             routes       the first that matches has a request; what none matches is answered with 404\n    \
             1. all  any method /*  → api: once, key idempotency-key (needed), one client, safe methods pass, unknown outcomes held\n"
        )
    );
    assert_eq!(said(&check.stderr), "");
}

#[test]
fn what_is_in_force_is_printed_as_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), nobody(), "profile = \"edge\"");
    let check = oncegate(&["check", "--config", &path, "--effective"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let printed = said(&check.stdout);
    assert!(
        printed.contains(&format!("\nprofile = \"edge\"  # {path}:1\n")),
        "{printed}"
    );
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &printed).unwrap();
    let check = oncegate(&["check", "--config", &again.display().to_string()]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
}

#[test]
fn what_becomes_of_unknown_outcomes_and_of_old_keys_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), nobody(), "");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = "on_unknown = 'probe'\nprobe = { path = '/by-key/{key}' }\nkey_format = 'ulid'\nkey_age = 'reject'\n";
    std::fs::write(&path, text + more).unwrap();
    let check = oncegate(&["check", "--config", &path]);
    let told = said(&check.stdout);
    assert_eq!(check.status.code(), Some(0), "{}", said(&check.stderr));
    for part in [
        " old), one client",
        "unknown outcomes asked about by GET /by-key/{key}, in the background, too\n",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_bad_or_missing_configuration_ends_with_78_and_every_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), nobody(), "profile = \"x\"\nlimit = 1");
    for command in ["check", "serve", "healthcheck"] {
        let output = oncegate(&[command, "--config", &path]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        assert_eq!(
            said(&output.stderr),
            format!(
                "{path}:1:11: error: profile: is \"x\"; write \"sidecar\" or \"edge\"\n\
                 {path}:2:1: error: limit: is not a setting; did you mean `[limits]`?\n"
            ),
        );
        let output = oncegate(&[command, "--config", "no/such/file"]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        assert!(said(&output.stderr).starts_with("no/such/file: error: cannot be read: "));
    }
    let output = oncegate(&["serve", "--upstream", "ftp://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        said(&output.stderr),
        "command line: error: --upstream: begins with neither `http://`, `https://` nor `unix:`; write `http://HOST:PORT`, \
         `https://HOST:PORT` or `unix:PATH`\n"
    );
}

#[test]
fn a_store_that_cannot_be_opened_is_said_with_its_cause_once() {
    let directory = tempfile::tempdir().unwrap();
    let serve = |store: &Path| {
        let output = oncegate(&[
            "serve",
            "--upstream",
            "http://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--store",
            &format!("embedded:{}", store.display()),
        ]);
        assert_eq!(output.status.code(), Some(1));
        said(&output.stderr)
    };
    let nowhere = serve(&directory.path().join("none/x.db"));
    assert!(nowhere.contains("none/x.db"), "{nowhere}");
    assert_eq!(nowhere.matches("No such file").count(), 1, "{nowhere}");
    let empty = directory.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let damaged = serve(&empty);
    assert_eq!(
        damaged,
        format!(
            "oncegate: the store {} is damaged; restore a copy of it, or move it away to begin anew, knowing that \
             its keys are then forgotten and their retries executed again (it is empty)\n",
            empty.display()
        )
    );
}

#[test]
fn a_warning_is_printed_and_is_no_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), nobody(), "");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("none", "header:Authorization");
    std::fs::write(&path, text).unwrap();
    let check = oncegate(&["check", "--config", &path]);
    assert_eq!(check.status.code(), Some(0));
    let warning = said(&check.stderr);
    assert!(
        warning.starts_with(&format!("{path}:8:9: warning: routes.all.scope: ")),
        "{warning}"
    );
    assert_eq!(warning.lines().count(), 1, "{warning}");
}

#[test]
fn check_connects_where_it_is_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = |path: &str| {
        let path = directory.path().join(path);
        format!("store.url = 'embedded:{}'", path.display())
    };
    let path = configuration(
        directory.path(),
        listener.local_addr().unwrap(),
        &store("new.db"),
    );
    let check = oncegate(&["check", "--connect", "--config", &path]);
    assert_eq!(check.status.code(), Some(0), "{}", said(&check.stderr));
    let tried = said(&check.stdout);
    let tried: Vec<&str> = tried
        .lines()
        .filter_map(|line| line.strip_prefix("connect: "))
        .collect();
    assert!(
        tried[0].ends_with("new.db is not there yet; it can be made")
            && tried[1].starts_with("the upstream api at http://127.0.0.1:")
            && tried[1].contains(" takes connections ("),
        "{tried:?}"
    );
    assert!(
        !directory.path().join("new.db").exists(),
        "check has made a store"
    );

    let audit = |path: &str| {
        let token = directory.path().join("token");
        std::fs::write(&token, "a-token-of-the-operator").unwrap();
        let admin = format!("\nadmin.token = {{ file = {token:?} }}\nadmin.audit_log = {path:?}");
        let listener = listener.local_addr().unwrap();
        let path = configuration(directory.path(), listener, &(store("new.db") + &admin));
        oncegate(&["check", "--connect", "--config", &path])
    };
    let log = directory.path().join("audit.log");
    let check = audit(log.to_str().unwrap());
    assert_eq!(check.status.code(), Some(0), "{}", said(&check.stderr));
    assert!(said(&check.stdout).contains("audit.log is not there yet; it can be made"));
    assert!(!log.exists(), "it would be of the user who checks");
    let check = audit(directory.path().to_str().unwrap());
    assert_eq!(check.status.code(), Some(1));
    assert!(
        said(&check.stderr).contains("the audit log "),
        "{}",
        said(&check.stderr)
    );

    let path = configuration(directory.path(), nobody(), &store("none/new.db"));
    let check = oncegate(&["check", "--connect", "--config", &path]);
    assert_eq!(check.status.code(), Some(1));
    let silent = said(&check.stderr);
    let lines: Vec<&str> = silent.lines().collect();
    assert!(
        lines[0].starts_with("oncegate: the store ") && lines[0].contains("none/new.db: "),
        "{silent}"
    );
    assert!(
        lines[1].starts_with("oncegate: the upstream api at http://127.0.0.1:"),
        "{silent}"
    );
    assert!(!said(&check.stdout).contains("connect: "));
}

#[test]
fn a_healthcheck_asks_the_admin_listener_for_readyz() {
    let directory = tempfile::tempdir().unwrap();
    for (status, code) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let (address, request) = answering(status);
        let admin = format!("admin.address = \"{address}\"");
        let path = configuration(directory.path(), nobody(), &admin);
        let check = oncegate(&["healthcheck", "--config", &path]);
        assert_eq!(check.status.code(), Some(code), "{}", said(&check.stderr));
        assert_eq!(request.join().unwrap(), "GET /readyz HTTP/1.1");
    }
    let admin = format!("admin.address = \"{}\"", nobody());
    let path = configuration(directory.path(), nobody(), &admin);
    let check = oncegate(&["healthcheck", "--config", &path]);
    assert_eq!(check.status.code(), Some(1));
    assert!(said(&check.stderr).starts_with("oncegate: not ready: 127.0.0.1:"));
}

#[test]
fn a_listener_on_all_addresses_is_asked_by_the_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let (address, request) = answering("200 OK");
    let admin = format!("admin.address = \"0.0.0.0:{}\"", address.port());
    let path = configuration(directory.path(), nobody(), &admin);
    let check = oncegate(&["healthcheck", "--config", &path]);
    assert_eq!(check.status.code(), Some(0), "{}", said(&check.stderr));
    request.join().unwrap();
}

#[test]
fn an_ipv6_listener_is_asked_by_ipv6_and_one_on_all_addresses_by_its_loopback() {
    let directory = tempfile::tempdir().unwrap();
    for host in ["[::1]", "[::]"] {
        let (address, request) = answering_on("[::1]:0", "200 OK");
        let admin = format!("admin.address = \"{host}:{}\"", address.port());
        let path = configuration(directory.path(), nobody(), &admin);
        let check = oncegate(&["healthcheck", "--config", &path]);
        assert_eq!(check.status.code(), Some(0), "{}", said(&check.stderr));
        request.join().unwrap();
    }
}

#[test]
fn what_is_said_has_no_colours_where_it_is_not_read_on_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), nobody(), "profile = \"x\"");
    let said_with = |name: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_oncegate"))
            .args(["check", "--config", &path])
            .env(name, "1")
            .output()
            .expect("the binary");
        said(&output.stderr)
    };
    assert!(!said_with("NO_COLOR").contains('\u{1b}'));
    assert!(
        !oncegate(&["check", "--config", &path])
            .stderr
            .contains(&0x1b)
    );
    assert!(
        said_with("CLICOLOR_FORCE")
            .contains("\u{1b}[1m\u{1b}[31merror:\u{1b}[0m profile: is \"x\"")
    );
}

#[test]
fn the_schema_is_json_and_knows_the_settings() {
    let schema = oncegate(&["schema"]);
    assert_eq!(schema.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).expect("JSON");
    let lease = &schema["properties"]["routes"]["items"]["properties"]["lease"];
    assert_eq!(lease["default"], "15s");
    assert_eq!(schema["additionalProperties"], false);
    let defaults = schema["properties"]["defaults"]["properties"]
        .as_object()
        .expect("settings");
    assert!(defaults.contains_key("lease") && !defaults.contains_key("name"));
}

#[test]
fn usage_that_is_wrong_ends_with_2_and_help_with_0() {
    for arguments in [
        &[][..],
        &["serve"],
        &["serve", "--config", "a", "--upstream", "http://127.0.0.1:1"],
        &["serve", "--config", "a", "--listen", "127.0.0.1:1"],
        &["serve", "--listen", "127.0.0.1:1"],
        &["check"],
        &["records", "list"],
    ] {
        assert_eq!(oncegate(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let output = oncegate(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}
