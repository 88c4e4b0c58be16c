//! How many passed, failed and were skipped.

use std::{fmt, iter::Sum, ops::AddAssign};

use anyhow::{Result, ensure};

/// Counts of tests or steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ended as they should.
    pub passed: u32,
    /// Did not.
    pub failed: u32,
    /// Were not run (`#[ignore]`).
    pub skipped: u32,
}

impl Tally {
    /// One that passed or failed.
    pub fn one(passed: bool) -> Self {
        Self {
            passed: u32::from(passed),
            failed: u32::from(!passed),
            skipped: 0,
        }
    }

    /// An error if any failed.
    pub fn check(self) -> Result<()> {
        ensure!(self.failed == 0, "{} failed", self.failed);
        Ok(())
    }

    /// The counts in libtest's closing line, which has been of this form since Rust 1.0:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`
    pub fn from_libtest(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut fields = counts.split("; ");
            fields.find_map(|field| field.strip_suffix(what)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum += tally;
            sum
        })
    }
}

/// The closing line of `test` and `ci`.
impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(out, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn libtest_closing_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; \
                    finished in 0.05s";
        let tally = Tally {
            passed: 12,
            failed: 1,
            skipped: 2,
        };
        assert_eq!(Tally::from_libtest(line), Some(tally));
        assert_eq!(tally.to_string(), "12 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Tally::from_libtest("test tally::other ... ok"), None);
        assert_eq!(Tally::from_libtest("test result: ok."), None);
    }
}
