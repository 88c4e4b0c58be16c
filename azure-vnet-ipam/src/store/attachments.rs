//! The network plugin's records of its attachments, as far as they say whose an address is and whether its pod lives.

use std::{fs, net::Ipv4Addr, path::Path};

use rustix::fs::statfs;
use serde::Deserialize;

use super::document::MAX_BYTES;
use crate::pool::Key;

const LINKS: &str = "/sys/class/net";

/// A node has 250 pods at most; this is where counting stops making sense.
const MAX_ATTACHMENTS: usize = 4096;

/// `NSFS_MAGIC` of `linux/magic.h`: what a file that names a namespace is on.
const NSFS: u64 = 0x6e73_6673;

/// What the network plugin writes for each attachment, as far as it is wanted here.
#[derive(Deserialize)]
pub struct Attachment {
    network: String,
    container_id: String,
    ifname: String,
    netns: String,
    pub(super) host_veth: String,
    pub(super) address: Ipv4Addr,
}

/// All that can be read.
pub(super) fn all(dir: &Path) -> impl Iterator<Item = Attachment> {
    let entries = fs::read_dir(dir.join("attachments")).into_iter().flatten();
    let files = entries.flatten().map(|entry| entry.path());
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .take(MAX_ATTACHMENTS)
        .filter_map(|path| azure_vnet_files::read_own(&path, MAX_BYTES).ok())
        .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
}

/// Whether there is a link of this name.
pub(super) fn is_link(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && Path::new(LINKS).join(name).exists()
}

impl Attachment {
    pub(super) fn key(&self) -> Key {
        Key::new(&self.network, &self.container_id, &self.ifname)
    }

    /// Whether neither link nor namespace is there any more: what `azure-vnet gc` goes by.
    pub(super) fn is_gone(&self) -> bool {
        let is_namespace = |path: &str| {
            let type_of = |found: rustix::fs::StatFs| u64::try_from(found.f_type).ok();
            statfs(path).is_ok_and(|found| type_of(found) == Some(NSFS))
        };
        !is_link(&self.host_veth) && !is_namespace(&self.netns)
    }
}
