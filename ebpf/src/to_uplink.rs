//! TC egress of the NIC: what leaves the node, after the bridge and netfilter.
//!
//! Every frame leaves with the NIC's MAC. A pod's packet to a destination out of range leaves from
//! the node's address, or as the reply of a flow that came in, or not at all.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Action, Flow, FlowKey, FlowKind, Reason, Uplink};

use crate::{
    arp, config, flow, fragment,
    icmp::IcmpError,
    packet::{
        self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, ICMP, Ipv4, Part, Transport,
    },
    pods, policy,
    rewrite::{self, End},
    snat, sweep,
    verdict::Outcome,
};

/// Decides by the packet's addresses and our own state, by nothing else.
#[inline(always)]
pub fn decide(ctx: &TcContext) -> Outcome {
    packet::pull_headers(ctx);
    let uplink = config::uplink()?;
    let frame = Frame::read(ctx)?;
    match frame.ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, uplink, &frame),
        ETHERTYPE_ARP => arp::to_uplink(ctx, uplink),
        // Azure gave the pods no IPv6 address, so nothing of theirs may leave with one.
        ETHERTYPE_IPV6 if frame.source != uplink.mac => Err(Reason::Ipv6),
        _ => as_nic(ctx, uplink, &frame, Reason::NotOurs),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, uplink: &Uplink, frame: &Frame) -> Outcome {
    let ip = Ipv4::read(ctx)?;
    if ip.source == uplink.address {
        return as_nic(ctx, uplink, frame, Reason::NotOurs);
    }
    let transport = match Transport::read(ctx, &ip) {
        Ok(transport) => transport,
        Err(reason) => return without_flow(ctx, uplink, frame, &ip, reason),
    };
    rewrite::source_mac(ctx, uplink.mac)?;

    let key = transport.key(&ip);
    let now = flow::now();
    if let Some(known) = flow::find(&key) {
        if known.kind == FlowKind::MASQUERADE {
            flow::touch(&key, known, &transport, uplink, now);
            return masquerade(ctx, &ip, &transport, known, now, Reason::Masqueraded);
        }
        // With identifier 0 an echo request has the key of the reply to another's request.
        let may_be_reply = !transport.is_echo_request && !known.is_over(now);
        if known.kind == FlowKind::INBOUND && may_be_reply {
            flow::touch(&key, known, &transport, uplink, now);
            fragment::expect_more(&ip, ip.source, known.mac, now);
            return Ok(Reason::InboundReply);
        }
        flow::remove(&key);
    }
    new_flow(ctx, uplink, &ip, &transport, &key, now)
}

#[inline(always)]
fn new_flow(
    ctx: &TcContext,
    uplink: &Uplink,
    ip: &Ipv4,
    transport: &Transport,
    key: &FlowKey,
    now: u32,
) -> Outcome {
    let Some(pod) = pods::by_address(ip.source) else {
        return Ok(Reason::NotOurs);
    };
    match policy::action(ip.destination) {
        Action::IN_RANGE => Ok(Reason::InRange),
        Action::EXEMPT => Ok(Reason::Exempt),
        Action::DROP => Err(Reason::PolicyDrop),
        _ if transport.is_echo_reply => Err(Reason::UnsupportedProtocol),
        _ => {
            let tcp_state = flow::first_state(key, transport);
            let opened = snat::open(key, pod, uplink, tcp_state, now);
            // Also where there was no room: the next packet may find some.
            sweep::step(now);
            let flow = opened?;
            sweep::enqueue(key);
            masquerade(ctx, ip, transport, &flow, now, Reason::FlowCreated)
        }
    }
}

/// A packet whose flow cannot be told: only a pod's way out of the ranges is closed to it.
#[inline(always)]
fn without_flow(
    ctx: &TcContext,
    uplink: &Uplink,
    frame: &Frame,
    ip: &Ipv4,
    why: Reason,
) -> Outcome {
    if pods::by_address(ip.source).is_none() {
        return as_nic(ctx, uplink, frame, Reason::NotOurs);
    }
    match policy::action(ip.destination) {
        Action::IN_RANGE => as_nic(ctx, uplink, frame, Reason::InRange),
        Action::EXEMPT => as_nic(ctx, uplink, frame, Reason::Exempt),
        Action::DROP => Err(Reason::PolicyDrop),
        _ if ip.part == Part::Later => later_fragment(ctx, uplink, ip),
        _ if ip.protocol == ICMP => icmp_error(ctx, uplink, ip),
        _ => Err(why),
    }
}

/// The first fragment has told what becomes of this one.
#[inline(always)]
fn later_fragment(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let first = fragment::first_of(ip, flow::now(), uplink).ok_or(Reason::Fragment)?;
    let address = first.address;
    rewrite::source_mac(ctx, uplink.mac)?;
    rewrite::address(ctx, End::Source, ip, address)?;
    Ok(if address == ip.source {
        Reason::InboundReply
    } else {
        Reason::Masqueraded
    })
}

/// A pod complains about a packet that it got: as its flow left, so does the complaint.
#[inline(always)]
fn icmp_error(ctx: &TcContext, uplink: &Uplink, ip: &Ipv4) -> Outcome {
    let error = IcmpError::read(ctx, ip)?;
    if error.quoted.destination != ip.source || error.quoted.source != ip.destination {
        return Err(Reason::Malformed);
    }
    let flow = flow::find(&error.key()).ok_or(Reason::UnsupportedProtocol)?;
    if flow.is_over(flow::now()) {
        return Err(Reason::UnsupportedProtocol);
    }
    rewrite::source_mac(ctx, uplink.mac)?;
    if flow.kind == FlowKind::MASQUERADE {
        error.translate(ctx, ip, End::Source, flow.address, flow.port)?;
    }
    Ok(Reason::IcmpErrorOut)
}

#[inline(always)]
fn masquerade(
    ctx: &TcContext,
    ip: &Ipv4,
    transport: &Transport,
    flow: &Flow,
    now: u32,
    reason: Reason,
) -> Outcome {
    let (address, port) = (flow.address, flow.port);
    fragment::expect_more(ip, address, flow.mac, now);
    rewrite::endpoint(ctx, End::Source, ip, transport, address, port)?;
    Ok(reason)
}

#[inline(always)]
fn as_nic(ctx: &TcContext, uplink: &Uplink, frame: &Frame, reason: Reason) -> Outcome {
    if frame.source != uplink.mac {
        rewrite::source_mac(ctx, uplink.mac)?;
    }
    Ok(reason)
}
