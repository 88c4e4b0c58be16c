//! The table: a row for each step, what was done to it and what came of that.

use std::fmt::Write as _;

use crate::call::{How, Traced};

/// What became of one case: in short if all was well, at length if not.
pub type Verdict = Result<String, String>;

/// One case.
pub struct Row {
    pub number: usize,
    pub traced: Traced,
    pub how: How,
    pub then: &'static str,
    pub verdict: Verdict,
}

/// All rows as text.
pub fn text(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title}\n");
    let _ = writeln!(
        text,
        "{:>4}  {:<16}{:<62}{:<9}{:<7}result",
        "step", "program", "what", "injected", "then"
    );
    for row in rows {
        let step = &row.traced.step;
        let what = if step.time > 1 {
            format!("{} #{}", step.what, step.time)
        } else {
            step.what.clone()
        };
        let injected = match row.how {
            How::Fails => row
                .traced
                .seen
                .errno
                .to_string()
                .split(" (")
                .next()
                .unwrap_or_default()
                .to_owned(),
            How::Refused => "refused".into(),
            How::Killed => "SIGKILL".into(),
            How::Orphaned => "orphaned".into(),
        };
        let result = match &row.verdict {
            Ok(result) => result.clone(),
            Err(problem) => format!("FAILED: {problem}"),
        };
        let _ = writeln!(
            text,
            "{:>4}  {:<16}{what:<62}{injected:<9} {:<7}{result}",
            row.number, step.program, row.then
        );
    }
    text
}
