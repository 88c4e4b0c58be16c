//! TC ingress of the NIC: what arrives, before the bridge and netfilter.
//!
//! Every frame arrives with the NIC's MAC. Those for a pod get the pod's, so that the bridge
//! forwards them; replies of masqueraded flows get the pod's address first.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Action, Flow, FlowKind, Pod, Reason, Uplink};

use crate::{
    arp, config, flow, fragment,
    icmp::IcmpError,
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, ICMP, Ipv4, Part, TCP, Transport},
    pods, policy,
    rewrite::{self, End},
    snat, sweep,
    verdict::Outcome,
};

/// Decides by the packet's destination: the node, a pod, or neither.
#[inline(always)]
pub fn decide(ctx: &TcContext) -> Outcome {
    packet::pull_headers(ctx);
    let uplink = config::uplink()?;
    let frame = Frame::read(ctx)?;
    match frame.ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, uplink),
        ETHERTYPE_ARP => arp::from_uplink(ctx),
        _ => Ok(Reason::NotOurs),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, uplink: &Uplink) -> Outcome {
    let Ok(ip) = Ipv4::read(ctx) else {
        // The node's own stack judges what is not for a pod, and counts it.
        return Ok(Reason::NotOurs);
    };
    if ip.destination == uplink.address {
        return to_node(ctx, uplink, &ip);
    }
    match pods::by_address(ip.destination) {
        Some(pod) => to_pod(ctx, uplink, &ip, pod),
        None => Ok(Reason::NotOurs),
    }
}

/// For the node's address: the reply of a masqueraded flow, or the node's own.
#[inline(always)]
fn to_node(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let Ok(transport) = Transport::read(ctx, ip) else {
        return without_ports(ctx, uplink, ip);
    };
    if !snat::is_in_range(transport.destination_port.to_host(), uplink) {
        return Ok(Reason::NotOurs);
    }
    let key = transport.key(ip);
    let Some(flow) = flow::find(&key) else {
        return Ok(Reason::NotOurs);
    };
    if flow.kind != FlowKind::UNMASQUERADE {
        return Ok(Reason::NotOurs);
    }
    let now = flow::now();
    flow::touch(&key, flow, &transport, uplink, now);
    let (address, port, mac) = (flow.address, flow.port, flow.mac);
    fragment::expect_more(ip, address, mac, now);
    rewrite::destination_mac(ctx, mac)?;
    rewrite::endpoint(ctx, End::Destination, ip, &transport, address, port)?;
    Ok(Reason::Unmasqueraded)
}

/// For the node's address, and its flow not to be told by ports.
#[inline(always)]
fn without_ports(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    if ip.part == Part::Later {
        later_fragment(ctx, uplink, ip)
    } else {
        icmp_error(ctx, ip)
    }
}

/// The first fragment has told what becomes of this one, if it was for a pod.
#[inline(always)]
fn later_fragment(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let Some(first) = fragment::first_of(ip, flow::now(), uplink) else {
        return Ok(Reason::NotOurs);
    };
    let (address, mac) = (first.address, first.mac);
    rewrite::destination_mac(ctx, mac)?;
    rewrite::address(ctx, End::Destination, ip, address)?;
    Ok(Reason::Unmasqueraded)
}

/// A router or the remote complains about a packet of a masqueraded flow: so the pod is told.
#[inline(always)]
fn icmp_error(ctx: &TcContext, ip: &Ipv4) -> Outcome {
    if ip.protocol != ICMP {
        return Ok(Reason::NotOurs);
    }
    let Ok(error) = IcmpError::read(ctx, ip) else {
        return Ok(Reason::NotOurs);
    };
    let Some(flow) = flow::find(&error.key()) else {
        return Ok(Reason::NotOurs);
    };
    if flow.kind != FlowKind::UNMASQUERADE || error.quoted.source != ip.destination {
        return Ok(Reason::NotOurs);
    }
    rewrite::destination_mac(ctx, flow.mac)?;
    error.translate(ctx, ip, End::Destination, flow.address, flow.port)?;
    Ok(Reason::IcmpErrorIn)
}

/// For a pod's own address. A flow that starts outside the ranges is remembered, or its replies
/// would be masqueraded.
#[inline(always)]
fn to_pod(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, pod: &Pod) -> Outcome {
    rewrite::destination_mac(ctx, pod.mac)?;
    if policy::action(ip.source) != Action::MASQUERADE {
        return Ok(Reason::ToPod);
    }
    let Ok(transport) = Transport::read(ctx, ip) else {
        return Ok(Reason::ToPod);
    };
    Ok(record_inbound(uplink, ip, &transport, pod))
}

#[inline(always)]
fn record_inbound(uplink: &Uplink, ip: &Ipv4, transport: &Transport, pod: &Pod) -> Reason {
    let reply = transport.key(ip).reversed();
    let now = flow::now();
    match flow::find(&reply) {
        Some(known) if known.kind == FlowKind::INBOUND => {
            flow::touch(&reply, known, transport, uplink, now);
            return Reason::ToPod;
        }
        // The pod's own flow with the same ends: what comes in beside it is not a part of it.
        Some(known) if !flow::is_over(&reply, known, now) => return Reason::ToPod,
        _ => {}
    }
    if transport.is_echo_reply || (ip.protocol == TCP && !transport.opens_connection()) {
        return Reason::ToPod;
    }
    if let Some(over) = flow::find(&reply) {
        flow::forget(&reply, over);
    }
    let entry = Flow::new(
        FlowKind::INBOUND,
        ip.destination,
        transport.destination_port,
        0,
        pod.ifindex,
        pod.mac,
        now,
        flow::timeout(ip.protocol, 0, uplink),
    );
    // A full table must not close the way in for what is in range; the reply is then dropped,
    // counted, at the NIC.
    match flow::insert(&reply, &entry) {
        Ok(()) => {
            sweep::enqueue(&reply);
            sweep::step(now);
            Reason::InboundRecorded
        }
        Err(_) => Reason::ToPod,
    }
}
