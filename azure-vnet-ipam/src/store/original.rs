//! The state of the original plugin (v1.0 to v1.4): pods that it has made live on after the upgrade.
//!
//! `azure-vnet-ipam.json` has an object for each address, with the container that has it; before v1.1 without, and
//! then `azure-vnet.json` says which it is. Both are read wherever such objects stand in them, so that the
//! versions' differences and a file that was cut off make none. They are not changed: going back stays possible.
//!
//! Whether they are of this boot is not asked of their times, which a clock that was set makes wrong, but of the node's
//! links: a pod that lives has one, whatever its address and however little is left of the files.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{attachments, document::MAX_BYTES};
use crate::{
    pool::{Key, Lease},
    salvage::salvage,
};

const ADDRESSES: &str = "azure-vnet-ipam.json";
const ENDPOINTS: &str = "azure-vnet.json";

const LINKS: &str = "/sys/class/net";

/// What the names of its pods' links begin with, in all versions; and those of ours.
const PODS: &str = "azv";

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Addr")]
    addr: Ipv4Addr,
    #[serde(rename = "InUse")]
    in_use: bool,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "ContainerID", default)]
    container_id: String,
    #[serde(rename = "HostIfName")]
    host_veth: String,
    #[serde(rename = "IPAddresses")]
    ip_addresses: Vec<Net>,
}

#[derive(Deserialize)]
struct Net {
    #[serde(rename = "IP")]
    ip: String,
}

/// Whether there is anything to read.
pub(super) fn exists(dir: &Path) -> bool {
    beside(dir, ADDRESSES).exists()
}

/// The addresses of its pods that live, as leases.
pub(super) fn leases(dir: &Path) -> Vec<Lease> {
    let Some(bytes) = read(dir, ADDRESSES) else {
        return Vec::new();
    };
    let endpoints = endpoints(dir);
    let links = links();
    // The link of a pod that neither its file nor ours know: any address that is not an endpoint's may be its.
    let known: BTreeSet<String> = endpoints
        .iter()
        .map(|endpoint| endpoint.host_veth.clone())
        .chain(attachments::all(dir).map(|attachment| attachment.host_veth))
        .collect();
    let is_one_unknown = !links.is_subset(&known);
    let lease = |address: Address| {
        let Address { id, addr, in_use } = address;
        // As it does itself: an address with a container is not free either.
        if !in_use && id.is_empty() {
            return None;
        }
        let text = addr.to_string();
        let has = |endpoint: &&Endpoint| endpoint.ip_addresses.iter().any(|net| net.ip == text);
        let endpoint = endpoints.iter().find(has);
        let may_live = endpoint.map_or(is_one_unknown, |it| links.contains(&it.host_veth));
        let owner = Some(id).filter(|id| !id.is_empty());
        let owner = owner.or_else(|| Some(endpoint?.container_id.clone()));
        let key = Key::of_container(&owner.unwrap_or_default());
        may_live.then(|| Lease::imported(key, addr))
    };
    let addresses = salvage::<Address>(&bytes).into_iter();
    addresses.filter_map(lease).collect()
}

fn endpoints(dir: &Path) -> Vec<Endpoint> {
    read(dir, ENDPOINTS).map_or_else(Vec::new, |bytes| salvage(&bytes))
}

/// The links of pods.
fn links() -> BTreeSet<String> {
    let entries = fs::read_dir(LINKS).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(PODS)).collect()
}

/// The original keeps its files in `/var/run`, which is where our directory is.
fn beside(dir: &Path, name: &str) -> PathBuf {
    dir.parent().unwrap_or(Path::new("/")).join(name)
}

fn read(dir: &Path, name: &str) -> Option<Vec<u8>> {
    azure_vnet_files::read_own(&beside(dir, name), MAX_BYTES).ok()
}
