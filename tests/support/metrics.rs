//! The text format of Prometheus, as far as the tests read it.

use std::collections::BTreeMap;

/// One reading of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Parses a reading. Fails the test on a line that is no sample.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            samples
                .map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}")))
                .collect(),
        )
    }

    /// The value of the only series with this name and these labels (it may have more); `None` without one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.0.iter().filter(|sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| {
                    sample
                        .labels
                        .get(*label)
                        .is_some_and(|found| found == value)
                })
        });
        let value = found.next()?.value;
        assert!(
            found.next().is_none(),
            "several series {name} with {labels:?}"
        );
        Some(value)
    }

    /// Every series: names with their labels.
    pub fn series(&self) -> std::collections::BTreeSet<String> {
        self.0
            .iter()
            .map(|sample| format!("{} {:?}", sample.name, sample.labels))
            .collect()
    }

    /// How often a route decided so; 0 where there is no such series.
    pub fn decisions(&self, route: &str, decision: &str) -> u64 {
        let labels = [("route", route), ("decision", decision)];
        count(
            self.value("oncegate_decisions_total", &labels)
                .unwrap_or(0.0),
        )
    }

    /// How many requests a route has counted, all decisions together.
    pub fn all_decisions(&self, route: &str) -> u64 {
        let of_route = self.0.iter().filter(|sample| {
            sample.name == "oncegate_decisions_total"
                && sample
                    .labels
                    .get("route")
                    .is_some_and(|found| found == route)
        });
        of_route.map(|sample| count(sample.value)).sum()
    }
}

fn count(value: f64) -> u64 {
    value
        .to_string()
        .parse()
        .expect("counters are whole numbers")
}

/// One line: `name value` or `name{label="value",…} value`. No test needs a quote or comma inside a value.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels
        .split(',')
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (name, value) = label.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
    Some(Sample {
        name: name.to_owned(),
        labels: labels.collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}
