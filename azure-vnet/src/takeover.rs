//! Taking over a node that v0.1 of this plugin or the original plugin set up. There the NIC is a port of the bridge, and the
//! bridge has the node's addresses and routes. They go back to the NIC, the NIC leaves the bridge, and the bridge becomes the
//! pods' router. Live pods keep their addresses and their connections.
//!
//! This is the only code that touches a NIC or moves addresses, and it does so once. A version that needs not know v0.1 any more
//! deletes this folder.

mod guard;
mod journal;
mod relocate;
mod settle;
mod steps;

use std::path::Path;

use crate::legacy;
use crate::lock::{self, Lock};
use crate::names;
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError, address};
use crate::node::{self, NodeError};

use journal::Journal;

pub use steps::{Step, Takeover};

/// Takes over what there is to be taken over, and ends what a call before began that was killed. Costs a look into a directory
/// and for a file where there is nothing.
pub async fn complete(netlink: &Netlink) -> Result<(), NodeError> {
    guard::lift_if_over();
    if pending(netlink).await?.is_empty() {
        return Ok(());
    }
    let lock = lock::acquire(Path::new(node::LOCK))?;
    run_all(netlink, pending(netlink).await?, lock).await
}

/// The same where `/run` was lost: a bridge bears our mark and the MAC of a NIC, which is its port or was.
pub async fn by_marks(netlink: &Netlink) -> Result<(), NodeError> {
    let lock = lock::acquire(Path::new(node::LOCK))?;
    let links = netlink.links().await?;
    let mut found = Vec::new();
    let marked = links.iter().filter(|it| it.is_bridge() && it.is_marked());
    for bridge in marked.filter(|it| it.mac != Some(node::ROUTER_MAC)) {
        if let Some(nic) = nic_of(bridge, &links) {
            let journal = Journal::new(&bridge.name, &nic.name, nic.index);
            found.push(Takeover::of(netlink, journal).await?);
        }
    }
    run_all(netlink, found, lock).await
}

/// The link with the MAC of the bridge: its port, or the first that is no port of anything. A NIC has a lower index than the VLANs on it.
fn nic_of<'a>(bridge: &Link, links: &'a [Link]) -> Option<&'a Link> {
    let same = links
        .iter()
        .filter(|it| it.mac == bridge.mac && !it.is_bridge());
    let is_port = |link: &&Link| link.master == Some(bridge.index);
    let free = same.clone().filter(|link| link.master.is_none());
    let free = free.min_by_key(|link| link.index);
    same.clone().find(is_port).or(free)
}

async fn run_all(
    netlink: &Netlink,
    takeovers: Vec<Takeover<'_>>,
    lock: Lock,
) -> Result<(), NodeError> {
    if takeovers.is_empty() {
        return Ok(());
    }
    let mut nics: Vec<u32> = takeovers.iter().map(Takeover::nic).collect();
    nics.retain(|nic| settle::is_known(*nic));
    for mut takeover in takeovers {
        takeover.run().await?;
    }
    // What is mended may need it.
    drop(lock);
    for nic in nics {
        settle::wait(nic).await;
    }
    node::mend(netlink).await.1
}

/// Nothing is left of a takeover that was not long ago.
pub fn forget() {
    guard::lift();
}

/// [`complete`] for a call whose own work does not depend on it: what fails is in the log.
pub async fn complete_beside(netlink: &Netlink) {
    if let Err(error) = complete(netlink).await {
        tracing::error!("this node of an earlier version is not taken over yet: {error}");
    }
}

/// What there is to be taken over: the bridges of journals, and those of the original plugin that still have the NIC as a port or
/// the node's addresses.
pub async fn pending(netlink: &Netlink) -> Result<Vec<Takeover<'_>>, NodeError> {
    let mut journals = journal::all();
    for network in legacy::networks() {
        let is_known = journals
            .iter()
            .any(|journal| journal.bridge == network.bridge);
        if !is_known && is_old(netlink, &network.bridge).await? {
            journals.push(Journal::new(&network.bridge, &network.nic, 0));
        }
    }
    let mut pending = Vec::new();
    for journal in journals.into_iter().filter(|it| !it.is_of_others()) {
        match Takeover::of(netlink, journal).await {
            Ok(takeover) => pending.push(takeover),
            // Without its NIC there is nothing to take over; an ADD looks for another.
            Err(NodeError::NoNic { name, bridge }) => {
                tracing::warn!("the NIC {name} of {bridge} is gone");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(pending)
}

/// Whether a bridge has a NIC as its port, or addresses of the node.
async fn is_old(netlink: &Netlink, bridge: &str) -> Result<bool, NetlinkError> {
    let Some(bridge) = netlink.link(bridge).await?.filter(Link::is_bridge) else {
        return Ok(false);
    };
    let addresses = netlink.addresses_on(&bridge).await?;
    let mut movable = addresses.iter().filter(|it| address::is_movable(it));
    if movable.any(|it| !node::is_placeholder(it)) {
        return Ok(true);
    }
    let ports = netlink.ports_of(&bridge).await?;
    Ok(ports.iter().any(|port| !names::is_pods(&port.name)))
}
