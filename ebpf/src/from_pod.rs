//! TC ingress of a pod's host veth: what a pod sends, before the bridge and netfilter see it.
//!
//! Everything behind this hook may trust the source address of a packet.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Mac, Port, Reason, Uplink};

use crate::{
    arp, config,
    packet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, Ipv4},
    pods,
    verdict::Outcome,
};

/// Drops what does not come from the pod's own addresses.
#[inline(always)]
pub fn decide(ctx: &TcContext) -> Outcome {
    packet::pull_headers(ctx);
    let uplink = config::uplink()?;
    let frame = Frame::read(ctx)?;
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let port = pods::by_ifindex(ifindex).ok_or(Reason::Unconfigured)?;
    if frame.source != port.mac {
        admit_mac(ifindex, port, frame.source, uplink)?;
    }
    match frame.ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, port),
        ETHERTYPE_ARP => arp::from_pod(ctx, port, frame.source),
        _ => Ok(Reason::NotOurs),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, port: &Port) -> Outcome {
    let ip = Ipv4::read(ctx)?;
    if !pods::may_send(port, ip.source) {
        return Err(Reason::SpoofedAddress);
    }
    Ok(Reason::NotOurs)
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
