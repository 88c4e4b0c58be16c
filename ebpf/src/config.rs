//! What user space told the programs about the NIC.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use azure_vnet_abi::{Reason, Uplink};

#[btf_map(name = "uplink")]
static UPLINK: Array<Uplink, 1> = Array::new();

/// The NIC's settings. Until user space has written them nothing is known about any address, so no
/// packet may be judged.
#[inline(always)]
pub fn uplink() -> Result<&'static Uplink, Reason> {
    match UPLINK.get(0) {
        Some(uplink) if uplink.hz != 0 => Ok(uplink),
        _ => Err(Reason::Unconfigured),
    }
}
