//! Incremental Internet checksums (RFC 1624).

use azure_vnet_abi::{Be16, Be32};

/// The checksum of an IPv4 header after one of its addresses changed, and its time to live went down by so much.
///
/// Equation 3 of RFC 1624: HC' = ~(~HC + ~m + m'). One's complement sums do not care for byte
/// order, so the words are taken as they lie in memory; the time to live is the lower half of its own here, which
/// makes `~m + m'` the same number whatever it was.
#[inline(always)]
pub fn after_address(checksum: u16, old: Be32, new: Be32, routers: u8) -> u16 {
    let of_life = u32::from(!u16::from(routers));
    folded(u32::from(!checksum) + halves(!old.raw()) + halves(new.raw()) + of_life)
}

/// The checksum whose complement is this sum of half words.
#[inline(always)]
pub fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// What the checksum in a packet is, told by what the kernel made of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Of the whole segment: what changes in it has to be mended.
    Complete,
    /// Of the pseudo-header alone (`CHECKSUM_PARTIAL`): the NIC adds the rest when it sends.
    PseudoHeader,
    /// The two addresses have the same sum, so nothing could be seen.
    Unseen,
}

/// A complete checksum is the complement of a sum and falls by what an address grows by; a
/// pseudo-header's sum grows by as much. `before` and `after` are the field around
/// `bpf_l4_csum_replace` of `old` by `new`, which knows what a program may not read.
#[inline(always)]
pub fn coverage(before: u16, after: u16, old: Be32, new: Be32) -> Coverage {
    let growth = reduced(halves(!old.raw()) + halves(new.raw()));
    if growth == 0 {
        Coverage::Unseen
    } else if reduced(u32::from(!before) + u32::from(after)) == growth {
        Coverage::PseudoHeader
    } else {
        Coverage::Complete
    }
}

/// Whether `checksum` is the sum of the pseudo-header alone, of a segment of so many bytes (RFC 768, RFC 793): what is written where the
/// NIC, or the kernel, is to add the rest. A complete checksum is that as well in one of 65,535 cases.
#[inline(always)]
pub fn is_of_pseudo_header(
    checksum: u16,
    source: Be32,
    destination: Be32,
    protocol: u8,
    length: u32,
) -> bool {
    // Shifted by a byte, since the words lie in memory as the network has them.
    let tail = u64::from(length.wrapping_add(u32::from(protocol)) << 8);
    let addresses = u64::from(source.raw()) + u64::from(destination.raw());
    let sum = addresses + tail + u64::from(!checksum);
    folded((sum & 0xffff) as u32 + (sum >> 16) as u32) == 0
}

/// A complete checksum after address and port of one end changed.
#[inline(always)]
pub fn after_end(checksum: u16, old: (Be32, u16), new: (Be32, u16)) -> u16 {
    let of_old = halves(!old.0.raw()) + u32::from(!old.1);
    let of_new = halves(new.0.raw()) + u32::from(new.1);
    folded(u32::from(!checksum) + of_old + of_new)
}

/// A complete checksum after a half word that it covers changed.
#[inline(always)]
pub fn after_half_word(checksum: u16, old: u16, new: u16) -> u16 {
    folded(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

/// A sum modulo 0xffff, so that both zeros of one's complement are the same.
#[inline(always)]
fn reduced(sum: u32) -> u16 {
    match !folded(sum) {
        u16::MAX => 0,
        sum => sum,
    }
}

#[inline(always)]
fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// The difference that a new address makes, in the form that `bpf_l4_csum_replace` takes.
#[inline(always)]
pub fn words(old: Be32, new: Be32) -> (u64, u64) {
    (u64::from(old.raw()), u64::from(new.raw()))
}

/// The difference that a new port makes, in the form that `bpf_l4_csum_replace` takes.
#[inline(always)]
pub fn half_words(old: Be16, new: Be16) -> (u64, u64) {
    (u64::from(old.raw()), u64::from(new.raw()))
}
