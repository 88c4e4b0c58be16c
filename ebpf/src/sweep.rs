//! Sweeping the flow table: whoever makes an entry looks at two old ones.
//!
//! Every entry's key waits in a queue. Each new flow takes two keys from its head, forgets flows
//! that are over and puts the others back at the end. So the work is bounded, needs no timer and
//! no daemon, runs on every kernel with queues (4.20), and there is never more rubbish than live
//! flows for long: the table shrinks by two where it grows by one. A node that makes no flows
//! needs no room for any.

use aya_ebpf::{btf_maps::Queue, macros::btf_map};
use azure_vnet_abi::{FlowKey, MAX_FLOWS};

use crate::flow;

/// One key for each flow, that of the pod's packets.
#[btf_map(name = "sweep")]
static QUEUE: Queue<FlowKey, { MAX_FLOWS as usize }> = Queue::new();

/// Puts a new flow in line.
#[inline(always)]
pub fn enqueue(key: &FlowKey) {
    // A flow that finds the queue full is still forgotten when somebody wants its port.
    let _ = QUEUE.push(key, 0);
}

/// Looks at the two flows that were not looked at for longest.
#[inline(always)]
pub fn step(now: u32) {
    look_at_next(now);
    look_at_next(now);
}

/// A function of its own, so that the verifier walks it once for each call and not once for each
/// way to it.
#[inline(never)]
fn look_at_next(now: u32) {
    let Ok(Some(key)) = QUEUE.pop() else {
        return;
    };
    let Some(flow) = flow::find(&key) else {
        return;
    };
    if flow::is_over(&key, flow, now) {
        flow::forget(&key, flow);
    } else {
        let _ = QUEUE.push(key, 0);
    }
}
