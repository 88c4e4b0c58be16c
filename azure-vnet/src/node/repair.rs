//! What the node has to know of its pods, whoever took it away, is put right: routes, neighbours, ports, forwarding entries, and the
//! bridge itself.
//!
//! [`missing`] compares with the kernel and says what is not as it should be, [`mend`] puts it right for all pods of the node.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use super::compare::{self, Compared};
use super::look::Look;
use super::own_route::{self, OwnRoute, Way};
use super::{LOCK, NodeError, bridge, nic, record, settings};
use crate::datapath::{Addresses, Pod};
use crate::live;
use crate::lock;
use crate::netlink::link::Link;
use crate::netlink::route::{self, MAIN};
use crate::netlink::{Netlink, Request, gone_is_fine};

/// Metrics of the routes to a pod. The first says what the node sends from; the kernel deletes it with that address, if only for
/// a moment, when a network manager configures the NIC anew. Then there is the second. Behind both, and for every address of the
/// pool that no pod has, is the third: what is for nobody is dropped here, or node and fabric would pass it to and fro.
pub const METRICS: [u32; 3] = [10, 20, 30];

/// What [`missing`] says of a node that does not route.
pub const NO_FORWARDING: &str = "net.ipv4.ip_forward is 0";

/// Something that is not as it should be.
#[derive(Debug)]
pub struct Repair {
    /// One sentence.
    pub what: String,
    /// The pod that suffers; without it, all.
    pub pod: Option<Ipv4Addr>,
    /// Packets do not miss it: what stands behind it does the same for them.
    pub is_spare: bool,
    pub(super) remedy: Remedy,
}

/// What puts it right.
#[derive(Debug)]
pub(super) enum Remedy {
    /// These requests.
    Send(Vec<Request>),
    /// Finding the NIC of a bridge of ours of which nothing is written down. What hangs on it can only be compared then.
    FindRecord,
    /// Switching IPv4 forwarding on.
    Forward,
    /// Making the bridge, which comes before everything that hangs on it.
    MakeBridge,
    /// Nothing that this plugin does.
    None,
}

/// What a call that mends has seen of the node, for the rest of the call.
#[derive(Debug, Default)]
pub struct Seen {
    look: Look,
    pods: BTreeMap<String, Vec<Pod>>,
    ports: Vec<Link>,
}

impl Seen {
    /// The addresses of the NICs.
    pub fn addresses(&self) -> Addresses {
        self.look.addresses()
    }

    /// The pods of a bridge; `None` where they were not looked at.
    pub fn pods(&self, bridge: &str) -> Option<&[Pod]> {
        self.pods.get(bridge).map(Vec::as_slice)
    }

    /// A port of one of the bridges, as it was listed.
    pub fn port(&self, index: u32) -> Option<&Link> {
        self.ports.iter().find(|port| port.index == index)
    }
}

/// Puts right what is not as it should be, for all pods of the node. Cheap where nothing is. What cannot be put right does
/// not keep the rest from it; the first failure is returned, with what was seen all the same.
pub async fn mend(netlink: &Netlink) -> (Seen, Result<(), NodeError>) {
    let look = match Look::take(netlink).await {
        Ok(look) => look,
        Err(error) => return (Seen::default(), Err(error.into())),
    };
    let (look, bridges) = match mend_bridges(netlink, &look).await {
        Ok(false) => (Some(look), Ok(())),
        made => (None, made.map(drop)),
    };
    match mend_from(netlink, look).await {
        Ok((seen, pods)) => (seen, bridges.and(pods)),
        Err(error) => (Seen::default(), bridges.and(Err(error))),
    }
}

/// [`mend`] for an ADD, which has just made sure of the bridge and looked at it.
pub async fn mend_pods(netlink: &Netlink, look: Look) -> Result<Seen, NodeError> {
    let (seen, mended) = mend_from(netlink, Some(look)).await?;
    mended.map(|()| seen)
}

/// [`mend`] for a call whose own work does not depend on it: what fails is in the log.
pub async fn mend_beside(netlink: &Netlink) -> Seen {
    let (seen, mended) = mend(netlink).await;
    if let Err(error) = mended {
        tracing::warn!("what the node knows of its pods could not be mended: {error}");
    }
    seen
}

/// What is not as it should be.
pub async fn missing(netlink: &Netlink) -> Result<Vec<Repair>, NodeError> {
    Ok(compare::compare(netlink, None).await?.repairs)
}

