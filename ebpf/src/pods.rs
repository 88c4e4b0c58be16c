//! The pods of this node, by address and by bridge port.

use aya_ebpf::{btf_maps::HashMap, macros::btf_map};
use azure_vnet_abi::{Be32, Direct, MAX_PODS, Mac, Pod, Port};

#[btf_map(name = "pods")]
static PODS: HashMap<Be32, Pod, { MAX_PODS as usize }> = HashMap::new();

#[btf_map(name = "ports")]
static PORTS: HashMap<u32, Port, { MAX_PODS as usize }> = HashMap::new();

#[btf_map(name = "direct")]
static DIRECT: HashMap<u32, u32, { MAX_PODS as usize }> = HashMap::new();

/// The pod that has this address, if it is on this node.
#[inline(always)]
pub fn by_address(address: Be32) -> Option<&'static Pod> {
    // SAFETY: entries change only in `learn` and by user space replacing them whole; a torn MAC
    // costs one misdirected frame, never a bad memory access.
    unsafe { PODS.get(address) }
}

/// What may come out of the host veth with this interface index.
#[inline(always)]
pub fn by_ifindex(ifindex: u32) -> Option<&'static Port> {
    // SAFETY: as in `by_address`.
    unsafe { PORTS.get(ifindex) }
}

/// Whether nobody stands at this host veth whom what the pod gets would have to pass.
#[inline(always)]
pub fn is_direct(ifindex: u32) -> bool {
    // SAFETY: an entry is one integer, which user space writes.
    unsafe { DIRECT.get(ifindex) }.is_some_and(|direct| *direct == Direct::YES)
}

/// Whether a packet with this source may come out of `port`. With several interfaces in one subnet, a
/// container answers for all of their addresses through the one that its route names.
#[inline(always)]
pub fn may_send(port: &Port, source: Be32) -> bool {
    source == port.address || by_address(source).is_some_and(|pod| pod.container == port.container)
}

/// The pod's interface has another MAC now (the `tuning` plugin, `ip link set address`).
pub fn learn(ifindex: u32, port: &Port, mac: Mac) {
    let (address, container) = (port.address, port.container);
    // Both fail only when user space has just deleted the pod, which is then all the same.
    let _ = PODS.insert(
        address,
        Pod::new(ifindex, container, mac),
        aya_ebpf::bindings::BPF_EXIST.into(),
    );
    let _ = PORTS.insert(
        ifindex,
        Port::new(address, container, mac),
        aya_ebpf::bindings::BPF_EXIST.into(),
    );
}
