//! Which link is the NIC of the pods' subnet, and which bridge it is or becomes a port of.
//! A pure choice over what the kernel lists.

use ipnet::Ipv4Net;

use super::journal::Journal;
use super::{NodeError, NodeWanted};
use crate::names;
use crate::netlink::link::{Link, LinkKind};
use crate::netlink::{Netlink, NetlinkError, address};

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
    /// Name of the bridge.
    pub bridge_name: String,
    /// The bridge, if it exists.
    pub bridge: Option<Link>,
}

impl Snapshot {
    /// Reads links and addresses from the kernel.
    pub async fn take(netlink: &Netlink) -> Result<Self, NetlinkError> {
        let links = netlink.links().await?;
        let addresses = netlink.ipv4_addresses().await?;
        let addresses = addresses
            .iter()
            .filter_map(|entry| Some((entry.header.index, address::ipv4_net(entry)?)))
            .collect();
        Ok(Self { links, addresses })
    }

    fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    fn owns(&self, link: &Link, subnet: Ipv4Net) -> bool {
        self.addresses
            .iter()
            .any(|(index, address)| *index == link.index && subnet.contains(&address.addr()))
    }

    fn ports(&self, bridge: &Link) -> impl Iterator<Item = &Link> {
        let index = bridge.index;
        self.links
            .iter()
            .filter(move |link| link.master == Some(index) && !names::is_ours(&link.name))
    }
}

