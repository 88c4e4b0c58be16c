//! TC ingress of the NIC: what arrives, before the bridge and netfilter.
//!
//! Every frame arrives with the NIC's MAC. Those for a pod get the pod's, so that the bridge
//! forwards them; replies of masqueraded flows get the pod's address first. Those of a fast flow go
//! straight to the pod's veth.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Action, Flow, FlowKey, FlowKind, Pod, Reason, Uplink};

use crate::{
    arp, config, fast, flow, fragment,
    icmp::IcmpError,
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, ICMP, Ipv4, Part, Plain, TCP, Transport},
    pods, policy, ports,
    rewrite::{self, End},
    share, sweep,
    verdict::{self, Outcome},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    verdict::settle(ctx, decide(ctx))
}

/// Decides by the packet's destination: the node, a pod, or neither.
#[inline(always)]
fn decide(ctx: &TcContext) -> Outcome {
    let uplink = config::uplink()?;
    if let Some(Plain { ip, transport, .. }) = Plain::read(ctx) {
        return if ip.destination == uplink.address {
            reply(ctx, uplink, &ip, &transport)
        } else {
            to_address(ctx, uplink, &ip)
        };
    }
    packet::pull_headers(ctx);
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
    if ip.destination != uplink.address {
        return to_address(ctx, uplink, &ip);
    }
    match Transport::read(ctx, &ip) {
        Ok(transport) => reply(ctx, uplink, &ip, &transport),
        Err(_) => without_ports(ctx, uplink, &ip),
    }
}

/// For the node's address: the reply of a masqueraded flow, or the node's own.
#[inline(always)]
fn reply(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, transport: &Transport) -> Outcome {
    if !ports::is_in_range(transport.destination_port.to_host(), uplink) {
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
    flow::touch(&key, flow, transport, uplink, now);
    let (address, port, mac) = (flow.address, flow.port, flow.mac);
    // What opens a connection is for connection tracking to see, also on its way back.
    let fast = if fast::is_fast(flow) && transport.tcp_flags & Transport::SYN == 0 {
        flow.ifindex
    } else {
        0
    };
    fragment::expect_more(ip, address, mac, fast, now);
    rewrite::destination_mac(ctx, mac)?;
    rewrite::endpoint(ctx, End::Destination, ip, transport, address, port)?;
    Ok(deliver(fast, Reason::Unmasqueraded))
}

/// To the pod behind a veth, or by the bridge.
#[inline(always)]
fn deliver(fast: u32, slow: Reason) -> Reason {
    match fast {
        0 => slow,
        ifindex => fast::to_pod(ifindex),
    }
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
    let (address, mac, fast) = (first.address, first.mac, first.ifindex);
    rewrite::destination_mac(ctx, mac)?;
    rewrite::address(ctx, End::Destination, ip, address)?;
    Ok(deliver(fast, Reason::Unmasqueraded))
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
    // Connection tracking may have forgotten a fast flow by now, and call the error invalid.
    let fast = if fast::is_fast(flow) { flow.ifindex } else { 0 };
    rewrite::destination_mac(ctx, flow.mac)?;
    error.translate(ctx, ip, End::Destination, flow.address, flow.port)?;
    Ok(deliver(fast, Reason::IcmpErrorIn))
}

/// For another address than the node's.
#[inline(always)]
fn to_address(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    match pods::by_address(ip.destination) {
        Some(pod) => to_pod(ctx, uplink, ip, pod),
        None => Ok(Reason::NotOurs),
    }
}

/// For a pod's own address. A flow whose replies would be masqueraded, or dropped, is remembered.
#[inline(always)]
fn to_pod(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4, pod: &Pod) -> Outcome {
    rewrite::destination_mac(ctx, pod.mac)?;
    let Ok(transport) = Transport::read(ctx, ip) else {
        return Ok(Reason::ToPod);
    };
    let reply = transport.key(ip).reversed();
    match policy::action(&reply) {
        Action::IN_RANGE | Action::EXEMPT => Ok(Reason::ToPod),
        _ => Ok(record_inbound(uplink, ip, &transport, &reply, pod)),
    }
}

#[inline(always)]
fn record_inbound(
    uplink: &Uplink,
    ip: &Ipv4,
    transport: &Transport,
    reply: &FlowKey,
    pod: &Pod,
) -> Reason {
    let now = flow::now();
    match flow::find(reply) {
        Some(known) if known.kind == FlowKind::INBOUND => {
            flow::touch(reply, known, transport, uplink, now);
            return Reason::ToPod;
        }
        // The pod's own flow with the same ends: what comes in beside it is not a part of it.
        Some(known) if !flow::is_over(reply, known, now) => return Reason::ToPod,
        _ => {}
    }
    if transport.is_echo_reply || (ip.protocol == TCP && !transport.opens_connection()) {
        return Reason::ToPod;
    }
    if let Some(over) = flow::find(reply) {
        flow::forget(reply, over);
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
    // Neither a full table nor a pod's full share must close the way in for what is in range; the reply is
    // then dropped, counted, at the NIC.
    let is_recorded =
        !share::is_used_up(reply.source, uplink) && flow::insert(reply, &entry).is_ok();
    if is_recorded {
        sweep::enqueue(reply, now);
        sweep::step(uplink, now);
        Reason::InboundRecorded
    } else {
        Reason::ToPod
    }
}
