//! Metrics as values, and their text (Prometheus exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// All metrics of a node, in the order in which they were added.
#[derive(Debug, Default, Serialize)]
pub struct Metrics {
    metrics: Vec<Metric>,
}

/// One metric with its samples.
#[derive(Debug, Serialize)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    #[serde(rename = "type")]
    kind: Kind,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    labels: BTreeMap<&'static str, String>,
    value: u64,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only grows, but for a change of the maps' layout.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Named in the metrics themselves: a part that could not be read.
pub const READABLE: &str = "azure_vnet_readable";

impl Metrics {
    /// The metric of this name, made if it is not there.
    pub fn metric(&mut self, name: &'static str, kind: Kind, help: &'static str) -> &mut Metric {
        let at = self.metrics.iter().position(|metric| metric.name == name);
        let at = at.unwrap_or_else(|| {
            self.metrics.push(Metric {
                name,
                help,
                kind,
                samples: Vec::new(),
            });
            self.metrics.len() - 1
        });
        &mut self.metrics[at]
    }

    /// Whether everything could be read.
    pub fn is_whole(&self) -> bool {
        let mut readable = self.metrics.iter().filter(|metric| metric.name == READABLE);
        readable.all(|metric| metric.samples.iter().all(|sample| sample.value == 1))
    }
}

impl Metric {
    /// One more value.
    pub fn sample<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: u64) {
        let labels = labels.map(|(name, value)| (name, value.to_owned()));
        self.samples.push(Sample {
            labels: labels.into(),
            value,
        });
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Metric {
            name,
            help,
            kind,
            samples,
        } in &self.metrics
        {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            for Sample { labels, value } in samples {
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
                    .collect();
                if labels.is_empty() {
                    writeln!(out, "{name} {value}")?;
                } else {
                    writeln!(out, "{name}{{{}}} {value}", labels.join(","))?;
                }
            }
        }
        Ok(())
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_samples_stay_with_their_metric() {
        let mut metrics = Metrics::default();
        metrics
            .metric("a", Kind::Gauge, "First.")
            .sample([("x", "q\"\\\n")], 1);
        metrics.metric("b", Kind::Counter, "Second.").sample([], 2);
        metrics
            .metric("a", Kind::Gauge, "First.")
            .sample([("x", "y")], 3);
        assert_eq!(
            metrics.to_string(),
            "# HELP a First.\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\"} 1\na{x=\"y\"} 3\n\
             # HELP b Second.\n# TYPE b counter\nb 2\n"
        );
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let mut metrics = Metrics::default();
        let readable = metrics.metric(READABLE, Kind::Gauge, "");
        readable.sample([("part", "pool")], 1);
        assert!(metrics.is_whole());
        metrics
            .metric(READABLE, Kind::Gauge, "")
            .sample([("part", "flows")], 0);
        assert!(!metrics.is_whole());
    }
}