/// Fails where nothing can be compared; what could not be put right is beside what was seen.
async fn mend_from(
    netlink: &Netlink,
    look: Option<Look>,
) -> Result<(Seen, Result<(), NodeError>), NodeError> {
    let mut compared = compare::compare(netlink, look).await?;
    let is_lost = |it: &Repair| matches!(it.remedy, Remedy::FindRecord);
    if compared.repairs.iter().any(is_lost) {
        write_lost_records(netlink).await?;
        compared = compare::compare(netlink, None).await?;
    }
    let Compared {
        look,
        pods,
        ports,
        repairs,
    } = compared;
    let mut result = Ok(());
    let mut requests = Vec::new();
    for Repair { what, remedy, .. } in repairs {
        tracing::info!("mending: {what}");
        match remedy {
            Remedy::Send(those) => requests.extend(those),
            Remedy::Forward => result = result.and(settings::forward()),
            Remedy::FindRecord | Remedy::MakeBridge | Remedy::None => {}
        }
    }
    for outcome in netlink.run_each(requests).await {
        result = result.and(gone_is_fine(outcome).map_err(Into::into));
    }
    Ok((Seen { look, pods, ports }, result))
}

/// Makes the routes to the pods of a bridge that is taken over, before its NIC leaves it: from then on the node routes to them. The
/// node's address may be on both links.
pub async fn route_to_pods(netlink: &Netlink, bridge: &Link, nic: &Link) -> Result<(), NodeError> {
    let repairs = compare::taken_over(netlink, bridge, nic).await?;
    let requests = repairs.into_iter().filter_map(|it| match it.remedy {
        Remedy::Send(requests) => Some(requests),
        _ => None,
    });
    for outcome in netlink.run_each(requests.flatten()).await {
        gone_is_fine(outcome)?;
    }
    Ok(())
}

/// Takes the routes to a pod away from the main table. Those of other tables, and what drops its address where that is of no
/// pool, go with the next [`mend`].
pub fn forget_pod(bridge: u32, address: Ipv4Addr) -> impl Iterator<Item = Request> {
    METRICS[..2].iter().map(move |metric| {
        let entry = OwnRoute {
            table: MAIN,
            to: address.into(),
            metric: *metric,
            way: Way::Link(bridge, None),
        };
        route::delete(&entry.message())
    })
}

/// Takes away the routes over the bridge with this index, and where it is the last those that drop.
pub(super) async fn remove_routes(
    netlink: &Netlink,
    bridge: Option<u32>,
    is_last: bool,
) -> Result<(), NodeError> {
    let routes = netlink.routes_of(own_route::PROTOCOL).await?;
    let ours = routes.iter().filter_map(OwnRoute::read);
    let going = ours.filter(|entry| match entry.way {
        Way::Link(link, _) | Way::Via(link, _) => Some(link) == bridge,
        Way::Blackhole => is_last,
    });
    let requests = going.map(|entry| route::delete(&entry.message()));
    for outcome in netlink.run_each(requests).await {
        gone_is_fine(outcome)?;
    }
    Ok(())
}

/// A bridge that is ours, and of which nothing is written down any more, is for the NIC in whose subnet its pods are.
async fn write_lost_records(netlink: &Netlink) -> Result<(), NodeError> {
    let snapshot = nic::Snapshot::take(netlink).await?;
    for bridge in Look::take(netlink).await?.without_record {
        let pods = live::pods(&bridge.name)?;
        let addresses = snapshot.addresses.iter();
        let owners = addresses.filter(|(_, net)| has_any(*net, &pods));
        let mut links = owners.filter_map(|(index, _)| snapshot.at(*index));
        if let Some(nic) = links.find(|link| !link.is_marked()) {
            tracing::info!("mending: the record of the bridge {}", bridge.name);
            record::Record::new(&bridge.name, nic).write()?;
        }
    }
    Ok(())
}

/// A bridge that is gone or not whole is made first: what hangs on it is named by its index. Says whether there was one.
async fn mend_bridges(netlink: &Netlink, look: &Look) -> Result<bool, NodeError> {
    let mut made = false;
    for found in &look.networks {
        let Some(nic) = &found.nic else { continue };
        if found.defects().is_empty() {
            continue;
        }
        tracing::info!("mending: the bridge {}", found.record.bridge);
        let _lock = lock::acquire(Path::new(LOCK))?;
        bridge::ensure(netlink, &found.record.bridge, nic).await?;
        made = true;
    }
    Ok(made)
}

pub(super) fn has_any(net: Ipv4Net, pods: &[Pod]) -> bool {
    pods.iter().any(|pod| net.contains(&pod.address))
}
