//! The table: what the list asks for, beside what our pair and the reference did.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fixture::Subject;
use crate::row::{ONLY_VERSION, Row, Test, Unmet, Verdict};
use crate::runner::SECTIONS;

/// One run of one row.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The row.
    pub number: u16,
    /// Against whom.
    pub subject: Subject,
    /// At which version; none for a row that is run once.
    pub version: Option<&'static str>,
    /// What came of it.
    pub verdict: Verdict,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Report(BTreeMap<(u16, Subject), Vec<Outcome>>);

/// How many rows came out how.
#[derive(Debug, Default)]
pub struct Tally {
    /// At every version that is offered.
    pub passed: usize,
    /// At one version at least.
    pub failed: usize,
    /// Of those, the ones whose errors lack `cniVersion` and are right otherwise.
    pub only_version: usize,
    /// At no version.
    pub not_applicable: usize,
}

const FAILS_BY_VERSION: &str = "fail (only `cniVersion` in the error)";

/// The columns that are measured.
pub const SUBJECTS: [(Subject, &str); 3] = [
    (Subject::Ebpf, "ours"),
    (Subject::Netfilter, "ours, netfilter"),
    (Subject::Reference, "reference"),
];

impl Report {
    /// Adds runs.
    pub fn add(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            self.0
                .entry((outcome.number, outcome.subject))
                .or_default()
                .push(outcome);
        }
    }

    /// The failures of a subject, one line per row: at which versions, and for the first of them what was expected and seen.
    pub fn failures(&self, of: impl Fn(Subject) -> bool) -> Vec<String> {
        let cells = self.0.iter().filter(|((_, subject), _)| of(*subject));
        cells
            .filter_map(|((number, subject), outcomes)| {
                let failures: Vec<_> = outcomes.iter().filter_map(Outcome::failure).collect();
                let (_, expected, seen) = failures.first()?;
                let versions: Vec<_> = failures
                    .iter()
                    .filter_map(|(version, ..)| *version)
                    .collect();
                let at = if versions.is_empty() {
                    String::new()
                } else {
                    format!(" at {}", versions.join(", "))
                };
                let subject = SUBJECTS
                    .iter()
                    .find(|(other, _)| other == subject)
                    .map_or("", |(_, name)| name);
                if *expected == ONLY_VERSION && of(Subject::Reference) {
                    // Row 10 says it once for all.
                    return None;
                }
                Some(format!(
                    "{number} ({subject}{at}): expected: {expected}; seen: {seen}"
                ))
            })
            .collect()
    }

    /// The table as Markdown.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (title, rows) in SECTIONS {
            let _ = writeln!(text, "\n### {title}\n");
            text.push_str("| # | versions | level | check | ours | ours, netfilter | reference |\n|---|---|---|---|---|---|---|\n");
            for row in rows {
                let Row {
                    number,
                    versions,
                    level,
                    check,
                    ..
                } = row;
                let cells = SUBJECTS.map(|(subject, _)| self.cell(row, subject));
                let _ = writeln!(
                    text,
                    "| {number} | {versions} | {level} | {check} | {} |",
                    cells.join(" | ")
                );
            }
        }
        text
    }

    /// How many rows came out how for a subject.
    pub fn tally(&self, subject: Subject) -> Tally {
        let mut tally = Tally::default();
        for row in SECTIONS.into_iter().flat_map(|(_, rows)| rows) {
            let cell = self.cell(row, subject);
            tally.passed += usize::from(cell.starts_with("pass"));
            tally.failed += usize::from(cell.starts_with("fail"));
            tally.only_version += usize::from(cell == FAILS_BY_VERSION);
            tally.not_applicable += usize::from(cell.starts_with("n/a"));
        }
        tally
    }

    /// What stands in the table for a row and a subject.
    fn cell(&self, row: &Row, subject: Subject) -> String {
        let Some(outcomes) = self.0.get(&(row.number, subject)) else {
            return match row.test {
                Test::Elsewhere(place) => place.to_owned(),
                _ => String::new(),
            };
        };
        let versions = |wanted: fn(&Verdict) -> bool| {
            let matching = outcomes.iter().filter(|outcome| wanted(&outcome.verdict));
            matching
                .filter_map(|outcome| outcome.version)
                .collect::<Vec<_>>()
        };
        let is_failure = |verdict: &Verdict| matches!(verdict, Err(Unmet::Failed { .. }));
        let is_pass = |verdict: &Verdict| verdict.is_ok();
        if outcomes.iter().any(|outcome| is_failure(&outcome.verdict)) {
            let only_version = |outcome: &Outcome| {
                outcome
                    .failure()
                    .is_none_or(|(_, expected, _)| expected == ONLY_VERSION)
            };
            return if outcomes.iter().all(only_version) {
                FAILS_BY_VERSION.into()
            } else if outcomes.iter().any(|outcome| is_pass(&outcome.verdict)) {
                format!("fail at {}", versions(is_failure).join(", "))
            } else {
                "fail".into()
            };
        }
        let reason = outcomes.iter().find_map(|outcome| match &outcome.verdict {
            Err(Unmet::NotApplicable(reason)) => Some(reason.as_str()),
            _ => None,
        });
        match reason {
            None => "pass".into(),
            Some(reason) if outcomes.iter().any(|outcome| is_pass(&outcome.verdict)) => {
                format!("pass ({}: {reason})", versions(Verdict::is_err).join(", "))
            }
            Some(reason) => format!("n/a: {reason}"),
        }
    }
}

impl Outcome {
    fn failure(&self) -> Option<(Option<&'static str>, &str, &str)> {
        match &self.verdict {
            Err(Unmet::Failed { expected, seen }) => Some((self.version, expected, seen)),
            _ => None,
        }
    }
}
