//! What is written down of each bridge: the NIC that it is for. It lives in `/run`, which a reboot empties together with
//! the network; where `/run` survives one, the record of another boot counts as none.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::NodeError;
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError};
use crate::state;

const PREFIX: &str = "node-";
const SUFFIX: &str = ".json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The version of the format. The first was the journal of v0.1.0 ([`crate::takeover`]), at the same place.
const VERSION: u32 = 2;

/// A bridge and its NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The boot that this is true of (`/proc/sys/kernel/random/boot_id`).
    boot: String,
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the NIC.
    pub nic: String,
    /// Interface index of the NIC, which stays when the NIC is renamed.
    pub nic_index: u32,
}

impl Record {
    /// The record of a bridge that was just made.
    pub fn new(bridge: &str, nic: &Link) -> Self {
        Self {
            version: VERSION,
            boot: boot(),
            bridge: bridge.to_owned(),
            nic: nic.name.clone(),
            nic_index: nic.index,
        }
    }

    /// The NIC, also under another name.
    pub async fn nic(&self, netlink: &Netlink) -> Result<Option<Link>, NetlinkError> {
        match netlink.link(&self.nic).await? {
            None => netlink.link_at(self.nic_index).await,
            named => Ok(named),
        }
    }

    /// The NIC among these links, also under another name.
    pub fn nic_among<'a>(&self, links: &'a [Link]) -> Option<&'a Link> {
        let named = links.iter().find(|link| link.name == self.nic);
        named.or_else(|| links.iter().find(|link| link.index == self.nic_index))
    }

    /// Writes it down.
    pub fn write(&self) -> Result<(), NodeError> {
        let path = path_of(&self.bridge);
        state::write_json(&path, self).map_err(|source| NodeError::file("write", &path, source))
    }

    /// Forgets the bridge.
    pub fn remove(&self) -> Result<(), NodeError> {
        let path = path_of(&self.bridge);
        state::remove_file(&path).map_err(|source| NodeError::file("remove", &path, source))
    }
}

/// The records of this boot, by the names of their bridges. One that cannot be read counts as lost: an ADD writes it again.
pub fn all() -> Vec<Record> {
    let mut records: Vec<Record> = files().iter().filter_map(|path| read(path)).collect();
    records.sort_by(|a, b| a.bridge.cmp(&b.bridge));
    records
}

/// The record of one bridge.
pub fn of(bridge: &str) -> Option<Record> {
    read(&path_of(bridge))
}

/// The files that records are in, and the journals of v0.1.0.
pub fn files() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(state::DIRECTORY) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_record = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_record).collect();
    paths.sort();
    paths
}

/// Where the record of a bridge is.
pub fn path_of(bridge: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("{PREFIX}{bridge}{SUFFIX}"))
}

/// Names the boot; nothing where the kernel does not say it, which is then true of all records.
pub fn boot() -> String {
    let id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    id.trim().to_owned()
}

fn read(path: &Path) -> Option<Record> {
    let record: Record = state::read_json(path)?;
    (record.version == VERSION && record.boot == boot()).then_some(record)
}
