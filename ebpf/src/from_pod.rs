//! TC ingress of a pod's host veth: what a pod sends, before the bridge and netfilter see it.
//!
//! A wall that is closed by default: IPv4 from the pod's own addresses to the router passes, ARP is answered here,
//! and nothing else goes further. Everything behind this hook may trust the source address of a packet. A packet of
//! a fast flow leaves from here.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{FlowKey, Mac, Port, Reason, Uplink};

use crate::{
    arp, config, fast, flow, origin,
    packet::{
        self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Frame,
        Ipv4, Plain, Transport,
    },
    pods, rewrite,
    verdict::{self, Outcome},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    verdict::settle(ctx, decide(ctx))
}

/// Protocol in the key of a packet that has none which could be told at once.
const NO_KEY: u8 = 0;

/// Sends on what belongs to a fast flow, and of the rest lets pass what comes from the pod's own
/// addresses.
#[inline(always)]
fn decide(ctx: &TcContext) -> Outcome {
    let uplink = config::uplink()?;
    // Netfilter does not see what has one, and would be passed by for good once its flow is fast.
    if packet::had_tag(ctx) {
        return Err(Reason::Tagged);
    }
    let ifindex = fast::ifindex(ctx);
    let plain = Plain::read(ctx);
    // What is needed further down stands here whatever the packet is: the compiler may read it before it asks, and Linux
    // 5.10 refuses a program that reads of the stack what nobody wrote.
    let key = plain.as_ref().map_or(FlowKey::default(), Plain::key);
    let mut is_uncommon = plain.is_none();
    if let Some(packet) = &plain
        && let Some(flow) = flow::find(&key).filter(|flow| fast::is_from(flow, ifindex))
    {
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
    packet::pull_headers(ctx);
    let frame = Frame::read(ctx)?;
    let port = pods::by_ifindex(ifindex).ok_or(Reason::Unconfigured)?;
    if frame.source != port.mac {
        admit_mac(ifindex, port, frame.source, uplink)?;
    }
    match frame.ether_type {
        ETHERTYPE_IPV4 => ipv4(ctx, port, &key, is_uncommon),
        ETHERTYPE_ARP if frame.destination.is_group() && frame.destination != Mac::BROADCAST => {
            Err(Reason::ToGroup)
        }
        ETHERTYPE_ARP => arp::answer(ctx, ifindex, port),
        ETHERTYPE_IPV6 => Err(Reason::Ipv6),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(Reason::Tagged),
        _ => Err(Reason::EtherType),
    }
}

/// First byte of 127.0.0.0/8.
const LOOPBACK_NET: u8 = 127;

#[inline(always)]
fn ipv4(ctx: &TcContext, port: &Port, key: &FlowKey, is_uncommon: bool) -> Outcome {
    let (source, to) = match key.protocol {
        NO_KEY => {
            let ip = Ipv4::read(ctx)?;
            (ip.source, ip.destination)
        }
        _ => (key.source, key.destination),
    };
    if !pods::may_send(port, source) {
        return Err(Reason::SpoofedAddress);
    }
    // portmap has the kernel route that (`route_localnet`): a pod would reach what listens for the node alone.
    if to.raw().to_ne_bytes()[0] == LOOPBACK_NET {
        return Err(Reason::Loopback);
    }
    if packet::is_to_group(ctx)? {
        return Err(Reason::ToGroup);
    }
    if is_uncommon {
        match fast::uncommon_out(ctx) {
            fast::SLOW => {}
            fast::SENT => return Ok(Reason::MasqueradedFast),
            _ => return Err(Reason::Malformed),
        }
    }
    // Replies to another interface of the container go there, so what it sends by this one is not fast.
    let may_be_fast = !is_uncommon && source == port.address;
    fast::note(ctx, may_be_fast.then_some(key));
    origin::set_guarded(ctx);
    // A pod of v0.1.0 may still know its neighbours by their own.
    rewrite::destination_mac(ctx, Mac::FABRIC)?;
    Ok(Reason::NotOurs)
}

/// A pod may change its MAC, which is learnt, but not to one that would turn the bridge's table
/// against the node and its pods: the NIC's, the router's, a group address, or none.
#[inline(always)]
fn admit_mac(ifindex: u32, port: &Port, mac: Mac, uplink: &Uplink) -> Result<(), Reason> {
    if mac == uplink.mac || mac == Mac::FABRIC || mac.is_group() || mac == Mac::NONE {
        return Err(Reason::SpoofedMac);
    }
    pods::learn(ifindex, port, mac);
    Ok(())
}
