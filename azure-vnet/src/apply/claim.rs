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
use crate::state::{self, Attachment};

/// Directs the pod's MAC to its port, for good. An entry that is there already is that of a frame that a
/// port sent with this source, or that of another pod with this MAC, which keeps it.
pub(super) async fn claim(host: &Netlink, port: &Link, veth: &Veth) -> Result<(), ApplyError> {
    let (index, name, mac) = (port.index, &veth.host_name, veth.pod_mac);
    match host.run(neighbour::add_forwarding(index, name, mac)).await {
        Err(error) if error.is_exists() => {}
        outcome => return Ok(outcome?),
    }
    if let Some(holder) = holder(host, veth).await? {
        let holder = Box::new(holder);
        return Err(ApplyError::MacInUse { mac, holder });
    }
    Ok(host
        .run(neighbour::set_forwarding(index, name, mac))
        .await?)
}

/// The other attachment of the bridge with this MAC whose link is there.
async fn holder(host: &Netlink, veth: &Veth) -> Result<Option<Attachment>, ApplyError> {
    let others = state::attachments(&veth.bridge_name)?.into_iter();
    for other in others.filter(|other| other.mac == veth.pod_mac) {
        if other.host_veth != veth.host_name && host.link(&other.host_veth).await?.is_some() {
            return Ok(Some(other));
        }
    }
    Ok(None)
}
