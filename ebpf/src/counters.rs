//! Packets by reason, one counter per CPU.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use azure_vnet_abi::Reason;

#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();

/// One more packet that ended with `reason`.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU element is written by programs on this CPU only, and TC programs do
        // not preempt each other there.
        unsafe { *counter += 1 };
    }
}
