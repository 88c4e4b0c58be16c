//! `azure-vnet doctor`: everything that has to be so, and everything known to get in the way, each with its fix.
//!
//! A problem keeps pods from their network, or from the addresses that the configuration promises them. A warning is
//! something to know. Nothing is changed.

mod conflicts;
mod fast_path;
mod kernel;
mod leftovers;
mod routes;
mod setup;

use std::fmt;

use clap::Args;
use serde::Serialize;

pub use conflicts::catches_pods as masquerades;

use super::output::{self, Output};
use super::{Failure, Outcome, bridges};
use crate::netlink::Netlink;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// Also what is as it should be.
    #[arg(long)]
    all: bool,
}

/// The result of one check.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The check's name, which stays.
    check: &'static str,
    /// `ok`, `warning` or `problem`.
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it; none if it is fine.
    fix: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

#[derive(Serialize)]
struct Report {
    problems: usize,
    warnings: usize,
    findings: Vec<Finding>,
    #[serde(skip)]
    all: bool,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            fix: None,
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Warning,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }

    fn problem(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Problem,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Looks at everything; a problem if there is one.
pub async fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    let bridges = bridges::survey(&netlink).await?;
    let links = netlink.links().await.map_err(|error| Failure::of(&error))?;
    let mut findings = kernel::check(!bridges.is_empty());
    findings.extend(setup::check());
    findings.extend(conflicts::check(&bridges));
    findings.extend(setup::check_bridges(&bridges));
    findings.extend(routes::check(&netlink));
    findings.push(fast_path::check_queues());
    findings.extend(fast_path::check(&netlink, &bridges, &links).await);
    findings.extend(leftovers::check(&netlink, &links).await);
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    let report = Report {
        problems: count(Verdict::Problem),
        warnings: count(Verdict::Warning),
        findings,
        all: options.all,
    };
    output.show(&report)?;
    Ok(if report.problems == 0 {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
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
            let text = format!("{mark} {}: {}", finding.check, finding.found);
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
