//! docs/compatibility.md: the committed copy of the table between two markers, and its comparison with what was just measured.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::report::{Report, SUBJECTS, Tally};

/// Asks for the committed copy to be rewritten.
pub const UPDATE_VARIABLE: &str = "UPDATE_DOCS";

const BEGIN: &str = "<!-- measured: begin (written by the test `cni`, see above) -->";
const END: &str = "<!-- measured: end -->";

/// Rows whose outcome for the reference depends on the moment of a signal or on the machine's load: shown, but not compared.
const VARYING: [&str; 4] = ["76", "77", "78", "141"];

/// Writes target/cni-conformance.md, and the committed copy where `UPDATE_DOCS` asks for it.
pub fn write(report: &Report) {
    let text = format!("# CNI conformance\n{}", measured(report));
    let path = target().join("cni-conformance.md");
    fs::create_dir_all(target()).unwrap();
    fs::write(&path, text).unwrap();
    println!("written: {}", path.display());
    if std::env::var_os(UPDATE_VARIABLE).is_some() && !crate::runner::is_partial() {
        let committed = fs::read_to_string(committed()).unwrap();
        let (before, rest) = committed.split_once(BEGIN).expect("the first marker");
        let (_, after) = rest.split_once(END).expect("the second marker");
        let updated = format!("{before}{BEGIN}\n{}\n{END}{after}", measured(report));
        fs::write(self::committed(), updated).unwrap();
    }
}

/// Rows whose measured columns are not what the committed copy says.
pub fn differences(report: &Report) -> Vec<String> {
    let Ok(committed) = fs::read_to_string(committed()) else {
        return Vec::new();
    };
    let measured = rows(&report.table());
    let committed = rows(&committed);
    let say = |row: Option<&Row>| row.map_or("no row".to_owned(), |row| row.cells.join(" | "));
    let mut differences = Vec::new();
    for row in &measured {
        let other = committed.iter().find(|other| other.number == row.number);
        let same = other.is_some_and(|other| other.compared() == row.compared());
        if !same {
            differences.push(format!(
                "{}: measured {}, committed {}",
                row.number,
                say(Some(row)),
                say(other)
            ));
        }
    }
    differences
}

struct Row {
    number: String,
    cells: Vec<String>,
}

impl Row {
    fn compared(&self) -> &[String] {
        let all = self.cells.len();
        let without_reference = all.saturating_sub(1);
        let varying = VARYING.contains(&self.number.as_str());
        &self.cells[..if varying { without_reference } else { all }]
    }
}

/// The rows of the tables in a text, with the measured columns.
fn rows(text: &str) -> Vec<Row> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines
        .filter_map(|line| {
            let cells: Vec<String> = line
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect();
            let number = cells[0].parse::<u16>().ok()?.to_string();
            let measured = cells[cells.len().checked_sub(SUBJECTS.len())?..].to_vec();
            Some(Row {
                number,
                cells: measured,
            })
        })
        .collect()
}

fn measured(report: &Report) -> String {
    let mut text = String::from(
        "\n| rows | pass | fail | of these only for `cniVersion` in errors | not applicable |\n|---|---|---|---|---|\n",
    );
    for (subject, name) in SUBJECTS {
        let Tally {
            passed,
            failed,
            only_version,
            not_applicable,
        } = report.tally(subject);
        let _ = writeln!(
            text,
            "| {name} | {passed} | {failed} | {only_version} | {not_applicable} |"
        );
    }
    text.push_str(&report.table());
    text.push_str("\n### What the reference does otherwise\n\n");
    for failure in report.failures(|subject| !subject.is_ours()) {
        let _ = writeln!(text, "- {}", failure.replace('|', "\\|"));
    }
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn committed() -> PathBuf {
    root().join("docs/compatibility.md")
}

/// Cargo's target directory: where this program is, without `<profile>/deps/<program>`.
fn target() -> PathBuf {
    let program = std::env::current_exe().expect("a path");
    program
        .ancestors()
        .nth(3)
        .unwrap_or(Path::new("target"))
        .to_owned()
}
