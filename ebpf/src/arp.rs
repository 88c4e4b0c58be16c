//! ARP of a pod (RFC 826): every request gets the router's MAC, whoever is asked for, as Azure's fabric answers.
//!
//! Nobody else on the node hears it: the node's entries for pods are permanent, and a pod has no neighbours. The
//! kernel would not answer in every case (`arp_ignore`, no default route).

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::{Be16, Be32, Mac, Port, Reason};

use crate::{
    fast,
    packet::{Ethernet, at},
    pods,
    verdict::Outcome,
};

/// The frame and what is in it.
#[repr(C)]
struct Frame {
    ethernet: Ethernet,
    arp: Arp,
}

const ETHERNET: Be16 = Be16::from_host(1);
const IPV4: Be16 = Be16::from_host(0x0800);
/// Bytes of a MAC and of an address.
const LENGTHS: [u8; 2] = [6, 4];
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
    fn is_for_ipv4(&self) -> bool {
        self.hardware_type == ETHERNET && self.protocol_type == IPV4 && self.lengths == LENGTHS
    }
}

#[inline(always)]
fn address([first, second]: [u16; 2]) -> Be32 {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    Be32::from_raw(u32::from_ne_bytes([a, b, c, d]))
}

/// A pod may speak for its own addresses and MAC alone, and is answered if it asks for another's.
#[inline(always)]
pub fn answer(ctx: &TcContext, ifindex: u32, port: &Port) -> Outcome {
    let frame = at::<Frame>(ctx, 0).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the frame has all of it, and no other reference to it is alive.
    let Frame { ethernet, arp } = unsafe { &mut *frame };
    if !arp.is_for_ipv4() {
        return Err(Reason::Malformed);
    }
    let asked_for = arp.target;
    let (sender, target) = (address(arp.sender), address(asked_for));
    // RFC 5227: who asks whether an address is free has none yet.
    let is_probe = sender.raw() == 0;
    if !is_probe && !pods::may_send(port, sender) {
        return Err(Reason::SpoofedAddress);
    }
    if arp.sender_mac != ethernet.source {
        return Err(Reason::SpoofedMac);
    }
    if is_probe || arp.operation != REQUEST || pods::may_send(port, target) {
        return Err(Reason::ArpIgnored);
    }
    arp.operation = REPLY;
    (arp.target_mac, arp.target) = (arp.sender_mac, arp.sender);
    (arp.sender_mac, arp.sender) = (Mac::FABRIC, asked_for);
    (ethernet.destination, ethernet.source) = (ethernet.source, Mac::FABRIC);
    fast::redirect(ifindex);
    Ok(Reason::ArpAnswered)
}
