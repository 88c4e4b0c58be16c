//! What a packet does to the life of its flow.
//!
//! A flow believes both sides. As long as it is [unproven](FlowFlags::UNPROVEN) one side has made it alone, which anybody can do, so it
//! lives for a short time and goes first. It is proven once who began it was answered; with a handshake, or where it came in, once who began
//! it has spoken again after that: a SYN that is answered costs its sender nothing.
//!
//! A FIN or RST of the remote is believed where its sequence number may be the next that the pod expects (RFC 5961; netfilter's window check
//! with a window of [`WINDOW`]); whoever does not see the connection cannot tell that. What a pod says of its own flow is
//! believed. Data after it shows that the flow goes on (RFC 6146, section 3.5.2.2; RFC 7857, section 2.2), unless both sides have said FIN.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use azure_vnet_abi::{Be32, Flow, FlowFlags, FlowKey, FlowKind, TcpState, Timeouts, Uplink};

use crate::{
    config, flow,
    packet::{ICMP, Ipv4, TCP, Transport},
};

/// How far ahead of what the pod has acknowledged a FIN or RST may be: what may be under way. The pod's own window is not followed.
const WINDOW: u32 = 1 << 20;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the pod.
    Out,
    /// To the pod.
    In,
}

/// Beside TCP's flags in one number: the packet is the pod's.
const OUT: u32 = 1 << 8;
/// Likewise: it has data.
const DATA: u32 = 1 << 9;

/// Notes that a packet of this flow went by. Writes only when something changed or a second went
/// by, so that the CPUs of a busy flow do not fight for the cache line.
#[inline(always)]
pub fn touch(
    key: &FlowKey,
    flow: &mut Flow,
    (ip, transport): (&Ipv4, &Transport),
    uplink: &Uplink,
    now: u32,
    way: Way,
) {
    if now.wrapping_sub(flow.last_seen) >= uplink.hz {
        flow.last_seen = now;
    }
    let is_proven = flow.flags & FlowFlags::UNPROVEN == 0;
    if key.protocol != TCP {
        if !is_proven {
            turn(key, mark(way), 0);
        }
        return;
    }
    let flags = transport.tcp_flags;
    let mut expected = TcpState::ESTABLISHED;
    if way == Way::Out && flags & Transport::ACK != 0 {
        acknowledge(flow, transport);
        expected |= TcpState::ACKNOWLEDGED;
    }
    let is_quiet = flags & (Transport::SYN | Transport::FIN | Transport::RST) == 0;
    if is_quiet && is_proven && flow.tcp_state & (expected | TcpState::CLOSING) == expected {
        return;
    }
    let data = transport.data(ip);
    let what = u32::from(flags) | mark(way) | if data == 0 { 0 } else { DATA };
    let position = transport.sequence.to_host().wrapping_add(data);
    turn(key, what, position);
}

/// Notes which sequence number the pod expects.
#[inline(always)]
fn acknowledge(flow: &mut Flow, transport: &Transport) {
    if flow.acknowledged != transport.acknowledgment {
        flow.acknowledged = transport.acknowledgment;
    }
}

#[inline(always)]
fn mark(way: Way) -> u32 {
    match way {
        Way::Out => OUT,
        Way::In => 0,
    }
}

/// The key of the packet that may change the life of its flow. Not pinned: nothing stays in it from one packet to the next.
#[btf_map(name = "turn")]
static TURN: PerCpuArray<FlowKey, 1> = PerCpuArray::new();

/// What is rare: the flow is not proven, or begins, ends, or goes on after its end.
#[inline(always)]
fn turn(key: &FlowKey, what: u32, position: u32) {
    let Some(turn) = TURN.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU element is written by programs on this CPU only, and TC programs do not preempt each other there.
    unsafe { *turn = *key };
    take_turn(what, position);
}

/// `what` are TCP's flags, [`OUT`] and [`DATA`], `position` is where the segment ends.
///
/// A global function (see [`taking`](crate::taking)): the verifier walks it once, and not for each way to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_turn(what: u32, position: u32) -> u32 {
    let Some(key) = TURN.get(0) else {
        return 0;
    };
    if let (Ok(uplink), Some(flow)) = (config::uplink(), flow::find(key)) {
        follow(key, flow, uplink, what, position);
    }
    // Nobody asks, but a global function has to return a number.
    0
}

