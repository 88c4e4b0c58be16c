//! The first packet of a connection, as a pod sends it.

use std::net::Ipv4Addr;

use super::super::flows::Protocol;

/// Where one ends and the other begins.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub protocol: Protocol,
    pub source: Ipv4Addr,
    pub source_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
    /// MACs of the pod and of whom it sends to.
    pub macs: ([u8; 6], [u8; 6]),
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;

impl Packet {
    /// Ethernet, IPv4 and a TCP SYN, a UDP datagram without data, or an ICMP echo request.
    pub fn frame(&self) -> Vec<u8> {
        let transport = match self.protocol {
            Protocol::Tcp => self.tcp(),
            Protocol::Udp => self.udp(),
            Protocol::Icmp => self.icmp(),
        };
        let (pod, gateway) = self.macs;
        let mut frame = [&gateway[..], &pod[..], &[0x08, 0x00]].concat();
        frame.extend(self.ipv4(transport.len()));
        frame.extend(transport);
        frame
    }

    fn ipv4(&self, payload: usize) -> Vec<u8> {
        let length = u16::try_from(IPV4 + payload).unwrap_or_default();
        let mut header = vec![0x45, 0];
        header.extend(length.to_be_bytes());
        // No identification, do not fragment, TTL 64.
        header.extend([0, 0, 0x40, 0, 64, self.protocol.number(), 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = self.ports();
        // Sequence and acknowledgement numbers 0, five words of header, SYN, window.
        tcp.extend([0; 8]);
        tcp.extend([0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = self.transport_checksum(&tcp);
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }

    fn udp(&self) -> Vec<u8> {
        let mut udp = self.ports();
        udp.extend([0, 8, 0, 0]);
        let sum = self.transport_checksum(&udp);
        udp[6..8].copy_from_slice(&sum);
        udp
    }

    fn icmp(&self) -> Vec<u8> {
        let mut icmp = vec![8, 0, 0, 0];
        icmp.extend(self.source_port.to_be_bytes());
        icmp.extend([0, 1]);
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum);
        icmp
    }

    fn ports(&self) -> Vec<u8> {
        [self.source_port, self.destination_port]
            .map(u16::to_be_bytes)
            .concat()
    }

    fn transport_checksum(&self, segment: &[u8]) -> [u8; 2] {
        let length = u16::try_from(segment.len())
            .unwrap_or_default()
            .to_be_bytes();
        let pseudo = [
            &self.source.octets()[..],
            &self.destination.octets(),
            &[0, self.protocol.number()],
            &length,
            segment,
        ];
        checksum(&pseudo.concat())
    }
}

/// The frame as the node routes it to its NIC.
pub fn leave_by(frame: &mut [u8], nic: [u8; 6]) {
    if let Some(source) = frame.get_mut(6..12) {
        source.copy_from_slice(&nic);
    }
}

/// Source address and port (or identifier) of a frame that [`Packet::frame`] made and a program translated.
pub fn source_of(frame: &[u8], protocol: Protocol) -> Option<(Ipv4Addr, u16)> {
    let address: [u8; 4] = frame.get(ETHERNET + 12..ETHERNET + 16)?.try_into().ok()?;
    let at = ETHERNET + IPV4 + if protocol == Protocol::Icmp { 4 } else { 0 };
    let port: [u8; 2] = frame.get(at..at + 2)?.try_into().ok()?;
    Some((address.into(), u16::from_be_bytes(port)))
}

/// RFC 1071. All that is summed here has an even length.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).map_or([0; 2], |sum| (!sum).to_be_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn packet(protocol: Protocol) -> Packet {
        Packet {
            protocol,
            source: Ipv4Addr::new(10, 0, 0, 5),
            source_port: 40000,
            destination: Ipv4Addr::new(203, 0, 113, 10),
            destination_port: 443,
            macs: (
                [0x0a, 0x58, 10, 0, 0, 5],
                [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc],
            ),
        }
    }

    #[test]
    fn checksums_add_up() {
        // RFC 1071: what a header says of itself makes the sum of all of it zero.
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            let packet = packet(protocol);
            let frame = packet.frame();
            let (header, transport) = frame[ETHERNET..].split_at(IPV4);
            assert_eq!(checksum(header), [0, 0]);
            assert_eq!(
                usize::from(u16::from_be_bytes([header[2], header[3]])),
                frame.len() - ETHERNET
            );
            let sum = if protocol == Protocol::Icmp {
                checksum(transport)
            } else {
                packet.transport_checksum(transport)
            };
            assert_eq!(sum, [0, 0], "{protocol:?}");
            assert_eq!(source_of(&frame, protocol).unwrap(), (packet.source, 40000));
        }
    }

    #[test]
    fn it_leaves_with_the_mac_of_the_nic() {
        let mut frame = packet(Protocol::Tcp).frame();
        let nic = [0, 0x0d, 0x3a, 0, 0, 1];
        leave_by(&mut frame, nic);
        assert_eq!(frame[..6], packet(Protocol::Tcp).macs.1);
        assert_eq!(frame[6..12], nic);
    }

    #[test]
    fn what_is_too_short_has_no_source() {
        assert_eq!(source_of(&[0; 30], Protocol::Tcp), None);
    }
}
