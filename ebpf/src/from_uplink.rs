//! TC ingress of the NIC: what arrives, before the bridge and netfilter.
//!
//! Every frame arrives with the NIC's MAC. Those for a pod get the pod's, so that the bridge
//! forwards them; replies of masqueraded flows get the pod's address first.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Action, Flow, FlowKind, Pod, Reason, Uplink};

use crate::{
    arp, config, flow,
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, Ipv4, TCP, Transport},
    pods, policy,
    rewrite::{self, End},
    snat,
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
        return Ok(Reason::NotOurs);
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
    flow::touch(&key, flow, &transport, uplink, flow::now());
    let (address, port, mac) = (flow.address, flow.port, flow.mac);
    rewrite::destination_mac(ctx, mac)?;
    rewrite::endpoint(ctx, End::Destination, ip, &transport, address, port)?;
    Ok(Reason::Unmasqueraded)
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
    record_inbound(uplink, ip, &transport, pod)
}

#[inline(always)]
fn record_inbound(uplink: &Uplink, ip: &Ipv4, transport: &Transport, pod: &Pod) -> Outcome {
    let reply = transport.key(ip).reversed();
    let now = flow::now();
    if let Some(known) = flow::find(&reply) {
        flow::touch(&reply, known, transport, uplink, now);
        return Ok(Reason::ToPod);
    }
    if transport.is_echo_reply || (ip.protocol == TCP && !transport.opens_connection()) {
        return Ok(Reason::ToPod);
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
        Ok(()) => Ok(Reason::InboundRecorded),
        Err(_) => Ok(Reason::ToPod),
    }
}
