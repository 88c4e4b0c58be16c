//! What can be known about the addresses in use without a record that can be read.
//!
//! Three places remember attachments with their names: what is left of the damaged files, the network plugin's own
//! records of links that are there, and the state of the original plugin. What none of them knows is still not
//! given out as long as the kernel shows it ([`crate::node`]); it only cannot be freed by name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{document::MAX_BYTES, original};
use crate::{
    pool::{Key, Lease},
    salvage::salvage,
};

const LINKS: &str = "/sys/class/net";

/// A node has 250 pods at most; this is where counting stops making sense.
const MAX_ATTACHMENTS: usize = 4096;

/// Every lease that one of the places remembers; the surest place goes first where two disagree.
pub(super) fn leases(dir: &Path, damaged: &[PathBuf], boot_id: &str) -> Vec<Lease> {
    let damaged = damaged.iter().flat_map(|path| left_in(path, boot_id));
    let all = attachments(dir)
        .into_iter()
        .chain(damaged)
        .chain(original::leases(dir));
    let (mut addresses, mut keys) = (BTreeSet::new(), BTreeSet::new());
    // An imported key does not name one attachment, so several leases may have it.
    all.filter(|lease| addresses.insert(lease.address))
        .filter(|lease| lease.imported || keys.insert(lease.key.clone()))
        .collect()
}

/// The leases in a damaged file that are whole. Those of another boot are void.
fn left_in(path: &Path, boot_id: &str) -> Vec<Lease> {
    match azure_vnet_files::read_own(path, MAX_BYTES) {
        Ok(bytes) if contains(&bytes, boot_id) => salvage(&bytes),
        _ => Vec::new(),
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// What the network plugin writes for each attachment, as far as it is wanted here.
#[derive(Deserialize)]
struct Attachment {
    network: String,
    container_id: String,
    ifname: String,
    host_veth: String,
    address: std::net::Ipv4Addr,
}

fn attachments(dir: &Path) -> Vec<Lease> {
    let entries = fs::read_dir(dir.join("attachments")).into_iter().flatten();
    let files = entries.flatten().map(|entry| entry.path());
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .take(MAX_ATTACHMENTS)
        .filter_map(|path| azure_vnet_files::read_own(&path, MAX_BYTES).ok())
        .filter_map(|bytes| serde_json::from_slice::<Attachment>(&bytes).ok())
        .filter(|attachment| is_link(&attachment.host_veth))
        .map(|attachment| {
            let Attachment {
                network,
                container_id,
                ifname,
                ..
            } = &attachment;
            Lease::in_unknown_subnet(Key::new(network, container_id, ifname), attachment.address)
        })
        .collect()
}

/// A record without its link is that of a pod that is gone, or not yet there and will be refused.
fn is_link(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && Path::new(LINKS).join(name).exists()
}
