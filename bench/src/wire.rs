//! Frames from the fabric to a VM without the way through the fabric.

use std::mem::zeroed;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::{FABRIC_MAC, Mac};
use rustix::net::netdevice::name_to_index;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::blast::{Blast, PAYLOAD};

/// The fabric's end of a VM's NIC, as a packet socket: what comes from outside, without the way through the fabric.
pub struct Wire {
    socket: OwnedFd,
    device: SockAddr,
}

impl Wire {
    /// Of VM number `number`.
    pub fn open(azure: &Azure, number: usize) -> Result<Self> {
        let device = format!("vm{number}");
        let opened = azure.fabric.namespace().run(|| -> Result<Self> {
            let socket = Socket::new_raw(Domain::PACKET, Type::RAW, None)?;
            let device = link_address(name_to_index(&socket, &device)?)?;
            Ok(Self {
                socket: socket.into(),
                device,
            })
        })?;
        opened.context("no packet socket at the fabric")
    }

    /// A UDP packet of 64 bytes to a MAC on the VM.
    pub fn blast(&self, mac: Mac, from: SocketAddrV4, to: SocketAddrV4) -> Blast<'_> {
        Blast::of_frame(&self.socket, &self.device, frame(mac, FABRIC_MAC, from, to))
    }
}

/// A frame of 64 bytes with UDP in it, all checksums right.
pub fn frame(destination: Mac, source: Mac, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    const UDP: u8 = 17;
    let length = u16::try_from(8 + PAYLOAD).unwrap_or(u16::MAX);
    let addresses = [from.ip().octets(), to.ip().octets()].concat();

    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0];
    ip.extend(&addresses);
    ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut udp = Vec::new();
    for field in [from.port(), to.port(), length, 0] {
        udp.extend(field.to_be_bytes());
    }
    udp.extend([0; PAYLOAD]);
    let mut summed = addresses;
    summed.extend([0, UDP]);
    summed.extend(length.to_be_bytes());
    summed.extend(&udp);
    let sum = checksum(&summed);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    [&destination.0[..], &source.0, &[0x08, 0x00], &ip, &udp].concat()
}

/// The internet checksum of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    !words.fold(0_u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// A MAC address as ip and the plugins write it.
pub fn mac(text: &str) -> Option<Mac> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().ok()?;
    Some(Mac(bytes.try_into().ok()?))
}

fn link_address(index: u32) -> Result<SockAddr> {
    // SAFETY: the closure writes a `sockaddr_ll`, which fits, and says so by the length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut link: libc::sockaddr_ll = zeroed();
            link.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
            link.sll_ifindex = index.cast_signed();
            storage.cast::<libc::sockaddr_ll>().write(link);
            *length = libc::socklen_t::try_from(size_of_val(&link)).unwrap_or_default();
            Ok(())
        })
    }?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with its checksum in it sums up to nothing.
    #[test]
    fn a_frame_has_64_bytes_and_a_checksum_that_is_right() {
        let [from, to] = [1, 2].map(|host| SocketAddrV4::new([10, 0, 0, host].into(), 1000));
        let frame = frame(FABRIC_MAC, FABRIC_MAC, from, to);
        assert_eq!(frame.len(), 64);
        assert_eq!(checksum(&frame[14..34]), 0);
    }
}
