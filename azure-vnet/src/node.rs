//! The node's own network: the NIC that owns the pods' subnet becomes a port of a bridge, and the
//! node's addresses and routes move to that bridge, without the node being unreachable.
//!
//! [`ensure`] is the whole story. Once it is done, a call costs three netlink requests and no lock.

mod journal;
mod master;
pub mod migrate;
mod relocate;

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;

use crate::lock::{self, Lock};
use crate::netlink::link::Link;
use crate::netlink::{MacAddress, Netlink, NetlinkError, address};
use crate::sysctl::{Sysctl, SysctlError};

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

/// Why the node's network could not be brought into shape.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The wanted NIC does not exist.
    #[error("there is no link called {name}, which the configuration names as master")]
    NoSuchMaster {
        /// Name from the configuration.
        name: String,
    },
    /// The link cannot be the NIC.
    #[error("{name} cannot be the master: it is {why}")]
    UnsuitableMaster {
        /// Name of the link.
        name: String,
        /// What it is instead of a NIC.
        why: String,
    },
    /// No link owns an address in the pods' subnet.
    #[error(
        "no link of this node that can be the master has an address in {subnet}; \
         name the NIC with \"master\" if it has none there"
    )]
    NoMaster {
        /// The pods' subnet.
        subnet: Ipv4Net,
    },
    /// The bridge's name is not one that Linux takes.
    #[error("{name:?} is not a valid name for a bridge (1 to 15 bytes, no space, '/' or ':')")]
    BadBridgeName {
        /// Name from the configuration.
        name: String,
    },
    /// Something else has the bridge's name.
    #[error("the link {name} exists and is not a bridge; choose another name with \"bridge\"")]
    NotABridge {
        /// Name of the link.
        name: String,
    },
    /// The bridge connects something else already.
    #[error("the bridge {bridge} has the port {port}, which is neither {master} nor a pod's")]
    BridgeTaken {
        /// Name of the bridge.
        bridge: String,
        /// The port that is in the way.
        port: String,
        /// The NIC that was to become a port.
        master: String,
    },
    /// The NIC is not an Ethernet link.
    #[error("{name} has no MAC address: it cannot become a port of a bridge")]
    NotEthernet {
        /// Name of the link.
        name: String,
    },
    /// The bridge is ready but the node has no address where its pods' addresses are.
    #[error("{bridge} with the NIC {master} has no address in {subnet}")]
    NoAddress {
        /// Name of the bridge.
        bridge: String,
        /// Name of the NIC.
        master: String,
        /// The pods' subnet.
        subnet: Ipv4Net,
    },
    /// Other calls kept the node's network locked.
    #[error("cannot change the node's network")]
    Lock(#[from] lock::Error),
    /// The journal cannot be written; nothing was changed.
    #[error("cannot {operation} the journal {path}")]
    Journal {
        /// What was tried.
        operation: &'static str,
        /// Path of the journal.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused a change.
    #[error("cannot configure the node's network")]
    Netlink(#[from] NetlinkError),
    /// A kernel setting could not be changed.
    #[error("cannot configure the node's network")]
    Sysctl(#[from] SysctlError),
    /// A step failed and so did taking back the ones before it. The next call continues.
    #[error(
        "cannot configure the node's network, nor put it back ({cause}); the next call continues"
    )]
    Stranded {
        /// Why the move stopped.
        cause: Box<NodeError>,
        /// Why it could not be undone.
        #[source]
        undo: Box<NodeError>,
    },
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
