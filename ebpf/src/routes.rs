//! What the node's routes say, for what this node may have no use for.

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_BLACKHOLE, bpf_fib_lookup as Question};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::programs::TcContext;
use azure_vnet_abi::Reason;

use crate::{fast, packet::Ipv4};

const AF_INET: u8 = 2;

/// For an address that no pod has. One of the pool is dropped by a route that waits behind those to pods. That is counted here and
/// done there: before it, netfilter may send the packet somewhere else.
#[inline(always)]
pub fn to_nobody(ctx: &TcContext, ip: &Ipv4) -> Reason {
    if is_dropped(ctx, ip) {
        Reason::FreeAddress
    } else {
        Reason::NotOurs
    }
}

#[inline(always)]
fn is_dropped(ctx: &TcContext, ip: &Ipv4) -> bool {
    // SAFETY: numbers and arrays of numbers, for which 0 is a value.
    let mut question: Question = unsafe { core::mem::zeroed() };
    question.family = AF_INET;
    question.ifindex = fast::ifindex(ctx);
    question.__bindgen_anon_3.ipv4_src = ip.source.raw();
    question.__bindgen_anon_4.ipv4_dst = ip.destination.raw();
    let size = (size_of::<Question>() as u32).cast_signed();
    // SAFETY: the kernel reads and writes the structure, whose size it is told, and nothing else.
    let answer = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut question, size, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_BLACKHOLE)
}
