//! The pods whose links are there: by their records, and by the link itself where its record is damaged. A pod must not
//! lose its network because a file did.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketType, socket};

use super::{Error, Pod};
use crate::names;
use crate::netlink::MacAddress;
use crate::plan;
use crate::state;

const LINKS: &str = "/sys/class/net";

/// The pods of a bridge.
pub fn pods(bridge: &str) -> Result<Vec<Pod>, Error> {
    let records = state::records()?;
    let mut pods = Vec::new();
    let here = records.whole.into_iter();
    for record in here.filter(|record| record.bridge == bridge) {
        let ifindex = interface_index(&record.host_veth).map_err(Error::Pods)?;
        pods.extend(ifindex.map(|ifindex| Pod {
            network: record.network,
            ifindex,
            container: names::container(&record.container_id),
            host_veth: record.host_veth,
            address: record.address,
            mac: record.mac,
        }));
    }
    for host_veth in records.damaged {
        let ifindex = interface_index(&host_veth).map_err(Error::Pods)?;
        let address = ifindex.and_then(|_| address_behind(&host_veth, bridge));
        pods.extend(ifindex.zip(address).map(|(ifindex, address)| Pod {
            network: String::new(),
            ifindex,
            // Nobody else's, which is what matters.
            container: names::container(&host_veth),
            host_veth,
            address,
            mac: plan::pod_mac(address),
        }));
    }
    Ok(pods)
}

/// The address of the pod behind a link of ours on this bridge.
fn address_behind(host_veth: &str, bridge: &str) -> Option<Ipv4Addr> {
    let link = Path::new(LINKS).join(host_veth);
    let master = std::fs::read_link(link.join("master")).ok()?;
    let mac = std::fs::read_to_string(link.join("address")).ok()?;
    let mac: MacAddress = mac.trim().parse().ok()?;
    (master.file_name()? == bridge).then(|| plan::address_behind(mac))?
}

/// Whether there is a link of this index. In doubt there is.
pub fn is_link(index: u32) -> bool {
    let Ok(socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else {
        return true;
    };
    !matches!(index_to_name(socket, index), Err(Errno::NODEV))
}

/// The index of a link of this namespace, if there is one of that name.
pub fn interface_index(name: &str) -> io::Result<Option<u32>> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    match name_to_index(socket, name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
