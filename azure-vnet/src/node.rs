//! The node's network: a bridge of ours that is the pods' router. The NIC is looked at and never changed: it is its
//! manager's.
//!
//! [`ensure`] is the story of an ADD here; [`mend`] is what every call does for all pods of the node.

mod bridge;
mod compare;
mod error;
mod look;
mod nic;
mod nics;
mod own_route;
pub mod record;
mod repair;
mod settings;
mod way_out;

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::lock;
use crate::netlink::link::Link;
use crate::netlink::{MacAddress, Netlink};
use crate::takeover;

pub use bridge::{ROUTER_MAC, has_ipv6, is_placeholder, keep_routes};
pub use error::NodeError;
pub use look::Look;
pub use nic::Place;
pub use own_route::is_own_route;
pub use repair::{
    NO_FORWARDING, Repair, Seen, forget_pod, mend, mend_beside, mend_pods, missing, route_to_pods,
};
pub use settings::forward_under_lock;
pub use way_out::is_ours as is_way_out;

use record::Record;

/// Held while the node's network is changed; never while waiting for anything but the kernel.
pub const LOCK: &str = "/run/azure-vnet/node.lock";

/// What the configuration and the address pool say about the node.
#[derive(Debug, Clone)]
pub struct NodeWanted {
    /// Name of the bridge; `azure<index of the NIC>` when not given.
    pub bridge: Option<String>,
    /// Name of the NIC; the one that owns an address in `subnet` when not given.
    pub master: Option<String>,
    /// MAC of the NIC, where IPAM knows it: a VM may have several NICs in one subnet.
    pub mac: Option<MacAddress>,
    /// The subnet that the pods' addresses come from.
    pub subnet: Ipv4Net,
}

/// The node's network as it is after [`ensure`].
#[derive(Debug, Clone)]
pub struct Node {
    /// The NIC: what leaves the node leaves by it.
    pub nic: Link,
    /// The bridge: the pods' router.
    pub bridge: Link,
    /// MAC of the NIC: the only source that the fabric accepts.
    pub mac: MacAddress,
    /// The NIC's first address in the pods' subnet: what masqueraded packets leave with.
    pub primary: Ipv4Addr,
}

/// Makes sure that there is a bridge for the pods of the NIC that is meant, and says how the node is, with the look that it was seen
/// by.
///
/// A node that v0.1.0 or the original plugin set up is taken over first, pods and all.
pub async fn ensure(netlink: &Netlink, wanted: &NodeWanted) -> Result<(Node, Look), NodeError> {
    takeover::complete(netlink).await?;
    let look = Look::take(netlink).await?;
    let found = match look.node(netlink, wanted).await? {
        Some(node) => (node, look),
        None => set_up(netlink, wanted).await?,
    };
    settings::forward()?;
    Ok(found)
}

/// The node's network as earlier calls left it, looked at and not changed; `None` where anything
/// of it is not as [`ensure`] would leave it.
pub async fn find(netlink: &Netlink, wanted: &NodeWanted) -> Result<Option<Node>, NodeError> {
    Look::take(netlink).await?.node(netlink, wanted).await
}

/// What keeps [`find`] from finding the node's network, one sentence each.
pub async fn broken(netlink: &Netlink, wanted: &NodeWanted) -> Result<Vec<String>, NodeError> {
    let look = Look::take(netlink).await?;
    let of_bridge = |name: &String| wanted.bridge.as_ref().is_none_or(|it| it == name);
    let meant = look.networks.iter().filter(|it| it.is_meant(wanted));
    let meant = meant.filter(|it| of_bridge(&it.record.bridge));
    Ok(meant.flat_map(look::Found::defects).collect())
}

/// The way with a lock: choose the NIC, make its bridge, write both down.
async fn set_up(netlink: &Netlink, wanted: &NodeWanted) -> Result<(Node, Look), NodeError> {
    takeover::by_marks(netlink).await?;
    let _lock = lock::acquire(Path::new(LOCK))?;
    let look = Look::take(netlink).await?;
    if let Some(node) = look.node(netlink, wanted).await? {
        return Ok((node, look));
    }
    let snapshot = nic::Snapshot::take(netlink).await?;
    let Place { nic, bridge_name } = nic::choose(&snapshot, wanted, &record::all())?;
    bridge::ensure(netlink, &bridge_name, &nic).await?;
    Record::new(&bridge_name, &nic).write()?;
    let look = Look::take(netlink).await?;
    match look.node(netlink, wanted).await? {
        Some(node) => Ok((node, look)),
        None => Err(NodeError::NoAddress {
            bridge: bridge_name,
            master: nic.name,
            subnet: wanted.subnet,
        }),
    }
}

/// Makes the bridge and writes it down, for a node that is taken over; under the node's lock.
pub(crate) async fn make_bridge(
    netlink: &Netlink,
    name: &str,
    nic: &Link,
) -> Result<(), NodeError> {
    bridge::ensure(netlink, name, nic).await?;
    if let Some(bridge) = netlink.link(name).await? {
        way_out::remove(netlink, Some(bridge.index), false).await?;
        bridge::remove_other_addresses(netlink, &bridge).await?;
    }
    settings::forward_under_lock()?;
    Record::new(name, nic).write()
}

/// Takes the bridge away, and with it what the node knows of its pods. The NIC has never been touched. Says whether
/// there was a bridge of ours.
pub async fn leave(netlink: &Netlink, name: &str, force: bool) -> Result<bool, NodeError> {
    let _lock = lock::acquire(Path::new(LOCK))?;
    if !force {
        refuse_other_ports(netlink, name).await?;
    }
    let found = bridge::remove(netlink, name).await?;
    let known = record::of(name);
    settings::restore(name)?;
    if let Some(record) = &known {
        record.remove()?;
    }
    Ok(found || known.is_some())
}

/// Fails if `bridge` connects anything but pods, so that [`leave`] would cut that off.
pub async fn refuse_other_ports(netlink: &Netlink, bridge: &str) -> Result<(), NodeError> {
    bridge::refuse_other_ports(netlink, bridge).await
}

/// The NIC of `bridge`, as far as it is known and there.
pub async fn nic_of(netlink: &Netlink, bridge: &str) -> Result<Option<Link>, NodeError> {
    Ok(match record::of(bridge) {
        Some(record) => record.nic(netlink).await?,
        None => None,
    })
}

/// The bridges of this node that [`leave`] has something to do for: those that are written down, and those
/// that bear our mark although that is lost.
pub async fn bridges(netlink: &Netlink) -> Result<Vec<String>, NodeError> {
    let links = netlink.links().await?;
    let marked = links
        .into_iter()
        .filter(|link| link.is_bridge() && link.is_marked());
    let mut names: Vec<String> = remembered()
        .into_iter()
        .map(|(bridge, _)| bridge)
        .chain(marked.map(|link| link.name))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Bridge and NIC, by name, of every network of this node that an earlier call set up.
pub fn remembered() -> Vec<(String, String)> {
    let records = record::all().into_iter();
    records.map(|record| (record.bridge, record.nic)).collect()
}

/// What is wrong with the bridge called `name` and its NIC, one sentence each.
pub async fn defects(
    netlink: &Netlink,
    bridge: &Link,
    nic: &Link,
) -> Result<Vec<String>, NodeError> {
    let on_bridge = netlink.addresses_on(bridge).await?;
    Ok(bridge::defects(bridge, nic, &on_bridge))
}
