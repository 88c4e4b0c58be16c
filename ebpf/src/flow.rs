//! The flow table: who talks to whom, and as whom.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::HashMap,
    helpers::generated::bpf_jiffies64,
    macros::btf_map,
};
use azure_vnet_abi::{Flow, FlowFlags, FlowKey, FlowKind, MAX_FLOWS, Pod, TcpState, Uplink};

use crate::{life, packet::Transport, share, sweep};

/// Not an LRU map: an entry must not vanish because others are busier, and never one of a pair.
#[btf_map(name = "flows")]
static FLOWS: HashMap<FlowKey, Flow, { MAX_FLOWS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Why an entry was not made.
pub enum InsertError {
    /// There is one already.
    Exists,
    /// The table takes no more.
    Full,
}

/// Jiffies: the clock that costs one load. Their low half lasts for 49 days at 1000 a second, and
/// no timeout is longer than hours.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper takes nothing and only reads a counter.
    unsafe { bpf_jiffies64() as u32 }
}

/// The entry for packets with this key.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: the kernel keeps the element's memory valid while the program runs; fields are
    // integers that several CPUs may write at once, and any of the values written is a good one.
    FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Makes the entry for a pod's own packets, where there is none; it is a part of the pod's share.
#[inline(always)]
pub fn insert(key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
    insert_uncounted(key, flow)?;
    share::grow(key.source);
    Ok(())
}

/// Makes an entry that is no part of a share, that for replies, where there is none. This is the lock: of several CPUs that want
/// the same key one succeeds.
#[inline(always)]
pub fn insert_uncounted(key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
    const EEXIST: i32 = -17;
    match FLOWS.insert(key, flow, BPF_NOEXIST.into()) {
        Ok(()) => Ok(()),
        Err(EEXIST) => Err(InsertError::Exists),
        Err(_) => Err(InsertError::Full),
    }
}

/// Remembers a connection that leaves with the pod's address and shall go on so. Where there is no
/// room for it, its next packet tries again.
///
/// A function of its own, because a caller that searches a port has no room on the stack for one more entry.
#[inline(never)]
pub fn keep(key: &FlowKey, transport: &Transport, pod: &Pod, uplink: &Uplink, now: u32) {
    // The pod's word is the first; what the remote says next proves it.
    let state = life::first_state(key, transport) | TcpState::HEARD;
    let flags = FlowFlags::UNPROVEN | FlowFlags::CROWDED;
    let mut entry = Flow::new(
        FlowKind::INBOUND,
        key.source,
        key.source_port,
        pod.ifindex,
        pod.mac,
        now,
        life::timeout(key.protocol, state, flags, uplink),
    );
    (entry.tcp_state, entry.flags) = (state, flags);
    entry.acknowledged = transport.acknowledgment;
    if !share::is_used_up(key.source, uplink) && insert(key, &entry).is_ok() {
        sweep::enqueue(key, now);
    }
}

/// Forgets an entry of this [kind](FlowKind); one that is gone already is as good.
#[inline(always)]
pub fn remove(key: &FlowKey, kind: u8) {
    if FLOWS.remove(key).is_ok() && kind != FlowKind::UNMASQUERADE {
        share::shrink(key.source);
    }
}

/// The key of the entry for a masqueraded flow's other direction.
///
/// A `MASQUERADE` entry knows what its packets are sent as, an `UNMASQUERADE` entry which pod they
/// go to; either is what the other's key lacks.
#[inline(always)]
pub fn partner(key: &FlowKey, flow: &Flow) -> FlowKey {
    let mut translated = *key;
    if flow.kind == FlowKind::MASQUERADE {
        translated.source = flow.address;
        translated.source_port = flow.port;
    } else {
        translated.destination = flow.address;
        translated.destination_port = flow.port;
    }
    translated.reversed()
}

/// The entry for the other direction of the same flow, if it is still there.
#[inline(always)]
pub fn other_half(key: &FlowKey, flow: &Flow) -> Option<(FlowKey, &'static mut Flow)> {
    if flow.kind == FlowKind::INBOUND {
        return None;
    }
    let partner = partner(key, flow);
    let other = find(&partner)?;
    // Each says what the other's key lacks; a stranger that has the key by now says something else.
    let (kind, address, port) = if flow.kind == FlowKind::MASQUERADE {
        (FlowKind::UNMASQUERADE, key.source, key.source_port)
    } else {
        (FlowKind::MASQUERADE, key.destination, key.destination_port)
    };
    let is_pair = other.kind == kind && other.address == address && other.port == port;
    is_pair.then_some((partner, other))
}

/// Whether the flow is over in all its directions.
#[inline(always)]
pub fn is_over(key: &FlowKey, flow: &Flow, now: u32) -> bool {
    flow.is_over(now) && other_half(key, flow).is_none_or(|(_, other)| other.is_over(now))
}

/// For how many jiffies at least the flow goes on, if nobody closes it; 0 if it is over in all its
/// directions.
#[inline(always)]
pub fn time_left(key: &FlowKey, flow: &Flow, now: u32) -> u32 {
    match flow.time_left(now) {
        0 => other_half(key, flow).map_or(0, |(_, other)| other.time_left(now)),
        left => left,
    }
}

/// Forgets a flow with all its entries.
#[inline(always)]
pub fn forget(key: &FlowKey, flow: &Flow) {
    let kind = flow.kind;
    if let Some((partner, other)) = other_half(key, flow) {
        remove(&partner, other.kind);
    }
    remove(key, kind);
}
