//! A checksum that the kernel has yet to finish (`CHECKSUM_PARTIAL`), and where it is going to write it.
//!
//! Who sends whole frames may choose that place (`PACKET_VNET_HDR`), be it an address or a port. Where a NIC does not
//! compute the checksum itself, the kernel writes it behind our last hook: what was judged is not what leaves.
//!
//! A program cannot read either, but two helpers depend on it. Both are the same since Linux 4.9.

use aya_ebpf::{helpers::generated::bpf_skb_change_tail, programs::TcContext};
use azure_vnet_abi::Reason;

use crate::{
    checksum::Coverage,
    packet::{NETWORK, TCP, at},
};

/// Offset of the IPv4 header's checksum.
const FIELD: usize = NETWORK + 10;

/// [`Reason::PartialChecksum`] if the kernel is going to write before the checksum of the packet's own transport header, which
/// begins at `transport`. What is behind that is nobody's concern: a tunnel has such a checksum in the packet that it carries.
#[inline(always)]
pub fn refuse_outside(ctx: &TcContext, protocol: u8, transport: usize) -> Result<(), Reason> {
    if is_partial(ctx)? {
        refuse_early(ctx, protocol, transport)?;
    }
    Ok(())
}

/// The same where a rewritten checksum has told already what it is.
#[inline(always)]
pub fn refuse_outside_of(
    ctx: &TcContext,
    coverage: Coverage,
    protocol: u8,
    transport: usize,
) -> Result<(), Reason> {
    match coverage {
        Coverage::Complete => Ok(()),
        Coverage::PseudoHeader => refuse_early(ctx, protocol, transport),
        Coverage::Unseen => refuse_outside(ctx, protocol, transport),
    }
}

/// `bpf_l4_csum_replace` leaves a partial checksum alone, unless it is told of a pseudo-header; the field may be any.
#[inline(always)]
fn is_partial(ctx: &TcContext) -> Result<bool, Reason> {
    const HALF_WORD: u64 = 2;

    let before = read(ctx)?;
    ctx.l4_csum_replace(FIELD, 0, 1, HALF_WORD)
        .map_err(|_| Reason::Malformed)?;
    if read(ctx)? == before {
        return Ok(true);
    }
    let field = at::<u16>(ctx, FIELD).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    unsafe { *field = before };
    Ok(false)
}

#[inline(always)]
fn read(ctx: &TcContext) -> Result<u16, Reason> {
    let field = at::<u16>(ctx, FIELD).ok_or(Reason::Malformed)?;
    // SAFETY: `at` has shown that the field is inside the packet.
    Ok(unsafe { *field })
}

/// `bpf_skb_change_tail` refuses to cut a packet where a partial checksum is to be written. So it does not cut one whose checksum
/// is in its place. Any other answer is that of a packet which is dropped.
#[inline(always)]
fn refuse_early(ctx: &TcContext, protocol: u8, transport: usize) -> Result<(), Reason> {
    const EINVAL: i64 = 22;
    // One byte less than reaches to the end of the checksum. UDP's is the first of all protocols whose checksum the kernel leaves to
    // a NIC.
    let behind = if protocol == TCP { 17 } else { 7 };
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    let answer = unsafe { bpf_skb_change_tail(ctx.skb.skb, (transport + behind) as u32, 0) };
    if answer as i64 == -EINVAL {
        Ok(())
    } else {
        Err(Reason::PartialChecksum)
    }
}
