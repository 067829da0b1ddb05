//! The reference of every metric, read from what is registered.

use std::collections::BTreeMap;
use std::fmt::Write;

use prometheus::proto::MetricFamily;

use super::label::{Decision, Label, WouldBe};
use super::metrics::Metrics;

/// Stands for values that come from the configuration; no setting can be named so.
const ANY: &str = "";

/// Every metric (name, type, labels with their values, meaning), every decision and what observed requests would be, as
/// Markdown tables.
#[must_use]
pub fn reference() -> String {
    let mut text =
        String::from("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    let metrics = Metrics::of_version(&[ANY], &[ANY], ANY);
    drop(metrics.listeners.tls(ANY, &[ANY]));
    drop(metrics.listeners.proxy_protocol(ANY));
    metrics.endpoints.of(ANY, ANY).mention();
    for family in metrics.gather() {
        let name = family.name();
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let labels = labels_of(&family);
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {} |", family.help());
    }
    text.push_str("\n| decision | meaning |\n| --- | --- |\n");
    for decision in Decision::ALL {
        let _ = writeln!(text, "| `{}` | {} |", decision.name(), decision.help());
    }
    text.push_str("\n| would be | meaning |\n| --- | --- |\n");
    for would_be in WouldBe::ALL {
        let _ = writeln!(text, "| `{}` | {} |", would_be.name(), would_be.help());
    }
    text
}

/// Every field of the access log's lines, as a Markdown table.
#[must_use]
pub fn access_log_reference() -> String {
    super::access::fields()
}

/// Labels that the configuration gives values to come first; the others with their values, but for those that have a
/// table of their own.
fn labels_of(family: &MetricFamily) -> String {
    let mut labels: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for metric in family.get_metric() {
        for pair in metric.get_label() {
            let value = format!("`{}`", pair.value());
            let values = labels.entry(pair.name()).or_default();
            if pair.value() != ANY && !values.contains(&value) {
                values.push(value);
            }
        }
    }
    let mut labels: Vec<_> = labels.into_iter().collect();
    labels.sort_by_key(|(_, values)| !values.is_empty());
    let written = labels.iter().map(|(name, values)| match *name {
        "decision" | "would_be" => format!("`{name}`: see below"),
        _ if values.is_empty() => format!("`{name}`"),
        _ => format!("`{name}`: {}", values.join(" ")),
    });
    written.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_name_type_labels_and_meaning() {
        let text = reference();
        assert!(text.contains(
            "| `oncegate_leases_lost_total` | counter | `phase`: `after_write` `before_write` | Claims that"
        ));
        assert!(text.contains(
            "| `oncegate_unknown_outcomes_total` | counter | `route`, `cause`: `connection_lost` `drained`"
        ));
        assert!(text.contains("| `oncegate_build_info` | gauge | `version` |"));
    }

    #[test]
    fn every_decision_is_explained() {
        let text = reference();
        for decision in Decision::ALL {
            assert!(!decision.help().is_empty());
            assert!(text.contains(&format!("\n| `{}` | ", decision.name())));
        }
    }
}
