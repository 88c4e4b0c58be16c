//! Packets that a pod sends byte by byte, and what arrives of them at the fabric.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::time::Duration;

use azure_vnet_testbed::address_plan::FABRIC_MAC;
use azure_vnet_testbed::icmp::internet_checksum;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::packet_socket::packet_socket;
use azure_vnet_testbed::pod::Pod;
use socket2::{Domain, Protocol, Socket, Type};

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
        let socket = pod.namespace().run(|| packet_socket("eth0"));
        let socket = socket.unwrap().unwrap();
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
            mac: bytes.collect::<Vec<_>>().try_into().unwrap(),
            address: pod.address,
        }
    }

    pub fn send(&self, number: u32, packet: &Sent) {
        let frame = frame(self.mac, self.address, number, packet);
        self.socket.send(&frame).unwrap();
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
    pub fn wait_for(&mut self, source: &Source, (fence, last): (u32, &Sent), expected: &[u32]) {
        source.send(fence, last);
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
        6 => (
            16,
            internet_checksum(&[pseudo(6), transport.clone()].concat()),
        ),
        17 => (
            6,
            internet_checksum(&[pseudo(17), transport.clone()].concat()),
        ),
        1 => (2, internet_checksum(&transport)),
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
    let sum = internet_checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [FABRIC_MAC.0, mac].concat();
    frame.extend(ETH_P_IP.to_be_bytes());
    frame.extend(ip);
    frame.extend(transport);
    frame
}
