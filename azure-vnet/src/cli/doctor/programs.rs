//! The eBPF programs are asked what they would do with a packet of a pod for the world.

use azure_vnet_abi::{Be16, FlowKey, Mac, Reason, programs};

use super::super::Failure;
use super::super::explain::packet::{self, Packet};
use super::super::flows::Protocol;
use crate::datapath::{EbpfError, Record, Rehearsal, Tier, view};
use crate::health::path::WORLD;
use crate::health::{Check, Finding};
use crate::live;
use crate::netlink::link::Link;

/// The pod with the lowest address of each bridge with the eBPF tier is asked about.
pub fn check(links: &[Link]) -> Vec<Finding> {
    let ebpf = |(_, record): &(String, Record)| matches!(record.tier, Tier::Ebpf(_));
    let bridges = Record::all().into_iter().filter(ebpf);
    bridges
        .filter_map(|(bridge, _)| of_bridge(&bridge, links))
        .collect()
}

fn of_bridge(bridge: &str, links: &[Link]) -> Option<Finding> {
    let pods = live::pods(bridge).unwrap_or_default();
    let is_port = |index| {
        links
            .iter()
            .any(|it| it.index == index && it.master.is_some())
    };
    let pods = pods.into_iter().filter(|pod| is_port(pod.ifindex));
    let pod = pods.min_by_key(|pod| pod.address)?;
    let address = pod.address;
    let packet = Packet {
        protocol: Protocol::Tcp,
        source: address,
        source_port: 40000,
        destination: WORLD,
        destination_port: 443,
        macs: (pod.mac.0, Mac::FABRIC.0),
    };
    Some(match ask(bridge, pod.ifindex, &packet) {
        // Maps that are not pinned are named by the check `datapath`.
        Ok(None) => return None,
        Ok(Some((_, reason))) if reason.passes() || is_meant(reason) => Finding::ok(
            Check::Programs,
            format!(
                "{bridge}: a packet of {address} for the world: {}",
                reason.name()
            ),
        ),
        Ok(Some((program, reason))) => Finding::mended(
            Check::Programs,
            format!(
                "{bridge}: the program {program} drops what {address} sends to the world: {}",
                reason.name()
            ),
        ),
        Err(error) => Finding::warning(
            Check::Programs,
            format!(
                "{bridge}: the programs cannot be asked: {}",
                Failure::of(&error)
            ),
            "azure-vnet status says what is in place",
        ),
    })
}

/// What a configuration may want, or many flows cause, which other checks name.
fn is_meant(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PolicyDrop | Reason::PodFlowLimit | Reason::NoPortFound | Reason::PortSearchGoesOn
    )
}

/// The program that decided, and its reason.
fn ask(
    bridge: &str,
    ifindex: u32,
    packet: &Packet,
) -> Result<Option<(&'static str, Reason)>, EbpfError> {
    let flow = FlowKey::new(
        packet.protocol.number(),
        packet.source.into(),
        Be16::from_host(packet.source_port),
        packet.destination.into(),
        Be16::from_host(packet.destination_port),
    );
    if !Rehearsal::lacking(bridge).is_empty() {
        return Ok(None);
    }
    let rehearsal = Rehearsal::prepare(bridge, &flow)?;
    let nic = view::uplink(bridge)?.unwrap_or_default().mac;
    let mut frame = packet.frame();
    let mut last = None;
    for (program, ifindex) in [
        (programs::FROM_POD, Some(ifindex)),
        (programs::TO_UPLINK, None),
    ] {
        let performed = rehearsal.run(program, ifindex, &frame)?;
        last = Some((program, performed.reason));
        if !performed.passes || performed.reason == Reason::MasqueradedFast {
            break;
        }
        frame = performed.frame;
        packet::leave_by(&mut frame, nic.0);
    }
    Ok(last)
}
