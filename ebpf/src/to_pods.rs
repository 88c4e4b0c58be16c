//! TC egress of the bridge: what the node's IP stack delivers to its pods, after netfilter.
//!
//! All of it goes straight to the pod's veth, not only what has a MAC that is out of date: one way that every packet
//! takes is one that is seen to work, it is shorter than the bridge's, and a forwarding entry that somebody deleted
//! costs nobody anything.

use aya_ebpf::programs::TcContext;
use azure_vnet_abi::Reason;

use crate::{
    fast, packet, pods, rewrite,
    verdict::{self, Outcome},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    verdict::settle(ctx, decide(ctx))
}

/// What is not for a pod is the bridge's.
#[inline(always)]
fn decide(ctx: &TcContext) -> Outcome {
    let Some(destination) = packet::ipv4_destination(ctx) else {
        return Ok(Reason::NotOurs);
    };
    let Some(pod) = pods::by_address(destination) else {
        return Ok(Reason::NotOurs);
    };
    let (ifindex, mac) = (pod.ifindex, pod.mac);
    // The veth may have several queues.
    fast::take_queue(ctx);
    // The node's neighbour entry has the MAC that the pod began with.
    rewrite::destination_mac(ctx, mac)?;
    fast::redirect(ifindex);
    Ok(Reason::Delivered)
}
