//! Which tier a bridge has and why: written when it is chosen, read by every later call.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Mechanism, Rules, Tier};
use crate::state;

/// The choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What is in place.
    pub tier: Tier,
    /// Why it is not eBPF, if that was tried.
    pub why: Option<String>,
    /// By which rules, in the netfilter tier.
    #[serde(default)]
    pub rules: Rules,
}

/// What is known of a datapath could not be written down, or forgotten.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Record {
    /// eBPF was just set up.
    pub(super) fn ebpf(mechanism: Mechanism) -> Self {
        Self {
            tier: Tier::Ebpf(mechanism),
            why: None,
            rules: Rules::default(),
        }
    }

    /// These rules were just installed.
    pub(super) fn netfilter(rules: Rules, why: Option<String>) -> Self {
        Self {
            tier: Tier::Netfilter,
            why,
            rules,
        }
    }

    /// The choice of an earlier call since boot. A file that cannot be read counts as none: the
    /// choice is made again, and making it again loses nothing.
    pub fn read(bridge: &str) -> Option<Self> {
        state::read_json(&path(bridge))
    }

    /// The bridges that have a datapath.
    pub fn all() -> Vec<(String, Self)> {
        let Ok(entries) = std::fs::read_dir(state::DIRECTORY) else {
            return Vec::new();
        };
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let bridge = name.strip_prefix("datapath-")?.strip_suffix(".json")?;
                Some((bridge.to_owned(), Self::read(bridge)?))
            })
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    pub(super) fn write(&self, bridge: &str) -> Result<(), Error> {
        if Self::read(bridge).as_ref() == Some(self) {
            return Ok(());
        }
        let path = path(bridge);
        state::write_json(&path, self).map_err(|source| Error {
            what: "write",
            path,
            source,
        })
    }

    /// Forgets the choice for `bridge`.
    pub(super) fn remove(bridge: &str) -> Result<(), Error> {
        remove(path(bridge))
    }
}

/// Removes a file of a datapath; one that is not there is as good.
pub(super) fn remove(path: PathBuf) -> Result<(), Error> {
    state::remove_file(&path).map_err(|source| Error {
        what: "remove",
        path,
        source,
    })
}

fn path(bridge: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("datapath-{bridge}.json"))
}
