//! The claim on a pod's MAC, and with it on its address: the forwarding entry, which the kernel gives to one port of
//! the bridge.
//!
//! IPAM keeps addresses apart by its record, and by the kernel where that is lost. An ADD that has its address and no link
//! yet is in the record only. If that is lost in this moment, the address is given again: the first of the two pods to
//! claim it keeps it, and the other's ADD fails.

use super::ApplyError;
use crate::netlink::link::Link;
use crate::netlink::{Netlink, neighbour};
use crate::plan::Veth;
use crate::state;

/// Directs the pod's MAC to its port, for good. An entry that is there already is that of a frame that a
/// port sent with this source, or that of another pod with this MAC, which keeps it.
pub(super) async fn claim(host: &Netlink, port: &Link, veth: &Veth) -> Result<(), ApplyError> {
    let (index, name, mac) = (port.index, &veth.host_name, veth.pod_mac);
    match host.run(neighbour::add_forwarding(index, name, mac)).await {
        Err(error) if error.is_exists() => {}
        outcome => return Ok(outcome?),
    }
    match host.port_of(veth.bridge, mac).await? {
        Some(other) if other != index => Err(ApplyError::MacInUse {
            mac,
            holder: holder(host, other).await?,
        }),
        _ => Ok(host
            .run(neighbour::set_forwarding(index, name, mac))
            .await?),
    }
}

/// What people know it by.
async fn holder(host: &Netlink, port: u32) -> Result<String, ApplyError> {
    let Some(link) = host.link_at(port).await? else {
        return Ok("a link that is gone by now".to_owned());
    };
    Ok(match state::find(&link.name) {
        Some(other) => format!("container {} (link {})", other.container_id, link.name),
        None => format!("the link {}", link.name),
    })
}
