//! Ports of the range that others on the node use are kept from new flows of the eBPF tier.
//!
//! What they are is worked out anew by each ADD, of what there is then. So nothing has to be taken back when a socket
//! is closed, a pod goes or a call is killed: the next ADD does not find it. Flows that have such a port go on.

use azure_vnet_abi::ReservedPorts;

use super::bpffs::Pins;
use super::ebpf::EbpfError;
use super::{Error, Pod, Uplink, lock, maps};
use crate::ports::Reserved;
use crate::state;

/// For an ADD whose pod is written down: reserves its hostPorts, and whatever else has changed. Cheap where nothing has.
pub fn refresh(uplink: &Uplink, pod: &Pod) -> Result<(), Error> {
    let own = state::find(&pod.host_veth).map(|record| record.host_ports);
    // Whoever has hostPorts must not take what is in the map for his: who writes to it next may not have read of him.
    let has_own = own.is_some_and(|ports| !ports.is_empty());
    if !has_own && is_current(uplink)? {
        return Ok(());
    }
    let _lock = lock(&uplink.bridge)?;
    Ok(install(uplink)?)
}

/// Reserves what is in use now; under the bridge's lock.
pub fn install(uplink: &Uplink) -> Result<(), EbpfError> {
    let pins = Pins::of(&uplink.bridge);
    let before = maps::reserved(&pins)?;
    let mut wanted = of_node(uplink, &before)?;
    add_host_ports(&mut wanted, &before);
    if *wanted.bits() != *before {
        maps::reserve(&pins, wanted.bits())?;
    }
    Ok(())
}

fn is_current(uplink: &Uplink) -> Result<bool, EbpfError> {
    let now = maps::reserved(&Pins::of(&uplink.bridge))?;
    let mut wanted = of_node(uplink, &now)?;
    // The records of all pods are read where one may have a hostPort in the range.
    if *wanted.bits() != *now {
        add_host_ports(&mut wanted, &now);
    }
    Ok(*wanted.bits() == *now)
}

fn of_node(uplink: &Uplink, before: &ReservedPorts) -> Result<Reserved, EbpfError> {
    let mut reserved = Reserved::none(uplink.port_range()?);
    if let Err(error) = reserved.add_node() {
        tracing::warn!(
            "which ports the node's sockets use is not known, so pods may get them: {error}"
        );
        reserved.keep(before);
    }
    Ok(reserved)
}

/// Of all networks: portmap's rules are about every address of the node.
fn add_host_ports(reserved: &mut Reserved, before: &ReservedPorts) {
    match state::records() {
        Ok(records) => {
            let ports = records.whole.into_iter().flat_map(|pod| pod.host_ports);
            reserved.add(ports);
            if !records.damaged.is_empty() {
                reserved.keep(before);
            }
        }
        Err(error) => {
            tracing::warn!("{error}");
            reserved.keep(before);
        }
    }
}
