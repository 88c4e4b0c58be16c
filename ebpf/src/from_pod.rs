//! TC ingress of a pod's host veth: what a pod sends, before the bridge and netfilter see it.
//!
//! Everything behind this hook may trust the source address of a packet. A packet of a fast flow
//! leaves from here.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Mac, Port, Reason, Uplink};

use crate::{
    arp, config, fast, flow,
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, Ipv4, Plain, Transport},
    pods,
    verdict::{self, Outcome},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    verdict::settle(ctx, decide(ctx))
}

/// Sends on what belongs to a fast flow, and of the rest lets pass what comes from the pod's own
/// addresses.
#[inline(always)]
fn decide(ctx: &TcContext) -> Outcome {
    let uplink = config::uplink()?;
    let ifindex = fast::ifindex(ctx);
    let plain = Plain::read(ctx);
    let mut is_uncommon = plain.is_none();
    if let Some(packet) = &plain {
        let key = packet.key();
        if let Some(flow) = flow::find(&key).filter(|flow| fast::is_from(flow, ifindex)) {
            if packet.transport.tcp_flags & Transport::SYN != 0 {
                fast::withdraw(&key, flow);
            } else if packet.frame.source == flow.mac {
                match fast::out(ctx, uplink, packet, &key, flow) {
                    Ok(Reason::NotOurs) => {}
                    outcome => return outcome,
                }
            } else {
                is_uncommon = true;
            }
        }
    }
    packet::pull_headers(ctx);
    let frame = Frame::read(ctx)?;
    let port = pods::by_ifindex(ifindex).ok_or(Reason::Unconfigured)?;
    if frame.source != port.mac {
        admit_mac(ifindex, port, frame.source, uplink)?;
    }
    match frame.ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, port, plain, is_uncommon),
        ETHERTYPE_ARP => arp::from_pod(ctx, port, frame.source),
        _ => Ok(Reason::NotOurs),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, port: &Port, plain: Option<Plain>, is_uncommon: bool) -> Outcome {
    let source = match &plain {
        Some(packet) => packet.ip.source,
        None => Ipv4::read(ctx)?.source,
    };
    if !pods::may_send(port, source) {
        return Err(Reason::SpoofedAddress);
    }
    if is_uncommon {
        return uncommonly(ctx);
    }
    fast::note(ctx, plain.map(|packet| packet.key()));
    Ok(Reason::NotOurs)
}

/// What is not plain, or belongs to a fast flow and has another MAC than its packets before.
#[inline(always)]
fn uncommonly(ctx: &TcContext) -> Outcome {
    match fast::uncommon_out(ctx) {
        fast::SLOW => {
            fast::note(ctx, None);
            Ok(Reason::NotOurs)
        }
        fast::SENT => Ok(Reason::MasqueradedFast),
        _ => Err(Reason::Malformed),
    }
}

/// A pod may change its MAC, which is learnt, but not to one that would turn the bridge's table
/// against the node and its pods: the NIC's, the fabric's, or a group address.
#[inline(always)]
fn admit_mac(ifindex: u32, port: &Port, mac: Mac, uplink: &Uplink) -> Result<(), Reason> {
    if mac == uplink.mac || mac == Mac::FABRIC || mac.0[0] & 1 != 0 {
        return Err(Reason::SpoofedMac);
    }
    pods::learn(ifindex, port, mac);
    Ok(())
}
