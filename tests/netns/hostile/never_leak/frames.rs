//! Frames that a hostile pod might send, most of them such that the fabric would carry them.

use std::net::Ipv4Addr;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET, Mac, PEERED};
use azure_vnet_testbed::icmp::internet_checksum;
use azure_vnet_testbed::packet_socket::vnet_header;
use fastrand::Rng;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// IGMP, IP in IP, GRE, ESP, SCTP, UDP-Lite.
const OTHERS: [u8; 6] = [2, 4, 47, 50, 132, 136];

/// Few, so that packets meet the flows of others, and some of them in the range that is masqueraded with.
const PORTS: [u16; 7] = [1, 53, 80, 4500, 15_000, 20_000, 40_000];

/// With a number, and with none, which the kernel takes off.
const VLAN: [[u8; 4]; 2] = [[0x81, 0, 0, 5], [0x81, 0, 0, 0]];
const QINQ: [[u8; 4]; 2] = [[0x88, 0xa8, 0, 6], [0x88, 0xa8, 0, 0]];

/// LLDP, MPLS, `PPPoE`, EAPOL, a tag of old, AVB.
const TYPES: [u16; 6] = [0x88cc, 0x8847, 0x8864, 0x888e, 0x9100, 0x22f0];
/// BPDU, and what Cisco's devices say to each other: an LLC header, the second with SNAP.
const BPDU: [u8; 3] = [0x42, 0x42, 3];
const SNAP: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0];

/// A pod that keeps to no rule.
pub struct Hostile {
    pub rng: Rng,
    /// Its own address, and that of another pod.
    pub address: Ipv4Addr,
    pub neighbour: Ipv4Addr,
    /// Its own MAC, that of the other pod, and that of the NIC.
    pub mac: Mac,
    pub neighbours_mac: Mac,
    pub nic: Mac,
}

impl Hostile {
    /// A frame with what the kernel is told of it (`PACKET_VNET_HDR`).
    pub fn offloaded(&mut self) -> Vec<u8> {
        let checksum = (self.rng.u8(..4) == 0).then(|| self.checksum());
        [&vnet_header(checksum)[..], &self.frame()].concat()
    }

