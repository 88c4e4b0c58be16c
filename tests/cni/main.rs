//! The CNI requirement list, checked from the outside: one check per number, at every version the row names, against our pair and,
//! in the same program, against the reference plugins, so that the comparison is measured and not remembered.
//!
//! `AZURE_VNET_CNI_ROWS=16,92` runs some rows only; `UPDATE_DOCS=1` rewrites the table in docs/compatibility.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod add;
mod arguments;
mod attachment;
mod call;
mod check;
mod del;
mod delegation;
mod document;
mod environment;
mod failed_add;
mod fake;
mod fixture;
mod gc;
mod ipam;
mod journal;
mod process;
mod real_clients;
mod report;
mod result;
mod row;
mod runner;
mod snapshot;
mod status;
mod versions;

use std::sync::OnceLock;

use report::Report;

/// One run serves all tests of this program.
fn report() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(runner::run)
}

#[test]
fn our_pair_meets_every_applicable_row() {
    let report = report();
    println!("{}", report.table());
    let reference = report.failures(|subject| !subject.is_ours());
    println!(
        "\nWhat the reference did otherwise:\n{}",
        reference.join("\n")
    );
    document::write(report);
    let failures = report.failures(fixture::Subject::is_ours);
    assert!(
        failures.is_empty(),
        "{} rows fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn committed_table_is_up_to_date() {
    for variable in [runner::ROWS_VARIABLE, document::UPDATE_VARIABLE] {
        if std::env::var_os(variable).is_some() {
            println!("not compared: {variable} is set");
            return;
        }
    }
    let report = report();
    let differences = document::differences(report);
    assert!(
        differences.is_empty(),
        "docs/compatibility.md says otherwise; UPDATE_DOCS=1 rewrites it:\n{}",
        differences.join("\n")
    );
}

#[test]
fn every_number_of_the_list_is_there_once() {
    let rows = runner::SECTIONS.into_iter().flat_map(|(_, rows)| rows);
    let mut numbers: Vec<u16> = rows.map(|row| row.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=153).collect::<Vec<_>>());
}
