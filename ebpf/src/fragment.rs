//! IP fragments: only the first has ports, so it tells what becomes of the others.
//!
//! They leave in order: pods send them so, and where connection tracking is on, netfilter has put
//! them together before and taken them apart again. One that comes before its first is dropped on
//! its way out, where it would leave with the pod's address.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use azure_vnet_abi::{Be32, Fragment, FragmentKey, MAX_FRAGMENTS, Mac, Uplink};

use crate::packet::{Ipv4, Part};

#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// Notes for the fragments that follow this packet, if it is the first of several, that the
/// translated address becomes `address`, and behind which veth they go the fast way (0: none).
#[inline(always)]
pub fn expect_more(ip: &Ipv4, address: Be32, mac: Mac, fast: u32, now: u32) {
    if ip.part == Part::First {
        // Full is impossible in an LRU map; without memory the others are dropped, as without us.
        let _ = FRAGMENTS.insert(key(ip), Fragment::new(address, mac, fast, now), 0);
    }
}

/// What the first fragment of the same packet has told, unless that is so long ago that the
/// identification may be another packet's.
#[inline(always)]
pub fn first_of(ip: &Ipv4, now: u32, uplink: &Uplink) -> Option<&'static Fragment> {
    // SAFETY: an entry is replaced whole; what is read of one that is being evicted is stale at worst.
    let first = unsafe { FRAGMENTS.get(key(ip)) }?;
    let age = now.wrapping_sub(first.seen);
    (age <= Fragment::LIFETIME.wrapping_mul(uplink.hz)).then_some(first)
}

#[inline(always)]
fn key(ip: &Ipv4) -> FragmentKey {
    FragmentKey::new(ip.source, ip.destination, ip.identification, ip.protocol)
}
