//! The run as JSON, as Markdown and as plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::comparison::{Comparison, Row};
use crate::plot::{self, Bar, number};
use crate::series::Series;
use crate::variant::Variant;
use crate::work::Figure;

/// Everything that a run found.
pub struct Report {
    pub machine: Value,
    pub comparisons: Vec<Comparison>,
    /// Further parts, in Markdown and in JSON.
    pub parts: Vec<Part>,
}

/// A part that has a form of its own.
pub struct Part {
    pub key: &'static str,
    pub markdown: String,
    pub json: Value,
}

impl Report {
    /// Writes `report.json`, `report.md` and a plot for each figure of the first comparison.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        write("report.json", &format!("{:#}\n", self.json()))?;
        write("report.md", &self.markdown())?;
        if let Some(comparison) = self.comparisons.first() {
            for figure in Figure::ALL {
                write(
                    &format!("{}.svg", figure.key()),
                    &self.plot(comparison, figure),
                )?;
            }
        }
        Ok(())
    }

    fn plot(&self, comparison: &Comparison, figure: Figure) -> String {
        let measured = comparison
            .rows
            .iter()
            .filter_map(|row| Some((row, row.figures.get(&figure)?)));
        let bars: Vec<Bar> = measured
            .map(|(row, series)| Bar {
                label: row.subject.variant.to_string(),
                value: series.median(),
                quartiles: series.quartiles(),
                ours: matches!(
                    row.subject.variant,
                    Variant::Ebpf { .. } | Variant::Shaped | Variant::Netfilter
                ),
            })
            .collect();
        let better = if figure.is_rate() { "more" } else { "less" };
        let note = format!(
            "{better} is better; median and quartiles of {} interleaved rounds; {}, Linux {}",
            comparison.rounds,
            self.machine["cpu"].as_str().unwrap_or("?"),
            self.machine["kernel"].as_str().unwrap_or("?"),
        );
        plot::bars(figure.title(), &note, &bars)
    }

    fn json(&self) -> Value {
        let comparisons: Vec<Value> = self.comparisons.iter().map(comparison_json).collect();
        let parts: Map<String, Value> = self
            .parts
            .iter()
            .map(|part| (part.key.to_owned(), part.json.clone()))
            .collect();
        json!({ "machine": self.machine, "comparisons": comparisons, "parts": parts })
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "# What azure-vnet costs\n\nMade by `cargo xtask bench`.\n\n## The machine\n\n",
        );
        for (key, value) in self.machine.as_object().into_iter().flatten() {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "- {key}: {value}");
        }
        for comparison in &self.comparisons {
            text.push_str(&comparison_markdown(comparison));
        }
        for part in &self.parts {
            text.push('\n');
            text.push_str(&part.markdown);
        }
        text
    }
}

fn comparison_json(comparison: &Comparison) -> Value {
    let row = |row: &Row| {
        let figures: Map<String, Value> = row
            .figures
            .iter()
            .map(|(figure, series)| (figure.key().to_owned(), series_json(series)))
            .collect();
        let scale = row.subject.scale;
        json!({
            "variant": row.subject.variant.to_string(), "pods": scale.pods, "flows": row.flows, "ranges": scale.ranges,
            "figures": figures,
        })
    };
    let rows: Vec<Value> = comparison.rows.iter().map(row).collect();
    let yardsticks: Map<String, Value> = (comparison.yardsticks.iter())
        .map(|(figure, series)| (figure.key().to_owned(), series_json(series)))
        .collect();
    json!({
        "title": comparison.title, "rounds": comparison.rounds, "rows": rows,
        "yardsticks": yardsticks,
        "not_measured": comparison.missing,
    })
}

pub fn series_json(series: &Series) -> Value {
    let (first, third) = series.quartiles();
    json!({ "median": series.median(), "q1": first, "q3": third, "values": series.values() })
}

/// A table for each figure: median, quartiles, and the ratios that are asked about.
fn comparison_markdown(comparison: &Comparison) -> String {
    let mut text = format!("\n## {}\n\n", comparison.title);
    let sender = |figure| {
        let yardstick = comparison.yardsticks.get(&figure);
        number(yardstick.map_or(f64::NAN, Series::median))
    };
    let _ = writeln!(
        text,
        "Medians of {} interleaved rounds, quartiles in brackets. The machine is not equally fast for long. So packets are sent in turn with the same \
         sender into a sink before the node, a burst of a few milliseconds each, which is taken off ({} ns a packet on the way out, {} ns on the way \
         in); latencies in turn with those of the first row; and both are put down at the median speed of the run. Streams are as the clock said.\n",
        comparison.rounds,
        sender(Figure::CostOut),
        sender(Figure::CostIn),
    );
    for figure in Figure::ALL {
        text.push_str(&figure_markdown(comparison, figure));
    }
    if !comparison.missing.is_empty() {
        text.push_str("Not measured:\n\n");
        for reason in &comparison.missing {
            let _ = writeln!(text, "- {reason}");
        }
    }
    text
}

fn figure_markdown(comparison: &Comparison, figure: Figure) -> String {
    let measured: Vec<(&Row, &Series)> = comparison
        .rows
        .iter()
        .filter_map(|row| Some((row, row.figures.get(&figure)?)))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let median_of = |variant| {
        comparison
            .row(variant)?
            .figures
            .get(&figure)
            .map(Series::median)
    };
    let ratio = |value: f64, base: Option<f64>| {
        base.map_or("-".to_owned(), |base| format!("{:.2}", value / base))
    };
    let (plain, iptables) = (median_of(Variant::Plain), median_of(Variant::Iptables));
    let scales = comparison
        .rows
        .iter()
        .any(|row| row.subject.scale != comparison.rows[0].subject.scale);
    let mut text = format!("### {}\n\n", figure.title());
    text.push_str(
        "| | median | quartiles | × plain bridge | × iptables rule |\n|---|---:|---:|---:|---:|\n",
    );
    for (row, series) in measured {
        let (first, third) = series.quartiles();
        let median = series.median();
        let scale = row.subject.scale;
        let scale = if scales {
            format!(
                "; {} pods, {} flows, {} ranges",
                scale.pods, row.flows, scale.ranges
            )
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "| {}{scale} | {} | {} … {} | {} | {} |",
            row.subject.variant,
            number(median),
            number(first),
            number(third),
            ratio(median, plain),
            ratio(median, iptables),
        );
    }
    text.push('\n');
    text
}
