//! Runs the list: every section on a machine of its own for each subject, two at a time, every row at every version it names.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::fixture::{Node, Subject};
use crate::journal::Journal;
use crate::report::{Outcome, Report};
use crate::row::{Case, Row, Test, Unmet, VERSIONS, Verdict, Versions, failed, judged};
use crate::{
    add, arguments, check, del, delegation, environment, failed_add, gc, ipam, process,
    real_clients, result, status, versions,
};

/// The sections of the list in its order.
pub const SECTIONS: [(&str, &[Row]); 14] = [
    ("A. Process contract and VERSION", process::ROWS),
    ("B. Environment and configuration", environment::ROWS),
    ("C. Version negotiation", versions::ROWS),
    ("D. ADD result", result::ROWS),
    ("E. What ADD does", add::ROWS),
    ("E. ADD that fails or waits", failed_add::ROWS),
    ("F. DEL", del::ROWS),
    ("G. CHECK", check::ROWS),
    ("H. STATUS", status::ROWS),
    ("H. GC", gc::ROWS),
    ("I. Delegation", delegation::ROWS),
    ("J. runtimeConfig, CNI_ARGS, chaining", arguments::ROWS),
    ("K. The IPAM plugin on its own", ipam::ROWS),
    ("L. Real clients", real_clients::ROWS),
];

/// Rows that are about what the netfilter tier does, and so are run against it as well, at the oldest and the newest version they
/// name.
const NETFILTER_ROWS: [u16; 26] = [
    61, 62, 63, 64, 67, 69, 72, 73, 76, 77, 79, 82, 83, 84, 85, 90, 91, 93, 96, 97, 99, 101, 102,
    107, 111, 113,
];

/// As many as the smallest machine has processors.
const WORKERS: usize = 2;

/// Names rows to run, separated by commas, for whoever works on one of them.
pub const ROWS_VARIABLE: &str = "AZURE_VNET_CNI_ROWS";

struct Job {
    title: &'static str,
    rows: Vec<Row>,
    subject: Subject,
}

/// Runs everything.
pub fn run() -> Report {
    let journals = [Subject::Ebpf, Subject::Netfilter, Subject::Reference]
        .map(|subject| (subject, Arc::default()));
    let report = Mutex::new(Report::default());
    let jobs = Mutex::new(jobs());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = next(&jobs) {
                    let journal = &journals
                        .iter()
                        .find(|(subject, _)| *subject == job.subject)
                        .expect("all are there")
                        .1;
                    let start = Instant::now();
                    let outcomes = run_job(&job, journal);
                    println!(
                        "{:?}: {} took {:.1} s",
                        job.subject,
                        job.title,
                        start.elapsed().as_secs_f32()
                    );
                    report
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(outcomes);
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (subject, journal) in &journals {
        if *subject != Subject::Netfilter {
            report.add(judge(*subject, journal));
        }
    }
    report
}

/// Whether only some rows were asked for.
pub fn is_partial() -> bool {
    std::env::var_os(ROWS_VARIABLE).is_some()
}

fn jobs() -> VecDeque<Job> {
    let wanted = std::env::var(ROWS_VARIABLE).ok();
    let is_wanted = |number: u16| {
        let names = |list: &String| {
            list.split(',')
                .any(|name| name.trim() == number.to_string())
        };
        wanted.as_ref().is_none_or(names)
    };
    let mut jobs = VecDeque::new();
    for subject in [Subject::Ebpf, Subject::Reference, Subject::Netfilter] {
        for (title, rows) in SECTIONS {
            let rows: Vec<Row> = rows
                .iter()
                .filter(|row| {
                    is_wanted(row.number)
                        && (subject != Subject::Netfilter || NETFILTER_ROWS.contains(&row.number))
                })
                .copied()
                .collect();
            if rows.iter().any(|row| matches!(row.test, Test::Run(_))) {
                jobs.push_back(Job {
                    title,
                    rows,
                    subject,
                });
            }
        }
    }
    jobs
}

fn next(jobs: &Mutex<VecDeque<Job>>) -> Option<Job> {
    jobs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

fn run_job(job: &Job, journal: &Arc<Journal>) -> Vec<Outcome> {
    let node = guarded(|| Node::boot(job.subject, journal));
    let mut outcomes = Vec::new();
    for row in &job.rows {
        let Test::Run(check) = row.test else { continue };
        match &node {
            Ok(node) => outcomes.extend(run_row(row, check, node)),
            Err(unmet) => outcomes.push(outcome(row, job.subject, None, Err(unmet.clone()))),
        }
    }
    outcomes
}

fn run_row(row: &Row, check: fn(&Case<'_>) -> Verdict, node: &Node) -> Vec<Outcome> {
    let subject = node.subject;
    let start = Instant::now();
    let run = |version| guarded(|| check(&Case { node, version }));
    let outcomes = if let Versions::Once = row.versions {
        vec![outcome(row, subject, None, run(node.newest()))]
    } else {
        let mut named: Vec<_> = VERSIONS
            .into_iter()
            .filter(|version| row.versions.contain(version))
            .collect();
        if subject == Subject::Netfilter && named.len() > 2 {
            named = vec![named[0], named[named.len() - 1]];
        }
        let at = |version: &'static str| {
            let verdict = if node.offers(version) {
                run(version)
            } else {
                Err(Unmet::NotApplicable("version not offered".into()))
            };
            outcome(row, subject, Some(version), verdict)
        };
        named.into_iter().map(at).collect()
    };
    if start.elapsed().as_secs() >= 3 {
        println!(
            "  {subject:?}: row {} took {:.1} s",
            row.number,
            start.elapsed().as_secs_f32()
        );
    }
    outcomes
}

/// The rows about all calls, once all are over.
fn judge(subject: Subject, journal: &Journal) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for row in SECTIONS.into_iter().flat_map(|(_, rows)| rows) {
        let Test::Journal(check) = row.test else {
            continue;
        };
        if let Versions::Once = row.versions {
            outcomes.push(outcome(row, subject, None, check(journal, None)));
            continue;
        }
        for version in VERSIONS
            .into_iter()
            .filter(|version| row.versions.contain(version))
        {
            outcomes.push(outcome(
                row,
                subject,
                Some(version),
                check(journal, Some(version)),
            ));
        }
    }
    outcomes
}

fn outcome(
    row: &Row,
    subject: Subject,
    version: Option<&'static str>,
    verdict: Verdict,
) -> Outcome {
    Outcome {
        number: row.number,
        subject,
        version,
        verdict,
    }
}

/// A panic of a check is a failure of its row, and must not take the others with it.
fn guarded<T>(check: impl FnOnce() -> Verdict<T>) -> Verdict<T> {
    catch_unwind(AssertUnwindSafe(|| judged(check))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or(panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(failed(
            "the check can be carried out",
            format!("it panicked: {text}"),
        ))
    })
}
