//! A real Prometheus that scrapes a real gateway: what its rules and the dashboard ask for is there.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use super::server::Server;
use super::support::{
    Act, Authority, Connection, Gateway, Request, Setup, ToyUpstream, free_port, payment, tool,
    until,
};
use super::text;

/// Prometheus with the configuration and the rules of `deploy/prometheus`, in a hurry.
struct Prometheus {
    address: SocketAddr,
    _server: Server,
    _folder: TempDir,
}

impl Prometheus {
    fn scraping(gateway: &Gateway) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for rules in ["recording.yaml", "alerts.yaml"] {
            let rules_text = text(&format!("deploy/prometheus/{rules}"));
            std::fs::write(folder.path().join(rules), rules_text).expect("a file");
        }
        let config = text("deploy/prometheus/prometheus.yml");
        assert!(config.contains("gateway:9090") && config.contains("15s"));
        let config = config
            .replace("gateway:9090", &gateway.admin.to_string())
            .replace("15s", "1s");
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("a file");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let server = Server::start(
            Server::command(&tool("prometheus"))
                .arg("--config.file=prometheus.yml")
                .arg("--storage.tsdb.path=samples")
                .arg(format!("--web.listen-address={address}"))
                .current_dir(folder.path()),
        );
        Self {
            address,
            _server: server,
            _folder: folder,
        }
    }

    /// What it answers, where it is there to answer.
    async fn ask(&self, request: &Request) -> Option<Value> {
        let mut connection = Connection::try_open(self.address).await.ok()?;
        let answer = connection.try_send(request).await?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Series of an expression.
    async fn series(&self, expression: &str) -> Vec<Value> {
        let body = format!(
            "query={}",
            utf8_percent_encode(expression, NON_ALPHANUMERIC)
        );
        let request = Request::post("/api/v1/query")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(body);
        let answer = self.ask(&request).await.expect("an answer");
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let series = answer["data"]["result"].as_array();
        series.expect("a list").clone()
    }

    /// All rules, once each has been evaluated.
    async fn rules(&self) -> Vec<Value> {
        until("every rule to be evaluated", || async {
            let answer = self.ask(&Request::get("/api/v1/rules")).await?;
            let groups = answer["data"]["groups"].as_array()?.clone();
            let rules: Vec<Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
                .collect();
            let is_over = |rule: &Value| rule["health"] != "unknown";
            (!rules.is_empty() && rules.iter().all(is_over)).then_some(rules)
        })
        .await
    }
}

/// A gateway with a listener for the traffic, and one whose certificate is watched.
async fn gateway(upstream: &ToyUpstream, authority: &Authority) -> Gateway {
    let setup = Setup::payments(upstream).embedded().rest_passes();
    let plain = "\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n";
    let encrypted = authority.listener();
    Gateway::start(&format!("{}{plain}{encrypted}", setup.toml())).await
}

/// Some of everything, again and again, so that there are rates.
async fn traffic(gateway: &Gateway, upstream: &ToyUpstream, round: usize) {
    let key = |name: &str| format!("{name}-{round}");
    gateway.send(&payment(&key("a"))).await.is(201, "executed");
    gateway.send(&payment(&key("a"))).await.is(201, "replayed");
    upstream.next(Act::reset_after_reading());
    gateway.send(&payment(&key("b"))).await;
    gateway.send(&Request::get("/else")).await.is(201, "");
}

/// The expressions of the dashboard by the title of their panel, with every variable filled in.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&text("deploy/grafana/oncegate.json")).expect("a dashboard");
    let panels = dashboard["panels"].as_array().expect("panels");
    let expressions = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| {
            let expression = target["expr"].as_str().expect("an expression");
            (title.to_owned(), filled_in(expression))
        })
    });
    expressions.collect()
}

fn filled_in(expression: &str) -> String {
    let expression = expression
        .replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        .replace("$job", ".*")
        .replace("$instance", ".*")
        .replace("$route", ".*");
    assert!(!expression.contains('$'), "{expression}");
    expression
}

#[tokio::test]
async fn every_rule_is_healthy_and_every_expression_of_the_dashboard_has_series() {
    let upstream = ToyUpstream::start();
    let authority = Authority::new();
    let gateway = gateway(&upstream, &authority).await;
    let prometheus = Prometheus::scraping(&gateway);
    traffic(&gateway, &upstream, 0).await;

    let rules = prometheus.rules().await;
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let names = |kind| {
        let of_kind = rules.iter().filter(move |rule| rule["type"] == kind);
        of_kind.map(|rule| rule["name"].as_str().expect("a name").to_owned())
    };
    let expressions = dashboard();
    assert!(expressions.len() > 40, "{}", expressions.len());
    let recorded = names("recording").map(|name| (name.clone(), name));
    let mut missing: Vec<(String, String)> = expressions.into_iter().chain(recorded).collect();
    let round = std::sync::atomic::AtomicUsize::new(1);
    let looked = tokio::time::timeout(Duration::from_secs(60), async {
        while !missing.is_empty() {
            let round = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            traffic(&gateway, &upstream, round).await;
            let mut still = Vec::new();
            for (title, expression) in missing.drain(..) {
                if prometheus.series(&expression).await.is_empty() {
                    still.push((title, expression));
                }
            }
            missing = still;
            // Prometheus scrapes once a second.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await;
    assert!(looked.is_ok(), "no series: {missing:#?}");
}

#[tokio::test]
async fn every_metric_that_rules_and_dashboard_name_is_one_that_a_gateway_has() {
    let upstream = ToyUpstream::start();
    let gateway = gateway(&upstream, &Authority::new()).await;
    let page = gateway.admin("/metrics").await.expect("metrics").text();
    let families: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let files = [
        "prometheus/recording.yaml",
        "prometheus/alerts.yaml",
        "grafana/oncegate.json",
    ];
    for file in files {
        let text = text(&format!("deploy/{file}"));
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for word in words.filter(|word| word.starts_with("oncegate_")) {
            let family = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(families.contains(family), "{file}: {word}");
        }
    }
}

#[test]
fn every_alert_leads_to_its_section_of_the_runbook() {
    let runbook = text("deploy/RUNBOOK.md");
    let sections: BTreeSet<String> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## Oncegate"))
        .map(|rest| format!("Oncegate{rest}"))
        .collect();
    let alerts = text("deploy/prometheus/alerts.yaml");
    let named = |start: &'static str| {
        alerts
            .lines()
            .filter_map(move |line| line.trim().strip_prefix(start))
    };
    let names: BTreeSet<String> = named("- alert: ").map(str::to_owned).collect();
    assert_eq!(names, sections);
    let links: Vec<&str> = named("runbook: ").collect();
    let wanted =
        named("- alert: ").map(|name| format!("deploy/RUNBOOK.md#{}", name.to_lowercase()));
    assert_eq!(links, wanted.collect::<Vec<String>>());
}

#[test]
fn every_section_of_the_runbook_says_four_things() {
    let runbook = text("deploy/RUNBOOK.md");
    let sections = runbook.split("\n## ").skip(1);
    for section in sections.filter(|section| section.starts_with("Oncegate")) {
        for part in ["**Means.**", "**Look at.**", "**Do.**", "**Never.**"] {
            assert!(section.contains(part), "{part} in {section}");
        }
    }
}
