//! Packets from what they mean to bytes, with every checksum computed from scratch. What a program
//! makes of a packet is written down as the packet it should have become.

use std::net::Ipv4Addr;

use azure_vnet_abi::Mac;
use bytes::{BufMut as _, Bytes, BytesMut};

use crate::oracle::{checksum, pseudo_header};
use crate::plan::{FABRIC, NIC, Pod};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// More fragments follow, and none came before.
pub const FIRST: u16 = 0x2000;
/// The second fragment of two on an Ethernet with an MTU of 1500, in units of eight bytes.
pub const LATER: u16 = 0xb9;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The shortest IPv4 frame that the kernel test-runs: since 6.18 the header has to be whole. Shorter
/// ones are sent through devices, see `short_frames`.
pub const SHORTEST: usize = 34;

/// One side of a flow: address, and port or ICMP identifier.
pub type End = (Ipv4Addr, u16);

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp { flags: u8, numbers: Numbers },
    Udp { has_checksum: bool },
    Icmp { kind: u8 },
    Other { protocol: u8 },
}

/// A TCP segment's sequence and acknowledgment numbers.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    sequence: u32,
    acknowledgment: u32,
}

/// An IPv4 packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    from: Mac,
    to: Mac,
    source: End,
    destination: End,
    options: Vec<u8>,
    identification: u16,
    fragment: u16,
    transport: Transport,
    payload: Vec<u8>,
    padding: usize,
    says_length: bool,
    time_to_live: u8,
}

/// A TCP segment from `source` to `destination`, without payload.
pub fn tcp(source: End, destination: End, flags: u8) -> Packet {
    // What a remote sends that says nothing else is what the pod expects.
    let numbers = Numbers {
        sequence: 0x0102_0304,
        acknowledgment: 0x0102_0304,
    };
    Packet::new(Transport::Tcp { flags, numbers }, source, destination)
}

/// A UDP datagram with a payload of an odd number of bytes.
pub fn udp(source: End, destination: End) -> Packet {
    Packet::new(Transport::Udp { has_checksum: true }, source, destination).payload(b"datagram!")
}

/// An ICMP echo request whose identifier is the source's "port".
pub fn echo(source: End, destination: Ipv4Addr) -> Packet {
    icmp(8, source, (destination, source.1))
}

/// An ICMP echo reply whose identifier is the destination's "port".
pub fn echo_reply(source: Ipv4Addr, destination: End) -> Packet {
    icmp(0, (source, destination.1), destination)
}

/// An ICMP message that is neither an echo nor an error.
pub fn timestamp(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    icmp(13, (source, 0), (destination, 0))
}

/// An ICMP error about `cause`, of which it quotes so many bytes from the IP header on.
pub fn icmp_error(
    kind: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    cause: &Packet,
    quoted: usize,
) -> Packet {
    let cause = cause.bytes();
    let end = cause.len().min(14 + quoted);
    icmp(kind, (source, 0), (destination, 0)).payload(&cause[14..end])
}

/// A fragment that has no transport header.
pub fn later_fragment(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    other(protocol, source, destination).fragment(LATER)
}

fn icmp(kind: u8, source: End, destination: End) -> Packet {
    Packet::new(Transport::Icmp { kind }, source, destination).payload(b"abcdefghijk")
}

/// A packet of a protocol that is neither.
pub fn other(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    Packet::new(Transport::Other { protocol }, (source, 0), (destination, 0)).payload(&[0xa5; 24])
}

impl Packet {
    fn new(transport: Transport, source: End, destination: End) -> Self {
        Self {
            from: FABRIC,
            to: NIC,
            source,
            destination,
            options: Vec::new(),
            identification: 0x1234,
            fragment: 0x4000,
            transport,
            payload: Vec::new(),
            padding: 0,
            says_length: true,
            time_to_live: 64,
        }
    }

    /// The frame's source and destination.
    pub fn frame(mut self, from: Mac, to: Mac) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    /// As the pod's interface sends it towards the gateway.
    pub fn of(self, pod: &Pod) -> Self {
        self.frame(pod.mac, FABRIC)
    }

    /// As it has to be when it leaves the NIC.
    pub fn leaving(self) -> Self {
        self.frame(NIC, FABRIC)
    }

    /// As it has to be when it is given to the pod.
    pub fn entering(self, pod: &Pod) -> Self {
        self.frame(FABRIC, pod.mac)
    }

    /// How many routers may still send it on; 64 without this.
    pub fn time_to_live(mut self, routers: u8) -> Self {
        self.time_to_live = routers;
        self
    }

    /// As the next router has to send it on.
    pub fn routed(self) -> Self {
        let routers = self.time_to_live - 1;
        self.time_to_live(routers)
    }

    pub fn source(mut self, source: End) -> Self {
        self.source = source;
        // An echo has one identifier, whichever side it is rewritten on.
        if let Transport::Icmp { .. } = self.transport {
            self.destination.1 = source.1;
        }
        self
    }

    pub fn destination(mut self, destination: End) -> Self {
        self.destination = destination;
        if let Transport::Icmp { .. } = self.transport {
            self.source.1 = destination.1;
        }
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// IP options; a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(options.len() <= 40 && options.len().is_multiple_of(4));
        self.options = options.to_vec();
        self
    }

    /// The field of flags and fragment offset; without this, "don't fragment".
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// What the fragments of one packet have in common.
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// TCP with these numbers.
    pub fn numbered(mut self, sequence: u32, acknowledgment: u32) -> Self {
        if let Transport::Tcp { numbers, .. } = &mut self.transport {
            *numbers = Numbers {
                sequence,
                acknowledgment,
            };
        }
        self
    }

    /// UDP with 0 in the place of the checksum.
    pub fn without_checksum(mut self) -> Self {
        self.transport = Transport::Udp {
            has_checksum: false,
        };
        self
    }

