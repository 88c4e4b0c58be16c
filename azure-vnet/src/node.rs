//! The node's own network: the NIC that owns the pods' subnet becomes a port of a bridge, and the
//! node's addresses and routes move to that bridge, without the node being unreachable.
//!
//! [`ensure`] is the whole story. Once it is done, a call costs four netlink requests and no lock.

pub mod departure;
mod error;
mod journal;
mod master;
pub mod migrate;
mod policy_route;
mod relocate;
mod settings;

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::legacy;
use crate::lock::Lock;
use crate::netlink::link::Link;
use crate::netlink::{MacAddress, Netlink, address};

pub use error::NodeError;

use departure::Departure;
use journal::{Journal, State};

/// Held while the node's network is changed; never while waiting for anything but the kernel.
const LOCK: &str = "/run/azure-vnet/node.lock";

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
    settings::forward()?;
    Ok(node)
}

/// Completes what an earlier call began and did not end, in the direction that it had: the node must
/// not stay between two states because nobody adds a pod. Costs a look into a directory. What fails is
/// in the log, because whoever calls has something else to do.
pub async fn recover(netlink: &Netlink) {
    if journal::all().iter().all(Journal::is_done) {
        return;
    }
    if let Err(error) = complete(netlink).await {
        tracing::error!("the node's network is still as a killed call left it: {error}");
    }
}

async fn complete(netlink: &Netlink) -> Result<(), NodeError> {
    let _lock = Lock::acquire(Path::new(LOCK))?;
    for journal in journal::all() {
        match journal.state {
            State::Done => {}
            State::Moving => migrate::resume(netlink, journal).await?,
            State::Leaving => Departure::of(netlink, journal).await?.run().await?,
        }
    }
    Ok(())
}

/// Gives the node's network back to the NIC of `bridge`: the opposite of [`ensure`]. Says whether
/// there was something to give back. A bridge that somebody else put the NIC into stays.
pub async fn leave(netlink: &Netlink, bridge: &str, force: bool) -> Result<bool, NodeError> {
    let _lock = Lock::acquire(Path::new(LOCK))?;
    let Some(mut departure) = Departure::plan(netlink, bridge).await? else {
        return Ok(false);
    };
    if !force {
        departure.refuse_other_ports().await?;
    }
    departure.run().await?;
    Ok(true)
}

/// Fails if `bridge` connects anything but its NIC and pods, so that [`leave`] would cut that off.
pub async fn refuse_other_ports(netlink: &Netlink, bridge: &str) -> Result<(), NodeError> {
    match Departure::plan(netlink, bridge).await? {
        Some(departure) => departure.refuse_other_ports().await,
        None => Ok(()),
    }
}

/// The NIC of `bridge`, as far as [`leave`] knows it.
pub async fn nic_of(netlink: &Netlink, bridge: &str) -> Result<Option<Link>, NodeError> {
    let departure = Departure::plan(netlink, bridge).await?;
    Ok(departure.map(Departure::into_nic))
}

/// The bridges of this node that [`leave`] has something to do for: those of a journal, and those
/// that bear our mark although their journal is lost.
pub async fn bridges(netlink: &Netlink) -> Result<Vec<String>, NodeError> {
    let links = netlink.links().await?;
    let marked = links
        .into_iter()
        .filter(|link| link.is_bridge() && link.is_marked());
    let mut names: Vec<String> = journal::all()
        .into_iter()
        .map(|journal| journal.bridge)
        .chain(marked.map(|link| link.name))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
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

/// The bridge that the node's IPv4 default route moved to, and its gateway then; `None` where no earlier call settled such a network.
pub fn default_gateway() -> Option<(String, Ipv4Addr)> {
    let mut journals = journal::all().into_iter().filter(Journal::is_done);
    journals.find_map(|journal| Some((journal.bridge, journal.gateway?)))
}

/// The way with a lock: choose the NIC, move, and look at the result.
async fn settle(netlink: &Netlink, wanted: &NodeWanted) -> Result<Node, NodeError> {
    let _lock = Lock::acquire(Path::new(LOCK))?;
    let journals = journal::all();
    if let Some(node) = settled(netlink, wanted, &journals).await? {
        return Ok(node);
    }
    let snapshot = master::Snapshot::take(netlink).await?;
    let place = master::choose(&snapshot, wanted, &with_legacy(&journals))?;
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

/// The journals, and what stands in for them where the original plugin made the bridge.
fn with_legacy(journals: &[Journal]) -> Vec<Journal> {
    let mut all = journals.to_vec();
    let theirs = legacy::networks().into_iter();
    all.extend(theirs.map(|it| Journal::new(&it.bridge, &it.nic, 0)));
    all
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
        let (bridge, master) =
            tokio::try_join!(netlink.link(&journal.bridge), netlink.link(&journal.master))?;
        let (Some(bridge), Some(master)) = (bridge, master) else {
            continue;
        };
        let on_bridge = netlink.addresses_on(&bridge).await?;
        let on_nic = netlink.addresses_on(&master).await?;
        let left_on_nic = on_nic.iter().any(address::is_movable);
        let joined = bridge.is_bridge() && bridge.is_up() && master.master == Some(bridge.index);
        if joined && is_meant(netlink, wanted, &master).await? && master.is_up() && !left_on_nic {
            let addresses = on_bridge.iter().filter_map(address::ipv4_net).collect();
            if let Some(node) = describe(bridge, master, addresses, wanted.subnet, journal) {
                return Ok(Some(node));
            }
        }
    }
    Ok(None)
}

/// Whether `nic` is the one with the wanted MAC, or none is.
async fn is_meant(netlink: &Netlink, wanted: &NodeWanted, nic: &Link) -> Result<bool, NodeError> {
    if wanted.mac.is_none() || wanted.mac == nic.mac {
        return Ok(true);
    }
    let links = netlink.links().await?;
    Ok(links.iter().all(|link| link.mac != wanted.mac))
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
