//! TC egress of the bridge: what the node's IP stack delivers to its pods, after netfilter.
//!
//! The bridge delivers it, by the MAC that the node knows, unless the pod has another by now: then it goes straight to
//! the pod's veth. Not all of it goes there, though that would be shorter: with `bridge-nf-call-iptables` a Service's packet that
//! is translated inside the bridge comes by here in the middle of its way (`bridged_dnat` of `br_netfilter`), and has to go
//! on to the rest of netfilter, or its replies would not be translated back.

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

#[inline(always)]
fn decide(ctx: &TcContext) -> Outcome {
    let Some((mac, address)) = packet::ipv4_destination(ctx) else {
        return Ok(Reason::NotOurs);
    };
    let Some(pod) = pods::by_address(address).filter(|pod| pod.mac != mac) else {
        return Ok(Reason::NotOurs);
    };
    let (ifindex, mac) = (pod.ifindex, pod.mac);
    // The veth may have several queues.
    fast::take_queue(ctx);
    rewrite::destination_mac(ctx, mac)?;
    fast::redirect(ifindex);
    Ok(Reason::ToNewMac)
}
