//! Printing: text or JSON, and nobody panics when the reader has gone.
//!
//! Names in a text are others' to choose: nothing in it but the ends of lines is obeyed by a terminal. JSON is exact.

use std::fmt::Display;
use std::io::{self, Write as _};

use azure_vnet_cni::foreign;
use serde::Serialize;

use super::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result: as text with `--json` absent, else as one document.
    pub fn show(self, result: &(impl Serialize + Display)) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string_pretty(result).map_err(|error| Failure::of(&error))?;
            line(&text);
        } else {
            lines(&foreign::lines(&result.to_string()));
        }
        Ok(())
    }

    /// Prints a result of which there may be more: then JSON stays on one line. Says whether anybody reads.
    pub fn print(
        self,
        result: &(impl Serialize + Display),
        one_of_many: bool,
    ) -> Result<bool, Failure> {
        if self.json && one_of_many {
            let text = serde_json::to_string(result).map_err(|error| Failure::of(&error))?;
            return Ok(line(&text));
        }
        self.show(result).map(|()| true)
    }
}

/// Prints a line; says whether anybody reads.
pub fn line(text: &str) -> bool {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .is_ok()
}

/// Prints lines that end themselves; says whether anybody reads.
pub fn lines(text: &str) -> bool {
    let mut stdout = io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .is_ok()
}

/// Says on standard error why the command failed.
pub fn complain(why: &str) {
    let _ = writeln!(io::stderr(), "azure-vnet: {}", foreign::line(why));
}

/// Columns of a terminal that nobody has made wider.
const COLUMNS: usize = 80;

/// Text broken at spaces to fit 80 columns, every line `indent` columns in, later ones four more.
pub fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![" ".repeat(indent)];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        let used = line.chars().count();
        let is_empty = line.trim().is_empty();
        if !is_empty && used + 1 + word.chars().count() > COLUMNS {
            lines.push(format!("{}{word}", " ".repeat(indent + 4)));
        } else {
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