    /// Bytes after the end of the IP packet, as in frames shorter than Ethernet's least.
    pub fn padded(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// As more than 64 KiB of TCP are that are cut into segments later: the header has no room for their length.
    pub fn without_length(mut self) -> Self {
        self.says_length = false;
        self
    }

    /// Where the transport header begins.
    pub fn transport_offset(&self) -> usize {
        14 + 20 + self.options.len()
    }

    pub fn bytes(&self) -> Bytes {
        let segment = self.segment();
        let mut packet = self.header(segment.len());
        packet.put(segment);
        packet.put_bytes(0xee, self.padding);
        ethernet(self.from, self.to, ETHERTYPE_IPV4, &packet)
    }

    fn header(&self, segment: usize) -> BytesMut {
        let length = 20 + self.options.len();
        let mut header = BytesMut::new();
        header.put_u8(0x40 | u8::try_from(length / 4).unwrap());
        header.put_u8(0);
        let said = if self.says_length {
            u16::try_from(length + segment).unwrap()
        } else {
            0
        };
        header.put_u16(said);
        header.put_u16(self.identification);
        header.put_u16(self.fragment);
        header.put_u8(self.time_to_live);
        header.put_u8(self.protocol());
        header.put_u16(0);
        header.put_slice(&self.source.0.octets());
        header.put_slice(&self.destination.0.octets());
        header.put_slice(&self.options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn segment(&self) -> BytesMut {
        let mut segment = BytesMut::new();
        let checksum_at = match self.transport {
            Transport::Tcp { flags, numbers } => {
                self.put_ports(&mut segment);
                segment.put_u32(numbers.sequence);
                segment.put_u32(numbers.acknowledgment);
                segment.put_slice(&[5 << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                Some(16)
            }
            Transport::Udp { has_checksum } => {
                self.put_ports(&mut segment);
                segment.put_u16(u16::try_from(8 + self.payload.len()).unwrap());
                segment.put_u16(0);
                has_checksum.then_some(6)
            }
            Transport::Icmp { kind } => {
                segment.put_slice(&[kind, 0, 0, 0]);
                segment.put_u16(self.source.1);
                segment.put_u16(7);
                Some(2)
            }
            Transport::Other { .. } => None,
        };
        segment.put_slice(&self.payload);
        if let Some(offset) = checksum_at {
            let sum = self.transport_checksum(&segment);
            segment[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        segment
    }

    fn put_ports(&self, segment: &mut BytesMut) {
        segment.put_u16(self.source.1);
        segment.put_u16(self.destination.1);
    }

    fn transport_checksum(&self, segment: &[u8]) -> u16 {
        let (source, destination) = (self.source.0, self.destination.0);
        let pseudo = pseudo_header(source, destination, self.protocol(), segment.len());
        match (self.transport, checksum(&[&pseudo, segment])) {
            (Transport::Icmp { .. }, _) => checksum(&[segment]),
            // RFC 768: 0 means "none", so a sum of 0 is sent as its other form.
            (Transport::Udp { .. }, 0) => 0xffff,
            (_, sum) => sum,
        }
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => TCP,
            Transport::Udp { .. } => UDP,
            Transport::Icmp { .. } => ICMP,
            Transport::Other { protocol } => protocol,
        }
    }
}

impl From<&Packet> for Bytes {
    fn from(packet: &Packet) -> Self {
        packet.bytes()
    }
}

/// An Ethernet frame of any type.
pub fn ethernet(from: Mac, to: Mac, ether_type: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_slice(&to.0);
    frame.put_slice(&from.0);
    frame.put_u16(ether_type);
    frame.put_slice(payload);
    frame.freeze()
}

/// An ARP packet (RFC 826) and the frame it is in.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    pub from: Mac,
    pub to: Mac,
    pub operation: u16,
    pub sender: (Mac, Ipv4Addr),
    pub target: (Mac, Ipv4Addr),
}

impl Arp {
    pub const REQUEST: u16 = 1;
    pub const REPLY: u16 = 2;
}

impl From<&Arp> for Bytes {
    fn from(arp: &Arp) -> Self {
        let mut packet = BytesMut::new();
        packet.put_u16(1);
        packet.put_u16(ETHERTYPE_IPV4);
        packet.put_slice(&[6, 4]);
        packet.put_u16(arp.operation);
        for (mac, address) in [arp.sender, arp.target] {
            packet.put_slice(&mac.0);
            packet.put_slice(&address.octets());
        }
        ethernet(arp.from, arp.to, ETHERTYPE_ARP, &packet)
    }
}

/// An IPv6 packet without a payload (RFC 8200).
pub fn ipv6(from: Mac, to: Mac) -> Bytes {
    let mut packet = BytesMut::new();
    packet.put_u32(6 << 28);
    packet.put_slice(&[0, 0, 59, 64]);
    for host in [1_u128, 2] {
        packet.put_u128(0x2001_0db8 << 96 | host);
    }
    ethernet(from, to, ETHERTYPE_IPV6, &packet)
}

/// The frame with another source: the node puts its NIC's MAC there when it routes it.
pub fn sent_by(mac: Mac, frame: &Bytes) -> Bytes {
    let mut frame = BytesMut::from(&frame[..]);
    frame[6..12].copy_from_slice(&mac.0);
    frame.freeze()
}

/// A frame with an 802.1Q tag before its type.
pub fn tagged(frame: &Bytes, tag: u16) -> Bytes {
    let mut tagged = BytesMut::from(&frame[..12]);
    tagged.put_u16(ETHERTYPE_VLAN);
    tagged.put_u16(tag);
    tagged.put_slice(&frame[12..]);
    tagged.freeze()
}
