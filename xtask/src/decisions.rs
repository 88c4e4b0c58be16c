//! docs/decisions/README.md, the index of the decisions, from the first lines of each: its title, its date, and whether it is in force.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::workspace;

/// The index, relative to the root.
pub const INDEX: &str = "docs/decisions/README.md";

const INTRODUCTION: &str = "\
# Decisions

<!-- Written by `cargo xtask reference` from the first lines of each decision. -->

A number that is not here was never used. A decision that others changed says what is left of it.

| | decision | date | |
|---|---|---|---|
";

/// What the index has to be.
pub fn index() -> Result<String> {
    let mut text = INTRODUCTION.to_owned();
    for path in paths()? {
        let name = path.file_name().context("a file has a name")?.display();
        let decision = fs::read_to_string(&path)?;
        let Head {
            number,
            title,
            date,
            status,
        } = head(&decision).with_context(|| {
            format!("{name} does not begin with `# NUMBER. TITLE` and `*YYYY-MM-DD. STATUS*`")
        })?;
        writeln!(text, "| {number} | [{title}]({name}) | {date} | {status} |")?;
    }
    Ok(text)
}

fn paths() -> Result<Vec<PathBuf>> {
    let folder = workspace::root().join("docs/decisions");
    let entries = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !path.ends_with("README.md"));
    paths.sort();
    Ok(paths)
}

#[derive(Debug, PartialEq, Eq)]
struct Head<'a> {
    number: &'a str,
    title: &'a str,
    date: &'a str,
    status: &'a str,
}

fn head(text: &str) -> Option<Head<'_>> {
    let mut lines = text.lines();
    let (number, title) = lines.next()?.strip_prefix("# ")?.split_once(". ")?;
    let line = lines.nth(1)?.strip_prefix('*')?.strip_suffix('*')?;
    let (date, status) = line.split_once(". ")?;
    let is_date = date.len() == 10 && date.bytes().all(|it| it.is_ascii_digit() || it == b'-');
    is_date.then_some(Head {
        number,
        title,
        date,
        status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_begins_with_title_date_and_status() {
        let found = head("# 7. Two. Copies\n\n*2026-11-25. In force.*\n\nText.\n");
        let expected = Head {
            number: "7",
            title: "Two. Copies",
            date: "2026-11-25",
            status: "In force.",
        };
        assert_eq!(found, Some(expected));
        for other in [
            "# 7. A\n\nText.\n",
            "7. A\n\n*2026-11-25. B*",
            "# 7. A\n\n*Then. B*\n",
        ] {
            assert_eq!(head(other), None, "{other}");
        }
    }
}