    /// Where the kernel is to write a checksum: in the header's place, which is right for UDP or TCP, or anywhere.
    fn checksum(&mut self) -> (u16, u16) {
        match self.rng.u8(..4) {
            0 => (34, 6),
            1 => (34, 16),
            2 => (34, self.rng.u16(..20)),
            _ => (self.rng.u16(20..44), self.rng.u16(..16)),
        }
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.destination().to_vec();
        frame.extend(self.source());
        frame.extend(self.tags());
        match self.rng.u8(..32) {
            0 => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ipv6());
            }
            3 => {
                frame.extend(self.of(&TYPES).to_be_bytes());
                frame.extend(self.ipv4());
            }
            4 => frame.extend([&[0, 38], &BPDU[..], &[0; 35]].concat()),
            5 => frame.extend([&[0, 64], &SNAP[..], &self.ipv4()].concat()),
            1 => {
                frame.extend([0x08, 0x06]);
                frame.extend(self.arp());
            }
            2 => frame.extend((0..self.rng.usize(2..80)).map(|_| self.rng.u8(..))),
            _ => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.ipv4());
            }
        }
        frame
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(..all.len())]
    }

    /// The router's, mostly; else the node's own, which routes it, everybody's, another pod's, or one that bridges keep to themselves.
    fn destination(&mut self) -> [u8; 6] {
        match self.rng.u8(..20) {
            0 => self.nic.0,
            1 => [0xff; 6],
            2 => [0x01, 0, 0x5e, 0, 0, 1],
            3 => self.neighbours_mac.0,
            4 => [0x01, 0x80, 0xc2, 0, 0, self.rng.u8(..16)],
            _ => FABRIC_MAC.0,
        }
    }

    fn source(&mut self) -> [u8; 6] {
        match self.rng.u8(..32) {
            0 => self.nic.0,
            1 => FABRIC_MAC.0,
            2 => [2, 0, 0, 0, 0, self.rng.u8(..)],
            3 => [self.rng.u8(..) | 1, 0, 0, 0, 0, 1],
            4 => self.neighbours_mac.0,
            5 => [0; 6],
            _ => self.mac.0,
        }
    }

    fn tags(&mut self) -> Vec<u8> {
        let (vlan, qinq) = (self.of(&VLAN), self.of(&QINQ));
        match self.rng.u8(..24) {
            0 => vlan.to_vec(),
            1 => qinq.to_vec(),
            2 => [vlan, vlan].concat(),
            3 => [qinq, vlan].concat(),
            4 => [qinq, vlan, vlan].concat(),
            _ => Vec::new(),
        }
    }

    fn arp(&mut self) -> Vec<u8> {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, self.rng.u8(..4)];
        packet.extend(self.source());
        packet.extend(self.own_address().octets());
        packet.extend([0; 6]);
        packet.extend(self.target().octets());
        packet
    }

    fn ipv6(&mut self) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, self.rng.u8(..), 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend((0..16).map(|_| self.rng.u8(..)));
        packet
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let options = [0, 0, 0, 0, 4, 8, 40][self.rng.usize(..7)];
        let protocol = match self.rng.u8(..12) {
            0..3 => TCP,
            3..6 => UDP,
            6..8 => ICMP,
            8..11 => OTHERS[self.rng.usize(..OTHERS.len())],
            _ => self.rng.u8(..),
        };
        let segment = self.segment(protocol);
        let header = 20 + options;
        let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        packet.extend(u16::try_from(header + segment.len()).unwrap().to_be_bytes());
        // Few identifications, so that fragments meet those of others.
        packet.extend([0, self.rng.u8(..8)]);
        packet.extend(self.fragment().to_be_bytes());
        packet.extend([self.rng.u8(1..), protocol, 0, 0]);
        packet.extend(self.own_address().octets());
        packet.extend(self.target().octets());
        packet.extend(self.options(options));
        if self.rng.u8(..16) == 0 {
            let at = self.rng.usize(..12);
            packet[at] = self.rng.u8(..);
        }
        if self.rng.u8(..32) != 0 {
            let sum = internet_checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(segment);
        packet
    }

    fn own_address(&mut self) -> Ipv4Addr {
        match self.rng.u8(..32) {
            0 => self.neighbour,
            1 => Ipv4Addr::UNSPECIFIED,
            _ => self.address,
        }
    }

    fn target(&mut self) -> Ipv4Addr {
        match self.rng.u8(..16) {
            0 => PEERED,
            1 => Ipv4Addr::new(224, 0, 0, 1),
            2 => Ipv4Addr::BROADCAST,
            3 => Ipv4Addr::new(240, 0, 0, 1),
            4 => Ipv4Addr::LOCALHOST,
            5 => self.neighbour,
            _ => INTERNET[self.rng.usize(..INTERNET.len())],
        }
    }

    /// Mostly whole; else the first, one in the middle or the last of several.
    fn fragment(&mut self) -> u16 {
        match self.rng.u8(..10) {
            0 => 0x2000,
            1 => 0x2000 | self.rng.u16(1..200),
            2 => self.rng.u16(1..200),
            3 => self.rng.u16(..),
            _ => 0x4000,
        }
    }

    /// No-operations, a router alert, a source route, or nonsense.
    fn options(&mut self, length: usize) -> Vec<u8> {
        let mut options = match self.rng.u8(..4) {
            0 => vec![0x94, 4, 0, 0],
            1 => vec![0x83, 7, 4, 203, 0, 113, 99, 0],
            2 => (0..length).map(|_| self.rng.u8(..)).collect(),
            _ => Vec::new(),
        };
        options.resize(length, 1);
        options
    }

    /// A sound segment, or a broken one.
    fn segment(&mut self, protocol: u8) -> Vec<u8> {
        let mut port = || PORTS[self.rng.usize(..PORTS.len())].to_be_bytes();
        let mut segment = match protocol {
            TCP | UDP | 132 | 136 => [port(), port()].concat(),
            _ => Vec::new(),
        };
        match protocol {
            TCP => {
                segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.rng.u8(..64)]);
                segment.extend([0xff, 0xff, 0, 0, 0, 0]);
            }
            UDP => segment.extend([0, 24, 0, 0]),
            ICMP => segment = self.icmp(),
            _ => {}
        }
        let rest = [0, 16, 16, 16, 100, 1200][self.rng.usize(..6)];
        segment.extend((0..rest).map(|_| self.rng.u8(..)));
        if protocol == ICMP {
            let sum = internet_checksum(&segment);
            segment[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        if self.rng.u8(..12) == 0 {
            segment.truncate(self.rng.usize(..=segment.len()));
        }
        segment
    }

    /// A query or an answer, or an error about a packet that the internet might have sent.
    fn icmp(&mut self) -> Vec<u8> {
        let kind = [8, 8, 0, 3, 11, 12, 4, 5, 13, 14, 17][self.rng.usize(..11)];
        let mut message = vec![kind, self.rng.u8(..16), 0, 0, 0x30, self.rng.u8(..), 0, 1];
        if matches!(kind, 3 | 4 | 5 | 11 | 12) {
            message.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, UDP, 0, 0]);
            message.extend(INTERNET[0].octets());
            message.extend(self.address.octets());
            message.extend([0, 53, 0x3a, 0x98, 0, 40, 0, 0]);
        }
        message
    }
}
