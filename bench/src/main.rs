//! What a masquerade costs, per packet and per connection, side by side in one run: `cargo xtask bench`.
//!
//! A run is: subjects (`variant`) on nodes of the simulated Azure (`node`), measured in interleaved rounds (`comparison`) at each
//! kind of work (`work`: `packets`, `tcp`), and written down (`report`, `plot`).

mod blast;
mod calls;
mod comparison;
mod cpu;
mod machine;
mod node;
mod packets;
mod plot;
mod programs;
mod report;
mod series;
mod servers;
mod sink;
mod tcp;
mod variant;
mod wire;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use comparison::Comparison;
use report::Report;
use variant::{DEFAULT, Scale, Subject, Variant};
use work::Work;

/// Measure the datapath and the plugins on a simulated Azure (as root).
#[derive(Debug, Parser)]
struct Options {
    /// In under three minutes: fewer rounds, no scaling.
    #[arg(long)]
    quick: bool,
    /// Rounds, instead of 5 with --quick and 9 without.
    #[arg(long)]
    rounds: Option<usize>,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Run this plugin and print its peak RSS: how the bench starts itself.
    #[arg(long, hide = true)]
    peak_rss_of: Option<String>,
    /// Only these parts.
    #[arg(long, value_enum)]
    only: Vec<PartName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PartName {
    /// Packets and connections, all variants.
    Datapath,
    /// Packets and connections with many pods, flows, ranges.
    Scaling,
    /// ADD and DEL.
    Calls,
    /// The eBPF programs alone.
    Programs,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let wants = |part| match options.only.as_slice() {
        [] => part != PartName::Scaling || !options.quick,
        only => only.contains(&part),
    };
    if let Some(plugin) = &options.peak_rss_of {
        return calls::run_and_print_peak_rss(plugin);
    }
    let rounds = options.rounds.unwrap_or(if options.quick { 5 } else { 9 });
    let progress = progress()?;
    let mut report = Report {
        machine: machine::facts(),
        comparisons: Vec::new(),
        parts: Vec::new(),
    };
    if wants(PartName::Datapath) {
        let comparison = Comparison::run("One pod", &variants(), &Work::ALL, rounds, &progress)?;
        report.comparisons.push(comparison);
    }
    if wants(PartName::Scaling) {
        let title = "Many pods, flows and ranges";
        let comparison = Comparison::run(title, &scales(), &Work::SCALING, rounds, &progress)?;
        report.comparisons.push(comparison);
    }
    if wants(PartName::Calls) {
        report
            .parts
            .push(calls::measure(extent(options), &progress)?);
    }
    if wants(PartName::Programs) {
        report.parts.push(programs::measure()?);
    }
    progress.finish_and_clear();
    report.write(&options.output)?;
    println!("{}", report.markdown());
    println!("The report is in {}.", options.output.display());
    Ok(())
}

fn extent(options: &Options) -> calls::Extent {
    if options.quick {
        calls::Extent {
            rounds: options.rounds.unwrap_or(8),
            standing: &[2],
            parallel: &[20],
            parallel_rounds: 1,
        }
    } else {
        calls::Extent {
            rounds: options.rounds.unwrap_or(30),
            standing: &[2, 100, 200],
            parallel: &[20, 100, 250],
            parallel_rounds: 3,
        }
    }
}

/// Every way, with the least on the node.
fn variants() -> Vec<Subject> {
    let subject = |variant| Subject {
        variant,
        scale: Scale::SMALL,
    };
    Variant::ALL.map(subject).to_vec()
}

/// The default way and what it replaces, with more and more on the node.
fn scales() -> Vec<Subject> {
    let of = |variant, pods, flows, ranges| Subject {
        variant,
        scale: Scale {
            pods,
            flows,
            ranges,
        },
    };
    let mut subjects: Vec<_> = [
        (1, 0, 4),
        (30, 0, 4),
        (250, 0, 4),
        (1, 100_000, 4),
        (1, 200_000, 4),
        (1, 0, 100),
        (1, 0, 1000),
        (250, 200_000, 1000),
    ]
    .map(|(pods, flows, ranges)| of(DEFAULT, pods, flows, ranges))
    .to_vec();
    for variant in [Variant::Iptables, Variant::Netfilter] {
        subjects.extend([
            of(variant, 1, 0, 4),
            of(variant, 1, 100_000, 4),
            of(variant, 1, 0, 1000),
        ]);
    }
    subjects
}

fn progress() -> Result<ProgressBar> {
    let style = "{msg:<32} {wide_bar} {pos}/{len} {elapsed_precise} left {eta}";
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?))
}
