//! Where a packet at the NIC came from.
//!
//! The source address does not tell: it is no pod's where netfilter has changed it, as in a reply from the floating
//! address of a load balancer.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::Uplink;

/// `tc_index` of what `from_pod` has let pass. It stays with the packet through bridge, routing, netfilter and `ifb`.
/// The low bits are 0, as they are where nothing was written: `gred` looks at those.
const GUARDED: u32 = 0xa5f0;

/// The packet has passed `from_pod`.
#[inline(always)]
pub fn set_guarded(ctx: &TcContext) {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    unsafe { (*ctx.skb.skb).tc_index = GUARDED };
}

/// Whether the packet came in from the bridge, and there by a port without `from_pod`.
#[inline(always)]
pub fn is_unguarded(ctx: &TcContext, uplink: &Uplink) -> bool {
    // SAFETY: the context is the kernel's `__sk_buff`, valid while the program runs.
    let (interface, index) = unsafe { ((*ctx.skb.skb).ingress_ifindex, (*ctx.skb.skb).tc_index) };
    // The node's own packets came in from nowhere, which is 0.
    interface != 0 && interface == uplink.bridge && index != GUARDED
}
