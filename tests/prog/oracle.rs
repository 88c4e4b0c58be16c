//! Checksums from scratch (RFC 1071), and a reader that shares nothing with the programs'.

use std::net::Ipv4Addr;

/// The Internet checksum of `parts` one after the other; a last odd byte is padded with zero.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// What TCP and UDP sum up before their own bytes (RFC 793, 768).
pub fn pseudo_header(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    length: usize,
) -> [u8; 12] {
    let mut header = [0; 12];
    header[..4].copy_from_slice(&source.octets());
    header[4..8].copy_from_slice(&destination.octets());
    header[9] = protocol;
    header[10..].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    header
}

/// An IPv4 packet, or the first of its fragments, that is whole: the lengths fit and so does the transport header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8],
    segment: &'a [u8],
}

impl<'a> Ipv4<'a> {
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(14)?;
        let (first, total) = (
            *packet.first()?,
            u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?),
        );
        let (length, total) = (usize::from(first & 15) * 4, usize::from(total));
        if ethernet[12..] != [8, 0] || first >> 4 != 4 || length < 20 || total < length {
            return None;
        }
        let (header, segment) = packet.get(..total)?.split_at(length);
        let this = Self { header, segment };
        let least = match this.protocol() {
            6 => 20,
            1 | 17 => 8,
            _ => 0,
        };
        let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
        (!is_later_fragment && segment.len() >= least).then_some(this)
    }

    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    pub fn source(&self) -> Ipv4Addr {
        address(self.header, 12)
    }

    pub fn destination(&self) -> Ipv4Addr {
        address(self.header, 16)
    }

    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.segment[0], self.segment[1]])
    }

    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.segment[2], self.segment[3]])
    }

    pub fn icmp_type(&self) -> u8 {
        self.segment[0]
    }

    /// The identifier of an ICMP echo.
    pub fn identifier(&self) -> u16 {
        u16::from_be_bytes([self.segment[4], self.segment[5]])
    }

    pub fn has_right_header_checksum(&self) -> bool {
        checksum(&[self.header]) == 0
    }

    /// Whether the receiver would take the segment; UDP without a checksum is right (RFC 768).
    pub fn has_right_transport_checksum(&self) -> bool {
        let pseudo = pseudo_header(
            self.source(),
            self.destination(),
            self.protocol(),
            self.segment.len(),
        );
        match self.protocol() {
            17 if self.segment[6..8] == [0, 0] => true,
            6 | 17 => checksum(&[&pseudo, self.segment]) == 0,
            1 => checksum(&[self.segment]) == 0,
            _ => true,
        }
    }
}

fn address(header: &[u8], offset: usize) -> Ipv4Addr {
    let octets: [u8; 4] = header[offset..offset + 4].try_into().unwrap();
    octets.into()
}

/// RFC 1071 has no worked checksum of a header; this one is widely quoted and easily redone by hand.
#[test]
fn the_oracle_agrees_with_a_header_computed_by_hand() {
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00, 0x01,
        0xc0, 0xa8, 0x00, 0xc7,
    ];
    assert_eq!(checksum(&[&header]), 0xb861);
    assert_eq!(checksum(&[&[0x01]]), !0x0100);
    assert_eq!(checksum(&[&[0xff, 0xff], &[0x00, 0x01]]), !0x0001);
}
