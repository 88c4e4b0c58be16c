//! The state of the original plugin (v1.0 to v1.4): pods that it has made live on after the upgrade.
//!
//! `azure-vnet-ipam.json` has an object for each address, with the container that has it; before v1.1 without, and
//! then `azure-vnet.json` says which it is. Both are read wherever such objects stand in them, so that the
//! versions' differences and a file that was cut off make none. They are not changed: going back stays possible.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use super::document::MAX_BYTES;
use crate::{
    pool::{Key, Lease},
    salvage::salvage,
};

const ADDRESSES: &str = "azure-vnet-ipam.json";
const ENDPOINTS: &str = "azure-vnet.json";

/// `/proc/uptime` in seconds since the kernel's start, the first word.
const UPTIME: &str = "/proc/uptime";

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
    #[serde(rename = "ContainerID")]
    container_id: String,
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

/// The addresses that the original plugin has in use.
pub(super) fn leases(dir: &Path) -> Vec<Lease> {
    let Some(bytes) = read(&beside(dir, ADDRESSES)) else {
        return Vec::new();
    };
    let endpoints: Vec<Endpoint> =
        read(&beside(dir, ENDPOINTS)).map_or_else(Vec::new, |bytes| salvage(&bytes));
    let owner = |address: Ipv4Addr| {
        let address = address.to_string();
        let has = |endpoint: &&Endpoint| endpoint.ip_addresses.iter().any(|net| net.ip == address);
        endpoints
            .iter()
            .find(has)
            .map(|endpoint| endpoint.container_id.clone())
    };
    let addresses = salvage::<Address>(&bytes).into_iter();
    addresses
        // As it does itself: an address with a container is not free either.
        .filter(|address| address.in_use || !address.id.is_empty())
        .map(|Address { id, addr, .. }| {
            let container = Some(id).filter(|id| !id.is_empty()).or_else(|| owner(addr));
            Lease::imported(Key::of_container(&container.unwrap_or_default()), addr)
        })
        .collect()
}

/// The original keeps its files in `/var/run`, which is where our directory is.
fn beside(dir: &Path, name: &str) -> PathBuf {
    dir.parent().unwrap_or(Path::new("/")).join(name)
}

/// The bytes of a file that was written since the node was booted: no pod is older.
fn read(path: &Path) -> Option<Vec<u8>> {
    let written = fs::symlink_metadata(path).ok()?.modified().ok()?;
    let uptime = fs::read_to_string(UPTIME).ok()?;
    let uptime = uptime.split(' ').next()?.parse().ok()?;
    let booted = SystemTime::now().checked_sub(Duration::try_from_secs_f64(uptime).ok()?)?;
    if written < booted {
        return None;
    }
    azure_vnet_files::read_own(path, MAX_BYTES).ok()
}
