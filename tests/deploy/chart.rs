//! The Helm chart, and what it makes.

use std::process::Command;

use super::support::tool;
use super::{path, succeeds, text};

/// Renders the chart with these values, in YAML; as an error, why it would not.
const RENDER: &str = "
import sys, yaml, helm_python
with helm_python.Chart.load('deploy/helm/oncegate') as chart:
    chart.validate_schema(chart.merge_values(yaml.safe_load(sys.argv[1]) or {}))
    given = chart.render(yaml.safe_load(sys.argv[1]) or {}, name='gate', namespace='default')
    for path, text in given.items():
        if path.endswith('.yaml') and text.strip():
            print('---\\n' + text)
";

/// A store in a file, for the values of a single gateway.
const EMBEDDED: &str = "config: |\n  [upstreams.app]\n  endpoints = [\"http://app:9000\"]\n";

fn rendered(values: &str) -> Result<String, String> {
    let output = Command::new(tool("python"))
        .args(["-c", RENDER, values])
        .current_dir(path(""))
        .output()
        .expect("Python");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn the_plain_files_are_what_the_chart_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().to_str().expect("a name of letters");
    // It asks `helm lint --strict` first.
    succeeds("python", &["deploy/kubernetes/render", target]);
    for name in ["edge", "sidecar", "monitoring"] {
        let fresh = std::fs::read_to_string(folder.path().join(format!("{name}.yaml")));
        let kept = text(&format!("deploy/kubernetes/{name}.yaml"));
        let is_current = fresh.expect("a rendered file") == kept;
        assert!(
            is_current,
            "{name}.yaml is old: run deploy/kubernetes/render"
        );
    }
}

#[test]
fn kubernetes_takes_the_plain_files() {
    for name in ["edge", "sidecar"] {
        takes(&format!("deploy/kubernetes/{name}.yaml"));
    }
}

#[test]
fn kubernetes_takes_a_single_gateway_with_a_store_of_its_own() {
    let values = format!("replicaCount: 1\npersistence: {{enabled: true}}\n{EMBEDDED}");
    let manifests = rendered(&values).expect("a rendering");
    assert!(manifests.contains("kind: PersistentVolumeClaim"));
    assert!(manifests.contains("type: Recreate"));
    takes_text(&manifests);
}

/// What is empty unless somebody says something.
#[test]
fn kubernetes_takes_what_the_other_values_say() {
    let manifests = rendered(EVERYTHING).expect("a rendering");
    for said in [
        "example.com/gate@sha256:",
        "kubernetes.io/os: linux",
        "operator: Exists",
        "weight: 7",
        "priorityClassName: high",
        "team: payments",
        "note: one",
        "value: \"debug\"",
        "cidr: 10.0.0.0/8",
        "name: registry",
        "internal: \"true\"",
        "type: LoadBalancer",
        "storageClassName: fast",
        "grafana_dashboard",
    ] {
        assert!(manifests.contains(said), "{said}");
    }
    assert!(!manifests.contains("/run/secrets\n"));
    takes_text(&manifests);
}

const EVERYTHING: &str = r#"
replicaCount: 1
image:
  repository: example.com/gate
  digest: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  pullSecrets: [{name: registry}]
config: |
  [upstreams.app]
  endpoints = ["http://app:9000"]
secretName: ""
persistence: {enabled: true, size: 1Gi, storageClassName: fast}
service: {type: LoadBalancer, port: 80, annotations: {internal: "true"}}
topologySpread: {enabled: false}
networkPolicy: {enabled: true, clients: [{ipBlock: {cidr: 10.0.0.0/8}}], monitoring: [], egress: []}
grafanaDashboard: {enabled: true}
logFilter: debug
env: [{ name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://collector:4318" }]
podAnnotations: {note: one}
podLabels: {team: payments}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{operator: Exists}]
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 7
        podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: b}}}
priorityClassName: high
"#;

fn takes_text(manifests: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rendered.yaml");
    std::fs::write(&file, manifests).expect("a file");
    takes(file.to_str().expect("a name of letters"));
}

/// The oldest version of Kubernetes whose schemas are at hand and that has native sidecars, and the newest.
fn takes(file: &str) {
    for version in ["1.29", "1.37"] {
        let said = succeeds(
            "kubernetes-validate",
            &["--strict", "--kubernetes-version", version, file],
        );
        assert!(said.contains("deployment/"), "{said}");
    }
}

