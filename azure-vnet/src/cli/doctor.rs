//! `azure-vnet doctor`: everything that has to be so, and everything known to get in the way, each with its fix.
//!
//! A problem keeps pods from their network, or from the addresses that the configuration promises them. A warning is
//! something to know. Nothing is changed. `/healthz` and the metrics ask the same ([`examine`]).

mod bundle;
mod conflicts;
mod fast_path;
mod kernel;
mod leftovers;
mod mtu;
mod names;
mod programs;
mod setup;
mod spoofing;
mod usage;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::output::{self, Output};
use super::{Failure, Outcome, bridges};
use crate::datapath::foreign;
use crate::health::{Finding, Verdict, firewall, path};
use crate::netlink::Netlink;
use spoofing::Spoofing;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// Also what is as it should be.
    #[arg(long)]
    all: bool,
    /// Again every so many seconds, until interrupted; prints what has changed.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "5",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    watch: Option<u64>,
    /// Writes a new file with what a maintainer needs, as JSON: findings, status, metrics, links, routes, rules, records, logs. Without
    /// secrets, with the names and addresses of pods.
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    bundle: Option<PathBuf>,
}

#[derive(PartialEq, Eq, Serialize)]
struct Report {
    problems: usize,
    warnings: usize,
    findings: Vec<Finding>,
    #[serde(skip)]
    all: bool,
}

/// Looks at everything; a problem if there is one.
pub async fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let mut last = None;
    loop {
        let findings = examine().await?;
        if let Some(path) = &options.bundle {
            bundle::write(path, findings.clone()).await?;
        }
        let report = Report::of(findings, options.all);
        let is_new = last.as_ref() != Some(&report);
        let is_read = !is_new || output.print(&report, options.watch.is_some())?;
        match options.watch {
            Some(seconds) if is_read => {
                last = Some(report);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            _ if report.problems == 0 => return Ok(Outcome::Fine),
            _ => return Ok(Outcome::Problem),
        }
    }
}

/// The findings of all checks; those of the path first, in its order.
pub async fn examine() -> Result<Vec<Finding>, Failure> {
    findings(true).await
}

/// As [`examine`], for whoever may be in a container: where the node's folders and programs are not to be seen, what is asked of them
/// is left out.
pub async fn examine_from_anywhere() -> Result<Vec<Finding>, Failure> {
    findings(setup::is_node() || foreign::is_listable()).await
}

async fn findings(is_node: bool) -> Result<Vec<Finding>, Failure> {
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    let spoofing = Spoofing::begin();
    let bridges = bridges::survey(&netlink).await?;
    let links = netlink.links().await.map_err(|error| Failure::of(&error))?;
    let path = path::look(&netlink, &links, usize::MAX).await;
    let mut findings = path.map_err(|error| Failure::of(&error))?;
    findings.extend(mtu::check(&links));
    findings.extend(programs::check(&links));
    // The servers are behind the path.
    if !findings.iter().any(Finding::is_problem) {
        findings.push(names::check().await);
    }
    if is_node {
        findings.extend(kernel::check());
        findings.extend(setup::check());
        findings.extend(conflicts::check(&bridges));
        findings.push(leftovers::original());
    } else {
        findings.extend(firewall::dropping());
    }
    findings.extend(setup::check_bridges(&bridges));
    findings.push(fast_path::check_queues());
    findings.extend(fast_path::check(&netlink, &bridges, &links).await);
    findings.extend(usage::check(&bridges));
    findings.extend(leftovers::check(&netlink, &links).await);
    findings.push(spoofing.end().await);
    Ok(findings)
}

impl Report {
    fn of(findings: Vec<Finding>, all: bool) -> Self {
        let count = |verdict| findings.iter().filter(|it| it.verdict == verdict).count();
        Self {
            problems: count(Verdict::Problem),
            warnings: count(Verdict::Warning),
            findings,
            all,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Ok if !self.all => continue,
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Problem => "PROBLEM",
            };
            let text = format!("{mark} {}: {}", finding.check.name(), finding.found);
            writeln!(out, "{}", output::wrapped(&text, 0))?;
            if let Some(fix) = &finding.fix {
                writeln!(out, "{}", output::wrapped(&format!("fix: {fix}"), 4))?;
            }
        }
        let fine = self.findings.len() - self.problems - self.warnings;
        writeln!(
            out,
            "problems: {}, warnings: {}, fine: {fine}",
            self.problems, self.warnings
        )
    }
}
