//! The pods whose links are there: by their records, and by the link itself where its record is damaged or gone. A pod must not
//! lose its network because a file did.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::datapath::Pod;
use crate::legacy;
use crate::names;
use crate::netlink::MacAddress;
use crate::plan;
use crate::state::{self, Attachment};

pub use crate::netlink::link::interface_index;

const LINKS: &str = "/sys/class/net";

/// Which pods there are is not known, and none that lives must be taken for dead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Because of a record.
    #[error(transparent)]
    Records(#[from] state::Error),
    /// Because of the links.
    #[error("cannot list the links of the pods")]
    Links(#[source] io::Error),
}

/// The pods of a bridge.
pub fn pods(bridge: &str) -> Result<Vec<Pod>, Error> {
    let mut found: BTreeMap<String, Pod> = BTreeMap::new();
    for record in state::records()?.whole {
        if record.bridge == bridge
            && let Some(ifindex) = interface_index(&record.host_veth).map_err(Error::Links)?
        {
            found.insert(record.host_veth.clone(), recorded(record, ifindex));
        }
    }
    for host_veth in ports(bridge).map_err(Error::Links)? {
        if !found.contains_key(&host_veth)
            && let Some(ifindex) = interface_index(&host_veth).map_err(Error::Links)?
            && let Some((address, mac)) = behind(&host_veth)
        {
            let pod = Pod {
                network: String::new(),
                ifindex,
                // Nobody else's, which is what matters.
                container: names::container(&host_veth),
                host_veth: host_veth.clone(),
                address,
                mac,
            };
            found.insert(host_veth, pod);
        }
    }
    Ok(found.into_values().collect())
}

fn recorded(record: Attachment, ifindex: u32) -> Pod {
    Pod {
        network: record.network,
        ifindex,
        container: names::container(&record.container_id),
        host_veth: record.host_veth,
        address: record.address,
        mac: record.mac,
    }
}

/// The links of pods among the ports of a bridge.
fn ports(bridge: &str) -> io::Result<Vec<String>> {
    let directory: PathBuf = [LINKS, bridge, "brif"].iter().collect();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && names::is_pods(&name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Address and MAC of the pod behind a link: what our own link's MAC says, or what the original plugin wrote down, whose later
/// versions name links as we do.
fn behind(host_veth: &str) -> Option<(Ipv4Addr, MacAddress)> {
    by_link(host_veth).or_else(|| legacy::pod_behind(host_veth))
}

fn by_link(host_veth: &str) -> Option<(Ipv4Addr, MacAddress)> {
    if !names::is_ours(host_veth) {
        return None;
    }
    let mac = std::fs::read_to_string(Path::new(LINKS).join(host_veth).join("address")).ok()?;
    let address = plan::address_behind(mac.trim().parse().ok()?)?;
    Some((address, plan::pod_mac(address)))
}

/// Whether there is a link of this index. In doubt there is.
pub fn is_link(index: u32) -> bool {
    let Ok(socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else {
        return true;
    };
    !matches!(index_to_name(socket, index), Err(Errno::NODEV))
}