/// The ports in it are those of the containers, for the chart writes both.
#[test]
fn oncegate_takes_the_configurations_in_the_plain_files() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["edge", "sidecar"] {
        let manifest = text(&format!("deploy/kubernetes/{name}.yaml"));
        let (_, rest) = manifest.split_once("  oncegate.toml: |\n").expect("a file");
        let lines: String = rest
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "))
            .map(|line| format!("{}\n", line.trim_start()))
            .collect();
        for secret in ["id", "redis"] {
            let file = folder.path().join(secret);
            std::fs::write(file, "a secret of more than thirty-two bytes").expect("a file");
        }
        let secrets = folder.path().to_str().expect("a name of letters");
        let config = folder.path().join("oncegate.toml");
        std::fs::write(&config, lines.replace("/run/secrets", secrets)).expect("a file");
        let config = config.to_str().expect("a name of letters");
        succeeds(
            env!("CARGO_BIN_EXE_oncegate"),
            &["check", "--config", config],
        );
        assert!(lines.contains("address = \"0.0.0.0:8080\""), "{lines}");
        assert!(manifest.contains("containerPort: 8080"));
        assert!(lines.contains("address = \"0.0.0.0:9090\""), "{lines}");
        assert!(manifest.contains("containerPort: 9090"));
    }
}

#[test]
fn the_chart_refuses_what_would_break_a_promise() {
    let several = format!("replicaCount: 2\npersistence: {{enabled: true}}\n{EMBEDDED}");
    let forgetful = format!("replicaCount: 1\n{EMBEDDED}");
    for (values, why) in [
        (several.as_str(), "several gateways need a store"),
        (&forgetful, "an embedded store is forgotten with its pod"),
        ("drain: {delaySeconds: 30}", "has to be less"),
        ("mode: sidecar", "sidecar.containers"),
        ("config: \"[admin]\"", "[admin] is the chart's"),
        (
            "config: \"drain_delay = '1s'\"",
            "drain_delay is the chart's",
        ),
        (
            "adminTokenEntry: token\nsecretName: \"\"",
            "an entry of the Secret",
        ),
        ("mode: beside", "mode"),
        ("replicas: 3", "replicas"),
        ("ports: {http: 80}", "http"),
    ] {
        let error = rendered(values).expect_err(values);
        assert!(error.contains(why), "{values}: {error}");
    }
}

/// Pod Security's restricted profile, as far as these pods have to do with it.
#[test]
fn every_container_in_the_plain_files_is_restricted() {
    for name in ["edge", "sidecar"] {
        let manifest = text(&format!("deploy/kubernetes/{name}.yaml"));
        let containers = manifest.matches(" image: ").count();
        for line in [
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "runAsUser: 65",
            "capabilities:",
        ] {
            assert_eq!(manifest.matches(line).count(), containers, "{name}: {line}");
        }
        assert!(manifest.matches("runAsNonRoot: true").count() >= containers);
        assert!(manifest.contains("seccompProfile:\n          type: RuntimeDefault"));
        for freedom in ["hostNetwork", "hostPath", "privileged", "hostPID"] {
            assert!(!manifest.contains(freedom), "{name}: {freedom}");
        }
    }
}

#[test]
fn operators_get_a_token_where_there_is_one_to_show() {
    let token = "token = { file = \"/run/secrets/operators\" }";
    let with = rendered("adminTokenEntry: operators").expect("a rendering");
    assert!(with.contains(token), "{with}");
    let without = rendered("").expect("a rendering");
    assert!(!without.contains("token = "), "{without}");
}

#[test]
fn a_new_configuration_makes_new_pods() {
    let checksum = |text: &str| {
        let line = text.lines().find(|line| line.contains("checksum/config"));
        line.expect("a checksum").to_owned()
    };
    let usual = rendered("").expect("a rendering");
    let same = rendered("replicaCount: 5").expect("a rendering");
    let another = rendered("drain: {delaySeconds: 6}").expect("a rendering");
    assert_eq!(checksum(&usual), checksum(&same));
    assert_ne!(checksum(&usual), checksum(&another));
}
