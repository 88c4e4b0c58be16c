//! Packets that a pod sends byte by byte, and what arrives of them at the fabric.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::time::Duration;

use azure_vnet_testbed::address_plan::{FABRIC_MAC, PEERED};
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::Pod;
use rustix::net::netdevice::name_to_index;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::LIMIT;

const ETH_P_IP: u16 = 0x0800;
/// Marks our packets; the number of the packet follows.
const MAGIC: [u8; 8] = *b"sinkhole";

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub source_port: u16,
    pub port: u16,
}

/// Sends through a pod's interface, past its routing.
pub struct Source {
    socket: Socket,
    interface: SockAddr,
    mac: [u8; 6],
    address: Ipv4Addr,
}

/// Sees what reaches the fabric.
pub struct Sink {
    socket: Socket,
    seen: BTreeMap<u32, Ipv4Addr>,
}

impl Source {
    pub fn new(pod: &Pod<'_>) -> Self {
        let open = || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            let index = name_to_index(&socket, "eth0")?;
            Ok::<_, io::Error>((socket, index))
        };
        let (socket, index) = pod.namespace().run(open).unwrap().unwrap();
        let links = pod.namespace().program("ip").unwrap();
        let links = links
            .args(["-j", "link", "show", "eth0"])
            .checked()
            .unwrap();
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        let mac = links[0]["address"].as_str().unwrap();
        let bytes = mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap());
        Self {
            socket,
            interface: link_layer(index),
            mac: bytes.collect::<Vec<_>>().try_into().unwrap(),
            address: pod.address,
        }
    }

    pub fn send(&self, number: u32, packet: &Sent) {
        let frame = frame(self.mac, self.address, number, packet);
        self.socket.send_to(&frame, &self.interface).unwrap();
    }
}

impl Sink {
    pub fn new(fabric: &Namespace) -> Self {
        let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
        let open = || Socket::new(Domain::PACKET, Type::RAW, Some(protocol));
        let socket = fabric.run(open).unwrap().unwrap();
        Self {
            socket,
            seen: BTreeMap::new(),
        }
    }

    /// Waits until all of these have arrived, and in any case until a packet that was sent behind them has.
    pub fn wait_for(&mut self, source: &Source, fence: u32, expected: &[u32]) {
        let behind = Sent {
            destination: PEERED,
            protocol: 17,
            source_port: 9,
            port: 9,
        };
        source.send(fence, &behind);
        self.socket.set_read_timeout(Some(LIMIT)).unwrap();
        while !self.seen.contains_key(&fence)
            || !expected.iter().all(|number| self.seen.contains_key(number))
        {
            if !self.receive() {
                return;
            }
        }
    }

    /// The source address that each packet had, by its number.
    pub fn finish(mut self) -> BTreeMap<u32, Ipv4Addr> {
        self.socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        while self.receive() {}
        self.seen
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let length = match io::Read::read(&mut &self.socket, &mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        };
        let frame = &buffer[..length];
        if let Some(at) = frame.windows(MAGIC.len()).position(|bytes| bytes == MAGIC)
            // An error that quotes one of our packets is none of them.
            && at == 14 + 20 + 20
        {
            let number = u32::from_be_bytes(frame[at + 8..at + 12].try_into().unwrap());
            let source: [u8; 4] = frame[26..30].try_into().unwrap();
            self.seen.insert(number, source.into());
        }
        true
    }
}

fn link_layer(index: u32) -> SockAddr {
    // SAFETY: the storage is zeroed, aligned and large enough for every kind of address, and `sockaddr_ll` is one of integers.
    let address = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap();
            (*link).sll_ifindex = i32::try_from(index).unwrap();
            *length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
            Ok(())
        })
    };
    address.unwrap().1
}

/// A whole frame for the gateway. Its transport header is 20 bytes long whatever the protocol, UDP's and ICMP's with
/// twelve bytes of payload.
fn frame(mac: [u8; 6], source: Ipv4Addr, number: u32, packet: &Sent) -> Vec<u8> {
    let mut transport = match packet.protocol {
        6 => {
            let mut tcp = [packet.source_port.to_be_bytes(), packet.port.to_be_bytes()].concat();
            tcp.extend(number.to_be_bytes());
            tcp.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            tcp
        }
        17 => {
            let mut udp = [packet.source_port.to_be_bytes(), packet.port.to_be_bytes()].concat();
            udp.extend(32_u16.to_be_bytes());
            udp.extend([0; 14]);
            udp
        }
        1 => {
            let mut echo = vec![8, 0, 0, 0];
            echo.extend(packet.source_port.to_be_bytes());
            echo.extend([0; 14]);
            echo
        }
        _ => vec![0; 20],
    };
    transport.extend(MAGIC);
    transport.extend(number.to_be_bytes());
    let length = u16::try_from(transport.len()).unwrap();
    let pseudo = |protocol: u8| {
        let mut header = [source.octets(), packet.destination.octets()].concat();
        header.extend([0, protocol]);
        header.extend(length.to_be_bytes());
        header
    };
    let (at, sum) = match packet.protocol {
        6 => (16, checksum(&[pseudo(6), transport.clone()].concat())),
        17 => (6, checksum(&[pseudo(17), transport.clone()].concat())),
        1 => (2, checksum(&transport)),
        _ => (0, 0),
    };
    if at > 0 {
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut ip = vec![0x45, 0];
    ip.extend((20 + length).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, packet.protocol, 0, 0]);
    ip.extend(source.octets());
    ip.extend(packet.destination.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [FABRIC_MAC.0, mac].concat();
    frame.extend(ETH_P_IP.to_be_bytes());
    frame.extend(ip);
    frame.extend(transport);
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