#[inline(always)]
fn follow(key: &FlowKey, flow: &mut Flow, uplink: &Uplink, what: u32, position: u32) {
    let way = if what & OUT == 0 { Way::In } else { Way::Out };
    let flags = what as u8;
    let other = flow::other_half(key, flow).map(|(_, other)| other);
    let of_other = other.as_ref().map_or((0, Be32::default()), |other| {
        (other.tcp_state, other.acknowledged)
    });
    // What becomes of bits that are the same in both entries.
    let (mut set, mut cleared) = (0, 0);
    let mut state = flow.tcp_state;
    if key.protocol == TCP {
        let expected = match flow.kind {
            FlowKind::INBOUND => (state, flow.acknowledged),
            _ => of_other,
        };
        (set, cleared) = tcp(
            &mut state,
            flow.kind,
            what,
            way,
            is_near(expected, position),
        );
    }
    if flow.flags & FlowFlags::UNPROVEN != 0 {
        match hear(flow.kind, key.protocol, flags, way, state, of_other.0) {
            Heard::Nothing => {}
            Heard::Answer => set |= TcpState::HEARD,
            Heard::Both => flow.flags &= !(FlowFlags::UNPROVEN | FlowFlags::CROWDED),
        }
    }
    state = state & !cleared | set;
    let proof = flow.flags & FlowFlags::UNPROVEN;
    settle(key, flow, state, uplink);
    if let Some(other) = other {
        let state = other.tcp_state & !cleared | set;
        if proof == 0 && other.flags & FlowFlags::UNPROVEN != 0 {
            other.flags &= !(FlowFlags::UNPROVEN | FlowFlags::CROWDED);
            other.tcp_state = !state;
        }
        if state != other.tcp_state {
            settle(key, other, state, uplink);
        }
    }
}

/// Gives an entry its state, and the time that follows from that.
#[inline(always)]
fn settle(key: &FlowKey, flow: &mut Flow, state: u8, uplink: &Uplink) {
    flow.tcp_state = state;
    flow.timeout = timeout(key.protocol, state, flow.flags, uplink);
}

/// The bits that a segment sets and clears in both entries; what it does to its own one alone is done.
#[inline(always)]
fn tcp(state: &mut u8, kind: u8, what: u32, way: Way, is_near: bool) -> (u8, u8) {
    const ENDED: u8 = TcpState::CLOSING | TcpState::FIN_OUT | TcpState::FIN_IN;
    const BOTH: u8 = TcpState::FIN_OUT | TcpState::FIN_IN;
    let flags = what as u8;
    let is_open = *state & (TcpState::ESTABLISHED | TcpState::CLOSING) == TcpState::ESTABLISHED;
    if flags & Transport::SYN != 0 {
        // A SYN begins anew, whatever the tuple was used for before; but not one from outside in an open connection, which anybody
        // can send: who means it gets the pod's answer to that, and ends the connection first (RFC 5961, section 4).
        if !(kind == FlowKind::INBOUND && way == Way::In && is_open) {
            *state = 0;
        }
    }
    if way == Way::Out && flags & Transport::ACK != 0 {
        *state |= TcpState::ACKNOWLEDGED;
    }
    if flags & Transport::SYN != 0 {
        return (0, 0);
    }
    if flags & (Transport::FIN | Transport::RST) != 0 {
        if way == Way::In && !is_near {
            return (0, 0);
        }
        *state |= TcpState::ESTABLISHED;
        let said = match way {
            _ if flags & Transport::RST != 0 => 0,
            Way::Out => TcpState::FIN_OUT,
            Way::In => TcpState::FIN_IN,
        };
        return (TcpState::CLOSING | said, 0);
    }
    *state |= TcpState::ESTABLISHED;
    let goes_on = what & DATA != 0 && *state & TcpState::CLOSING != 0 && *state & BOTH != BOTH;
    (0, if goes_on { ENDED } else { 0 })
}

