//! The node's own network: the NIC that owns the pods' subnet becomes a port of a bridge, and the
//! node's addresses and routes move to that bridge, without the node being unreachable.
//!
//! [`ensure`] is the whole story. Once it is done, a call costs three netlink requests and no lock.

mod error;
mod journal;
mod master;
pub mod migrate;
mod relocate;

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;

use crate::lock::Lock;
use crate::netlink::link::Link;
use crate::netlink::{MacAddress, Netlink, address};
use crate::sysctl::Sysctl;

pub use error::NodeError;

use journal::Journal;

/// Held while the node's network is changed; never while waiting for anything but the kernel.
const LOCK: &str = "/run/azure-vnet/node.lock";

/// What the configuration and the address pool say about the node.
#[derive(Debug, Clone)]
pub struct NodeWanted {
    /// Name of the bridge; `azure<index of the NIC>` when not given.
    pub bridge: Option<String>,
    /// Name of the NIC; the one that owns an address in `subnet` when not given.
    pub master: Option<String>,
    /// The subnet that the pods' addresses come from.
    pub subnet: Ipv4Net,
}

/// The node's network as it is after [`ensure`].
#[derive(Debug, Clone)]
pub struct Node {
    /// The NIC, a port of the bridge.
    pub master: Link,
    /// The bridge, which has the node's addresses.
    pub bridge: Link,
    /// MAC of the NIC and of the bridge: the only source that the fabric accepts.
    pub mac: MacAddress,
    /// MTU of the NIC in bytes.
    pub mtu: u32,
    /// The node's first address in the pods' subnet: what masqueraded packets leave with.
    pub primary: Ipv4Addr,
    /// All IPv4 addresses of the bridge.
    pub addresses: Vec<Ipv4Net>,
    /// Gateway of the node's IPv4 default route, if it has one.
    pub gateway: Option<Ipv4Addr>,
}

/// Makes sure that the node's network is as it has to be, and says how it is.
///
/// A previous call that was killed at any point is continued. An existing bridge with the NIC in
/// it is adopted as it is. Addresses that a DHCP client put on the NIC again are moved again.
pub async fn ensure(netlink: &Netlink, wanted: &NodeWanted) -> Result<Node, NodeError> {
    let node = match settled(netlink, wanted, &journal::all()).await? {
        Some(node) => node,
        None => settle(netlink, wanted).await?,
    };
    // A connection from outside to a hostPort is routed by this node to the pod after DNAT.
    let forward = Sysctl {
        path: "net/ipv4/ip_forward".to_owned(),
        value: "1".to_owned(),
    };
    if forward.set()? {
        tracing::info!("switched IPv4 forwarding on: hostPorts need it");
    }
    Ok(node)
}

/// The node's network as earlier calls left it, looked at and not changed; `None` where anything
/// of it is not as [`ensure`] would leave it.
pub async fn find(netlink: &Netlink, wanted: &NodeWanted) -> Result<Option<Node>, NodeError> {
    settled(netlink, wanted, &journal::all()).await
}

/// Bridge and NIC, by name, of every network of this node that an earlier call settled.
pub fn remembered() -> Vec<(String, String)> {
    let journals = journal::all().into_iter().filter(Journal::is_done);
    journals
        .map(|journal| (journal.bridge, journal.master))
        .collect()
}

/// The way with a lock: choose the NIC, move, and look at the result.
async fn settle(netlink: &Netlink, wanted: &NodeWanted) -> Result<Node, NodeError> {
    let _lock = Lock::acquire(Path::new(LOCK))?;
    let journals = journal::all();
    if let Some(node) = settled(netlink, wanted, &journals).await? {
        return Ok(node);
    }
    let place = master::choose(&master::Snapshot::take(netlink).await?, wanted, &journals)?;
    let done = migrate::run(netlink, place, journals).await?;
    let (bridge, master) = (done.bridge.clone(), done.master.clone());
    settled(netlink, wanted, &[done])
        .await?
        .ok_or(NodeError::NoAddress {
            bridge,
            master,
            subnet: wanted.subnet,
        })
}

/// The node, if a journal says that it was settled and the kernel still agrees.
async fn settled(
    netlink: &Netlink,
    wanted: &NodeWanted,
    journals: &[Journal],
) -> Result<Option<Node>, NodeError> {
    let named = |journal: &&Journal| wanted.master.as_ref().is_none_or(|m| *m == journal.master);
    for journal in journals
        .iter()
        .filter(|journal| journal.is_done())
        .filter(named)
    {
        let (bridge, master, addresses) = tokio::try_join!(
            netlink.link(&journal.bridge),
            netlink.link(&journal.master),
            netlink.addresses(AddressFamily::Inet),
        )?;
        let (Some(bridge), Some(master)) = (bridge, master) else {
            continue;
        };
        let on = |link: &Link| {
            let here = addresses.iter().filter(|a| a.header.index == link.index);
            here.filter_map(address::ipv4_net).collect::<Vec<_>>()
        };
        let joined = bridge.is_bridge() && bridge.is_up() && master.master == Some(bridge.index);
        if joined && master.is_up() && on(&master).is_empty() {
            let addresses = on(&bridge);
            if let Some(node) = describe(bridge, master, addresses, wanted.subnet, journal) {
                return Ok(Some(node));
            }
        }
    }
    Ok(None)
}

fn describe(
    bridge: Link,
    master: Link,
    addresses: Vec<Ipv4Net>,
    subnet: Ipv4Net,
    journal: &Journal,
) -> Option<Node> {
    let primary = addresses
        .iter()
        .find(|a| subnet.contains(&a.addr()))?
        .addr();
    // Frames leave with the NIC's MAC; a bridge that was given another has to be put right.
    let mac = master.mac.filter(|mac| bridge.mac == Some(*mac))?;
    Some(Node {
        mac,
        mtu: master.mtu,
        primary,
        addresses,
        gateway: journal.gateway,
        master,
        bridge,
    })
}
