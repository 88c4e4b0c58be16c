//! To which pods packets of fast flows go straight, past the host's end of their veth (decision 36): where nobody stands there who
//! shapes what a pod gets, or looks at it. Told by every call, because somebody may come there later.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use azure_vnet_abi::{Direct, maps as names, programs};
use rtnetlink::packet_route::tc::TcHandle;

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::maps::{found, open_pinned};
use super::{FILTER, Pod, Record, Tier, batch, chain, chained};
use crate::netlink::Netlink;
use crate::netlink::filter::{Filter, Side};
use crate::netlink::link::{Link, interface_index};
use crate::node::Seen;

/// The first kernel that counts at the pod's end what passes the host's end by (`bpf: Fix dev's rx stats for bpf_redirect_peer
/// traffic`): what a pod has received is known by that counter alone.
const COUNTS: KernelVersion = KernelVersion::new(6, 7, 0);

/// The root queueing discipline of a veth that shapes nothing.
const NO_QUEUE: &str = "noqueue";

/// The largest MTU of a veth whose other end has no native XDP program (`ETH_MAX_MTU`); the kernel lowers it where there is one.
const LARGEST_MTU: u32 = 65_535;

/// How closely a call looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// At what the list of the ports tells. It costs nothing.
    Ports,
    /// At the programs on each of them as well: two requests a pod.
    Programs,
}

/// Tells the datapaths of all bridges. What fails is logged: pods are served without.
pub async fn tell_ports(netlink: &Netlink, seen: &Seen, depth: Depth) {
    for (bridge, record) in Record::all() {
        if let (Tier::Ebpf(_), Some(pods)) = (record.tier, seen.pods(&bridge))
            && let Err(error) = tell(netlink, &bridge, pods, seen, depth).await
        {
            tracing::warn!(
                "{bridge}: which veths packets need not pass stays as it was: {}",
                chain(&error)
            );
        }
    }
}

async fn tell(
    netlink: &Netlink,
    bridge: &str,
    pods: &[Pod],
    seen: &Seen,
    depth: Depth,
) -> Result<(), EbpfError> {
    let pins = Pins::of(bridge);
    let failed = |source| EbpfError::map(names::DIRECT, source);
    let Some(mut map) = open_pinned::<HashMap<MapData, u32, u32>>(&pins, names::DIRECT)? else {
        return Ok(());
    };
    let known = told(&pins)?;
    let mut lists = BTreeMap::new();
    for pod in pods {
        // A link that is no port of the bridge was not seen; whoever mends that tells it.
        let Some(port) = seen.port(pod.ifindex) else {
            continue;
        };
        let before = known.get(&pod.ifindex).copied();
        let mut now = shaper(port).is_none().then_some(Direct::YES);
        if now.is_some() {
            let is_ours = || is_supported() && chained::ingress_is_ours(&pod.network);
            if !*lists.entry(&pod.network).or_insert_with(is_ours) {
                now = None;
            } else if depth == Depth::Programs {
                if let Some(who) = program_at(netlink, port).await {
                    tracing::info!("{who}: what {} gets passes it", pod.address);
                    now = Some(Direct::HELD_BACK);
                }
            } else if before == Some(Direct::HELD_BACK) {
                now = before;
            }
        }
        match now {
            _ if now == before => {}
            Some(direct) => map.insert(pod.ifindex, direct, 0).map_err(failed)?,
            None => found(map.remove(&pod.ifindex)).map(drop).map_err(failed)?,
        }
    }
    Ok(())
}

/// What the programs are told, by the index of the host veth.
pub fn told(pins: &Pins) -> Result<BTreeMap<u32, u32>, EbpfError> {
    let mut told = BTreeMap::new();
    batch::for_each(pins, names::DIRECT, |ifindex: u32, direct: u32| {
        told.insert(ifindex, direct);
    })?;
    Ok(told)
}

/// Whom packets of fast flows pass by on their way to their pods although they should not, one sentence each: somebody came after the
/// last call that looked.
pub async fn passed_by(
    netlink: &Netlink,
    bridge: &str,
    links: &[Link],
) -> Result<Vec<String>, EbpfError> {
    let mut passed_by = Vec::new();
    for (ifindex, direct) in told(&Pins::of(bridge))? {
        let link = links.iter().find(|link| link.index == ifindex);
        let Some(port) = link.filter(|_| direct == Direct::YES) else {
            continue;
        };
        let who = match shaper(port) {
            Some(who) => Some(who),
            None => program_at(netlink, port).await,
        };
        passed_by.extend(who);
    }
    Ok(passed_by)
}

/// What a list of links tells of somebody at this one.
fn shaper(port: &Link) -> Option<String> {
    let Link { name, qdisc, .. } = port;
    if qdisc != NO_QUEUE {
        return Some(format!("the queueing discipline {qdisc} on {name}"));
    }
    let has_xdp = port.largest_mtu != LARGEST_MTU;
    has_xdp.then(|| format!("an XDP program on the pod's end of {name}"))
}

/// A program of somebody else's on this port, either way: who has one on the way from a pod may go by both. What cannot be asked for
/// counts as one.
async fn program_at(netlink: &Netlink, port: &Link) -> Option<String> {
    let name = &port.name;
    for (side, direction, what) in [
        (Side::Egress, TcAttachType::Egress, "egress"),
        (Side::Ingress, TcAttachType::Ingress, "ingress"),
    ] {
        // Each priority has an entry of its own, without a handle.
        let of_ours = [FILTER.handle, TcHandle::default()];
        let is_ours = |filter: Filter| {
            side == Side::Ingress
                && filter.priority == FILTER.priority
                && of_ours.contains(&filter.handle)
        };
        let is_alone = match netlink.filters(port, side).await {
            Ok(filters) => filters.into_iter().all(is_ours),
            // Its DEL was faster, or nothing is known.
            Err(_) => interface_index(name).is_ok_and(|index| index.is_none()),
        };
        if !is_alone {
            return Some(format!("a filter on the {what} of {name}"));
        }
        // Kernels without TCX have none.
        let Ok((_, linked)) = SchedClassifier::query_tcx(name, direction) else {
            continue;
        };
        let is_ours = |name: Option<&str>| {
            direction == TcAttachType::Ingress && name == Some(programs::FROM_POD)
        };
        if let Some(other) = linked.iter().find(|it| !is_ours(it.name_as_str())) {
            let other = other.name_as_str().unwrap_or("without a name");
            return Some(format!("the program {other} on the {what} of {name}"));
        }
    }
    None
}

/// Whether this kernel counts such packets at the pod's end.
pub fn is_supported() -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel >= COUNTS)
}
