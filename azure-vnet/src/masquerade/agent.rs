//! The files of ip-masq-agent: `/etc/config/ip-masq*`, where that agent's `ConfigMap` is mounted.
//!
//! They are merged as Azure's version 2 of the agent merges them: lists united, booleans OR-ed. Unlike
//! there, a missing directory is an empty configuration, and a file that cannot be read keeps the last
//! set that could, in `/run`, and is reported instead of ending anything.

mod file;

use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::MOST_PREFIXES;
use crate::lock;
use crate::state;

pub use file::{Reason, parse, range};

/// Where the files are.
pub const DIRECTORY: &str = "/etc/config";
/// How their names begin.
const PREFIX: &str = "ip-masq";
/// How many there may be.
const MOST_FILES: usize = 64;

/// What the files say, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `nonMasqueradeCIDRs`, in ascending order.
    pub ranges: Vec<Ipv4Net>,
    /// `masqLinkLocal`.
    pub link_local: bool,
}

/// What is in force of the files, and what is wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// What the files say, or said when they could last be read; `None` without files.
    pub settings: Option<Settings>,
    /// Why it is not what they say now.
    pub problem: Option<String>,
    /// How often since boot files were refused that had not been refused before.
    pub refused: u64,
}

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// One file is bad.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Reason,
    },
    /// More than would fit.
    #[error("{}/{PREFIX}*: {count} {what}, and {most} are the most", directory.display())]
    TooMany {
        /// The directory.
        directory: PathBuf,
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
}

/// What is in force now. A change is logged and written down.
pub fn in_force() -> InForce {
    let path = Path::new(state::DIRECTORY).join("ip-masq-agent.json");
    let before = remembered(&path);
    let now = next(read(Path::new(DIRECTORY)), &before);
    if now != before
        && let Err(error) = remember(&path, &now, &before)
    {
        tracing::warn!("cannot write {}: {error}", path.display());
    }
    now
}

/// What was in force when it was last asked for, without looking at the files.
pub fn last() -> InForce {
    remembered(&Path::new(state::DIRECTORY).join("ip-masq-agent.json"))
}

fn next(read: Result<Option<Settings>, Error>, before: &InForce) -> InForce {
    match read {
        Ok(settings) => InForce {
            settings,
            problem: None,
            refused: before.refused,
        },
        Err(error) => {
            let problem = Some(error.to_string());
            InForce {
                settings: before.settings.clone(),
                refused: before.refused + u64::from(problem != before.problem),
                problem,
            }
        }
    }
}

/// Reads and merges the files. Without any there are no settings; with an empty one there are.
pub fn read(directory: &Path) -> Result<Option<Settings>, Error> {
    let mut merged: Option<Settings> = None;
    for path in files(directory)? {
        let said = file::read(&path).map_err(|reason| Error::File { path, reason })?;
        let Settings { ranges, link_local } = merged.get_or_insert_default();
        ranges.extend(said.ranges);
        *link_local |= said.link_local;
    }
    if let Some(Settings { ranges, .. }) = &mut merged {
        ranges.sort_unstable();
        ranges.dedup();
        // The rest is for the pool's subnet, the rules and what is always there.
        check("prefixes", directory, ranges.len(), MOST_PREFIXES / 2)?;
    }
    Ok(merged)
}

/// In the order of their names, so that the first bad one is always the same.
fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Directory {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let named = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
        if named && !entry.path().is_dir() {
            paths.push(entry.path());
        }
    }
    check("files", directory, paths.len(), MOST_FILES)?;
    paths.sort_unstable();
    Ok(paths)
}

fn check(what: &'static str, directory: &Path, count: usize, most: usize) -> Result<(), Error> {
    if count <= most {
        return Ok(());
    }
    Err(Error::TooMany {
        directory: directory.to_owned(),
        what,
        count,
        most,
    })
}

fn remembered(path: &Path) -> InForce {
    state::read_json(path).unwrap_or_default()
}

/// Under a lock: a file has one writer at a time. Another call may have been faster.
fn remember(path: &Path, now: &InForce, before: &InForce) -> io::Result<()> {
    let lock = lock::acquire(&path.with_extension("lock"));
    let _lock = lock.map_err(|error| io::Error::other(error.to_string()))?;
    if remembered(path) != *before {
        return Ok(());
    }
    match &now.problem {
        Some(problem) if Some(problem) != before.problem.as_ref() => {
            tracing::warn!("the last good ip-masq-agent configuration stays in force: {problem}");
        }
        Some(_) => {}
        None => tracing::info!(
            "ip-masq-agent configuration: {}",
            now.settings
                .as_ref()
                .map_or("none".into(), |settings| format!(
                    "{} ranges, masqLinkLocal {}",
                    settings.ranges.len(),
                    settings.link_local
                ))
        ),
    }
    state::write_json(path, now)
}

#[cfg(test)]
mod tests;
