//! ARP across the NIC (RFC 826).
//!
//! The fabric knows one MAC for this node, the NIC's, and answers every request itself.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Be16, Be32, Mac, Port, Reason, Uplink};

use crate::{
    packet::{Ethernet, NETWORK, at},
    pods,
    verdict::Outcome,
};

const REQUEST: Be16 = Be16::from_host(1);
const REPLY: Be16 = Be16::from_host(2);

/// An ARP packet for IPv4 over Ethernet. Addresses are pairs of half words because the target's
/// stands at an odd multiple of two.
#[repr(C)]
struct Arp {
    hardware_type: Be16,
    protocol_type: Be16,
    lengths: [u8; 2],
    operation: Be16,
    sender_mac: Mac,
    sender: [u16; 2],
    target_mac: Mac,
    target: [u16; 2],
}

impl Arp {
    #[inline(always)]
    fn read(ctx: &TcContext) -> Result<*mut Self, Reason> {
        at::<Self>(ctx, NETWORK).ok_or(Reason::Malformed)
    }

    #[inline(always)]
    fn sender(&self) -> Be32 {
        address(self.sender)
    }

    #[inline(always)]
    fn target(&self) -> Be32 {
        address(self.target)
    }
}

#[inline(always)]
fn address([first, second]: [u16; 2]) -> Be32 {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    Be32::from_raw(u32::from_ne_bytes([a, b, c, d]))
}

/// From a pod: it may speak for its own addresses and MAC, and probe with none (RFC 5227).
#[inline(always)]
pub fn from_pod(ctx: &TcContext, port: &Port, source: Mac) -> Outcome {
    let arp = Arp::read(ctx)?;
    // SAFETY: `read` has shown that the packet is inside the frame, and no other reference to it
    // is alive.
    let arp = unsafe { &mut *arp };
    let sender = arp.sender();
    if sender.raw() != 0 && !pods::may_send(port, sender) {
        return Err(Reason::SpoofedAddress);
    }
    if arp.sender_mac != source {
        return Err(Reason::SpoofedMac);
    }
    Ok(Reason::NotOurs)
}

/// To the fabric: from the NIC's MAC. A request for an address of this node is answered here;
/// the fabric would answer it as well, with its own MAC.
#[inline(always)]
pub fn to_uplink(ctx: &TcContext, uplink: &Uplink) -> Outcome {
    let arp = Arp::read(ctx)?;
    // SAFETY: `read` has shown that the packet is inside the frame, and no other reference to it
    // is alive.
    let arp = unsafe { &mut *arp };
    let target = arp.target();
    if arp.operation == REQUEST && (target == uplink.address || pods::by_address(target).is_some())
    {
        return Err(Reason::ArpLocal);
    }
    if arp.sender_mac == uplink.mac {
        return Ok(Reason::NotOurs);
    }
    arp.sender_mac = uplink.mac;
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    unsafe { (*ethernet).source = uplink.mac };
    Ok(Reason::ArpRewritten)
}

/// From the fabric: an answer comes to the NIC's MAC and goes to the pod that asked.
#[inline(always)]
pub fn from_uplink(ctx: &TcContext) -> Outcome {
    let arp = Arp::read(ctx)?;
    // SAFETY: `read` has shown that the packet is inside the frame, and no other reference to it
    // is alive.
    let arp = unsafe { &mut *arp };
    if arp.operation != REPLY {
        return Ok(Reason::NotOurs);
    }
    let Some(pod) = pods::by_address(arp.target()) else {
        return Ok(Reason::NotOurs);
    };
    let mac = pod.mac;
    arp.target_mac = mac;
    crate::rewrite::destination_mac(ctx, mac)?;
    Ok(Reason::ArpRewritten)
}
