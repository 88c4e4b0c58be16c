//! `azure-vnet teardown`: the node as it was before the first ADD.
//!
//! Everything is looked at before the first change, and the record of the bridge goes last: until then a call that was killed is
//! known to be unfinished, and the next teardown ends it. The NIC has never been touched.

use crate::datapath::{self, FILTER, Mechanism, Record, Tier};
use crate::del;
use crate::error::Error as CallError;
use crate::legacy::{self, LegacyError};
use crate::names;
use crate::netlink::filter::{self, Side};
use crate::netlink::link::Link;
use crate::netlink::{Netlink, NetlinkError, gone_is_fine};
use crate::node::{self, NodeError};
use crate::state;
use crate::takeover;

/// What is to be taken down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Teardown {
    /// Name of the bridge; all of this node when not given.
    pub bridge: Option<String>,
    /// Pods that are attached lose their network, and whatever else the bridge connects loses it.
    pub force: bool,
}

/// Why the node was not put back, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is known of the bridge.
    #[error(
        "{name} is not a bridge of azure-vnet on this node ({})",
        known_as(known)
    )]
    Unknown {
        /// Name that was asked for.
        name: String,
        /// The bridges that there are.
        known: Vec<String>,
    },
    /// Pods would lose their network.
    #[error(
        "{} {} attached to {bridge} ({}): drain the node or end them first, or use --force",
        pods.len(), if pods.len() == 1 { "pod is" } else { "pods are" }, some(pods)
    )]
    Pods {
        /// The bridge.
        bridge: String,
        /// The pods' veths on the node.
        pods: Vec<String>,
    },
    /// A pod could not be taken off the node.
    #[error("cannot detach the pod behind {host_veth}")]
    Pod {
        /// Its veth on the node.
        host_veth: String,
        /// Why.
        #[source]
        source: Box<CallError>,
    },
    /// The datapath is still there.
    #[error("cannot take the datapath of {bridge} away")]
    Datapath {
        /// The bridge.
        bridge: String,
        /// Why.
        #[source]
        source: datapath::Error,
    },
    /// Which pods there are is not known.
    #[error(transparent)]
    Attachments(#[from] state::Error),
    /// What the original plugin made for the NIC.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
    /// The node's network.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The kernel's network configuration.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Puts the node back, in the namespace of the calling thread. Returns the names of the bridges that
/// were taken down; none if there was nothing of ours.
pub async fn teardown(wanted: &Teardown) -> Result<Vec<String>, Error> {
    let host = Netlink::current()?;
    takeover::complete(&host).await?;
    takeover::by_marks(&host).await?;
    let bridges = bridges(&host, wanted).await?;
    if !wanted.force {
        for bridge in &bridges {
            refuse_while_pods_live(&host, bridge).await?;
        }
    }
    for bridge in &bridges {
        detach_pods(&host, bridge).await?;
        take_datapath_away(&host, bridge).await?;
        legacy::remove_network(bridge)?;
        node::leave(&host, bridge, wanted.force).await?;
    }
    takeover::forget();
    Ok(bridges)
}

async fn bridges(host: &Netlink, wanted: &Teardown) -> Result<Vec<String>, Error> {
    let mut known = node::bridges(host).await?;
    known.extend(datapath::bridges());
    known.sort();
    known.dedup();
    match &wanted.bridge {
        None => Ok(known),
        Some(name) if known.contains(name) => Ok(vec![name.clone()]),
        Some(name) => Err(Error::Unknown {
            name: name.clone(),
            known,
        }),
    }
}

async fn refuse_while_pods_live(host: &Netlink, bridge: &str) -> Result<(), Error> {
    let pods = pods_of(host, bridge).await?;
    if pods.is_empty() {
        return Ok(node::refuse_other_ports(host, bridge).await?);
    }
    Err(Error::Pods {
        bridge: bridge.to_owned(),
        pods,
    })
}

/// The veths of the pods of a bridge that are there, whether their records are or not.
async fn pods_of(host: &Netlink, bridge: &str) -> Result<Vec<String>, Error> {
    let links = host.links().await?;
    let index = links.iter().find(|link| link.name == bridge);
    let index = index.map(|link| link.index);
    let recorded = state::attachments(bridge)?;
    let theirs = legacy::endpoints_on(bridge);
    let is_pod = |link: &&Link| {
        let is_port = index.is_some() && link.master == index;
        let is_recorded = recorded.iter().any(|it| it.host_veth == link.name);
        let is_theirs = theirs.iter().any(|it| it.host_veth == link.name);
        is_theirs || names::is_ours(&link.name) && (is_port || is_recorded)
    };
    let pods = links.iter().filter(is_pod).map(|link| link.name.clone());
    Ok(pods.collect())
}

/// Live ones, if that was asked for, and what is still known of dead ones. Their addresses are IPAM's
/// to take back, when the runtime says DEL.
async fn detach_pods(host: &Netlink, bridge: &str) -> Result<(), Error> {
    for endpoint in legacy::endpoints_on(bridge) {
        let host_veth = endpoint.host_veth.clone();
        let detached = del::detach_legacy(host, &endpoint).await.into_result();
        detached.map_err(|source| Error::Pod {
            host_veth,
            source: Box::new(source),
        })?;
    }
    let mut pods = pods_of(host, bridge).await?;
    let recorded = state::attachments(bridge)?.into_iter();
    pods.extend(recorded.map(|it| it.host_veth));
    pods.sort();
    pods.dedup();
    for host_veth in pods {
        let detached = del::detach(host, &host_veth).await.into_result();
        detached.map_err(|source| Error::Pod {
            host_veth,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

async fn take_datapath_away(host: &Netlink, bridge: &str) -> Result<(), Error> {
    let failed = |source| Error::Datapath {
        bridge: bridge.to_owned(),
        source,
    };
    let tier = Record::read(bridge).map(|record| record.tier);
    // A filter of somebody else may be where ours would be.
    let nic = match tier {
        None | Some(Tier::Ebpf(Mechanism::ClsBpf)) => node::nic_of(host, bridge).await?,
        Some(_) => None,
    };
    if let Some(nic) = nic {
        let had_filters = remove_filters(host, &nic).await?;
        if had_filters || tier.is_some() {
            remove_clsact(host, &nic).await?;
        }
    }
    datapath::take_away(bridge).map_err(failed)?;
    datapath::forget(bridge).map_err(failed)
}

/// Our filters of the NIC; says whether there were any.
async fn remove_filters(host: &Netlink, nic: &Link) -> Result<bool, NetlinkError> {
    let mut found = false;
    for side in [Side::Egress, Side::Ingress] {
        if host.filters(nic, side).await?.contains(&FILTER) {
            gone_is_fine(host.run(filter::delete(nic, side, FILTER)).await)?;
            found = true;
        }
    }
    Ok(found)
}

/// The queueing discipline that our filters hung on, if nobody else's do.
async fn remove_clsact(host: &Netlink, nic: &Link) -> Result<(), NetlinkError> {
    // The kernel says of one that is not there what it says of a wrong request.
    if !host.has_clsact(nic).await? {
        return Ok(());
    }
    for side in [Side::Ingress, Side::Egress] {
        if !host.filters(nic, side).await?.is_empty() {
            return Ok(());
        }
    }
    gone_is_fine(host.run(filter::delete_clsact(nic)).await)
}

fn known_as(bridges: &[String]) -> String {
    if bridges.is_empty() {
        "it has none".to_owned()
    } else {
        format!("it has {}", bridges.join(", "))
    }
}

/// The first few, and that there are more.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    format!("{}{more}", shown.join(", "))
}
