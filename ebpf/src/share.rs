//! What each pod has of the flow table, so that none can have all of it.
//!
//! Counted are the entries under keys of the pod's own packets, where they are made and where they are removed: of several CPUs that
//! make or remove the same one, one succeeds, and that one counts.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use azure_vnet_abi::{Be32, MAX_PODS, Share, Uplink};

#[btf_map(name = "shares")]
static SHARES: HashMap<Be32, Share, { MAX_PODS as usize }> = HashMap::new();

/// Whether the pod has as many flows as it may have. CPUs that ask at the same time may all be told that there is room for one more.
#[inline(always)]
pub fn is_used_up(pod: Be32, uplink: &Uplink) -> bool {
    // SAFETY: as in `add`; an aligned word is read whole.
    counter(pod)
        .is_some_and(|flows| unsafe { flows.read_volatile() } >= i64::from(uplink.flows_per_pod))
}

/// The pod begins a flow: how many that makes within [`Uplink::grace`]. CPUs that count at the same time may count one for two.
#[inline(always)]
pub fn begin(pod: Be32, uplink: &Uplink, now: u32) -> u32 {
    let Some(share) = SHARES.get_ptr_mut(pod) else {
        return 0;
    };
    // SAFETY: the element's memory is valid while the program runs, and aligned; any of the values that CPUs write at once is a good one.
    let share = unsafe { &mut *share };
    if now.wrapping_sub(share.since) >= uplink.grace {
        share.since = now;
        share.begun = 0;
    }
    share.begun = share.begun.wrapping_add(1);
    share.begun
}

/// A flow of the pod was made.
#[inline(always)]
pub fn grow(pod: Be32) {
    add(pod, 1);
}

/// A flow of the pod is gone.
#[inline(always)]
pub fn shrink(pod: Be32) {
    add(pod, -1);
}

#[inline(always)]
fn add(pod: Be32, flows: i64) {
    if let Some(counter) = counter(pod) {
        // SAFETY: the element's memory is valid while the program runs, and aligned. What it was before is not asked for: that would need
        // kernel 5.12.
        unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(counter, flows) };
    }
}

#[inline(always)]
fn counter(pod: Be32) -> Option<*mut i64> {
    // SAFETY: only the field's place is taken.
    SHARES
        .get_ptr_mut(pod)
        .map(|share| unsafe { &raw mut (*share).flows })
}
