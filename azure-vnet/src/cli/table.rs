//! Columns of text, as wide as they have to be.

use std::fmt;

use azure_vnet_cni::foreign;

/// Rows of cells under a header.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table whose columns have these names; a name that begins with `>` is that of numbers, which
    /// stand at the right.
    pub fn new(names: &[&str]) -> Self {
        let header = names
            .iter()
            .map(|name| name.trim_start_matches('>').to_owned());
        Self {
            rows: vec![header.collect()],
            right: names.iter().map(|name| name.starts_with('>')).collect(),
        }
    }

    /// One row more. A cell is on one line, whatever is in it.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cells = cells.map(|cell| foreign::line(&cell).into_owned());
        self.rows.push(cells.into());
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.right.len()).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.right);
            let cells: Vec<String> = cells
                .map(|((cell, width), right)| {
                    if *right {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", ">packets"]);
        table.row(["in_range".into(), "7".into()]);
        table.row(["x".into(), "1234567890".into()]);
        assert_eq!(
            table.to_string(),
            "name         packets\nin_range           7\nx         1234567890\n"
        );
    }

    #[test]
    fn a_cell_is_on_one_line() {
        let mut table = Table::new(&["name", "link"]);
        table.row(["web\n10.0.0.9  db".into(), "up".into()]);
        table.row(["\u{1b}[2J".into(), "up".into()]);
        assert_eq!(
            table.to_string(),
            "name               link\nweb\\n10.0.0.9  db  up\n\\u{1b}[2J          up\n"
        );
    }
}
