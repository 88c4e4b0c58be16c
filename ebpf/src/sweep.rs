//! Sweeping the flow table: whoever makes an entry looks at two old ones.
//!
//! Every flow waits in a queue, whose head was not looked at for longest. Each new flow takes two from there, forgets those
//! that are over and puts the others back at the end. What was put in line less than the shortest timeout ago is hardly over
//! yet, and is not looked at: that would be four entries that no cache has. So the work is bounded, needs no timer and
//! no daemon, runs on every kernel with queues (4.20), and there is never more rubbish than live flows for long: the
//! table shrinks by two where it grows by one. A node that makes no flows needs no room for any.

use aya_ebpf::{btf_maps::Queue, macros::btf_map};
use azure_vnet_abi::{Flow, FlowKey, MAX_FLOWS, Queued, Uplink};

use crate::{config, flow, life};

/// One element for each flow.
#[btf_map(name = "sweep")]
static QUEUE: Queue<Queued, { MAX_FLOWS as usize }> = Queue::new();

/// Puts a flow in line.
#[inline(always)]
pub fn enqueue(key: &FlowKey, now: u32) {
    // A flow that finds the queue full is still forgotten when somebody wants its port.
    let queued = Queued {
        key: *key,
        since: now,
    };
    let _ = QUEUE.push(queued, 0);
}

/// Looks at two flows that were not looked at for longest, and for a while.
#[inline(always)]
pub fn step(uplink: &Uplink, now: u32) {
    let while_ago = life::least_timeout(uplink);
    look_at_next(now, while_ago, NOBODY);
    look_at_next(now, while_ago, NOBODY);
}

/// Whose unproven flows give way, where it is not those of one pod; no pod has these addresses.
pub const NOBODY: u32 = u32::MAX;
pub const ANYBODY: u32 = 0;

/// There was no room for a flow: looks at some more, however short ago that was, and forgets the unproven ones of `whose` as well.
///
/// A global function, as the next one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn make_room(now: u32, whose: u32) -> u32 {
    const LOOKS: u32 = 8;
    for _ in 0..LOOKS {
        look_at_next(now, 0, whose);
    }
    0
}

/// Looks at the flow at the head, if it has been in line for so many jiffies.
///
/// A global function (see [`taking`](crate::taking)): the verifier walks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_at_next(now: u32, jiffies: u32, whose: u32) -> u32 {
    match QUEUE.peek() {
        Ok(Some(head)) if now.wrapping_sub(head.since) >= jiffies => {}
        _ => return 0,
    }
    let Ok(Some(Queued { key, .. })) = QUEUE.pop() else {
        return 0;
    };
    let Some(flow) = flow::find(&key) else {
        return 0;
    };
    if flow::is_over(&key, flow, now) || gives_way(&key, flow, now, whose) {
        flow::forget(&key, flow);
    } else {
        enqueue(&key, now);
    }
    // Nobody asks, but a global function has to return a number.
    0
}

#[inline(always)]
fn gives_way(key: &FlowKey, flow: &Flow, now: u32, whose: u32) -> bool {
    if !life::is_unproven(flow) || (whose != ANYBODY && key.source.raw() != whose) {
        return false;
    }
    let Ok(uplink) = config::uplink() else {
        return false;
    };
    life::grace_left(key, flow, now, uplink.grace) == 0
}
