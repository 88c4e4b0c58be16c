//! Incremental Internet checksums (RFC 1624).

use azure_vnet_abi::{Be16, Be32};

/// The checksum of an IPv4 header after one of its addresses changed.
///
/// Equation 3 of RFC 1624: HC' = ~(~HC + ~m + m'). One's complement sums do not care for byte
/// order, so the words are taken as they lie in memory.
#[inline(always)]
pub fn after_address(checksum: u16, old: Be32, new: Be32) -> u16 {
    folded(u32::from(!checksum) + halves(!old.raw()) + halves(new.raw()))
}

/// The checksum whose complement is this sum of half words.
#[inline(always)]
pub fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
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