/// Chooses the NIC: the one that the configuration names, else the one that owns an address in the
/// subnet (directly, or through the bridge it is in), else the one that a journal remembers.
pub fn choose(
    snapshot: &Snapshot,
    wanted: &NodeWanted,
    journals: &[Journal],
) -> Result<Place, NodeError> {
    if let Some(name) = &wanted.master {
        let nic = snapshot
            .named(name)
            .ok_or_else(|| NodeError::NoSuchMaster { name: name.clone() })?;
        return place(snapshot, wanted, nic);
    }
    let mut refusal = None;
    for owner in meant(snapshot, wanted) {
        let chosen = if owner.is_bridge() {
            adopt(snapshot, owner, journals)
        } else {
            place(snapshot, wanted, owner)
        };
        match chosen {
            Ok(place) => return Ok(place),
            // Another owner may do; a wrong name for the bridge would be wrong for all of them.
            Err(NodeError::UnsuitableMaster { .. }) => {}
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    if let Some(error) = refusal {
        return Err(error);
    }
    remembered(snapshot, wanted, journals).ok_or(NodeError::NoMaster {
        subnet: wanted.subnet,
    })
}

/// Links with an address in the subnet. Of several, those with the MAC that IPAM says, if any has it:
/// the bridge of another plugin may have a MAC of its own.
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
fn place(snapshot: &Snapshot, wanted: &NodeWanted, nic: &Link) -> Result<Place, NodeError> {
    refuse_unsuitable(nic)?;
    if let Some(master) = nic.master {
        return already_a_port(snapshot, wanted, nic, master);
    }
    let name = match &wanted.bridge {
        Some(name) if names::is_valid(name) => name.clone(),
        Some(name) => return Err(NodeError::BadBridgeName { name: name.clone() }),
        None => format!("azure{}", nic.index),
    };
    let bridge = snapshot.named(&name);
    if let Some(bridge) = bridge {
        if !bridge.is_bridge() {
            return Err(NodeError::NotABridge { name });
        }
        if let Some(port) = snapshot.ports(bridge).next() {
            return Err(NodeError::BridgeTaken {
                bridge: name,
                port: port.name.clone(),
                master: nic.name.clone(),
            });
        }
    }
    Ok(Place {
        nic: nic.clone(),
        bridge: bridge.cloned(),
        bridge_name: name,
    })
}

fn refuse_unsuitable(link: &Link) -> Result<(), NodeError> {
    let why = if link.is_loopback() {
        "the loopback link"
    } else if link.is_bridge() {
        "a bridge; name its port instead"
    } else if names::is_ours(&link.name) {
        "the link of a pod"
    } else {
        return Ok(());
    };
    Err(NodeError::UnsuitableMaster {
        name: link.name.clone(),
        why: why.to_owned(),
    })
}

/// A NIC that is a port stays where it is. That is right if the bridge is the wanted one (a call
/// before this one was killed, or a DHCP client gave the NIC its address back) or holds the
/// node's address; a port of anything else is not a NIC but a part of one.
fn already_a_port(
    snapshot: &Snapshot,
    wanted: &NodeWanted,
    nic: &Link,
    master: u32,
) -> Result<Place, NodeError> {
    let master = snapshot.at(master);
    let default_name = format!("azure{}", nic.index);
    let wanted_name = wanted.bridge.as_ref().unwrap_or(&default_name);
    match master {
        Some(bridge)
            if bridge.is_bridge()
                && (bridge.name == *wanted_name || snapshot.owns(bridge, wanted.subnet)) =>
        {
            if bridge.name != *wanted_name {
                tracing::warn!(
                    "{} stays a port of the bridge {}, not of {wanted_name}: the node and its pods use it",
                    nic.name,
                    bridge.name,
                );
            }
            Ok(Place {
                nic: nic.clone(),
                bridge_name: bridge.name.clone(),
                bridge: Some(bridge.clone()),
            })
        }
        _ => Err(NodeError::UnsuitableMaster {
            name: nic.name.clone(),
            why: format!("a port of {}", master.map_or("another link", |m| &m.name)),
        }),
    }
}

/// A bridge that owns the subnet is adopted with the port that is its NIC; nothing is torn down.
fn adopt(snapshot: &Snapshot, bridge: &Link, journals: &[Journal]) -> Result<Place, NodeError> {
    let recorded = |port: &&Link| {
        let recorded =
            |journal: &Journal| journal.bridge == bridge.name && journal.master == port.name;
        journals.iter().any(recorded)
    };
    let same_mac = |port: &&Link| port.mac.is_some() && port.mac == bridge.mac;
    let hardware = |port: &&Link| port.kind == LinkKind::Hardware;
    let nic = snapshot
        .ports(bridge)
        .find(recorded)
        .or_else(|| snapshot.ports(bridge).find(same_mac))
        .or_else(|| snapshot.ports(bridge).find(hardware));
    match nic {
        Some(nic) => Ok(Place {
            nic: nic.clone(),
            bridge_name: bridge.name.clone(),
            bridge: Some(bridge.clone()),
        }),
        None => reunite(snapshot, bridge, journals),
    }
}

/// Our bridge without its NIC (somebody took it out) gets it back.
fn reunite(snapshot: &Snapshot, bridge: &Link, journals: &[Journal]) -> Result<Place, NodeError> {
    journals
        .iter()
        .filter(|journal| journal.bridge == bridge.name)
        .filter_map(|journal| snapshot.named(&journal.master))
        .find(|nic| nic.master.is_none() && refuse_unsuitable(nic).is_ok())
        .map(|nic| Place {
            nic: nic.clone(),
            bridge_name: bridge.name.clone(),
            bridge: Some(bridge.clone()),
        })
        .ok_or_else(|| NodeError::UnsuitableMaster {
            name: bridge.name.clone(),
            why: "a bridge without a NIC".to_owned(),
        })
}

/// The NIC of a node that lost its addresses (somebody deleted the bridge that had them).
fn remembered(snapshot: &Snapshot, wanted: &NodeWanted, journals: &[Journal]) -> Option<Place> {
    let had = |journal: &&Journal| {
        let addresses = journal.addresses();
        let mut nets = addresses.iter().filter_map(address::ipv4_net);
        nets.any(|net| wanted.subnet.contains(&net.addr()))
    };
    journals
        .iter()
        .filter(had)
        .filter_map(|journal| snapshot.named(&journal.master))
        .find_map(|nic| place(snapshot, wanted, nic).ok())
}

#[cfg(test)]
mod tests;
