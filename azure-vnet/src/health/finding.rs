//! What a check has found.

use serde::Serialize;

use super::{ANY_CALL, Check};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which stays.
    pub check: Check,
    /// `ok`, `warning` or `problem`.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; none if it is fine.
    pub fix: Option<String>,
    /// An ADD puts it right, so it is no reason to keep new pods away.
    #[serde(skip)]
    pub is_mended_by_add: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something to know.
    Warning,
    /// It keeps pods from their network, or from the addresses that the configuration promises them.
    Problem,
}

impl Finding {
    /// All is well.
    pub fn ok(check: Check, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            fix: None,
            is_mended_by_add: false,
        }
    }

    /// Something to know, and what to do about it.
    pub fn warning(check: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warning,
            ..Self::problem(check, found, fix)
        }
    }

    /// Something is broken, and what mends it.
    pub fn problem(check: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Problem,
            found: found.into(),
            fix: Some(fix.into()),
            is_mended_by_add: false,
        }
    }

    /// Something is broken that any call mends.
    pub fn mended(check: Check, found: impl Into<String>) -> Self {
        Self {
            is_mended_by_add: true,
            ..Self::problem(check, found, ANY_CALL)
        }
    }

    /// Whether it is a problem.
    pub fn is_problem(&self) -> bool {
        self.verdict == Verdict::Problem
    }
}
