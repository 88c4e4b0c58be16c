//! One MTU from pod to fabric: what a pod sends that is too long for the NIC is lost, or costs it a round trip.

use crate::health::{Check, Finding};
use crate::names;
use crate::netlink::link::Link;
use crate::node::record;

/// Pods' links that take more than their NIC. A bridge with another MTU is named by the check `datapath`, and mended.
pub fn check(links: &[Link]) -> Vec<Finding> {
    let of = |record: record::Record| {
        let nic = record.nic_among(links)?;
        let bridge = links.iter().find(|link| link.name == record.bridge)?;
        let pods = links
            .iter()
            .filter(|it| it.master == Some(bridge.index) && names::is_pods(&it.name));
        let longer: Vec<&Link> = pods.filter(|it| it.mtu > nic.mtu).collect();
        let (name, mtu) = (&nic.name, nic.mtu);
        let Some(most) = longer.iter().map(|it| it.mtu).max() else {
            let found = format!(
                "no pod of {} has a larger MTU than {name}, {mtu}",
                bridge.name
            );
            return Some(Finding::ok(Check::Mtu, found));
        };
        let named: Vec<String> = longer
            .iter()
            .map(|it| format!("{} has {}", it.name, it.mtu))
            .collect();
        Some(Finding::warning(
            Check::Mtu,
            format!(
                "{name} has the MTU {mtu}, and pods have more: {}",
                named.join(", ")
            ),
            format!("ip link set {name} mtu {most}, or delete these pods: new ones get {mtu}"),
        ))
    };
    record::all().into_iter().filter_map(of).collect()
}
