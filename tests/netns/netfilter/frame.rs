//! Frames made by hand.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, Mac};
use azure_vnet_testbed::icmp::internet_checksum;

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const BROADCAST: Mac = Mac([0xff; 6]);
pub const NOBODY: Mac = Mac([0; 6]);

pub const ICMP: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;

/// The port that UDP packets go to.
pub const PORT: u16 = 5000;

/// A frame, of which a case changes what it is about.
#[derive(Clone)]
pub struct Frame {
    pub to: Mac,
    pub from: Mac,
    pub kind: u16,
    /// Kind and number, the outer one first.
    pub tags: Vec<(u16, u16)>,
    pub payload: Vec<u8>,
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

    pub fn to(mut self, to: Mac) -> Self {
        self.to = to;
        self
    }

    pub fn from(mut self, from: Mac) -> Self {
        self.from = from;
        self
    }

    pub fn kind(mut self, kind: u16) -> Self {
        self.kind = kind;
        self
    }

    pub fn tagged(mut self, kind: u16, number: u16) -> Self {
        self.tags.insert(0, (kind, number));
        self
    }

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

/// A UDP packet with this payload. It has no checksum, which IPv4 allows.
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = [4000_u16, PORT, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    ipv4(source, destination, 17, &datagram)
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
    pseudo.extend([0, 6]);
    pseudo.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    let sum = internet_checksum(&[pseudo, segment.clone()].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(source, destination, 6, &segment)
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
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

/// The addresses of IPv4 or ARP in a frame without a tag.
pub fn source_of(frame: &[u8]) -> Option<Ipv4Addr> {
    let at = match u16::from_be_bytes([frame[12], frame[13]]) {
        ETH_P_IP => 26,
        ETH_P_ARP => 28,
        _ => return None,
    };
    let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().unwrap();
    Some(octets.into())
}

pub fn is_arp(frame: &[u8]) -> bool {
    frame[12..14] == ETH_P_ARP.to_be_bytes()
}

/// Whether it is an ICMP message, which may quote one of our packets.
pub fn is_icmp(frame: &[u8]) -> bool {
    frame[12..14] == ETH_P_IP.to_be_bytes() && frame.get(23) == Some(&ICMP)
}
