//! Frames made by hand, for tests that send what no other socket would.

use std::net::Ipv4Addr;

use crate::address_plan::{FABRIC_MAC, Mac};
use crate::icmp::internet_checksum;

/// The type of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// The type of ARP.
pub const ETH_P_ARP: u16 = 0x0806;
/// The type of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// The MAC of everybody.
pub const BROADCAST: Mac = Mac([0xff; 6]);
/// No MAC.
pub const NOBODY: Mac = Mac([0; 6]);

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The flag of TCP that begins a connection.
pub const SYN: u8 = 2;
/// The flag of TCP that resets one.
pub const RST: u8 = 4;

/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;

/// The port that UDP packets go to.
pub const PORT: u16 = 5000;

/// A frame, of which a case changes what it is about.
#[derive(Clone, Debug)]
pub struct Frame {
    to: Mac,
    from: Mac,
    kind: u16,
    /// Kind and number, the outer one first.
    tags: Vec<(u16, u16)>,
    payload: Vec<u8>,
}

impl Frame {
    /// IPv4 for the router.
    pub fn ipv4(from: Mac, payload: Vec<u8>) -> Self {
        Self {
            to: FABRIC_MAC,
            from,
            kind: ETH_P_IP,
            tags: Vec::new(),
            payload,
        }
    }

    /// The same to this MAC.
    #[must_use]
    pub fn to(mut self, to: Mac) -> Self {
        self.to = to;
        self
    }

    /// The same from this MAC.
    #[must_use]
    pub fn from(mut self, from: Mac) -> Self {
        self.from = from;
        self
    }

    /// The same with this type, or length.
    #[must_use]
    pub fn kind(mut self, kind: u16) -> Self {
        self.kind = kind;
        self
    }

    /// The same with a VLAN tag before all others.
    #[must_use]
    pub fn tagged(mut self, kind: u16, number: u16) -> Self {
        self.tags.insert(0, (kind, number));
        self
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.to.0, self.from.0].concat();
        for (kind, number) in &self.tags {
            bytes.extend([kind.to_be_bytes(), number.to_be_bytes()].concat());
        }
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// A UDP packet from port 4000 to [`PORT`] with this payload. It has no checksum, which IPv4 allows.
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [4000, PORT, length(8, payload), 0]
        .map(u16::to_be_bytes)
        .concat();
    datagram.extend(payload);
    ipv4(source, destination, UDP, &datagram)
}

/// A TCP packet with these flags and this payload.
pub fn tcp(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = [source_port, 80].map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    let mut pseudo = [source.octets(), destination.octets()].concat();
    pseudo.extend([0, TCP]);
    pseudo.extend(length(0, &segment).to_be_bytes());
    let sum = internet_checksum(&[pseudo, segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(source, destination, TCP, &segment)
}

/// An IPv4 packet without options.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(length(IPV4, payload).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An ARP packet of Ethernet and IPv4.
pub fn arp(
    operation: u8,
    (sender, source): (Mac, Ipv4Addr),
    (target, asked): (Mac, Ipv4Addr),
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(sender.0);
    packet.extend(source.octets());
    packet.extend(target.0);
    packet.extend(asked.octets());
    packet
}

/// What a header says of itself and what it carries; more than it can say is cut off.
fn length(header: usize, payload: &[u8]) -> u16 {
    u16::try_from(header + payload.len()).unwrap_or(u16::MAX)
}

/// The source address of IPv4 or ARP in a frame without a tag.
pub fn source_of(frame: &[u8]) -> Option<Ipv4Addr> {
    let at = match u16::from_be_bytes([frame[12], frame[13]]) {
        ETH_P_IP => 26,
        ETH_P_ARP => 28,
        _ => return None,
    };
    frame.get(at..)?.first_chunk::<4>().copied().map(Into::into)
}

/// Whether it is ARP.
pub fn is_arp(frame: &[u8]) -> bool {
    frame[12..14] == ETH_P_ARP.to_be_bytes()
}

/// Whether it is an ICMP message, which may quote one of our packets.
pub fn is_icmp(frame: &[u8]) -> bool {
    frame[12..14] == ETH_P_IP.to_be_bytes() && frame.get(23) == Some(&ICMP)
}
