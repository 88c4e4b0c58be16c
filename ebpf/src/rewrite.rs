//! Writing into a packet: MAC addresses, and one end of a flow.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use azure_vnet_abi::{Be16, Be32, Mac, Reason};

use crate::{
    checksum,
    packet::{self, Ethernet, Ipv4, Ipv4Header, NETWORK, Transport, at},
};

/// Which end of a flow is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// The frame comes from `mac`.
#[inline(always)]
pub fn source_mac(ctx: &TcContext, mac: Mac) -> Result<(), Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    unsafe { (*ethernet).source = mac };
    Ok(())
}

/// The frame goes to `mac`.
#[inline(always)]
pub fn destination_mac(ctx: &TcContext, mac: Mac) -> Result<(), Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    unsafe { (*ethernet).destination = mac };
    Ok(())
}

/// One end of the packet's flow becomes `address`:`port`, and all checksums follow.
///
/// The IPv4 header's checksum is always complete and is mended in place. The transport's may be
/// partial (left to the NIC) or checked by it already, which only the kernel's helper knows; it
/// comes last because it invalidates packet pointers.
#[inline(always)]
pub fn endpoint(
    ctx: &TcContext,
    end: End,
    ip: &Ipv4,
    transport: &Transport,
    address: Be32,
    port: Be16,
) -> Result<(), Reason> {
    let (old_address, old_port) = match end {
        End::Source => (ip.source, transport.source_port),
        End::Destination => (ip.destination, transport.destination_port),
    };
    self::address(ctx, end, ip, address)?;
    if port != old_port {
        write_port(ctx, end, ip.protocol, transport.offset, port)?;
    }
    mend_transport_checksum(
        ctx,
        ip.protocol,
        transport.offset,
        checksum::words(old_address, address),
        checksum::half_words(old_port, port),
    )
}

/// One address of the packet becomes `new`. Its IPv4 header stays right, the transport's checksum
/// does not.
#[inline(always)]
pub fn address(ctx: &TcContext, end: End, ip: &Ipv4, new: Be32) -> Result<(), Reason> {
    let header = at::<Ipv4Header>(ctx, NETWORK).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    let header = unsafe { &mut *header };
    let old = match end {
        End::Source => {
            header.source = new;
            ip.source
        }
        End::Destination => {
            header.destination = new;
            ip.destination
        }
    };
    header.checksum = checksum::after_address(header.checksum, old, new);
    Ok(())
}

#[inline(always)]
fn write_port(
    ctx: &TcContext,
    end: End,
    protocol: u8,
    transport: usize,
    port: Be16,
) -> Result<(), Reason> {
    let offset = match (protocol, end) {
        (packet::ICMP, _) => 4,
        (_, End::Source) => 0,
        (_, End::Destination) => 2,
    };
    let field = at::<Be16>(ctx, transport + offset).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    unsafe { *field = port };
    Ok(())
}

#[inline(always)]
fn mend_transport_checksum(
    ctx: &TcContext,
    protocol: u8,
    transport: usize,
    address: (u64, u64),
    port: (u64, u64),
) -> Result<(), Reason> {
    const WORD: u64 = 4;
    const HALF_WORD: u64 = 2;

    // RFC 768: a UDP checksum of 0 means that there is none, and stays so.
    let (offset, flags) = match protocol {
        packet::TCP => (16, 0),
        packet::UDP => (6, u64::from(BPF_F_MARK_MANGLED_0)),
        _ => (2, 0),
    };
    let field = transport + offset;
    if protocol != packet::ICMP {
        let flags = WORD | flags | u64::from(BPF_F_PSEUDO_HDR);
        ctx.l4_csum_replace(field, address.0, address.1, flags)
            .map_err(|_| Reason::Malformed)?;
    }
    if port.0 != port.1 {
        ctx.l4_csum_replace(field, port.0, port.1, HALF_WORD | flags)
            .map_err(|_| Reason::Malformed)?;
    }
    Ok(())
}
