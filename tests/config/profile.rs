//! `profile`: whose defaults hold.

use std::time::Duration;

use crate::{SMALLEST, faults_with, parse};

#[test]
fn an_edge_is_less_patient_and_holds_more_and_what_is_written_wins() {
    let top = "profile = \"edge\"\nlimits.headers = \"7s\"\nlimits.max_waiters = 9\n";
    let limits = parse(&format!("{top}{SMALLEST}")).config.limits;
    assert_eq!(limits.first_byte, Duration::from_secs(5));
    assert_eq!(limits.keep_alive, Duration::from_secs(30));
    assert_eq!(limits.max_connections, 16_384);
    assert_eq!(limits.max_connections_per_address, 256);
    assert_eq!(limits.http2.streams, 64);
    assert_eq!((limits.min_receive_rate, limits.min_send_rate), (240, 240));
    assert_eq!(limits.rate_grace, Duration::from_secs(5));
    assert_eq!(limits.http2.stream_window, 64 << 10);
    assert_eq!(limits.headers, Duration::from_secs(7));
    assert_eq!(limits.max_waiters, 9);
    let sidecar = parse(SMALLEST).config.limits;
    assert_eq!(sidecar.first_byte, Duration::from_secs(10));
    assert_eq!(sidecar.max_connections_per_address, 0);
    assert_eq!(sidecar.http2.streams, 128);
    assert_eq!((sidecar.min_receive_rate, sidecar.min_send_rate), (0, 0));
}

#[test]
fn defaults_stand_in_for_one_another_only_where_they_fit_to_what_is_written() {
    // 128 MiB fits to the edge's `max_buffered`, and not to the sidecar's.
    let large = "defaults.max_request_body = \"128MiB\"\n";
    parse(&format!("profile = \"edge\"\n{large}{SMALLEST}"));
    assert!(faults_with(large).contains("max_buffered"));
}

#[test]
fn windows_and_counts_have_bounds() {
    for wrong in [
        "limits.http2_stream_window = \"1KiB\"",
        "limits.http2_connection_window = \"1GiB\"",
        "limits.max_connections_per_address = -1",
        "limits.http2_streams = 0",
        "limits.min_receive_rate = 240",
        "limits.min_send_rate = \"240B/s\"",
        "limits.rate_grace = \"0s\"",
        "reload = \"100ms\"",
        "reload = \"often\"",
    ] {
        assert!(faults_with(wrong).contains("write "), "{wrong}");
    }
}

#[test]
fn an_edge_that_lacks_what_an_edge_needs_is_warned_of() {
    let open = "profile = \"edge\"\n[[listeners]]\naddress = \"0.0.0.0:80\"\n";
    let warned = |text: &str| -> Vec<String> {
        let warnings = parse(text).warnings;
        warnings.iter().map(ToString::to_string).collect()
    };
    let said = warned(&format!("{open}{SMALLEST}"));
    assert!(
        said.iter().any(|line| line.contains("in the clear")),
        "{said:?}"
    );
    let behind = format!("{open}trusted_proxies = [\"10.0.0.0/8\"]\n{SMALLEST}");
    assert!(
        !warned(&behind)
            .iter()
            .any(|line| line.contains("in the clear"))
    );
    let sidecar = format!("{open}{SMALLEST}").replace("\"edge\"", "\"sidecar\"");
    assert!(
        !warned(&sidecar)
            .iter()
            .any(|line| line.contains("in the clear"))
    );

    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let store = format!(
        "profile = \"edge\"\n[store]\nurl = \"redis://127.0.0.1\"\nnamespace = \"a\"\nid_key = {{ file = {key:?} }}\n"
    );
    let said = warned(&format!("{store}{SMALLEST}"));
    assert!(
        said.iter().any(|line| line.contains("encryption_keys")),
        "{said:?}"
    );
    let sealed = format!(
        "{store}encryption_keys = [{{ id = \"a\", key = {{ file = {key:?} }} }}]\n{SMALLEST}"
    );
    assert!(
        !warned(&sealed)
            .iter()
            .any(|line| line.contains("encryption_keys"))
    );
}
