//! The flow table: who talks to whom, and as whom.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::HashMap,
    helpers::generated::bpf_jiffies64,
    macros::btf_map,
};
use azure_vnet_abi::{Flow, FlowKey, FlowKind, MAX_FLOWS, Pod, TcpState, Timeouts, Uplink};

use crate::{
    packet::{ICMP, TCP, Transport},
    share, sweep,
};

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
    let state = first_state(key, transport);
    let mut entry = Flow::new(
        FlowKind::INBOUND,
        key.source,
        key.source_port,
        0,
        pod.ifindex,
        pod.mac,
        now,
        timeout(key.protocol, state, uplink),
    );
    entry.tcp_state = state;
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

/// Notes that a packet of this flow went by. Writes only when something changed or a second went
/// by, so that the CPUs of a busy flow do not fight for the cache line.
#[inline(always)]
pub fn touch(key: &FlowKey, flow: &mut Flow, transport: &Transport, uplink: &Uplink, now: u32) {
    if now.wrapping_sub(flow.last_seen) >= uplink.hz {
        flow.last_seen = now;
    }
    if key.protocol == TCP {
        let state = tcp_state(flow.tcp_state, transport.tcp_flags);
        if state != flow.tcp_state {
            flow.tcp_state = state;
            flow.timeout = timeout(TCP, state, uplink);
            if state & TcpState::CLOSING != 0 {
                close_partner(key, flow, uplink);
            }
        }
    }
}

/// The state of an entry after its first packet.
#[inline(always)]
pub fn first_state(key: &FlowKey, transport: &Transport) -> u8 {
    if key.protocol == TCP {
        tcp_state(0, transport.tcp_flags)
    } else {
        0
    }
}

/// A SYN begins anew, whatever the tuple was used for before.
#[inline(always)]
fn tcp_state(state: u8, flags: u8) -> u8 {
    if flags & Transport::SYN != 0 {
        0
    } else if flags & (Transport::FIN | Transport::RST) != 0 {
        state | TcpState::ESTABLISHED | TcpState::CLOSING
    } else {
        state | TcpState::ESTABLISHED
    }
}

/// A FIN or RST of one side ends the flow for both: the other may never answer.
#[inline(always)]
fn close_partner(key: &FlowKey, flow: &Flow, uplink: &Uplink) {
    if let Some((_, other)) = other_half(key, flow) {
        other.tcp_state |= TcpState::CLOSING;
        other.timeout = timeout(TCP, TcpState::CLOSING, uplink);
    }
}

/// Jiffies without a packet after which a flow in this state is over. A second more than was asked for: a packet is noted up to
/// a second late, and a flow may live longer than said, but not shorter (RFC 4787, REQ-5).
#[inline(always)]
pub fn timeout(protocol: u8, tcp_state: u8, uplink: &Uplink) -> u32 {
    let timeouts = &uplink.timeouts;
    let seconds = match protocol {
        TCP if tcp_state & TcpState::CLOSING != 0 => timeouts.tcp_closing,
        TCP if tcp_state & TcpState::ESTABLISHED != 0 => timeouts.tcp_established,
        TCP => timeouts.tcp_opening,
        ICMP => timeouts.icmp,
        _ => timeouts.udp,
    };
    seconds.wrapping_add(1).wrapping_mul(uplink.hz)
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
    (other.generation == flow.generation).then_some((partner, other))
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

/// The shortest time, in jiffies, after which any flow without a packet is over.
#[inline(always)]
pub fn least_timeout(uplink: &Uplink) -> u32 {
    let Timeouts { udp, icmp, .. } = uplink.timeouts;
    least_time(uplink).min(udp.min(icmp).wrapping_mul(uplink.hz))
}

/// For how many jiffies at least any flow goes on that is not over, whatever packets it gets: these may
/// close it, or begin it anew, and are noted a second late.
#[inline(always)]
pub fn least_time(uplink: &Uplink) -> u32 {
    let timeouts = &uplink.timeouts;
    let seconds = timeouts
        .tcp_opening
        .min(timeouts.tcp_established)
        .min(timeouts.tcp_closing);
    seconds.wrapping_mul(uplink.hz)
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
