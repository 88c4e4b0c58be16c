//! The programs, one for each hook. The kernel runs them in this order:
//!
//! | program       | hook                           | sees                                  | does                                    |
//! |---------------|--------------------------------|---------------------------------------|-----------------------------------------|
//! | `from_pod`    | TC ingress of a pod's host veth | what a pod sends, before the bridge  | drops what is not the pod's own; ARP    |
//! | `to_uplink`   | TC egress of the NIC           | what leaves the node, after netfilter | masquerade; the NIC of the address      |
//! | `from_uplink` | TC ingress of the NIC          | what arrives, before routing          | undoes the masquerade                   |
//! | `to_pods`     | TC egress of the bridge        | what the node delivers                | MAC of a pod that changed it            |
//!
//! Between them the node routes. Each hook's file is its story, with the packets that nearly all are first; `fast`
//! says which flows pass routing and netfilter by, `verdict` is the one place where an outcome becomes an action.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "`core` has no atomic types for a target that lacks compare-and-swap"
)]
#![expect(
    missing_docs,
    reason = "the classifier macro makes a second function without the comment"
)]
#![allow(
    clippy::inline_always,
    reason = "a call costs the verifier a frame and the packet ten instructions"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "the low bits are meant; a checked conversion is one more path for the verifier to walk"
)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "the classifier macro passes its context by value"
)]

mod arp;
mod checksum;
mod config;
mod counters;
mod events;
mod fast;
mod flow;
mod fragment;
mod from_pod;
mod from_uplink;
mod icmp;
mod life;
mod nics;
mod origin;
mod packet;
mod pods;
mod policy;
mod ports;
mod refusal;
mod rewrite;
mod routes;
mod search;
mod secret;
mod share;
mod snat;
mod sweep;
mod taking;
mod to_pods;
mod to_uplink;
mod verdict;

use aya_ebpf::{macros::classifier, programs::TcContext};

/// TC ingress of a pod's host veth.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    from_pod::run(&ctx)
}

/// TC egress of the bridge.
#[classifier]
pub fn to_pods(ctx: TcContext) -> i32 {
    to_pods::run(&ctx)
}

/// TC egress of the NIC.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    to_uplink::run(&ctx)
}

/// TC ingress of the NIC.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    from_uplink::run(&ctx)
}

/// Never reached: nothing here can panic, and the verifier would refuse a loop that can be entered.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends helpers such as `bpf_ktime_get_ns` only to programs under a licence that is
/// compatible with the GPL; "Dual MIT/GPL" is the kernel's spelling for this project's MIT.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
