//! Writing into a packet: MAC addresses, and one end of a flow.
//!
//! What passes the node's IP stack by is rewritten by the only router that it meets here: so `routers` is 1 for it, and
//! 0 for what the stack has counted or will count.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use azure_vnet_abi::{Be16, Be32, Mac, Reason};

use crate::{
    checksum::{self, Coverage},
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

/// The frame goes from one MAC to another.
#[inline(always)]
pub fn macs(ctx: &TcContext, from: Mac, to: Mac) -> Result<(), Reason> {
    let ethernet = at::<Ethernet>(ctx, 0).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the header is inside the packet.
    unsafe { ((*ethernet).source, (*ethernet).destination) = (from, to) };
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
/// partial (left to the NIC) or checked by it already, which only the kernel knows.
#[inline(always)]
pub fn endpoint(
    ctx: &TcContext,
    end: End,
    ip: &Ipv4,
    transport: &Transport,
    (address, port): (Be32, Be16),
    routers: u8,
) -> Result<(), Reason> {
    let (old_address, old_port) = match end {
        End::Source => (ip.source, transport.source_port),
        End::Destination => (ip.destination, transport.destination_port),
    };
    self::address(ctx, end, ip, address, routers)?;
    if port != old_port {
        write_port(ctx, end, ip.protocol, ip.transport(), port)?;
    }
    match ip.protocol {
        packet::ICMP => mend_echo(ctx, ip.transport(), old_port, port),
        _ => mend_segment(
            ctx,
            ip,
            ip.transport(),
            (old_address, address),
            (old_port, port),
        ),
    }
}

/// One address of the packet becomes `new`. Its IPv4 header stays right, the transport's checksum
/// does not.
#[inline(always)]
pub fn address(ctx: &TcContext, end: End, ip: &Ipv4, new: Be32, routers: u8) -> Result<(), Reason> {
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
    header.time_to_live = header.time_to_live.wrapping_sub(routers);
    header.checksum = checksum::after_address(header.checksum, old, new, routers);
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

/// An echo's checksum has no pseudo-header and is always complete. The identifier and the checksum
/// change by as much, so whatever the NIC has summed up over both stays right.
#[inline(always)]
fn mend_echo(ctx: &TcContext, transport: usize, old: Be16, new: Be16) -> Result<(), Reason> {
    let field = at::<u16>(ctx, transport + 2).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    unsafe { *field = checksum::after_half_word(*field, old.raw(), new.raw()) };
    Ok(())
}

/// The checksum of a TCP segment or a UDP datagram. The kernel's helper, called once, mends it for
/// the address; what the helper did tells whether the port is a part of it.
///
/// The helper goes by whether the kernel has a checksum left to do in this packet. In a tunnel's that may be the inner one, over
/// which the outer one is complete already (local checksum offload): what is not the pseudo-header's sum is mended as
/// the complete one that it is.
#[inline(always)]
fn mend_segment(
    ctx: &TcContext,
    ip: &Ipv4,
    transport: usize,
    (old_address, address): (Be32, Be32),
    (old_port, port): (Be16, Be16),
) -> Result<(), Reason> {
    const WORD: u64 = 4;
    const HALF_WORD: u64 = 2;

    let protocol = ip.protocol;
    let (offset, flags) = match protocol {
        packet::TCP => (transport + 16, 0),
        _ => (transport + 6, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    let before = read_checksum(ctx, offset)?;
    // RFC 768: a UDP checksum of 0 means that there is none, and stays so.
    if protocol == packet::UDP && before == 0 {
        return Ok(());
    }
    let (from, to) = checksum::words(old_address, address);
    ctx.l4_csum_replace(offset, from, to, WORD | flags | u64::from(BPF_F_PSEUDO_HDR))
        .map_err(|_| Reason::Malformed)?;
    let length = (ip.end as u32).wrapping_sub(transport as u32);
    let (source, destination) = (ip.source, ip.destination);
    let coverage = if checksum::is_of_pseudo_header(before, source, destination, protocol, length) {
        let after = read_checksum(ctx, offset)?;
        checksum::coverage(before, after, old_address, address)
    } else {
        Coverage::Complete
    };
    match coverage {
        Coverage::PseudoHeader => Ok(()),
        Coverage::Complete => {
            let old = (old_address, old_port.raw());
            let mended = match checksum::after_end(before, old, (address, port.raw())) {
                // RFC 768: one that comes out as 0 is sent as ones.
                0 if protocol == packet::UDP => u16::MAX,
                mended => mended,
            };
            write_checksum(ctx, offset, mended)
        }
        Coverage::Unseen => {
            let (from, to) = checksum::half_words(old_port, port);
            ctx.l4_csum_replace(offset, from, to, HALF_WORD | flags)
                .map_err(|_| Reason::Malformed)
        }
    }
}

#[inline(always)]
fn read_checksum(ctx: &TcContext, offset: usize) -> Result<u16, Reason> {
    let field = at::<u16>(ctx, offset).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    Ok(unsafe { *field })
}

#[inline(always)]
fn write_checksum(ctx: &TcContext, offset: usize, checksum: u16) -> Result<(), Reason> {
    let field = at::<u16>(ctx, offset).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    unsafe { *field = checksum };
    Ok(())
}
