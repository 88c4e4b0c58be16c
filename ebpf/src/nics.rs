//! The node's other NICs. The fabric takes from a NIC only what has one of its addresses, and the node's routes do not go by that:
//! a hostPort of one NIC's address may lead to a pod of another, whose answer is routed to the pod's NIC and has the
//! address that was asked.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map, programs::TcContext};
use azure_vnet_abi::{Be32, MAX_NICS, Mac, Nic, Reason};

use crate::{fast, rewrite, verdict::Outcome};

#[btf_map(name = "nics")]
static NICS: HashMap<Be32, Nic, { MAX_NICS as usize }> = HashMap::new();

/// What is no pod's leaves here, or by the NIC that has its address.
#[inline(always)]
pub fn leave(ctx: &TcContext, source: Be32) -> Outcome {
    // SAFETY: user space replaces entries whole; a torn one costs one frame.
    let Some(nic) = (unsafe { NICS.get(source) }) else {
        return Ok(Reason::NotOurs);
    };
    rewrite::macs(ctx, nic.mac, Mac::FABRIC)?;
    fast::redirect(nic.ifindex);
    Ok(Reason::ByOtherNic)
}