/// Whether what ends here may be the next that the pod expects, as far as that is known.
#[inline(always)]
fn is_near((state, acknowledged): (u8, Be32), position: u32) -> bool {
    state & TcpState::ACKNOWLEDGED == 0 || position.wrapping_sub(acknowledged.to_host()) <= WINDOW
}

/// What an unproven flow has heard by now.
enum Heard {
    Nothing,
    Answer,
    Both,
}

#[inline(always)]
fn hear(kind: u8, protocol: u8, flags: u8, way: Way, state: u8, of_other: u8) -> Heard {
    if flags & Transport::RST != 0 {
        return Heard::Nothing;
    }
    let came_in = kind == FlowKind::INBOUND;
    let is_answer = (way == Way::In) != came_in;
    let is_inside = protocol != TCP || flags & Transport::SYN == 0;
    if !is_answer {
        return if is_inside && state & TcpState::HEARD != 0 {
            Heard::Both
        } else {
            Heard::Nothing
        };
    }
    // Who answers in the middle of a connection knows it.
    let is_known = protocol != TCP || of_other & TcpState::ESTABLISHED != 0;
    if !came_in && is_inside && is_known {
        Heard::Both
    } else {
        Heard::Answer
    }
}

/// The state of an entry after its first packet.
#[inline(always)]
pub fn first_state(key: &FlowKey, transport: &Transport) -> u8 {
    let flags = transport.tcp_flags;
    if key.protocol != TCP || flags & Transport::SYN != 0 {
        return 0;
    }
    let mut state = TcpState::ESTABLISHED;
    if flags & (Transport::FIN | Transport::RST) != 0 {
        state |= TcpState::CLOSING;
    }
    if flags & Transport::ACK != 0 {
        state |= TcpState::ACKNOWLEDGED;
    }
    state
}

/// Jiffies without a packet after which a flow in this state is over. A second more than was asked for: a packet is noted up to
/// a second late, and a flow may live longer than said, but not shorter (RFC 4787, REQ-5).
#[inline(always)]
pub fn timeout(protocol: u8, state: u8, flags: u8, uplink: &Uplink) -> u32 {
    let timeouts = &uplink.timeouts;
    let is_proven = flags & FlowFlags::UNPROVEN == 0;
    let seconds = match protocol {
        ICMP => timeouts.icmp,
        TCP if state & (TcpState::ESTABLISHED | TcpState::CLOSING) == 0 => timeouts.tcp_opening,
        _ if !is_proven => timeouts.unproven,
        TCP if state & TcpState::CLOSING != 0 => timeouts.tcp_closing,
        TCP => timeouts.tcp_established,
        _ => timeouts.udp,
    };
    seconds.wrapping_add(1).wrapping_mul(uplink.hz)
}

/// The shortest time, in jiffies, after which any proven flow without a packet is over.
#[inline(always)]
pub fn least_timeout(uplink: &Uplink) -> u32 {
    let Timeouts { udp, icmp, .. } = uplink.timeouts;
    least_time(uplink).min(udp.min(icmp).wrapping_mul(uplink.hz))
}

/// For how many jiffies at least any proven flow goes on that is not over, whatever packets it gets: these may
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

/// For how many of `grace` jiffies the flow may not give way yet; 0 if it may: it is unproven, and one of too many, or as old as that.
/// Counted is from the last packet of the side that did not begin it, if there was one, else from its first.
#[inline(always)]
pub fn grace_left(key: &FlowKey, flow: &Flow, now: u32, grace: u32) -> u32 {
    if flow.flags & FlowFlags::CROWDED != 0 {
        return 0;
    }
    let since = if flow.kind == FlowKind::MASQUERADE {
        match flow::other_half(key, flow) {
            Some((_, other)) => other.last_seen,
            None => return 0,
        }
    } else {
        flow.last_seen
    };
    let age = now.wrapping_sub(since);
    // Another CPU may have seen a packet later than `now`.
    if age.cast_signed() < 0 {
        grace
    } else {
        grace.saturating_sub(age)
    }
}

/// Whether the flow is unproven.
#[inline(always)]
pub fn is_unproven(flow: &Flow) -> bool {
    flow.flags & FlowFlags::UNPROVEN != 0
}
