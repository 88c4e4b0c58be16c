//! The node's side: the bridge, and the pod's veth.

use crate::config::Config;
use crate::error::Error;
use crate::netlink::link::{Link, LinkKind};
use crate::netlink::{MacAddress, Netlink, NetlinkError};
use crate::node::{self, Node, NodeError, NodeWanted};
use crate::plan::Plan;
use crate::state;

use super::expected::Expected;
use super::{Defects, Difference};

/// The node's network, which must be whole.
pub async fn of_node(
    host: &Netlink,
    config: &Config,
    expected: &Expected<'_>,
) -> Result<Node, Error> {
    // Another than the configuration's, where that was for the first NIC.
    let recorded = state::find(&expected.host_veth).map(|it| it.bridge);
    let wanted = NodeWanted {
        bridge: recorded.or_else(|| config.bridge.clone()),
        master: config.master.clone(),
        mac: mac_of_nic(host, &expected.host_veth).await?,
        subnet: expected.address.trunc(),
    };
    match node::find(host, &wanted).await? {
        Some(node) => Ok(node),
        None => Err(broken_node(host, &wanted).await?.into()),
    }
}

/// MAC of the NIC that the pod behind `host_veth` was connected to, where that could be one of several.
async fn mac_of_nic(host: &Netlink, host_veth: &str) -> Result<Option<MacAddress>, NodeError> {
    if node::remembered().len() < 2 {
        return Ok(None);
    }
    let Some(attachment) = state::find(host_veth) else {
        return Ok(None);
    };
    let nic = node::nic_of(host, &attachment.bridge).await?;
    Ok(nic.and_then(|nic| nic.mac))
}

/// What is wrong with a node whose network is not whole.
async fn broken_node(host: &Netlink, wanted: &NodeWanted) -> Result<Difference, NodeError> {
    let mut defects = Defects::default();
    defects.extend(node::broken(host, wanted).await?);
    if defects == Defects::default() {
        defects.unless(false, || {
            format!(
                "no NIC with a bridge of ours has an address in {}",
                wanted.subnet
            )
        });
    }
    Ok(Difference::Defects(defects))
}

/// Compares the veth end on the node, the peer of `interface`.
pub async fn of_pod(
    host: &Netlink,
    plan: &Plan,
    node: &Node,
    interface: Option<&Link>,
    defects: &mut Defects,
) -> Result<Option<Link>, NetlinkError> {
    let name = &plan.veth.host_name;
    let Some(port) = host.link(name).await? else {
        defects.unless(false, || format!("the node has no veth {name}"));
        return Ok(None);
    };
    defects.unless(port.is_up(), || format!("the veth {name} is down"));
    defects.unless(port.master == Some(node.bridge.index), || {
        format!("the veth {name} is not a port of {}", node.bridge.name)
    });
    if let Some(interface) = interface {
        let peers = port.kind == LinkKind::Veth
            && port.peer == Some(interface.index)
            && interface.peer == Some(port.index);
        defects.unless(peers, || {
            format!("the veth {name} does not lead to {}", interface.name)
        });
    }
    Ok(Some(port))
}
