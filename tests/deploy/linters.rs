//! Files that a tool can judge by reading them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{path, succeeds, text};

#[test]
fn hadolint_has_nothing_to_say_about_the_dockerfile() {
    let said = succeeds("hadolint", &["Dockerfile"]);
    assert_eq!(said, "");
}

#[test]
fn the_compose_file_is_one() {
    succeeds(
        "check-jsonschema",
        &[
            "--builtin-schema",
            "vendor.compose-spec",
            "deploy/compose.yaml",
        ],
    );
}

#[test]
fn every_file_that_the_compose_file_mounts_is_there() {
    let compose = text("deploy/compose.yaml");
    let mounts: Vec<&str> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next())
        .collect();
    assert!(mounts.len() >= 6, "{mounts:?}");
    for mount in mounts {
        assert!(path("deploy").join(mount).exists(), "{mount}");
    }
}

#[test]
fn promtool_has_nothing_to_say_about_the_rules() {
    let config = "deploy/prometheus/prometheus.yml";
    succeeds(
        "promtool",
        &["check", "config", "--lint=all", "--lint-fatal", config],
    );
    for rules in ["recording", "alerts"] {
        let rules = format!("deploy/prometheus/{rules}.yaml");
        succeeds(
            "promtool",
            &["check", "rules", "--lint=all", "--lint-fatal", &rules],
        );
    }
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    succeeds(
        "promtool",
        &["test", "rules", "deploy/prometheus/tests.yaml"],
    );
}

#[test]
fn every_alert_is_seen_to_fire_in_a_unit_test() {
    let tests = text("deploy/prometheus/tests.yaml");
    let alerts = text("deploy/prometheus/alerts.yaml");
    let names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in names {
        let sample = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&sample), "{name}");
    }
}

#[test]
fn the_dashboard_has_four_rows_and_nothing_lies_upon_another() {
    let dashboard: Value =
        serde_json::from_str(&text("deploy/grafana/oncegate.json")).expect("a dashboard");
    let panels = dashboard["panels"].as_array().expect("panels");
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<&str> = rows.filter_map(|row| row["title"].as_str()).collect();
    let wanted = [
        "Traffic and decisions",
        "Correctness",
        "Store",
        "Upstream and process",
    ];
    assert_eq!(rows, wanted);
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && taken.insert((x, y)), "{panel}");
            }
        }
    }
}

/// The unit with the binary that was built here, which `verify` wants to find.
#[test]
fn systemd_takes_the_service_and_its_socket() {
    let unit = text("deploy/systemd/oncegate.service");
    let installed = "/usr/local/bin/oncegate";
    assert!(unit.contains(installed));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("oncegate.service");
    let unit = unit.replace(installed, env!("CARGO_BIN_EXE_oncegate"));
    std::fs::write(&file, unit).expect("a file");
    let socket = folder.path().join("oncegate.socket");
    std::fs::write(&socket, text("deploy/systemd/oncegate.socket")).expect("a file");
    let file = file.to_str().expect("a name of letters");
    let socket = socket.to_str().expect("a name of letters");
    let said = succeeds("systemd-analyze", &["verify", "--man=no", file, socket]);
    // It warns with exit code 0 of settings that it does not know.
    assert!(!said.contains("oncegate."), "{said}");
}

#[test]
fn the_service_may_do_little() {
    succeeds(
        "systemd-analyze",
        &[
            "security",
            "--offline=true",
            "--no-pager",
            "--threshold=20",
            "deploy/systemd/oncegate.service",
        ],
    );
}

#[test]
fn every_file_names_the_version_that_is_built() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("Dockerfile", format!("ARG VERSION={version}")),
        (
            "deploy/compose.yaml",
            format!("    image: oncegate:{version}"),
        ),
        (
            "deploy/helm/oncegate/Chart.yaml",
            format!("appVersion: {version}"),
        ),
    ] {
        let text = text(file);
        assert!(text.lines().any(|found| found == line), "{file}: {line}");
    }
}
