//! What can be known about the addresses in use without a record that can be read.
//!
//! Three places remember attachments with their names: what is left of the damaged files, the network plugin's own
//! records of links that are there, and the state of the original plugin. What none of them knows is still not
//! given out as long as the kernel shows it ([`crate::node`]); it only cannot be freed by name.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{attachments, document::MAX_BYTES, original};
use crate::{pool::Lease, salvage::salvage};

/// Every lease that one of the places remembers; the surest place goes first where two disagree.
pub(super) fn leases(dir: &Path, damaged: &[PathBuf], boot_id: &str) -> Vec<Lease> {
    let damaged = damaged.iter().flat_map(|path| left_in(path, boot_id));
    let all = attached(dir).chain(damaged).chain(original::leases(dir));
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

/// Those of links that are there. A record without its link is that of a pod that is gone, or not yet there and will be
/// refused.
fn attached(dir: &Path) -> impl Iterator<Item = Lease> {
    attachments::all(dir)
        .filter(|attachment| attachments::is_link(&attachment.host_veth))
        .map(|attachment| Lease::in_unknown_subnet(attachment.key(), attachment.address))
}
