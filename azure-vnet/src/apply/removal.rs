//! The removal of an attachment from the node: DEL, and the undoing of an ADD.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::link;
use crate::netlink::{MacAddress, Netlink, NetlinkError, gone_is_fine, neighbour};
use crate::node;
use crate::plan::Plan;

/// What DEL needs to know to remove an attachment from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Name of the veth end on the node ([`crate::names::host_veth`]).
    pub host_veth: String,
    /// Name of the bridge; none when it is not known any more.
    pub bridge: Option<String>,
    /// The pod's addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
    /// The pod's MAC, likewise.
    pub mac: Option<MacAddress>,
}

impl From<&Plan> for Removal {
    fn from(plan: &Plan) -> Self {
        Self {
            host_veth: plan.veth.host_name.clone(),
            bridge: Some(plan.veth.bridge_name.clone()),
            addresses: plan.addresses.iter().map(IpNet::addr).collect(),
            mac: Some(plan.veth.pod_mac),
        }
    }
}

/// Removes an attachment from the node: the veth, and with it the interface in the pod, its
/// addresses and routes and the bridge's forwarding entry, whether the pod's namespace still
/// exists or not; then routes and neighbours, unless another pod has them by now. What is missing already is
/// fine. Returns what failed.
pub async fn remove(host: &Netlink, removal: &Removal) -> Vec<NetlinkError> {
    let deleted = host.run(link::delete(&removal.host_veth)).await;
    let mut problems: Vec<_> = gone_is_fine(deleted).err().into_iter().collect();
    if removal.addresses.is_empty() {
        return problems;
    }
    if let Some(name) = &removal.bridge {
        match link::index_of(name) {
            Ok(Some(index)) => problems.extend(forget(host, index, name, removal).await),
            Ok(None) => {}
            Err(error) => problems.push(error),
        }
    }
    problems
}

/// The pod's forwarding entry went with its link. If there is one, the address of an attachment that lingered is
/// another pod's by now, and so is the neighbour.
async fn forget(host: &Netlink, index: u32, name: &str, removal: &Removal) -> Vec<NetlinkError> {
    if let Some(mac) = removal.mac {
        match host.port_of(index, mac).await {
            Ok(None) => {}
            other => return other.err().into_iter().collect(),
        }
    }
    let mut requests = Vec::new();
    for ip in &removal.addresses {
        if let IpAddr::V4(address) = ip {
            requests.push(neighbour::delete(index, name, *ip));
            requests.extend(node::forget_pod(index, *address));
        }
    }
    let outcomes = host.run_each(requests).await.into_iter();
    outcomes.filter_map(|it| gone_is_fine(it).err()).collect()
}

/// [`remove`] from where no runtime can be waited for.
pub(super) fn remove_on_own_runtime(removal: &Removal) -> std::io::Result<Vec<NetlinkError>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        match Netlink::current() {
            Ok(host) => remove(&host, removal).await,
            Err(error) => vec![error],
        }
    }))
}
