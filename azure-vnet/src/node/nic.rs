//! Which link is the NIC of the pods' subnet, and what the bridge for it is called. A pure choice over what the kernel
//! lists.

use ipnet::Ipv4Net;

use super::record::Record;
use super::{NodeError, NodeWanted};
use crate::names;
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError};

/// The links and IPv4 addresses of the node.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// All links.
    pub links: Vec<Link>,
    /// Link index and address, in the kernel's order: the primary address of a link first.
    pub addresses: Vec<(u32, Ipv4Net)>,
}

/// The NIC and its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The NIC.
    pub nic: Link,
    /// Name of the bridge, which may be there or not.
    pub bridge_name: String,
}

impl Snapshot {
    /// Reads links and addresses from the kernel.
    pub async fn take(netlink: &Netlink) -> Result<Self, NetlinkError> {
        let links = netlink.links().await?;
        let addresses = netlink.ipv4_nets().await?;
        Ok(Self { links, addresses })
    }

    fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with this index.
    pub fn at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

/// Chooses the NIC: the one that the configuration names, else the link that owns an address in the
/// subnet.
pub fn choose(
    snapshot: &Snapshot,
    wanted: &NodeWanted,
    records: &[Record],
) -> Result<Place, NodeError> {
    if let Some(name) = &wanted.master {
        let nic = snapshot
            .named(name)
            .ok_or_else(|| NodeError::NoSuchMaster { name: name.clone() })?;
        return place(snapshot, wanted, nic, records);
    }
    let mut refusal = None;
    for owner in meant(snapshot, wanted) {
        match place(snapshot, wanted, owner, records) {
            Ok(place) => return Ok(place),
            // Another owner may do; a wrong name for the bridge would be wrong for all of them.
            Err(NodeError::UnsuitableMaster { .. }) => {}
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or(NodeError::NoMaster {
        subnet: wanted.subnet,
    }))
}

/// Whether `nic` is the one with the wanted MAC, or none is.
pub async fn is_meant(
    netlink: &Netlink,
    wanted: &NodeWanted,
    nic: &Link,
) -> Result<bool, NetlinkError> {
    if wanted.mac.is_none() || wanted.mac == nic.mac {
        return Ok(true);
    }
    let links = netlink.links().await?;
    Ok(links.iter().all(|link| link.mac != wanted.mac))
}

/// Links with an address in the subnet. Of several, those with the MAC that IPAM says, if any has it.
fn meant<'a>(snapshot: &'a Snapshot, wanted: &NodeWanted) -> Vec<&'a Link> {
    let mut owners: Vec<&Link> = owners(snapshot, wanted.subnet).collect();
    let is_meant = |link: &&Link| wanted.mac.is_some() && link.mac == wanted.mac;
    if owners.iter().any(is_meant) {
        owners.retain(is_meant);
    }
    owners
}

/// Links with an address in the subnet; first those whose own network it is exactly.
fn owners(snapshot: &Snapshot, subnet: Ipv4Net) -> impl Iterator<Item = &Link> {
    let inside = move |exact: bool| {
        snapshot
            .addresses
            .iter()
            .filter(move |(_, address)| {
                subnet.contains(&address.addr()) && (address.trunc() == subnet.trunc()) == exact
            })
            .filter_map(|(index, _)| snapshot.at(*index))
    };
    inside(true).chain(inside(false))
}

/// The place of a link that is to be the NIC.
fn place(
    snapshot: &Snapshot,
    wanted: &NodeWanted,
    nic: &Link,
    records: &[Record],
) -> Result<Place, NodeError> {
    refuse_unsuitable(snapshot, nic)?;
    let default = format!("azure{}", nic.index);
    let known = records.iter().find(|record| record.nic == nic.name);
    let name = match (known, &wanted.bridge) {
        (Some(record), wanted) => {
            let bridge = &record.bridge;
            if wanted.as_ref().is_some_and(|wanted| wanted != bridge) {
                tracing::warn!("the pods of {} stay on the bridge {bridge}", nic.name);
            }
            bridge
        }
        // A name without a NIC is that of the bridge for the first one. When its addresses are used up, the next ones are
        // another NIC's, which gets a bridge of its own.
        (None, Some(name))
            if wanted.master.is_none() && other_with(name, nic, records).is_some() =>
        {
            &default
        }
        (None, Some(name)) => name,
        (None, None) => &default,
    };
    if !names::is_valid(name) {
        return Err(NodeError::BadBridgeName { name: name.clone() });
    }
    refuse_taken(snapshot, name, nic, records)?;
    Ok(Place {
        nic: nic.clone(),
        bridge_name: name.clone(),
    })
}

/// The record of another NIC's bridge with this name.
fn other_with<'a>(name: &str, nic: &Link, records: &'a [Record]) -> Option<&'a Record> {
    let mut records = records.iter();
    records.find(|it| it.bridge == name && it.nic != nic.name && it.nic_index != nic.index)
}

fn refuse_unsuitable(snapshot: &Snapshot, link: &Link) -> Result<(), NodeError> {
    let why = if link.is_loopback() {
        "the loopback link".to_owned()
    } else if link.is_marked() {
        "a bridge of azure-vnet".to_owned()
    } else if names::is_ours(&link.name) {
        "the link of a pod".to_owned()
    } else if let Some(master) = link.master {
        let master = snapshot.at(master).map_or("another link", |it| &it.name);
        format!("a port of {master}, which has its place")
    } else if link.mac.is_none() {
        return Err(NodeError::NotEthernet {
            name: link.name.clone(),
        });
    } else if is_bridge_of_containers(snapshot, link) {
        "a bridge of containers".to_owned()
    } else {
        return Ok(());
    };
    Err(NodeError::UnsuitableMaster {
        name: link.name.clone(),
        why,
    })
}

/// A bridge may be the NIC where the NIC is its port: it has the NIC's MAC then, as Linux and netplan make it.
fn is_bridge_of_containers(snapshot: &Snapshot, link: &Link) -> bool {
    let mut ports = snapshot
        .links
        .iter()
        .filter(|port| port.master == Some(link.index));
    link.is_bridge() && !ports.any(|port| port.mac == link.mac)
}

/// Fails if what has the bridge's name is not a bridge for this NIC, nor one that connects nothing.
fn refuse_taken(
    snapshot: &Snapshot,
    name: &str,
    nic: &Link,
    records: &[Record],
) -> Result<(), NodeError> {
    let Some(bridge) = snapshot.named(name) else {
        return Ok(());
    };
    if !bridge.is_bridge() {
        return Err(NodeError::NotABridge {
            name: name.to_owned(),
        });
    }
    if let Some(record) = other_with(name, nic, records) {
        return Err(NodeError::BridgeOfAnotherNic {
            bridge: name.to_owned(),
            nic: record.nic.clone(),
            master: nic.name.clone(),
        });
    }
    let foreign = |port: &&Link| port.master == Some(bridge.index) && !names::is_pods(&port.name);
    match snapshot.links.iter().find(foreign) {
        Some(port) => Err(NodeError::BridgeTaken {
            bridge: name.to_owned(),
            port: port.name.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
