//! What `azure-vnet monitor` hears of: packets that end here, and flows that begin. Told only while somebody watches,
//! which costs the others one test on paths that are rare.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{Array, RingBuf},
    helpers::generated::bpf_skb_load_bytes,
    macros::btf_map,
    programs::TcContext,
};
use azure_vnet_abi::{EVENT_BYTES, Event, Reason};

use crate::flow;

/// Bytes of it; who does not read in time misses events, and nobody waits.
const SIZE: usize = 1 << 16;

#[btf_map(name = "events")]
static EVENTS: RingBuf<Event, SIZE> = RingBuf::new();

/// Until when somebody watches, in jiffies: a watcher that is killed is forgotten by itself.
#[btf_map(name = "watch")]
static WATCH: Array<u32, 1> = Array::new();

/// Tells what became of a packet, as it is now.
#[inline(always)]
pub fn tell(ctx: &TcContext, reason: Reason) {
    if is_of_interest(reason) && is_watched() {
        write(ctx.skb.skb, reason as u32);
    }
}

/// Rare by nature, or a drop. ARP that nobody needs is neither.
#[inline(always)]
fn is_of_interest(reason: Reason) -> bool {
    match reason {
        Reason::ArpIgnored => false,
        Reason::FlowCreated | Reason::InboundRecorded => true,
        reason => !reason.passes(),
    }
}

#[inline(always)]
fn is_watched() -> bool {
    WATCH
        .get(0)
        .is_some_and(|until| *until != 0 && until.wrapping_sub(flow::now()) < u32::MAX / 2)
}

/// A function of its own, so that its instructions are there once.
#[inline(never)]
fn write(skb: *mut __sk_buff, reason: u32) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry is this program's until it is submitted, and all of its fields are written here; `skb` is the
    // program's context. The helper fills the bytes with zeroes where the packet is shorter.
    unsafe {
        (*event).reason = reason;
        (*event).ifindex = (*skb).ifindex;
        (*event).length = (*skb).len;
        let head = (&raw mut (*event).head).cast();
        bpf_skb_load_bytes(skb.cast(), 0, head, EVENT_BYTES as u32);
        (*event).padding = 0;
    }
    entry.submit(0);
}
