//! What was installed last, to tell whether somebody has changed it since.
//!
//! How a program lists a rule differs from how it was written, and from version to version. So what is compared is the
//! listing with the listing that was had right after the rules were installed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::datapath::record;
use crate::state;

/// Tells one text from another.
pub type Digest = [u8; 32];

/// What was installed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Of the text of the rules.
    pub rules: Digest,
    /// Of how what became of it is listed.
    pub form: Digest,
}

impl Seal {
    /// What an earlier call wrote since boot. Without it the rules are installed anew.
    pub fn read(bridge: &str) -> Option<Self> {
        Self::at(&path(bridge))
    }

    /// The same, of another table.
    pub fn at(path: &Path) -> Option<Self> {
        state::read_json(path)
    }

    /// Writes it down, under the bridge's lock. Without it the rules work, and are installed anew by the next call.
    pub fn write(&self, bridge: &str) {
        if Self::read(bridge).as_ref() == Some(self) {
            return;
        }
        if let Err(error) = state::write_json(&path(bridge), self) {
            tracing::warn!("cannot note the netfilter rules of {bridge}: {error}");
        }
    }

    /// Forgets it.
    pub fn forget(bridge: &str) -> Result<(), record::Error> {
        record::remove(path(bridge))
    }
}

/// The digest of a text.
pub fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

fn path(bridge: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("netfilter-{bridge}.json"))
}
