//! Taking a port: making the entry for the replies, where there is none.
//!
//! What is exported here is a global function: the verifier walks it once, by itself, and knows nothing
//! about what it returns, so a turn of a loop around it costs a call and not the way through it. Kernels
//! before 5.12 let such a function take numbers only; what it works on is in a map.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use azure_vnet_abi::{Be16, Flow, FlowKey};

use crate::{
    flow::{self, InsertError},
    life, ports,
};

/// What became of an attempt to take a port, where it is none of the ports. Numbers and not an enum,
/// because they come out of global functions.
pub struct Taken;

impl Taken {
    /// Somebody has it, a flow or the node.
    pub const IN_USE: u32 = 1 << 16;
    /// The flow table takes no more entries.
    pub const FULL: u32 = 2 << 16;
    /// Every port of the range is in use.
    pub const NONE: u32 = 3 << 16;
}

/// What a port is taken for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Wanted {
    /// The replies' key, but for the port.
    pub reply_key: FlowKey,
    /// The entry for the replies.
    pub reply: Flow,
    /// The entry for the pod's packets, once there is a port.
    pub outgoing: Flow,
    /// For how many jiffies an unproven flow keeps its port.
    pub grace: u32,
    /// 1 if a port may be searched for it, else 0.
    pub may_search: u32,
    /// The least time, in jiffies, for which one of the ports that were seen in use will be so.
    pub left: u32,
}

/// Not pinned: nothing stays in it from one packet to the next.
#[btf_map(name = "wanted")]
static WANTED: PerCpuArray<Wanted, 1> = PerCpuArray::new();

/// What this CPU's packet wants. Not to be kept over a call of what is exported here, or of what calls that:
/// there it is borrowed anew.
#[inline(always)]
pub fn wanted() -> Option<&'static mut Wanted> {
    // SAFETY: a per-CPU element is written by programs on this CPU only, and TC programs do not
    // preempt each other there.
    WANTED.get_ptr_mut(0).map(|wanted| unsafe { &mut *wanted })
}

/// Takes a port that nobody has: the port itself, or one of [`Taken`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_free(port: u32) -> u32 {
    if ports::is_reserved(port as u16) {
        return Taken::IN_USE;
    }
    let Some(wanted) = wanted() else {
        return Taken::IN_USE;
    };
    wanted.reply_key.destination_port = Be16::from_host(port as u16);
    insert(wanted, port)
}

/// Takes a port that nobody has, or whose flow is over or gives way: as [`take_free`]. Where a flow has it, `left` says
/// for how long at least; where the node has it, it is user space that voids the search when that ends.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_over(port: u32) -> u32 {
    if ports::is_reserved(port as u16) {
        return Taken::IN_USE;
    }
    let Some(wanted) = wanted() else {
        return Taken::IN_USE;
    };
    wanted.reply_key.destination_port = Be16::from_host(port as u16);
    if let Some(holder) = flow::find(&wanted.reply_key) {
        let now = wanted.reply.last_seen;
        let mut left = flow::time_left(&wanted.reply_key, holder, now);
        if life::is_unproven(holder) {
            left = left.min(life::grace_left(
                &wanted.reply_key,
                holder,
                now,
                wanted.grace,
            ));
        }
        if left != 0 {
            wanted.left = wanted.left.min(left);
            return Taken::IN_USE;
        }
        // Another CPU may have found the same one: removing and inserting anew lets one win.
        flow::forget(&wanted.reply_key, holder);
    }
    insert(wanted, port)
}

#[inline(always)]
fn insert(wanted: &Wanted, port: u32) -> u32 {
    match flow::insert_uncounted(&wanted.reply_key, &wanted.reply) {
        Ok(()) => port,
        Err(InsertError::Exists) => Taken::IN_USE,
        Err(InsertError::Full) => Taken::FULL,
    }
}
