//! A row of the requirement list: what is checked, at which versions, and by which function.

use std::cell::Cell;
use std::fmt::Display;

use crate::fixture::Node;
use crate::journal::Journal;

/// All published versions of the CNI specification, oldest first.
pub const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// The versions of the configuration at which a row is run.
#[derive(Clone, Copy, Debug)]
pub enum Versions {
    /// Every version.
    All,
    /// This version and later ones.
    From(&'static str),
    /// This version and earlier ones.
    To(&'static str),
    /// From the first to the second, both included.
    Between(&'static str, &'static str),
    /// The version does not matter, or the check chooses: run once, at the newest version that the subject offers.
    Once,
}

impl Versions {
    /// Whether the row is about this version.
    pub fn contain(self, version: &str) -> bool {
        // Every part of every version is one digit, so the order of the texts is that of the numbers.
        match self {
            Self::All => true,
            Self::From(first) => version >= first,
            Self::To(last) => version <= last,
            Self::Between(first, last) => version >= first && version <= last,
            Self::Once => false,
        }
    }
}

impl Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::From("1.1.0") => f.write_str("1.1.0"),
            Self::From(first) => write!(f, "≥{first}"),
            Self::To("0.1.0") => f.write_str("0.1.0"),
            Self::To(last) => write!(f, "≤{last}"),
            Self::Between(first, last) => write!(f, "{first}–{last}"),
            Self::Once => f.write_str("-"),
        }
    }
}

/// One requirement.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its number in the list.
    pub number: u16,
    /// At which versions it is run.
    pub versions: Versions,
    /// Where it comes from: M a *must* of the specification, S a *should*, R what the reference and its clients do, D a decision of
    /// this project, Q a quality goal beyond the specification.
    pub level: &'static str,
    /// What is checked.
    pub check: &'static str,
    /// How.
    pub test: Test,
}

/// How a row is checked.
#[derive(Clone, Copy)]
pub enum Test {
    /// By calling the plugins.
    Run(fn(&Case<'_>) -> Verdict),
    /// By looking back at all calls of the whole program; the version is none for a row that is run once.
    Journal(fn(&Journal, Option<&str>) -> Verdict),
    /// By another test of the repository.
    Elsewhere(&'static str),
}

/// A row at one version against one subject.
pub struct Case<'a> {
    /// The machine with the plugins.
    pub node: &'a Node,
    /// The version of the configuration.
    pub version: &'static str,
}

/// What a check finds.
pub type Verdict<T = ()> = Result<T, Unmet>;

/// A check that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// The plugins did something else.
    Failed {
        /// What the row asks for.
        expected: String,
        /// What happened.
        seen: String,
    },
    /// The row does not apply to this subject.
    NotApplicable(String),
}

thread_local! {
    /// Whether an error of the check that this thread runs lacked `cniVersion` and nothing else.
    static WITHOUT_VERSION: Cell<bool> = const { Cell::new(false) };
}

/// What is said of a subject whose errors are right but for `cniVersion`: it must not hide what else a row finds.
pub const ONLY_VERSION: &str = "`cniVersion` in the error object";

/// Remembers that an error lacked `cniVersion`; the check goes on.
pub fn note_missing_version() {
    WITHOUT_VERSION.set(true);
}

/// Runs a check, which fails also when all it found is an error without `cniVersion`.
pub fn judged<T>(check: impl FnOnce() -> Verdict<T>) -> Verdict<T> {
    WITHOUT_VERSION.set(false);
    let verdict = check()?;
    if WITHOUT_VERSION.get() {
        return Err(failed(
            ONLY_VERSION,
            "an error object that is right but for that",
        ));
    }
    Ok(verdict)
}

/// Fails unless `condition` holds.
pub fn expect(condition: bool, expected: impl Display, seen: impl Display) -> Verdict {
    if condition {
        Ok(())
    } else {
        Err(failed(expected, seen))
    }
}

/// A failure with its sentence.
pub fn failed(expected: impl Display, seen: impl Display) -> Unmet {
    Unmet::Failed {
        expected: expected.to_string(),
        seen: seen.to_string(),
    }
}

/// The row does not apply to this subject.
pub fn not_applicable(reason: impl Display) -> Verdict {
    Err(Unmet::NotApplicable(reason.to_string()))
}

/// Puts words in front of what was seen: which of several variants of a check it was.
pub trait During {
    /// Says what was going on.
    fn during(self, what: impl Display) -> Self;
}

impl<T> During for Verdict<T> {
    fn during(self, what: impl Display) -> Self {
        self.map_err(|unmet| match unmet {
            Unmet::Failed { expected, seen } => Unmet::Failed {
                expected,
                seen: format!("{what}: {seen}"),
            },
            other @ Unmet::NotApplicable(_) => other,
        })
    }
}
